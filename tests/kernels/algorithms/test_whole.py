"""Convolutions of one window that is all of x: every role, instruction set and element type between forbidden pages."""

from itertools import product

import pytest

from lucid.core.geometry import ConvSpec
from lucid.kernels import select, target
from tests.kernels.convolution_fuzz import ROLES, Case, run_case
from tests.kernels.guard import run_guarded_cases

ISAS = [isa.name for isa in target.cpu().isas]
HALF_ISAS = [isa.name for isa in target.cpu().runnable]
SIZES = {  # batch, c_in, c_out, size
    "few numbers": (2, 3, 4, (2,)),
    "one image": (1, 40, 33, (4, 4)),
    "few images": (3, 17, 70, (5, 3)),
    "images of a tile and more": (19, 12, 50, (4, 4)),
    "squeezed channels": (1, 240, 100, (1, 1)),
    "volume": (2, 9, 31, (2, 3, 4)),
    "one result": (4, 130, 1, (4, 4)),
    "one channel": (1, 1, 300, (7, 9)),
}


def asked(role, dtype, n, c_in, c_out, size, bias, padding=0):
    ones, pads = (1,) * len(size), ((padding, padding),) * len(size)
    return Case(role, dtype, n, c_in, c_out, size, ConvSpec(size, ones, ones, pads), bias)


@pytest.mark.parametrize(("isa", "dtype"), [
    *product(ISAS, ["float32", "float64"]), *product(HALF_ISAS, ["float16", "bfloat16"]),
])  # fmt: skip
@pytest.mark.parametrize("role", ROLES)
def test_between_forbidden_pages(role, isa, dtype):
    def check(name):
        for bias in (True, False):
            for where in ("end", "start"):
                outcome = run_case(
                    asked(role, dtype, *SIZES[name], bias and role != "grad_weight"), isa, "whole", where
                )
                assert outcome.right, outcome

    run_guarded_cases(check, SIZES)


@pytest.mark.parametrize("role", ROLES)
def test_it_is_taken_where_weights_are_many(role):
    problem = asked(role, "float32", 2, 400, 100, (4, 4), False).problem
    assert select.choose(problem, target.isa()).algorithm == "whole"


def test_it_refuses_other_windows():
    spec = ConvSpec((3,), (1,), (1,), ((1, 1),))
    problem = Case("forward", "float32", 1, 4, 4, (3,), spec, True).problem
    assert "one window" in select.candidates(problem, target.isa())[1]["whole"]

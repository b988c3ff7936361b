"""The door of the convolution kernels: every algorithm against the definition on random geometries."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from lucid.core.errors import DTypeError, PlanError
from lucid.core.geometry import ConvSpec
from lucid.kernels import algorithm, conv_forward, conv_grad_input, conv_grad_weight, convolution, select, target
from lucid.kernels.algorithms import reference
from tests.kernels.convolution_fuzz import (
    ROLES,
    Case,
    accepting,
    error,
    expected,
    final,
    prepared,
    random_case,
    run_case,
    smaller,
    valid,
)
from tests.kernels.guard import run_guarded_cases

CASES = 80
SPEC = ConvSpec((3,), (1,), (1,), ((1, 1),))
X, W, B = np.arange(8.0).reshape(1, 2, 4), np.arange(12.0).reshape(2, 2, 3), np.array([1.0, -1.0])


def random_cases(count: int, seed: int = 0) -> list[Case]:
    rng = np.random.default_rng(seed)
    return [random_case(rng) for _ in range(count)]


@pytest.mark.parametrize("isa", [isa.name for isa in target.cpu().isas])
def test_every_algorithm_on_random_geometries(isa: str) -> None:
    """Right within the bound, the same bits on 1, 2 and 3 threads, nothing touched outside."""

    def check(run: tuple[int, Case, str]) -> None:
        number, case, name = run
        outcome = run_case(case, isa, name, ("end", "start")[number % 2])
        assert outcome.right, str(outcome)

    runs = [
        (number, case, name)
        for number, case in enumerate(random_cases(CASES))
        for name in accepting(case, isa)
        if name != "reference"
    ]
    for _, case, _ in runs:
        prepared(case)  # before the child starts, so that the next instruction set has it too
    covered = {(case.role, name) for _, case, name in runs}
    assert {role for role, _ in covered} == set(ROLES)
    narrow = {"sliding", "winograd_rows"} | ({"channel_lanes"} if isa == "scalar" else set())
    missing = {"reference"} | (set() if isa.startswith("avx512") else narrow)
    rare = {"fast_fir", "strassen", "winograd_planes"}  # on a Zen 4 alone, of few layers: they have cases of their own
    assert {name for _, name in covered} | rare == set(select.ALGORITHMS) - missing
    run_guarded_cases(check, runs)


def test_random_cases_cover_what_they_should() -> None:
    cases = random_cases(CASES)
    specs = [case.spec for case in cases]
    assert {case.dtype for case in cases} == {"float32", "float64", "float16", "bfloat16", "complex64"}
    assert {spec.rank for spec in specs} == {1, 2, 3}
    assert {s for spec in specs for s in spec.stride} == {1, 2, 3, 4, 5}
    assert {d for spec in specs for d in spec.dilation} >= {1, 2, 3, 4}
    assert any(low != high for spec in specs for low, high in spec.padding)
    assert any(spec.groups == case.c_in < case.c_out for case, spec in zip(cases, specs, strict=True))
    assert any(spec.groups > 1 and case.c_in > spec.groups for case, spec in zip(cases, specs, strict=True))
    assert max(k for spec in specs for k in spec.kernel) > 100


def test_the_check_sees_a_wrong_number() -> None:
    """One product too few is beyond the bound, wherever it is missing; so is a NaN, and a wrong shape."""
    for case in random_cases(40, seed=5):
        inputs = case.inputs()
        exact, bound = final(case, inputs, *expected(case, inputs))
        got = case.call(inputs)
        assert error(got, exact, bound) <= 1
        if case.dtype in ("float32", "float64"):
            wrong = got.copy()
            wrong.flat[-1] += np.abs(wrong).max() / 100 + 1e-3
            assert error(wrong, exact, bound) > 1
            wrong.flat[-1] = np.nan
            assert error(wrong, exact, bound) == np.inf
        assert error(got[..., :0], exact, bound) == np.inf


def test_smaller_cases_are_smaller() -> None:
    for case in random_cases(30, seed=6):
        for simpler in smaller(case):
            assert simpler != case
            if valid(simpler):
                assert min(simpler.y_shape) > 0


def test_several_python_threads_at_once() -> None:
    """They share kernels, plans, pools and workspaces, and get the bits that each gets alone."""
    cases = random_cases(25, seed=8)
    alone = [case.call(case.inputs()).tobytes() for case in cases]
    together: dict[int, list[bytes]] = {}

    def work(number: int) -> None:
        order = np.random.default_rng(number).permutation(len(cases))
        results = {i: cases[i].call(cases[i].inputs()).tobytes() for i in order}
        together[number] = [results[i] for i in range(len(cases))]

    crew = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    assert all(together[number] == alone for number in range(4))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_that_do_not_lie_in_order(dtype: str) -> None:
    rng = np.random.default_rng(0)
    spec = ConvSpec((3, 2), (1, 2), (1, 1), ((1, 0), (2, 1)), 2)
    x, w = rng.standard_normal((2, 9, 11, 4)).astype(dtype), rng.standard_normal((6, 2, 3, 2)).astype(dtype)
    x, w = x.transpose(0, 3, 1, 2)[..., ::-1, :], w[::-1, :, ::-1]
    g = np.broadcast_to(rng.standard_normal((6, 1, 1)).astype(dtype), (2, 6, *spec.out_size((9, 11))))
    plain_x, plain_w, plain_g = (np.ascontiguousarray(a) for a in (x, w, g))
    for array in (x, w, g):
        array.flags.writeable = False
    for bent, plain in [
        (conv_forward(x, w, None, spec), conv_forward(plain_x, plain_w, None, spec)),
        (conv_grad_input(g, w, None, spec, (9, 11)), conv_grad_input(plain_g, plain_w, None, spec, (9, 11))),
        (conv_grad_weight(x, g, spec), conv_grad_weight(plain_x, plain_g, spec)),
    ]:
        assert (bent == plain).all()


@pytest.mark.parametrize("shapes", [((0, 3, 8), (4, 3, 3)), ((2, 0, 8), (4, 0, 3)), ((2, 3, 8), (0, 3, 3))])
def test_empty_batches_and_channels(shapes: Any) -> None:
    x, w = (np.ones(shape, np.float32) for shape in shapes)
    bias = np.arange(len(w), dtype=np.float32)
    y = conv_forward(x, w, bias, SPEC)
    assert y.shape == (len(x), len(w), 8)
    assert (y == bias[:, None]).all()  # where there is anything, it is a sum of nothing
    back = conv_grad_input(y, w, None, SPEC, (8,))
    assert back.shape == x.shape
    assert (back == 0).all()
    assert (conv_grad_weight(x, y, SPEC) == 0).all()
    assert conv_grad_weight(x, y, SPEC).shape == w.shape


@pytest.mark.parametrize("groups", [1, 2])
def test_an_axis_of_nothing_but_padding(groups: int) -> None:
    spec = ConvSpec((3,), (1,), (1,), ((2, 2),), groups)
    x, w, bias = np.ones((1, 2, 0), np.float32), np.ones((2, 2 // groups, 3), np.float32), np.array([1, 2], np.float32)
    y = conv_forward(x, w, bias, spec)
    assert (y == [[[1, 1], [2, 2]]]).all()
    assert conv_grad_input(y, w, None, spec, (0,)).shape == x.shape
    assert (conv_grad_weight(x, y, spec) == 0).all()


def test_nan_and_infinity_reach_what_sums_them() -> None:
    """Every output whose window has a NaN is NaN; no other is. An infinity may become NaN where it meets padding."""
    rng = np.random.default_rng(1)
    spec = ConvSpec((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    x, w = rng.standard_normal((1, 3, 20, 20)).astype(np.float32), rng.standard_normal((5, 3, 3, 3)).astype(np.float32)
    x[0, 1, 7, 9] = np.nan
    want = np.zeros((20, 20), bool)
    want[6:9, 8:11] = True
    assert (np.isnan(conv_forward(x, w, None, spec)) == want).all()
    assert (
        np.isnan(conv_grad_input(conv_forward(x, w, None, spec), w, None, spec, (20, 20))).any(axis=(0, 1))
    ).sum() == 25


def test_asking_for_an_algorithm() -> None:
    with algorithm("reference"):
        assert np.allclose(conv_forward(X, W, B, SPEC), reference.conv_forward(X, W, B, SPEC))
    with (
        pytest.raises(PlanError, match=r"algorithm='fastest' does not exist; there are .*reference"),
        algorithm("fastest"),
    ):
        conv_forward(X, W, B, SPEC)
    with pytest.raises(PlanError, match="algorithm='weight_grad' cannot compute this"), algorithm("weight_grad"):
        conv_forward(X, W, B, SPEC)
    conv_forward(X, W, B, SPEC)  # and all are back


def test_problems_are_observed_in_order() -> None:
    with convolution.observed() as problems:
        y = conv_forward(X, W, B, SPEC)
        conv_grad_weight(X, y, SPEC)
    conv_forward(X, W, None, SPEC)
    assert [(p.role, p.bias, p.size) for p in problems] == [
        ("forward", True, (1, 1, 4)),
        ("grad_weight", False, (1, 1, 4)),
    ]


def test_other_types_are_refused() -> None:
    with pytest.raises(DTypeError, match="convolution: dtype int64 is not supported"):
        conv_forward(X.astype(np.int64), W.astype(np.int64), None, SPEC)

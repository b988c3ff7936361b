"""Convolution by Fourier transforms: every role, block size and instruction set, its errors, when it is chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lucid.core.errors import PlanError
from lucid.core.geometry import ConvSpec
from lucid.kernels import conv_forward, conv_grad_input, conv_grad_weight, convolution, select, target
from lucid.kernels.algorithms import fft
from tests.kernels.convolution_fuzz import ROLES, Case, error, expected, run_case
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

ISAS = [isa.name for isa in target.cpu().isas]


def random_case(rng: np.random.Generator) -> Case:
    """A case that the algorithm accepts: any padding and dilation, groups of every kind, several blocks or one."""
    taps, dilation = int(rng.choice([1, 2, 17, 40, 64, 100])), int(rng.choice([1, 1, 2, 3]))
    extent = (taps - 1) * dilation + 1
    low, high = (int(rng.integers(0, extent + 2)) for _ in range(2))
    size = int(rng.integers(max(1, extent - low - high), extent + 300))
    each_in, each_out = (int(n) for n in rng.choice([1, 1, 2, 9], 2))
    groups = int(rng.integers(1, 4))
    return Case(
        ROLES[rng.integers(3)], str(rng.choice(["float32", "float64"])), int(rng.integers(1, 4)), groups * each_in,
        groups * each_out, (size,), ConvSpec((taps,), (1,), (dilation,), ((low, high),), groups),
        bool(rng.random() < 0.5), int(rng.integers(1 << 30)),
    )  # fmt: skip


def layer(c_in: int, c_out: int, size: int, taps: int, groups: int = 1, role: Any = "forward", batch: int = 1) -> Case:
    spec = ConvSpec((taps,), (1,), (1,), ((taps // 2, taps // 2),), groups)
    return Case(role, "float32", batch, c_in, c_out, (size,), spec, True)


@pytest.mark.parametrize("isa", ISAS)
def test_right_between_forbidden_pages_and_the_same_bits_on_all_threads(isa: str) -> None:
    rng = np.random.default_rng(0)
    cases = [random_case(rng) for _ in range(36)]
    assert {case.role for case in cases} == set(ROLES)

    def check(run: tuple[int, Case]) -> None:
        outcome = run_case(run[1], isa, "fft", ("end", "start")[run[0] % 2])
        assert outcome.right, str(outcome)

    run_guarded_cases(check, list(enumerate(cases)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_block_size(isa: str, dtype: str) -> None:
    """The norms bound the error: it stays within some units of them for every size of block and every radix."""
    case = replace(layer(2, 3, 700, 33), dtype=dtype)
    machine = next(machine for machine in target.cpu().isas if machine.name == isa)
    inputs = case.inputs()
    exact, _ = expected(case, inputs)
    unit = np.finfo(dtype).eps
    for n in (64, 128, 256, 512, 1024, 2048, 4096):
        cut = fft.Cut(case.problem, n, machine.lanes(fft.BY_DTYPE[dtype]))
        with target.using(isa), guarded_results(), guarded(case.y_shape, dtype) as y:
            fft.bind(fft._planned(cut, machine), machine)(*inputs, y)
            assert np.abs(y - exact).max() < 2 * np.log2(n) * unit * np.abs(exact).max(), n


@pytest.mark.parametrize("role", ROLES)
def test_errors_are_no_larger_than_those_of_sums(role: str) -> None:
    case = layer(8, 8, 3000, 255, role=role)
    inputs = case.inputs()
    exact, bound = expected(case, inputs)
    with convolution.algorithm("fft"):
        got = case.call(inputs)
    assert error(got, exact, bound) < 0.05
    assert np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2)) < 4e-7


def test_the_gradients_are_the_adjoints() -> None:
    case = layer(6, 4, 500, 101, groups=2)
    x, w, _ = (None if a is None else a.astype(np.float64) for a in case.inputs())
    assert x is not None and w is not None
    g = np.random.default_rng(1).standard_normal(case.y_shape)
    with convolution.algorithm("fft"):
        y = conv_forward(x, w, None, case.spec)
        gx, gw = conv_grad_input(g, w, None, case.spec, case.size), conv_grad_weight(x, g, case.spec)
    assert np.isclose(np.vdot(y, g), np.vdot(x, gx), rtol=1e-12)
    assert np.isclose(np.vdot(y, g), np.vdot(w, gw), rtol=1e-12)


def test_nan_stays_in_the_blocks_that_read_it() -> None:
    case = layer(2, 2, 20_000, 129, groups=2)
    x, w, bias = case.inputs()
    assert x is not None and w is not None
    x[0, 1, 9000] = np.nan
    with convolution.algorithm("fft"):
        bad = np.isnan(conv_forward(x, w, bias, case.spec))
    n = select.choose(case.problem, target.isa(), "fft")["n"]
    assert bad[0, 1, 9000 - 64 : 9000 + 65].all()
    assert not bad[0, 0].any()
    assert not bad[0, 1, : 9000 - 3 * n].any() and not bad[0, 1, 9000 + 3 * n :].any()


def test_chosen_where_it_pays() -> None:
    """The model decides; these are far from the border."""

    def chosen(case: Case) -> str:
        return select.choose(case.problem, target.isa()).algorithm

    for role in ROLES:
        assert chosen(layer(8, 8, 16384, 1023, role=role)) == "fft"
        assert chosen(layer(64, 64, 8192, 255, role=role)) == "fft"
        assert chosen(layer(8, 8, 16384, 9, role=role)) != "fft"
        assert chosen(layer(64, 64, 100, 15, role=role)) != "fft"
        assert chosen(layer(32, 32, 8192, 9, groups=32, role=role)) != "fft"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"spec": ConvSpec((9,), (2,), (1,), ((4, 4),))}, "it computes every sum, and the stride is 2"),
        ({"spec": ConvSpec((1 << 18,), (1,), (1,), ((1 << 18, 0),))}, "too short for 262144 taps"),
        ({"spec": ConvSpec((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))), "size": (9, 9)}, "it transforms lines"),
    ],
)
def test_refusals_are_told(change: dict[str, Any], why: str) -> None:
    case = replace(layer(8, 8, 200, 9), **change)
    with pytest.raises(PlanError, match=why):
        select.choose(case.problem, target.isa(), "fft")

"""Convolution by Fourier transforms: every role, block size and instruction set, its errors, when it is chosen."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest

from lucid.core.errors import PlanError
from lucid.core.geometry import ConvSpec
from lucid.kernels import conv_forward, conv_grad_input, conv_grad_weight, convolution, precision, select, target
from lucid.kernels.algorithms import fft, fft_kernel
from lucid.kernels.casting import as_type
from lucid.kernels.ir import BY_DTYPE
from lucid.kernels.launch import Keeper
from lucid.kernels.plan import WORKSPACE_BYTES
from tests.kernels.convolution_fuzz import ROLES, Case, error, expected, run_case
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

ISA_NAMED = {isa.name: isa for isa in target.cpu().isas}
ISAS = list(ISA_NAMED)
HALF_ISAS = [isa.name for isa in target.cpu().runnable]
HALF = ["float16", "bfloat16"]


def random_case(rng: np.random.Generator) -> Case:
    """A case that the algorithm accepts: any padding and dilation, groups of every kind, several blocks or one."""
    taps, dilation = int(rng.choice([1, 2, 17, 40, 64, 100])), int(rng.choice([1, 1, 2, 3, 5, 8, 9]))
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


@pytest.mark.parametrize("isa", HALF_ISAS)
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_the_result_of_float32_rounded_once(isa: str, dtype: str) -> None:
    """Bit for bit, between forbidden pages, of the samples as they are."""
    rng = np.random.default_rng(1)
    cases = [replace(random_case(rng), dtype=dtype) for _ in range(24)]
    assert {case.role for case in cases} == set(ROLES)

    def check(run: tuple[int, Case]) -> None:
        number, case = run
        outcome = run_case(case, isa, "fft", ("end", "start")[number % 2])
        assert outcome.right, str(outcome)
        inputs = case.inputs()
        with target.using(isa), convolution.algorithm("fft"):
            with convolution.observed() as seen:
                got = case.call(inputs)
            assert seen[0].dtype == dtype
            wide = case.call([None if a is None else as_type(a, np.dtype(np.float32)) for a in inputs])
            assert got.tobytes() == as_type(wide, got.dtype).tobytes()

    run_guarded_cases(check, list(enumerate(cases)))


def cut_of(case: Case, n: int, taps: int, isa: str) -> fft.Cut:
    """The case in blocks of n, the kernel in pieces of ``taps``."""
    machine, element = ISA_NAMED[isa], BY_DTYPE[case.dtype]
    lanes, width = machine.lanes(element), fft_kernel.rows_at_once(machine, element)
    return next(fft._within(fft.Cut(case.problem, n, taps, lanes, width)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_block_size(isa: str, dtype: str) -> None:
    """The norms bound the error: it stays within some units of them for every size of block and every radix."""
    case = replace(layer(2, 3, 700, 33), dtype=dtype)
    inputs = case.inputs()
    exact, _ = expected(case, inputs)
    unit = np.finfo(dtype).eps
    for n in (64, 128, 256, 512, 1024, 2048, 4096):
        with target.using(isa) as machine, guarded_results(), guarded(case.y_shape, dtype) as y:
            fft.bind(fft._planned(cut_of(case, n, 33, isa), machine), machine)(*inputs, y)
            assert np.abs(y - exact).max() < 2 * np.log2(n) * unit * np.abs(exact).max(), n


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("role", ROLES)
def test_any_shares_of_the_work_give_the_same(isa: str, role: Any) -> None:
    """Whatever is in the workspace at once, and in however many pieces the kernel is, between forbidden pages."""
    cases = [
        layer(5, 9, 300, 50, role=role, batch=3),
        replace(layer(9, 5, 90, 21, role=role), dtype="float64", spec=ConvSpec((21,), (1,), (3,), ((31, 30),))),
        layer(6, 4, 150, 33, 2, role=role),
        layer(40, 40, 80, 9, 40, role=role, batch=2),
    ]
    whole = fft.Shares(1 << 30, 1 << 30, 1 << 30, 1 << 30)
    wanted = [whole, fft.Shares(1, 1, 2, 3), fft.Shares(2, 1, 1 << 30, 2), fft.Shares(1, 1, 3, 1 << 30)]

    def check(run: tuple[Case, int, fft.Shares]) -> None:
        case, taps, shares = run
        cut, inputs = cut_of(case, 128, taps, isa), case.inputs()
        if cut.shares is not None:
            most = (cut.pairs, case.spec.groups, *cut.channels)
            cut = replace(
                cut, shares=fft.Shares(*(min(each, n) for each, n in zip(astuple(shares), most, strict=True)))
            )
        exact, bound = expected(case, inputs)
        result = {"forward": case.y_shape, "grad_input": case.x_shape, "grad_weight": case.w_shape}[role]
        with target.using(isa) as machine, guarded_results(), guarded(result, case.dtype) as got:
            fft.bind(fft._planned(cut, machine), machine)(*inputs[: 2 if role == "grad_weight" else 3], got)
            assert error(got, exact, np.broadcast_to(bound.max() * 8, bound.shape)) <= 1

    run_guarded_cases(check, [(c, taps, s) for c in cases for taps in (c.spec.kernel[0], 8) for s in wanted])


@pytest.mark.parametrize("isa", ISAS)
def test_spectra_of_weights_may_be_kept(isa: str) -> None:
    """Made once, against a forbidden page, they give the same bits as when they are made in the call."""

    def check(run: tuple[Case, int, Any]) -> None:
        case, taps, where = run
        x, w, bias = case.inputs()
        result = case.y_shape if case.role == "forward" else case.x_shape
        with target.using(isa) as machine, guarded_results(), guarded(result, "float32") as usual:
            region = fft.bind(fft._planned(cut_of(case, 128, taps, isa), machine), machine)
            region(x, w, bias, usual)
            assert isinstance(region, Keeper) and region.keeps
            halves = region.halves()
            assert halves is not None
            with guarded((halves.kept_bytes,), np.uint8, where) as kept, guarded(result, "float32", where) as y:
                halves.make(None, w, bias, None, kept)
                halves.compute(x, w, bias, y, kept)
                assert (y == usual).all()

    cases = [
        layer(*of, role=role) for of in ((5, 9, 300, 40), (6, 6, 300, 40, 6)) for role in ("forward", "grad_input")
    ]
    run_guarded_cases(check, [(case, taps, where) for case in cases for taps in (40, 9) for where in ("end", "start")])


def test_kernels_of_any_length() -> None:
    """Longer ones than the largest block go in pieces, within the workspace's bound."""
    for role in ROLES:
        case = layer(1, 2, 40_000, 30_001, role=role)
        plan = select.choose(case.problem, target.isa(), "fft")
        assert plan["taps"] < 30_001 and plan.workspace_bytes - plan.packed_bytes <= WORKSPACE_BYTES
        inputs = case.inputs()
        x, w, _ = (None if a is None else a.astype(np.float64) for a in inputs)
        with convolution.algorithm("fft"):
            got, exact = (
                case.call(inputs),
                case.call([x, w, None if inputs[2] is None else inputs[2].astype(np.float64)]),
            )
        assert np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2)) < 1e-6


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


def test_strict_precision_rules_it_out() -> None:
    """What is quiet beside something loud has digits in a sum, and next to none in a transform."""
    case = layer(8, 8, 4000, 1023)
    x, w, _ = case.inputs()
    assert x is not None and w is not None
    x[..., 2000:] *= 1e-6
    wanted = conv_forward(x.astype("float64"), w.astype("float64"), None, case.spec)

    def missed() -> float:
        y = conv_forward(x, w, None, case.spec)
        return float(np.abs(y - wanted)[..., 3000:].max() / np.abs(wanted)[..., 3000:].max())

    assert missed() > 1e-3
    precision.set_precision("strict")
    try:
        assert missed() < 1e-5
    finally:
        precision.set_precision("default")


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
        ({"spec": ConvSpec((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))), "size": (9, 9)}, "it transforms lines"),
    ],
)
def test_refusals_are_told(change: dict[str, Any], why: str) -> None:
    case = replace(layer(8, 8, 200, 9), **change)
    with pytest.raises(PlanError, match=why):
        select.choose(case.problem, target.isa(), "fft")

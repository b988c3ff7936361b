from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lucid.core.errors import PlanError
from lucid.kernels import epilogue, select, target
from lucid.kernels.algorithms import overlap_add
from lucid.kernels.algorithms.overlap_layout import Geometry, Outer
from lucid.kernels.plan import Epilogue
from lucid.kernels.runtime import threads
from tests.kernels.algorithms.dense_cases import CASES, case, check, operands, wanted
from tests.kernels.guard import guarded, run_guarded_cases

ISAS = [isa.name for isa in target.cpu().isas]
HALF_ISAS = [isa.name for isa in target.cpu().runnable]
POINTWISE = ("one sample", "pointwise")
ADDED = {
    "result line of one": case(2, 1, 20, (17,), 15, padding=7),
    "patches": case(2, 3, 5, (32, 48), 16, stride=16),
    "patches with a rest": case(1, 2, 5, (34, 19), (16, 5), stride=(16, 5)),
    "frames": case(1, 1, 9, (700,), 128, stride=32),
    "stem": case(2, 3, 9, (24, 27), 7, stride=2, padding=3),
    "windows in a volume": case(1, 4, 6, (6, 8, 10), 2, stride=2),
    "windows around overlaps": case(2, 3, 4, (8, 11, 12), (2, 3, 4), stride=(2, 1, 4), padding=(0, 1, 0)),
    "cut off by padding": case(1, 3, 4, (13, 14), 4, stride=4, padding=3),
}


@pytest.mark.parametrize(
    ("isa", "dtype"), [*product(ISAS, ["float32", "float64"]), *product(HALF_ISAS, ["float16", "bfloat16"])]
)
def test_every_geometry_between_forbidden_pages(isa, dtype):
    cases = {name: c for name, c in (CASES | ADDED).items() if name not in POINTWISE}
    with target.using(isa):
        run_guarded_cases(lambda name: check("grad_input", "overlap_add", cases[name], dtype), cases)


@pytest.mark.parametrize("isa", ISAS)
def test_every_cut_between_forbidden_pages(isa, monkeypatch):
    """Whole lines and parts of them, packed weights and lazy ones, chunks, parts: whatever a plan may choose."""
    asked = {"stem": ADDED["stem"], "frames": ADDED["frames"], "many rows": case(2, 11, 6, (90,), 6, stride=4)}

    def run(name):
        machine = target.isa()
        arrays, problem, shape = operands("grad_input", asked[name], "float32")
        want, allowed = wanted("grad_input", asked[name], arrays)
        monkeypatch.setattr(overlap_add, "_SUMS_BYTES", 1 << 12)
        bounds = list(overlap_add._bounds(problem, machine))
        assert name == "stem" or any(bound.geometry.segmented and bound.unit_spans > 1 for bound in bounds)
        for bound in bounds:
            with guarded(shape, np.float32) as result:
                region = overlap_add.bind(overlap_add._as_plan(bound, machine), machine)
                region(*arrays, result)
                assert np.all(abs(result - want) <= allowed), bound.cut
                first = result.copy()
                halves = region.halves()
                with guarded((halves.kept_bytes,), np.uint8) as kept:
                    halves.make(None, *arrays[1:], None, kept)
                    halves.compute(*arrays, result, kept)
                assert np.array_equal(result, first)

    monkeypatch.setattr(overlap_add, "_samples_bytes", lambda: 1 << 9)
    with target.using(isa):
        run_guarded_cases(run, asked)


def test_windows_side_by_side_are_rows_and_others_are_phases():
    folded = Outer.of(size=12, out=4, kernel=3, stride=3, dilation=1, low=0, may_fold=True)
    assert (folded.fold, folded.positions, folded.shifts) == (3, 4, [0])
    cut_short = Outer.of(size=14, out=4, kernel=3, stride=3, dilation=1, low=0, may_fold=True)
    assert (cut_short.fold, len(cut_short.residues)) == (1, 3)
    phases = Outer.of(size=7, out=4, kernel=3, stride=2, dilation=1, low=1, may_fold=True)
    assert [residue.taps for residue in phases.residues] == [((0, 0), (2, 1)), ((1, 0),)]


def test_few_channels_are_computed_by_it():
    patches, frames = case(1, 3, 768, (224, 224), 16, stride=8), case(1, 1, 1026, (66304,), 1024, stride=256)
    for c in (patches, frames):
        _, asked, _ = operands("grad_input", c, "float32")
        assert select.choose(asked, target.isa()).algorithm == "overlap_add" or not target.isa().vector_bytes


def test_bits_do_not_depend_on_threads():
    c = case(2, 3, 70, (40, 21), 4, stride=(2, 3), padding=1)
    arrays, asked, shape = operands("grad_input", c, "float32")
    results = []
    before = threads.get_num_threads()
    try:
        for count in (1, 2, 3):
            threads.set_num_threads(count)
            results.append(np.empty(shape, "float32"))
            select.executable(asked, "overlap_add")(*arrays, results[-1])
    finally:
        threads.set_num_threads(before)
    assert all(np.array_equal(results[0], r) for r in results[1:])


def test_infinity_reaches_only_the_positions_it_meets():
    c = case(1, 3, 5, (24,), 5, stride=2, padding=2)
    (g, w, bias), asked, shape = operands("grad_input", c, "float32")
    g[0, 1, 4], gx = np.inf, np.empty(shape, "float32")
    select.executable(asked, "overlap_add")(g, abs(w) + 1, bias, gx)
    assert np.isinf(gx[0, :, 6:11]).all()
    assert np.isfinite(gx[0, :, :6]).all()
    assert np.isfinite(gx[0, :, 11:]).all()


@pytest.mark.parametrize(("role", "name", "reason"), [
    ("forward", "seed", "computes grad_input, not forward"),
    *(("grad_input", name, "has nothing to add up") for name in POINTWISE),
])  # fmt: skip
def test_refusals_are_told(role, name, reason):
    _, asked, _ = operands(role, CASES[name], "float32")
    with pytest.raises(PlanError, match=reason):
        select.choose(asked, target.isa(), "overlap_add")


def test_the_span_of_a_cut_line_reaches_back_to_all_taps():
    _, asked, _ = operands("grad_input", case(1, 1, 4, (700,), 128, stride=32), "float32")
    assert (Geometry(asked, True).back, Geometry(asked, False).back) == (3, 0)


@pytest.mark.parametrize("isa", ISAS)
def test_epilogues_give_the_bits_of_a_pass_of_their_own(isa):
    c, ending = case(2, 3, 9, (14, 21), 5, stride=(2, 3), padding=2), Epilogue("silu", affine=True, residual=True)
    (g, w, bias), plain, shape = operands("grad_input", c, "float32")
    rng = np.random.default_rng(1)
    scale, shift, residual = (rng.standard_normal(n).astype("f4") for n in (shape[1], shape[1], shape))
    want = np.empty(shape, "f4")
    with target.using(isa):
        select.executable(plain, "overlap_add")(g, w, bias, want)
        epilogue.apply(ending, want, scale, shift, residual)
        with guarded(shape, np.float32) as result:
            asked = replace(plain, epilogue=ending)
            assert not select.choose(asked, target.isa(), "overlap_add").passes_after
            select.executable(asked, "overlap_add")(g, w, bias, result, None, scale, shift, residual)
            assert np.array_equal(result, want)

"""What is chosen depends on the machine only by what the machine is said to be."""

from dataclasses import replace

import pytest

from lucid.core.geometry import ConvSpec
from lucid.kernels import precision, select, target
from lucid.kernels.algorithms import past_caches
from lucid.kernels.convolution import problem
from lucid.kernels.isa import AVX512

LONG = ConvSpec((10,), (5,), (1,), ((0, 0),))


@pytest.mark.parametrize(("name", "past"), [("znver4", True), ("znver5", False)])
@pytest.mark.parametrize(("samples", "large"), [(160_000, True), (1_600, False)])
def test_large_results_go_past_the_caches_where_lines_are_fetched(name, past, samples, large, monkeypatch):
    machine = replace(target.cpu(), name=name, l3_bytes=32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: machine)
    asked = problem("forward", LONG, (1, 1, samples), (1, 512, *LONG.out_size((samples,))), "float32", True)
    plan = select.algorithm_named("gemm").plan(asked, AVX512)
    assert ("past the caches" in plan.why) == (past and large)
    assert (plan["rows"] * plan["vectors"] <= 12) == (past and large)  # few sums leave beside products of long rows


@pytest.mark.parametrize("images", [1, 4])
def test_tiles_of_1x1s_have_many_sums_past_the_caches_too(images, monkeypatch):
    machine = replace(target.cpu(), name="znver4", l2_bytes=1 << 20, l3_bytes=32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: machine)
    spec = ConvSpec((1,), (1,), (1,), ((0, 0),))
    asked = problem("forward", spec, (images, 24, 36100), (images, 144, 36100), "float32", True)
    plan = select.algorithm_named("gemm").plan(asked, AVX512)
    assert "past the caches" in plan.why
    assert plan["rows"] * plan["vectors"] > 12


@pytest.mark.parametrize(("read", "kept"), [(0, 2), (8 << 20, 1), (16 << 20, 0)])
def test_rows_that_half_of_the_last_cache_holds_stay_there(read, kept, monkeypatch):
    machine = replace(target.cpu(), l3_bytes=32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: machine)
    assert past_caches.kept_rows(8, 64 << 20, read) == kept
    assert past_caches.kept_rows(1, 64 << 20, read) == 0


def test_strict_precision_rules_out_what_does_not_sum_the_definition_s_products():
    spec = ConvSpec((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    asked = problem("forward", spec, (1, 64, 28, 28), (1, 64, 28, 28), "float32", True)
    assert "winograd" not in select.candidates(asked, target.isa())[1]
    precision.set_precision("strict")
    try:
        refusals = select.candidates(asked, target.isa())[1]
    finally:
        precision.set_precision("default")
    ruled_out = {name for name, why in refusals.items() if why == precision.STRICT}
    winograd = {"winograd", "winograd_planes", "winograd_rows"}
    assert ruled_out == winograd | {"fast_fir", "fft", "folded", "strassen"}

"""Dense convolution in both roles that gather pixels: every geometry, tile and element type between forbidden pages."""

from dataclasses import replace
from itertools import product
from math import ceil

import numpy as np
import pytest

from lucid.core.geometry import ConvSpec
from lucid.kernels import select, target
from lucid.kernels.algorithms import dense_layout, dense_plan, gemm, implicit_gemm, pixel_panels, regions
from lucid.kernels.algorithms.dense_layout import Blocking, Cut
from lucid.kernels.algorithms.grain import HIDE_WIDENING
from lucid.kernels.algorithms.pixel_panels import Layout
from lucid.kernels.algorithms.tile import ChannelTile, Tile, fitting_channels
from lucid.kernels.convolution import algorithm, conv_forward
from lucid.kernels.ir import BY_DTYPE, computed, f32
from lucid.kernels.isa import AVX512
from lucid.kernels.plan import Epilogue
from tests.kernels.algorithms.dense_cases import (
    CASES,
    IMAGES,
    IN_PLACE,
    LINES_IN_PLACE,
    LONG_IN_PLACE,
    PAST,
    PIECES,
    REGIONS,
    UNITS,
    UPSAMPLED,
    check,
    operands,
)
from tests.kernels.convolution_fuzz import Case, run_case, using_threads
from tests.kernels.guard import guarded, guarded_results, run_guarded_cases

ISAS = [isa.name for isa in target.cpu().isas]
VECTOR_ISAS = [isa.name for isa in target.cpu().isas if isa.vector_bytes]
HALF_ISAS = [isa.name for isa in target.cpu().runnable]
PAIRLESS_ISAS = [isa.name for isa in target.cpu().runnable if not isa.bf16_dot]
VECTOR_HALF_ISAS = [isa.name for isa in target.cpu().runnable if isa.vector_bytes]
BOTH = pytest.mark.parametrize(("role", "algorithm"), [("forward", "gemm"), ("grad_input", "phase_split")])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("isa", HALF_ISAS)
@BOTH
def test_half_precision_between_forbidden_pages(role, algorithm, isa, dtype):
    with target.using(isa):
        run_guarded_cases(lambda name: check(role, algorithm, CASES[name], dtype), CASES)


@pytest.mark.parametrize(("isa", "dtype"), [
    *product(VECTOR_ISAS, ["float32", "float64"]), *product(VECTOR_HALF_ISAS, ["float16", "bfloat16"]),
])  # fmt: skip
@pytest.mark.parametrize("vectors", [1, 2, 3])
@BOTH
def test_tiles_over_channels_between_forbidden_pages(role, algorithm, isa, dtype, vectors, monkeypatch):
    def turned(asked, sizes, isa, unit):
        """None of them if phases are stacked, which wants rows side by side."""
        tiles = fitting_channels(isa, computed(BY_DTYPE[dtype]), unit)[vectors - 1 : vectors]
        return tiles if sizes.stack == 1 else usual(asked, sizes, isa, unit)

    usual = dense_plan._tiles
    monkeypatch.setattr(dense_plan, "_tiles", turned)
    select._executable.cache_clear()
    with target.using(isa):
        run_guarded_cases(lambda name: check(role, algorithm, CASES[name], dtype), CASES)
    select._executable.cache_clear()


@pytest.mark.parametrize("shared", [(), (0,), (1,), (2,), (0, 1), (1, 2)])
@pytest.mark.parametrize("isa", ISAS)
@BOTH
def test_every_layout_between_forbidden_pages(role, algorithm, isa, shared, monkeypatch):
    """Whether it saves samples or not."""
    monkeypatch.setattr(
        dense_plan,
        "_layouts",
        lambda phases, sizes, lanes: [[Layout.of(phase, shared, sizes.batch) for phase in phases]],
    )
    select._executable.cache_clear()
    with target.using(isa):
        run_guarded_cases(lambda name: check(role, algorithm, CASES[name], "float32"), CASES)
    select._executable.cache_clear()


@pytest.mark.parametrize(("isa", "dtype"), [
    *product(VECTOR_ISAS, ["float32", "float64"]), *product(VECTOR_HALF_ISAS, ["float16", "bfloat16"]),
])  # fmt: skip
@pytest.mark.parametrize("vectors", [1, 2])
@BOTH
def test_lines_as_they_are_between_forbidden_pages(role, algorithm, isa, dtype, vectors, monkeypatch):
    """Samples steps apart for the tile, whether that saves anything or not."""

    def as_lines(phases, sizes, lanes):
        """As usual if phases are stacked, or of several steps."""
        alike = sizes.stack == 1 and len({x.step for _, _, x in phases}) == 1
        lines = [Layout.of(phase, pixel_panels.AS_LINES, sizes.batch) for phase in phases]
        return [lines] if alike else usual(phases, sizes, lanes)

    def turned(asked, sizes, isa, unit):
        return fitting_channels(isa, computed(BY_DTYPE[dtype]), unit)[vectors - 1 : vectors] if sizes.stack == 1 else []

    usual = dense_plan._layouts
    monkeypatch.setattr(dense_plan, "_layouts", as_lines)
    monkeypatch.setattr(dense_plan, "_turned", turned)
    select._executable.cache_clear()
    with target.using(isa):
        run_guarded_cases(lambda name: check(role, algorithm, CASES[name], dtype), CASES)
    select._executable.cache_clear()


@pytest.mark.parametrize(("isa", "dtype"), [
    *product(VECTOR_ISAS, ["float32", "float64"]), *product(VECTOR_HALF_ISAS, ["bfloat16"]),
])  # fmt: skip
@pytest.mark.parametrize("shared", [(0, 1), (1, 2), pixel_panels.AS_LINES])
@pytest.mark.parametrize("parts", [1, 3])
@BOTH
def test_spans_of_several_units_between_forbidden_pages(role, algorithm, isa, dtype, shared, parts, monkeypatch):
    """All units or, of the last span, fewer than of the others; in one block of channels or in some.

    Turned tiles ask for the next rows' weights, the last one for what lies behind them all.
    """

    def together(asked, sizes, layouts, whole, tile, isa):
        room, slack = 1 << 30, dense_plan.panels.slack(isa, computed(BY_DTYPE[dtype]), tile.rows)
        several = list(dense_plan._several_units(sizes, layouts, tile, ceil(sizes.elements / parts), room, slack, 4))
        seen.update(cut_up.units for cut_up, _ in several)
        return several[-1:] or usual(asked, sizes, layouts, whole, tile, isa)

    def layouts(phases, sizes, lanes):
        alike = shared != pixel_panels.AS_LINES or len({x.step for _, _, x in phases}) == 1
        return [[Layout.of(phase, shared if alike else (1, 2), sizes.batch) for phase in phases]]

    usual, seen = dense_plan._blockings, set()
    monkeypatch.setattr(dense_plan, "_blockings", together)
    monkeypatch.setattr(dense_plan, "_asks", lambda *_: True)
    monkeypatch.setattr(dense_plan, "_layouts", layouts)
    select._executable.cache_clear()
    with target.using(isa):
        run_guarded_cases(lambda name: check(role, algorithm, UNITS[name], dtype), UNITS)
        for name in UNITS:
            asked = operands(role, UNITS[name], dtype)[1]
            select.choose(asked, target.isa(), algorithm)
    select._executable.cache_clear()
    assert max(seen) > 2


@pytest.mark.parametrize(("isa", "dtype"), [*product(ISAS, ["float32", "float64"]), *product(HALF_ISAS, ["bfloat16"])])
@BOTH
def test_regions_between_forbidden_pages(role, algorithm, isa, dtype, monkeypatch):
    """As many of them as there may be, whether that pays or not."""

    def apart(problem, sizes, isa, axes):
        cut = list(regions.cuts(axes))[-1][0]
        return dense_plan._best(problem, sizes, isa, regions.phases(axes, cut), regions.phases(axes)), cut

    monkeypatch.setattr(dense_plan, "_cheapest", apart)
    monkeypatch.setattr(regions, "_SAVES", 0.01)
    select._executable.cache_clear()
    with target.using(isa):
        run_guarded_cases(lambda name: check(role, algorithm, REGIONS[name], dtype), REGIONS)
    select._executable.cache_clear()


@pytest.mark.parametrize(("isa", "dtype"), [
    *product(VECTOR_ISAS, ["float32", "float64"]), *product(VECTOR_HALF_ISAS, ["bfloat16"]),
])  # fmt: skip
@pytest.mark.parametrize("most", [True, False])
@BOTH
def test_pieces_between_forbidden_pages(role, algorithm, isa, dtype, most, monkeypatch):
    """As many of them as there may be, and as few."""

    def in_pieces(phases, sizes, lanes):
        layouts = [each for each in usual(phases, sizes, lanes) if pixel_panels.pieces(each[0].phase) > 1]
        return layouts[-1:] if most else layouts[:1]

    usual = dense_plan._layouts
    monkeypatch.setattr(dense_plan, "_layouts", in_pieces)
    monkeypatch.setattr(regions, "_SAVES", 1.0)  # no axis is cut into regions
    select._executable.cache_clear()
    with target.using(isa):
        for each in PIECES.values():
            assert select.choose(operands(role, each, dtype)[1], target.isa(), algorithm)["pieces"] > 1
        run_guarded_cases(lambda name: check(role, algorithm, PIECES[name], dtype), PIECES)
    select._executable.cache_clear()


@pytest.mark.parametrize("epilogue", [Epilogue(), Epilogue("gelu", affine=True, residual=True)], ids=["plain", "ended"])
@pytest.mark.parametrize(("isa", "dtype"), [
    *product(ISAS, ["float32", "float64"]), *product(HALF_ISAS, ["float16"]), *product(PAIRLESS_ISAS, ["bfloat16"]),
])  # fmt: skip
@BOTH
def test_samples_read_in_place_between_forbidden_pages(role, algorithm, isa, dtype, epilogue, monkeypatch):
    """No sample behind a plane, and none twice into a sum or an epilogue where tiles meet; on 1, 2 and 3 threads."""
    _check_in_place(IN_PLACE, role, algorithm, isa, dtype, epilogue, monkeypatch)


@pytest.mark.parametrize(
    "epilogue",
    [Epilogue(), Epilogue("relu"), Epilogue("gelu", affine=True, residual=True)],
    ids=["plain", "in registers", "ended"],
)
@pytest.mark.parametrize(("isa", "dtype"), [
    *product(ISAS, ["float32", "float64"]), *product(HALF_ISAS, ["float16"]), *product(PAIRLESS_ISAS, ["bfloat16"]),
])  # fmt: skip
def test_residues_of_samples_in_place_between_forbidden_pages(isa, dtype, epilogue, monkeypatch):
    """Every result once, wherever its line ends; on 1, 2 and 3 threads."""
    _check_in_place(UPSAMPLED, "grad_input", "phase_split", isa, dtype, epilogue, monkeypatch)


@pytest.mark.parametrize("epilogue", [Epilogue(), Epilogue("gelu", affine=True, residual=True)], ids=["plain", "ended"])
@pytest.mark.parametrize(("isa", "dtype", "vectors"), [
    *product(VECTOR_ISAS, ["float32", "float64"], [1, 2]), *product(VECTOR_HALF_ISAS, ["float16"], [HIDE_WIDENING]),
    *product([isa for isa in VECTOR_HALF_ISAS if isa in PAIRLESS_ISAS], ["bfloat16"], [HIDE_WIDENING]),
])  # fmt: skip
@BOTH
def test_turned_tiles_in_place_between_forbidden_pages(role, algorithm, isa, dtype, vectors, epilogue, monkeypatch):
    """The same for tiles over channels, which wait for more channels in a buffer."""
    monkeypatch.setattr(
        dense_plan,
        "_tiles",
        lambda asked, sizes, isa, unit: fitting_channels(isa, computed(BY_DTYPE[dtype]), unit)[vectors - 1 : vectors],
    )
    _check_in_place(IN_PLACE | LONG_IN_PLACE, role, algorithm, isa, dtype, epilogue, monkeypatch)


@pytest.mark.parametrize("epilogue", [Epilogue(), Epilogue("gelu", affine=True, residual=True)], ids=["plain", "ended"])
@pytest.mark.parametrize(("isa", "dtype", "vectors"), [
    *product(VECTOR_ISAS, ["float32", "float64"], [1, 2, 3]), *product(VECTOR_HALF_ISAS, ["float16"], [HIDE_WIDENING]),
])  # fmt: skip
def test_strided_lines_in_place_between_forbidden_pages(isa, dtype, vectors, epilogue, monkeypatch):
    """Tiles a step apart end with their lines, and no sample behind x is read; on 1, 2 and 3 threads."""
    monkeypatch.setattr(
        dense_plan,
        "_best_turned",
        lambda asked, sizes, isa, unit: fitting_channels(isa, computed(BY_DTYPE[dtype]), unit)[vectors - 1 : vectors],
    )
    _check_in_place(LINES_IN_PLACE, "forward", "gemm", isa, dtype, epilogue, monkeypatch)


@pytest.mark.parametrize("epilogue", [Epilogue(), Epilogue("gelu", affine=True, residual=True)], ids=["plain", "ended"])
@pytest.mark.parametrize(("isa", "dtype"), [
    *product(VECTOR_HALF_ISAS, ["float16"]),
    *product([isa for isa in VECTOR_HALF_ISAS if isa in PAIRLESS_ISAS], ["bfloat16"]),
])  # fmt: skip
@pytest.mark.parametrize("vectors", [1, 2, 3])
def test_copies_of_strided_lines_between_forbidden_pages(isa, dtype, vectors, epilogue, monkeypatch):
    """Halves that a span widens before, as far as its last line reaches; on 1, 2 and 3 threads."""
    monkeypatch.setattr(
        dense_plan,
        "_best_turned",
        lambda asked, sizes, isa, unit: fitting_channels(isa, computed(BY_DTYPE[dtype]), unit)[vectors - 1 : vectors],
    )
    monkeypatch.setattr(dense_plan, "_widens", lambda phases, sizes, lanes: True)
    _check_in_place(LINES_IN_PLACE, "forward", "gemm", isa, dtype, epilogue, monkeypatch, widened=True)


@pytest.mark.parametrize(("isa", "dtype"), [*product(VECTOR_ISAS, ["float32", "float64"])])
@pytest.mark.parametrize("epilogue", [Epilogue(), Epilogue("relu", residual=True)], ids=["plain", "ended"])
@pytest.mark.parametrize(("spans", "lazy"), [(1, True), (2, True), (2, False)])
@pytest.mark.parametrize("vectors", [1, 3])
@BOTH
def test_images_in_place_in_one_span(role, algorithm, isa, dtype, vectors, spans, lazy, epilogue, monkeypatch):
    """All images or, of the last span, fewer than of the other; on 1, 2 and 3 threads.

    A task packs its weights itself, or all are packed before.
    """

    def turned(asked, sizes, isa, unit):
        return fitting_channels(isa, computed(BY_DTYPE[dtype]), unit)[vectors - 1 : vectors]

    def together(asked, sizes, layouts, whole, tile, isa):
        slack = dense_plan.panels.slack(isa, computed(BY_DTYPE[dtype]), tile.rows)
        found = dense_plan._images_together(sizes, layouts[0], tile, 1 << 30, slack, 4)
        return [(replace(cut_up, lazy=lazy), waits) for cut_up, waits in found][spans - 1 :][:1]

    def layouts(phases, sizes, lanes):
        return [[Layout.of(phase, pixel_panels.IN_PLACE, sizes.batch) for phase in phases]]

    monkeypatch.setattr(dense_plan, "_tiles", turned)
    monkeypatch.setattr(dense_plan, "_layouts", layouts)
    monkeypatch.setattr(dense_plan, "_blockings", together)
    _check_in_place(IMAGES, role, algorithm, isa, dtype, epilogue, monkeypatch)


@pytest.mark.parametrize(("name", "batch", "units"), [("znver4", 4, 4), ("znver4", 1, 1), ("znver5", 4, 1)])
def test_images_are_one_span_where_products_take_turns(name, batch, units, monkeypatch):
    """No thread reads weights that another packed."""
    plan = pointwise(name, batch, 160, 960, (1, 1, 49), monkeypatch)
    assert reads_in_place(plan) == (name == "znver4" or batch == 1)
    assert (plan["units"], plan["lazy"]) == (units, int(name == "znver4"))


@pytest.mark.parametrize(("cases", "vectors", "role", "algorithm"), [
    (IN_PLACE, 0, "forward", "gemm"), (IN_PLACE, 2, "grad_input", "phase_split"),
    (UPSAMPLED, 0, "grad_input", "phase_split"),
], ids=["samples", "turned", "residues"])  # fmt: skip
@pytest.mark.parametrize(("isa", "dtype"), [*product(VECTOR_ISAS, ["float32", "float64"])])
def test_what_is_left_of_spans_in_place_joins_the_last(cases, vectors, role, algorithm, isa, dtype, monkeypatch):
    """Spans of a tile; where less than one is left, the last ends later, and no result is left out or read behind."""

    def turned(asked, sizes, isa, unit):
        return fitting_channels(isa, computed(BY_DTYPE[dtype]), unit)[vectors - 1 : vectors]

    def cuts(sizes, blocking, layouts):
        joined.extend(Cut.of(layout, blocking).joins for layout in layouts)
        return usual(sizes, blocking, layouts)

    usual, joined = dense_plan._readable, []
    monkeypatch.setattr(dense_plan, "_readable", cuts)
    monkeypatch.setattr(dense_plan, "_may_join", lambda *_: True)
    monkeypatch.setattr(dense_plan, "_panels_bytes", lambda problem, layout, tile_bytes, isa: tile_bytes)
    if vectors:
        monkeypatch.setattr(dense_plan, "_tiles", turned)
    _check_in_place(cases, role, algorithm, isa, dtype, Epilogue("relu"), monkeypatch)
    with target.using(isa):
        for each in cases.values():
            select.choose(operands(role, each, dtype)[1], target.isa(), algorithm)
    assert any(joined)


def pointwise(name, images, c_in, c_out, size, monkeypatch):
    """How another CPU, of 32 MiB of last cache, would run a 1x1 layer."""
    cpu = replace(target.cpu(), name=name, l1_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    spec = ConvSpec((1, 1, 1), (1, 1, 1), (1, 1, 1), ((0, 0),) * 3)
    return gemm.plan(Case("forward", "float32", images, c_in, c_out, size, spec, False).problem, AVX512)


def reads_in_place(plan):
    return dense_plan._ARRANGED[plan["shared"]] == pixel_panels.IN_PLACE


@pytest.mark.parametrize(("name", "samples", "in_place"), [
    ("znver4", 400, True), ("znver4", 401, False), ("znver5", 400, False),
])  # fmt: skip
def test_spans_of_a_tile_where_products_take_turns(name, samples, in_place, monkeypatch):
    """Of 400 samples 16 are left behind eight tiles of 48, of 401 vectors lie in two lines each."""
    plan = pointwise(name, 4, 1024, 256, (1, 1, samples), monkeypatch)
    assert reads_in_place(plan) == in_place
    assert (plan["panels"] == 1) == in_place


@pytest.mark.parametrize(("name", "channels", "in_place"), [
    ("znver4", 160, False), ("znver4", 128, True), ("znver5", 160, True),
])  # fmt: skip
def test_channels_that_share_sets_of_the_last_cache_are_gathered(name, channels, in_place, monkeypatch):
    """Planes of 128 KiB, of which 16 share a set with 16 ways, and of two threads each finds half of them."""
    assert reads_in_place(pointwise(name, 1, channels, 160, (32, 32, 32), monkeypatch)) == in_place


def _check_in_place(cases, role, algorithm, isa, dtype, epilogue, monkeypatch, widened=False):
    def in_place(*asked):
        return [each for each in usual(*asked) if each[0].in_place and each[0].widened == widened]

    usual = dense_plan._layouts
    monkeypatch.setattr(dense_plan, "_layouts", in_place)
    monkeypatch.setattr(dense_layout, "_asks", lambda image, shape: True)
    select._executable.cache_clear()

    def check(name):
        n, c_in, c_out, size, spec = cases[name]
        each = Case(role, dtype, n, c_in, c_out, size, spec, True, epilogue=epilogue)
        plan = select.choose(replace(each.problem, dtype=dtype), target.isa(), algorithm)
        strided = cases is LINES_IN_PLACE
        arranged = pixel_panels.LINES_IN_PLACE if strided else pixel_panels.IN_PLACE
        assert dense_plan._ARRANGED[plan["shared"]] == (pixel_panels.LINES_WIDENED if widened else arranged)
        for where in ("end", "start"):
            outcome = run_case(each, isa, algorithm, where)
            assert outcome.right, outcome

    with target.using(isa):
        run_guarded_cases(check, cases)
    select._executable.cache_clear()


@pytest.mark.skipif("avx512f" not in target.cpu().isas[-1].requires, reason="only with AVX-512")
@pytest.mark.parametrize("epilogue", [Epilogue(), Epilogue("relu")], ids=["plain", "in registers"])
@pytest.mark.parametrize(("rows", "vectors", "kept"), [(1, 2, 0), (4, 5, 0), (8, 3, 0), (4, 3, 1), (8, 3, 2)])
@BOTH
def test_results_past_the_caches_between_forbidden_pages(role, algorithm, rows, vectors, kept, epilogue, monkeypatch):
    """Whole lines, and nothing of their neighbours' at both ends of a row; on 1, 2 and 3 threads."""
    isa = target.cpu().isas[-1]
    monkeypatch.setattr(implicit_gemm, "gains", lambda written_bytes, stored, isa: stored == f32)
    monkeypatch.setattr(implicit_gemm, "kept_rows", lambda *asked: kept)
    monkeypatch.setattr(implicit_gemm, "LONG_RUN", 0)
    monkeypatch.setattr(dense_plan, "_tiles", lambda asked, sizes, isa, unit: [Tile(rows, vectors, 16)])
    select._executable.cache_clear()

    def check(name):
        n, c_in, c_out, size, spec = PAST[name]
        each = Case(role, "float32", n, c_in, c_out, size, spec, True, epilogue=epilogue)
        assert "past the caches" in select.choose(each.problem, isa, algorithm).why
        for where in ("end", "start"):
            outcome = run_case(each, isa.name, algorithm, where)
            assert outcome.right, outcome

    with target.using(isa.name):
        run_guarded_cases(check, PAST)
    select._executable.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", ISAS)
@BOTH
def test_every_geometry_between_forbidden_pages(role, algorithm, isa, dtype):
    with target.using(isa):
        run_guarded_cases(lambda name: check(role, algorithm, CASES[name], dtype), CASES)


@pytest.mark.parametrize(("isa", "dtype"), [*product(VECTOR_ISAS, ["float32", "float64"])])
def test_spans_begin_where_x_has_whole_vectors(isa, dtype, monkeypatch):
    """Whatever the address of x, the same bits, and nothing behind x is read; on 1 and 3 threads."""
    usual = dense_plan._layouts
    monkeypatch.setattr(dense_plan, "_layouts", lambda *asked: [each for each in usual(*asked) if each[0].in_place])
    monkeypatch.setattr(dense_layout, "_asks", lambda image, shape: True)
    monkeypatch.setattr(dense_layout, "_LONG", 1)
    monkeypatch.setattr(dense_layout, "_LINE_BYTES", 1 << 20)
    select._executable.cache_clear()
    spec, rng = ConvSpec((1,), (1,), (1,), ((0, 0),)), np.random.default_rng(0)
    w, bias = rng.standard_normal((24, 320, 1)).astype(dtype), rng.standard_normal(24).astype(dtype)

    def check(asked):
        pixels, behind, crew = asked
        count = 2 * 320 * pixels
        with guarded((count + behind,), dtype) as memory, guarded_results(), using_threads(crew):
            memory[:] = np.nan
            x = memory[:count].reshape(2, 320, pixels)
            x[...] = np.random.default_rng(1).standard_normal(x.shape)
            with algorithm("gemm"):
                y, again = conv_forward(x, w, bias, spec), conv_forward(x.copy(), w, bias, spec)
            assert np.array_equal(y, again)
            want = np.einsum("oi,nip->nop", w[..., 0], x) + bias[:, None]
            assert np.allclose(y, want, rtol=1e-3, atol=1e-3)

    with target.using(isa):
        run_guarded_cases(check, product((160, 1232), range(5), (1, 3)))
    select._executable.cache_clear()


def test_lines_of_large_results_are_asked_for_where_products_take_turns(monkeypatch):
    for images, name, asks in ((4, "znver4", True), (1, "znver4", False), (4, "znver5", False)):
        cpu = replace(target.cpu(), name=name, l2_bytes=1 << 20)
        monkeypatch.setattr(target, "cpu", lambda cpu=cpu: cpu)
        monkeypatch.setattr(target, "isa", lambda: AVX512)
        spec = ConvSpec((1, 1, 1), (1, 1, 1), (1, 1, 1), ((0, 0),) * 3)
        case = Case("forward", "float32", images, 64, 128, (1, 56, 56), spec, False)
        assert dense_layout._asks(128 * 56 * 56, dense_plan.shape(case.problem, AVX512)) == asks


@pytest.mark.parametrize(
    ("name", "images", "tiles"), [("znver4", 4, 2), ("znver4", 1, 3), ("znver5", 4, 5), ("znver5", 1, 5)]
)
def test_spans_of_large_arrays_in_place_are_shorter_where_products_take_turns(name, images, tiles, monkeypatch):
    cpu = replace(target.cpu(), name=name, l2_bytes=1 << 20, l3_bytes=32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    spec = ConvSpec((1, 1, 1), (1, 1, 1), (1, 1, 1), ((0, 0),) * 3)
    case = Case("forward", "float32", images, 512, 128, (1, 1, 1999), spec, False)
    plan = gemm.plan(case.problem, AVX512)
    assert dense_plan._ARRANGED[plan["shared"]] == pixel_panels.IN_PLACE
    assert plan["panels"] == tiles


def test_lines_from_afar_are_gathered_where_products_take_turns(monkeypatch):
    cpu = replace(target.cpu(), name="znver4", l1_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    spec = ConvSpec((1, 2, 2), (1, 2, 2), (1, 1, 1), ((0, 0),) * 3)
    case = Case("forward", "float32", 8, 64, 128, (1, 112, 112), spec, False)
    assert dense_plan._ARRANGED[gemm.plan(case.problem, AVX512)["shared"]] != pixel_panels.LINES_IN_PLACE


def test_tiles_ask_for_weights_that_are_packed_beforehand_alone():
    """Those that a task packs itself it has at hand."""
    tile = ChannelTile(14, 2, 16, 1, asks=True)
    for lazy in (False, True):
        asked = implicit_gemm._tile(Blocking(tile, 512, 14, 8, (), lazy, 0))
        assert asked == replace(tile, asks=not lazy)

"""What the benchmarks compute from what they measure."""

from __future__ import annotations

import numpy as np
import pytest

from lucid.cli.bench import machine
from lucid.cli.bench.problem import Layer, errors, suite
from lucid.cli.bench.report import Column, Table, table_lines
from lucid.cli.bench.rows import Row, hold_to_best
from lucid.cli.bench.turns import Ratio, geometric_mean, ratios
from lucid.kernels.roofline import Roofline

LAYERS = list(suite())


def test_the_suite_is_complete() -> None:
    assert len(LAYERS) == 34
    assert len({layer.name for layer in LAYERS}) == 34


# Counted by hand: 2 · N · C_in / groups · C_out · taps · output pixels (input pixels where transposed).
@pytest.mark.parametrize(
    ("name", "gflop"),
    [
        ("conv1d w2v2 L1", 2 * 512 * 512 * 3 * 15999 / 1e9),
        ("conv2d rn stem", 2 * 4 * 3 * 64 * 49 * 112 * 112 / 1e9),
        ("conv2d mb dw3 96@56", 2 * 4 * 96 * 9 * 56 * 56 / 1e9),
        ("conv_transpose1d hifigan 128-64 k4s2", 2 * 128 * 64 * 4 * 8192 / 1e9),
        ("conv3d 16-32 k3@32", 2 * 16 * 32 * 27 * 32**3 / 1e9),
    ],
)
def test_flops(name: str, gflop: float) -> None:
    (layer,) = suite(name)
    assert layer.flops / 1e9 == pytest.approx(gflop)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_output_sizes_invert_each_other(layer: Layer) -> None:
    """A transposed layer's output, convolved, has the size of its input."""
    if not layer.transposed:
        assert all(size >= 1 for size in layer.out_size)
        return
    axes = zip(layer.out_size, layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True)
    back = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)
    assert back == layer.size


def test_arrays_are_the_same_every_time() -> None:
    first, second = LAYERS[0].arrays(), LAYERS[0].arrays()
    assert all((first[name] == second[name]).all() for name in ("x", "w", "bias", "g"))
    assert first["x"].dtype == np.float32


def test_errors_are_relative_to_the_root_mean_square() -> None:
    assert errors({"y": np.float32([3, 4.5])}, {"y": np.array([3.0, 4.0])}) == {"y": 0.5 / np.sqrt(12.5)}


def test_a_wrong_value_is_no_small_error() -> None:
    layer = LAYERS[1]
    y = np.random.default_rng(0).standard_normal(layer.shapes["g"])
    spoiled = y.copy()
    spoiled.flat[0] = np.nan
    assert not errors({"y": spoiled}, {"y": y})["y"] <= layer.tolerances()["y"]


def test_the_roofline_takes_the_slower_bound() -> None:
    machine = Roofline(threads=2, gflop_per_s=100.0, copy_gb_per_s=10.0, fill_gb_per_s=8.0)
    (small,) = suite("conv2d rn 3x3 64@56")
    (large,) = suite("conv1d tcn dw k3 d1")
    assert small.limit_s(machine, backward=False) == pytest.approx(small.flops / 100e9)
    assert large.limit_s(machine, backward=False) == pytest.approx(large.traffic_bytes / 10e9)
    assert large.limit_s(machine, backward=True) == pytest.approx(3 * large.traffic_bytes / 10e9)


def test_what_is_written_is_held_to_the_rate_of_filling() -> None:
    machine = Roofline(threads=2, gflop_per_s=1e6, copy_gb_per_s=10.0, fill_gb_per_s=4.0)
    (layer,) = suite("conv1d w2v2 L0")
    read, written = 4 * (160000 + 512 * 10), 4 * 512 * 31999
    assert layer.reach_s(machine, backward=False) == pytest.approx(written / 4e9)
    roles = written / 4e9, (read + written) / 10e9, (read + written) / 10e9  # y; x and w, which are small
    assert layer.reach_s(machine, backward=True) == pytest.approx(sum(roles))
    (cached,) = suite("conv2d cifar seed 3-16@32")
    assert cached.reach_s(machine, backward=False) == pytest.approx(cached.flops / 1e15)


def test_the_best_of_two_measurements() -> None:
    first, second = Roofline(2, 100.0, 60.0, 40.0), Roofline(2, 90.0, 110.0, 80.0)
    assert first.best(second) == Roofline(2, 100.0, 110.0, 80.0)


def test_ratios_are_taken_round_by_round() -> None:
    # Every round the machine is twice as slow as before: the ratio stays.
    times = {"lucid": [1.0, 2.0, 4.0], "torch": [3.0, 6.0, 12.0]}
    assert ratios(times, "lucid") == {"torch": Ratio(3.0, 3.0, 3.0)}


def test_quartiles() -> None:
    assert Ratio.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Ratio(3.0, 2.0, 4.0)


def test_geometric_mean() -> None:
    assert geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_a_table_fits_its_width(width: int) -> None:
    columns = [Column("layer", left=True), Column("PyTorch ×"), Column("quartiles"), Column("ONNX Runtime ×")]
    table = Table("forward", columns, [["conv1d", "1.23", "1.11–1.45", "0.99"]], ["mean", "1.23", "", "0.99"])
    lines = table_lines(table, width)
    assert max(map(len, lines)) <= width
    assert ("1.11–1.45" in "".join(lines)) == (width >= 40)


def test_rows_are_held_to_the_best_peaks_of_the_run() -> None:
    (layer,) = suite("rn 3x3 64@56")
    rows = [Row(layer.short_name, "forward", 1.0, {"lucid": 0.01}) for _ in range(2)]
    for row, peak, copy in zip(rows, (100.0, 500.0), (50.0, 20.0), strict=True):
        row.peaks = Roofline(2, peak, copy, copy)
    hold_to_best(rows, [layer], "lucid")
    for row in rows:
        assert (row.peak_gflop_per_s, row.copy_gb_per_s) == (500.0, 50.0)
        assert row.roofline == pytest.approx(layer.flops / 500e9 / 0.01)


def test_busy_cores_are_those_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 ticks of all cores, 100 idle and 100 waiting for a disk: half the cores' time is work."""
    lines = iter(["cpu  10 0 0 50 0 0 0 0 0 0", "cpu  150 20 20 150 100 5 5 10 7 7"])
    monkeypatch.setattr(machine.Path, "read_text", lambda *_: next(lines) + "\ncpu0 0\n")
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 8)
    assert machine.busy_cores(0.0) == pytest.approx(4.0)

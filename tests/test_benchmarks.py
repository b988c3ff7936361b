"""What the benchmarks of the repository compute from what they measure."""

from __future__ import annotations

from benchmarks import train_step
from benchmarks.selection import Row, problems, synthetic, verdict
from lucid.cli.bench.problem import suite
from lucid.kernels import select, target, trial


def test_a_layer_is_three_problems_of_its_work() -> None:
    for name in ("conv2d efflite dw5s2", "conv_transpose1d hifigan 256-128 k16s8"):
        (layer,) = suite(name, "heldout")
        found = list(problems(layer))
        assert [p.role for p in found] == ["forward", "grad_input", "grad_weight"]
        assert {p.flops for p in found} == {layer.flops}
        assert [p.bias for p in found] == [not layer.transposed, layer.transposed, False]


def test_the_synthetic_set_is_the_same_every_time_and_every_problem_has_a_plan() -> None:
    layers = list(synthetic(12))
    assert layers == list(synthetic(12)) and layers != list(synthetic(12, seed=1))
    for layer in layers:
        for asked in problems(layer):
            assert select.choose(asked, target.isa()).algorithm in trial.contenders(asked)


def test_the_verdict_counts_choices_near_the_fastest_and_adds_up_what_the_others_cost() -> None:
    rows = [
        Row("a", "forward", "gemm", {"gemm": 100.0, "winograd": 200.0}, {}),
        Row("b", "forward", "gemm", {"gemm": 104.0, "winograd": 100.0}, {}),
        Row("c", "forward", "gemm", {"gemm": 150.0, "winograd": 100.0}, {}),
    ]
    assert [row.fastest for row in rows] == ["gemm", "winograd", "winograd"]
    assert rows[2].cells()[-2:] == ["1.50 !", "winograd 0.0001"]
    said = "9 of 10 choices within 5 % of the fastest (90%), 2 of the 3 that have several candidates (67%)"
    assert verdict(rows, asked=10) == f"{said}; all together 18.0% slower"


def test_networks_are_shown_in_milliseconds_with_their_mean() -> None:
    def row(name: str, us: float, ratio: float) -> dict[str, object]:
        times = {"lucid": us, "torch": us * ratio, "torch-pages": us * ratio}
        ratios = {peer: [ratio / 2, ratio, ratio * 2] for peer in ("torch", "torch-pages")}
        return {"program": name, "faults": {}, "median_us": times, "ratio": ratios}

    failed = {"program": "c", "faults": {"lucid": "off"}}
    table = train_step.table(train_step.WHOLE, "inference", [row("a", 1500.0, 1.0), row("b", 80.0, 4.0), failed])
    assert table.rows[:2] == [
        ["a", "1.5", "1.5", "1.00", "0.50–2.00", "1.00"],
        ["b", "0.08", "0.32", "4.00", "2.00–8.00", "4.00"],
    ]
    assert table.rows[2][:2] == ["c", "FAILED"]
    assert table.total == ["geometric mean", "", "", "2.00", "", "2.00"]
    assert train_step.table(train_step.WHOLE, "inference", [failed]).total is None

"""What the check of the cost model computes from what it measures."""

from __future__ import annotations

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

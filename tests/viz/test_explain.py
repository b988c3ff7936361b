"""What `lucid.explain` says is what the layer runs."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import lucid
import lucid.nn as nn
from lucid.kernels import target
from lucid.kernels.roofline import Roofline


def test_every_role_is_explained_in_the_order_it_runs():
    told = lucid.explain(nn.Conv2d(8, 16, 3, padding=1), (2, 8, 12, 12))
    assert [part.problem.role for part in told.parts] == ["forward", "grad_input", "grad_weight"]
    for part in told.parts:
        assert part.problem.flops == 2 * 2 * 16 * 8 * 9 * 144
        assert part.plans[0].shared_ns == min(plan.shared_ns for plan in part.plans)
        assert part.measured_ns > 0


def test_a_whole_model_is_explained_layer_by_layer():
    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.ConvTranspose1d(8, 4, 4, stride=2))
    told = lucid.explain(model, (1, 4, 30))
    told = [
        (part.problem.role, str(part.problem.epilogue)) for part in told.parts if part.problem.role != "grad_weight"
    ]
    inferred = [("forward", "relu"), ("grad_input", "")]  # it learns with the same two
    assert told == [*inferred, ("forward", ""), ("grad_input", "")]


def test_passes_have_the_layers_own_names():
    text = str(lucid.explain(nn.ConvTranspose1d(8, 4, 4, stride=2), (1, 8, 30)))
    starts = ["forward, as a convolution's input gradient: ", "input gradient, as a convolution: ", "weight gradient: "]
    found = [line for line in text.splitlines() if "GFLOP, " in line]
    assert all(line.startswith(start) for line, start in zip(found, starts, strict=True))


@pytest.mark.parametrize(
    ("layer", "shape", "planned"),
    [
        (nn.Conv2d(4, 8, (22, 1)), (1, 4, 22, 50), "88 to 8 channels, kernel 1, on 50"),
        (nn.Conv3d(4, 4, (3, 1, 1), groups=4), (1, 4, 6, 5, 7), "4 to 4 channels in 4 groups, kernel 3x1, on 6x35"),
        (nn.Conv2d(4, 8, 3, stride=2), (1, 4, 9, 9), "4 to 8 channels, kernel 3x3, stride 2x2, on 9x9"),
        (nn.Conv1d(4, 8, 1), (1, 4, 1), "4 to 8 channels, kernel 1, on 1"),
    ],
)
def test_what_is_planned_has_no_more_axes_than_it_takes(layer, shape, planned):
    assert f"    planned as {planned}\n" in str(lucid.explain(layer, shape))


def test_every_candidate_has_its_error_bound():
    text = str(lucid.explain(nn.Conv2d(64, 64, 3, padding=1), (1, 64, 28, 28)))
    assert re.search(r"\n -> winograd .* [\d.]+ x direct summation's\n", text)
    assert re.search(r"\n    gemm .* KiB  direct summation's\n", text)


def test_the_text_names_layer_machine_plan_and_limit():
    with target.using(target.cpu().isas[0].name) as isa:
        text = str(lucid.explain(nn.Conv1d(2, 4, 3), (1, 2, 20)))
    assert text.startswith("Conv1d(2, 4, kernel_size=(3,), stride=(1,)) on (1, 2, 20), float32, ")
    assert isa.name in text
    for word in ("forward: ", "input gradient: ", "weight gradient: ", " -> ", "workspace", "of the roofline"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 80


def test_nothing_is_compared_with_what_is_not_worth_it():
    text = str(lucid.explain(nn.Conv2d(16, 16, 1), (1, 16, 14, 14)))
    assert " reference     not worth it" in text
    assert "reference's time" not in text


def test_the_times_told_are_those_that_were_weighed():
    part = lucid.explain(nn.Conv2d(16, 16, 3), (1, 16, 14, 14)).parts[0]
    first = replace(part.plans[0], expected_ns=120e6, tasks=2)
    odd = replace(first, algorithm="whole", expected_ns=100e6, tasks=1)
    text = str(replace(part, plans=[first, odd], taken=first, machine=replace(part.machine, threads=1)))
    assert re.search(f" whole +{odd.shared_ns / 1e6:.0f} ms ", text)
    assert f"expected in {first.shared_ns / odd.shared_ns:.0%} of whole's time" in text
    assert first.shared_ns < odd.shared_ns


@pytest.mark.parametrize(
    ("peaks", "cause"),
    [((1e9, 10.0, 1e9), "memory traffic"), ((1e9, 10.0, 4.0), "writing"), ((1e-9, 10.0, 4.0), "arithmetic")],
)
def test_the_bound_has_its_cause(peaks, cause):
    forward, *_ = lucid.explain(nn.Conv2d(8, 16, 3), (2, 8, 12, 12)).parts
    assert f"bound by {cause}" in str(replace(forward, machine=Roofline(2, *peaks))).replace("\n        ", " ")


def test_who_computes_other_roles_is_not_named_as_refusing():
    forward, *_ = lucid.explain(nn.Conv2d(8, 16, 3), (2, 8, 12, 12)).parts
    assert not {"weight_grad", "phase_split"} & {*forward.refusals, *(plan.algorithm for plan in forward.plans)}


@pytest.mark.parametrize(("level", "sign"), [("ir", "define dso_local "), ("asm", "\tret")])
def test_the_kernels_are_shown(level, sign):
    told = lucid.explain(nn.Conv1d(2, 4, 3), (1, 2, 20), level=level)
    for part in told.parts:
        assert part.kernels and all(sign in text for text in part.kernels.values())
    assert sign in str(told)


def test_other_levels_are_refused():
    with pytest.raises(ValueError, match="level='llvm' must be one of 'plan', 'ir', 'asm'"):
        lucid.explain(nn.Conv1d(2, 4, 3), (1, 2, 20), level="llvm")


def test_it_says_what_inference_keeps():
    layers = nn.Conv1d(64, 64, 3), nn.ConvTranspose1d(64, 64, 4, stride=2)
    for layer in layers:
        told = lucid.explain(layer, (2, 64, 300))
        forward = told.parts[0]
        assert all(part.kept_bytes == 0 for part in told.parts[1:])
        assert (forward.kept_bytes >= layer.weight.nbytes) == ("are kept from call to call" in str(forward))


def test_it_says_which_gradients_share_a_region(monkeypatch):
    from lucid.kernels import convolution, pair

    near = lucid.explain(nn.Conv1d(32, 32, 3, groups=32), (2, 32, 2000))
    assert "in one region" not in str(near)
    monkeypatch.setattr(pair, "_held_bytes", lambda: 0)
    monkeypatch.setattr(convolution, "_near_bytes", lambda: 0)
    convolution._pair.cache_clear()
    weight = lucid.explain(nn.Conv1d(32, 32, 3, groups=32), (2, 32, 2000)).parts[-1]
    convolution._pair.cache_clear()
    assert weight.part == "weight gradient"
    assert "in one region with the input gradient" in str(weight)


def test_the_layer_is_left_as_it_was():
    layer = nn.Conv1d(2, 4, 3, dtype=lucid.float64)
    before = {name: value.detach().numpy().copy() for name, value in layer.named_parameters()}
    assert "float64" in str(lucid.explain(layer, (1, 2, 20)))
    for name, value in layer.named_parameters():
        np.testing.assert_array_equal(value.detach().numpy(), before[name])
        assert value.grad is None


def test_a_fused_layer_is_explained_as_it_runs_in_inference_and_as_it_learns():
    roles = ["forward", "grad_input", "grad_weight"]
    for activation, name, trained in (
        (nn.GELU(), "gelu", ["forward", *roles]),
        (nn.LeakyReLU(0.1), "leaky_relu(0.1)", roles),
    ):
        layer = nn.FusedConv2d(2, 4, 3, activation=activation)
        told = lucid.explain(layer, (1, 2, 20, 20))
        assert [part.problem.role for part in told.parts] == trained
        assert f"    epilogue: {name}, in " in str(told)
    frozen = lucid.explain(layer.requires_grad_(False), (1, 2, 20, 20))
    assert [str(part.problem.epilogue) for part in frozen.parts] == ["leaky_relu(0.1)"]


def test_a_shape_that_the_layer_cannot_take_is_the_layers_error():
    with pytest.raises(ValueError, match="Conv1d"):
        lucid.explain(nn.Conv1d(2, 4, 3), (1, 3, 20))


@pytest.mark.parametrize(
    ("layer", "shape", "rule"),
    [
        ("Conv1d", (1, 2, 9), "explain: layer must be a Module, not str"),
        (nn.Conv1d(2, 4, 3), "1, 2, 9", r"explain: input_shape='1, 2, 9' must be a tuple of ints"),
        (nn.Conv1d(2, 4, 3), 9, "explain: input_shape=9 must be a tuple of ints"),
        (nn.Conv1d(2, 4, 3), (1, 2, 9.5), r"must be ints, not \(1, 2, 9\.5\)"),
    ],
)
def test_what_is_no_layer_or_no_shape_is_an_error(layer, shape, rule):
    with pytest.raises(TypeError, match=rule):
        lucid.explain(layer, shape)


def test_a_layer_without_convolutions_is_told_so():
    assert str(lucid.explain(nn.ReLU(), (2, 3))).splitlines()[1:] == ["no convolution is computed"]

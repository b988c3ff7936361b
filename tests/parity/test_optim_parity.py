"""Optimizers and schedules against PyTorch, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import lucid

OPTIMIZERS: list[Callable[[Any, Any], Any]] = [
    lambda o, p: o.SGD(p, lr=0.1),
    lambda o, p: o.SGD(p, lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.1),
    lambda o, p: o.SGD(p, lr=0.1, momentum=0.9, nesterov=True, maximize=True),
    lambda o, p: o.Adam(p, lr=0.1, betas=(0.8, 0.9), eps=1e-5, weight_decay=0.1),
    lambda o, p: o.Adam(p, lr=0.1, amsgrad=True),
    lambda o, p: o.AdamW(p, lr=0.1),
    lambda o, p: o.AdamW(p, lr=0.1, weight_decay=0.3, amsgrad=True, maximize=True),
    lambda o, p: o.RMSprop(p, lr=0.1, alpha=0.9, weight_decay=0.1),
    lambda o, p: o.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 2e-5)])
def test_optimizers(make: Callable[[Any, Any], Any], dtype: str, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    start = rng.standard_normal((4, 3)).astype(dtype)
    p, q = lucid.tensor(start.copy(), requires_grad=True), torch.tensor(start, requires_grad=True)
    ours, theirs = make(lucid.optim, [p]), make(torch.optim, [q])
    for _ in range(20):
        g = rng.standard_normal((4, 3)).astype(dtype)
        p.grad, q.grad = lucid.tensor(g), torch.tensor(g)
        ours.step()
        theirs.step()
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=tolerance, atol=tolerance)


SCHEDULES: list[Callable[[Any, Any], Any]] = [
    lambda s, o: s.StepLR(o, 3, 0.5),
    lambda s, o: s.MultiStepLR(o, [7, 2, 2], 0.5),
    lambda s, o: s.ExponentialLR(o, 0.9),
    lambda s, o: s.LambdaLR(o, lambda t: 0.9**t),
    lambda s, o: s.CosineAnnealingLR(o, 7, 0.01),
    lambda s, o: s.CosineAnnealingWarmRestarts(o, 5, eta_min=0.01),
    lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 2),
    lambda s, o: s.LinearLR(o),
    lambda s, o: s.LinearLR(o, 0.1, 0.7, 9),
    lambda s, o: s.ConstantLR(o, 0.2, 4),
    lambda s, o: s.PolynomialLR(o, 11, 2.0),
    lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.1, total_iters=4), s.CosineAnnealingLR(o, 16)], [4]),
    lambda s, o: s.SequentialLR(o, [s.ConstantLR(o), s.ExponentialLR(o, 0.9), s.StepLR(o, 2, 0.5)], [3, 9]),
    lambda s, o: s.OneCycleLR(o, 1.0, 25),
    lambda s, o: s.OneCycleLR(o, 1.0, epochs=5, steps_per_epoch=5, anneal_strategy="linear", three_phase=True),
    lambda s, o: s.OneCycleLR(o, 1.0, 25, pct_start=0.1, div_factor=5.0, final_div_factor=7.0),
]


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_schedules(make: Callable[[Any, Any], Any]) -> None:
    ours = lucid.optim.SGD([lucid.ones(1, requires_grad=True)], lr=0.3, momentum=0.9)
    theirs = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.3, momentum=0.9)
    first, second = make(lucid.optim.lr_scheduler, ours), make(torch.optim.lr_scheduler, theirs)
    for _ in range(24):
        for key in ("lr", "momentum"):
            assert ours.param_groups[0][key] == pytest.approx(theirs.param_groups[0][key], rel=1e-9, abs=1e-12)
        first.step()
        second.step()


@pytest.mark.parametrize("options", [
    {}, {"mode": "max"}, {"threshold_mode": "abs", "threshold": 0.3}, {"cooldown": 2, "patience": 1}, {"min_lr": 0.05},
])  # fmt: skip
def test_plateaus(options: dict[str, Any]) -> None:
    options = {"patience": 2, "factor": 0.5, **options}
    ours = lucid.optim.SGD([lucid.ones(1, requires_grad=True)], lr=0.3)
    theirs = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.3)
    first = lucid.optim.lr_scheduler.ReduceLROnPlateau(ours, **options)
    second = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    for figure in np.random.default_rng(0).random(40):
        first.step(figure)
        second.step(figure)
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"])


@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clipping(norm_type: float, max_norm: float) -> None:
    grads = [np.random.default_rng(i).standard_normal((3, i + 1)) for i in range(3)]
    ours = [lucid.tensor(np.zeros(g.shape), requires_grad=True) for g in grads]
    theirs = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in grads]
    for p, q, g in zip(ours, theirs, grads, strict=True):
        p.grad, q.grad = lucid.tensor(g.copy()), torch.tensor(g)
    a = lucid.nn.utils.clip_grad_norm_(ours, max_norm, norm_type)
    b = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    assert a.item() == pytest.approx(b.item(), rel=1e-6)
    lucid.nn.utils.clip_grad_value_(ours, 0.2)
    torch.nn.utils.clip_grad_value_(theirs, 0.2)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-12)

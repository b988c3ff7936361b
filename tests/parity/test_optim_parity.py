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
    lambda o, p: o.Adagrad(p, lr=0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.2),
    lambda o, p: o.Adadelta(p, lr=0.5, rho=0.8, weight_decay=0.1, maximize=True),
    lambda o, p: o.Adamax(p, lr=0.1, weight_decay=0.1),
    lambda o, p: o.NAdam(p, lr=0.1, weight_decay=0.1, momentum_decay=0.01),
    lambda o, p: o.NAdam(p, lr=0.1, weight_decay=0.1, decoupled_weight_decay=True),
    lambda o, p: o.RAdam(p, lr=0.1, betas=(0.8, 0.9), weight_decay=0.1),
    lambda o, p: o.RAdam(p, lr=0.1, betas=(0.8, 0.9), weight_decay=0.1, decoupled_weight_decay=True),
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
        bound = max(tolerance, 1e-7 if isinstance(ours, lucid.optim.NAdam) else 0)  # PyTorch's products are in float32
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=bound, atol=bound)


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
    lambda s, o: s.MultiplicativeLR(o, lambda t: 0.9 + 0.01 * t),
    lambda s, o: s.CyclicLR(o, 0.1, 0.5, step_size_up=3, step_size_down=4),
    lambda s, o: s.CyclicLR(o, 0.1, 0.5, 3, mode="triangular2", base_momentum=0.7),
    lambda s, o: s.CyclicLR(o, 0.1, 0.5, 3, mode="exp_range", gamma=0.9, cycle_momentum=False),
    lambda s, o: s.CyclicLR(o, 0.1, 0.5, 3, scale_fn=lambda t: 0.99**t, scale_mode="iterations"),
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


AVERAGES: list[Callable[[Any], dict[str, Any]]] = [
    lambda s: {},
    lambda s: {"use_buffers": True},
    lambda s: {"avg_fn": s.get_swa_avg_fn()},
    lambda s: {"avg_fn": s.get_ema_avg_fn(0.9), "use_buffers": True},
    lambda s: {"multi_avg_fn": s.get_ema_multi_avg_fn(0.7)},
    lambda s: {"multi_avg_fn": s.get_swa_multi_avg_fn()},
    lambda s: {"avg_fn": lambda average, current, count: 0.1 * average + 0.9 * current},
]


@pytest.mark.parametrize("options", AVERAGES)
@pytest.mark.parametrize("anneal", [{}, {"anneal_epochs": 3, "anneal_strategy": "linear"}, {"anneal_epochs": 1}])
def test_averaged_training(options: Callable[[Any], dict[str, Any]], anneal: dict[str, Any]) -> None:
    """The recipe of PyTorch's manual: a schedule, then averages at the averages' rate, then statistics for them."""
    data = np.random.default_rng(3).standard_normal((4, 8, 3))

    def trained(m: Any) -> tuple[dict[str, Any], list[float]]:
        model = m.nn.Sequential(m.nn.Linear(3, 4), m.nn.BatchNorm1d(4), m.nn.Tanh(), m.nn.Linear(4, 2)).double()
        model.load_state_dict({
            name: m.tensor(np.random.default_rng(i).random(tuple(value.shape)) if value.ndim else np.array(0))
            for i, (name, value) in enumerate(model.state_dict().items())
        })  # fmt: skip
        average = m.optim.swa_utils.AveragedModel(model, **options(m.optim.swa_utils))
        optimizer = m.optim.SGD(model.parameters(), lr=0.2)
        before = m.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        schedule = m.optim.swa_utils.SWALR(optimizer, swa_lr=0.05, **anneal)
        rates = []
        for step in range(9):
            optimizer.zero_grad()
            (model(m.tensor(data[step % 4])) ** 2).mean().backward()
            optimizer.step()
            if step > 2:
                average.update_parameters(model)
                schedule.step()
            else:
                before.step()
            rates.append(optimizer.param_groups[0]["lr"])
        buffers = [x.tolist() for x in average.module.buffers()]
        m.optim.swa_utils.update_bn([m.tensor(x) for x in data], average)
        state = {name: value.tolist() for name, value in average.state_dict().items()}
        return {**state, "before": buffers}, rates

    (ours, first), (theirs, second) = trained(lucid), trained(torch)
    tolerance = 1e-5 if options is AVERAGES[5] else 1e-10  # PyTorch's weights there are float32
    assert first == pytest.approx(second, rel=1e-12)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        values = zip(ours[name], value, strict=True) if name == "before" else [(ours[name], value)]
        for a, b in values:
            np.testing.assert_allclose(a, b, rtol=tolerance, err_msg=name)

"""Schedules against rates worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

import lucid
from lucid import optim
from lucid.optim import lr_scheduler as S


def optimizer(*rates: float, kind: Any = optim.SGD, **options: Any) -> optim.Optimizer:
    return kind([{"params": [lucid.ones(1, requires_grad=True)], "lr": lr} for lr in rates], **options)


def rates(make: Callable[[optim.Optimizer], Any], steps: int, opt: optim.Optimizer | None = None) -> list[float]:
    opt = opt or optimizer(1.0)
    scheduler = make(opt)
    found = []
    for _ in range(steps):
        found.append(opt.param_groups[0]["lr"])
        scheduler.step()
    return found


def test_steps() -> None:
    found = rates(lambda o: S.StepLR(o, 2, 0.5), 6)
    assert found == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert rates(lambda o: S.MultiStepLR(o, [4, 1], 0.5), 6) == [1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert rates(lambda o: S.ExponentialLR(o, 0.5), 4) == [1, 0.5, 0.25, 0.125]


def test_functions() -> None:
    opt = optimizer(1.0, 10.0)
    scheduler = S.LambdaLR(opt, [lambda t: 1 / (t + 1), lambda t: 0.1])
    scheduler.step()
    assert scheduler.get_last_lr() == [0.5, 1.0]
    with pytest.raises(ValueError, match="1 functions for 2 groups"):
        S.LambdaLR(opt, [lambda t: 1.0])


def test_cosine() -> None:
    found = rates(lambda o: S.CosineAnnealingLR(o, 4, 0.2), 9)
    down = [1, 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2, 0.6, 0.2 + 0.8 * (1 - math.sqrt(0.5)) / 2, 0.2]
    assert found == pytest.approx([*down, *down[3::-1]])


def test_one_cycle() -> None:
    found = rates(lambda o: S.OneCycleLR(o, 1.0, 11, pct_start=0.5, anneal_strategy="linear", cycle_momentum=False), 10)
    rise, fall = 0.5 * 11 - 1, 10 - (0.5 * 11 - 1)
    expected = [0.04 + 0.96 * t / rise if t <= rise else 1 + (0.04e-4 - 1) * (t - rise) / fall for t in range(10)]
    assert found == pytest.approx(expected)


def test_one_cycle_moves_the_momentum_the_other_way() -> None:
    for opt in (optimizer(0.1, momentum=0.9), optimizer(0.1, kind=optim.Adam)):
        scheduler = S.OneCycleLR(opt, 1.0, 10, pct_start=0.5)
        momenta = []
        for _ in range(9):
            group = opt.param_groups[0]
            momenta.append(group["betas"][0] if "betas" in group else group["momentum"])
            scheduler.step()
        assert momenta[0] == 0.95 and momenta[4] == pytest.approx(0.85) and momenta[8] == pytest.approx(0.95, abs=0.01)
        with pytest.raises(ValueError, match="step 11 of 10: the cycle is over"):
            scheduler.step()


def test_plateau() -> None:
    opt = optimizer(1.0)
    scheduler = S.ReduceLROnPlateau(opt, factor=0.5, patience=1, cooldown=1, min_lr=0.2, threshold=0.1)
    seen = []
    for figure in (1.0, 0.95, 0.95, 0.95, 0.95, 0.95, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5):
        scheduler.step(figure)
        seen.append(opt.param_groups[0]["lr"])
    assert seen == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2, 0.2]


@pytest.mark.parametrize(
    "make",
    [
        lambda o: S.StepLR(o, 3),
        lambda o: S.CosineAnnealingLR(o, 7),
        lambda o: S.OneCycleLR(o, 1.0, 20, cycle_momentum=False),
        lambda o: S.LambdaLR(o, lambda t: 0.9**t),
        lambda o: S.CosineAnnealingWarmRestarts(o, 3, 2),
        lambda o: S.SequentialLR(o, [S.LinearLR(o), S.PolynomialLR(o, 9)], [5]),
    ],
)
def test_a_resumed_schedule_has_the_same_bits(make: Callable[[optim.Optimizer], Any]) -> None:
    whole = rates(make, 10)
    first, second = optimizer(1.0), optimizer(1.0)
    scheduler = make(first)
    for _ in range(4):
        scheduler.step()
    resumed = make(second)
    resumed.load_state_dict(scheduler.state_dict())
    found = []
    for _ in range(6):
        found.append(second.param_groups[0]["lr"])
        resumed.step()
    assert found == whole[4:]


def test_plateau_resumes() -> None:
    first = S.ReduceLROnPlateau(optimizer(1.0), patience=2)
    first.step(1.0)
    first.step(1.0)
    second = S.ReduceLROnPlateau(optimizer(1.0))
    second.load_state_dict(first.state_dict())
    assert (second.best, second.num_bad_epochs, second.patience) == (1.0, 1, 2)


def test_wrong_arguments_are_named() -> None:
    o = optimizer(1.0)
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: S.StepLR(o, 0), ValueError, "step_size=0"),
        (lambda: S.StepLR(1, 1), TypeError, "optimizer must be an Optimizer, not int"),
        (lambda: S.CosineAnnealingLR(o, 0), ValueError, "T_max=0"),
        (lambda: S.CosineAnnealingWarmRestarts(o, 0), ValueError, "T_0=0 must be an int"),
        (lambda: S.LinearLR(o, 0.0), ValueError, "start_factor=0.0"),
        (lambda: S.ConstantLR(o, total_iters=0), ValueError, "ConstantLR: total_iters=0"),
        (lambda: S.SequentialLR(o, [S.LinearLR(o)], [3]), ValueError, "second and later ones of 1 schedulers"),
        (lambda: S.SequentialLR(o, [S.ReduceLROnPlateau(o)], []), ValueError, "a ReduceLROnPlateau cannot be one"),
        (lambda: S.OneCycleLR(o, 1.0), ValueError, "give total_steps"),
        (lambda: S.OneCycleLR(o, 1.0, 10, pct_start=2), ValueError, "pct_start=2"),
        (lambda: S.OneCycleLR(o, 1.0, 10, anneal_strategy="wavy"), ValueError, "anneal_strategy='wavy'"),
        (lambda: S.ReduceLROnPlateau(o, factor=1.0), ValueError, "factor=1.0"),
        (lambda: S.ReduceLROnPlateau(o, mode="best"), ValueError, "mode='best'"),
        (lambda: S.ReduceLROnPlateau(o, threshold_mode="both"), ValueError, "threshold_mode='both'"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()

"""Averages of weights, their batch norms and their schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lucid
from lucid import nn, optim
from lucid.optim import swa_utils as S

VALUES = np.random.default_rng(0).standard_normal((5, 2, 3))


def averaged(dtype: Any = lucid.float64, **options: Any) -> tuple[S.AveragedModel, nn.Module]:
    """The average of five models."""
    model = nn.Linear(3, 2, bias=False, dtype=dtype)
    average = S.AveragedModel(model, **options)
    for value in VALUES:
        model.load_state_dict({"weight": value})
        average.update_parameters(model)
    return average, model


def ema(decay: float) -> np.ndarray:
    out = VALUES[0]
    for value in VALUES[1:]:
        out = decay * out + (1 - decay) * value
    return out


@pytest.mark.parametrize(("options", "want"), [
    ({}, VALUES.mean(0)),
    ({"avg_fn": S.get_swa_avg_fn()}, VALUES.mean(0)),
    ({"multi_avg_fn": S.get_swa_multi_avg_fn()}, VALUES.mean(0)),
    ({"avg_fn": S.get_ema_avg_fn(0.7)}, ema(0.7)),
    ({"multi_avg_fn": S.get_ema_multi_avg_fn(0.7)}, ema(0.7)),
    ({"multi_avg_fn": S.get_ema_multi_avg_fn(0.7), "use_buffers": True}, ema(0.7)),
    ({"avg_fn": lambda average, current, count: average + current * (count + 1)}, np.tensordot(range(1, 6), VALUES, 1)),
])  # fmt: skip
def test_averages(options: dict[str, Any], want: np.ndarray) -> None:
    average, model = averaged(**options)
    np.testing.assert_allclose(average.module.weight.tolist(), want, rtol=1e-14)
    assert average.n_averaged.item() == 5 and list(average.state_dict()) == ["n_averaged", "module.weight"]
    x = lucid.tensor(VALUES[0])
    np.testing.assert_allclose(average(x).detach().numpy(), VALUES[0] @ want.T, rtol=1e-13)
    assert model.weight.tolist() == VALUES[-1].tolist()
    assert average.module.weight.requires_grad and average.module.weight.is_leaf


@pytest.mark.parametrize("dtype", [lucid.float32, lucid.bfloat16, lucid.float16, lucid.complex64])
@pytest.mark.parametrize("make", [S.get_ema_multi_avg_fn, S.get_swa_multi_avg_fn])
def test_averages_of_every_dtype(dtype: Any, make: Any) -> None:
    average, current = lucid.tensor([1.0, -2.0], dtype=dtype), lucid.tensor([2.0, -4.0], dtype=dtype)
    version = average.version
    make(*[0.75] if make is S.get_ema_multi_avg_fn else [])([average], [current], lucid.tensor(3))
    assert average.dtype is dtype and average.tolist() == [1.25, -2.5] and average.version == version + 1


def test_models_of_several_dtypes_are_averaged_by_dtype() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1, dtype=lucid.float64), nn.Linear(1, 1))
    seen: list[Any] = []
    average = S.AveragedModel(model, multi_avg_fn=lambda a, c, n: seen.append(([x.dtype for x in a], len(c), int(n))))
    for _ in range(2):
        average.update_parameters(model)
    assert seen == [([lucid.float32] * 4, 4, 1), ([lucid.float64] * 2, 2, 1)]


def test_buffers_are_copied_or_averaged() -> None:
    model = nn.BatchNorm1d(1)
    copied, both = S.AveragedModel(model), S.AveragedModel(model, use_buffers=True)
    for mean, batches in ((1.0, 7), (3.0, 9), (8.0, 11)):
        model.load_state_dict({"running_mean": [mean], "num_batches_tracked": batches}, strict=False)
        copied.update_parameters(model)
        both.update_parameters(model)
    assert (copied.module.running_mean.item(), copied.module.num_batches_tracked.item()) == (8.0, 11)
    assert (both.module.running_mean.item(), both.module.num_batches_tracked.item()) == (4.0, 9)


def test_the_state_goes_on_where_it_was() -> None:
    average, model = averaged()
    other = S.AveragedModel(model)
    other.load_state_dict(average.state_dict())
    other.update_parameters(model)
    average.update_parameters(model)
    assert other.module.weight.tolist() == average.module.weight.tolist() and other.n_averaged.item() == 6


def test_a_write_by_an_average_is_noticed_by_graphs() -> None:
    average, model = averaged()
    x = lucid.ones(1, 3, dtype=lucid.float64, requires_grad=True)
    y = average(x).sum()
    average.update_parameters(model)
    with pytest.raises(lucid.GradientError, match="modified in place"):
        y.backward()


@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: (x, 1), lambda x: [x]])
def test_batch_norms_get_the_statistics_of_the_data(wrapped: Any) -> None:
    data = np.random.default_rng(1).standard_normal((3, 8, 2))
    model = nn.Sequential(nn.BatchNorm1d(2, dtype=lucid.float64), nn.BatchNorm1d(2, momentum=0.3, dtype=lucid.float64))
    model.eval()
    model[0].num_batches_tracked.fill_(5)
    S.update_bn((wrapped(lucid.tensor(batch)) for batch in data), model, "cpu")
    np.testing.assert_allclose(model[0].running_mean.numpy(), data.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(model[0].running_var.numpy(), data.var(1, ddof=1).mean(0), rtol=1e-12)
    assert [norm.momentum for norm in model] == [0.1, 0.3] and not model.training and not model[0].training
    assert model[1].num_batches_tracked.item() == 3
    S.update_bn(iter(int, 1), nn.Linear(1, 1))  # reads nothing


def test_the_schedule_begins_where_another_one_ends() -> None:
    optimizer = optim.SGD([{"params": [lucid.ones(1)], "lr": 1.0}, {"params": [lucid.ones(1)], "lr": 3.0}], lr=0.0)
    schedule = S.SWALR(optimizer, [0.5, 1.0], anneal_epochs=4, anneal_strategy="linear")
    assert schedule.get_last_lr() == [1.0, 3.0]
    optimizer.param_groups[1]["lr"] = 2.0
    found = []
    for _ in range(6):
        schedule.step()
        found.append(schedule.get_last_lr())
    assert found == [[0.875, 1.75], [0.75, 1.5], [0.625, 1.25], [0.5, 1.0], [0.5, 1.0], [0.5, 1.0]]
    assert S.SWALR(optimizer, 0.25, 0).get_last_lr() == [0.25, 0.25]


def test_a_resumed_schedule_has_the_same_bits() -> None:
    def made() -> S.SWALR:
        return S.SWALR(optim.SGD([lucid.ones(1)], lr=0.3), 0.1)

    whole, half, resumed = made(), made(), made()
    half.optimizer.param_groups[0]["lr"] = whole.optimizer.param_groups[0]["lr"] = 0.2
    for _ in range(4):
        whole.step()
        half.step()
    resumed.load_state_dict(half.state_dict())
    for _ in range(8):
        assert resumed.get_last_lr() == whole.get_last_lr()
        resumed.step()
        whole.step()


def test_wrong_arguments_are_named() -> None:
    model, o = nn.Linear(1, 1), optim.SGD([lucid.ones(1)], lr=1.0)
    one, many = S.get_ema_avg_fn(), S.get_ema_multi_avg_fn()
    for call, error, text in [
        (lambda: S.get_ema_avg_fn(1.5), ValueError, "get_ema_avg_fn: decay=1.5"),
        (lambda: S.get_ema_multi_avg_fn(-0.1), ValueError, "get_ema_multi_avg_fn: decay=-0.1"),
        (lambda: S.AveragedModel(model, avg_fn=one, multi_avg_fn=many), ValueError, "avg_fn or multi_avg_fn, not both"),
        (lambda: S.AveragedModel(nn.Linear), TypeError, "model must be an nn.Module, not type"),
        (lambda: S.AveragedModel(model, "cuda"), lucid.DeviceError, "'cuda'"),
        (lambda: S.SWALR(o, 0.1, 2.5), ValueError, "anneal_epochs=2.5"),
        (lambda: S.SWALR(o, 0.1, -1), ValueError, "anneal_epochs=-1"),
        (lambda: S.SWALR(o, [0.1, 0.2]), ValueError, "2 values of swa_lr for 1 groups"),
        (lambda: S.SWALR(o, 0.1, anneal_strategy="wavy"), ValueError, "anneal_strategy='wavy'"),
    ]:
        with pytest.raises(error, match=text):
            call()
    with pytest.raises(AttributeError, match=r"'lucid.optim' has no attribute 'swa'"):
        _ = optim.swa

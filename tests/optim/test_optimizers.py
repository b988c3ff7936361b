"""Optimizers against their published updates written out in float64, and everything around the arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lucid
from lucid import nn, optim

STEPS = 6
Maker = Callable[[Any], optim.Optimizer]


def gradients(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((STEPS, 3))


def run(make: Maker, start: np.ndarray, grads: np.ndarray) -> np.ndarray:
    p = lucid.tensor(start.copy(), requires_grad=True)
    optimizer = make([p])
    for g in grads:
        p.grad = lucid.tensor(g)
        optimizer.step()
    return p.detach().numpy()


def sgd(
    p: np.ndarray, grads: np.ndarray, lr: float, momentum: float, dampening: float, decay: float, nesterov: bool
) -> np.ndarray:
    buffer = None
    for grad in grads:
        g = grad + decay * p
        if momentum:
            buffer = g if buffer is None else momentum * buffer + (1 - dampening) * g
            g = g + momentum * buffer if nesterov else buffer
        p = p - lr * g
    return p


def adam(
    p: np.ndarray,
    grads: np.ndarray,
    lr: float,
    b1: float,
    b2: float,
    eps: float,
    decay: float,
    decoupled: bool,
    ams: bool,
) -> np.ndarray:
    m = v = top = np.zeros_like(p)
    for t, grad in enumerate(grads, 1):
        g = grad if decoupled else grad + decay * p
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        top = np.maximum(top, v)
        step = m / (1 - b1**t) / (np.sqrt((top if ams else v) / (1 - b2**t)) + eps)
        p = p - lr * step - (lr * decay * p if decoupled else 0)
    return p


def rmsprop(
    p: np.ndarray, grads: np.ndarray, lr: float, alpha: float, eps: float, momentum: float, centered: bool
) -> np.ndarray:
    v = mean = buffer = np.zeros_like(p)
    for g in grads:
        v, mean = alpha * v + (1 - alpha) * g**2, alpha * mean + (1 - alpha) * g
        step = g / (np.sqrt(v - mean**2 if centered else v) + eps)
        buffer = momentum * buffer + step
        p = p - lr * (buffer if momentum else step)
    return p


@pytest.mark.parametrize(("momentum", "dampening", "decay", "nesterov"), [
    (0.0, 0.0, 0.0, False), (0.9, 0.0, 0.0, False), (0.9, 0.3, 0.1, False), (0.9, 0.0, 0.1, True),
    (0.0, 0.0, 0.2, False),
])  # fmt: skip
def test_sgd(momentum: float, dampening: float, decay: float, nesterov: bool) -> None:
    start, grads = np.array([1.0, -2.0, 0.5]), gradients()
    found = run(lambda ps: optim.SGD(ps, 0.1, momentum, dampening, decay, nesterov), start, grads)
    np.testing.assert_allclose(found, sgd(start, grads, 0.1, momentum, dampening, decay, nesterov), rtol=1e-13)


@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam(kind: type[optim.Adam], amsgrad: bool, decay: float) -> None:
    start, grads = np.array([1.0, -2.0, 0.5]), gradients()
    found = run(lambda ps: kind(ps, 0.01, (0.8, 0.95), 1e-6, decay, amsgrad), start, grads)
    expected = adam(start, grads, 0.01, 0.8, 0.95, 1e-6, decay, kind is optim.AdamW, amsgrad)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop(momentum: float, centered: bool) -> None:
    start, grads = np.array([1.0, -2.0, 0.5]), gradients()
    found = run(lambda ps: optim.RMSprop(ps, 0.01, 0.9, 1e-6, 0.0, momentum, centered), start, grads)
    np.testing.assert_allclose(found, rmsprop(start, grads, 0.01, 0.9, 1e-6, momentum, centered), rtol=1e-12)


ALL: dict[str, Maker] = {
    "SGD": lambda ps: optim.SGD(ps, 0.1, momentum=0.9),
    "Adam": lambda ps: optim.Adam(ps, 0.1, amsgrad=True),
    "AdamW": lambda ps: optim.AdamW(ps, 0.1),
    "RMSprop": lambda ps: optim.RMSprop(ps, 0.1, momentum=0.9, centered=True),
}


@pytest.mark.parametrize("name", ALL)
def test_maximize_is_descent_on_the_negative(name: str) -> None:
    def up(ps: Any) -> optim.Optimizer:
        optimizer = ALL[name](ps)
        optimizer.param_groups[0]["maximize"] = True
        return optimizer

    start, grads = np.array([1.0, -2.0, 0.5]), gradients()
    np.testing.assert_array_equal(run(up, start, grads), run(ALL[name], start, -grads))


@pytest.mark.parametrize("name", ALL)
def test_a_run_from_its_state_has_the_same_bits(name: str) -> None:
    start, grads = np.array([1.0, -2.0, 0.5], np.float32), gradients().astype(np.float32)
    whole = run(ALL[name], start, grads)
    p = lucid.tensor(start.copy(), requires_grad=True)
    optimizer = ALL[name]([p])
    for i, g in enumerate(grads):
        if i == 3:
            kept = copy.deepcopy(optimizer.state_dict())
            p = lucid.tensor(p.detach().numpy().copy(), requires_grad=True)
            optimizer = ALL[name]([p])
            optimizer.load_state_dict(kept)
        p.grad = lucid.tensor(g)
        optimizer.step()
    np.testing.assert_array_equal(p.detach().numpy(), whole)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_strided_parameters_take_the_same_steps(name: str, dtype: type) -> None:
    """What no kernel takes goes through NumPy, with the same bits."""
    start, grads = (
        np.linspace(-1, 1, 40, dtype=dtype),
        np.random.default_rng(0).standard_normal((STEPS, 40)).astype(dtype),
    )
    p = lucid.Tensor(np.repeat(start, 2)[::2], requires_grad=True)
    assert not p.is_contiguous()
    optimizer = ALL[name]([p])
    for g in grads:
        p.grad = lucid.tensor(g)
        optimizer.step()
    np.testing.assert_array_equal(p.detach().numpy(), run(ALL[name], start, grads))


@pytest.mark.parametrize("name", ALL)
def test_half_precision_stays_itself(name: str) -> None:
    p = lucid.ones(3).to("bfloat16").requires_grad_()
    optimizer = ALL[name]([p])
    p.grad = lucid.ones(3).to("bfloat16")
    optimizer.step()
    assert p.dtype == lucid.bfloat16 and all(value < 1 for value in p.tolist())


@pytest.mark.parametrize("name", ALL)
def test_a_loaded_state_is_a_copy(name: str) -> None:
    p, q = (lucid.ones(3, requires_grad=True) for _ in range(2))
    first, second = ALL[name]([p]), ALL[name]([q])
    p.grad = q.grad = lucid.ones(3)
    first.step()
    second.load_state_dict(first.state_dict())
    before = copy.deepcopy(first.state_dict()["state"])
    second.step()
    for key, value in first.state_dict()["state"][0].items():
        assert lucid.equal(value, before[0][key]) if isinstance(value, lucid.Tensor) else value == before[0][key]


@pytest.mark.parametrize("name", ALL)
def test_every_step_counts_as_a_write(name: str) -> None:
    p = lucid.ones(3, requires_grad=True)
    y = (p * p).sum()
    p.grad = lucid.ones(3)
    ALL[name]([p]).step()
    with pytest.raises(lucid.GradientError, match="modified in place"):
        y.backward()


@pytest.mark.parametrize("name", ALL)
def test_complex_parameters_are_two_real_ones(name: str) -> None:
    rng = np.random.default_rng(0)
    start = rng.standard_normal(3) + 1j * rng.standard_normal(3)
    grads = rng.standard_normal((STEPS, 3)) + 1j * rng.standard_normal((STEPS, 3))
    parts = run(ALL[name], np.stack([start.real, start.imag], -1), np.stack([grads.real, grads.imag], -1))
    np.testing.assert_array_equal(run(ALL[name], start, grads), parts[:, 0] + 1j * parts[:, 1])


def test_parameters_without_a_gradient_are_left_alone() -> None:
    p, q = lucid.ones(2, requires_grad=True), lucid.ones(2, requires_grad=True)
    optimizer = optim.AdamW([p, q], 0.1)
    p.grad = lucid.ones(2)
    optimizer.step()
    assert q.tolist() == [1, 1] and q not in optimizer.state
    optimizer.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0, 0] and q.grad is None
    optimizer.zero_grad()
    assert p.grad is None


def test_groups_have_options_of_their_own() -> None:
    p, q, r = (lucid.ones(1, requires_grad=True) for _ in range(3))
    optimizer = optim.SGD([{"params": [p], "lr": 0.5}, {"params": q}], lr=0.1)
    optimizer.add_param_group({"params": [r], "lr": 2.0})
    for x in (p, q, r):
        x.grad = lucid.ones(1)
    optimizer.step()
    assert [round(x.item(), 6) for x in (p, q, r)] == [0.5, 0.9, -1.0]
    state = optimizer.state_dict()
    assert [group["params"] for group in state["param_groups"]] == [[0], [1], [2]]
    assert repr(optimizer).startswith("SGD (\nParameter Group 0\n    dampening: 0.0\n    lr: 0.5")


def test_the_closure_computes_with_gradients() -> None:
    p = lucid.ones(1, requires_grad=True)
    optimizer = optim.SGD([p], lr=0.25)

    def closure() -> lucid.Tensor:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with lucid.no_grad():
        assert optimizer.step(closure).item() == 1
    assert p.item() == 0.5


def test_wrong_arguments_are_named() -> None:
    p = lucid.ones(1, requires_grad=True)
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: optim.SGD([]), ValueError, "SGD: params is empty"),
        (lambda: optim.SGD(iter([])), ValueError, "SGD: params is empty"),
        (lambda: optim.SGD([]), ValueError, "not those in a plain list"),
        (lambda: optim.SGD(p), TypeError, "not one Tensor"),
        (
            lambda: optim.SGD(nn.Conv1d(1, 1, 1)),
            TypeError,
            r"SGD: params must be .*; pass \.parameters\(\)",
        ),
        (lambda: optim.SGD([1.0]), TypeError, "params must be tensors, not float"),
        (lambda: optim.SGD([p, p]), ValueError, "appears twice"),
        (lambda: optim.SGD([p * 2]), lucid.GradientError, "only leaves"),
        (lambda: optim.SGD([p], lr=-1), ValueError, "SGD: lr=-1 must be at least 0"),
        (lambda: optim.SGD([p], lr=float("nan")), ValueError, "lr=nan"),
        (lambda: optim.SGD([p], nesterov=True), ValueError, "nesterov=True needs a momentum"),
        (lambda: optim.AdamW([p], betas=(0.9, 1.0)), ValueError, r"AdamW: betas=\(0\.9, 1\.0\)"),
        (lambda: optim.Adam([p]).add_param_group({"params": [p]}), ValueError, "appears twice"),
        (lambda: optim.Adam([{"params": [p], "eps": -1}]), ValueError, "Adam: eps=-1"),
        (lambda: optim.RMSprop([p], alpha=-0.1), ValueError, "RMSprop: alpha=-0.1"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    p, q = lucid.ones(2, requires_grad=True), lucid.ones(3, requires_grad=True)
    optimizer, other = optim.Adam([p], lr=0.1), optim.Adam([q], lr=0.5)
    q.grad = lucid.ones(3)
    other.step()
    with pytest.raises(
        ValueError, match=r"Adam: state 'exp_avg' \(3,\) belongs to another parameter than one of \(2,\)"
    ):
        optimizer.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match=r"groups of \[2\] parameters, the optimizer of \[1\]"):
        optimizer.load_state_dict(optim.Adam([p, q]).state_dict())
    with pytest.raises(ValueError, match=r"Adam: the state of another optimizer: it has no .*betas, eps"):
        optimizer.load_state_dict(optim.SGD([p], lr=0.3).state_dict())
    with pytest.raises(ValueError, match="keys 'state' and 'param_groups', not 'weight'"):
        optimizer.load_state_dict({"weight": p})
    assert optimizer.param_groups[0]["lr"] == 0.1 and not optimizer.state


def test_a_small_network_learns() -> None:
    lucid.manual_seed(0)
    x = lucid.randn(64, 2)
    y = (x[:, 0] * x[:, 1] > 0).to("int64")
    network = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    optimizer = optim.Adam(network.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize("made", [lucid.optim.SGD, lucid.optim.Adam, lucid.optim.AdamW, lucid.optim.RMSprop])
def test_ways_to_step_choose_nothing_and_steps_are_not_recorded(made: Any) -> None:
    def stepped(**options: Any) -> list[float]:
        w = lucid.tensor([1.0, -2.0], requires_grad=True)
        optimizer = made([w], lr=0.1, **options)
        (w * w).sum().backward()
        optimizer.step()
        return w.tolist()  # type: ignore[no-any-return]

    assert stepped() == stepped(foreach=True) == stepped(foreach=False)
    with pytest.raises(ValueError, match=f"{made.__name__}: differentiable=True is not there"):
        stepped(differentiable=True)

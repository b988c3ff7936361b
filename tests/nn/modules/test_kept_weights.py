"""A layer in inference computes with its weights as they are now, however they came to be so."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import lucid
from lucid import nn, optim
from lucid.kernels import algorithm, kept
from lucid.nn import functional as F
from lucid.nn import init

pytestmark = pytest.mark.usefixtures("gemm")


@pytest.fixture
def gemm() -> Iterator[None]:
    """An algorithm that keeps; nothing kept before."""
    limit = kept.stats().limit_bytes
    kept.set_limit(0)
    kept.set_limit(limit)
    with algorithm("gemm"):
        yield


def layer() -> nn.Conv1d:
    lucid.manual_seed(0)
    return nn.Conv1d(16, 32, 3)


X = np.random.default_rng(0).standard_normal((2, 16, 50), np.float32)


def infer(conv: nn.Module, times: int = 1) -> np.ndarray[Any, Any]:
    with lucid.inference_mode():
        for _ in range(times):
            y = conv(lucid.tensor(X))
    return y.numpy()  # type: ignore[no-any-return]


def expected(conv: nn.Conv1d) -> np.ndarray[Any, Any]:
    """From copies that nobody has met before."""
    w, bias = (lucid.tensor(p.tolist()) for p in conv.parameters())
    return F.conv1d(lucid.tensor(X), w, bias).numpy()  # type: ignore[no-any-return]


def under_no_grad(change: Callable[[nn.Conv1d], Any]) -> Callable[[nn.Conv1d], Any]:
    def changed(conv: nn.Conv1d) -> None:
        with lucid.no_grad():
            change(conv)

    return changed


def through_a_slice(conv: nn.Conv1d) -> None:
    conv.weight[3:5].mul_(2)


def by_an_optimizer(conv: nn.Conv1d) -> None:
    conv.weight.grad, conv.bias.grad = lucid.ones_like(conv.weight), lucid.ones_like(conv.bias)
    optim.SGD(conv.parameters(), lr=0.5).step()


def through_a_view_of_numpy(conv: nn.Conv1d) -> None:
    conv.weight.detach().numpy()[2:4] = 1


def through_numpy_held_for_long(conv: nn.Conv1d) -> None:
    array = conv.weight.detach().numpy()
    for n in range(3):
        array[...] = n
        assert (infer(conv, 2) == expected(conv)).all()


def through_numpy_after_it_was_kept_again(conv: nn.Conv1d) -> None:
    array = conv.weight.detach().numpy()
    infer(conv, 3)
    array += 1
    del array


def through_the_bias(conv: nn.Conv1d) -> None:
    conv.bias.detach().numpy()[...] = 7


def through_asarray(conv: nn.Conv1d) -> None:
    np.asarray(conv.weight.detach())[...] *= 2


def through_dlpack(conv: nn.Conv1d) -> None:
    np.from_dlpack(conv.weight.detach())
    lucid.from_dlpack(conv.weight.detach()).mul_(3)


def through_pickled_buffers(conv: nn.Conv1d) -> None:
    buffers: list[pickle.PickleBuffer] = []
    pickle.dumps(conv.weight, protocol=5, buffer_callback=buffers.append)
    for buffer in buffers:
        np.frombuffer(buffer.raw(), np.float32)[...] += 1


def through_its_address(conv: nn.Conv1d) -> None:
    import ctypes

    place = conv.weight.data_ptr()
    infer(conv, 3)
    ctypes.c_float.from_address(place).value = 100


def through_another_tensor(conv: nn.Conv1d) -> None:
    other = lucid.zeros(32, 16, 3)
    other.data = conv.weight
    infer(conv, 2)
    other.mul_(2)


def through_a_short_lived_tensor(conv: nn.Conv1d) -> None:
    other = lucid.zeros(32, 16, 3)
    other.data = conv.weight
    other.mul_(2)


def new_data(conv: nn.Conv1d) -> None:
    conv.weight.data = lucid.ones(32, 16, 3)


def new_data_of_numpy(conv: nn.Conv1d) -> None:
    array = np.ones((32, 16, 3), np.float32)
    conv.weight.data = lucid.from_numpy(array)
    infer(conv, 3)
    array[...] = 5


def a_new_parameter(conv: nn.Conv1d) -> None:
    conv.weight = nn.Parameter(lucid.ones(32, 16, 3))


def from_numpy(conv: nn.Conv1d) -> None:
    array = np.ones((32, 16, 3), np.float32)
    conv.weight = nn.Parameter(lucid.from_numpy(array))
    infer(conv, 3)
    array[...] = 5


def from_a_slice_of_numpy(conv: nn.Conv1d) -> None:
    array = np.ones((64, 16, 3), np.float32)
    conv.weight = nn.Parameter(lucid.from_numpy(array[:32]))
    infer(conv, 3)
    array[...] = 5


def there_and_back(conv: nn.Conv1d) -> None:
    conv.double()
    conv.float()
    conv.weight.data = conv.weight.data * 2


CHANGES: list[Callable[[nn.Conv1d], Any]] = [
    under_no_grad(lambda conv: conv.weight.add_(1)),
    under_no_grad(lambda conv: conv.weight.copy_(conv.weight * 2)),
    under_no_grad(lambda conv: conv.bias.fill_(3)),
    under_no_grad(through_a_slice),
    under_no_grad(lambda conv: conv.weight.__setitem__((0, 0), 9.0)),
    lambda conv: init.normal_(conv.weight),
    lambda conv: conv.reset_parameters(),
    lambda conv: conv.load_state_dict({n: t * 2 for n, t in conv.state_dict().items()}),
    lambda conv: conv.state_dict()["weight"].zero_(),
    lambda conv: nn.utils.vector_to_parameters(lucid.arange(32 * 16 * 3 + 32).float(), conv.parameters()),
    lambda conv: copy.copy(conv.weight.detach()).mul_(5),
    by_an_optimizer,
    through_a_view_of_numpy,
    through_numpy_held_for_long,
    through_numpy_after_it_was_kept_again,
    through_the_bias,
    through_asarray,
    through_dlpack,
    through_pickled_buffers,
    through_its_address,
    through_another_tensor,
    through_a_short_lived_tensor,
    new_data,
    new_data_of_numpy,
    a_new_parameter,
    from_numpy,
    from_a_slice_of_numpy,
    there_and_back,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: Callable[[nn.Conv1d], Any]) -> None:
    conv = layer()
    before = infer(conv, 3)
    assert kept.stats().forms == 1
    change(conv)
    assert (infer(conv) == expected(conv)).all()
    assert (infer(conv, 3) == expected(conv)).all()
    assert (infer(conv) != before).any()


def test_a_layer_keeps_its_weights_in_inference() -> None:
    conv = layer()
    infer(conv, 2)
    assert kept.stats().forms == 1
    del conv
    assert kept.stats().forms == 0


def test_training_keeps_nothing() -> None:
    conv = layer()
    for _ in range(3):
        conv(lucid.tensor(X))
    assert kept.stats().weights == 0


def test_a_copy_has_weights_of_its_own() -> None:
    conv = layer()
    infer(conv, 3)
    other = copy.deepcopy(conv)
    with lucid.no_grad():
        other.weight.mul_(2)
    assert (infer(other, 3) == expected(other)).all()
    assert (infer(conv, 3) == expected(conv)).all()


def test_shared_weights_are_kept_once() -> None:
    first, second = layer(), layer()
    second.weight, second.bias = first.weight, first.bias
    for conv in (first, second, first, second):
        infer(conv)
    assert kept.stats().forms == 1


def test_transposed_layers_keep_theirs_too() -> None:
    lucid.manual_seed(0)
    conv = nn.ConvTranspose1d(16, 32, 4, stride=2)
    with algorithm("phase_split"):
        before = infer(conv, 3)
        assert kept.stats().forms == 1
        with lucid.no_grad():
            conv.weight.mul_(-1)
            conv.bias.mul_(-1)
        assert (infer(conv, 3) == -before).all()


@pytest.mark.parametrize("transposed", [False, True])
def test_fused_convolutions_keep_theirs_and_see_changes(transposed: bool) -> None:
    lucid.manual_seed(0)
    name, shape = ("conv_transpose1d", (16, 32, 4)) if transposed else ("conv1d", (32, 16, 3))
    fused, plain = getattr(F, f"fused_{name}"), getattr(F, name)
    w, bias, scale, shift = lucid.randn(*shape), lucid.randn(32), lucid.randn(32), lucid.randn(32)
    x = lucid.tensor(X)
    with algorithm("phase_split" if transposed else "gemm"), lucid.no_grad():
        for step in range(3):
            w.mul_(1 + step)
            for _ in range(3):
                y = fused(x, w, bias, scale=scale, shift=shift, activation="relu")
                scale.add_(1)  # no part of what is kept
            fresh = [lucid.tensor(t.tolist()) for t in (w, bias, scale - 1, shift)]
            wanted = plain(x, *fresh[:2]) * fresh[2].reshape(-1, 1) + fresh[3].reshape(-1, 1)
            assert kept.stats().forms == 1
            np.testing.assert_allclose(y.numpy(), np.maximum(wanted.numpy(), 0), rtol=1e-4, atol=1e-4)

"""Mixed precision by context: which types meet where, and that nothing of it is left behind."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import lucid
import lucid.nn.functional as F
from lucid import nn


def net() -> nn.Sequential:
    lucid.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.PReLU(),
        nn.ConvTranspose2d(8, 4, 2, 2), nn.GroupNorm(2, 4), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 5),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [lucid.bfloat16, lucid.float16])
def test_products_are_low_and_what_rounding_hurts_is_float32(dtype: lucid.DType) -> None:
    x, w = lucid.randn(2, 4, 8), lucid.randn(6, 4, 3)
    with lucid.autocast(dtype=dtype):
        y = F.conv1d(x, w)
        low = [y, F.linear(x, lucid.randn(3, 8)), x @ x.transpose(1, 2), lucid.bmm(x, x.transpose(1, 2)),
               F.conv_transpose1d(x, w[:4]), lucid.addmm(y[0, :, :2], y[0, :, :2], lucid.eye(2)), F.relu(y), y + y,
               F.fused_conv1d(x, w, scale=lucid.ones(6), shift=lucid.zeros(6), activation="relu"),
               F.prelu(y, lucid.ones(1))]  # fmt: skip
        wide = [F.batch_norm(y, None, None, lucid.ones(6), training=True), F.layer_norm(y, (6,)), F.group_norm(y, 2),
                F.instance_norm(y), F.softmax(y, 1), F.log_softmax(y, 1), F.mse_loss(y, y), y + x[0, 0, 0],
                F.cross_entropy(y, lucid.zeros(2, 6).long()), F.l1_loss(y, lucid.zeros(2, 6, 6)),
                F.binary_cross_entropy_with_logits(y, y)]  # fmt: skip
    assert [t.dtype for t in low] == [dtype] * len(low)
    assert [t.dtype for t in wide][:7] == [lucid.float32] * 7 and wide[8].dtype is lucid.float32
    assert (x @ x.transpose(1, 2)).dtype is lucid.float32


def test_a_step_of_training_is_near_that_of_float32() -> None:
    x, classes = lucid.randn(8, 3, 8, 8), lucid.randint(0, 5, (8,))
    gradients = []
    for enabled in (False, True):
        model = net()
        with lucid.autocast("cpu", dtype=lucid.bfloat16, enabled=enabled):
            scores = model(x)
            loss = F.cross_entropy(scores, classes)
        assert scores.dtype is (lucid.bfloat16 if enabled else lucid.float32) and loss.dtype is lucid.float32
        loss.backward()
        assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {lucid.float32}
        assert {b.dtype for n, b in model.named_buffers() if "running" in n} == {lucid.float32}
        gradients.append(np.concatenate([p.grad.numpy().ravel() for p in model.parameters()]))
    exact, rounded = gradients
    cosine = exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded)
    assert cosine > 0.99 and not np.array_equal(exact, rounded)


def test_inference_and_evaluation() -> None:
    model, x = net().eval(), lucid.randn(2, 3, 8, 8)
    with lucid.no_grad():
        exact = model(x)
        with lucid.autocast():
            rounded = model(x)
    assert rounded.dtype is lucid.bfloat16
    np.testing.assert_allclose(rounded.float().numpy(), exact.numpy(), rtol=0.05, atol=0.05)


def test_contexts_nest_decorate_and_end() -> None:
    x = lucid.randn(2, 2)

    @lucid.autocast(dtype=lucid.float16)
    def squared() -> lucid.Tensor:
        return x @ x

    with lucid.autocast():
        assert lucid.is_autocast_enabled() and (x @ x).dtype is lucid.bfloat16
        assert squared().dtype is lucid.float16 and (x @ x).dtype is lucid.bfloat16
        with lucid.autocast(enabled=False):
            assert not lucid.is_autocast_enabled() and (x @ x).dtype is lucid.float32
        found: list[bool] = []
        other = threading.Thread(target=lambda: found.append(lucid.is_autocast_enabled()))
        other.start()
        other.join()
        assert found == [False]
    with pytest.raises(ZeroDivisionError), lucid.autocast():
        raise ZeroDivisionError
    assert not lucid.is_autocast_enabled() and (x @ x).dtype is lucid.float32


def test_a_parameter_is_cast_once_a_context_and_again_when_it_changes() -> None:
    layer, x = nn.Linear(2, 2, bias=False), lucid.eye(2)
    with lucid.autocast():
        for record in (True, False):
            with lucid.set_grad_enabled(record):
                first = layer(x)
                assert first.requires_grad is record
                with lucid.no_grad():
                    layer.weight.mul_(2)
                np.testing.assert_array_equal(layer(x).detach().float().numpy(), 2 * first.detach().float().numpy())
        layer(x).sum().backward()
        first_gradient = layer.weight.grad.clone()
        layer(x).sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy(), 2 * first_gradient.numpy())


def test_double_precision_is_left_alone_and_other_types_are_refused() -> None:
    x = lucid.eye(2, dtype=lucid.float64)
    with lucid.autocast():
        assert (x @ x).dtype is lucid.float64
    with pytest.raises(lucid.DTypeError, match=r"autocast: dtype=lucid.int8 must be lucid.bfloat16 or lucid.float16"):
        lucid.autocast(dtype="int8")
    with pytest.raises(lucid.DeviceError):
        lucid.autocast("cuda")

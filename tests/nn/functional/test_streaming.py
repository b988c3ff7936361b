"""Streams in chunks: joined outputs are those of the joined chunks, for any cuts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lucid
from lucid import nn
from lucid.autograd import check_grads

CUTS = [(40,), (1,) * 40, (0, 3, 7, 0, 30), (25, 15), (2, 1, 37)]

LAYERS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": "causal"},
    {"kernel_size": 3, "padding": "causal", "stride": 2},
    {"kernel_size": 4, "padding": "causal", "stride": 4, "bias": False},
    {"kernel_size": 3, "padding": "causal", "stride": 3, "dilation": 4},
    {"kernel_size": 5, "padding": "causal", "dilation": 3, "groups": 2},
    {"kernel_size": 1, "padding": "causal"},
]


def chunks(x: lucid.Tensor, cuts: tuple[int, ...]) -> Iterator[lucid.Tensor]:
    begin = 0
    for length in cuts:
        yield x[..., begin : begin + length]
        begin += length


def streamed(layer: Any, x: lucid.Tensor, cuts: tuple[int, ...]) -> lucid.Tensor:
    carry = layer.initial_state(x.shape[0] if x.ndim == 3 else None)
    outputs = []
    for chunk in chunks(x, cuts):
        y, carry = layer.step(chunk, carry)
        outputs.append(y)
    return lucid.cat(outputs, -1)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
@pytest.mark.parametrize("options", LAYERS)
@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("batch", [(), (3,)])
def test_chunks_make_the_whole(
    kind: Any, options: dict[str, Any], cuts: tuple[int, ...], batch: tuple[int, ...]
) -> None:
    lucid.manual_seed(0)
    layer = kind(4, 6, **options, dtype="float64")
    x = lucid.randn(*batch, 4, 40, dtype="float64")
    whole, parts = layer(x), streamed(layer, x, cuts)
    assert whole.shape == parts.shape
    np.testing.assert_allclose(parts.detach().numpy(), whole.detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", [0, "valid", ((2, 0),)])
def test_other_padding_on_the_left(padding: Any) -> None:
    layer = nn.Conv1d(2, 3, 4, padding=padding, stride=2)
    x = lucid.randn(1, 2, 40)
    for cuts in CUTS:
        whole = layer(x).detach().numpy()
        np.testing.assert_allclose(streamed(layer, x, cuts).detach().numpy(), whole, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
def test_gradients_go_back_through_the_carry(kind: Any) -> None:
    layer = kind(2, 3, 3, padding="causal", stride=2, dtype="float64")
    check_grads(lambda x: streamed(layer, x, (3, 1, 4)), lucid.randn(2, 2, 8, dtype="float64", requires_grad=True))


def test_what_cannot_be_streamed_is_told() -> None:
    carry = nn.Conv1d(2, 3, 3, padding="causal").initial_state(1)
    cases: list[tuple[Any, type[Exception], str]] = [
        (
            lambda: nn.Conv1d(1, 1, 3, padding=1).initial_state(),
            lucid.ShapeError,
            r"Conv1d: .* padding=\(1,\) .* 'causal'",
        ),
        (
            lambda: nn.Conv1d(1, 1, 3, padding="same").initial_state(),
            lucid.ShapeError,
            "no end to pad, so padding='same'",
        ),
        (
            lambda: nn.Conv1d(1, 1, 3, padding="causal", padding_mode="reflect").initial_state(),
            lucid.ShapeError,
            "with 'reflect' must be",
        ),
        (lambda: nn.Conv1d(1, 1, 3, stride=4).initial_state(), lucid.ShapeError, "a stride of at most .* = 3, not 4"),
        (lambda: nn.ConvTranspose1d(1, 1, 3).initial_state(), lucid.ShapeError, "ConvTranspose1d: .* padding='causal'"),
        (
            lambda: nn.ConvTranspose1d(1, 1, 3, 4, "causal").initial_state(),
            lucid.ShapeError,
            "stride of at most 3, not .* stride=4",
        ),
        (
            lambda: nn.Conv1d(2, 3, 3, padding="causal").step(np.zeros((1, 2, 4)), carry),
            TypeError,
            "the chunk must be a T",
        ),
        (
            lambda: nn.Conv1d(2, 3, 3, padding="causal").step(lucid.zeros(2, 2, 4), carry),
            lucid.ShapeError,
            r"Conv1d: the chunk \(2, 2, 4\) and the carry \(1, 2, 2\) must have the same batch",
        ),
        (
            lambda: nn.Conv1d(4, 3, 3, padding="causal").step(lucid.zeros(1, 4, 4), carry),
            lucid.ShapeError,
            "4 and 4 channels, the carry from initial_state",
        ),
        (
            lambda: nn.Conv1d(2, 3, 3, padding="causal").step(lucid.zeros(1, 3, 4), carry),
            lucid.ShapeError,
            r"the chunk \(1, 3, 4\) .* 2 and 2 channels",
        ),
        (lambda: nn.Conv1d(1, 1, 1).initial_state(-1), lucid.ShapeError, "Conv1d: batch=-1 must be at least 0"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()

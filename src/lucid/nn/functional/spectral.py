"""Short-time Fourier transforms: a convolution with windowed sines and cosines, and its inverse."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from lucid.core.errors import DTypeError, ShapeError
from lucid.nn.functional.convolution import conv1d, conv_transpose1d
from lucid.nn.functional.padding import pad
from lucid.ops.checked import check_tensor
from lucid.ops.common import cast
from lucid.ops.composed import view_as_complex, view_as_real
from lucid.ops.shape import cat, stack
from lucid.tensor import Tensor


def stft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
) -> Tensor:
    """The spectrum of every frame of ``n_fft`` samples, one every ``hop_length`` (a quarter by default).

    Each frame is multiplied by the ``window``, which stands in its middle. With ``center`` frame t is around sample
    t · hop_length, and the signal is continued over its ends. ``normalized`` divides by √n_fft. The result is complex;
    of real and imaginary parts along a last axis with ``return_complex=False``.

    Shape:
        input (L,) or (N, L), result (n_fft // 2 + 1, frames) or (N, …); frames = floor(L / hop_length) + 1 with
        ``center``, else floor((L - n_fft) / hop_length) + 1.

    Cost:
        A convolution of n_fft + 2 filters of n_fft taps.

    >>> stft(Tensor([1.0, 0.0, 0.0, 0.0]), 4, center=False, window=Tensor([1.0] * 4), return_complex=False).shape
    (3, 1, 2)
    """
    check_tensor("stft", "input", input)
    if input.ndim not in (1, 2):
        raise ShapeError(f"stft: the input {input.shape} must be (L,) or (N, L)")
    if not input.dtype.is_floating_point:
        raise DTypeError(f"stft: the input is {input.dtype.name}, but must be floating-point")
    if return_complex is None:
        raise ValueError("stft: return_complex must be given: True, or False for two parts along a last axis")
    hop, frame = _frame("stft", n_fft, hop_length, win_length, window, input)
    x = input.reshape(1, 1, -1) if input.ndim == 1 else input.unsqueeze(1)
    if center:
        x = pad(x, (n_fft // 2, n_fft // 2), mode=pad_mode)
    if x.shape[-1] < n_fft:
        raise ShapeError(f"stft: n_fft={n_fft} does not fit the {x.shape[-1]} samples of the input {input.shape}")
    basis = _basis(n_fft, onesided is not False, input.dtype.numpy)
    waves = Tensor(basis) * (frame / n_fft**0.5 if normalized else frame)
    parts = conv1d(x, waves, stride=hop)
    halves = stack(parts.chunk(2, 1), -1)
    halves = halves.squeeze(0) if input.ndim == 1 else halves
    return view_as_complex(halves) if return_complex else halves


def istft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    """The signal of these spectra, which lies nearest to them: frames, windowed again, added, over the windows squared.

    Shape:
        input (n_fft // 2 + 1, frames) or (N, …) of complex numbers, result (L,) or (N, L); ``length`` cuts or fills.
    """
    check_tensor("istft", "input", input)
    if not input.is_complex() or input.ndim not in (2, 3):
        raise DTypeError(f"istft: the input must be complex of (N, bins, frames), not {input.dtype.name} {input.shape}")
    if return_complex or onesided is False:
        raise ValueError("istft: only real signals are made, of the lower half of their spectra")
    if input.shape[-2] != n_fft // 2 + 1:
        raise ShapeError(f"istft: the input {input.shape} must have {n_fft // 2 + 1} bins for n_fft={n_fft}")
    halves = view_as_real(input if input.ndim == 3 else input.unsqueeze(0))
    hop, frame = _frame("istft", n_fft, hop_length, win_length, window, halves)
    parts = cat([halves[..., 0], halves[..., 1]], 1)
    scale = _weights(n_fft, halves.dtype.numpy) * (n_fft**0.5 if normalized else 1)
    waves = Tensor(_basis(n_fft, True, halves.dtype.numpy) * scale) * frame
    x = conv_transpose1d(parts, waves, stride=hop)
    ones = Tensor(np.ones((1, 1, parts.shape[-1]), halves.dtype.numpy))
    envelope = conv_transpose1d(ones, (frame * frame).reshape(1, 1, -1), stride=hop)
    begin = n_fft // 2 if center else 0
    end = x.shape[-1] - begin if length is None else min(x.shape[-1], begin + length)
    x, envelope = x[:, 0, begin:end], envelope[:, 0, begin:end]
    if float(envelope.detach().min()) < 1e-11:
        raise ValueError("istft: the windows leave samples out: their squares must add up to more than 0 everywhere")
    signal: Tensor = x / envelope
    if length is not None and signal.shape[-1] < length:
        signal = pad(signal, (0, length - signal.shape[-1]))
    return signal if input.ndim == 3 else signal.squeeze(0)


def _frame(
    caller: str, n_fft: int, hop_length: int | None, win_length: int | None, window: Tensor | None, like: Tensor
) -> tuple[int, Tensor]:
    """Samples from one frame to the next, and the window of one."""
    hop, length = hop_length or n_fft // 4, win_length or n_fft
    if not (hop >= 1 and 1 <= length <= n_fft):
        raise ValueError(f"{caller}: hop_length={hop} must be at least 1, win_length={length} in 1 … n_fft={n_fft}")
    shape = Tensor(np.ones(length, like.dtype.numpy)) if window is None else cast(window, like.dtype)
    if shape.shape != (length,):
        raise ShapeError(f"{caller}: the window {shape.shape} must be ({length},)")
    before = (n_fft - length) // 2
    return hop, pad(shape, (before, n_fft - length - before))


@lru_cache(maxsize=16)
def _basis(n_fft: int, onesided: bool, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """cos(2πkn/N) for every bin k, then -sin: (2 · bins, 1, n_fft)."""
    bins = np.arange(n_fft // 2 + 1 if onesided else n_fft)
    angle = 2 * np.pi / n_fft * (bins[:, None] * np.arange(n_fft) % n_fft)
    basis: np.ndarray[Any, Any] = np.concatenate([np.cos(angle), -np.sin(angle)])[:, None].astype(dtype)
    return basis


def _weights(n_fft: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """How often each bin counts in the inverse: those of the upper half, which are left out, by their twins."""
    weights = np.full(n_fft // 2 + 1, 2 / n_fft)
    weights[0] = 1 / n_fft
    if n_fft % 2 == 0:
        weights[-1] = 1 / n_fft
    return np.tile(weights, 2)[:, None, None].astype(dtype)

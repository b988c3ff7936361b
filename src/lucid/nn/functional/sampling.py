"""Images looked up at any place: grids of places, samples between pixels, pixels put back where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import numpy as np

from lucid.core.errors import ShapeError
from lucid.nn.functional._arguments import SizeArgument, sizes
from lucid.ops import elementwise
from lucid.ops.checked import check_tensor
from lucid.ops.linalg import matmul
from lucid.tensor import Tensor

_MODES = ("bilinear", "nearest")
_BORDERS = ("zeros", "border", "reflection")


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """Where each pixel of the output lies in the input, by an affine map; for ``grid_sample``.

    Places are (x, y) or (x, y, z) from -1 to 1: the outer edges of the image, or with ``align_corners`` the middles of
    its outer pixels.

    Shape:
        theta (N, 2, 3) with size (N, C, H, W), or (N, 3, 4) with (N, C, D, H, W); result (N, H, W, 2) or (N, …, 3).

    Source: Jaderberg et al., arXiv:1506.02025.
    """
    check_tensor("affine_grid", "theta", theta)
    spatial = tuple(size)[2:]
    rank = len(spatial)
    if rank not in (2, 3) or theta.shape != (size[0], rank, rank + 1):
        raise ShapeError(f"affine_grid: theta {theta.shape} must be (N, 2, 3) or (N, 3, 4) for the size {tuple(size)}")
    axes = [_places(n, bool(align_corners)) for n in spatial]
    mesh = np.meshgrid(*axes, indexing="ij")[::-1]  # x is the last axis
    points = np.stack([*mesh, np.ones(spatial)], -1).reshape(1, -1, rank + 1).astype(theta.dtype.numpy)
    result: Tensor = matmul(Tensor(points), theta.transpose(1, 2)).reshape(size[0], *spatial, rank)
    return result


def _places(n: int, align_corners: bool) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.linspace(-1, 1, n) if align_corners and n > 1 else (2 * np.arange(n) + 1) / n - 1


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """The input at the places of a grid, between pixels by straight lines ("bilinear") or at the next one ("nearest").

    Beyond its edges the input is 0 ("zeros"), as at the edge ("border") or mirrored ("reflection").

    Shape:
        input (N, C, H, W) with grid (N, H', W', 2), or (N, C, D, H, W) with (N, D', H', W', 3); result (N, C, H', W').
    """
    check_tensor("grid_sample", "input", input)
    check_tensor("grid_sample", "grid", grid)
    if mode not in _MODES or padding_mode not in _BORDERS:
        raise ValueError(
            f"grid_sample: mode={mode!r} must be one of {_MODES}, padding_mode={padding_mode!r} {_BORDERS}"
        )
    rank = input.ndim - 2
    if rank not in (2, 3) or grid.ndim != input.ndim or grid.shape[-1] != rank or grid.shape[0] != input.shape[0]:
        raise ShapeError(f"grid_sample: the grid {grid.shape} must be (N, *size, {rank}) for the input {input.shape}")
    places = [
        _kept(_pixel(grid[..., rank - 1 - axis], n, bool(align_corners)), n, padding_mode, bool(align_corners))
        for axis, n in enumerate(input.shape[2:])
    ]
    corners = [_corners(place, mode) for place in places]
    result = None
    for chosen in product(*corners):
        part = _looked_up(input, [index for index, _ in chosen])
        for _, weight in chosen:
            part = part if weight is None else part * weight.unsqueeze(-1)
        result = part if result is None else result + part
    assert result is not None, "an image has axes"
    moved: Tensor = result.movedim(-1, 1)
    return moved


def _pixel(place: Tensor, n: int, align_corners: bool) -> Tensor:
    """The place in pixels, the middle of the first one 0."""
    pixel: Tensor = (place + 1) * ((n - 1) / 2) if align_corners else ((place + 1) * n - 1) / 2
    return pixel


def _kept(pixel: Tensor, n: int, padding_mode: str, align_corners: bool) -> Tensor:
    """Places beyond the edges brought back, unless zeros stand there."""
    if padding_mode == "zeros":
        return pixel
    if padding_mode == "reflection":
        low, span = (0.0, n - 1.0) if align_corners else (-0.5, float(n))
        if span == 0:
            middle: Tensor = pixel * 0
            return middle
        away = elementwise.abs(pixel - low)
        turns = np.floor(away.detach()._array / span)
        rest = away - Tensor((turns * span).astype(pixel.dtype.numpy))
        odd = Tensor((turns % 2).astype(pixel.dtype.numpy))
        pixel = rest + odd * (span - 2 * rest) + low
    return elementwise.clamp(pixel, 0, n - 1)  # type: ignore[no-any-return]


def _corners(place: Tensor, mode: str) -> list[tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], Tensor | None]]:
    """Pixels of one axis that count, and how much; None for all of it."""
    array = place.detach()._array
    if mode == "nearest":
        return [(np.rint(array).astype(np.int64), None)]
    first = np.floor(array)
    part = place - Tensor(first)
    index = first.astype(np.int64)
    return [(index, 1 - part), (index + 1, part)]


def _looked_up(input: Tensor, index: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.int64]]]) -> Tensor:
    """Channels last, 0 outside of the image."""
    spatial = input.shape[2:]
    inside = np.logical_and.reduce([(i >= 0) & (i < n) for i, n in zip(index, spatial, strict=True)])
    near = [np.clip(i, 0, n - 1) for i, n in zip(index, spatial, strict=True)]
    samples = np.arange(input.shape[0]).reshape(-1, *(1,) * len(spatial))
    picked: Tensor = input.movedim(1, -1)[(np.broadcast_to(samples, inside.shape), *near)]
    return picked if inside.all() else picked * Tensor(inside[..., None].astype(input.dtype.numpy))


def _unpooled(
    rank: int,
    input: Tensor,
    indices: Tensor,
    kernel_size: SizeArgument,
    stride: SizeArgument | None,
    padding: SizeArgument,
    output_size: Sequence[int] | None,
) -> Tensor:
    caller = f"max_unpool{rank}d"
    check_tensor(caller, "input", input)
    check_tensor(caller, "indices", indices)
    if input.shape != indices.shape or input.ndim not in (rank + 1, rank + 2):
        raise ShapeError(
            f"{caller}: the input {input.shape} and the indices {indices.shape} must be (N, C, *size) alike"
        )
    kernel, pads = sizes(caller, "kernel_size", kernel_size, rank), sizes(caller, "padding", padding, rank, least=0)
    steps = kernel if stride is None else sizes(caller, "stride", stride, rank)
    lead, own = input.shape[:-rank], input.shape[-rank:]
    if output_size is None:
        size = tuple((n - 1) * s - 2 * p + k for n, s, p, k in zip(own, steps, pads, kernel, strict=True))
    else:
        size = tuple(output_size)[-rank:]
    places = indices.reshape(*lead, -1)
    if places.numel() and not 0 <= int(places._array.min()) <= int(places._array.max()) < prod(size):
        raise IndexError(f"{caller}: an index is out of range for an output of {size}")
    zeros = Tensor(np.zeros((*lead, prod(size)), input.dtype.numpy))
    result: Tensor = zeros.scatter(-1, places, input.reshape(*lead, -1)).reshape(*lead, *size)
    return result


def max_unpool1d(
    input: Tensor, indices: Tensor, kernel_size: SizeArgument, stride: SizeArgument | None = None,
    padding: SizeArgument = 0, output_size: Sequence[int] | None = None,
) -> Tensor:  # fmt: skip
    """Each number back at the place that ``max_pool1d(return_indices=True)`` took it from, 0 elsewhere."""
    return _unpooled(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor, indices: Tensor, kernel_size: SizeArgument, stride: SizeArgument | None = None,
    padding: SizeArgument = 0, output_size: Sequence[int] | None = None,
) -> Tensor:  # fmt: skip
    """Each number back at the place that ``max_pool2d(return_indices=True)`` took it from, 0 elsewhere."""
    return _unpooled(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor, indices: Tensor, kernel_size: SizeArgument, stride: SizeArgument | None = None,
    padding: SizeArgument = 0, output_size: Sequence[int] | None = None,
) -> Tensor:  # fmt: skip
    """Each number back at the place that ``max_pool3d(return_indices=True)`` took it from, 0 elsewhere."""
    return _unpooled(3, input, indices, kernel_size, stride, padding, output_size)

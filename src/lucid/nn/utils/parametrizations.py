"""Parametrizations of weights: length and direction apart, and the largest singular value 1."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import numpy as np

from lucid.autograd import no_grad
from lucid.core.absent import missing
from lucid.core.dtypes import widened
from lucid.nn import init
from lucid.nn.modules.conv import _ConvTranspose
from lucid.nn.modules.module import Module
from lucid.nn.utils.parametrize import register_parametrization
from lucid.tensor import Tensor

__all__ = ["spectral_norm", "weight_norm"]

M = TypeVar("M", bound=Module)
Array = np.ndarray[Any, Any]


class _WeightNorm(Module):
    """v g / |v|, where |v| is the length of each slice along ``dim``, of all if that is None or -1."""

    earlier_suffixes: ClassVar[tuple[str, ...]] = ("_g", "_v")  # those of nn.utils.weight_norm

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = None if dim == -1 else dim

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        """The weight that length and direction make."""
        result: Tensor = v * (g / self._length(v))
        return result

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Its lengths, and itself as direction."""
        return self._length(weight), weight

    def _length(self, v: Tensor) -> Tensor:
        """Shaped to multiply the slices."""
        axes = [axis for axis in range(v.ndim) if self.dim is None or axis != self.dim % v.ndim]
        result: Tensor = (v * v).sum(axes, keepdim=True).sqrt()
        return result if self.dim is not None else result.reshape(())


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """The module with its weight as g v / |v|: a length g for each slice along ``dim``, and a direction v.

    They are ``parametrizations.weight.original0`` and ``original1``; state dicts of ``nn.utils.weight_norm``, which
    calls them ``weight_g`` and ``weight_v``, can be loaded. None or -1 stand for one length of all.

    Source: Salimans & Kingma, arXiv:1602.07868.

    >>> from lucid.nn import Conv1d
    >>> weight_norm(Conv1d(4, 8, 3))
    Conv1d(
      4, 8, kernel_size=(3,), stride=(1,)
      (parametrizations): ModuleDict(
        (weight): ParametrizationList(
          (0): _WeightNorm()
        )
      )
    )
    """
    return register_parametrization(module, name, _WeightNorm(dim), unsafe=True)


def rows_of(weight: Tensor, dim: int) -> Array:
    """The weight as a matrix with the slices along ``dim`` as rows."""
    rows = np.moveaxis(weight._array, dim, 0)
    return widened(rows.reshape(len(rows), -1))


def power_steps(matrix: Array, u: Tensor, v: Tensor, count: int, eps: float) -> None:
    """Steps of the power method, written into ``u`` and ``v``."""
    right = widened(v._array)
    for _ in range(count):
        left = _unit(matrix @ right, eps)
        right = _unit(matrix.conj().T @ left, eps)
    with no_grad():
        u.copy_(Tensor(left))
        v.copy_(Tensor(right))


def _unit(vector: Array, eps: float) -> Array:
    scaled: Array = vector / max(np.linalg.norm(vector), eps)
    return scaled.astype(vector.dtype, copy=False)


def rank_one(weight: Tensor, u: Tensor, v: Tensor, dim: int) -> Tensor:
    """The constant u vᵀ, shaped as the weight: the sum of W times it is σ."""
    rows = np.moveaxis(weight._array, dim, 0)
    outer = np.outer(u._array.conj(), v._array).reshape(rows.shape)
    result: Tensor = Tensor(np.ascontiguousarray(np.moveaxis(outer, 0, dim)))
    return result


class _SpectralNorm(Module):
    """W / σ, where σ = uᵀ W v and u, v follow the singular vectors of the largest singular value.

    W is a matrix with the slices along ``dim`` as rows; a vector is divided by its length.
    """

    def __init__(self, weight: Tensor, n_power_iterations: int, dim: int, eps: float) -> None:
        super().__init__()
        if not -weight.ndim <= dim < weight.ndim:
            raise IndexError(f"spectral_norm: dim={dim} is out of range for a weight {weight.shape}")
        if n_power_iterations < 1:
            raise ValueError(f"spectral_norm: n_power_iterations={n_power_iterations} must be at least 1")
        self.dim, self.eps, self.n_power_iterations = dim % weight.ndim, eps, n_power_iterations
        if weight.ndim > 1:
            for vector, size in zip(("_u", "_v"), rows_of(weight, self.dim).shape, strict=True):
                self.register_buffer(vector, init.normal_(Tensor(np.empty(size, weight.dtype.numpy))))
            self._iterate(weight, 15)

    def _iterate(self, weight: Tensor, count: int) -> None:
        power_steps(rows_of(weight, self.dim), self._u, self._v, count, self.eps)

    def forward(self, weight: Tensor) -> Tensor:
        """W / σ; in training after ``n_power_iterations`` more steps."""
        if weight.ndim == 1:
            return weight / (weight * weight).sum().sqrt().clamp(min=self.eps)  # type: ignore[no-any-return]
        if self.training:
            self._iterate(weight, self.n_power_iterations)
        result: Tensor = weight / (weight * rank_one(weight, self._u, self._v, self.dim)).sum()
        return result

    def right_inverse(self, value: Tensor) -> Tensor:
        """The value, which is taken to be normed already."""
        return value


def spectral_norm(
    module: M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> M:
    """The module with its weight divided by its largest singular value, which the power method follows in training.

    ``dim`` is the axis of the rows: without one, that of the output channels.

    Source: Miyato et al., arXiv:1802.05957.

    >>> from lucid.nn import Conv2d
    >>> list(spectral_norm(Conv2d(4, 8, 3, bias=False)).state_dict())
    ['parametrizations.weight.original', 'parametrizations.weight.0._u', 'parametrizations.weight.0._v']
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"spectral_norm: {type(module).__name__} has no parameter or buffer {name!r}")
    if dim is None:
        dim = 1 if isinstance(module, _ConvTranspose) else 0
    return register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, dim, eps))


__getattr__ = missing("lucid.nn.utils.parametrizations")

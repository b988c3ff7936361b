"""What is done to the parameters of a network together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lucid.tensor import Tensor


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients in place so that their norm as one vector is at most ``max_norm``; returns the old norm.

    ``foreach`` is taken, and chooses nothing.

    Source: Pascanu et al., arXiv:1211.5063.
    """
    grads = _gradients(parameters)
    norms = np.array([np.linalg.norm(g._array.reshape(-1).astype(np.float64), norm_type) for g in grads])
    total = float(np.linalg.norm(norms, norm_type)) if grads else 0.0
    if error_if_nonfinite and not np.isfinite(total):
        raise RuntimeError(f"clip_grad_norm_: the norm of the gradients is {total}, so they cannot be clipped")
    # NaN stays NaN, as in PyTorch: min() with NaN first would hide it.
    factor = max_norm / (total + 1e-6)
    if not factor >= 1.0:
        for g in grads:
            g._array *= g._array.dtype.type(factor)
            g._version[0] += 1
    result: Tensor = Tensor(np.float32(total))
    return result


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Bring every element of every gradient into [-clip_value, clip_value], in place; ``foreach`` chooses nothing."""
    for g in _gradients(parameters):
        np.clip(g._array, -clip_value, clip_value, out=g._array)
        g._version[0] += 1


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All values as one vector, a copy."""
    result: Tensor = Tensor(np.concatenate([p._array.reshape(-1) for p in parameters]))
    return result


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """The inverse of ``parameters_to_vector``, in place."""
    parameters = list(parameters)
    count = sum(p.numel() for p in parameters)
    if vec.shape != (count,):
        raise ValueError(f"vector_to_parameters: the vector {vec.shape} must be ({count},) for these parameters")
    begin = 0
    for p in parameters:
        p._array[...] = vec._array[begin : begin + p.numel()].reshape(p.shape)
        p._version[0] += 1
        begin += p.numel()


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    listed = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad for p in listed if p.grad is not None]

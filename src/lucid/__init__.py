"""Lucid: convolution networks on native code that Python writes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lucid import autograd
from lucid.autograd import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from lucid.core.dtypes import (
    DType,
    bfloat16,
    complex64,
    complex128,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    promote_types,
    uint8,
)
from lucid.core.dtypes import bool_ as bool
from lucid.core.errors import DeviceError, DTypeError, FormatError, GradientError, PlanError, ShapeError
from lucid.tensor import Device as device
from lucid.tensor import Tensor
from lucid.ops.broadcast import broadcast_tensors, broadcast_to
from lucid.ops.common import result_type
from lucid.ops.compare import (
    allclose, bitwise_and, bitwise_not, bitwise_or, bitwise_xor, eq, equal, ge, gt, isclose, isfinite, isinf, isnan,
    le, logical_and, logical_not, logical_or, logical_xor, lt, masked_fill, ne, nonzero, where,
)  # fmt: skip
from lucid.ops.creation import (
    arange, as_tensor, complex, empty, empty_like, eye, from_dlpack, from_numpy, full, full_like, linspace, logspace,
    meshgrid, ones, ones_like, tensor, zeros, zeros_like,
)  # fmt: skip
from lucid.ops.elementwise import (
    abs, acos, acosh, add, addcdiv, addcmul, angle, asin, asinh, atan, atan2, atanh, ceil, clamp, cos, cosh, div, erf,
    erfc, exp, exp2, expm1, floor, floor_divide, fmod, imag, lerp, log, log1p, log2, log10, maximum, minimum, mul, neg,
    positive, pow, real, reciprocal, remainder, round, rsqrt, sigmoid, sign, sin, sinh, sqrt, square, sub, tan, tanh,
    trunc,
)  # fmt: skip
from lucid.ops.index import (
    argsort, gather, index_add, index_select, masked_select, scatter, scatter_add, sort, take_along_dim, topk, unique,
)  # fmt: skip
from lucid.ops.linalg import (
    addmm, bmm, diag, diagonal, dot, einsum, matmul, mm, mv, outer, tensordot, trace, tril, triu,
)  # fmt: skip
from lucid.ops.random import (
    Generator, bernoulli, default_generator, get_rng_state, initial_seed, manual_seed, multinomial, normal, rand,
    rand_like, randint, randint_like, randn, randn_like, randperm, seed, set_rng_state,
)  # fmt: skip
from lucid.ops.reduction import (
    all, amax, amin, any, argmax, argmin, count_nonzero, cumprod, cumsum, logsumexp, max, mean, min, norm, prod, std,
    sum, var,
)  # fmt: skip
from lucid.ops.shape import (
    cat, chunk, clone, concat, concatenate, flatten, flip, movedim, narrow, permute, repeat_interleave, reshape, roll,
    select, split, squeeze, stack, swapaxes, t, tile, transpose, unbind, unflatten, unsqueeze,
)  # fmt: skip

__version__ = "0.1.0"

_LAZY_PACKAGES = ("nn", "optim", "data", "io", "viz", "models", "kernels", "ops")
_LAZY_NAMES = {
    "set_num_threads": "lucid.kernels.runtime.threads",
    "get_num_threads": "lucid.kernels.runtime.threads",
    "save": "lucid.io",
    "load": "lucid.io",
}


def __getattr__(name: str) -> Any:
    """Packages and functions that need LLVM or more, loaded when first used."""
    if name in _LAZY_PACKAGES:
        return import_module(f"lucid.{name}")
    if name in _LAZY_NAMES:
        return getattr(import_module(_LAZY_NAMES[name]), name)
    raise AttributeError(f"module 'lucid' has no attribute {name!r}")

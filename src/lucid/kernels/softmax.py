"""Softmax and its logarithm along any axis, and their gradients: rows stay in cache between the passes."""

from __future__ import annotations

from lucid.kernels.functions import exp, log
from lucid.kernels.rows import Rows, Stage

_TOP = Stage("top", lambda x: x)  # a NaN comes back with the exponentials

#: exp(x) / sum(exp(x)); a row of -inf gives NaN, as 0 / 0.
softmax = Rows(
    "softmax",
    stages=[_TOP, Stage("sum", lambda x, top: exp(x - top), lambda total: 1.0 / total)],
    results=lambda x, top, scale: exp(x - top) * scale,
)

#: x - log(sum(exp(x))).
log_softmax = Rows(
    "log_softmax",
    stages=[_TOP, Stage("sum", lambda x, top: exp(x - top), log)],
    results=lambda x, top, size: x - top - size,
)

#: From the upstream gradient and the result.
softmax_grad = Rows(
    "softmax_grad", stages=[Stage("sum", lambda g, y: g * y)], results=lambda g, y, along: (g - along) * y
)
log_softmax_grad = Rows(
    "log_softmax_grad", stages=[Stage("sum", lambda g, y: g)], results=lambda g, y, total: g - exp(y) * total
)

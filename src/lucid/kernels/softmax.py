"""Softmax, its logarithm and cross entropy along any axis, and their gradients: rows stay in cache between passes."""

from __future__ import annotations

import numpy as np

from lucid.kernels.functions import exp, exp_of_negative, log
from lucid.kernels.ir import Value, absolute, select
from lucid.kernels.rows import Rows, Stage

_TOP = Stage("top", lambda x: x)  # a NaN comes back with the exponentials

#: exp(x) / sum(exp(x)); a row of -inf gives NaN, as 0 / 0.
softmax = Rows(
    "softmax",
    stages=[_TOP, Stage("sum", lambda x, top: exp_of_negative(x - top), lambda total: 1.0 / total)],
    results=lambda x, top, scale: exp_of_negative(x - top) * scale,
)

#: x - log(sum(exp(x))).
log_softmax = Rows(
    "log_softmax",
    stages=[_TOP, Stage("sum", lambda x, top: exp_of_negative(x - top), log)],
    results=lambda x, top, size: x - top - size,
)

#: log(sum(exp(x))), in what x is computed in; the first stage leaves out a largest element that is infinite.
logsumexp = Rows(
    "logsumexp",
    stages=[
        Stage("top", lambda x: x, lambda top: select(absolute(top) < np.inf, top, 0.0)),
        Stage("sum", lambda x, top: exp(x - top), log),
        Stage("max", lambda x, top, size: top + size),
    ],
    results=lambda x, top, size, both: (),
    keep=(2,),
)

#: From the upstream gradient and the result.
softmax_grad = Rows(
    "softmax_grad", stages=[Stage("sum", lambda g, y: g * y)], results=lambda g, y, along: (g - along) * y
)
log_softmax_grad = Rows(
    "log_softmax_grad",
    stages=[Stage("sum", lambda g, y: g)],
    results=lambda g, y, total: g - exp_of_negative(y) * total,
)


def _surprise(x: Value, column: Value, target: Value, top: Value, size: Value) -> Value:
    return select(column.eq(target), top - x + size, 0.0)


def _cross_entropy_grad(x: Value, column: Value, target: Value, scale: Value, top: Value, size: Value) -> Value:
    p = exp_of_negative(x - top - size)
    return scale * select(column.eq(target), p - 1.0, p)


#: -log_softmax(x) at the column that is ``target``; 0 where none is. Columns are counted in what x is computed in.
cross_entropy = Rows(
    "cross_entropy",
    stages=[
        Stage("top", lambda x, column, target: x),
        Stage("sum", lambda x, column, target, top: exp_of_negative(x - top), log),
        Stage("sum", _surprise),
    ],
    results=lambda x, column, target, top, size, loss: (),
    keep=(2,),
)

#: Its gradient times ``scale``, one number a row.
cross_entropy_grad = Rows(
    "cross_entropy_grad",
    stages=[
        Stage("top", lambda x, column, target, scale: x),
        Stage("sum", lambda x, column, target, scale, top: exp_of_negative(x - top), log),
    ],
    results=_cross_entropy_grad,
)

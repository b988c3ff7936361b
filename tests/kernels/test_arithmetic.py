from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

from lucid.kernels import arithmetic, target

ISAS = [isa.name for isa in target.cpu().isas]
OPERATORS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv}
FUNCTIONS = {
    "neg": np.negative,
    "abs": np.abs,
    "square": np.square,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": np.reciprocal,
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPERATORS)
def test_arithmetic_is_ieee(name: str, dtype: Any, isa: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(1001).astype(dtype) for _ in range(2))
    a[:4], b[:4] = [np.inf, np.nan, 0, -0.0], [0, 1, 0, 2]
    with target.using(isa), np.errstate(all="ignore"):
        np.testing.assert_array_equal(arithmetic.BINARY[name](a, b), OPERATORS[name](a, b))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_ieee(name: str, dtype: Any, isa: str) -> None:
    x = np.random.default_rng(0).standard_normal(1001).astype(dtype)
    x[:4] = [np.inf, np.nan, 0, -0.0]
    with target.using(isa), np.errstate(all="ignore"):
        np.testing.assert_array_equal(arithmetic.UNARY[name](x), FUNCTIONS[name](x))

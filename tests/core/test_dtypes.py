"""Element types: names, what stands for them, and how they mix."""

from __future__ import annotations

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

import lucid
from lucid.core.dtypes import DTYPES, as_dtype, is_floating, of_numpy, promote_types, weak_result_type, widened
from lucid.core.errors import DTypeError


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (float, "float32"),
        (int, "int64"),
        (bool, "bool"),
        (complex, "complex64"),
        ("float16", "float16"),
        ("lucid.int8", "int8"),
        (np.float64, "float64"),
        (np.dtype("uint8"), "uint8"),
        ("bfloat16", "bfloat16"),
        (ml_dtypes.bfloat16, "bfloat16"),
        (np.dtype(ml_dtypes.bfloat16), "bfloat16"),
        (lucid.int16, "int16"),
    ],
)
def test_what_stands_for_a_dtype(given, name):
    assert as_dtype(given) is getattr(lucid, name)


@pytest.mark.parametrize("given", ["float31", str, np.dtype("uint16"), object(), None, "S3"])
def test_what_does_not(given):
    if given is None:
        assert as_dtype(np.dtype(None)) is lucid.float64
        return
    with pytest.raises(DTypeError, match="float32"):
        as_dtype(given)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_dtype_is_one_object(dtype):
    assert pickle.loads(pickle.dumps(dtype)) is dtype is copy.deepcopy(dtype)
    assert of_numpy(dtype.numpy) is dtype
    assert dtype.numpy.itemsize == dtype.itemsize
    assert repr(dtype) == f"lucid.{dtype.name}"


def test_categories():
    assert [d.name for d in DTYPES if d.is_floating_point] == ["float16", "bfloat16", "float32", "float64"]
    assert [d.name for d in DTYPES if d.is_complex] == ["complex64", "complex128"]
    assert not lucid.int64.is_differentiable and lucid.bfloat16.is_differentiable


@pytest.mark.parametrize(
    ("a", "b", "result"),
    [
        ("int64", "float16", "float16"),
        ("float16", "bfloat16", "float32"),
        ("float64", "complex64", "complex128"),
        ("uint8", "int8", "int16"),
        ("uint8", "int32", "int32"),
        ("bool", "uint8", "uint8"),
        ("int8", "int64", "int64"),
        ("float32", "complex64", "complex64"),
        ("float64", "float16", "float64"),
        ("bool", "bool", "bool"),
    ],
)
def test_promotion_by_category_then_width(a, b, result):
    a, b, result = (getattr(lucid, n) for n in (a, b, result))
    assert promote_types(a, b) is promote_types(b, a) is result


def test_weak_operands_bring_only_a_category():
    assert weak_result_type(lucid.float16, lucid.float64) is lucid.float16
    assert weak_result_type(lucid.int8, lucid.int64) is lucid.int8
    assert weak_result_type(lucid.bool, lucid.int64) is lucid.int64
    assert weak_result_type(lucid.int64, lucid.float32) is lucid.float32
    assert weak_result_type(lucid.float64, lucid.complex64) is lucid.complex128


def test_limits():
    assert lucid.finfo(lucid.bfloat16).bits == lucid.finfo("float16").bits == 16
    assert float(lucid.finfo(lucid.bfloat16).eps) == 2.0**-7 and lucid.iinfo(lucid.int8).min == -128


def test_promotion_is_a_lattice():
    for a in DTYPES:
        for b in DTYPES:
            both = promote_types(a, b)
            assert promote_types(both, a) is both and promote_types(both, b) is both


@pytest.mark.parametrize("dtype", DTYPES, ids=repr)
def test_half_precision_is_computed_in_float32_and_all_else_in_itself(dtype) -> None:
    assert is_floating(dtype.numpy) == dtype.is_floating_point
    array = np.ones(2, dtype.numpy)
    wide = widened(array)
    half = dtype in (lucid.float16, lucid.bfloat16)
    assert wide.dtype == np.float32 if half else wide is array

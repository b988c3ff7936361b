"""Half precision as float32 and back: every half, floats of all magnitudes, between forbidden pages."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lucid.kernels import jit, target
from lucid.kernels.casting import as_type, cast
from tests.kernels.guard import guarded

ISAS = [isa.name for isa in target.cpu().runnable]
HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


def checked(source: np.ndarray[Any, Any], to: np.dtype[Any], where: str) -> None:
    with guarded(source, where=where, readonly=True) as given, guarded(source.shape, to, where) as result:
        cast(given, result)
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(result.astype("f4"), source.astype(to).astype("f4"))
        np.testing.assert_array_equal(np.signbit(result), np.signbit(source))


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("isa", ISAS)
def test_all_numbers_between_forbidden_pages(isa: str, half: np.dtype[Any]) -> None:
    rng = np.random.default_rng(0)
    floats = rng.standard_normal(50_003, np.float32) * 10.0 ** rng.integers(-12, 12, 50_003).astype(np.float32)
    floats[:5] = np.inf, -np.inf, np.nan, 0.0, -0.0
    with target.using(isa):
        for where in ("end", "start"):
            checked(np.arange(1 << 16, dtype=np.uint16)[7:].view(half), np.dtype(np.float32), where)
            checked(floats.astype(np.float32), half, where)


def test_what_is_small_strided_or_of_another_type_is_numpys() -> None:
    before = jit.kernel_count()
    for source in (np.ones(5, np.float16), np.ones((300, 300), np.float16).T, np.ones(99_999, np.int64)):
        got = as_type(source, np.dtype(np.float32))
        assert got.dtype == np.float32 and got.shape == source.shape and (got == 1).all()
    assert jit.kernel_count() == before

from __future__ import annotations

import warnings

import numpy as np
import pytest

from lucid.core import quiet


def overflows() -> bool:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        np.float32([1e38]) * np.float32([1e38])
    return bool(seen)


def test_numpy_is_quiet_between_begin_and_end() -> None:
    assert overflows()
    noise = quiet.begin()
    assert not overflows()
    again = quiet.begin()
    quiet.end(again)
    assert not overflows()
    quiet.end(noise)
    assert overflows()


def test_numpy_is_quiet_inside() -> None:
    with pytest.raises(KeyError), quiet.numpy():
        assert not overflows()
        raise KeyError
    assert overflows()


def test_what_the_caller_has_set_comes_back() -> None:
    with np.errstate(over="raise"):
        quiet.end(quiet.begin())
        with pytest.raises(FloatingPointError):
            overflows()


def test_a_numpy_that_keeps_its_settings_elsewhere() -> None:
    other = quiet._Errstate()
    noise = other.set(None)
    assert not overflows()
    other.reset(noise)
    assert overflows()

from __future__ import annotations

import numpy as np
import pytest

from lucid.kernels.launch import address


def test_address_is_where_the_first_element_lies() -> None:
    a = np.zeros((4, 6))
    for view in (a, a[2:], a[:, ::-1], a[1:1], a.T, np.asarray(3.0)):
        assert address(view) == view.ctypes.data


def test_a_scalar_has_no_address() -> None:
    with pytest.raises(TypeError, match="address: float64 is no array"):
        address(np.float64(1))  # type: ignore[arg-type]

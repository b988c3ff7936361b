"""bfloat16 through DLPack, which NumPy does not speak: its bits travel as uint16 under a changed type code."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from lucid.core.dtypes import bfloat16

_UINT, _BFLOAT = 1, 4
_CODE_OFFSET = {b"dltensor": 20, b"dltensor_versioned": 52}
"""Where the type code lies. DLTensor: data 8 bytes, device 8, rank 4, then the code; the versioned one puts 32 first.

Source: dlpack.h, DLManagedTensor and DLManagedTensorVersioned.
"""


def _code(capsule: Any) -> Any:
    """The type code inside a capsule, as a byte that can be read and written."""
    api = ctypes.pythonapi
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", api))
    name = name_of(capsule)
    return ctypes.c_uint8.from_address(address_of(capsule, name) + _CODE_OFFSET[name])


def export_bfloat16(array: np.ndarray[Any, Any], **options: Any) -> Any:
    """A capsule of a bfloat16 array."""
    capsule = array.view(np.uint16).__dlpack__(**options)
    _code(capsule).value = _BFLOAT
    return capsule


class _AsBits:
    """A source of bfloat16, offered as uint16."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __dlpack__(self, **options: Any) -> Any:
        capsule = self._source.__dlpack__()
        code = _code(capsule)
        if code.value != _BFLOAT:
            raise BufferError("from_dlpack: an element type that neither NumPy nor Lucid holds")
        code.value = _UINT
        return capsule

    def __dlpack_device__(self) -> Any:
        return self._source.__dlpack_device__()


def import_array(source: Any) -> np.ndarray[Any, Any]:
    """The array behind anything with ``__dlpack__``, sharing its memory."""
    try:
        return np.from_dlpack(source)
    except RuntimeError:  # a type NumPy does not know
        return np.from_dlpack(_AsBits(source)).view(bfloat16.numpy)

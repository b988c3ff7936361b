"""``Tensor`` and how data becomes one."""

from lucid.tensor.device import Device
from lucid.tensor.tensor import Tensor

__all__ = ["Device", "Tensor"]

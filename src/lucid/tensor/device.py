"""Where tensors live: so far on the CPU and nowhere else."""

from __future__ import annotations

from typing import Any

from lucid.core.errors import DeviceError

_TYPES = ("cpu",)


class Device:
    """A device by name. Equal to its name: ``x.device == "cpu"``.

    Raises: DeviceError for a name that is not here.
    """

    __slots__ = ("type",)

    index: int | None = None

    def __init__(self, device: Device | str, index: int | None = None) -> None:
        name = device.type if isinstance(device, Device) else device
        if (name not in _TYPES and name != "cpu:0") or index:
            raise DeviceError(
                f"device={device!r} does not exist here; there is {', '.join(map(repr, _TYPES))}: "
                'lucid.device("cuda" if lucid.cuda.is_available() else "cpu") is what there is'
            )
        self.type: str = "cpu"

    def __eq__(self, other: object) -> bool:
        return other.type == self.type if isinstance(other, Device) else other == self.type

    def __hash__(self) -> int:
        return hash(self.type)

    def __str__(self) -> str:
        return self.type

    def __repr__(self) -> str:
        return f"device(type={self.type!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Device, (self.type,)


CPU = Device("cpu")

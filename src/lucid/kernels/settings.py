"""What a choice of kernels depends on beside the problem, as one value: another value says that all may differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from lucid.kernels.isa import ISA
    from lucid.kernels.tuning import Tuning

Precision = Literal["default", "strict"]


class Settings(NamedTuple):
    """The algorithm and the instruction set that are asked for, if any; the precision; the tuning table, if any."""

    algorithm: str | None = None
    isa: ISA | None = None
    precision: Precision = "default"
    tuning: Tuning | None = None


now = Settings()


def change(**changes: Any) -> Settings:
    """Puts other values in force, by their names, and returns all that were before."""
    global now
    before, now = now, now._replace(**changes)
    return before

"""What programs that also run elsewhere ask before they choose a device: there is no GPU here.

>>> import lucid
>>> lucid.device("cuda" if lucid.cuda.is_available() else "cpu")
device(type='cpu')
"""

from __future__ import annotations


def is_available() -> bool:
    """False."""
    return False


def device_count() -> int:
    """0."""
    return 0


def manual_seed(seed: int) -> None:
    """Nothing: there is no generator of a GPU. ``lucid.manual_seed`` sets that of the CPU."""


def manual_seed_all(seed: int) -> None:
    """Nothing, likewise."""


def empty_cache() -> None:
    """Nothing: there is no memory of a GPU."""


def synchronize(device: object = None) -> None:
    """Nothing: every call is done when it returns."""


def is_bf16_supported() -> bool:
    """False, of a GPU; the CPU computes in bfloat16."""
    return False


def memory_allocated(device: object = None) -> int:
    """0."""
    return 0


def max_memory_allocated(device: object = None) -> int:
    """0."""
    return 0


def reset_peak_memory_stats(device: object = None) -> None:
    """Nothing, likewise."""

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

"""What PyTorch has in ``torch.utils``: ``lucid.utils.data`` is ``lucid.data``.

>>> from lucid.utils.data import DataLoader
>>> DataLoader.__module__
'lucid.data.loader'
"""

from __future__ import annotations

import sys

from lucid import data
from lucid.core.absent import missing

__all__ = ["data"]

sys.modules[f"{__name__}.data"] = data

__getattr__ = missing("lucid.utils")

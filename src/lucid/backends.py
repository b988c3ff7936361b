"""Settings of libraries that are not used here, so that programs which also run elsewhere may set them.

Training scripts begin with lines such as ``cudnn.benchmark = True``. Every setting is taken and kept, and chooses
nothing: kernels are Lucid's own, what chooses among them has settings of its own (``lucid.tune``,
``lucid.set_precision``), and none sums in an order that changes from run to run. ``is_available()`` is always False.

>>> import lucid
>>> lucid.backends.cudnn.benchmark = True
>>> with lucid.backends.cudnn.flags(enabled=False):
...     lucid.backends.cudnn.enabled, lucid.backends.cudnn.is_available()
(False, False)
>>> lucid.backends.cudnn.enabled
True
>>> lucid.use_deterministic_algorithms(True)
>>> lucid.set_float32_matmul_precision("high")
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

# PyTorch's defaults; other names may be set, too.
_SETTINGS: dict[str, dict[str, Any]] = {
    "cuda": {},
    "cuda.matmul": {
        "allow_tf32": False,
        "allow_fp16_reduced_precision_reduction": True,
        "allow_bf16_reduced_precision_reduction": True,
    },
    "cudnn": {"enabled": True, "benchmark": False, "benchmark_limit": 10, "deterministic": False, "allow_tf32": True},
    "mkl": {},
    "mkldnn": {"enabled": True, "deterministic": False, "allow_tf32": True},
    "mps": {},
    "openmp": {},
}


_PRECISIONS = ("highest", "high", "medium")
_asked: dict[str, Any] = {"deterministic": False, "precision": _PRECISIONS[0]}


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Taken, and chooses nothing: there are no others, on any number of threads."""
    _asked["deterministic"] = bool(mode)


def are_deterministic_algorithms_enabled() -> bool:
    """What was asked for; algorithms are deterministic in any case."""
    return bool(_asked["deterministic"])


def set_float32_matmul_precision(precision: str) -> None:
    """Taken, and chooses nothing: float32 is multiplied as float32. For less there is ``lucid.autocast``.

    Raises: ValueError for what is none of "highest", "high" and "medium".
    """
    if precision not in _PRECISIONS:
        raise ValueError(f"set_float32_matmul_precision: precision={precision!r} must be one of {_PRECISIONS}")
    _asked["precision"] = precision


def get_float32_matmul_precision() -> str:
    """What was set."""
    return str(_asked["precision"])


class _Backend(ModuleType):
    """A library that is not there."""

    def is_available(self) -> bool:
        """False."""
        return False

    def is_built(self) -> bool:
        """False."""
        return False

    def version(self) -> None:
        """None."""

    @contextmanager
    def flags(self, **settings: Any) -> Iterator[None]:
        """The settings inside the block, then those from before."""
        before = {name: getattr(self, name) for name in settings}
        vars(self).update(settings)
        try:
            yield
        finally:
            vars(self).update(before)


def _made(name: str) -> Any:
    """The backend, which ``import lucid.backends.…`` also finds."""
    full = f"{__name__}.{name}"
    backend = sys.modules[full] = _Backend(full, _Backend.__doc__)
    vars(backend).update(_SETTINGS[name])
    return backend


cuda, cudnn, mkl, mkldnn, mps, openmp = map(_made, ("cuda", "cudnn", "mkl", "mkldnn", "mps", "openmp"))
cuda.matmul = _made("cuda.matmul")

"""The libraries that take turns, a module each: ``start(threads)``, ``version()``, ``prepare(problem, backward)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True, slots=True)
class Peer:
    """How to run a library: the module that speaks to it, its environment, and whether it can take gradients."""

    module: str
    title: str
    environment: Mapping[str, str] = field(default_factory=dict)
    gradients: bool = True


class Prepared(NamedTuple):
    """A problem made ready: ``call`` runs it, ``fetch`` turns what it returned into named arrays."""

    call: Callable[[], Any]
    fetch: Callable[[Any], dict[str, np.ndarray]]


# glibc keeps freed pages instead of handing them back to the system, so that a result finds its pages already there.
PAGE_REUSE = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}

PEERS = {
    "lucid": Peer("benchmarks.peers.lucid_peer", "Lucid"),
    "kernels": Peer("benchmarks.peers.kernels_peer", "Lucid's bare kernels"),
    "torch": Peer("benchmarks.peers.torch_peer", "PyTorch"),
    "torch-pages": Peer("benchmarks.peers.torch_peer", "PyTorch paged", PAGE_REUSE),
    "ort": Peer("benchmarks.peers.ort_peer", "ONNX Runtime", gradients=False),
    "openvino": Peer("benchmarks.peers.openvino_peer", "OpenVINO", gradients=False),
}

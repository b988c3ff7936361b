"""The libraries that take turns, a module each: ``start(threads)``, ``version()``, ``prepare(problem, backward)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True, slots=True)
class Peer:
    """How to run a library: the module that speaks to it, the packages that needs by the names pip and Python use,
    its environment, whether it can take gradients, and what in the environment holds it to an instruction set."""

    module: str
    title: str
    needs: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    gradients: bool = True
    held: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """The packages to install before it can run."""
        return [package for package, module in self.needs.items() if find_spec(module) is None]


class Prepared(NamedTuple):
    """A problem made ready: ``call`` runs it, ``fetch`` turns what it returned into named arrays.

    ``settle`` waits, after the first calls, until none will be faster for the library's own reasons.
    """

    call: Callable[[], Any]
    fetch: Callable[[Any], dict[str, np.ndarray]]
    settle: Callable[[], None] = lambda: None


# glibc keeps freed pages instead of handing them back to the system, so that a result finds its pages already there.
PAGE_REUSE = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}

# OpenMP's two threads stay on a core each: where both wake on one, each call takes a time slice.
BOUND = {"OMP_PROC_BIND": "true"}
TORCH, ORT = {"torch": "torch"}, {"onnx": "onnx", "onnxruntime": "onnxruntime"}
OPENVINO = {"onnx": "onnx", "openvino": "openvino"}

# ONNX Runtime and OpenVINO take what the processor has, whatever their environment says.
LUCID_HELD = {"avx2": {"LUCID_ISA": "avx2"}}
TORCH_HELD = {"avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}}

PEERS = {
    "lucid": Peer("lucid.cli.bench.peers.lucid_peer", "Lucid", held=LUCID_HELD),
    "kernels": Peer("lucid.cli.bench.peers.kernels_peer", "Lucid's bare kernels", held=LUCID_HELD),
    "torch": Peer("lucid.cli.bench.peers.torch_peer", "PyTorch", TORCH, BOUND, held=TORCH_HELD),
    "torch-pages": Peer(
        "lucid.cli.bench.peers.torch_peer", "PyTorch paged", TORCH, BOUND | PAGE_REUSE, held=TORCH_HELD
    ),
    "ort": Peer("lucid.cli.bench.peers.ort_peer", "ONNX Runtime", ORT, gradients=False),
    "openvino": Peer("lucid.cli.bench.peers.openvino_peer", "OpenVINO", OPENVINO, gradients=False),
}

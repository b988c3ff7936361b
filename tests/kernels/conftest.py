"""Machines that tests of kernels ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from lucid.kernels import target
from lucid.kernels.algorithms import fast_fir, strassen, winograd_planes


@pytest.fixture
def zen4(monkeypatch: pytest.MonkeyPatch) -> Iterator[target.CPU]:
    """This machine as a Zen 4, where vectors of 64 bytes take two turns; what is planned for it is forgotten after."""
    cpu = replace(target.cpu(), name="znver4", l2_bytes=1 << 20, l3_bytes=32 << 20)
    monkeypatch.setattr(target, "cpu", lambda: cpu)
    planned = (strassen.strassen, fast_fir.fast_fir, winograd_planes.planes)
    for plans in planned:
        plans.cache_clear()
    yield cpu
    for plans in planned:
        plans.cache_clear()

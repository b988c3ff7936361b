"""What convolutions take beside their operands: every plan of the measured layers, without running any."""

from __future__ import annotations

import pytest

from benchmarks.selection import problems
from lucid.cli.bench.problem import SUITES, Layer, suite
from lucid.kernels import select, target
from lucid.kernels.plan import WORKSPACE_BYTES

#: The layers are measured on so many threads. What those share, Winograd's patches of a few images, counts for all.
THREADS = 2
LAYERS = [layer for name in SUITES for layer in suite(None, name)]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.short_name.replace(" ", "-"))
def test_the_workspace_is_within_its_bound(layer: Layer) -> None:
    for isa in target.cpu().isas:
        for problem in problems(layer):
            plan = select.choose(problem, isa)
            own = plan.workspace_bytes - plan.packed_bytes
            shares = plan.algorithm == "winograd" and plan.problem.role != "grad_weight"
            most = WORKSPACE_BYTES * (THREADS if shares else 1)
            assert 0 <= own <= most, f"{problem.role}: {own / 2**20:.2f} MiB, {plan.algorithm} on {isa.name}"

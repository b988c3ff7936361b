"""How often the cost model takes the fastest algorithm: ``python -m benchmarks.selection``.

Every algorithm that accepts a problem and has a chance is timed in turns on it, in all three roles, where there are
several. The problems are the held-out layers and a synthetic set drawn from a seed, neither of which any constant was
fitted on. The last tables are for fitting: the choices that were wrong, and how far measured times are from expected
ones. A few minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lucid.cli.bench.problem import Layer, suite
from lucid.cli.bench.report import Column, Header, Table, table_text, write_results
from lucid.cli.progress import Screen
from lucid.core.geometry import ConvSpec
from lucid.kernels import select, target, trial
from lucid.kernels.convolution import problem
from lucid.kernels.plan import Problem, Role
from lucid.kernels.runtime.threads import get_num_threads, set_num_threads

ROLES: tuple[Role, ...] = ("forward", "grad_input", "grad_weight")
NEAR = 1.05  #: a choice this near the fastest counts as right
CHANCE = 10.0  #: candidates expected to take so many times as long as the first are not timed
MOST_FLOPS = 4e9


@dataclass(frozen=True, slots=True)
class Row:
    """A layer and role with several candidates: what was chosen, every candidate's median ns, and the ns expected."""

    layer: str
    role: str
    chosen: str
    ns: dict[str, float]
    expected: dict[str, float]

    @property
    def fastest(self) -> str:
        return min(self.ns, key=lambda name: self.ns[name])

    @property
    def loss(self) -> float:
        """The chosen algorithm's time over the fastest one's."""
        return self.ns[self.chosen] / self.ns[self.fastest]

    def cells(self) -> list[str]:
        others = sorted((ns, name) for name, ns in self.ns.items() if name != self.chosen)
        listed = ", ".join(f"{name} {ns / 1e6:.3g}" for ns, name in others)
        mark = f"{self.loss:.2f}" + (" !" if self.loss > NEAR else "")
        return [self.layer, self.role, self.chosen, f"{self.ns[self.chosen] / 1e6:.3g}", mark, listed]

    def wrong_cells(self) -> list[str]:
        """Of the chosen and the fastest, the time and how many times the expected one that is."""
        each = [
            (name, f"{self.ns[name] / 1e6:.3g}", f"{self.ns[name] / self.expected[name]:.2f}")
            for name in (self.chosen, self.fastest)
        ]
        return [self.layer, self.role, *each[0], *each[1], f"{self.loss:.2f}"]


COLUMNS = [
    Column("layer", left=True),
    Column("role", left=True),
    Column("chosen", left=True),
    Column("ms"),
    Column("over fastest"),
    Column("others' ms", left=True),
]
WRONG_COLUMNS = [
    *COLUMNS[:4],
    Column("over expected"),
    Column("fastest", left=True),
    Column("ms"),
    Column("over expected"),
    Column("over fastest"),
]
MODEL_COLUMNS = [
    Column("algorithm", left=True),
    Column("role", left=True),
    Column("timed"),
    Column("lower quartile"),
    Column("median over expected"),
    Column("upper quartile"),
]


def problems(layer: Layer) -> Iterator[Problem]:
    """What the layer computes, forward first; a transposed layer's forward is an input gradient."""
    pads = tuple((p, p) for p in layer.padding)
    spec = ConvSpec(layer.kernel, layer.stride, layer.dilation, pads, layer.groups)
    ends = (layer.shapes["g"], layer.shapes["x"]) if layer.transposed else (layer.shapes["x"], layer.shapes["g"])
    for role in ROLES:
        bias = role == ("grad_input" if layer.transposed else "forward")
        yield problem(role, spec, *ends, "float32", bias)


def synthetic(count: int, seed: int = 0) -> Iterator[Layer]:
    """Layers as networks have them, at random: rank, channels, kernel, stride, dilation, groups and size."""
    rng = np.random.default_rng(seed)

    def one_of(*values: int) -> int:
        return int(rng.choice(values))

    made = 0
    while made < count:
        rank = one_of(1, 1, 2, 2, 2, 3)
        kernel = one_of(*{1: (1, 3, 5, 7, 15, 31, 101), 2: (1, 3, 3, 5, 7), 3: (1, 3)}[rank])
        size = one_of(*{1: (200, 1000, 4000, 16000), 2: (7, 14, 28, 56, 112), 3: (8, 16, 24)}[rank])
        c_in, c_out = one_of(1, 3, 16, 32, 64, 128, 256), one_of(8, 16, 32, 64, 128, 256)
        groups = one_of(1, 1, 1, 4, c_in)
        if c_in % groups or c_out % groups:
            continue
        stride, dilation = one_of(1, 1, 1, 2, 4), one_of(1, 1, 1, 2)
        op = f"conv{'_transpose' if rng.random() < 0.15 else ''}{rank}d"
        name = f"{op[:4]}{'T' * ('_' in op)}{rank}d {c_in}-{c_out} k{kernel} s{stride} d{dilation} g{groups} @{size}"
        padding = dilation * (kernel - 1) // 2
        shape = {"n": one_of(1, 4, 16), "c_in": c_in, "size": (size,) * rank, "c_out": c_out}
        axes = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
        layer = Layer(name, op, **shape, **{key: (value,) * rank for key, value in axes.items()}, groups=groups)
        if min(layer.out_size) >= 1 and layer.flops <= MOST_FLOPS and layer.traffic_bytes <= 200e6:
            made += 1
            yield layer


def measure(asked: Problem, layer: str, seconds: float) -> Row | None:
    """The candidates' times; none where there is no choice."""
    names = trial.contenders(asked, CHANCE)
    if len(names) < 2:
        return None
    plans = select.candidates(asked, target.isa())[0]
    expected = {plan.algorithm: plan.expected_ns / get_num_threads() for plan in plans}
    chosen = select.choose(asked, target.isa()).algorithm
    return Row(layer, asked.role, chosen, trial.race(asked, names, seconds), expected)


def verdict(rows: list[Row], asked: int) -> str:
    """The share of choices near the fastest, and what the wrong ones cost."""
    wrong = sum(row.loss > NEAR for row in rows)
    lost = sum(row.ns[row.chosen] for row in rows) / sum(row.ns[row.fastest] for row in rows) - 1
    return (
        f"{asked - wrong} of {asked} choices within 5 % of the fastest ({1 - wrong / asked:.0%}), "
        f"{len(rows) - wrong} of the {len(rows)} that have several candidates ({1 - wrong / len(rows):.0%}); "
        f"all together {lost:.1%} slower"
    )


def model(rows: list[Row]) -> Table:
    """How the cost model errs: measured over expected times by algorithm and role. What counts is how these differ."""
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        for name, ns in row.ns.items():
            ratios[name, row.role].append(ns / row.expected[name])
    cells = [
        [*key, str(len(found)), *(f"{q:.2f}" for q in np.percentile(found, (25, 50, 75)))]
        for key, found in sorted(ratios.items())
    ]
    return Table("measured over expected time", MODEL_COLUMNS, cells)


def raced(title: str, layers: list[Layer], seconds: float) -> tuple[list[Row], int]:
    """The rows of a set, and how many problems it has; stderr has a bar."""
    screen, asked = Screen(sys.stderr), [(layer, p) for layer in layers for p in problems(layer)]
    rows, begin = [], time.monotonic()
    for done, (layer, p) in enumerate(asked):
        left = f"{(time.monotonic() - begin) / done * (len(asked) - done):.0f} s left" if done else ""
        screen.bar(f"{title}: {layer.short_name}, {p.role}", done / len(asked), left)
        row = measure(p, layer.short_name, seconds)
        if row is not None:
            rows.append(row)
            if row.loss > NEAR:
                screen.line(" ".join(row.cells()))
    return rows, len(asked)


def main() -> int:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.selection", description=(__doc__ or "").partition("\n")[0]
    )
    made.add_argument("--synthetic", type=int, default=60, metavar="N", help="random layers (default %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of the random layers")
    made.add_argument("--seconds", type=float, default=0.1, help="for each candidate (default %(default)s)")
    made.add_argument("--only", metavar="TEXT", help="only the layers whose name contains TEXT")
    made.add_argument("--threads", type=int, default=2, metavar="N")
    made.add_argument("--out", type=Path, metavar="FILE", help="write FILE.json and FILE.md")
    options = made.parse_args()
    set_num_threads(options.threads)
    header = Header.of(options.threads, {"lucid": "this checkout"})
    drawn = [layer for layer in synthetic(options.synthetic, options.seed) if (options.only or "") in layer.name]
    sets = {"held-out": list(suite(options.only, "heldout")), "synthetic": drawn}
    tables, every, records = [], [], []
    for title, layers in sets.items():
        rows, asked = raced(title, layers, options.seconds)
        if rows:
            tables.append(Table(f"{title}: {verdict(rows, asked)}", COLUMNS, [row.cells() for row in rows]))
            every += rows
            records += [{"set": title, **asdict(row)} for row in rows]
    worst = sorted((row for row in every if row.loss > NEAR), key=lambda row: -row.loss)
    tables += [Table("the worst choices", WRONG_COLUMNS, [row.wrong_cells() for row in worst]), model(every)]
    print(table_text(header, tables, []))
    if options.out:
        data: dict[str, Any] = {"rows": records}
        write_results(options.out, "Selection", header, json.loads(json.dumps(data)), tables, [])
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measured choices of algorithms: a table of problems and winners, as a value and as text that one can ship."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lucid.core.errors import FormatError
from lucid.core.geometry import ConvSpec
from lucid.kernels import settings, target
from lucid.kernels.cache import package_version
from lucid.kernels.plan import Epilogue, Problem

FORMAT = "lucid tuning 1"


@dataclass(frozen=True, slots=True)
class Choice:
    """The winner of one problem, and every candidate's measured time in ns for a call."""

    algorithm: str
    measured_ns: Mapping[str, float]

    def __str__(self) -> str:
        others = [f"{name} {ns / 1e3:.4g} us" for name, ns in self.measured_ns.items() if name != self.algorithm]
        return f"{self.algorithm} took {self.measured_ns[self.algorithm] / 1e3:.4g} us" + (
            f", {', '.join(others)}" if others else ", alone"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Tuning:
    """What was measured on one CPU and instruction set by one version of Lucid. ``source`` names the file."""

    cpu: str
    isa: str
    version: str
    choices: Mapping[Problem, Choice]
    source: str = ""

    def choice(self, problem: Problem, isa: str) -> Choice | None:
        """What was found for a problem, if it was measured on this instruction set."""
        return self.choices.get(problem) if isa == self.isa else None

    def __repr__(self) -> str:
        name = f" from {self.source}" if self.source else ""
        return f"<Tuning{name}: {len(self.choices)} problems on {self.cpu}, {self.isa}, lucid {self.version}>"


def in_force() -> Tuning | None:
    """The table that the selection asks first."""
    return settings.now.tuning


def use(table: Tuning | None) -> None:
    """From now on problems that the table has are computed by its winners; with None, by the cost model's again."""
    settings.change(tuning=table)


def here(choices: Mapping[Problem, Choice], source: str = "") -> Tuning:
    """A table of what was measured in this process."""
    return Tuning(target.cpu().name, target.isa().name, package_version(), choices, source)


def to_text(table: Tuning) -> str:
    """The table as JSON, a problem a line, with a digest that tells a damaged file from a whole one."""
    rows = [
        json.dumps({"problem": asdict(problem), "algorithm": choice.algorithm, "measured_ns": dict(choice.measured_ns)})
        for problem, choice in table.choices.items()
    ]
    head = {"format": FORMAT, "lucid": table.version, "cpu": table.cpu, "isa": table.isa, "sha256": _digest(rows)}
    body = ",\n  ".join(rows)
    return json.dumps(head, indent=1)[:-2] + f',\n "choices": [\n  {body}\n ]\n}}\n'


def from_text(text: str, source: str) -> Tuning:
    """The table that ``to_text`` wrote, for this machine.

    Raises: FormatError naming ``source`` if it is damaged, or of another CPU, instruction set or version.
    """
    try:
        data = json.loads(text)
        head = {name: data[name] for name in ("format", "lucid", "cpu", "isa", "sha256")}
        rows = list(data["choices"])
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(f"load_tuning: {source} is damaged or no tuning file: {error}") from None
    wanted = {"format": FORMAT, "lucid": package_version(), "cpu": target.cpu().name, "isa": target.isa().name}
    for name, value in wanted.items():
        if head[name] != value:
            raise FormatError(f"load_tuning: {source} is for {name} {head[name]}, this is {value}; tune here again")
    if head["sha256"] != _digest([json.dumps(row) for row in rows]):
        raise FormatError(f"load_tuning: {source} is damaged: its choices do not have the digest it names")
    try:
        choices = {_problem(row["problem"]): Choice(row["algorithm"], row["measured_ns"]) for row in rows}
    except (TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"load_tuning: {source} names a problem that this Lucid does not know: {error}") from None
    return Tuning(head["cpu"], head["isa"], head["lucid"], choices, source)


def _digest(rows: list[str]) -> str:
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _problem(fields: dict[str, Any]) -> Problem:
    """A problem from JSON, where every tuple has become a list."""
    values = {"spec": ConvSpec, "epilogue": Epilogue}
    return Problem(**{
        name: values[name](**{key: _frozen(part) for key, part in value.items()}) if name in values else _frozen(value)
        for name, value in fields.items()
    })  # fmt: skip


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value

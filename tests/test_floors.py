"""docs/design/0001-architecture.md: imports go strictly downward, equals do not import each other; its map is true."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lucid.kernels import select

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

# From the ground up. A module belongs to the longest entry its name begins with; what shares an entry is free.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("lucid.core", "lucid.cuda", "lucid.backends"),
    ("lucid.kernels", "lucid.autograd"),
    ("lucid.tensor",),
    ("lucid.ops",),
    ("lucid.nn.functional",),
    ("lucid.nn", "lucid.optim", "lucid.data"),
    ("lucid.io", "lucid.viz", "lucid.optim.swa_utils", "lucid.amp", "lucid.func"),
    ("lucid",),
    ("lucid.models", "lucid.onnx", "lucid.utils"),
    ("lucid.cli",),
    ("lucid.__main__",),
)
FLOOR_OF = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}

# Inside the kernel engine: how code is written, what a machine is, and which code to run are told apart.
KERNEL_WALLS = {
    "lucid.kernels.ir": ("lucid.kernels.algorithms", "lucid.kernels.select", "lucid.kernels.runtime"),
    "lucid.kernels.isa": ("lucid.kernels.algorithms", "lucid.kernels.select", "lucid.kernels.runtime"),
    "lucid.kernels.jit": ("lucid.kernels.algorithms", "lucid.kernels.select"),
    "lucid.kernels.runtime": ("lucid.kernels.algorithms", "lucid.kernels.select"),
    "lucid.kernels.plan": ("lucid.kernels.ir", "lucid.kernels.jit", "lucid.kernels.runtime"),
    "lucid.kernels.algorithms": ("lucid.kernels.select",),
}


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def package_of(module: str) -> str:
    """The entry of the floor table that ``module`` belongs to; only ``lucid`` itself belongs to ``lucid``."""
    entries = [p for p in FLOOR_OF if is_within(module, p) and (p != "lucid" or module == "lucid")]
    return max(entries, key=len, default="")


def imports(source: str, module: str, is_package: bool, known: frozenset[str]) -> Iterator[str]:
    """Lucid modules that ``source`` imports anywhere, also inside functions and for type checkers only."""
    here = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if is_within(alias.name, "lucid"))
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            if is_within(origin, "lucid"):
                names = (f"{origin}.{alias.name}" for alias in node.names)
                yield from (name if name in known else origin for name in names)


def breaks(module: str, imported: str) -> str | None:
    """The rule an import breaks, if it breaks one."""
    here, there = package_of(module), package_of(imported)
    if not there:
        return f"{module} imports {imported}, which no floor names"
    if here != there and FLOOR_OF[there] >= FLOOR_OF[here]:
        return f"{module} (floor {FLOOR_OF[here]}) imports {imported} (floor {FLOOR_OF[there]})"
    for room, closed in KERNEL_WALLS.items():
        if is_within(module, room) and any(is_within(imported, wall) for wall in closed):
            return f"{module} imports {imported}, which {room} may not know"
    return None


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def test_every_module_has_a_floor() -> None:
    assert not [module for module in modules() if not package_of(module)]


def test_imports_go_down() -> None:
    found = modules()
    known = frozenset(found)
    broken = [
        rule
        for module, path in found.items()
        for imported in imports(path.read_text("utf-8"), module, path.name == "__init__.py", known)
        if (rule := breaks(module, imported))
    ]
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("lucid.core.geometry", "import lucid.kernels", "floor 1"),
        ("lucid.autograd.engine", "from lucid.kernels import empty", "floor 1"),
        ("lucid.kernels.jit", "from lucid.autograd import apply", "floor 1"),
        ("lucid.tensor.storage", "def f():\n    from lucid import ops", "floor 3"),
        ("lucid.nn.functional.conv", "from ..modules.conv import Conv1d", "floor 5"),
        ("lucid.optim.adam", "from lucid.nn import Module", "floor 5"),
        ("lucid.nn.modules.conv", "import lucid", "floor 7"),
        ("lucid.kernels.isa.avx2", "from ..algorithms import direct", "may not know"),
        ("lucid.core.errors", "import lucid.somewhere", "no floor names"),
    ],
)
def test_a_planted_fault_is_found(module: str, source: str, expected: str) -> None:
    known = frozenset({"lucid.ops", "lucid.kernels.algorithms.direct"})
    (imported,) = imports(source, module, is_package=False, known=known)
    assert expected in str(breaks(module, imported))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lucid.nn.modules.conv", "from lucid.nn.functional import conv1d"),
        ("lucid.nn.modules.conv", "from .module import Module"),
        ("lucid.cli.main", "import lucid\nfrom lucid.models import DigitsNet"),
        ("lucid.kernels.algorithms.direct", "from lucid.kernels.ir import Loop"),
        ("lucid.io.safetensors", "import numpy as np"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert not [rule for name in imports(source, module, False, frozenset()) if (rule := breaks(module, name))]


def test_the_map_names_every_algorithm_its_roles_and_files():
    short = {"forward": "F", "grad_input": "X", "grad_weight": "W"}
    page = (ROOT / "docs" / "design" / "0001-architecture.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    told = {cells[0].strip("`"): cells for cells in rows if len(cells) == 5}
    assert told.keys() == set(select.ALGORITHMS)
    for name, (_, roles, _, _, files) in told.items():
        asked = getattr(select.algorithm_named(name), "roles", short)
        assert roles == " ".join(short[role] for role in asked), name
        for file in re.findall("`(.+?)`", files):
            assert (SOURCE / "lucid/kernels/algorithms" / f"{file}.py").is_file(), file

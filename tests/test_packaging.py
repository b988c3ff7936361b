"""The wheel is pure Python, complete, and works away from the checkout."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the backend itself, so that no network is needed."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    return folder


def run_outside(installed: Path, *arguments: str) -> str:
    """Run Python where the checkout is not in sight: the installed copy comes first on the path."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=installed,
        env={"PYTHONPATH": str(installed), "PATH": "", "LUCID_NUM_THREADS": "2", "HOME": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_is_pure_python(wheel: Path) -> None:
    assert wheel.name == f"lucid_conv-{PROJECT['project']['version']}-py3-none-any.whl"


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "lucid").rglob("*.py")}
    sources |= {f"lucid/cli/bench/{suite}.json" for suite in ("suite", "heldout", "drawn")}
    assert {name for name in names if not name.split("/")[0].endswith(".dist-info")} == sources | {"lucid/py.typed"}


def test_runtime_dependencies_are_three() -> None:
    names = {requirement.partition(">=")[0] for requirement in PROJECT["project"]["dependencies"]}
    assert names == {"numpy", "llvmlite", "ml-dtypes"}


def test_imports_outside_the_checkout(installed: Path) -> None:
    printed = run_outside(installed, "-c", "import lucid; print(lucid.__file__)")
    assert Path(printed.strip()).is_relative_to(installed)


def test_convolves_outside_the_checkout(installed: Path) -> None:
    code = """
import lucid, lucid.nn as nn
conv = nn.Conv1d(1, 8, kernel_size=3, padding=1)
y = conv(lucid.zeros(4, 1, 16))
y.sum().backward()
print(y.shape, conv.weight.grad.shape)
"""
    assert run_outside(installed, "-c", code) == "(4, 8, 16) (8, 1, 3)\n"


def test_command_says_its_version(installed: Path) -> None:
    printed = run_outside(installed, "-m", "lucid", "--version")
    assert printed == f"lucid {PROJECT['project']['version']}\n"


def test_importing_loads_no_llvm(installed: Path) -> None:
    code = "import sys, lucid; print('llvmlite.binding' in sys.modules)"
    assert run_outside(installed, "-c", code) == "False\n"

"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

import lucid
from lucid.kernels import jit, ledger

# The same examples on every run, and no time limit per example: the machines that run this are shared.
settings.register_profile(
    "lucid", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lucid")


def _verify_quick_code() -> None:
    """Kernels are verified when good code is made of them; before their first call, only here."""
    generate = jit._Quick.generate

    def verified(quick: jit._Quick) -> None:
        jit._llvm().parse_assembly(quick._text).verify()
        generate(quick)

    jit._Quick.generate = verified  # type: ignore[method-assign]


_verify_quick_code()


@pytest.fixture(scope="session", autouse=True)
def weighed_anew() -> Iterator[None]:
    """No plan is from an earlier process, and none is left for a later one: some tests bend what weighs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "_path", lambda: None)
        yield


@pytest.fixture(scope="session")
def seed() -> int:
    """Another one finds a bound that holds by luck: ``LUCID_TEST_SEED=7 make test``."""
    return int(os.environ.get("LUCID_TEST_SEED", "0"))


@pytest.fixture(autouse=True)
def same_numbers(seed: int) -> None:
    """What ``lucid.randn`` and its like draw does not depend on the tests before."""
    lucid.manual_seed(seed)

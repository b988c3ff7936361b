"""The comparison with PyTorch: ``make parity`` installs that and runs what is here, which ``make test`` leaves out."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("torch") is None:
    raise pytest.UsageError("tests/parity compares with PyTorch, which is not installed here: run `make parity`")

import torch

# As many threads as the machines that run this have cores, and no choice of algorithm by trial.
torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def same_numbers_in_torch(seed: int) -> None:
    """What PyTorch draws does not depend on the tests before either."""
    torch.manual_seed(seed)

"""The demo's networks, with the same weights, give PyTorch's scores, losses, gradients and updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import lucid
from lucid.models import DigitsNet, VowelsNet

STEPS = 3


def torch_twin(network: lucid.nn.Module) -> torch.nn.Sequential:
    """The same layers in PyTorch, read off the representation, which is PyTorch's."""
    layers = [eval(f"torch.nn.{layer!r}", {"torch": torch}) for layer in network.children()]
    twin = torch.nn.Sequential(*layers)
    twin.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in network.state_dict().items()})
    return twin


def without_dropout(network: Any) -> Any:
    """Dropout draws from each library's own generator."""
    for layer in network.children():
        if type(layer).__name__ == "Dropout":
            layer.p = 0.0
    return network


@pytest.mark.parametrize(("make", "shape", "classes"), [(DigitsNet, (9, 1, 8, 8), 10), (VowelsNet, (9, 12, 29), 9)])
def test_three_training_steps(make: Callable[[], lucid.nn.Module], shape: tuple[int, ...], classes: int) -> None:
    rng = np.random.default_rng(0)
    lucid.manual_seed(0)
    ours = without_dropout(make())
    theirs = without_dropout(torch_twin(ours))
    # Not Adam: a bias before a batch normalisation has no gradient but rounding, which Adam blows up to full steps.
    optimizers = [
        library.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        for library, network in ((lucid, ours), (torch, theirs))
    ]
    for _ in range(STEPS):
        x, y = rng.standard_normal(shape, np.float32), rng.integers(0, classes, len(np.empty(shape)))
        losses = []
        for library, network, optimizer in zip((lucid, torch), (ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            loss = library.nn.CrossEntropyLoss()(network(library.from_numpy(x)), library.from_numpy(y))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for (name, mine), (_, other) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        np.testing.assert_allclose(np.array(mine), other.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)

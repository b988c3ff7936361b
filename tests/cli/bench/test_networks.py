import numpy as np
import pytest

import lucid
from lucid.cli.bench import programs
from lucid.cli.bench.networks import NETWORKS


@pytest.mark.parametrize(("name", "count"), {"ResNet-18": 11_689_512, "MobileNetV2": 3_504_872}.items())
def test_networks_are_those_of_their_papers(name, count):
    """The numbers of parameters are torchvision's."""
    network = next(network for key, network in NETWORKS.items() if key.startswith(name))
    assert sum(p.numel() for p in network.build(lucid).parameters()) == count


def test_inference_of_a_network_leaves_no_graph_and_says_the_same_twice():
    program = next(p for p in programs.INFERENCES if p.name.startswith("digits"))
    prepared = programs.prepare(program, lucid)
    (y,) = prepared.call()
    assert y.shape == (64, 10) and not y.requires_grad
    assert (prepared.fetch((y,))["y"] == prepared.fetch(prepared.call())["y"]).all()


def test_a_training_step():
    program = next(p for p in programs.TRAININGS if p.name.startswith("HiFi"))
    prepared = programs.prepare(program, lucid)
    first, second = (prepared.fetch(prepared.call())["loss"] for _ in range(2))
    assert np.isfinite(first) and second < first

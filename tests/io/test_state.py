"""Trees of state, there and back."""

from __future__ import annotations

import math
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lucid
from lucid import io, nn, optim
from lucid.core.errors import FormatError


def round_trip(value: Any, path: Path) -> Any:
    lucid.save(value, path)
    return lucid.load(path)


@pytest.mark.parametrize("value", [
    None, True, 3, -(2**70), 0.1, "text", "", b"\x00\xff", [], (), {}, [1, [2.5, None]], (1, (2,), [3]),
    {"a": {"b": [1, (2, {"c": True})]}, 3: "int key"}, {"dict": [["a"]], "tensor": "a", "tuple": ()},
])  # fmt: skip
def test_plain_values(value: Any, tmp_path: Path) -> None:
    loaded = round_trip(value, tmp_path / "f")
    assert loaded == value and repr(loaded) == repr(value)


def test_numbers_that_json_has_no_word_for(tmp_path: Path) -> None:
    loaded = round_trip([math.inf, -math.inf, math.nan, np.float32(1.5), np.int64(3)], tmp_path / "f")
    assert loaded[:2] == [math.inf, -math.inf] and math.isnan(loaded[2]) and loaded[3:] == [1.5, 3]


def test_tensors_anywhere_in_the_tree(tmp_path: Path) -> None:
    tree = {
        "a": {"b": lucid.ones(2)},
        "a.b": lucid.zeros(1),
        "list": [lucid.tensor(3), np.arange(2)],
        "t": (lucid.ones(0),),
    }
    loaded = round_trip(tree, tmp_path / "f")
    assert loaded["a"]["b"].tolist() == [1, 1] and loaded["a.b"].tolist() == [0]
    assert loaded["list"][0].item() == 3 and isinstance(loaded["list"][1], np.ndarray)
    assert isinstance(loaded["t"], tuple) and loaded["t"][0].shape == (0,)
    assert round_trip(lucid.ones(3), tmp_path / "f").tolist() == [1, 1, 1]


def test_a_state_dict_is_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    state = nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3)).state_dict()
    lucid.save(OrderedDict(state), tmp_path / "f")
    plain = io.load_file(tmp_path / "f")
    assert list(plain) == list(state)
    io.save_file(state, tmp_path / "g")
    assert {name: t.tolist() for name, t in lucid.load(tmp_path / "g").items()} == {
        n: t.tolist() for n, t in state.items()
    }


def test_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def start() -> tuple[nn.Module, optim.Optimizer]:
        lucid.manual_seed(1)
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 1))
        return network, optim.AdamW(network.parameters(), lr=0.1)

    def train(network: nn.Module, optimizer: optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            network(lucid.randn(8, 3)).square().mean().backward()
            optimizer.step()

    network, optimizer = start()
    train(network, optimizer, 3)
    lucid.save(
        {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "rng": lucid.get_rng_state()},
        tmp_path / "f",
    )
    train(network, optimizer, 3)
    other, its_optimizer = start()
    kept = lucid.load(tmp_path / "f")
    other.load_state_dict(kept["network"])
    its_optimizer.load_state_dict(kept["optimizer"])
    lucid.set_rng_state(kept["rng"])
    train(other, its_optimizer, 3)
    for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_there_is_one_place_to_load_to(tmp_path: Path) -> None:
    io.save({"weight": lucid.ones(1)}, tmp_path / "f")
    for place in ("cpu", lucid.device("cpu"), None):
        assert io.load(tmp_path / "f", map_location=place, weights_only=True)["weight"].item() == 1
    with pytest.raises(lucid.DeviceError, match="'cuda:0' does not exist here"):
        io.load(tmp_path / "f", "cuda:0")


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"save: a\.0 is a set"):
        lucid.save({"a": [{1}]}, tmp_path / "f")
    with pytest.raises(TypeError, match=r"the key \(1, 2\) of a must be a str or an int"):
        lucid.save({"a": {(1, 2): 3}}, tmp_path / "f")
    with pytest.raises(TypeError, match="the state is a object"):
        lucid.save(object(), tmp_path / "f")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "tree", ["{", '{"tensor": "missing"}', '{"unknown": 1}', '{"a": 1, "b": 2}', '{"dict": 3}', "{}"]
)
def test_a_damaged_tree_is_named(tree: str, tmp_path: Path) -> None:
    io.save_file({}, tmp_path / "f", {"lucid.tree": tree})
    with pytest.raises(FormatError, match=r"f: the metadata 'lucid.tree' does not fit"):
        lucid.load(tmp_path / "f")


def test_open_files() -> None:
    buffer = BytesIO()
    lucid.save({"w": lucid.ones(2), "epoch": 3}, buffer)
    buffer.seek(0)
    found = lucid.load(buffer)
    assert found["w"].tolist() == [1.0, 1.0] and found["epoch"] == 3

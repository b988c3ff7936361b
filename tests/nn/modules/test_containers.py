"""Containers of modules and parameters."""

from __future__ import annotations

from typing import Any

import pytest

import lucid
from lucid import nn


class Plus(nn.Module):
    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: Any) -> Any:
        return x + self.amount


def amounts(modules: Any) -> list[float]:
    return [module.amount for module in modules]


def test_sequential() -> None:
    chain = nn.Sequential(Plus(1), Plus(2), Plus(3))
    assert chain(0) == 6 and len(chain) == 3 and chain[-1].amount == 3
    assert amounts(chain[1:]) == [2, 3] and isinstance(chain[1:], nn.Sequential)
    chain[0] = Plus(10)
    chain.append(Plus(4)).insert(1, Plus(5))
    assert amounts(chain) == [10, 5, 2, 3, 4] and [name for name, _ in chain.named_children()] == list("01234")
    del chain[1:3]
    assert amounts(chain) == [10, 3, 4]
    named = nn.Sequential({"a": Plus(1), "b": Plus(2)})
    assert named(0) == 3 and named.a.amount == 1 and [name for name, _ in named.named_children()] == ["a", "b"]
    assert nn.Sequential()(7) == 7
    for index in (3, -4):
        with pytest.raises(IndexError, match=r"Sequential: index .* out of range for 3 entries"):
            chain[index]
    with pytest.raises(TypeError, match=r"must be an nn\.Module or None, not int"):
        nn.Sequential(3)
    with pytest.raises(TypeError, match=r"0 must be an nn\.Module or None, not the class ReLU"):
        nn.Sequential(nn.ReLU)
    with pytest.raises(TypeError, match=r"one by one, not as a list: Sequential\(\*layers\)"):
        nn.Sequential([nn.ReLU()])


def test_module_list() -> None:
    modules = nn.ModuleList([Plus(1)]) + [Plus(2)]  # noqa: RUF005
    modules += [Plus(3)]
    modules.extend(Plus(i) for i in (4, 5))
    assert amounts(modules) == [1, 2, 3, 4, 5] and amounts(modules[::2]) == [1, 3, 5]
    assert [name for name, _ in nn.ModuleList([nn.Linear(1, 1)]).named_parameters()] == ["0.weight", "0.bias"]
    with pytest.raises(NotImplementedError, match="ModuleList has no forward"):
        modules(1)


def test_module_dict() -> None:
    modules = nn.ModuleDict({"a": Plus(1), "keys of any kind": Plus(2)})
    modules["c"] = Plus(3)
    modules.update([("a", Plus(4))])
    assert list(modules) == ["a", "keys of any kind", "c"] and amounts(modules.values()) == [4, 2, 3]
    assert "a" in modules and "forward" not in modules and len(modules) == 3
    assert modules.pop("a").amount == 4 and "a" not in modules
    del modules["c"]
    with pytest.raises(KeyError, match="'a'"):
        modules["a"]
    modules.clear()
    assert len(modules) == 0


def test_parameter_list() -> None:
    values = nn.ParameterList([lucid.ones(2), nn.Parameter(lucid.zeros(1))])
    values.append(lucid.ones(3))
    assert [name for name, _ in values.named_parameters()] == ["0", "1", "2"]
    assert all(isinstance(value, nn.Parameter) and value.requires_grad for value in values)
    assert list(values.state_dict()) == ["0", "1", "2"]
    assert repr(values).splitlines()[1] == "  (0): Parameter of lucid.float32, shape (2,)"


def test_parameter_dict() -> None:
    values = nn.ParameterDict({"a": lucid.ones(2)})
    values.update({"b": nn.Parameter(lucid.zeros(1))})
    assert list(values.keys()) == ["a", "b"] and all(isinstance(value, nn.Parameter) for value in values.values())
    assert values.pop("a").shape == (2,) and "a" not in values and list(values.state_dict()) == ["b"]
    values.clear()
    assert len(values) == 0

"""What all optimizers share: groups of parameters with their options, and state per parameter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from lucid.autograd import enable_grad
from lucid.core import quiet
from lucid.core.errors import GradientError
from lucid.tensor import Tensor

Array = np.ndarray[Any, Any]
Group = dict[str, Any]


class Optimizer:
    """Changes parameters along their gradients.

    ``params`` is an iterable of tensors, or of dicts that each hold "params" and options of their own. ``param_groups``
    is the list of those dicts; changing an option there (as schedulers change "lr") takes effect at the next step.

    ``foreach``, ``fused`` and ``capturable``, which some take as in PyTorch, choose nothing: one kernel does the step
    of a whole group in any case.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[Mapping[str, Any]], defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.param_groups: list[Group] = []
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)  # a parameter's is empty at first
        if isinstance(params, Tensor):
            raise TypeError(f"{self._name}: params must be an iterable of tensors or of dicts, not one Tensor")
        entries: Any = params
        if not isinstance(entries, Iterable):
            hint = f"; pass .parameters() of the {type(params).__name__}" if hasattr(params, "parameters") else ""
            raise TypeError(f"{self._name}: params must be an iterable of tensors or of dicts{hint}")
        entries = list(entries)
        if not entries:
            raise ValueError(
                f"{self._name}: params is empty: there is nothing to optimize; a module knows the layers that are its "
                "attributes, or in an nn.ModuleList, not those in a plain list"
            )
        groups = entries if isinstance(entries[0], Mapping) else [{"params": entries}]
        for group in groups:
            self.add_param_group(group)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """More parameters, with options of their own; what is not given is taken from the defaults."""
        group = {**self.defaults, **param_group}
        params = group["params"]
        group["params"] = [params] if isinstance(params, Tensor) else list(params)
        known = {id(p) for other in self.param_groups for p in other["params"]}
        for p in group["params"]:
            if not isinstance(p, Tensor):
                raise TypeError(f"{self._name}: params must be tensors, not {type(p).__name__}")
            p.shape  # noqa: B018 - a lazy layer's parameter that has none says what to do
            if not p.is_leaf:
                raise GradientError(
                    f"{self._name}: a tensor of shape {p.shape} is a result, only leaves can be optimized"
                )
            if id(p) in known:
                raise ValueError(f"{self._name}: a parameter of shape {p.shape} appears twice")
            known.add(id(p))
        self._check_options(group)
        self.param_groups.append(group)

    def _check_options(self, group: Group) -> None:
        """Refuse options that mean nothing."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or set them to zero."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none or p.grad is None:
                    p.grad = None
                else:
                    p.grad._array[...] = 0
                    p.grad._version[0] += 1

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient. ``closure``, if given, computes the loss, which is returned."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                with quiet.numpy():
                    self._update(group, params)
                for p in params:
                    p._version[0] += 1
        return loss

    def _update(self, group: Group, params: list[Tensor]) -> None:
        """One step of a group, on the parameters that have a gradient."""
        raise NotImplementedError

    def _states(self, params: list[Tensor], name: str) -> list[Array]:
        """One array per parameter, kept from step to step under ``name``, zeros at first."""
        arrays = []
        for p in params:
            state = self.state.setdefault(p, {})
            if name not in state:
                state[name] = Tensor(np.zeros_like(p._array))
            arrays.append(_elements(state[name]))
        return arrays

    def _counted(self, params: list[Tensor]) -> list[int]:
        """How many steps each parameter has taken, this one included."""
        for p in params:
            state = self.state.setdefault(p, {})
            state["step"] = state.get("step", 0) + 1
        return [self.state[p]["step"] for p in params]

    def state_dict(self) -> dict[str, Any]:
        """Options and state, with numbers in the place of parameters: entry i is the i-th over all groups."""
        numbers = self._numbers()
        groups = [{**group, "params": [numbers[id(p)] for p in group["params"]]} for group in self.param_groups]
        state = {numbers[id(p)]: dict(entries) for p, entries in self.state.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over options and state, copied.

        Raises:
            ValueError: another kind of optimizer, other numbers of groups or parameters, or a state of another shape.
                Nothing is changed then.
        """
        self._check_kind(state_dict)
        groups, saved = self.param_groups, state_dict["param_groups"]
        ours, theirs = ([len(group["params"]) for group in g] for g in (groups, saved))
        if ours != theirs:
            raise ValueError(f"{self._name}: the state has groups of {theirs} parameters, the optimizer of {ours}")
        of_number = {
            number: p
            for group, other in zip(groups, saved, strict=True)
            for number, p in zip(other["params"], group["params"], strict=True)
        }
        state = {
            of_number[number]: {
                name: _taken(self._name, name, value, of_number[number]) for name, value in entries.items()
            }
            for number, entries in state_dict["state"].items()
        }
        for group, other in zip(groups, saved, strict=True):
            group.update({key: value for key, value in other.items() if key != "params"})
        self.state = defaultdict(dict, state)

    def _check_kind(self, state_dict: Mapping[str, Any]) -> None:
        if not {"state", "param_groups"} <= state_dict.keys():
            raise ValueError(
                f"{self._name}: an optimizer's state has the keys 'state' and 'param_groups', not "
                f"{', '.join(map(repr, state_dict))}"
            )
        for group in state_dict["param_groups"]:
            if missing := self.defaults.keys() - group.keys():
                raise ValueError(
                    f"{self._name}: the state of another optimizer: it has no {', '.join(sorted(missing))}"
                )

    def _numbers(self) -> dict[int, int]:
        params = (p for group in self.param_groups for p in group["params"])
        return {id(p): i for i, p in enumerate(params)}

    def __repr__(self) -> str:
        lines = [f"{self._name} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {value}" for key, value in sorted(group.items()) if key != "params"]
        return "\n".join([*lines, ")"])


def values(params: list[Tensor]) -> list[Array]:
    """The parameters' own memory."""
    return [_elements(p) for p in params]


def gradients(params: list[Tensor]) -> list[Array]:
    """The gradients' own memory."""
    return [_elements(p.grad) for p in params]


def _elements(tensor: Tensor) -> Array:
    """The memory as real numbers: a complex number is optimized as its two parts."""
    array = tensor._array
    return array[..., None].view(array.real.dtype) if array.dtype.kind == "c" else array


def _taken(caller: str, name: str, value: Any, p: Tensor) -> Any:
    """A copy of one state entry, in the parameter's type."""
    if not isinstance(value, (Tensor, np.ndarray)):
        return value
    array = value.detach()._array if isinstance(value, Tensor) else value
    if array.ndim == 0 and (name == "step" or p.ndim):  # PyTorch keeps numbers in tensors
        return int(array) if name == "step" else array.item()
    if array.shape != p.shape:
        raise ValueError(f"{caller}: state {name!r} {array.shape} belongs to another parameter than one of {p.shape}")
    return Tensor(array.astype(p._array.dtype))


def check_ways(caller: str, differentiable: bool) -> None:
    """Refuse to record a step: it writes parameters in place."""
    if differentiable:
        raise ValueError(
            f"{caller}: differentiable=True is not there; to differentiate through a step, write it out: "
            "w = w - lr * lucid.autograd.grad(loss, w, create_graph=True)[0]"
        )


def check_betas(caller: str, group: Group) -> None:
    """Refuse what are no two parts of what was."""
    if len(group["betas"]) != 2 or not all(0 <= beta < 1 for beta in group["betas"]):
        raise ValueError(f"{caller}: betas={group['betas']} must be two numbers in 0 … 1, without 1")


def check_at_least_zero(caller: str, group: Group, *names: str) -> None:
    """Refuse negative (or NaN) options."""
    for name in names:
        if not group[name] >= 0:
            raise ValueError(f"{caller}: {name}={group[name]} must be at least 0")

"""Parameters and buffers that are functions of others: the mechanism, with PyTorch's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from lucid.autograd import no_grad
from lucid.nn.modules.computed import Computed, cached, forget
from lucid.nn.modules.containers import ModuleDict, ModuleList
from lucid.nn.modules.module import BUFFERS, PARAMETER, Module
from lucid.nn.parameter import Parameter
from lucid.tensor import Tensor

__all__ = [
    "ParametrizationList",
    "cached",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
]

M = TypeVar("M", bound=Module)


class ParametrizationList(ModuleList):
    """The parametrizations of one tensor, the first first, and what they are applied to.

    That is ``original``, or ``original0``, ``original1``, … where the first one's ``right_inverse`` gives several.
    """

    def __init__(self, modules: Sequence[Module], original: Tensor, unsafe: bool = False) -> None:
        super().__init__(modules)
        self.unsafe = unsafe
        with no_grad():
            made = self._undone(original, strict=False)
            self.is_tensor = isinstance(made, Tensor)
            self.ntensors = 1 if self.is_tensor else len(made)
            if self.is_tensor and made.dtype is not original.dtype:
                raise ValueError(
                    f"register_parametrization: right_inverse makes {made.dtype!r} of {original.dtype!r}; where it "
                    "makes one tensor, it must keep the dtype"
                )
            if not unsafe:
                _check_alike("the parametrization", original, self._applied(made))
            if self.is_tensor:
                self._hold("original", _put(original, made), original)
                return
            for i, part in enumerate(made):
                self._hold(f"original{i}", part.detach().clone(), original)

    def _hold(self, name: str, value: Tensor, like: Tensor) -> None:
        if not isinstance(like, Parameter):
            self.register_buffer(name, value)
        else:
            of_it = value if isinstance(value, Parameter) else Parameter(value, like.requires_grad)
            self.register_parameter(name, of_it)

    @property
    def originals(self) -> list[Tensor]:
        """What the parametrizations are applied to."""
        names = ["original"] if self.is_tensor else [f"original{i}" for i in range(self.ntensors)]
        return [getattr(self, name) for name in names]

    def forward(self) -> Tensor:
        """The tensor that they make."""
        return self._applied(self.original if self.is_tensor else self.originals)

    def _applied(self, originals: Any) -> Tensor:
        first, *rest = self
        value: Tensor = first(originals) if isinstance(originals, Tensor) else first(*originals)
        for parametrization in rest:
            value = parametrization(value)
        return value

    def right_inverse(self, value: Tensor) -> None:
        """Set the originals so that the tensor becomes ``value``, by each parametrization's ``right_inverse``.

        Raises:
            RuntimeError: One of them has none.
            ValueError: What they make differs in dtype or number from the originals.
        """
        with no_grad():
            made = self._undone(value, strict=True)
            parts = [made] if isinstance(made, Tensor) else list(made)
            if [p.dtype for p in parts] != [p.dtype for p in self.originals]:
                raise ValueError(
                    f"right_inverse: it makes {[p.dtype for p in parts]}, the originals are "
                    f"{[p.dtype for p in self.originals]}"
                )
            for original, part in zip(self.originals, parts, strict=True):
                _put(original, part)

    def _undone(self, value: Tensor, strict: bool) -> Any:
        """The originals of a value; unless ``strict``, what has no right inverse is taken to be its own."""
        made: Any = value
        for parametrization in reversed(list(self)):
            if hasattr(parametrization, "right_inverse"):
                try:
                    made = parametrization.right_inverse(made)
                except NotImplementedError:
                    if strict:
                        raise
            elif strict:
                raise RuntimeError(f"the parametrization {type(parametrization).__name__} has no right_inverse")
        if not isinstance(made, Tensor) and not (
            isinstance(made, Sequence) and all(isinstance(part, Tensor) for part in made)
        ):
            raise ValueError(f"right_inverse must return a tensor or a sequence of tensors, not {type(made).__name__}")
        return made


class _Parametrized(Computed):
    """A tensor that the module's ``parametrizations`` make."""

    def __init__(self, name: str) -> None:
        self.name = name

    def get(self, module: Any) -> Tensor:
        """The parametrizations' value."""
        value: Tensor = module.parametrizations[self.name]()
        return value

    def set(self, module: Any, value: Tensor) -> None:
        """The originals by right inverses."""
        module.parametrizations[self.name].right_inverse(value)

    def fix(self, module: Any) -> None:
        """The value for the parametrizations."""
        remove_parametrizations(module, self.name)

    def earlier_names(self, module: Any) -> Mapping[str, str]:
        """Those that the first parametrization says its originals had, beside the tensor."""
        suffixes = getattr(module.parametrizations[self.name][0], "earlier_suffixes", ())
        inside = f"parametrizations.{self.name}.original"
        return {f"{self.name}{suffix}": f"{inside}{i}" for i, suffix in enumerate(suffixes)}


def register_parametrization(module: M, tensor_name: str, parametrization: Module, *, unsafe: bool = False) -> M:
    """The module, whose tensor is ``parametrization`` of the one that it had, or of its parametrization before.

    It is computed at every access; ``module.parametrizations[tensor_name].original`` is what is trained and saved. A
    method ``right_inverse`` of the parametrization says what the original is for a value, at first and whenever the
    tensor is assigned; without one it is the value. Where it returns several, they are ``original0``, ``original1``,
    … and the parametrization takes them all. ``unsafe`` lets it change shape and dtype.

    Raises:
        ValueError: The module has no such parameter or buffer, or the parametrization changes its shape or dtype.

    >>> from lucid.nn import Linear
    >>> class Squared(Module):
    ...     def forward(self, x):
    ...         return x * x
    >>> layer = register_parametrization(Linear(2, 1, bias=False), "weight", Squared())
    >>> list(layer.state_dict()), bool((layer.weight >= 0).all())
    (['parametrizations.weight.original'], True)
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        chain: ParametrizationList = module.parametrizations[tensor_name]
        if not unsafe:
            _check_next(parametrization, chain)
        chain.append(parametrization)
        chain.unsafe |= unsafe
        forget(module, tensor_name)
        return module
    original = getattr(module, tensor_name) if module._kinds.get(tensor_name) in (PARAMETER, *BUFFERS) else None
    if original is None:
        raise ValueError(
            f"register_parametrization: {type(module).__name__} has no parameter or buffer {tensor_name!r}"
        )
    is_first = not is_parametrized(module)
    if is_first and hasattr(module, "parametrizations"):
        raise ValueError(f"register_parametrization: {type(module).__name__} has 'parametrizations' of its own")
    parts = ParametrizationList([parametrization], original, unsafe)
    module._compute(tensor_name, _Parametrized(tensor_name))
    if is_first:
        module.parametrizations = ModuleDict()
    module.parametrizations[tensor_name] = parts
    return module


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether the module has a parametrization, of this tensor or of any."""
    return any(
        isinstance(computed, _Parametrized) and tensor_name in (None, name)
        for name, computed in module._computed.items()
    )


def remove_parametrizations(module: M, tensor_name: str, leave_parametrized: bool = True) -> M:
    """The module with the tensor as one parameter or buffer again, of the value it has or of its ``original``'s.

    A single original stays the same object, so that optimizers know it. One that has several is a new parameter, which
    only ``leave_parametrized`` can give.

    Raises:
        ValueError: It is not parametrized, or has several originals and is not to be left as it is.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"remove_parametrizations: {tensor_name!r} of {type(module).__name__} is not parametrized")
    parts: ParametrizationList = module.parametrizations[tensor_name]
    if not (leave_parametrized or parts.is_tensor):
        raise ValueError(
            f"remove_parametrizations: {tensor_name!r} of {type(module).__name__} is made of {parts.ntensors} tensors, "
            "so leave_parametrized=False has none to leave"
        )
    value = parts.originals[0]
    if leave_parametrized:
        with no_grad():
            made = parts()
        value = _put(value, made) if parts.is_tensor else _of_kind(made, parts.originals)
    del module.parametrizations[tensor_name]
    if not len(module.parametrizations):
        del module.parametrizations
    module._compute_no_more(tensor_name, value)
    return module


def _of_kind(value: Tensor, originals: Sequence[Tensor]) -> Tensor:
    """A parameter if the originals are, trained if one of them is."""
    if not isinstance(originals[0], Parameter):
        return value
    made: Tensor = Parameter(value, any(original.requires_grad for original in originals))
    return made


def _put(target: Tensor, value: Tensor) -> Tensor:
    """The same tensor with the values of another, and its shape."""
    if value is not target:
        if value.shape == target.shape:
            target._array[...] = value._array
        else:
            target._array = np.array(value._array)
        target._version[0] += 1
    return target


def _check_next(parametrization: Module, chain: ParametrizationList) -> None:
    with no_grad():
        before = chain()
        after = parametrization(before)
        _check_alike("the parametrization", before, after)
        if hasattr(parametrization, "right_inverse"):
            with suppress(NotImplementedError):
                _check_alike("right_inverse", before, parametrization.right_inverse(after))


def _check_alike(what: str, before: Tensor, after: Any) -> None:
    if not isinstance(after, Tensor):
        raise ValueError(f"register_parametrization: {what} must return a tensor, not {type(after).__name__}")
    if after.dtype is not before.dtype or after.shape != before.shape:
        raise ValueError(
            f"register_parametrization: {what} makes {after.dtype!r} {after.shape} of {before.dtype!r} "
            f"{before.shape}; unsafe=True lets it"
        )

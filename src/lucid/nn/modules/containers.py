"""Modules that hold other modules or parameters."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, overload

from lucid.nn.modules.module import MODULE, PARAMETER, Module
from lucid.nn.modules.runs import run
from lucid.nn.parameter import Parameter
from lucid.tensor import Tensor


class _Listed(Module):
    """Entries under the names "0", "1", …"""

    _entry_kind = MODULE

    def _entries(self) -> list[Any]:
        return [self.__dict__[name] for name, kind in self._kinds.items() if kind == self._entry_kind]

    def _names(self) -> list[str]:
        return [name for name, kind in self._kinds.items() if kind == self._entry_kind]

    def _put(self, name: str, entry: Any) -> None:
        self.add_module(name, entry)

    def _replace_all(self, entries: Iterable[Any]) -> None:
        """Number the entries anew."""
        entries = list(entries)
        for name in self._names():
            delattr(self, name)
        for i, entry in enumerate(entries):
            self._put(str(i), entry)

    def _name_at(self, index: int) -> str:
        names = self._names()
        index = operator.index(index)
        if not -len(names) <= index < len(names):
            raise IndexError(f"{type(self).__name__}: index {index} is out of range for {len(names)} entries")
        return names[index]

    def __len__(self) -> int:
        return len(self._names())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._entries())

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            return self.__dict__[self._name_at(index)]
        part = type(self)()
        part._replace_all(self._entries()[index])
        return part

    def __setitem__(self, index: int, entry: Any) -> None:
        self._put(self._name_at(index), entry)

    def __delitem__(self, index: int | slice) -> None:
        entries = self._entries()
        del entries[index]
        self._replace_all(entries)

    def append(self, entry: Any) -> Self:
        """Add at the end."""
        self._put(str(len(self)), entry)
        return self

    def extend(self, entries: Iterable[Any]) -> Self:
        """Add several at the end."""
        for entry in list(entries):
            self.append(entry)
        return self

    def insert(self, index: int, entry: Any) -> Self:
        """Add before the entry at ``index``."""
        entries = self._entries()
        entries.insert(index, entry)
        self._replace_all(entries)
        return self


class Sequential(_Listed):
    """Modules one after the other, each fed with what the one before gives.

    Takes the modules, or one dict of names to modules. Where no gradient is recorded, a convolution's kernel also does
    what a batch norm and an activation right behind it would; modules with hooks are left alone.

    >>> Sequential(Sequential(), Sequential())
    Sequential(
      (0): Sequential()
      (1): Sequential()
    )
    """

    @overload
    def __init__(self, *modules: Module) -> None: ...
    @overload
    def __init__(self, modules: Mapping[str, Module], /) -> None: ...
    def __init__(self, *modules: Any) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], (list, tuple)):
            raise TypeError(f"{type(self).__name__}: layers are given one by one, not as a list: Sequential(*layers)")
        named = modules[0] if len(modules) == 1 and isinstance(modules[0], Mapping) else None
        for name, module in named.items() if named is not None else enumerate(modules):
            self.add_module(str(name), module)

    def forward(self, input: Any) -> Any:
        """The last module's result."""
        return run(self._entries(), input)


class ModuleList(_Listed):
    """A list whose modules belong to the network. It has no ``forward``."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])

    def __iadd__(self, other: Iterable[Module]) -> Self:
        return self.extend(other)


class ParameterList(_Listed):
    """A list whose parameters belong to the network; a plain tensor becomes a parameter."""

    _entry_kind = PARAMETER

    def __init__(self, values: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.extend(values)

    def _put(self, name: str, entry: Any) -> None:
        self.register_parameter(name, entry if isinstance(entry, Parameter) else Parameter(entry))

    def extra_repr(self) -> str:
        """One line per parameter."""
        return "\n".join(f"({i}): Parameter of {p.dtype!r}, shape {p.shape}" for i, p in enumerate(self._entries()))


class _Named(Module):
    """Entries under names of one's own."""

    _entry_kind = MODULE

    def _put(self, name: str, entry: Any) -> None:
        self.add_module(name, entry)

    def update(self, entries: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
        """Add or replace several."""
        for name, entry in entries.items() if isinstance(entries, Mapping) else entries:
            self[name] = entry

    def keys(self) -> Iterable[str]:
        """Names, in order."""
        return [name for name, kind in self._kinds.items() if kind == self._entry_kind]

    def values(self) -> Iterable[Any]:
        """Entries, in order."""
        return [self.__dict__[name] for name in self.keys()]

    def items(self) -> Iterable[tuple[str, Any]]:
        """(name, entry), in order."""
        return [(name, self.__dict__[name]) for name in self.keys()]

    def pop(self, name: str) -> Any:
        """Take one out."""
        entry = self[name]
        del self[name]
        return entry

    def clear(self) -> None:
        """Take all out."""
        for name in self.keys():
            delattr(self, name)

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return self.__dict__[name]

    def __setitem__(self, name: str, entry: Any) -> None:
        self._put(name, entry)

    def __delitem__(self, name: str) -> None:
        self[name]
        delattr(self, name)

    def __len__(self) -> int:
        return len(list(self.keys()))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._kinds.get(name) == self._entry_kind


class ModuleDict(_Named):
    """A dict whose modules belong to the network. It has no ``forward``."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()) -> None:
        super().__init__()
        self.update(modules)


class ParameterDict(_Named):
    """A dict whose parameters belong to the network; a plain tensor becomes a parameter."""

    _entry_kind = PARAMETER

    def __init__(self, parameters: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] = ()) -> None:
        super().__init__()
        self.update(parameters)

    def _put(self, name: str, entry: Any) -> None:
        self.register_parameter(name, entry if isinstance(entry, Parameter) else Parameter(entry))

    def extra_repr(self) -> str:
        """One line per parameter."""
        return "\n".join(f"({name}): Parameter of {p.dtype!r}, shape {p.shape}" for name, p in self.items())


class DataParallel(Module):
    """The module itself, under the name ``module``: there is one device. Threads share every call in any case."""

    def __init__(self, module: Module, device_ids: Any = None, output_device: Any = None, dim: int = 0) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """What the module computes."""
        return self.module(*inputs, **kwargs)

"""``Module``: what holds parameters, buffers and other modules, and is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from types import FunctionType
from typing import Any, NamedTuple, Self

import numpy as np

from lucid.autograd import RemovableHandle
from lucid.autograd.mode import mode
from lucid.core.dtypes import DTYPES, DTypeLike, as_dtype
from lucid.core.errors import DTypeError
from lucid.nn.modules.computed import Computed, forget, value_of
from lucid.nn.modules.crossing import Crossing
from lucid.nn.parameter import Parameter, is_uninitialized
from lucid.tensor import Device, Tensor
from lucid.tensor.layout import MemoryFormat, check_memory_format

# What an attribute is to its module. Everything else is a plain attribute.
PARAMETER, BUFFER, TRANSIENT, MODULE = "parameter", "buffer", "transient buffer", "module"
BUFFERS = (BUFFER, TRANSIENT)
_DTYPE_NAMES = frozenset(d.name for d in DTYPES)

# When a hook is called: around ``forward``, and around the backward pass through it.
BEFORE, AFTER, BEFORE_GRAD, AFTER_GRAD = "before", "after", "before the gradient", "after the gradient"
BEFORE_LOAD = "before a state dict"


class Watcher(NamedTuple):
    """A hook and when it is called."""

    when: str
    call: Callable[..., Any]
    with_kwargs: bool = False


class Incompatible(NamedTuple):
    """What ``load_state_dict`` did not find a partner for."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base of all layers and networks.

    A subclass calls ``super().__init__()`` first, assigns its parameters and layers as attributes, and says in
    ``forward`` what it computes. It is then called like a function.

    >>> class Scale(Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = Parameter(Tensor([3.0]))
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> Scale()(Tensor([1.0, 2.0])).tolist(), list(Scale().state_dict())
    ([3.0, 6.0], ['factor'])
    """

    training: bool
    _kinds: dict[str, str]  # the registered attributes, in order; their values are ordinary attributes
    _computed: dict[str, Computed]  # those that have no value of their own
    _watchers: dict[int, Watcher]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("_"):
            _say_own_name(cls, "__init__")
            _say_own_name(cls, "forward")

    def __init__(self) -> None:
        # Past __setattr__, which needs the registry to exist.
        self.__dict__.update(training=True, _kinds={}, _computed={}, _watchers={})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; every subclass says."""
        raise NotImplementedError(f"{type(self).__name__} has no forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if not self._watchers:
                return self.forward(*args, **kwargs)
            return self._watched_call(args, kwargs)
        except Exception as error:
            locate(error, self)
            raise

    def _watched_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``forward`` with the hooks before and after it, and those that wait for gradients."""
        watchers = list(self._watchers.values())
        for one in [w for w in watchers if w.when == BEFORE]:
            if one.with_kwargs:
                changed = one.call(self, args, kwargs)
                args, kwargs = (args, kwargs) if changed is None else changed
            elif (changed := one.call(self, args)) is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        seen = [[w.call for w in watchers if w.when == when] for when in (BEFORE_GRAD, AFTER_GRAD)]
        crossing = Crossing(self, *seen) if any(seen) and mode.recording else None
        if crossing is not None:
            args = crossing.enter(args)
        result = self.forward(*args, **kwargs)
        for one in [w for w in self._watchers.values() if w.when == AFTER]:
            changed = one.call(self, args, kwargs, result) if one.with_kwargs else one.call(self, args, result)
            result = result if changed is None else changed
        return result if crossing is None else crossing.leave(result)

    # Attributes

    def __setattr__(self, name: str, value: Any) -> None:
        kinds, computed = self.__dict__.get("_kinds"), self.__dict__.get("_computed")
        if computed and name in computed:
            computed[name].set(self, value)
            return forget(self, name)
        if isinstance(value, Parameter):
            self._enroll(name, PARAMETER)
        elif isinstance(value, Module):
            self._enroll(name, MODULE)
        elif kinds is not None and name in kinds and value is not None:
            kind = kinds[name]
            if kind not in BUFFERS or not isinstance(value, Tensor):
                wanted = {PARAMETER: "an nn.Parameter", MODULE: "an nn.Module"}.get(kind, "a Tensor")
                raise TypeError(
                    f"{type(self).__name__}: {name} is a {kind}, so it must be {wanted} or None, "
                    f"not {type(value).__name__}"
                )
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._kinds.pop(name, None)

    def __getattr__(self, name: str) -> Any:
        # Only reached when there is no such attribute.
        if name in self.__dict__.get("_computed", ()):
            return value_of(self, name)
        if "_kinds" not in self.__dict__ and name in ("_kinds", "_computed", "_watchers", "training"):
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before anything else in __init__")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _enroll(self, name: str, kind: str) -> None:
        kinds = self.__dict__.get("_kinds")
        if kinds is None:
            raise AttributeError(
                f"{type(self).__name__}: call super().__init__() before assigning the {kind} {name!r} in __init__"
            )
        if kinds.get(name) != kind:
            kinds.pop(name, None)
            kinds[name] = kind

    def _checked_name(self, name: str, kind: str) -> None:
        if not isinstance(name, str) or "." in name or not name:
            raise KeyError(f"{type(self).__name__}: the {kind} name {name!r} must be a text without dots, not empty")
        if hasattr(self, name) and name not in self._kinds:
            raise KeyError(f"{type(self).__name__}: the {kind} name {name!r} is already an attribute")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter, or with None a place for one that does not exist here (as ``bias`` without bias)."""
        self._checked_name(name, PARAMETER)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"{type(self).__name__}: {name} must be an nn.Parameter or None, not {type(param).__name__}"
            )
        self._enroll(name, PARAMETER)
        object.__setattr__(self, name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that belongs to the module's state but is not trained; not saved unless ``persistent``."""
        self._checked_name(name, BUFFER)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"{type(self).__name__}: {name} must be a Tensor or None, not {type(tensor).__name__}")
        self._enroll(name, BUFFER if persistent else TRANSIENT)
        object.__setattr__(self, name, tensor)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a module under a name that need not be an identifier."""
        self._checked_name(name, MODULE)
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__}: {name} must be an nn.Module or None, not {_called(module)}")
        self._enroll(name, MODULE)
        object.__setattr__(self, name, module)

    register_module = add_module

    def _compute(self, name: str, computed: Computed) -> None:
        """From now on compute what has been a parameter or a buffer."""
        if hasattr(type(self), name):
            raise ValueError(f"{type(self).__name__}: {name!r} is an attribute of the class too, which would be seen")
        delattr(self, name)
        forget(self, name)
        self._computed[name] = computed

    def _compute_no_more(self, name: str, value: Tensor) -> None:
        """Let a parameter or a buffer take the place of what was computed."""
        del self._computed[name]
        forget(self, name)
        register: Callable[..., None] = (
            self.register_parameter if isinstance(value, Parameter) else self.register_buffer
        )
        register(name, value)

    # Walks

    def _registered(self, *kinds: str) -> Iterator[tuple[str, Any]]:
        """The attributes of these kinds that are there."""
        for name, kind in self._kinds.items():
            if kind in kinds and self.__dict__[name] is not None:
                yield name, self.__dict__[name]

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules assigned to this one, each once."""
        seen: set[int] = set()
        for name, module in self._registered(MODULE):
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def children(self) -> Iterator[Module]:
        """The modules assigned to this one, each once."""
        return (module for _, module in self.named_children())

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it with their dotted names, each once unless asked otherwise."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._registered(MODULE):
            yield from module.named_modules(memo, _dotted(prefix, name), remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def _named(
        self, kinds: tuple[str, ...], prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        owners = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for path, module in owners:
            for name, value in module._registered(*kinds):
                if id(value) not in seen:
                    if remove_duplicate:
                        seen.add(id(value))
                    yield _dotted(path, name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """The parameters with their dotted names, a shared one once unless asked otherwise."""
        return self._named((PARAMETER,), prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, each once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The buffers with their dotted names."""
        return self._named(BUFFERS, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """The module of a dotted name; this one for the empty name."""
        module = self
        for step in target.split(".") if target else ():
            if module._kinds.get(step) != MODULE:
                raise AttributeError(f"{type(self).__name__} has no module {target!r}: nothing at {step!r}")
            module = module.__dict__[step]
        return module

    @property
    def _modules(self) -> dict[str, Any]:
        return _Registry(self, MODULE)

    @property
    def _parameters(self) -> dict[str, Any]:
        return _Registry(self, PARAMETER)

    @property
    def _buffers(self) -> dict[str, Any]:
        return _Registry(self, *BUFFERS)

    def get_buffer(self, target: str) -> Tensor:
        """The buffer of a dotted name."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if module._kinds.get(name) not in BUFFERS:
            raise AttributeError(f"{type(self).__name__} has no buffer {target!r}")
        return module.__dict__[name]  # type: ignore[no-any-return]

    def set_submodule(self, target: str, module: Module) -> None:
        """Put a module in the place of a dotted name."""
        path, _, name = target.rpartition(".")
        owner = self.get_submodule(path)
        self.get_submodule(target)
        owner.add_module(name, module)

    def get_parameter(self, target: str) -> Parameter:
        """The parameter of a dotted name."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if module._kinds.get(name) != PARAMETER:
            raise AttributeError(f"{type(self).__name__} has no parameter {target!r}")
        return module.__dict__[name]  # type: ignore[no-any-return]

    # State

    def state_dict(
        self, *, destination: dict[str, Tensor] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """Every parameter and persistent buffer by its dotted name, sharing memory with the module.

        A parameter that two modules share appears under both names, as in PyTorch. What a lazy layer has not given a
        shape yet appears as it is. ``destination``, if given, is the dict to add to.
        """
        state: dict[str, Tensor] = {} if destination is None else destination
        for kind in (PARAMETER, BUFFER):
            for name, value in self._registered(kind):
                state[prefix + name] = value if keep_vars or is_uninitialized(value) else value.detach()
        for name, module in self._registered(MODULE):
            state.update(module.state_dict(prefix=f"{prefix}{name}.", keep_vars=keep_vars))
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Incompatible:
        """Copy values into the parameters and buffers, cast to their types. All names and shapes are checked first.

        Those of a lazy layer before its first input take over the shapes, too. ``assign`` is refused: optimizers know
        the parameters that there are.

        Raises:
            RuntimeError: listing every missing and unexpected name (only if ``strict``) and every shape that differs.
                Nothing is changed then.
        """
        if assign:
            raise ValueError(
                f"{type(self).__name__}: load_state_dict(assign=True) is not there: values are copied into the "
                "parameters, which keep their types; .to(dtype) before that changes these"
            )
        if not isinstance(state_dict, Mapping):
            raise TypeError(
                f"{type(self).__name__}: load_state_dict takes a dict of tensors, as lucid.load(path) gives, "
                f"not {type(state_dict).__name__}"
            )
        state_dict, own = self._renamed(state_dict), self.state_dict(keep_vars=True)
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        shared = {name: (tensor, state_dict[name]) for name, tensor in own.items() if name in state_dict}
        faults = [f"Missing key(s): {', '.join(map(repr, missing))}."] if strict and missing else []
        faults += [f"Unexpected key(s): {', '.join(map(repr, unexpected))}."] if strict and unexpected else []
        faults += _prefix_fault(missing, unexpected) if strict else []
        faults += [
            f"Size mismatch for {name!r}: {_shape(value)} in the state dict, {tensor.shape} in the module."
            for name, (tensor, value) in shared.items()
            if not is_uninitialized(tensor) and _shape(value) != tensor.shape
        ]
        if faults:
            raise RuntimeError(f"{type(self).__name__}: the state dict does not fit:\n  " + "\n  ".join(faults))
        for tensor, value in shared.values():
            if is_uninitialized(tensor):
                if is_uninitialized(value):
                    continue
                tensor.materialize(np.shape(value))
            source = value.detach() if isinstance(value, Tensor) else Tensor(value)
            tensor._array[...] = source.to(tensor.dtype)._array
            tensor._version[0] += 1
        return Incompatible(missing, unexpected)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        """A subclass may rename entries of ``state_dict`` in place, before they are looked at.

        It is called as PyTorch's: with the prefix of the module's own names, and five arguments of no use here.
        """

    def _register_load_state_dict_pre_hook(self, hook: Callable[..., Any], with_module: bool = False) -> Any:
        """Call ``hook(state_dict, prefix, …)``, which may rename entries, before a state dict is looked at."""
        call = partial(hook, self) if with_module else hook
        return RemovableHandle(self._watchers, Watcher(BEFORE_LOAD, call))

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> Any:
        """The same with the module as first argument."""
        return self._register_load_state_dict_pre_hook(hook, with_module=True)

    def _rewritten(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the modules' own loading and hooks make of the names."""
        copied: dict[str, Any] | None = None
        for path, module in self.named_modules(remove_duplicate=False):
            calls = [w.call for w in module._watchers.values() if w.when == BEFORE_LOAD]
            if type(module)._load_from_state_dict is not Module._load_from_state_dict:
                calls.append(module._load_from_state_dict)
            for call in calls:
                copied = dict(state_dict) if copied is None else copied
                call(copied, f"{path}." if path else "", {}, True, [], [], [])
        return state_dict if copied is None else copied

    def _renamed(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """The state dict with this form's names for those that computed attributes know of other forms."""
        state_dict = self._rewritten(state_dict)
        names: dict[str, str] = {}
        for path, module in self.named_modules(remove_duplicate=False):
            for computed in module._computed.values():
                here = {_dotted(path, old): _dotted(path, new) for old, new in computed.earlier_names(module).items()}
                if all(old in state_dict for old in here):
                    names |= here
        return {names.get(name, name): value for name, value in state_dict.items()} if names else state_dict

    # Changes to the whole tree

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call ``fn`` with every module below and then with this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Switch to training (or not): what dropout and batch normalisation look at."""
        if not isinstance(mode, bool):
            raise TypeError(f"{type(self).__name__}.train: mode={mode!r} must be True or False")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch to evaluation."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let all parameters take part in gradients, or none."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or set them to zero."""
        for parameter in self.parameters():
            if set_to_none or parameter.grad is None:
                parameter.grad = None
            else:
                parameter.grad._array[...] = 0
                parameter.grad._version[0] += 1

    def to(
        self,
        *args: Any,
        device: Device | str | None = None,
        dtype: DTypeLike = None,
        non_blocking: bool = False,
        memory_format: MemoryFormat | None = None,
    ) -> Self:
        """Move to a device or change the type of all floating-point parameters and buffers, in place.

        Takes a device, a dtype or a tensor to be like, by position or name. ``non_blocking`` and ``memory_format`` are
        taken, and have nothing to do: kernels arrange what they read.
        """
        check_memory_format(f"{type(self).__name__}.to", memory_format)
        for arg in args:
            if isinstance(arg, Tensor):
                dtype = arg.dtype
            elif isinstance(arg, Device) or (isinstance(arg, str) and arg not in _DTYPE_NAMES):
                device = arg
            elif arg is not None:
                dtype = arg
        if device is not None:
            Device(device)
        return self if dtype is None else self._cast(dtype)

    def _cast(self, dtype: DTypeLike) -> Self:
        wanted = as_dtype(dtype)
        if not wanted.is_differentiable:
            raise DTypeError(f"{type(self).__name__}.to: dtype={wanted!r} must be floating-point or complex")
        for tensor in chain(self.parameters(), self.buffers()):
            if is_uninitialized(tensor):
                tensor.recast(wanted)
            elif tensor.dtype.is_differentiable and tensor.dtype is not wanted:
                for part in (tensor, tensor.grad):
                    if part is not None:
                        part._array = part.detach().to(wanted)._array
                        part._version = [part._version[0] + 1]
        return self

    def type(self, dst_type: DTypeLike) -> Self:
        """All floating-point parameters and buffers as this type."""
        return self._cast(dst_type)

    def cpu(self) -> Self:
        """The module itself: there is no other device."""
        return self

    def cuda(self, device: Any = None) -> Self:
        """Raises: DeviceError: there is no GPU."""
        return self.to(Device("cuda"))

    def float(self) -> Self:
        """All floating-point parameters and buffers as float32."""
        return self._cast("float32")

    def double(self) -> Self:
        """All floating-point parameters and buffers as float64."""
        return self._cast("float64")

    def half(self) -> Self:
        """All floating-point parameters and buffers as float16."""
        return self._cast("float16")

    def bfloat16(self) -> Self:
        """All floating-point parameters and buffers as bfloat16."""
        return self._cast("bfloat16")

    # Hooks

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args)`` before ``forward``; what it returns, if not None, replaces the arguments.

        With ``with_kwargs`` the hook is ``hook(module, args, kwargs)`` and returns both.
        """
        return _hung(self._watchers, Watcher(BEFORE, hook, with_kwargs), prepend)

    @property
    def is_watched(self) -> bool:
        """Whether somebody listens to the module's calls, or has put a ``forward`` of its own in its place."""
        return bool(self._watchers) or "forward" in self.__dict__

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args, result)`` after ``forward``; what it returns, if not None, replaces the result."""
        return _hung(self._watchers, Watcher(AFTER, hook, with_kwargs), prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call ``hook(module, grad_output)`` in the backward pass, before the gradient goes through the module.

        ``grad_output`` is a tuple with a gradient for each result, None where none arrived. What the hook returns, if
        not None, replaces it.
        """
        return _hung(self._watchers, Watcher(BEFORE_GRAD, hook), prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)`` when the gradients of the module's inputs are there.

        Both are tuples; ``grad_input`` has an entry for each positional argument, None for those that are no tensors,
        zeros for those that got no gradient. What the hook returns, if not None, replaces it. If no argument requires
        a gradient, all entries are None and nothing can be replaced.

        >>> from lucid.nn import Linear
        >>> layer = Linear(2, 3)
        >>> handle = layer.register_full_backward_hook(lambda module, grads, upstream: (Tensor([5.0, 7.0]),))
        >>> x = Tensor([1.0, 2.0], requires_grad=True)
        >>> layer(x).sum().backward()
        >>> x.grad
        Tensor([5., 7.])
        """
        return _hung(self._watchers, Watcher(AFTER_GRAD, hook), prepend)

    # How it prints

    def extra_repr(self) -> str:
        """What stands between the parentheses."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr().splitlines()
        children = [
            f"({name}): {_indented(repr(self.__dict__[name]))}"
            for name, kind in self._kinds.items()
            if kind == MODULE and self.__dict__[name] is not None
        ]
        if not children and len(extra) <= 1:
            return f"{type(self).__name__}({''.join(extra)})"
        return f"{type(self).__name__}(\n  " + "\n  ".join(extra + children) + "\n)"

    def __dir__(self) -> list[str]:
        return [name for name in (*super().__dir__(), *self._computed) if name.isidentifier()]


class _Registry(dict[str, Any]):
    """The attributes of some kinds, as PyTorch keeps them: a module put here is the module's."""

    def __init__(self, module: Module, *kinds: str) -> None:
        super().__init__((name, module.__dict__[name]) for name, kind in module._kinds.items() if kind in kinds)
        self._module, self._kind = module, kinds[0]

    def __setitem__(self, name: str, value: Any) -> None:
        module = self._module
        register: dict[str, Callable[[str, Any], None]] = {
            MODULE: module.add_module, PARAMETER: module.register_parameter, BUFFER: module.register_buffer,
        }  # fmt: skip
        register[self._kind](name, value)
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        delattr(self._module, name)

    def pop(self, name: str, *default: Any) -> Any:
        """Take one out."""
        if name not in self:
            return super().pop(name, *default)
        value = self[name]
        del self[name]
        return value


def locate(error: Exception, module: Module) -> None:
    """Note on an error that leaves ``module`` which of the modules below raised it: "in UNet: down.0.conv".

    Called by one module after the other on the way out, so that the note names the outermost and the whole path.
    """
    inner, path, note = error.__dict__.get("_lucid_place", (module, "", None))
    if inner is not module:
        name = next((name for name, one in module.named_modules() if one is inner), None)
        if name is None:
            return
        path = _dotted(name, path) if path else name
        notes = [one for one in getattr(error, "__notes__", ()) if one is not note]
        note = f"in {type(module).__name__}: {path}"
        error.__notes__ = [*notes, note]
    error.__dict__["_lucid_place"] = module, path, note


def _say_own_name(cls: type, method: str) -> None:
    """Let Python's complaints of wrong arguments name a layer, not the private base that it has the method from."""
    inherited = getattr(cls, method)
    if isinstance(inherited, FunctionType) and inherited.__qualname__.startswith("_"):
        own = FunctionType(
            inherited.__code__, inherited.__globals__, method, inherited.__defaults__, inherited.__closure__
        )
        for name in ("__annotations__", "__doc__", "__kwdefaults__", "__module__"):
            setattr(own, name, getattr(inherited, name))
        own.__qualname__ = f"{cls.__qualname__}.{method}"
        setattr(cls, method, own)


def _prefix_fault(missing: list[str], unexpected: list[str]) -> list[str]:
    """What to do about names that would fit but for one word before them, as ``DataParallel`` puts there."""
    prefix = unexpected[0].partition(".")[0] + "." if unexpected else ""
    if not missing or {prefix + name for name in missing} != set(unexpected):
        return []
    return [f"They fit without {prefix!r}: {{name.removeprefix({prefix!r}): value for name, value in state.items()}}."]


def _shape(value: Any) -> tuple[int, ...] | str:
    return "no shape yet" if is_uninitialized(value) else np.shape(value)


def _called(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _hung(watchers: dict[int, Watcher], one: Watcher, prepend: bool) -> RemovableHandle:
    handle = RemovableHandle(watchers, one)
    if prepend:
        others = [key for key in watchers if watchers[key] is not one]
        for key in others:
            watchers[key] = watchers.pop(key)
    return handle


def _dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _indented(text: str) -> str:
    """Every line but the first moved in by two."""
    return text.replace("\n", "\n  ")

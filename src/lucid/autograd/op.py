"""Operations as declarations, and the one door through which every operation on tensors goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lucid.autograd.anomaly import check_result, watch
from lucid.autograd.listening import listener
from lucid.autograd.mode import mode
from lucid.autograd.tracked import Array, Edge, Node, Tracked, View, edge_of, placed, restored, wrap
from lucid.core import quiet
from lucid.core.errors import GradientError, ShapeError

_HAS_VARIADIC = 0x04  # inspect.CO_VARARGS; inspect.signature would take 10 ms for all the rows there are


class _Parameters(NamedTuple):
    """The parameters of a Python function by kind, read off its code object."""

    positional: tuple[str, ...]
    variadic: str | None
    static: tuple[str, ...]
    defaults: dict[str, Any]

    @staticmethod
    def of(function: Any) -> _Parameters:
        code = function.__code__
        names, split = code.co_varnames, code.co_argcount
        end = split + code.co_kwonlyargcount
        variadic = names[end] if code.co_flags & _HAS_VARIADIC else None
        return _Parameters(names[:split], variadic, names[split:end], function.__kwdefaults__ or {})


class Op:
    """One operation: how to compute it and, row by row, how to differentiate it.

    ``forward`` takes arrays and returns an array. Its positional parameters are the inputs (each a tensor, None, or a
    plain Python value); ``*xs`` stands for any number of them; keyword-only parameters are static. For a ``forward``
    that is no Python function, ``inputs`` names them.

    ``vjp`` has a row per differentiable input: a function, written in operations on tensors, from the upstream gradient
    to the gradient of that input. Its parameter names say what it needs: ``g`` (the upstream gradient), ``out`` (the
    result), the name of an input, ``x_shape`` (the shape of input ``x``), the name of a static parameter. What no row
    of a required input names is not kept alive. One row may serve several inputs: its key is a tuple of names and it
    returns a tuple of gradients; a row for ``*xs`` returns one gradient per tensor. Where inputs have rows of their own
    too, a shared row before them serves only if gradients of all its inputs are required, and in a backward pass only
    if all are asked for; it names all that those rows name.

    For an op that ends in another one, ``ended`` is that one's row: every row gets, as ``g``, what it makes of g.

    An op with several ``outputs`` returns a tuple; rows then receive ``g`` as a tuple, None where nothing arrived.
    A ``view`` op returns its first input's memory whenever it can, or several parts of it.

    >>> import numpy as np, lucid
    >>> square = Op("square", lambda x: x * x, vjp={"x": lambda g, x: g * x * 2})
    >>> x = lucid.Tensor([1.0, 2.0], requires_grad=True)
    >>> apply(square, x).backward()
    >>> x.grad
    Tensor([2., 4.])
    """

    __slots__ = (
        "defaults",
        "differentiable",
        "forward",
        "inputs",
        "name",
        "outputs",
        "plans",
        "rows",
        "variadic",
        "view",
    )

    def __init__(
        self,
        name: str,
        forward: Callable[..., Any],
        vjp: Mapping[str | tuple[str, ...], Callable[..., Any]] | None = None,
        *,
        inputs: tuple[str, ...] | None = None,
        outputs: tuple[str, ...] = ("out",),
        view: bool = False,
        ended: Callable[..., Any] | None = None,
    ) -> None:
        self.name = name
        self.forward = forward
        self.outputs = outputs
        self.view = view
        self.plans: dict[tuple[int, int], _Plan] = {}
        given = _Parameters((), None, (), {}) if inputs is not None else _Parameters.of(forward)
        self.variadic = given.variadic
        self.inputs = inputs or given.positional
        self.defaults = given.defaults
        self.rows = [self._row(key, function, ended, given.static) for key, function in (vjp or {}).items()]
        self.differentiable = 0  # as bits, input 0 lowest
        for row in self.rows:
            for target in row.targets:
                self.differentiable |= (
                    -1 << len(self.inputs) if target == self.variadic else 1 << self.inputs.index(target)
                )

    def _row(
        self,
        key: str | tuple[str, ...],
        function: Callable[..., Any],
        ended: Callable[..., Any] | None,
        static: tuple[str, ...],
    ) -> _Row:
        targets = (key,) if isinstance(key, str) else key
        tensors = (*self.inputs, self.variadic)
        for target in targets:
            if target not in tensors:
                raise TypeError(f"Op {self.name}: the vjp row {target!r} names no input; there are {self.inputs}")
        needs = _Parameters.of(function).positional
        if ended is not None:
            function, needs = _behind(ended, function, needs)
        known = {"g", *self.outputs, *tensors, *(f"{n}_shape" for n in tensors), *static}
        if unknown := set(needs) - known:
            raise TypeError(f"Op {self.name}: the vjp row of {key!r} asks for unknown {sorted(unknown)}")
        return _Row(targets, function, needs)

    def plan(self, count: int, mask: int) -> _Plan:
        """What to keep and which rows to run for ``count`` inputs of which those in ``mask`` require gradients."""
        plan = self.plans.get((count, mask))
        if plan is None:
            plan = self.plans[count, mask] = _Plan.make(self, count, mask)
        return plan

    def positions(self, name: str, count: int) -> range:
        """Which inputs a name stands for."""
        if name == self.variadic:
            return range(len(self.inputs), count)
        first = self.inputs.index(name)
        return range(first, first + 1)

    def __repr__(self) -> str:
        return f"Op({self.name})"


class _Row(NamedTuple):
    targets: tuple[str, ...]
    function: Callable[..., Any]
    needs: tuple[str, ...]


def _behind(
    ended: Callable[..., Any], function: Callable[..., Any], needs: tuple[str, ...]
) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """A row that needs ``needs`` behind one that ``ended`` what it differentiates, and what both need."""
    first = _Parameters.of(ended).positional
    split, place = len(first), needs.index("g")

    def both(*given: Any) -> Any:
        rest = given[split:]
        return function(*rest[:place], ended(*given[:split]), *rest[place:])

    return both, (*first, *needs[:place], *needs[place + 1 :])


class _Step(NamedTuple):
    """A row made ready: how to fetch each argument, and the inputs whose gradients it returns."""

    function: Callable[..., Any]
    fetch: tuple[Callable[[OpNode, Any, bool], Any], ...]
    targets: tuple[int, ...]
    single: bool


class _Plan(NamedTuple):
    steps: tuple[_Step, ...]
    inputs: tuple[int, ...]
    shapes: tuple[int, ...]
    outputs: tuple[int, ...]
    keeps: bool
    mask: int
    chooses: bool  #: inputs that a shared row serves have rows of their own

    @staticmethod
    def make(op: Op, count: int, mask: int) -> _Plan:
        steps: list[_Step] = []
        keep: dict[str, set[int]] = {"input": set(), "shape": set(), "output": set()}
        served: set[str] = set()
        chooses = False
        for k, row in enumerate(op.rows):
            targets = tuple(i for name in row.targets for i in op.positions(name, count))
            required = [bool(mask >> i & 1) for i in targets]
            chooses = chooses or served.issuperset(row.targets)
            spare = served.issuperset(row.targets) or (
                not all(required) and any(set(row.targets) & set(other.targets) for other in op.rows[k + 1 :])
            )
            if any(required) and not spare:
                served.update(row.targets)
                fetch = tuple(_fetcher(op, name, count, keep) for name in row.needs)
                single = len(row.targets) == 1 and row.targets[0] != op.variadic
                steps.append(_Step(row.function, fetch, targets, single))
        inputs, shapes, outputs = (tuple(sorted(keep[k])) for k in ("input", "shape", "output"))
        return _Plan(tuple(steps), inputs, shapes, outputs, bool(inputs or outputs), mask, chooses)


def _fetcher(op: Op, name: str, count: int, keep: dict[str, set[int]]) -> Callable[[OpNode, Any, bool], Any]:
    """How a row's argument is found at backward time; notes in ``keep`` what must be there by then."""
    if name == "g":
        return lambda node, g, recording: g
    if name in op.outputs:
        slot = op.outputs.index(name)
        keep["output"].add(slot)
        return lambda node, g, recording: node.output(slot, recording)
    if name == op.variadic or name in op.inputs:
        where = op.positions(name, count)
        keep["input"].update(where)
        if name == op.variadic:
            return lambda node, g, recording: tuple(node.input(i, recording) for i in where)
        return lambda node, g, recording: node.input(where[0], recording)
    stem = name.removesuffix("_shape")
    if stem != name and (stem == op.variadic or stem in op.inputs):
        where = op.positions(stem, count)
        keep["shape"].update(where)
        if stem == op.variadic:
            return lambda node, g, recording: tuple(node.shapes[i] for i in where)
        return lambda node, g, recording: node.shapes[where[0]]
    return lambda node, g, recording: node.params[name] if name in node.params else op.defaults[name]


class OpNode(Node):
    """One application of an ``Op``."""

    __slots__ = ("op", "params", "plan", "saved", "shapes")

    saved: dict[int, Any] | None

    def __init__(self, op: Op, plan: _Plan, edges: Sequence[Edge | None], params: dict[str, Any]) -> None:
        Node.__init__(self, edges, len(op.outputs))
        self.op = op
        self.plan = plan
        self.params = params

    @property
    def name(self) -> str:
        """The operation's name."""
        return self.op.name

    def keep(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Save what the plan's rows name. Outputs are filed under -1, -2, …"""
        plan = self.plan
        self.saved = saved = {}
        for i in plan.inputs:
            value = inputs[i]
            saved[i] = (value._array, value._version, value._version[0]) if isinstance(value, Tracked) else value
        for slot in plan.outputs:
            value = outputs[slot]
            saved[~slot] = (value._array, value._version, value._version[0])
        if plan.shapes:
            kept = [(i, inputs[i]) for i in plan.shapes]
            self.shapes = {i: x._array.shape if isinstance(x, Tracked) else np.shape(x) for i, x in kept}

    def input(self, i: int, recording: bool) -> Any:
        """Input ``i`` as it was; when the backward pass is recorded, in its place in the graph."""
        saved = self.saved[i]  # type: ignore[index]
        if type(saved) is not tuple:
            return saved
        tensor = restored(saved, self.op.name)
        return _at(tensor, self.edges[i]) if recording else tensor

    def output(self, slot: int, recording: bool) -> Any:
        """Result ``slot`` as it was."""
        tensor = restored(self.saved[~slot], self.op.name)  # type: ignore[index]
        return _at(tensor, (self, slot)) if recording else tensor

    def pull(self, upstream: list[Any], needed: Sequence[Edge | None], recording: bool) -> Sequence[Any]:
        """Run the rows of the inputs that are needed."""
        if self.saved is None:
            raise GradientError(
                f"{self.op.name}: backward a second time through a graph whose saved tensors are already freed; "
                f"pass retain_graph=True to the first backward if the graph is needed again"
            )
        g = upstream[0] if self.results == 1 else tuple(upstream)
        grads: list[Any] = [None] * len(self.edges)
        for step in self._steps(needed):
            targets = step.targets
            for i in targets:
                if needed[i] is not None:
                    break
            else:
                continue
            arguments = []
            for fetch in step.fetch:
                arguments.append(fetch(self, g, recording))
            result = step.function(*arguments)
            if step.single:
                grads[targets[0]] = result
            else:
                for i, one in zip(targets, result, strict=True):
                    grads[i] = one
        return grads

    def _steps(self, needed: Sequence[Edge | None]) -> tuple[_Step, ...]:
        """The rows to run: in place of a shared one that gives more than is asked for, those that inputs have."""
        if not self.plan.chooses:
            return self.plan.steps
        mask = self.op.differentiable & sum(1 << i for i, edge in enumerate(needed) if edge is not None)
        return (self.plan if mask == self.plan.mask else self.op.plan(len(needed), mask)).steps

    def saved_result(self, slot: int) -> Array | None:
        """The array of result ``slot``, if it was saved."""
        found = None if self.saved is None else self.saved.get(~slot)
        return None if found is None else found[0]

    def hand_over(self, slot: int, tensor: Tracked) -> None:
        """Watch another tensor's version: its memory is that of the saved result."""
        assert self.saved is not None, "a result was saved"
        self.saved[~slot] = (tensor._array, tensor._version, tensor._version[0])

    def release(self) -> None:
        """Free the saved arrays. A node that saved none can still be used again."""
        if self.plan.keeps:
            self.saved = None


def _at(tensor: Any, edge: Edge | None) -> Any:
    """A restored tensor in its place in the graph."""
    tensor._edge = edge
    tensor._requires_grad = edge is not None
    return tensor


def apply(op: Op, *inputs: Any, **params: Any) -> Any:
    """Run an operation on tensors, and record it if a gradient may be asked for.

    Inputs that are no tensors (None, Python scalars) reach ``op.forward`` as they are.
    """
    arrays = []
    mask = 0
    bit = 1
    for x in inputs:
        if isinstance(x, Tracked):
            if x._view is not None:
                placed(x)
            if x._requires_grad:
                mask |= bit
            arrays.append(x._array)
        else:
            arrays.append(x)
        bit <<= 1
    if op.view:
        result = _view_of(op, inputs[0], op.forward(*arrays, **params), params)
    else:
        noise = quiet.begin()
        try:
            out = op.forward(*arrays, **params)
        except ValueError as error:
            raise _named(op, arrays, error) from None
        finally:
            quiet.end(noise)
        if watch.on:
            check_result(op.name, arrays, out)
        if type(out) is np.ndarray:
            result = wrap(out)
        elif type(out) is tuple:
            result = tuple([wrap(np.asarray(one)) for one in out])
        else:
            result = wrap(np.asarray(out))
    mask &= op.differentiable
    if mask and mode.recording:
        _record(op, inputs, params, mask, result)
    if listener.hear is not None:
        listener.hear(op, inputs, params, result)
    return result


def _named(op: Op, arrays: Sequence[Any], error: ValueError) -> ValueError:
    """NumPy's complaint about shapes that do not broadcast, with the operation's name and the shapes."""
    if isinstance(error, ShapeError) or "broadcast" not in str(error):
        return error
    shapes = ", ".join(str(np.shape(a)) for a in arrays if a is not None)
    return ShapeError(f"{op.name}: the shapes {shapes} do not broadcast together")


def _record(op: Op, inputs: Sequence[Any], params: dict[str, Any], mask: int, result: Any) -> None:
    edges = [edge_of(x) if isinstance(x, Tracked) and x._requires_grad else None for x in inputs]
    node = OpNode(op, op.plan(len(inputs), mask), edges, params)
    if type(result) is not tuple:
        result._edge = (node, 0)
        result._requires_grad = True
        node.keep(inputs, (result,))
        return
    for slot, one in enumerate(result):
        if one._array.dtype.kind not in "biu":
            one._edge = (node, slot)
            one._requires_grad = True
    node.keep(inputs, result)


def _view_of(op: Op, x: Any, out: Any, params: dict[str, Any], slot: int | None = None) -> Any:
    """The result of a view op: tied to its base if it shares memory with it, and a plain result if it had to copy.

    ``slot``: which of several results it is.
    """
    if type(out) is tuple:
        return tuple([_view_of(op, x, one, params, slot) for slot, one in enumerate(out)])
    result, array = wrap(out), x._array
    if out is array or (out.base is not None and (out.base is array or out.base is array.base)):
        result._version = x._version
        step = partial(apply, op, **params) if slot is None else partial(_one_of, op, slot, **params)
        view = x._view
        base, steps = (x, (step,)) if view is None else (view.base, (*view.steps, step))
        result._view = View(base, base._edge, steps)
    return result


def _one_of(op: Op, slot: int, x: Any, **params: Any) -> Any:
    """One of several results."""
    return apply(op, x, **params)[slot]

"""Problems and plans of convolution as values.

A ``Problem`` is what is asked: a role, the geometry, the sizes. A ``Plan`` is one answer: an algorithm, its register
tile and blocking, and what it is expected to cost. Neither depends on the number of threads, so neither do the result's
bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from itertools import takewhile
from math import ceil, prod
from typing import Any, Literal, NamedTuple

from lucid.core.geometry import ConvSpec, Sizes
from lucid.kernels import target
from lucid.kernels.isa import ISAS

Role = Literal["forward", "grad_input", "grad_weight"]

#: The spatial rank of every problem: lower ranks get leading axes of size 1.
RANK = 3

#: What a plan may take beside packed weights, a thread.
WORKSPACE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What is done to every sum on its way out: activation((conv + bias) scale + shift + residual).

    ``activation`` is one of ``kernels.epilogue.ACTIVATIONS`` or empty, ``numbers`` its parameters in their order there.
    ``affine`` says whether there are a scale and a shift for each channel, ``residual`` whether there is an array of
    the result's shape. A plain one does nothing, and is false.
    """

    activation: str = ""
    numbers: tuple[float, ...] = ()
    affine: bool = False
    residual: bool = False

    def __bool__(self) -> bool:
        return bool(self.activation) or self.affine or self.residual

    def __str__(self) -> str:
        numbers = f"({', '.join(f'{n:g}' for n in self.numbers)})" if self.numbers else ""
        steps = ("scale and shift" * self.affine, "residual" * self.residual, self.activation + numbers)
        return ", ".join(filter(None, steps))


PLAIN = Epilogue()


@dataclass(frozen=True, slots=True)
class Problem:
    """One convolution to compute, y = conv(x, w) + bias, or one of its two adjoints.

    ``c_in, size`` are x's channels and sizes and ``c_out, out`` are y's, whatever the role; the geometry has rank 3.
    ``bias`` says whether there is one to add: to y in the forward role, to the result of ``grad_input`` when that is a
    transposed convolution's output. In ``grad_weight``, whether its gradient is wanted too: the sum of g, or of x if
    the layer is a ``transposed`` one. ``epilogue`` is what happens to that result before anybody sees it.
    """

    role: Role
    spec: ConvSpec
    batch: int
    c_in: int
    c_out: int
    size: Sizes
    out: Sizes
    dtype: str
    bias: bool = False
    epilogue: Epilogue = PLAIN
    transposed: bool = False

    @property
    def sums(self) -> bool:
        """Whether the gradient of the bias is wanted with the weight's."""
        return self.bias and self.role == "grad_weight"

    @property
    def sums_g(self) -> bool:
        """Whether that gradient is wanted and is the sum of g."""
        return self.sums and not self.transposed

    @property
    def summed_channels(self) -> int:
        """How many numbers that gradient has."""
        return self.c_in if self.transposed else self.c_out

    @property
    def plain(self) -> Problem:
        """The problem without what a pass of its own can do after it."""
        return replace(self, bias=self.bias and not self.sums, epilogue=PLAIN, transposed=False)

    @property
    def canonical(self) -> Problem:
        """The same on the same arrays, in as few axes and taps as tell it, so that what is alike has one plan.

        An axis of one sample is none, and neighbours along which a kernel is one wide and moves by one are one axis.
        Where a kernel is as long as x along the first axes, (channel, tap) is one axis of x and of w as they lie:
        filters over all electrodes of an EEG are a 1x1 layer of channels times electrodes. That is left where something
        has one number for all rows of a channel of x.
        """
        spec = self.spec
        axes = _fewest(map(_Axis, spec.kernel, spec.stride, spec.dilation, spec.padding, self.size, self.out))
        ends = self.role == "grad_input" and (self.bias or self.epilogue.affine)
        whole = () if ends or (self.sums and self.transposed) else takewhile(lambda axis: axis.is_spanned, axes)
        spanned = len([*whole])
        rows = prod(axis.size for axis in axes[:spanned])
        left = [_POINT] * (RANK - len(axes) + spanned) + axes[spanned:]
        kernel, stride, dilation, padding, size, out = zip(*left, strict=True)
        return replace(
            self,
            spec=ConvSpec(kernel, stride, dilation, padding, spec.groups),
            c_in=self.c_in * rows,
            size=size,
            out=out,
        )

    @property
    def groups(self) -> int:
        """Independent groups of channels."""
        return self.spec.groups

    @property
    def group_in(self) -> int:
        """Channels of x in a group."""
        return self.c_in // self.spec.groups

    @property
    def group_out(self) -> int:
        """Channels of y in a group."""
        return self.c_out // self.spec.groups

    @property
    def pixels(self) -> int:
        """Output positions of one image."""
        return prod(self.out)

    @property
    def is_pointwise(self) -> bool:
        """Whether each pixel of y meets that of x at its place, and no other."""
        return self.spec.taps == 1 and self.size == self.out and not any(map(any, self.spec.padding))

    @property
    def flops(self) -> int:
        """Multiplications and additions of the definition; the same for all three roles."""
        return 2 * self.batch * self.c_out * self.group_in * self.spec.taps * self.pixels

    @property
    def met_flops(self) -> int:
        """Those of them that are not with padding."""
        return 2 * self.batch * self.c_out * self.group_in * self.spec.pairs(self.size)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}[self.dtype]

    @property
    def traffic_bytes(self) -> int:
        """x, w and y, each touched once."""
        return self.itemsize * sum(self._result_elements.values())

    @property
    def written_bytes(self) -> int:
        """Of the traffic, the role's result."""
        return self.itemsize * self._result_elements[self.role]

    @property
    def _result_elements(self) -> dict[Role, int]:
        """Elements of y, x and w, each the result of a role."""
        return {
            "forward": self.batch * self.c_out * self.pixels,
            "grad_input": self.batch * self.c_in * prod(self.size),
            "grad_weight": self.c_out * self.group_in * self.spec.taps,
        }


class _Axis(NamedTuple):
    """What a convolution does along one axis."""

    kernel: int
    stride: int
    dilation: int
    padding: tuple[int, int]
    size: int
    out: int

    @property
    def is_spanned(self) -> bool:
        """Whether there is one window, which is all of it."""
        return self.kernel == self.size and self.padding == (0, 0)

    @property
    def is_copied(self) -> bool:
        """Whether every sample is met alone, and none by two results."""
        return self.kernel == 1 and self.stride == 1 and self.padding == (0, 0)


_POINT = _Axis(1, 1, 1, (0, 0), 1, 1)


def _fewest(axes: Iterable[_Axis]) -> list[_Axis]:
    """Without those of one sample, and with neighbours as one where no kernel joins their samples."""
    found: list[_Axis] = []
    for axis in axes:
        if axis.is_copied and found and found[-1].is_copied:
            last = found.pop()
            found.append(_POINT._replace(size=last.size * axis.size, out=last.out * axis.out))
        elif axis.size > 1 or not axis.is_spanned:
            found.append(axis)
    return found


def waiting(tasks: int) -> float:
    """By how much longer so many tasks take than their share, as the odd one keeps others waiting.

    On average over one thread and two, since a choice is the same for any number.
    """
    return 1 + 1 / (2 * tasks) if tasks % 2 else 1.0


#: Of one thread's time what two take, and what they take in addition, from so much work on: 1.2 times less at 8 us, 1.4
#: at 16, 1.6 at 32, 1.75 from 64 us on.
_SECOND, _WAKE_NS, _WORTH_NS = 0.54, 2400.0, 7000.0


def two_threads_ns(expected_ns: float, tasks: int, alone_ns: float = 0.0, handed_ns: float = 0.0) -> float:
    """Expected of two threads, on a Zen 4: the larger part of the tasks, and what it takes to wake one.

    With what a plan says of itself by these names.
    """
    if expected_ns < _WORTH_NS:
        return expected_ns
    part = max(_SECOND, ceil(tasks / 2) / tasks if tasks else 0)
    shared_ns = part * (expected_ns - alone_ns) + _WAKE_NS
    return min(expected_ns, alone_ns + shared_ns) + handed_ns


def mean_ns(one_ns: float, two_ns: float) -> float:
    """The mean of one thread's time and two threads', less what all plans have in common."""
    return (one_ns + 2 * two_ns) / (1 + 2 * _SECOND)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a problem is computed. ``tile`` and ``blocking`` are the algorithm's own (name, number) pairs.

    ``expected_ns`` is for one thread, whose work falls into ``tasks``. ``workspace_bytes`` is beyond inputs and
    outputs, shared plus one thread's part; ``packed_bytes`` of them hold weights, packed or transformed, the rest is at
    most ``WORKSPACE_BYTES``.
    """

    algorithm: str
    problem: Problem
    isa: str
    expected_ns: float
    tasks: int = 0  #: that threads share; 0 where there are many, or too little work to wake a thread for
    alone_ns: float = 0.0  #: of what is expected, where steps of one task keep others waiting
    handed_ns: float = 0.0  #: in addition where there are two threads: lines that one writes and another reads
    tile: tuple[tuple[str, int], ...] = ()
    blocking: tuple[tuple[str, int], ...] = ()
    workspace_bytes: int = 0
    packed_bytes: int = 0
    why: str = field(default="", compare=False)
    sums_upstream: bool = False  #: the gradient of the bias comes from the same pass as the weight's
    passes_after: bool = False  #: the problem's epilogue, or the gradient of the bias, is a pass of its own

    @classmethod
    def recalled(cls, problem: Problem, isa: str, decision: dict[str, Any]) -> Plan:
        """The plan for a problem that a ``decision`` was about, which may have been to JSON and back."""
        pairs = {name: tuple((key, number) for key, number in decision[name]) for name in ("tile", "blocking")}
        return cls(problem=problem, isa=isa, **(decision | pairs))

    @property
    def decision(self) -> dict[str, Any]:
        """All but the question, as plain data."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("problem", "isa")}

    @property
    def shared_ns(self) -> float:
        """What counts in a choice: time of one thread, times how long the odd task keeps others waiting.

        Where a second thread was measured it is the mean over one and two, less what all plans have in common.
        """
        if target.cpu().turns(ISAS[self.isa]) == 1:
            return self.expected_ns * waiting(self.tasks)
        return mean_ns(self.expected_ns, self._two_threads_ns)

    @property
    def _two_threads_ns(self) -> float:
        return two_threads_ns(self.expected_ns, self.tasks, self.alone_ns, self.handed_ns)

    def __getitem__(self, name: str) -> int:
        """A number of the tile or the blocking by its name."""
        for key, value in (*self.tile, *self.blocking):
            if key == name:
                return value
        raise KeyError(name)

"""Convolution along one axis by Fourier transforms of overlapping blocks (overlap-save), for long kernels.

A block of n samples gives n - k + 1 sums for one transform each way, instead of k products each. Forward, input
gradient and weight gradient; a dilation d makes d sequences of every d-th sample. Half precision is widened as samples
are loaded and rounded once as sums are stored.

Errors grow with log n, see ``error_growth``; they are those of the loudest samples of a block, and of its partner, for
two are transformed at once. A NaN or an infinity may reach all sums of both. Strict precision rules the algorithm out:
see ``lucid.set_precision``.

Source: Stockham, "High-speed convolution and correlation", 1966; ``fft_kernel`` and ``fft_transform`` have the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from math import ceil, log2, prod

from lucid.kernels import target
from lucid.kernels.algorithms import fft_kernel
from lucid.kernels.algorithms.base import Executable, far_bytes, priced, sum_type, turns_of
from lucid.kernels.algorithms.fft_cut import Cut, Shares, even, spans
from lucid.kernels.algorithms.fft_region import FourierConvolution
from lucid.kernels.isa import ISA
from lucid.kernels.plan import WORKSPACE_BYTES, Plan, Problem, Role

name = "fft"
dtypes = ("float32", "float64", "float16", "bfloat16")

_SMALLEST, _LARGEST = 64, 1 << 14
#: Sizes tried, from the smallest that holds the kernel; and from where on shorter ones, for pieces of the kernel.
_DOUBLINGS, _PIECED_FROM = 6, 1024

# Least squares over 174 plans of random layers on one thread of a core at 4 GHz: half are within 12 %.
#: What one thread transforms another multiplies, from the third cache. Beyond the second ones two threads take 1.05 to
#: 1.25 times half of the time of one, gradients of weights 1.2 to 1.35; where each has a third cache of its own, all.
_SHARED: dict[Role, float] = {"forward": 1.2, "grad_input": 1.2, "grad_weight": 1.25}
#: The same on a Zen 4, and where all stays in the second caches.
_SHARED_HALVED: dict[Role, float] = {"forward": 1.5, "grad_input": 1.55, "grad_weight": 1.4}
_NEAR_HALVED = 1.2
_COST_NS = {
    "butterfly": 0.48,  # a vector of pairs, one doubling of the size
    "load": 2.3,  # a vector of pairs
    "store": 1.7,
    "dealt": 0.7,  # of those that the samples of either are spread over by a dilation, and picked from
    "scattered": 4.0,  # a vector of either, where its samples are not picked, but come one by one
    "apart beyond second cache": 5.5,  # a vector of either, picked or not
    "multiply": 0.16,  # in place
    "product": 0.55,  # of vectors of pairs, where they are summed
    "lane sum": 0.52,
    "again": 5.5,  # a vector of sums, taken up again
    "task": 125.0,
    "step": 2000.0,  # of a region
    "byte": 0.0072,  # of the workspace
    "traffic": 0.006,  # a byte of x, w and y, from the third level cache
    "traffic far": 0.02,  # from beyond, or from a quarter of it, which is shared
    "traffic beyond": 0.06,  # that quarter, in addition: rows of blocks are no streams
    "call": 9800.0,
    "filter read far": 0.016,  # a byte beyond that quarter, read again for every vector of pairs
}
#: The same where they are others, on a Zen 4: vectors of 64 bytes are computed in halves.
_HALVED_NS = {
    "butterfly": 0.8,
    "dealt": 0.3,
    "apart beyond second cache": 0.3,
    "product": 1.0,
    "lane sum": 1.0,
    "multiply": 0.4,
    "call": 18_000.0,
}


def refuses(problem: Problem, isa: ISA) -> str | None:
    """Planes and volumes, strides."""
    spec = problem.spec
    if spec.stride[2] != 1:
        return f"it computes every sum, and the stride is {spec.stride[2]}"
    lines = {problem.size[:2], problem.out[:2], spec.kernel[:2]}
    if lines != {(1, 1)} or spec.padding[:2] != ((0, 0), (0, 0)):
        return f"it transforms lines, not {spec.kernel} over {problem.size}"
    return None


def fuses(problem: Problem) -> bool:
    """Every epilogue, as lanes become rows."""
    return True


def _cuts(problem: Problem, isa: ISA) -> Iterator[Cut]:
    for cut in _sizes(problem, isa):
        yield from _within(cut)


def _within(cut: Cut) -> Iterator[Cut]:
    """The cut with shares that keep it within the bound of the workspace, if there are any."""
    room = (WORKSPACE_BYTES - replace(cut, shares=_NOTHING).own_bytes) // cut.region_bytes
    if cut.alone:
        tried: list[Shares | None] = [None]
    elif cut.problem.role == "grad_weight":
        # The more pairs at once, the fewer times lanes are summed.
        several = {min(cut.pairs, count) for count in (1, 2, 4, 8, cut.pairs)}
        tried = [_for_pairs(cut, count, room) for count in sorted(several)]
    else:
        tried = [Shares.fitting(cut.problem, *cut.channels, cut.pairs, room)]
    for shares in tried:
        made = replace(cut, shares=shares)
        if (cut.alone or shares) and made.working_bytes <= WORKSPACE_BYTES:
            yield made


#: What a cut shares that is not decided yet.
_NOTHING = Shares(0, 0, 0, 0)


def _for_pairs(cut: Cut, pairs: int, room: int) -> Shares | None:
    shares = Shares.fitting(cut.problem, *cut.channels, 1, room // pairs)
    return replace(shares, pairs=pairs) if shares else None


def _sizes(problem: Problem, isa: ISA) -> Iterator[Cut]:
    """Blocks that hold the whole kernel, then shorter ones for its pieces."""
    taps, element = problem.spec.kernel[2], sum_type(problem)
    lanes, width = isa.lanes(element), fft_kernel.rows_at_once(isa, element)
    first = max(_SMALLEST, 1 << taps.bit_length())
    for n in (first << doubling for doubling in range(_DOUBLINGS)):
        if n > _LARGEST:
            break
        yield Cut(problem, n, taps, lanes, width)
        if n - taps >= -(-problem.out[2] // problem.spec.dilation[2]) * 2:
            break
    n = _PIECED_FROM
    while n < min(first, 2 * _LARGEST):
        yield Cut(problem, n, even(taps, n // 2), lanes, width)
        n *= 2


def _work(cut: Cut) -> dict[str, float]:
    """What one thread does, counted in the units of ``_COST_NS``."""
    problem, n, bits, pieces = cut.problem, cut.n, log2(cut.n), cut.pieces
    into, back, again, steps = _transforms(cut)
    forward = problem.role != "grad_weight"
    lane_sums = 0.0
    if cut.shares and not forward:
        rows = problem.groups * sum(
            cut.padded(channels, results)
            for _, channels in spans(cut.channels[0], cut.shares.channels)
            for _, results in spans(cut.channels[1], cut.shares.results)
        )
        lane_sums = pieces * rows * ceil(cut.pairs / cut.shares.pairs)
        summed = float(cut.pairs * rows * pieces)
    else:
        summed = 0 if forward and not cut.shares else cut.pairs * cut.rows * pieces
    multiplied = back if forward and not cut.shares else 0
    filters = cut.filters if forward else 0
    apart = n * (into + back * forward) if cut.dilation > 1 else 0
    dealt = apart if fft_kernel.deals(problem.dtype, cut.dilation) else 0
    far = " far" if far_bytes(problem.traffic_bytes) else ""
    far_filters = forward and cut.shares and far_bytes(cut.packed_bytes)
    return {
        "butterfly": n * bits * (into + back + filters),
        "load": n * (into + filters),
        "store": n * back,
        "dealt": dealt * cut.dilation,
        "scattered": apart - dealt,
        "apart beyond second cache": apart if problem.traffic_bytes > target.cpu().l2_bytes else 0,
        "multiply": n * (multiplied + filters),
        "product": n * summed,
        "lane sum": n * (lane_sums if cut.shares else cut.rows if not forward else 0),
        "again": n * again,
        "step": steps,
        "task": into + back + filters,
        "byte": cut.packed_bytes + cut.working_bytes,
        f"traffic{far}": problem.traffic_bytes,
        "traffic beyond": far_bytes(problem.traffic_bytes),
        "filter read far": cut.packed_bytes * cut.pairs if far_filters else 0,
    }


def _transforms(cut: Cut) -> tuple[float, float, float, float]:
    """Vectors transformed forward but for filters, and back; of sums taken up again; steps of the region."""
    problem, shares, (channels, results) = cut.problem, cut.shares, cut.channels
    pairs, groups, pieces = cut.pairs, problem.groups, cut.pieces
    if problem.role == "grad_weight" and shares is None:
        return 2 * pairs * cut.rows * pieces, cut.row_vectors * pieces, 0, pieces
    if shares is None:
        return pairs * groups * results, pairs * groups * results, 0, 2
    several = ceil(pairs / shares.pairs) * ceil(groups / shares.groups)
    parts, result_parts = ceil(channels / shares.channels), ceil(results / shares.results)
    if problem.role == "grad_weight":
        into = pairs * groups * pieces * (channels + results * parts)
        vectors = pieces * ceil(groups / shares.groups) * parts * cut.filters
        return into, vectors, 0, several * pieces * parts * (1 + 2 * result_parts)
    again = result_parts if parts * pieces > 1 else 1
    steps = pieces + several * (1 + result_parts * (2 * parts * pieces + 1))
    into = pairs * groups * channels * pieces * again
    return into, pairs * groups * results, pairs * groups * results * (parts * pieces - 1), steps


def _expected_ns(cut: Cut) -> float:
    turns = turns_of(cut.lanes, sum_type(cut.problem))
    alone = priced(_work(cut), _COST_NS, _HALVED_NS, turns)
    together, near = (_SHARED, 1.0) if turns == 1 else (_SHARED_HALVED, _NEAR_HALVED)
    shared = cut.shares is not None and cut.problem.traffic_bytes > target.cpu().l2_bytes
    call = priced({"call": 1}, _COST_NS, _HALVED_NS, turns)
    return call + alone * (together[cut.problem.role] if shared else near)


def plan(problem: Problem, isa: ISA) -> Plan:
    """The block size that is expected to be fastest."""
    cut = min(_cuts(problem, isa), key=_expected_ns)
    return _planned(cut, isa)


def _planned(cut: Cut, isa: ISA) -> Plan:
    whole = "" if cut.pieces == 1 else f" of each of {cut.pieces} pieces of the kernel"
    return Plan(
        name,
        cut.problem,
        isa.name,
        _expected_ns(cut),
        tile=(("lanes", cut.lanes), ("width", cut.width)),
        blocking=(("n", cut.n), ("taps", cut.taps), *(asdict(cut.shares).items() if cut.shares else ())),
        workspace_bytes=cut.packed_bytes + cut.working_bytes,
        packed_bytes=cut.packed_bytes,
        why=f"blocks of {cut.n} samples for {cut.valid} sums{whole}, {cut.blocks} a channel, {2 * cut.lanes} at once",
    )


def error_growth(plan: Plan) -> float:
    """A result is within so many times the bound of direct summation, where that is largest in or beside its channel.

    The error of a transform is within log2(n) times some 3 units of its norm; so the sum's is within 9 log2(n) + 3 of
    |x| |w|, the product of a block's and the kernel's norms over all channels, whereas direct summation's bound has as
    many units as there are terms. Norms are no more than sums of absolute values, which n windows make up.
    Source: Higham, Accuracy and Stability of Numerical Algorithms, theorem 24.2.
    """
    problem, n = plan.problem, plan["n"]
    terms = {
        "forward": problem.group_in * problem.spec.taps,
        "grad_input": problem.group_out * problem.spec.taps,
        "grad_weight": problem.batch * prod(problem.out),
    }[problem.role]
    return max(1.0, (9 * log2(n) + 3) * n / terms)


def bind(plan: Plan, isa: ISA) -> Executable:
    """The kernels with the problem's numbers."""
    numbers = dict(plan.blocking)
    shares = Shares(*(numbers[name] for name in Shares.__slots__)) if "pairs" in numbers else None
    return FourierConvolution(Cut(plan.problem, plan["n"], plan["taps"], plan["lanes"], plan["width"], shares), isa)

"""Geometries that dense kernels get wrong first, and the check that all their tests share."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from lucid.core.dtypes import as_dtype
from lucid.core.geometry import ConvSpec
from lucid.kernels import select
from lucid.kernels.algorithms import reference
from lucid.kernels.convolution import problem
from tests.kernels.guard import guarded

#: Half a unit in the last place of 1, and the smallest number.
HALF = {"float16": (2.0**-11, 2.0**-24), "bfloat16": (2.0**-8, 2.0**-133)}


def case(n, c_in, c_out, size, kernel, stride=1, padding=0, dilation=1, groups=1):
    """(n, c_in, c_out, size, spec); whole numbers are meant for every axis."""

    def each(value):
        return value if isinstance(value, tuple) else (value,) * len(size)

    pads = tuple(p if isinstance(p, tuple) else (p, p) for p in each(padding))
    return n, c_in, c_out, size, ConvSpec(each(kernel), each(stride), each(dilation), pads, groups)


CASES = {
    "one sample": case(1, 1, 1, (1,), 1),
    "seed": case(4, 1, 8, (16,), 3, padding=1),
    "odd channels": case(2, 5, 13, (33,), 3, padding=1),
    "channel blocks": case(1, 150, 9, (40,), 9, padding=4),
    "many rows of seven": case(3, 37, 53, (7, 7), 3, padding=1),
    "single column": case(2, 3, 4, (40, 1), (3, 1), padding=(1, 0)),
    "stride 2": case(2, 6, 9, (17, 35), (3, 2), stride=2, padding=(1, 0)),
    "stride 3 last": case(2, 6, 9, (17, 50), (3, 4), stride=(2, 3), padding=2, groups=3),
    "stride 4 under kernel": case(2, 9, 5, (7, 70), (3, 11), stride=(1, 4), padding=(1, 3)),
    "stride 5": case(2, 3, 4, (203,), 10, stride=5, padding=2),
    "patches": case(2, 3, 4, (32, 80), 16, stride=16),
    "stride 8 over kernel": case(2, 3, 4, (130,), 3, stride=8, padding=2),
    "stride 17": case(1, 3, 4, (333,), 19, stride=17, padding=4),
    "stride over kernel": case(2, 3, 5, (64,), 2, stride=5, padding=((1, 0),)),
    "pointwise": case(3, 16, 24, (5, 13), 1),
    "pointwise stride 2": case(3, 16, 24, (9, 13), 1, stride=2, groups=2),
    "plain columns": case(2, 4, 6, (9, 11), (3, 1), padding=(1, 0), dilation=(2, 1)),
    "dilated past the edge": case(2, 4, 4, (9,), 3, padding=12, dilation=12),
    "common divisor": case(2, 3, 4, (29,), 4, stride=4, padding=3, dilation=2),
    "kernel over row": case(1, 2, 3, (5, 6), (5, 11), padding=((2, 2), (7, 5))),
    "pad over kernel": case(2, 3, 4, (6,), 2, padding=((5, 0),)),
    "asymmetric": case(2, 3, 4, (8, 9), 3, stride=(1, 2), padding=((0, 2), (3, 1))),
    "volume": case(2, 3, 5, (4, 5, 6), (2, 3, 2), stride=(1, 2, 1), padding=(1, 0, 2), dilation=(1, 1, 2)),
    "groups": case(2, 12, 20, (18, 18), 3, padding=1, groups=4),
    "long kernel": case(1, 2, 3, (200,), 129, padding=64),
    "pairs of 17 taps": case(1, 7, 35, (40,), 17, padding=8),
    "filters of three taps side by side": case(1, 39, 9, (20,), 3),
    "transposed k4 s2": case(2, 10, 12, (32,), 4, stride=2, padding=1),
    "transposed k8 s4": case(1, 6, 40, (80,), 8, stride=4, padding=2),
    "transposed k6 s3": case(1, 5, 8, (60,), 6, stride=3, padding=1),
    "transposed k2 s2": case(2, 9, 7, (12, 18), 2, stride=2),
    "transposed k2 s2 under lanes": case(3, 3, 9, (14, 112), 2, stride=2),
    "transposed k2 s2 volume": case(2, 5, 3, (4, 6, 10), 2, stride=2),
    "windows side by side, rows left": case(2, 3, 5, (13, 22), (3, 4), stride=(3, 4), padding=((0, 0), (1, 1))),
    "windows side by side, padded": case(2, 3, 5, (15, 22), (3, 4), stride=(3, 4), padding=((0, 0), (2, 0))),
    "transposed dilated": case(2, 4, 4, (30,), 3, stride=2, padding=2, dilation=3),
}
CASES |= {f"width {n}": case(2, 3, 4, (n,), 3, padding=1) for n in (1, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49)}
#: Taps along the axis around a plain one, which may be cut into pieces.
PIECES = {
    "time": case(2, 5, 13, (6, 8, 32), (3, 1, 1)),
    "time, padded": case(1, 6, 9, (5, 4, 48), (3, 1, 1), padding=(1, 0, 0)),
    "time, groups": case(2, 4, 6, (4, 16, 16), (2, 1, 1), padding=((0, 1), (0, 0), (0, 0)), groups=2),
    "columns": case(2, 3, 8, (9, 128), (3, 1), padding=(1, 0), dilation=(2, 1)),
    "taps a line apart": case(2, 3, 8, (512,), 3, padding=128, dilation=128),
}
#: Planes or lines of some images side by side, few positions each.
UNITS = {
    "images": case(5, 7, 37, (6, 14), 3, stride=2, padding=1),
    "images, groups": case(3, 10, 12, (9, 7), (2, 3), stride=(2, 1), padding=(0, 1), groups=2),
    "volumes": case(3, 5, 18, (4, 9, 7), 3, stride=2, padding=1),
    "volumes, strides apart": case(2, 3, 5, (4, 5, 6), (2, 3, 2), stride=(1, 2, 1), padding=(1, 0, 2)),
    "padding beside": case(3, 4, 6, (5, 8), 3, padding=3, dilation=3),
}
#: Where padding is large beside the size: positions need different taps, some none, some taps are never needed.
REGIONS = {
    "taps of nothing": case(2, 5, 9, (6,), 5, padding=8, dilation=4),
    "centre": case(1, 9, 13, (5, 6), 3, padding=7, dilation=7),
    "corners": case(2, 6, 9, (7, 9), 3, padding=4, dilation=4, groups=3),
    "long kernel": case(2, 8, 20, (13,), 32, padding=16, groups=2),
    "strided": case(2, 5, 6, (9, 8), (5, 3), stride=(2, 3), padding=(6, 3), dilation=3),
    "alike however far on": case(1, 4, 3, (24,), 6, stride=2, padding=12, dilation=3),
    "one side": case(2, 3, 8, (4, 5), (4, 3), padding=((6, 0), (0, 4)), dilation=2),
    "plain inside": case(1, 7, 5, (5, 24), (3, 1), padding=(3, 0), dilation=3),
    "volume": case(2, 3, 4, (3, 4, 2), 3, padding=(2, 3, 1), dilation=(2, 3, 1)),
    "strided beside nothing": case(2, 39, 4, (8, 8), 9, stride=(2, 1), padding=((32, 0), (0, 17)), dilation=(4, 2)),
    "one sample": case(2, 9, 24, (4, 4), 4),
    "one sample stacked": case(1, 6, 5, (5, 6), (4, 4), stride=(1, 2), padding=(0, 1)),
}
#: Samples that may be read where they lie: whole vectors, ends of planes within one, several spans, groups.
IN_PLACE = {
    "whole vectors": case(2, 5, 9, (8, 24), 1),
    "one sample more": case(3, 16, 24, (193,), 1),
    "one sample less": case(2, 7, 13, (127,), 1),
    "squeeze": case(2, 33, 16, (23, 23), 1),
    "groups": case(2, 12, 8, (7, 31), 1, groups=4),
    "spans": case(1, 60, 3, (4099,), 1),
    "volume": case(1, 4, 5, (3, 7, 11), 1),
}
#: The same for windows that lie side by side, whose residues are rows: lines of the result that end within a vector and
#: with one, as short as may be, missing channels, groups, spans that end within a line.
UPSAMPLED = {
    "whole vectors": case(2, 5, 9, (16, 64), 2, stride=2),
    "lines of seven halves": case(3, 4, 6, (12, 112), 2, stride=2),
    "odd lines": case(2, 5, 3, (22, 38), 2, stride=2),
    "shortest lines": case(1, 3, 5, (62, 16), 2, stride=2),
    "under a vector": case(2, 3, 5, (60, 10), 2, stride=2),
    "last axis": case(2, 6, 7, (9, 70), (1, 2), stride=(1, 2)),
    "groups": case(2, 6, 8, (18, 36), 2, stride=2, groups=2),
    "line": case(2, 7, 5, (516,), 4, stride=4),
    "wide stride": case(1, 1, 6, (1040,), 8, stride=8),
    "volume": case(2, 3, 4, (6, 8, 18), 2, stride=2),
    "spans": case(1, 6, 60, (90, 94), 2, stride=2),
}
#: Sums that wait for more channels, which those of a turned tile may.
LONG_IN_PLACE = {
    "long sums": case(2, 1291, 5, (3, 19), 1), "two tiles meet": case(1, 1320, 18, (53,), 1),
    "cut with any tile": case(1, 2600, 5, (19,), 1),
}  # fmt: skip

#: Images that may be read where they lie, some in one span: an odd number, missing rows, groups, long sums.
IMAGES = {
    "whole tiles": case(4, 6, 64, (7, 7), 1),
    "odd": case(5, 9, 37, (7, 9), 1),
    "groups": case(3, 12, 8, (5, 11), 1, groups=4),
    "volume": case(3, 4, 5, (3, 4, 5), 1),
    "long sums": case(3, 1300, 18, (31,), 1),
}

#: Lines that may be read where they lie, steps apart: what is left of rows and lines, ends of x, spans, long sums.
LINES_IN_PLACE = {
    "patches": case(2, 3, 20, (32, 80), 16, stride=16),
    "lines of seven": case(2, 6, 21, (14, 14), 1, stride=2),
    "rows and columns left": case(2, 5, 9, (13, 29), (3, 4), stride=(2, 3)),
    "volume": case(2, 3, 5, (4, 7, 18), 2, stride=2),
    "one line": case(2, 7, 18, (85,), 5, stride=3),
    "a step down alone": case(2, 4, 6, (9, 21), (2, 3), stride=(2, 1)),
    "groups": case(2, 12, 8, (9, 31), (1, 2), stride=2, groups=4),
    "dilated": case(1, 4, 6, (11, 40), 3, stride=2, dilation=2),
    "spans": case(1, 60, 3, (260, 33), 1, stride=2),
    "long sums": case(1, 700, 18, (4, 38), 2, stride=2),
}

#: Rows of results that are as long as a plane, of channels that are whole tiles, in both roles.
PAST = {
    "one row": case(2, 8, 24, (1203,), 10, padding=((4, 5),)),
    "rows of a line's half": case(2, 16, 16, (6, 88), 1),
    "odd planes": case(3, 8, 32, (21, 33), 1),
    "volume": case(2, 8, 16, (5, 7, 11), 1),
    "groups": case(1, 16, 48, (521,), 3, padding=1, groups=2),
    "less than a tile": case(2, 8, 8, (29,), 1),
}


def operands(role, c, dtype, seed=0):
    """Random inputs of a role, its problem and the result's shape."""
    n, c_in, c_out, size, spec = c
    rng = np.random.default_rng(seed)
    x_shape, y_shape = (n, c_in, *size), (n, c_out, *spec.out_size(size))
    first, result = (x_shape, y_shape) if role == "forward" else (y_shape, x_shape)
    shapes = first, (c_out, c_in // spec.groups, *spec.kernel), (result[1],)
    arrays = [rng.standard_normal(shape).astype(as_dtype(dtype).numpy) for shape in shapes]
    return arrays, problem(role, spec, x_shape, y_shape, as_dtype(dtype).name, True), result


def wanted(role, c, arrays):
    """The role's definition in float64, and the bound n u / (1 - n u) sum |x| |w| on the error of its summation."""
    _, c_in, c_out, size, spec = c
    one, w, bias = (a.astype("f8") for a in arrays)
    magnitudes = abs(one), abs(w), abs(bias)
    if role == "forward":
        want, most = (reference.conv_forward(*a, spec) for a in ((one, w, bias), magnitudes))
    else:
        want, most = (reference.conv_grad_input(*a, spec, size) for a in ((one, w, bias), magnitudes))
    terms = max(c_in, c_out) // spec.groups * spec.taps + 1
    narrow = HALF.get(arrays[0].dtype.name)
    nu = terms * np.finfo("f4" if narrow else arrays[0].dtype).eps / 2
    bound = nu / (1 - nu) * most
    if narrow:  # summed in float32, rounded once
        unit, tiny = narrow
        bound = bound * (1 + unit) + unit * abs(want) + tiny
    return want, bound


def check(role, algorithm, c, dtype):
    """Runs a case between forbidden pages at both ends and compares it with the definition."""
    arrays, asked, shape = operands(role, c, dtype)
    want, bound = wanted(role, c, arrays)
    for where in ("end", "start"):
        with ExitStack() as stack:
            inputs = [stack.enter_context(guarded(a, where=where, readonly=True)) for a in arrays]
            result = stack.enter_context(guarded(shape, arrays[0].dtype, where))
            select.executable(asked, algorithm)(*inputs, result)
            off = abs(result.astype("f8") - want)
            assert np.all(off <= bound), f"{where}: {np.nanmax(off / bound)} of the bound"

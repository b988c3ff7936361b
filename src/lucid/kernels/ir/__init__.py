"""A thin, typed layer that writes LLVM text: Python's operators are the instructions, ``with`` makes the loops."""

from lucid.kernels.ir.builder import ENTRY, Function, Loop, Module
from lucid.kernels.ir.types import (
    BY_DTYPE,
    Type,
    bf16,
    computed,
    f16,
    f32,
    f64,
    i1,
    i8,
    i16,
    i32,
    i64,
    ptr,
    vec,
    void,
)
from lucid.kernels.ir.values import (
    Pointer,
    Value,
    absolute,
    bf16_dot,
    bitcast,
    constant,
    convert,
    copysign,
    extract,
    floor,
    fma,
    joined,
    lift,
    maximum,
    minimum,
    rint,
    select,
    shuffle,
    splat,
    sqrt,
    vector_of,
)
from lucid.kernels.ir.vectors import (
    deinterleave,
    interleave,
    lane_numbers,
    lane_sum,
    lane_sums,
    lanes_below,
    lanes_inside,
    picked,
    transpose,
    transpose_blocks,
    zeros,
)

__all__ = [
    "BY_DTYPE", "ENTRY", "Function", "Loop", "Module", "Pointer", "Type", "Value", "absolute", "bf16", "bf16_dot",
    "bitcast", "computed", "constant", "convert", "copysign", "deinterleave", "extract", "f16", "f32", "f64", "floor",
    "fma", "i1", "i8", "i16", "i32", "i64", "interleave", "joined", "lane_numbers", "lane_sum", "lane_sums",
    "lanes_below", "lanes_inside", "lift", "maximum", "minimum", "picked", "ptr", "rint", "select", "shuffle", "splat",
    "sqrt", "transpose", "transpose_blocks", "vec", "vector_of", "void", "zeros",
]  # fmt: skip

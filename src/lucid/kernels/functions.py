"""Exponential, logarithm and their kin as kernel IR: polynomials on vectors of float32 or float64, on any machine.

Every function is right to 2 units in the last place over its whole range, gives NaN for NaN and the limit at the
infinities. Kernels run with denormals flushed: a result below the smallest normal number is 0, and an argument below it
counts as 0 (log(1e-40f) is -inf). Without a fused multiply-add (the scalar machine) the last bits may differ.

The coefficients are minimax fits; ``tools/polynomials.py`` prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lucid.kernels.ir import Value, absolute, bitcast, convert, copysign, fma, i32, i64, select, vec

_SQRT_HALF = 0.70710678118654752440
_TANH_NEAR = 0.55
_LOG2_E = 1.44269504088896340736
_LN_2 = 0.693147180559945309417


@dataclass(frozen=True, slots=True)
class _Format:
    """What the functions must know of a floating-point format.

    ``magic`` is 1.5 units of 2^mantissa: adding it rounds to a whole number and leaves that in the low bits.
    ``ln2`` is log(2) in two parts, of which the first has zeros to spare: n times it is exact for every exponent n.
    ``exp`` and ``expm1`` are the arguments between which the function moves, ``erf`` the one from which it rounds to 1.
    ``normal`` is where the normal distribution ends, and the middle from which its polynomial counts: from 0, powers of
    large arguments would cancel.
    """

    mantissa: int
    bias: int
    magic: float
    ln2: tuple[float, float]
    exp: tuple[float, float]
    expm1: float
    erf: float
    expm1_tail: tuple[float, ...]
    log_tail: tuple[float, ...]
    erf_small: tuple[float, ...]
    erfc_log: tuple[float, ...]
    tanh_tail: tuple[float, ...]
    exp2_slope: tuple[float, ...]
    normal: tuple[float, float]
    normal_log: tuple[float, ...]


_FORMATS = {
    "float": _Format(
        mantissa=23,
        bias=127,
        magic=1.5 * 2**23,
        ln2=(0.693359375, -2.12194440e-4),
        exp=(-104.0, 89.0),
        expm1=-18.0,
        erf=4.0,
        expm1_tail=(5.0000000944e-1, 1.6666518828e-1, 4.1666207560e-2, 8.3688905471e-3, 1.3950398892e-3),
        log_tail=(6.6666776387e-1, 3.9977539503e-1, 2.9871811056e-1),
        erf_small=(
            1.2837916591e-1, -3.7612627139e-1, 1.1283600207e-1, -2.6854445873e-2, 5.1895377011e-3, -8.0208613734e-4,
            7.8891839496e-5,
        ),
        erfc_log=(
            2.9102847093e-4, -1.1301197265e+0, -6.3201342672e-1, -1.0990974105e-1, 2.6327529080e-2, -4.7276901468e-3,
            5.9020356497e-4, -4.5298129111e-5, 1.5998205960e-6,
        ),
        tanh_tail=(
            -3.3333318026e-1, 1.3332600899e-1, -5.3853765058e-2, 2.1077337934e-2, -6.2818298998e-3,
        ),
        exp2_slope=(
            6.9314720540e-1, 2.4022651339e-1, 5.5503289274e-2, 9.6180044666e-3, 1.3399937572e-3, 1.5476176935e-4,
        ),
        normal=(5.65686, 2.75),
        normal_log=(
            -2.6874860168e+0, -6.2374271237e-1, -1.4755846686e-2, 2.1606018830e-3, -2.8970378763e-4, 3.3146006335e-5,
            -2.7410272488e-6, -7.8199867717e-9, 8.7545621854e-8, -2.4619753736e-8, 2.5617672889e-9,
        ),
    ),
    "double": _Format(
        mantissa=52,
        bias=1023,
        magic=1.5 * 2**52,
        ln2=(6.93147180369123816490e-01, 1.90821492927058770002e-10),
        exp=(-746.0, 710.0),
        expm1=-40.0,
        erf=6.0,
        expm1_tail=(
            5.000000000000012740e-1, 1.666666666666669878e-1, 4.166666666651542450e-2, 8.333333333307356219e-3,
            1.388888894701509456e-3, 1.984126991709327028e-4, 2.480148994246687484e-5, 2.755721654034110527e-6,
            2.763128041870764315e-7, 2.511778951660224086e-8,
        ),
        log_tail=(
            6.666666666666734445e-1, 3.999999999941440575e-1, 2.857142874245818632e-1, 2.222219856500780626e-1,
            1.818356479660109970e-1, 1.531403742331080398e-1, 1.479609131099086856e-1,
        ),
        erf_small=(
            1.283791670955125738e-1, -3.761263890318374818e-1, 1.128379167095488445e-1, -2.686617064507787142e-2,
            5.223977624828398818e-3, -8.548326981424047900e-4, 1.205533113291329106e-4, -1.492559577141841395e-5,
            1.646100846923569753e-6, -1.635039616600526864e-7, 1.466032853983394168e-8, -1.137495570359615074e-9,
            5.960686283472960338e-11,
        ),
        erfc_log=(
            8.649760246730349432e-8, -1.128380163457479770e+0, -6.366143334751844131e-1, -1.027913359229602100e-1,
            1.917416746402349448e-2, 1.250157636185902016e-4, -1.574725088710343571e-3, 4.492540296659563641e-4,
            1.075117926794595445e-4, -1.685845330802639245e-4, 9.684113518406226597e-5, -3.895796349468453249e-5,
            1.232871814859255847e-5, -3.197695114301927769e-6, 6.911721151115001417e-7, -1.251819422873011121e-7,
            1.897543007496813757e-8, -2.392329354940892724e-9, 2.480705033395439774e-10, -2.079930555059185817e-11,
            1.374902467402935030e-12, -6.895804706789425993e-14, 2.465417368482373587e-15, -5.595838468574747229e-17,
            6.057897456823755587e-19,
        ),
        tanh_tail=(
            -3.333333333333234845e-1, 1.333333333317331253e-1, -5.396825387815927502e-2, 2.186948602088279165e-2,
            -8.863195081697820496e-3, 3.591724070595996852e-3, -1.453237152964766944e-3, 5.791943300446324342e-4,
            -2.103913826636732260e-4, 5.108010571217624191e-5,
        ),
        exp2_slope=(
            6.931471805599453081e-1, 2.402265069591013131e-1, 5.550410866482173745e-2, 9.618129107593976025e-3,
            1.333355814637977584e-3, 1.540353045737206981e-4, 1.525273386697833654e-5, 1.321543513210055549e-6,
            1.017804665678803722e-7, 7.073810942510471137e-9, 4.457361936554882157e-10,
        ),
        normal=(8.48529, 4.25),
        normal_log=(
            -3.650253551233018338e+0, -6.566164118233324527e-1, -8.019021901679109202e-3, 1.000652907591637995e-3,
            -1.211408750707344301e-4, 1.384066901696616437e-5, -1.439536318188798814e-6, 1.265530683475781599e-7,
            -7.223945404201079532e-9, -3.342187622458964797e-10, 2.005862090480983628e-10, -4.272580049838370411e-11,
            6.881954722171101010e-12, -9.220620154816013923e-13, 1.022105444730570206e-13, -8.300413837507784185e-15,
            1.081948142462249722e-16, 1.366998305397001213e-16, -3.160371549996755588e-17, 4.856078411345344086e-18,
            -1.146039622627478376e-18, 2.414947243733190248e-19, -2.312253084161499747e-22, -7.401135434697732092e-21,
            -1.761286975483858301e-22, 3.055515084552986467e-22, 3.168337085766258487e-24, -1.011604402854055483e-23,
            5.855688608319618505e-25, 1.057417358723337325e-25, -9.811099249685372471e-27,
        ),
    ),
}  # fmt: skip


def _format(x: Value) -> _Format:
    return _FORMATS[x.type.name]


def _whole(x: Value) -> tuple[Callable[[Value], Value], Callable[[Value], Value]]:
    """Seeing the bits of x's type as whole numbers, and back."""
    whole = vec(i32 if x.type.bits == 32 else i64, x.type.lanes)
    return (lambda v: bitcast(v, whole)), (lambda v: bitcast(v, x.type))


def polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """c0 + c1 x + c2 x^2 + ... by Horner's rule."""
    total = x.const(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = fma(total, x, x.const(c))
    return total


def _between(x: Value, low: float, high: float) -> Value:
    """x held between two bounds; NaN stays."""
    x = select(x < low, low, x)
    return select(x > high, high, x)


def _split_exp(x: Value) -> tuple[Value, Value]:
    """q and n with e^x = 2^n (1 + q), |q| < 0.42, n still as ``magic + n``.

    Source: argument reduction after Cody and Waite, 1980.
    """
    spec = _format(x)
    shifted = fma(x, x.const(_LOG2_E), x.const(spec.magic))
    n = shifted - spec.magic
    high = fma(n, x.const(-spec.ln2[0]), x)
    low = n * -spec.ln2[1]
    r = high + low  # rounded, which is good enough for the small terms; q begins with both parts of r
    return high + fma(r * r, polynomial(r, spec.expm1_tail), low), shifted


def _power_of_two(n: Value, pattern: Value) -> Value:
    """2^n for a whole n that is an exponent of the format."""
    spec = _format(pattern)
    return bitcast((n + spec.bias) << spec.mantissa, pattern.type)


def exp(x: Value) -> Value:
    """e^x."""
    spec = _format(x)
    bits, _ = _whole(x)
    q, shifted = _split_exp(_between(x, *spec.exp))
    n = bits(shifted) - bits(x.const(spec.magic))
    half = n.ashr(1)  # 2^n in two factors: n alone may be no exponent of a normal number at either end
    scale = _power_of_two(half, x)
    return (fma(scale, q, scale)) * _power_of_two(n - half, x)


def exp_of_negative(x: Value) -> Value:
    """e^x where x is no more than 0, in two thirds of the steps: 2^n is a normal number, or e^x is 0."""
    spec = _format(x)
    bits, back = _whole(x)
    shifted = fma(x, x.const(_LOG2_E), x.const(spec.magic))
    n = shifted - spec.magic
    r = fma(n, x.const(-spec.ln2[1]), fma(n, x.const(-spec.ln2[0]), x))
    q = fma(r * r, polynomial(r, spec.expm1_tail), r)
    scale = back((bits(shifted) + spec.bias) << spec.mantissa)  # magic's own bits are shifted out
    return select(x < (1 - spec.bias) * _LN_2, 0.0, fma(scale, q, scale))


def _half_exp(x: Value) -> tuple[Value, Value]:
    """h and q with e^x / 2 = h + h q, where e^x itself could overflow; not below the last bit of 1."""
    spec = _format(x)
    bits, _ = _whole(x)
    q, shifted = _split_exp(_between(x, spec.expm1, spec.exp[1]))
    return _power_of_two(bits(shifted) - bits(x.const(spec.magic)) - 1, x), q


def expm1(x: Value) -> Value:
    """e^x - 1, also where e^x is near 1."""
    half, q = _half_exp(x)
    y = fma(half, q, half - 0.5)
    return y + y


def _half_exp_plus_one(x: Value) -> Value:
    """(1 + e^x) / 2."""
    half, q = _half_exp(x)
    return fma(half, q, x.const(0.5)) + half


def _log(x: Value, correction: Value | None = None) -> Value:
    """log(x), or log(x + correction) for a correction below x's last bit.

    x = 2^n (1 + f) with 1 + f between sqrt(1/2) and sqrt(2); s = f / (2 + f); log(1 + f) = 2 s + s R(s^2).
    Source: fdlibm, e_log.c.
    """
    spec = _format(x)
    bits, back = _whole(x)
    root = x.const(_SQRT_HALF)
    above = bits(x) - bits(root)
    n = convert(above.ashr(spec.mantissa), x.type.element)
    mantissa = above & ((1 << spec.mantissa) - 1)
    f = back(mantissa + bits(root)) - 1.0
    s = f / (f + 2.0)
    z = s * s
    half = f * f * 0.5
    tail = s * fma(z, polynomial(z, spec.log_tail), half)
    low = fma(n, x.const(spec.ln2[1]), tail)
    if correction is not None:
        low = low + correction / x
    y = fma(n, x.const(spec.ln2[0]), f - (half - low))
    infinity = float("inf")
    y = select(x < infinity, y, x)  # infinity and NaN
    smallest = 2.0 ** (1 - spec.bias)
    y = select(x < smallest, -infinity, y)
    return select(x < 0.0, float("nan"), y)


def log(x: Value) -> Value:
    """Natural logarithm; -inf at 0, NaN below."""
    return _log(x)


def log1p(x: Value) -> Value:
    """log(1 + x), also where x is near 0."""
    u = x + 1.0
    lost = x - (u - 1.0)
    return select(x < float("inf"), _log(u, lost), x)


def tanh(x: Value) -> Value:
    """Hyperbolic tangent: x + x^3 P(x^2) near 0, 1 - 2 / (e^2|x| + 1) beyond."""
    a, z = absolute(x), x * x
    near = fma(x * z, polynomial(z, _format(x).tanh_tail), x)
    far = 1.0 - 1.0 / _half_exp_plus_one(a + a)
    return select(a < _TANH_NEAR, near, copysign(far, x))


def sigmoid(x: Value) -> Value:
    """1 / (1 + e^-x)."""
    return 0.5 / _half_exp_plus_one(-x)


def softplus(x: Value) -> Value:
    """log(1 + e^x), as max(x, 0) + log(1 + e^-|x|)."""
    return select(x < 0.0, 0.0, x) + log1p(exp(-absolute(x)))


def _erf_near(x: Value) -> Value:
    """erf where |x| < 1: x + x P(x^2)."""
    return fma(x, polynomial(x * x, _format(x).erf_small), x)


def _erfc_far(a: Value) -> Value:
    """erfc = 1 - erf from 1 on: e^Q(a). Where erf rounds to 1 it stops falling."""
    spec = _format(a)
    return exp(polynomial(select(a > spec.erf, spec.erf, a), spec.erfc_log))


def erf(x: Value) -> Value:
    """The error function.

    Source: N. Juffa's split, with fits of our own.
    """
    a = absolute(x)
    return select(a < 1.0, _erf_near(x), copysign(1.0 - _erfc_far(a), x))


def _half_power(y: Value) -> Value:
    """2^(y - 1) for y between -100 and 0."""
    spec = _format(y)
    bits, back = _whole(y)
    shifted = y + spec.magic
    r = y - (shifted - spec.magic)
    power = fma(r, polynomial(r, spec.exp2_slope), y.const(1.0))
    return power * back((bits(shifted) + (spec.bias - 1)) << spec.mantissa)  # magic's own bits are shifted out


def normal_cdf(x: Value) -> Value:
    """The normal distribution function, (1 + erf(x / sqrt(2))) / 2, without the cancellation where x < 0.

    Below 0 it is 2^(-1 + |x| P(|x|)), which is as good near 0 as far from it; above, 1 less that. Below -5.6 (float64:
    -8.4) it is 0, off by 1e-8 (1e-17).
    """
    spec = _format(x)
    a = absolute(x)
    far, middle = spec.normal
    held = select(a > far, far, a)
    tail = _half_power(held * polynomial(held - middle, spec.normal_log))
    below = select(a > far, 0.0, tail)
    return select(x < 0.0, below, 1.0 - tail)


#: The functions of one argument, by name.
UNARY: dict[str, Callable[[Value], Value]] = {
    f.__name__: f for f in (exp, expm1, log, log1p, tanh, sigmoid, softplus, erf)
}

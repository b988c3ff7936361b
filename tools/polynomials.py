"""Fits the polynomials of ``lucid.kernels.functions``: prints the tables that stand there.

Minimax by Remez exchange in decimal arithmetic: for degree n, the polynomial whose weighted error takes its maximum
n + 2 times with alternating sign is the best one (Chebyshev).

    python tools/polynomials.py
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, getcontext
from math import cos, pi

getcontext().prec = 60
D = Decimal
Function = Callable[[Decimal], Decimal]


def solve(rows: list[list[Decimal]]) -> list[Decimal]:
    """The solution of a linear system, the right side as last column: Gauss with pivots."""
    n = len(rows)
    for k in range(n):
        pivot = max(range(k, n), key=lambda r: abs(rows[r][k]))
        rows[k], rows[pivot] = rows[pivot], rows[k]
        for r in range(n):
            if r != k:
                factor = rows[r][k] / rows[k][k]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[k], strict=True)]
    return [rows[k][n] / rows[k][k] for k in range(n)]


def evaluate(coefficients: list[Decimal], x: Decimal) -> Decimal:
    """Horner's rule, the constant first."""
    total = D(0)
    for c in reversed(coefficients):
        total = total * x + c
    return total


def minimax(f: Function, weight: Function, low: float, high: float, degree: int) -> tuple[list[Decimal], Decimal]:
    """The polynomial p of least max |p - f| weight on [low, high], and that maximum."""
    count, grid_size = degree + 2, 30 * (degree + 2)
    a, b = D(low), D(high)
    grid = [(a + b) / 2 - (b - a) / 2 * D(cos(pi * k / grid_size)) for k in range(grid_size + 1)]
    values, weights = [f(x) for x in grid], [weight(x) for x in grid]
    chosen = [round(k * grid_size / (count - 1)) for k in range(count)]
    for _ in range(12):
        rows = [
            [grid[i] ** k if k else D(1) for k in range(degree + 1)] + [(-1) ** s / weights[i], values[i]]
            for s, i in enumerate(chosen)
        ]
        *coefficients, _ = solve(rows)
        errors = [(evaluate(coefficients, x) - v) * w for x, v, w in zip(grid, values, weights, strict=True)]
        chosen = _extrema(errors, count)
    return coefficients, max(map(abs, errors))


def _extrema(errors: list[Decimal], count: int) -> list[int]:
    """The largest error of every run of one sign; the ``count`` neighbours that are largest together."""
    best: list[int] = []
    for i, e in enumerate(errors):
        if best and (errors[best[-1]] > 0) == (e > 0):
            if abs(e) > abs(errors[best[-1]]):
                best[-1] = i
        else:
            best.append(i)
    while len(best) > count:
        best.pop(0 if abs(errors[best[0]]) < abs(errors[best[-1]]) else -1)
    return best


PI = D("3.14159265358979323846264338327950288419716939937510582097494")


def erf_over_x(z: Decimal) -> Decimal:
    """erf(x) / x at z = x^2: 2/sqrt(pi) times the sum of (-z)^k / (k! (2k + 1))."""
    total, factor, k = D(0), D(1), 0
    while True:
        following = total + factor / (2 * k + 1)
        if following == total:
            return total * 2 / PI.sqrt()
        total, k = following, k + 1
        factor = -factor * z / k


def erfc(x: Decimal) -> Decimal:
    """1 - erf: by the series, with digits to spare (at x = 6 cancellation takes 16 of 60, the sum 16 more)."""
    return 1 - x * erf_over_x(x * x)


def expm1_tail(r: Decimal) -> Decimal:
    """(e^r - 1 - r) / r^2."""
    if r == 0:
        return D("0.5")
    return (r.exp() - 1 - r) / (r * r)


def log_tail(z: Decimal) -> Decimal:
    """(log((1 + s) / (1 - s)) - 2s) / (s z) at z = s^2, which is 2/3 + 2/5 z + 2/7 z^2 + ..."""
    if z < D("1e-20"):
        return D(2) / 3 + D(2) / 5 * z
    s = z.sqrt()
    return (((1 + s) / (1 - s)).ln() - 2 * s) / (s * z)


def tanh_tail(z: Decimal) -> Decimal:
    """(tanh(x) - x) / x^3 at z = x^2, which is -1/3 + 2/15 z - ..."""
    if z < D("1e-15"):
        return D(-1) / 3 + D(2) / 15 * z
    x = z.sqrt()
    e = (2 * x).exp()
    return ((e - 1) / (e + 1) - x) / (x * z)


def exp2_slope(r: Decimal) -> Decimal:
    """(2^r - 1) / r."""
    ln2 = D(2).ln()
    return ln2 if r == 0 else ((r * ln2).exp() - 1) / r


def normal_log(a: Decimal) -> Decimal:
    """log2(2 P(-a)) / a for the normal distribution function P."""
    if a < D("1e-25"):
        return -(2 / PI).sqrt() / D(2).ln()
    return erfc(a / D(2).sqrt()).ln() / D(2).ln() / a


HALF_LN2 = 0.3465735902799727 * 1.0001
FITS: dict[str, tuple[Function, Function, float, float, dict[str, int]]] = {
    # name: function, weight, interval, degree by element type
    "EXPM1": (expm1_tail, lambda r: r * r + D("1e-12"), -HALF_LN2, HALF_LN2, {"f32": 4, "f64": 9}),
    "LOG": (log_tail, lambda z: z + D("1e-9"), 0.0, 0.02944, {"f32": 2, "f64": 6}),
    "ERF": (lambda z: erf_over_x(z) - 1, lambda z: D(1), 0.0, 1.0, {"f32": 6, "f64": 12}),
    "ERFC": (lambda x: erfc(x).ln(), lambda x: D(1), 1.0, 0.0, {"f32": 8, "f64": 24}),
    "TANH": (tanh_tail, lambda z: z + D("1e-9"), 0.0, 0.3026, {"f32": 4, "f64": 9}),
    "EXP2": (exp2_slope, lambda r: abs(r) + D("0.01"), -0.5, 0.5, {"f32": 5, "f64": 10}),
}
REACH = {"f32": 4.0, "f64": 6.0}  # from here on erf rounds to 1
NORMAL = {"f32": (5.65686, 2.75, 10), "f64": (8.48529, 4.25, 30)}  # end, middle that the argument counts from, degree


def main() -> None:
    for name, (f, weight, low, high, degrees) in FITS.items():
        for element, degree in degrees.items():
            show(name, element, *minimax(f, weight, low, high or REACH[element], degree))
    for element, (end, middle, degree) in NORMAL.items():
        c = D(middle)
        fit = minimax(lambda t, c=c: normal_log(t + c), lambda t, c=c: t + c + D("0.01"), -middle, end - middle, degree)
        show("NORMAL", element, *fit)


def show(name: str, element: str, coefficients: list[Decimal], error: Decimal) -> None:
    """Prints a row of the table."""
    digits = 10 if element == "f32" else 18
    print(f"{name} {element}: error {error:.2e}")
    print("    (" + ", ".join(f"{c:.{digits}e}" for c in coefficients) + ")")


if __name__ == "__main__":
    main()

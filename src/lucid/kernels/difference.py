"""How far two arrays are apart, squares or sizes of differences summed in one pass; and the gradients, in another."""

from __future__ import annotations

from lucid.kernels.elementwise import Elementwise
from lucid.kernels.ir import Value, absolute, select
from lucid.kernels.reduction import Reduction


def _scaled(total: Value, *, factor: Value) -> Value:
    return total * factor


def _sign(x: Value) -> Value:
    return select(x > 0.0, 1.0, select(x < 0.0, -1.0, x + 0.0))


def _both(value: Value) -> tuple[Value, Value]:
    return value, -value


#: factor times the sum of (x - y)², or of |x - y|; with factor 1 / n their mean.
squares = Reduction("squares", terms=lambda x, y: (x - y, x - y), finish=_scaled, combine="products")
sizes = Reduction("sizes", terms=lambda x, y: (absolute(x - y), 1.0), finish=_scaled, combine="products")

#: Their gradients in x, for the one number g; and in x and in y.
squares_to_x = Elementwise("squares_to_x", lambda g, x, y, *, factor: (x - y) * 2.0 * (g * factor))
sizes_to_x = Elementwise("sizes_to_x", lambda g, x, y, *, factor: _sign(x - y) * (g * factor))
squares_to_both = Elementwise("squares_to_both", lambda g, x, y, *, factor: _both((x - y) * 2.0 * (g * factor)))
sizes_to_both = Elementwise("sizes_to_both", lambda g, x, y, *, factor: _both(_sign(x - y) * (g * factor)))

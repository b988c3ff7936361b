"""Functions that NumPy lacks, in float64 arithmetic on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Source: FreeBSD msun s_erf.c (Sun Microsystems, 1993): rational approximations on four intervals, below 1 ulp.
_SMALL = (
    (1.28379167095512558561e-01, -3.25042107247001499370e-01, -2.84817495755985104766e-02,
     -5.77027029648944159157e-03, -2.37630166566501626084e-05),
    (1.0, 3.97917223959155352819e-01, 6.50222499887672944485e-02, 5.08130628187576562776e-03,
     1.32494738004321644526e-04, -3.96022827877536812320e-06),
)  # fmt: skip
_NEAR_ONE = (
    (-2.36211856075265944077e-03, 4.14856118683748331666e-01, -3.72207876035701323847e-01,
     3.18346619901161753674e-01, -1.10894694282396677476e-01, 3.54783043256182359371e-02,
     -2.16637559486879084300e-03),
    (1.0, 1.06420880400844228286e-01, 5.40397917702171048937e-01, 7.18286544141962662868e-02,
     1.26171219808761642112e-01, 1.36370839120290507362e-02, 1.19844998467991074170e-02),
)  # fmt: skip
_MIDDLE = (
    (-9.86494403484714822705e-03, -6.93858572707181764372e-01, -1.05586262253232909814e+01,
     -6.23753324503260060396e+01, -1.62396669462573470355e+02, -1.84605092906711035994e+02,
     -8.12874355063065934246e+01, -9.81432934416914548592e+00),
    (1.0, 1.96512716674392571292e+01, 1.37657754143519042600e+02, 4.34565877475229228821e+02,
     6.45387271733267880336e+02, 4.29008140027567833386e+02, 1.08635005541779435134e+02,
     6.57024977031928170135e+00, -6.04244152148580987438e-02),
)  # fmt: skip
_FAR = (
    (-9.86494292470009928597e-03, -7.99283237680523006574e-01, -1.77579549177547519889e+01,
     -1.60636384855821916062e+02, -6.37566443368389627722e+02, -1.02509513161107724954e+03,
     -4.83519191608651397019e+02),
    (1.0, 3.03380607434824582924e+01, 3.25792512996573918826e+02, 1.53672958608443695994e+03,
     3.19985821950859553908e+03, 2.55305040643316442583e+03, 4.74528541206955367215e+02,
     -2.24409524465858183362e+01),
)  # fmt: skip
_ERF_ONE = 8.45062911510467529297e-01  # near erf(1), with trailing zero bits


def _ratio(x: Array, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Array:
    above, below = coefficients
    return np.polyval(above[::-1], x) / np.polyval(below[::-1], x)


def _tail(ax: Array) -> Array:
    """erfc for |x| >= 1.25: exp(-x²)/x times a ratio in 1/x². x² is split so that exp loses no digits."""
    s = 1.0 / (ax * ax)
    ratio = np.where(ax < 1.0 / 0.35, _ratio(s, _MIDDLE), _ratio(s, _FAR))
    high = ax.astype(np.float32).astype(np.float64)
    return np.exp(-high * high - 0.5625) * np.exp((high - ax) * (high + ax) + ratio) / ax


def _erf_and_erfc(x: Array) -> tuple[Array, Array]:
    x = x.astype(np.float64)
    ax = np.abs(x)
    inner = np.minimum(ax, 0.84375)
    small = inner + inner * _ratio(inner * inner, _SMALL)
    near = _ratio(np.clip(ax, 0.84375, 1.25) - 1.0, _NEAR_ONE)
    tail = _tail(np.clip(ax, 1.25, 28.0))
    regions = [ax < 0.84375, ax < 1.25]
    erf = np.select(regions, [small, _ERF_ONE + near], 1.0 - tail)
    erfc = np.select(regions, [1.0 - small, 1.0 - _ERF_ONE - near], tail)
    erfc = np.where(x < 0, 2.0 - erfc, erfc)
    nan = np.isnan(x)
    return np.where(nan, x, np.copysign(erf, x)), np.where(nan, x, erfc)


def erf(x: Array) -> Array:
    """The error function."""
    return _erf_and_erfc(x)[0].astype(x.dtype)


def erfc(x: Array) -> Array:
    """1 - erf(x), without cancellation for large x."""
    return _erf_and_erfc(x)[1].astype(x.dtype)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)); exp may overflow to infinity, which is right."""
    return 1 / (1 + np.exp(-x))

"""Connectionist temporal classification: the likelihood of a sequence of labels, over all ways to spread it in time.

Between, before and after the labels there may be blanks, and each may be said for several steps: with blanks the
sequence "ab" is "-a-b-", and a path goes through it one or two places a step, two only over a blank between different
labels. All sums are of logarithms; arrays are (N, S) with S = 2 · labels + 1 places.

Source: Graves et al., ICML 2006.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lucid.autograd import Op, apply
from lucid.tensor import Tensor

Array = np.ndarray[Any, Any]


def ctc(log_p: Tensor, targets: Array, input_lengths: Array, target_lengths: Array, blank: int) -> Tensor:
    """-log of the probability of each sequence.

    Shape:
        log_p (T, N, C), targets (N, labels) of which the first ``target_lengths`` count, result (N,).
    """
    result: Tensor = apply(
        _ctc, log_p, targets=targets, input_lengths=input_lengths, target_lengths=target_lengths, blank=blank
    )
    return result


def _ctc_forward(log_p: Array, *, targets: Array, input_lengths: Array, target_lengths: Array, blank: int) -> Array:
    sizes: dict[str, Any] = {
        "targets": targets, "input_lengths": input_lengths, "target_lengths": target_lengths, "blank": blank,
    }  # fmt: skip
    return -_likelihood(_paths(log_p, **sizes)[1], **sizes).astype(log_p.dtype)


def _places(targets: Array, blank: int) -> tuple[Array, Array]:
    """The class at each place, and whether a path may come to it over the one before."""
    n, labels = targets.shape
    classes = np.full((n, 2 * labels + 1), blank, np.int64)
    classes[:, 1::2] = targets
    skips = np.zeros(classes.shape, bool)
    skips[:, 3::2] = targets[:, 1:] != targets[:, :-1]
    return classes, skips


def _paths(
    log_p: Array, *, targets: Array, input_lengths: Array, target_lengths: Array, blank: int
) -> tuple[Array, Array]:
    """log p of the class at each place, and log of all paths up to there: both (T, N, S)."""
    classes, skips = _places(targets, blank)
    seen = np.take_along_axis(log_p, classes[None], 2).astype(np.float64)
    paths = np.full(seen.shape, -np.inf)
    paths[0, :, :2] = seen[0, :, :2]
    for t in range(1, len(seen)):
        before = paths[t - 1]
        moved = np.logaddexp(before, _shifted(before, 1))
        paths[t] = np.logaddexp(moved, np.where(skips, _shifted(before, 2), -np.inf)) + seen[t]
    return seen, paths


def _shifted(places: Array, count: int) -> Array:
    """Every place gets what is ``count`` places before it."""
    out = np.full_like(places, -np.inf)
    out[:, count:] = places[:, :-count]
    return out


def _ends(target_lengths: Array) -> tuple[Array, Array]:
    """The two places a path may end at: the last label and the blank behind it; the blank alone without labels."""
    return 2 * target_lengths, np.maximum(2 * target_lengths - 1, 0)


def _likelihood(paths: Array, *, input_lengths: Array, target_lengths: Array, **_: Any) -> Array:
    """The log-probability of each sequence."""
    rows = np.arange(paths.shape[1])
    last, label = (paths[input_lengths - 1, rows, end] for end in _ends(target_lengths))
    found: Array = np.where(target_lengths > 0, np.logaddexp(last, label), last)
    return found


def _ctc_grad_forward(
    g: Array, log_p: Array, *, targets: Array, input_lengths: Array, target_lengths: Array, blank: int
) -> Array:
    """-g times how probable each class is at each step, given the sequence: the share of paths that say it then."""
    sizes: dict[str, Any] = {
        "targets": targets, "input_lengths": input_lengths, "target_lengths": target_lengths, "blank": blank,
    }  # fmt: skip
    classes, skips = _places(targets, blank)
    seen, paths = _paths(log_p, **sizes)
    total = _likelihood(paths, **sizes)
    onward = _onward(seen, skips, input_lengths, target_lengths)
    with np.errstate(invalid="ignore"):
        shares = np.exp(paths + onward - total[:, None])
    shares = np.where(np.isfinite(total)[:, None], shares, np.nan)
    shares[np.arange(len(seen))[:, None] >= input_lengths] = 0
    out = np.zeros(log_p.shape)
    t, n = np.ogrid[: len(seen), : len(classes)]
    for place in range(classes.shape[1]):
        out[t, n, classes[None, :, place]] -= shares[:, :, place]
    # A sequence that cannot be has NaN, unless its loss does not count.
    result: Array = np.where(g[:, None] == 0, 0, out * g[:, None]).astype(log_p.dtype)
    return result


def _onward(seen: Array, skips: Array, input_lengths: Array, target_lengths: Array) -> Array:
    """log of all paths from each place to the end, without the step itself: (T, N, S)."""
    onward = np.full(seen.shape, -np.inf)
    rows = np.arange(seen.shape[1])
    ends = np.full(seen.shape[1:], -np.inf)
    for end in _ends(target_lengths):
        ends[rows, end] = 0
    for t in range(len(seen) - 1, -1, -1):
        if t + 1 < len(seen):
            after = onward[t + 1] + seen[t + 1]
            over = np.where(skips, after, -np.inf)
            moved = np.logaddexp(after, _shifted(after[:, ::-1], 1)[:, ::-1])
            onward[t] = np.logaddexp(moved, _shifted(over[:, ::-1], 2)[:, ::-1])
        onward[t] = np.where((input_lengths == t + 1)[:, None], ends, onward[t])
    return onward


_ctc_grad = Op("ctc_grad", _ctc_grad_forward)

_ctc = Op("ctc", _ctc_forward, vjp={
    "log_p": lambda g, log_p, targets, input_lengths, target_lengths, blank: apply(
        _ctc_grad, g, log_p, targets=targets, input_lengths=input_lengths, target_lengths=target_lengths, blank=blank
    ),
})  # fmt: skip

"""Kept weights are made once, are those of the moment, and go when they should."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from lucid.core.geometry import ConvSpec
from lucid.kernels import algorithm, conv_forward, conv_grad_input, kept, select, target
from lucid.kernels.convolution import observed
from lucid.kernels.launch import Keeper, Launch
from lucid.kernels.runtime import memory, threads

Array = np.ndarray[Any, Any]

SPEC = ConvSpec((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
STRIDED = ConvSpec((3, 3), (2, 2), (1, 1), ((1, 1), (1, 1)))


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    limit = kept.stats().limit_bytes
    kept.set_limit(0)
    kept.set_limit(limit)
    yield
    kept.set_limit(limit)


def arrays(c_in: int = 24, c_out: int = 40, size: int = 12, seed: int = 0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((2, c_in, size, size), np.float32),
        rng.standard_normal((c_out, c_in, 3, 3), np.float32),
        rng.standard_normal(c_out, np.float32),
    )


CALLS: dict[str, Callable[..., Array]] = {
    "gemm": lambda x, w, bias, versions: conv_forward(x, w, bias, SPEC, versions),
    "winograd": lambda x, w, bias, versions: conv_forward(x, w, bias, SPEC, versions),
    "phase_split": lambda g, w, bias, versions: conv_grad_input(g, w, bias, SPEC, g.shape[2:], versions),
    "overlap_add": lambda g, w, bias, versions: conv_grad_input(
        g, w, bias, STRIDED, STRIDED.transposed_size(g.shape[2:]), versions
    ),
}


@pytest.mark.parametrize("isa", [isa.name for isa in target.cpu().isas])
@pytest.mark.parametrize("size", [12, 60])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_the_same_bits_from_kept_weights(name: str, with_bias: bool, size: int, isa: str) -> None:
    x, w, bias = arrays(32, 32, size)
    given = bias if with_bias else None
    with target.using(isa), algorithm(name):
        usual = CALLS[name](x, w, given, None)
        for _ in range(3):
            assert (CALLS[name](x, w, given, (0, 0)) == usual).all()
    with observed() as problems, target.using(isa), algorithm(name):
        CALLS[name](x, w, given, (0, 0))
        region = select.executable(problems[0], name)
    assert isinstance(region, Launch)
    assert kept.stats().forms == region.keeps


def test_weights_met_once_are_not_kept() -> None:
    x, w, bias = arrays()
    with algorithm("gemm"):
        conv_forward(x, w, bias, SPEC, (0, 0))
        assert kept.stats().forms == 0
        conv_forward(x, w, bias, SPEC, (0, 0))
    stats = kept.stats()
    assert (stats.weights, stats.forms) == (1, 1)
    assert stats.size_bytes >= w.nbytes


@pytest.mark.parametrize("what", ["weights", "bias", "both"])
def test_another_version_is_another_weight(what: str) -> None:
    x, w, bias = arrays()
    versions = [0, 0]
    with algorithm("gemm"):
        for step in range(6):
            if step % 2 == 0:  # two calls a version: the second keeps
                versions = [versions[0] + (what != "bias"), versions[1] + (what != "weights")]
                w *= 1 + (what != "bias")
                bias += what != "weights"
            y = conv_forward(x, w, bias, SPEC, (versions[0], versions[1]))
            assert (y == conv_forward(x, w, bias, SPEC)).all()
    assert kept.stats().forms == 1


def test_other_biases_are_another_weight() -> None:
    x, w, bias = arrays()
    for given in (bias, bias, bias + 1, None, None, bias, bias):
        assert (conv_forward(x, w, given, SPEC, (0, 0)) == conv_forward(x, w, given, SPEC)).all()


def test_a_region_each_has_its_own() -> None:
    _, w, bias = arrays()
    with algorithm("gemm"):
        for _ in range(2):
            for size in (8, 12, 20):
                x = arrays(size=size)[0]
                assert (conv_forward(x, w, bias, SPEC, (0, 0)) == conv_forward(x, w, bias, SPEC)).all()
    assert (kept.stats().weights, kept.stats().forms) == (1, 3)


@pytest.mark.parametrize("which", [1, 2])
def test_what_is_forgotten_is_made_anew(which: int) -> None:
    parts = x, w, bias = arrays()
    with algorithm("gemm"):
        for _ in range(2):
            conv_forward(x, w, bias, SPEC, (0, 0))
        kept.forget(parts[which][1:])  # a view of it
        assert kept.stats().forms == 0
        parts[which][...] += 1
        for _ in range(3):
            assert (conv_forward(x, w, bias, SPEC, (0, 0)) == conv_forward(x, w, bias, SPEC)).all()
        assert kept.stats().forms == 1


@pytest.mark.parametrize("which", [1, 2])
def test_what_is_excluded_is_never_kept(which: int) -> None:
    parts = x, w, bias = arrays()
    kept.exclude(parts[which][1:])
    with algorithm("gemm"):
        for step in range(3):
            parts[which][...] += step
            assert (conv_forward(x, w, bias, SPEC, (0, 0)) == conv_forward(x, w, bias, SPEC)).all()
    assert kept.stats().forms == 0


@pytest.mark.parametrize("dies", ["weights", "bias"])
def test_nothing_outlives_its_weights(dies: str) -> None:
    x, w, bias = arrays()
    with algorithm("gemm"):
        for _ in range(2):
            conv_forward(x, w, bias, SPEC, (0, 0))
        assert kept.stats().forms == 1
        if dies == "weights":
            del w
            gc.collect()
            assert kept.stats().size_bytes == 0
            return
        bias = bias.copy()
        assert (conv_forward(x, w, bias, SPEC, (0, 0)) == conv_forward(x, w, bias, SPEC)).all()


def test_the_oldest_give_way() -> None:
    x, w, bias = arrays()
    many = [w.copy() for _ in range(5)]
    with algorithm("gemm"):
        for one in many[:1] * 2:
            conv_forward(x, one, bias, SPEC, (0, 0))
        each = kept.stats().size_bytes
        kept.set_limit(3 * each)
        for one in [w for w in many for _ in range(2)]:
            conv_forward(x, one, bias, SPEC, (0, 0))
            assert kept.stats().size_bytes <= 3 * each
        assert kept.stats().forms == 3
        kept.set_limit(each - 1)
        for _ in range(3):
            assert (conv_forward(x, w, bias, SPEC, (0, 0)) == conv_forward(x, w, bias, SPEC)).all()
        assert kept.stats().forms == 0


def test_a_limit_is_not_negative() -> None:
    with pytest.raises(ValueError, match="limit_bytes=-1 must be at least 0"):
        kept.set_limit(-1)


def test_both_halves_stay_inside_their_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept lies against a forbidden page, at its end and at its start."""
    from tests.kernels.guard import guarded, run_guarded_cases

    def check(case: tuple[str, str, str, int]) -> None:
        name, isa, where, crew = case
        x, w, bias = arrays(37, 37, 13)
        with target.using(isa), algorithm(name), observed() as problems:
            y = CALLS[name](x, w, bias, None)
            region = select.executable(problems[0], name)
            halves = region.halves() if isinstance(region, Keeper) else None
            if halves is None:
                return
            threads.set_num_threads(crew)
            monkeypatch.setattr(threads, "STACK_BYTES", -1)
            with guarded((halves.kept_bytes,), np.uint8, where) as made, guarded(y.shape, y.dtype, where) as out:
                halves.make(None, w, bias, None, made)
                halves.compute(x, w, bias, out, made)
                assert (out == y).all()

    run_guarded_cases(
        check,
        [(n, isa.name, where, crew) for n in CALLS for isa in target.cpu().isas for where in ("end", "start")
         for crew in (1, 2, 3)],
    )  # fmt: skip


def test_whose_memory_an_array_is() -> None:
    own, pooled = np.empty(8), memory.empty(memory.POOLED_FROM_BYTES, np.uint8)
    assert memory.owns_memory(own)
    assert memory.owns_memory(pooled)
    assert not memory.owns_memory(own[1:])
    assert not memory.owns_memory(pooled[1:])
    assert not memory.owns_memory(np.frombuffer(bytearray(64)))


def test_a_value_is_kept_of_these_arrays_in_these_versions() -> None:
    a, b, c = (np.arange(3.0) for _ in range(3))
    assert kept.value_of((a, b), 0) is None
    kept.keep_value((a, b), 0, "made")
    assert kept.value_of((a, b), 0) == "made"
    assert kept.value_of((a, b), 1) is kept.value_of((a, c), 0) is kept.value_of((a,), 0) is None
    kept.keep_value((a, c), 1, "anew")
    assert kept.value_of((a, c), 1) == "anew" and kept.value_of((a, b), 0) is None


def test_a_large_value_counts_and_gives_way() -> None:
    limit, before, (a,) = kept.stats().limit_bytes, kept.stats().size_bytes, (np.zeros(3),)
    try:
        kept.set_limit(before + 100)
        assert kept.has_room(100) and not kept.has_room(101)
        for _ in range(2):
            kept.keep_value((a,), 0, "large", 60)
            assert kept.stats().size_bytes == before + 60
        assert kept.has_room(40) and not kept.has_room(41)
        kept.set_limit(0)
        assert kept.value_of((a,), 0) is None and kept.stats().size_bytes == 0
    finally:
        kept.set_limit(limit)


@pytest.mark.parametrize("which", [0, 1])
def test_a_value_goes_with_what_it_was_made_of(which: int) -> None:
    parts = [np.arange(3.0), np.arange(3.0)]
    kept.keep_value(parts, 0, "made")
    kept.forget(parts[which][1:])
    assert kept.value_of(parts, 0) is None
    kept.keep_value(parts, 0, "made")
    count = len(kept._values)
    parts.pop(which)
    gc.collect()
    assert len(kept._values) == count - 1
    assert not {id(part) for part in parts} & set(kept._users)

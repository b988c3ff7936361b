"""Epilogues: every algorithm with every one of them, against double precision and against a pass of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lucid.core.geometry import ConvSpec
from lucid.kernels import (
    Ending,
    Epilogue,
    algorithm,
    conv_forward,
    conv_forward_ended,
    convolution,
    epilogue,
    select,
    target,
    tuning,
)
from lucid.kernels.plan import PLAIN
from tests.kernels.convolution_fuzz import Case, accepting, run_case
from tests.kernels.epilogue_oracle import ACTIVATIONS
from tests.kernels.guard import run_guarded_cases

ISAS = [isa.name for isa in target.cpu().isas]
EPILOGUES = [
    *(Epilogue(name, activation.numbers) for name, activation in ACTIVATIONS.items()),
    Epilogue(affine=True),
    Epilogue(residual=True),
    Epilogue("relu", residual=True),
    Epilogue("leaky_relu", (0.1,), affine=True, residual=True),
    Epilogue("gelu", affine=True, residual=True),
]


#: In a tile's registers, after it, with every array, and all together.
KINDS = [Epilogue("relu"), Epilogue("gelu"), *EPILOGUES[-2:]]


def spec(kernel: int, rank: int, stride: int = 1, padding: int = 1, groups: int = 1) -> ConvSpec:
    return ConvSpec((kernel,) * rank, (stride,) * rank, (1,) * rank, ((padding, padding),) * rank, groups)


#: For each algorithm and rank something that it computes, with edges: tiles, lanes and blocks that are not whole.
GEOMETRIES = [
    Case("forward", "float32", 2, 5, 13, (37,), spec(3, 1), True),
    Case("forward", "float32", 2, 5, 13, (11, 19), spec(3, 2), True),
    Case("forward", "float32", 1, 3, 7, (5, 6, 9), spec(3, 3), True),
    Case("forward", "float32", 2, 70, 15, (6, 7), spec(1, 2, padding=0), False),
    Case("forward", "float32", 2, 6, 6, (13, 35), spec(3, 2, stride=2, groups=6), True),
    Case("forward", "float32", 2, 6, 6, (13, 35), spec(3, 2, groups=6), False),
    Case("forward", "float32", 1, 3, 4, (700,), spec(129, 1, padding=64), True),
    Case("forward", "float32", 2, 6, 6, (900,), ConvSpec((70,), (1,), (2,), ((9, 9),), 6), True),
    Case("forward", "float32", 1, 900, 5, (40,), spec(5, 1, padding=2), True),  # sums wait for more channels
    Case("grad_input", "float32", 2, 13, 5, (36,), spec(4, 1, stride=2), True),
    Case("grad_input", "float32", 1, 13, 5, (11, 19), spec(3, 2, stride=2), True),
    Case("grad_input", "float32", 1, 13, 5, (11, 19), spec(3, 2), True),
    Case("grad_input", "float32", 2, 6, 6, (12, 34), spec(4, 2, stride=2, groups=6), True),
]


def cases() -> list[Case]:
    """Two geometries with every epilogue; all of them with one of each kind, in turn in every type; halves whose phases
    are rounded before they are interleaved.
    """
    mixed = [replace(GEOMETRIES[-1], epilogue=e, dtype=half) for e in KINDS for half in ("float16", "bfloat16")]
    full = [replace(GEOMETRIES[k], epilogue=e) for k in (1, 5) for e in EPILOGUES]
    some = [
        replace(case, epilogue=e, dtype=dtype, seed=k)
        for k, case in enumerate(GEOMETRIES)
        for e, dtype in zip(KINDS, ("float32", *np.roll(["float64", "float16", "bfloat16"], k).tolist()), strict=True)
    ]
    return full + some + mixed


@pytest.mark.parametrize("isa", ISAS)
def test_every_algorithm_with_every_epilogue(isa: str) -> None:
    def check(run: tuple[int, Case, str]) -> None:
        number, case, name = run
        outcome = run_case(case, isa, name, ("end", "start")[number % 2])
        assert outcome.right, str(outcome)

    runs = [
        (number, case, name)
        for number, case in enumerate(cases())
        for name in accepting(case, isa)
        if name != "reference"
    ]
    run_guarded_cases(check, runs)


@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
@pytest.mark.parametrize("e", [EPILOGUES[-1], Epilogue("relu")], ids=str)
def test_in_the_stores_and_after_them_are_the_same_bits(case: Case, e: Epilogue) -> None:
    case = replace(case, epilogue=e)
    for name in accepting(case, target.isa().name):
        with algorithm(name):
            together = case.call(case.inputs())
            inputs = case.inputs()
            apart = replace(case, epilogue=PLAIN).call([*inputs[:3]])
        epilogue.apply(e, apart, *inputs[3:])
        np.testing.assert_array_equal(together, apart)


def test_a_sum_of_nothing_ends_like_any_other() -> None:
    x, w = np.ones((2, 0, 5), np.float32), np.ones((3, 0, 3), np.float32)
    bias = np.array([1.0, -1.0, 2.0], np.float32)
    y = conv_forward_ended(x, w, bias, spec(3, 1), Ending(Epilogue("relu")))
    np.testing.assert_array_equal(y, np.broadcast_to([[[1.0], [0.0], [2.0]]], (2, 3, 5)))


def test_arrays_may_lie_anyhow() -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 9), (4, 3, 3)))
    residual = rng.standard_normal((2, 9, 4)).astype(np.float32).transpose(0, 2, 1)
    scale, shift = rng.standard_normal((4, 2)).astype(np.float32).T
    e = Epilogue("relu", affine=True, residual=True)
    ours = conv_forward_ended(x, w, None, spec(3, 1), Ending(e, scale, shift, residual))
    plain = conv_forward(x, w, None, spec(3, 1))
    wanted = np.maximum(plain * scale[:, None] + shift[:, None] + residual, 0)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


def test_an_algorithm_that_cannot_ends_with_a_pass_of_its_own() -> None:
    asked = replace(GEOMETRIES[5], epilogue=Epilogue("gelu")).problem
    isa = target.isa()
    ended = next(plan for plan in select.candidates(asked, isa)[0] if plan.algorithm == "depthwise")
    plain = next(p for p in select.candidates(replace(asked, epilogue=PLAIN), isa)[0] if p.algorithm == "depthwise")
    assert ended.passes_after
    assert not plain.passes_after
    assert ended.expected_ns > plain.expected_ns


def test_an_epilogue_is_part_of_what_is_tuned() -> None:
    asked = replace(GEOMETRIES[0], epilogue=Epilogue("leaky_relu", (0.1,), residual=True)).problem
    table = tuning.here({asked: tuning.Choice("gemm", {"gemm": 1.0})})
    again = tuning.from_text(tuning.to_text(table), "text")
    assert again.choice(asked, target.isa().name) is not None
    assert again.choice(replace(asked, epilogue=PLAIN), target.isa().name) is None


@pytest.mark.parametrize(
    ("e", "words"),
    [
        (PLAIN, ""),
        (Epilogue("relu"), "relu"),
        (Epilogue("leaky_relu", (0.1,), affine=True, residual=True), "scale and shift, residual, leaky_relu(0.1)"),
    ],
)
def test_an_epilogue_in_words(e: Epilogue, words: str) -> None:
    assert str(e) == words
    assert bool(e) == bool(words)


def test_every_activation_is_tried() -> None:
    assert set(epilogue.ACTIVATIONS) - set(ACTIVATIONS) == {"selu", "hardsigmoid"}  # made of the same pieces


def test_observers_see_the_epilogue() -> None:
    x: Any = np.ones((1, 2, 9), np.float32)
    with convolution.observed() as seen:
        conv_forward_ended(x, np.ones((2, 2, 3), np.float32), None, spec(3, 1), Ending(Epilogue("silu")))
    assert [p.epilogue for p in seen] == [Epilogue("silu")]

"""A few random convolutions through the functionals; ``benchmarks/fuzz.py`` has thousands."""

from __future__ import annotations

import numpy as np

from lucid.kernels import target
from tests.kernels.convolution_fuzz import random_case
from tests.kernels.guard import run_guarded_cases
from tests.nn.functional.verb_fuzz import NUMPY_MODES, random_verb, run_verb

ISA = target.cpu().isas[-1].name


def test_every_mode_of_padding_against_the_definition() -> None:
    rng = np.random.default_rng(0)
    drawn = [random_verb(rng, random_case(rng)) for _ in range(60)]
    assert {verb.mode for _, verb in drawn} == set(NUMPY_MODES)

    def check(run: tuple[int, tuple[object, object]]) -> None:
        case, verb = run[1]
        outcome = run_verb(case, verb, ISA, ("end", "start")[run[0] % 2])
        assert outcome.right, f"{outcome} as {verb!r}"

    run_guarded_cases(check, list(enumerate(drawn)))

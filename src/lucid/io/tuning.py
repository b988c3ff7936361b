"""Measuring which algorithms a model's convolutions are fastest by, and keeping the answer in a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lucid.autograd import grad, no_grad
from lucid.core.errors import FormatError
from lucid.io.atomic import atomic_write
from lucid.kernels import trial, tuning
from lucid.kernels.convolution import observed
from lucid.kernels.plan import Problem
from lucid.kernels.tuning import Choice, Tuning
from lucid.nn import Module
from lucid.ops.random import get_rng_state, randn, set_rng_state

_NEAR = 1.02  #: a winner that gains less than this over the cost model's choice is not worth leaving it


def tune(
    model: Module,
    shapes: Sequence[int] | Iterable[Sequence[int]],
    path: str | os.PathLike[str],
    *,
    gradients: bool = True,
    seconds: float = 0.2,
) -> Tuning:
    """Measure every algorithm for each convolution that ``model`` runs on inputs of ``shapes``; keep the fastest.

    The winners are written to ``path``, atomically, and hold from now on; ``load_tuning(path)`` brings them back in
    another process. Nothing else is changed: not the model, its mode or its statistics, not the random state.
    ``shapes`` is one input shape or several. Without ``gradients`` only inference is tuned. Results stay within the
    error that each algorithm documents, and are the same bits wherever the same file is loaded.

    The file is for this CPU, instruction set and version of Lucid alone. What is being measured is said on stderr.

    Cost: about ``seconds`` for each algorithm of each problem, of which a layer has three with gradients.

    >>> import tempfile
    >>> import lucid.nn as nn
    >>> path = os.path.join(tempfile.mkdtemp(), "tuning.json")
    >>> tune(nn.Conv1d(2, 4, 3), (1, 2, 50), path, seconds=0.0)    # doctest: +ELLIPSIS
    <Tuning from ...tuning.json: 3 problems on ...>
    >>> load_tuning(None)
    """
    if not isinstance(model, Module):
        raise TypeError(f"tune: model must be a Module, not {type(model).__name__}")
    if not Path(path).absolute().parent.is_dir():  # now, not when all has been measured
        raise FileNotFoundError(f"tune: path={os.fspath(path)!r} is in a directory that does not exist")
    problems = _problems(model, _several(shapes), gradients)
    choices = {}
    for done, problem in enumerate(problems):
        print(f"tune: [{done + 1}/{len(problems)}] {_named(problem)}", end="", file=sys.stderr, flush=True)
        choices[problem] = _winner(problem, seconds)
        print(f": {choices[problem]}", file=sys.stderr, flush=True)
    table = tuning.here(choices, os.fspath(path))
    with atomic_write(path) as file:
        file.write(tuning.to_text(table).encode())
    tuning.use(table)
    return table


def load_tuning(path: str | os.PathLike[str] | None) -> Tuning | None:
    """Compute by the winners that ``tune`` wrote to ``path``, in place of those loaded before; None goes without.

    Raises: FormatError if the file is damaged, or of another CPU, instruction set or version of Lucid; what was in
    force stays.
    """
    if path is None:
        tuning.use(None)
        return None
    with open(path, "rb") as file:
        raw = file.read()
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"load_tuning: {os.fspath(path)} is damaged or no tuning file: {error}") from None
    table = tuning.from_text(text, os.fspath(path))
    tuning.use(table)
    return table


def _several(shapes: Any) -> list[tuple[int, ...]]:
    """A list of shapes, also from a single one."""
    if not isinstance(shapes, Iterable) or isinstance(shapes, str):
        raise TypeError(f"tune: shapes={shapes!r} must be an input shape, such as (1, 3, 224, 224), or several")
    found = list(shapes)
    if not found:
        raise ValueError("tune: shapes is empty; give an input shape, such as (1, 3, 224, 224), or several")
    return [tuple(found)] if isinstance(found[0], int) else [tuple(shape) for shape in found]


def _problems(model: Module, shapes: list[tuple[int, ...]], gradients: bool) -> list[Problem]:
    """What the model computes, each problem once: in inference, where layers may be fused, and with gradients."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    dtype = parameters[0].dtype if parameters else None
    with _untouched(model), observed() as problems:
        for shape in shapes:
            x = randn(*shape, dtype=dtype, requires_grad=gradients)
            with no_grad():
                model(x)
            if gradients:
                y = model(x)
                grad(y, [x, *parameters], grad_outputs=[randn(*y.shape, dtype=y.dtype)], allow_unused=True)
    return list(dict.fromkeys(problems))


@contextmanager
def _untouched(model: Module) -> Iterator[None]:
    """The model evaluates inside, so that no statistics move; modes and random state are then as before."""
    modes, state = {module: module.training for module in model.modules()}, get_rng_state()
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        set_rng_state(state)


def _winner(problem: Problem, seconds: float) -> Choice:
    names = trial.contenders(problem)
    times = trial.race(problem, names, seconds)
    best = min(names, key=lambda name: times[name])
    chosen = names[0] if times[names[0]] <= _NEAR * times[best] else best
    return Choice(chosen, times)


def _named(p: Problem) -> str:
    """What is being measured, in a line; axes that are not there are left out."""
    first = next((k for k, n in enumerate(zip(p.size, p.out, p.spec.kernel, strict=True)) if max(n) > 1), 2)
    size, kernel = ("x".join(map(str, sizes[first:])) for sizes in (p.size, p.spec.kernel))
    ending = f", {p.epilogue}" if p.epilogue else ""
    return f"{p.role} {p.c_in}-{p.c_out} k{kernel} on {p.batch} of {size}, {p.dtype}{ending}"

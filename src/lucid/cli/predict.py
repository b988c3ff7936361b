"""``lucid predict``: what a trained network says of the held-out samples, of one of them, or of an array in a file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lucid.cli.datasets import FloatArray
from lucid.cli.errors import CommandError
from lucid.cli.progress import percent
from lucid.cli.run import Checkpoint, evaluate, probabilities
from lucid.cli.tasks import Task

SHADES = " .:-=+*#%@"
BAR = 30
MISTAKES_SHOWN = 10
SAMPLES_SHOWN = 20


def predict(options: argparse.Namespace) -> int:
    """Run the command; its exit status."""
    checkpoint = Checkpoint.read(options.checkpoint)
    if options.input is None:
        lines = held_out(checkpoint)
    elif options.input.isdecimal():
        lines = held_out_sample(checkpoint, int(options.input))
    else:
        lines = from_file(checkpoint, Path(options.input))
    for line in lines:
        print(line)
    return 0


def held_out(checkpoint: Checkpoint) -> Iterator[str]:
    """The accuracy on the held-out samples, and the surest mistakes."""
    task, data = checkpoint.task, checkpoint.task.load()
    tally, found = evaluate(checkpoint.network(), data.test_x, data.test_y)
    yield f"{task.title}: {tally.right} of {tally.seen} held-out samples right, {percent(tally.accuracy)}"
    guess = found.argmax(1)
    wrong = np.flatnonzero(guess != data.test_y)
    for i in wrong[np.argsort(-found[wrong].max(1))][:MISTAKES_SHOWN]:
        taken = f"taken for {task.classes[guess[i]]} ({percent(found[i].max(), 0)})"
        yield f"  sample {i}: {task.kind} {task.classes[data.test_y[i]]} {taken}"
    if len(wrong):
        yield f"look at one with: lucid predict {checkpoint.path} {wrong[0]}"


def held_out_sample(checkpoint: Checkpoint, number: int) -> Iterator[str]:
    """One held-out sample, drawn, with the probabilities of its classes."""
    data = checkpoint.task.load()
    if number >= len(data.test_x):
        raise CommandError(f"there is no held-out sample {number}: they are 0 … {len(data.test_x) - 1}")
    sample = data.test_x[number]
    yield f"held-out sample {number}: {checkpoint.task.kind} {checkpoint.task.classes[data.test_y[number]]}"
    yield from drawing(sample)
    yield from verdict(checkpoint.task, probabilities(checkpoint.network(), sample[None])[0])


def from_file(checkpoint: Checkpoint, path: Path) -> Iterator[str]:
    """The samples of a .npy or .csv file: one in detail, many in a line each."""
    batch = checkpoint.task.encode(read_array(path))
    found = probabilities(checkpoint.network(), batch)
    if len(batch) == 1:
        yield from drawing(batch[0])
        yield from verdict(checkpoint.task, found[0])
        return
    for i, row in enumerate(found[:SAMPLES_SHOWN]):
        yield f"{path}[{i}]: {checkpoint.task.kind} {checkpoint.task.classes[row.argmax()]} ({percent(row.max(), 0)})"
    if len(found) > SAMPLES_SHOWN:
        yield f"… and {len(found) - SAMPLES_SHOWN} more"


def read_text(path: Path) -> np.ndarray[Any, Any]:
    return np.loadtxt(path, delimiter=",", ndmin=2)


def read_npy(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(np.load(path, allow_pickle=False))


READERS = {".npy": read_npy}


def read_array(path: Path) -> np.ndarray[Any, Any]:
    """The numbers in a file: .npy as NumPy writes it, anything else as rows of text parted by commas."""
    try:
        array = READERS.get(path.suffix, read_text)(path)
    except FileNotFoundError:
        raise CommandError(f"there is no file {path}; name a .npy or .csv file or a held-out sample's number") from None
    except (ValueError, IsADirectoryError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise CommandError(f"{path} does not hold an array ({reason}); save one with numpy.save") from None
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise CommandError(f"{path} must hold finite numbers, not {array.dtype} with nan, infinity or texts")
    return array


def drawing(sample: FloatArray) -> Iterator[str]:
    """The sample in shades of text: an image as it is, a signal with a row a channel and time to the right."""
    image = sample[0] if sample.ndim == 3 else sample
    low, high = image.min(), image.max()
    shades = (image - low) / max(high - low, 1e-9) * (len(SHADES) - 1)
    for row in shades.round().astype(int):
        yield "  " + "".join(SHADES[level] * 2 for level in row)


def verdict(task: Task, found: np.ndarray[Any, np.dtype[np.float64]]) -> Iterator[str]:
    """The classes with their probabilities as bars, and the answer."""
    for name, share in zip(task.classes, found, strict=True):
        yield f"  {task.kind} {name}  {percent(share, 1):>8}  {'#' * round(BAR * share)}".rstrip()
    yield f"{task.kind} {task.classes[found.argmax()]} ({percent(found.max(), 1)})"

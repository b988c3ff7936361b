"""Two real data sets that ship inside packages: nothing is downloaded when they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lucid.cli.errors import CommandError

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]

HELD_OUT_DIGITS = 450
SPLIT_SEED = 0
VOWEL_STEPS = 29  # the longest utterance of either part


@dataclass(frozen=True, slots=True)
class Data:
    """Samples to learn from and samples held out, each with its class."""

    train_x: FloatArray
    train_y: IntArray
    test_x: FloatArray
    test_y: IntArray


def digits() -> Data:
    """Handwritten digits, 1797 grey images of 8×8 with values 0 … 16; 450 held out, always the same.

    Source: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998; shipped by scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise CommandError("the digits come with scikit-learn: pip install 'lucid-conv[demo]'") from None
    found = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(found.images))
    x = digit_images(found.images[order])
    y = found.target[order].astype(np.int64)
    return Data(x[HELD_OUT_DIGITS:], y[HELD_OUT_DIGITS:], x[:HELD_OUT_DIGITS], y[:HELD_OUT_DIGITS])


def digit_images(grey: np.ndarray[Any, Any]) -> FloatArray:
    """One or many 8×8 images with values 0 … 16, as the network wants them: (N, 1, 8, 8), 0 … 1."""
    if grey.shape[-2:] != (8, 8) or grey.ndim > 4:
        raise CommandError(f"a digit is an 8×8 image with values 0 … 16, or a stack of them, not shape {grey.shape}")
    return np.asarray(grey / 16, np.float32).reshape(-1, 1, 8, 8)


def vowels() -> Data:
    """Nine speakers saying /ae/: 12 cepstrum coefficients over 7 … 29 steps; 270 to learn from, 370 held out.

    Source: Kudo, Toyama & Shimbo, "Japanese Vowels", UCI, 1999; shipped by aeon, whose code is not run.
    """
    # The package is located, not imported: its own dependencies are large and may be absent.
    package = find_spec("aeon")
    if package is None or package.origin is None:
        raise CommandError("the vowels come with aeon: pip install --no-deps aeon")
    folder = Path(package.origin).parent / "datasets" / "data" / "JapaneseVowels"
    parts = [folder / f"JapaneseVowels_{part}.ts" for part in ("TRAIN", "TEST")]
    if not all(part.is_file() for part in parts):
        raise CommandError("this aeon does not ship the vowels: pip install --no-deps aeon==1.6.0")
    return Data(*_utterances(parts[0]), *_utterances(parts[1]))


def utterance(signal: np.ndarray[Any, Any]) -> FloatArray:
    """One or many signals of 12 channels, at the length the network was trained with: zeros follow."""
    if signal.ndim not in (2, 3) or signal.shape[-2] != 12 or not 1 <= signal.shape[-1] <= VOWEL_STEPS:
        raise CommandError(f"an utterance has 12 channels and 1 … {VOWEL_STEPS} steps, not shape {signal.shape}")
    padded = np.zeros((*signal.shape[:-1], VOWEL_STEPS), np.float32)
    padded[..., : signal.shape[-1]] = signal
    return padded.reshape(-1, 12, VOWEL_STEPS)


def _utterances(path: Path) -> tuple[FloatArray, IntArray]:
    signals, speakers = zip(*_read_ts(path), strict=True)
    return np.concatenate([utterance(signal) for signal in signals]), np.array(speakers, np.int64) - 1


def _read_ts(path: Path) -> Iterator[tuple[FloatArray, int]]:
    """The .ts format: after the line ``@data`` a sample a line, channels and label parted by colons."""
    _, _, body = path.read_text("utf-8").partition("@data\n")
    for line in body.splitlines():
        *channels, label = line.split(":")
        yield np.array([channel.split(",") for channel in channels], np.float32), int(label)

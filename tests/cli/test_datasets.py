"""The two data sets are the known ones, and what is no sample is refused."""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lucid.cli import datasets
from lucid.cli.errors import CommandError


def test_digits_are_scikit_learns_each_once() -> None:
    data = datasets.digits()
    assert (data.train_x.shape, data.test_x.shape) == ((1347, 1, 8, 8), (450, 1, 8, 8))
    together = np.concatenate([data.train_x, data.test_x]).reshape(1797, 64) * 16
    labelled = np.column_stack([together, np.concatenate([data.train_y, data.test_y])])
    known = np.column_stack([load_digits().data, load_digits().target])
    assert (np.unique(labelled, axis=0) == np.unique(known, axis=0)).all()


def test_digits_are_always_split_alike() -> None:
    first, second = datasets.digits(), datasets.digits()
    assert (first.test_x == second.test_x).all() and (first.train_y == second.train_y).all()
    assert np.bincount(first.test_y, minlength=10).min() >= 30


def test_vowels_are_the_known_utterances() -> None:
    data = datasets.vowels()
    assert (data.train_x.shape, data.test_x.shape) == ((270, 12, 29), (370, 12, 29))
    # Kudo et al.: 30 utterances a speaker to learn from, and these counts held out.
    assert np.bincount(data.train_y).tolist() == [30] * 9
    assert np.bincount(data.test_y).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert data.train_x[0, 0, :3].tolist() == pytest.approx([1.860936, 1.891651, 1.939205])
    assert not data.train_x[0, :, 20:].any()


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(CommandError, match=r"scikit-learn: pip install 'lucid-conv\[demo\]'"):
        datasets.digits()
    monkeypatch.setattr(datasets, "find_spec", lambda name: None)
    with pytest.raises(CommandError, match="pip install --no-deps aeon"):
        datasets.vowels()


def test_an_aeon_without_the_data_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = importlib.machinery.ModuleSpec("aeon", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(datasets, "find_spec", lambda name: spec)
    with pytest.raises(CommandError, match="does not ship the vowels"):
        datasets.vowels()


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (5, 8, 8), (5, 1, 8, 8)])
def test_images_become_a_batch(shape: tuple[int, ...]) -> None:
    batch = datasets.digit_images(np.full(shape, 16))
    assert batch.shape == (int(np.prod(shape)) // 64, 1, 8, 8)
    assert (batch == 1).all() and batch.dtype == np.float32


@pytest.mark.parametrize("shape", [(8, 7), (64,), (2, 2, 2, 8, 8), ()])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CommandError, match=r"8×8 image .* not shape"):
        datasets.digit_images(np.zeros(shape))


def test_a_signal_is_filled_with_zeros() -> None:
    batch = datasets.utterance(np.ones((12, 7)))
    assert batch.shape == (1, 12, 29)
    assert batch[:, :, :7].all() and not batch[:, :, 7:].any()


@pytest.mark.parametrize("shape", [(11, 7), (12, 30), (12, 0), (12,)])
def test_what_is_no_utterance_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CommandError, match="12 channels"):
        datasets.utterance(np.zeros(shape))

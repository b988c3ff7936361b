"""Settings of other libraries: taken, without a meaning here."""

from __future__ import annotations

import importlib

import pytest

import lucid
from lucid import backends


@pytest.mark.parametrize("name", ["cuda", "cuda.matmul", "cudnn", "mkl", "mkldnn", "mps", "openmp"])
def test_no_backend_is_available(name: str) -> None:
    module = importlib.import_module(f"lucid.backends.{name}")
    found = backends
    for step in name.split("."):
        found = getattr(found, step)
    assert found is module and module.__name__ == f"lucid.backends.{name}"
    assert module.is_available() is False and module.is_built() is False and module.version() is None


def test_settings_are_taken_and_choose_nothing() -> None:
    import lucid.backends.cudnn as cudnn

    x, w = lucid.randn(1, 3, 9, 9), lucid.randn(4, 3, 3, 3)
    plain = lucid.nn.functional.conv2d(x, w).tolist()
    assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == (True, False, False, True)
    assert backends.cuda.matmul.allow_tf32 is False and backends.mkldnn.enabled is True
    with cudnn.flags(enabled=False, benchmark=True, deterministic=True, allow_tf32=False):
        assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == (False, True, True, False)
        assert lucid.nn.functional.conv2d(x, w).tolist() == plain
    assert (cudnn.enabled, cudnn.benchmark) == (True, False)
    with pytest.raises(KeyError), cudnn.flags(benchmark=True):
        raise KeyError
    assert cudnn.benchmark is False
    with pytest.raises(AttributeError, match="benchmrk"), cudnn.flags(benchmrk=True):
        pass
    try:
        lucid.backends.cudnn.benchmark = True
        assert backends.cudnn.benchmark is True
    finally:
        cudnn.benchmark = False


def test_what_is_asked_of_all_backends_is_kept() -> None:
    assert not lucid.are_deterministic_algorithms_enabled() and lucid.get_float32_matmul_precision() == "highest"
    try:
        lucid.use_deterministic_algorithms(True, warn_only=True)
        lucid.set_float32_matmul_precision("medium")
        assert lucid.are_deterministic_algorithms_enabled() and lucid.get_float32_matmul_precision() == "medium"
    finally:
        lucid.use_deterministic_algorithms(False)
        lucid.set_float32_matmul_precision("highest")
    with pytest.raises(ValueError, match="precision='low' must be one of"):
        lucid.set_float32_matmul_precision("low")


def test_a_seed_of_a_gpu_changes_nothing() -> None:
    lucid.manual_seed(3)
    expected = lucid.rand(4).tolist()
    lucid.manual_seed(3)
    lucid.cuda.manual_seed(5)
    lucid.cuda.manual_seed_all(5)
    lucid.cuda.empty_cache()
    assert lucid.rand(4).tolist() == expected

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

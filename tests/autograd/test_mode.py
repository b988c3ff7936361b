"""Recording: switched per thread, in blocks, by decorators."""

from __future__ import annotations

import threading

import pytest

import lucid


@pytest.fixture
def x():
    return lucid.tensor([1.0, 2.0], requires_grad=True)


def test_blocks_nest_and_end(x):
    with lucid.no_grad():
        assert not (x * 2).requires_grad
        with lucid.enable_grad():
            assert (x * 2).requires_grad
        assert not lucid.is_grad_enabled()
    assert (x * 2).requires_grad


def test_a_block_ends_with_an_exception(x):
    with pytest.raises(KeyError), lucid.no_grad():
        raise KeyError
    assert lucid.is_grad_enabled()


@pytest.mark.parametrize(
    "decorate", [lucid.no_grad, lucid.no_grad(), lucid.inference_mode(), lucid.set_grad_enabled(True)]
)
def test_decorators(x, decorate):
    wanted = isinstance(decorate, lucid.set_grad_enabled)

    @decorate
    def double(y):
        """Twice."""
        return y * 2

    assert double(x).requires_grad is wanted
    assert double.__doc__ == "Twice."
    assert lucid.is_grad_enabled()


def test_a_decorated_function_may_call_itself():
    @lucid.no_grad()
    def depth(n):
        return [lucid.is_grad_enabled()] + (depth(n - 1) if n else [])

    assert depth(3) == [False] * 4
    assert lucid.is_grad_enabled()


def test_set_grad_enabled_acts_at_once_and_as_a_block():
    lucid.set_grad_enabled(False)
    assert not lucid.is_grad_enabled()
    lucid.set_grad_enabled(True)
    with lucid.set_grad_enabled(False):
        assert not lucid.is_grad_enabled()
    assert lucid.is_grad_enabled()


def test_inference_mode_is_stronger_than_enable_grad(x):
    with lucid.inference_mode():
        assert lucid.is_inference_mode_enabled()
        with lucid.enable_grad():
            assert not (x * 2).requires_grad
    with lucid.inference_mode(False):
        assert (x * 2).requires_grad
    assert not lucid.is_inference_mode_enabled()


def test_threads_have_their_own_mode():
    seen = []
    with lucid.no_grad():
        thread = threading.Thread(target=lambda: seen.append(lucid.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]

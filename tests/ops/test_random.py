"""Generators: reproducible, resumable, independent; and the distributions they draw."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy import stats

import lucid
from lucid.core.errors import DTypeError, FormatError, GradientError


@pytest.fixture(autouse=True)
def seeded():
    lucid.manual_seed(0)


def test_a_seed_gives_the_same_numbers():
    first = lucid.randn(5)
    lucid.manual_seed(0)
    assert lucid.equal(lucid.randn(5), first)
    assert lucid.initial_seed() == 0 and lucid.default_generator().initial_seed() == 0
    assert not lucid.equal(lucid.randn(5), first)


def test_the_numbers_are_the_same_on_every_machine():
    assert np.random.Generator(np.random.PCG64(np.random.SeedSequence(0))).random() == pytest.approx(0.6369616873214543)
    assert lucid.rand(1, dtype=lucid.float64).item() == pytest.approx(0.6369616873214543)


def test_a_state_resumes_in_the_middle_of_anything():
    lucid.rand(3)  # an odd number of 32-bit draws: half of a 64-bit word is left over, and belongs to the state
    state = lucid.get_rng_state()
    assert state.dtype is lucid.uint8 and state.shape == (48,)
    first = (lucid.rand(3), lucid.randn(3), lucid.randperm(9), lucid.randint(5, (3,)))
    lucid.set_rng_state(state)
    again = (lucid.rand(3), lucid.randn(3), lucid.randperm(9), lucid.randint(5, (3,)))
    assert all(lucid.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("state", [np.zeros(47, np.uint8), np.zeros(48), [1, 2]])
def test_states_that_are_none(state):
    with pytest.raises(FormatError, match="48 bytes"):
        lucid.set_rng_state(state)


def test_generators_are_streams_of_their_own():
    g = lucid.Generator().manual_seed(3)
    first = lucid.randn(4, generator=g)
    lucid.randn(100)
    assert lucid.equal(first, lucid.randn(4, generator=lucid.Generator().manual_seed(3)))
    kept = pickle.loads(pickle.dumps(g))
    assert lucid.equal(lucid.randn(4, generator=kept), lucid.randn(4, generator=g))
    assert kept.initial_seed() == 3
    assert lucid.Generator().initial_seed() != lucid.Generator().initial_seed()
    assert lucid.Generator().manual_seed(-1).initial_seed() == -1


def test_spawned_streams_differ_and_repeat():
    def draws():
        g = lucid.Generator().manual_seed(3)
        return [lucid.rand(3, generator=s).tolist() for s in (*g.spawn(2), *g.spawn(1), g)]

    first = draws()
    assert first == draws() and len({tuple(d) for d in first}) == 4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_distributions(dtype):
    u = lucid.rand(20000, dtype=dtype)
    n = lucid.randn(20000, dtype=dtype)
    assert u.dtype is n.dtype is getattr(lucid, dtype)
    assert u.min().item() >= 0 and u.max().item() < 1
    if dtype in ("float32", "float64"):
        assert stats.kstest(u.numpy(), "uniform").pvalue > 0.001
        assert stats.kstest(n.numpy(), "norm").pvalue > 0.001
    assert abs(n.double().mean().item()) < 0.03 and abs(n.double().std().item() - 1) < 0.03


def test_complex_numbers_have_variance_1():
    z = lucid.randn(20000, dtype=lucid.complex64)
    assert z.var().item() == pytest.approx(1, abs=0.03) and z.imag.std().item() == pytest.approx(0.5**0.5, abs=0.02)
    assert lucid.rand(3, dtype=lucid.complex64).dtype is lucid.complex64


def test_integers():
    x = lucid.randint(-3, 4, (5000,))
    assert x.dtype is lucid.int64 and sorted(lucid.unique(x).tolist()) == list(range(-3, 4))
    assert (
        lucid.randint(5, (2, 3)).shape == (2, 3) and lucid.randint(0, 2, (3,), dtype=lucid.uint8).dtype is lucid.uint8
    )
    with pytest.raises(ValueError, match="low=3 must be below high=3"):
        lucid.randint(3, 3, (1,))
    assert sorted(lucid.randperm(50).tolist()) == list(range(50))
    assert lucid.randint_like(x, 5).shape == x.shape


def test_shapes_types_and_gradients():
    assert lucid.randn((2, 3)).shape == lucid.randn(2, 3).shape == lucid.rand([2, 3]).shape == (2, 3)
    assert lucid.randn(2, requires_grad=True).requires_grad and lucid.randn().shape == ()
    x = lucid.zeros(4, 5, dtype=lucid.float64)
    assert lucid.randn_like(x).dtype is lucid.float64 and lucid.rand_like(x).shape == (4, 5)
    with pytest.raises(DTypeError, match=r"randn: dtype=lucid.int64"):
        lucid.randn(2, dtype=int)


def test_in_place():
    x = lucid.zeros(20000)
    pointer = x.data_ptr()
    assert x.normal_(3, 2) is x and x.data_ptr() == pointer and x.version == 1
    assert x.mean().item() == pytest.approx(3, abs=0.06) and x.std().item() == pytest.approx(2, abs=0.06)
    x.uniform_(-2, 6)
    assert -2 <= x.min().item() < -1.9 and 5.9 < x.max().item() < 6
    assert x.bernoulli_(0.25).mean().item() == pytest.approx(0.25, abs=0.02)
    assert set(x.random_(0, 3).tolist()) == {0, 1, 2}
    h = lucid.zeros(10, dtype=lucid.bfloat16).normal_()
    assert h.dtype is lucid.bfloat16 and h.abs().sum().item() > 0
    with pytest.raises(GradientError, match="leaf"):
        lucid.zeros(2, requires_grad=True).normal_()


def test_draws_with_probabilities():
    assert lucid.bernoulli(lucid.tensor([0.0, 1.0])).tolist() == [0, 1]
    assert lucid.tensor([0.0, 1.0, 0.0]).multinomial(4, True).tolist() == [1] * 4
    assert sorted(lucid.multinomial(lucid.ones(2, 3), 3)[1].tolist()) == [0, 1, 2]
    assert lucid.normal(5.0, 0.0, (2,)).tolist() == [5, 5]
    assert lucid.normal(lucid.tensor([1.0, 2.0]), 0.0).tolist() == [1, 2]

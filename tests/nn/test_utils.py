"""What is done to all parameters together."""

from __future__ import annotations

import numpy as np
import pytest

import lucid
from lucid.nn import utils


def leaves(*grads: list[float]) -> list[lucid.Tensor]:
    parameters = [lucid.zeros(len(g), requires_grad=True) for g in grads]
    for p, g in zip(parameters, grads, strict=True):
        p.grad = lucid.tensor(g)
    return parameters


@pytest.mark.parametrize(("norm_type", "norm"), [(2.0, 5.0), (1.0, 7.0), (float("inf"), 4.0)])
def test_the_norm_is_that_of_one_vector(norm_type: float, norm: float) -> None:
    parameters = [*leaves([3.0, 0.0], [-4.0]), lucid.zeros(1, requires_grad=True)]
    assert utils.clip_grad_norm_(iter(parameters), 1.0, norm_type).item() == pytest.approx(norm)
    np.testing.assert_allclose(parameters[0].grad.numpy(), [3 / norm, 0], rtol=1e-5)
    np.testing.assert_allclose(parameters[1].grad.numpy(), [-4 / norm], rtol=1e-5)


def test_small_gradients_are_left_alone_to_the_bit() -> None:
    (p,) = leaves([0.1, 0.2])
    before = p.grad.numpy().copy()
    utils.clip_grad_norm_(p, 1.0)
    np.testing.assert_array_equal(p.grad.numpy(), before)


def test_gradients_that_are_no_numbers() -> None:
    (p,) = leaves([float("nan"), 1.0])
    with pytest.raises(RuntimeError, match="the norm of the gradients is nan"):
        utils.clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
    utils.clip_grad_norm_(p, 1.0)
    assert np.isnan(p.grad.numpy()).all()
    assert utils.clip_grad_norm_([], 1.0).item() == 0


def test_values() -> None:
    (p,) = leaves([-3.0, 0.5, 2.0])
    utils.clip_grad_value_(p, 1.0)
    assert p.grad.tolist() == [-1, 0.5, 1]


def test_vectors() -> None:
    parameters = [lucid.tensor([[1.0, 2.0]], requires_grad=True), lucid.tensor([3.0], requires_grad=True)]
    vector = utils.parameters_to_vector(parameters)
    assert vector.tolist() == [1, 2, 3]
    utils.vector_to_parameters(vector * 2, parameters)
    assert parameters[0].tolist() == [[2, 4]] and parameters[1].tolist() == [6] and parameters[0].requires_grad
    with pytest.raises(ValueError, match=r"the vector \(2,\) must be \(3,\)"):
        utils.vector_to_parameters(vector[:2], parameters)

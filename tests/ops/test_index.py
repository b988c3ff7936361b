"""Indexing: NumPy's selections, gradients that add up where an index repeats, writing, sorting."""

from __future__ import annotations

import numpy as np
import pytest

import lucid
from lucid.autograd import check_grads
from lucid.core.errors import DTypeError, ShapeError

X = np.random.default_rng(3).standard_normal((3, 4, 5))
MASK = X > 0

INDICES = {
    "int": 1,
    "negative": -1,
    "slice": slice(1, 3),
    "step": slice(None, None, 2),
    "back": slice(None, None, -1),
    "ellipsis": (..., 2),
    "none": (None, slice(None), None),
    "element": (1, 2, 3),
    "numpy_int": np.int64(2),
    "list": [0, 2, 0],
    "array": np.array([[0, 1], [2, 2]]),
    "two_lists": ([0, 1, 1], [3, 3, 3]),
    "mixed": (slice(None), [0, 0, 2], slice(1, 3)),
    "apart": ([0, 1], slice(None), [4, 4]),
    "mask": MASK,
    "mask_rows": MASK[:, 0, 0],
    "int_and_list": (1, [3, 0]),
    "empty_list": [],
    "all": (),
    "mask_and_slice": (MASK[0, :, 0].any(), 1),
}


@pytest.mark.parametrize("name", INDICES)
def test_reading(name):
    index = INDICES[name]
    numpy_index = np.array([], int) if name == "empty_list" else index
    got = lucid.tensor(X)[index]
    np.testing.assert_array_equal(got.numpy(), X[numpy_index])
    check_grads(lambda x: x[index] * x.exp()[index], lucid.tensor(X, requires_grad=True), rtol=1e-4)


@pytest.mark.parametrize("name", INDICES)
def test_tensors_as_indices(name):
    def as_tensor(part):
        return lucid.tensor(part) if isinstance(part, np.ndarray | list) and len(part) else part

    index = INDICES[name]
    index = tuple(map(as_tensor, index)) if isinstance(index, tuple) else as_tensor(index)
    np.testing.assert_array_equal(lucid.tensor(X)[index].numpy(), lucid.tensor(X)[INDICES[name]].numpy())


def test_a_tensor_in_a_slice_or_alone():
    x = lucid.tensor(X)
    assert x[lucid.tensor(1) :].shape == (2, 4, 5) and x[lucid.tensor(1)].shape == (4, 5)
    assert x[x > 0].shape == (int(MASK.sum()),)


@pytest.mark.parametrize("name", [n for n in INDICES if n not in ("two_lists", "list", "mixed", "array", "apart")])
def test_writing(name):
    index = INDICES[name]
    numpy_index = np.array([], int) if name == "empty_list" else index
    for value in (7.0, np.arange(X[numpy_index].size, dtype=float).reshape(X[numpy_index].shape)):
        want = X.copy()
        want[numpy_index] = value
        got = lucid.tensor(X)
        got[index] = value if isinstance(value, float) else lucid.tensor(value)
        np.testing.assert_array_equal(got.numpy(), want)

    def function(x, v):
        y = x * 2
        y[index] = v.reshape(x[index].shape).exp()
        return y * y

    v = lucid.randn(X[numpy_index].size, dtype=lucid.float64, requires_grad=True)
    check_grads(function, (lucid.tensor(X, requires_grad=True), v), rtol=1e-4)


def test_writing_broadcasts_converts_and_counts():
    x = lucid.zeros(3, 4, dtype=int)
    x[1:] = [1.0, 2.0, 3.0, 4.7]
    assert x[2].tolist() == [1, 2, 3, 4] and x.version == 1
    x[x > 2] = 0
    assert x[2].tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize(
    ("index", "error", "text"),
    [
        (7, IndexError, r"out of bounds.*\(3, 4, 5\)"),
        ((0, 0, 0, 0), IndexError, "too many indices"),
        ([0, 9], IndexError, "out of bounds"),
        (1.5, DTypeError, "float64"),
        ([1.5], DTypeError, "integers, booleans"),
        (lucid.tensor([1.0]), DTypeError, "float32"),
        ("a", DTypeError, "integers"),
    ],
)
def test_wrong_indices(index, error, text):
    x = lucid.tensor(X)
    with pytest.raises(error, match=text):
        x[index]
    with pytest.raises(error, match=text):
        x[index] = 0.0


def test_wrong_values():
    with pytest.raises(ShapeError, match=r"setitem: .*shape \(3, 4, 5\)"):
        lucid.tensor(X)[0] = lucid.ones(7)


COLUMN = np.array([[0, 2, 1, 1, 0], [2, 2, 2, 0, 1]])[:, None, :].repeat(4, 1)


@pytest.mark.parametrize("dim", [0, -3])
def test_gather_and_scatter(dim):
    x, index = lucid.tensor(X), lucid.tensor(COLUMN)
    np.testing.assert_array_equal(x.gather(dim, index).numpy(), np.take_along_axis(X, COLUMN, 0))
    source = lucid.randn(2, 4, 5, dtype=lucid.float64)
    want = X.copy()
    for i, j, k in np.ndindex(2, 4, 5):
        want[COLUMN[i, j, k], j, k] += source[i, j, k].item()
    np.testing.assert_allclose(x.scatter_add(dim, index, source).numpy(), want, rtol=1e-13)
    written = lucid.tensor(X)
    assert written.scatter_add_(dim, index, source) is written
    np.testing.assert_allclose(written.numpy(), want, rtol=1e-13)
    x.requires_grad_()
    check_grads(lambda x: x.gather(dim, index) ** 2, x, rtol=1e-4)
    check_grads(lambda x, s: x.scatter_add(dim, index, s) ** 2, (x, source.requires_grad_()), rtol=1e-4)


def test_gather_takes_fewer_indices_and_refuses_others():
    x = lucid.tensor(X)
    assert x.gather(1, lucid.zeros(2, 1, 3, dtype=int)).tolist() == X[:2, :1, :3].tolist()
    with pytest.raises(IndexError, match="dimension 1 of size 4"):
        x.gather(1, lucid.full((1, 1, 1), 4))
    with pytest.raises(ShapeError, match="one rank"):
        x.gather(1, lucid.zeros(2, dtype=int))
    with pytest.raises(DTypeError, match="integer tensor"):
        x.gather(1, lucid.zeros(1, 1, 1))


@pytest.mark.parametrize("dtype", [lucid.float32, lucid.float16, lucid.bfloat16, lucid.int8, lucid.int64])
def test_gather_of_other_types_layouts_and_sizes(dtype):
    x = lucid.tensor(np.arange(-60, 60).reshape(3, 40), dtype=dtype)
    index = np.array([[0, -1, 39], [5, 5, -40], [1, 0, 2]])
    want = np.take_along_axis(np.arange(-60, 60).reshape(3, 40), index, 1)
    assert x.gather(1, lucid.tensor(index)).tolist() == want.tolist()
    assert x.t().gather(0, lucid.tensor(index.T)).tolist() == want.T.tolist()
    assert x.gather(1, lucid.tensor(index[:2, :1], dtype=lucid.int32)).tolist() == want[:2, :1].tolist()
    assert x.gather(1, lucid.zeros(3, 0, dtype=int)).shape == (3, 0)
    assert lucid.zeros(0, 3).gather(0, lucid.zeros(0, 3, dtype=int)).shape == (0, 3)
    assert lucid.tensor(2.0).gather(0, lucid.tensor(0)).item() == 2
    with pytest.raises(IndexError, match="dimension 1 of size 40"):
        x.gather(1, lucid.tensor(index + 5))
    with pytest.raises(IndexError):
        x.gather(1, lucid.zeros(4, 1, dtype=int))


@pytest.mark.parametrize("dtype", [lucid.float64, lucid.float16])
def test_gradients_at_repeated_places_of_narrow_indices(dtype):
    x = lucid.ones(3, 5, dtype=dtype).requires_grad_()
    index = lucid.tensor([[4, -1], [0, 0]])
    x.gather(1, index).backward(lucid.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype))
    assert x.grad.tolist() == [[0, 0, 0, 0, 3], [7, 0, 0, 0, 0], [0] * 5]


def test_scatter_replaces():
    x = lucid.zeros(2, 3).scatter(1, lucid.tensor([[2], [0]]), 1.0)
    assert x.tolist() == [[0, 0, 1], [1, 0, 0]]
    x = lucid.zeros(2, 3).scatter(1, lucid.tensor([[2], [0]]), lucid.tensor([[5.0], [6.0]]))
    assert x.tolist() == [[0, 0, 5], [6, 0, 0]]


def test_slices_of_one_dimension():
    x, index = lucid.tensor(X), lucid.tensor([3, 0, 0])
    np.testing.assert_array_equal(x.index_select(1, index).numpy(), X[:, [3, 0, 0]])
    want = X.copy()
    np.add.at(want, (slice(None), [3, 0, 0]), 1.0)
    np.testing.assert_allclose(x.index_add(1, index, lucid.ones(3, 3, 5)).numpy(), want)
    np.testing.assert_array_equal(lucid.take_along_dim(x, x.argsort(2), 2).numpy(), np.sort(X, 2))
    np.testing.assert_array_equal(x.masked_select(lucid.tensor(MASK[0])).numpy(), X[np.broadcast_to(MASK[0], X.shape)])


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("descending", [False, True])
def test_sorting(dim, descending):
    x = lucid.tensor(X)
    found = x.sort(dim, descending)
    want = np.sort(X, dim)
    np.testing.assert_array_equal(found.values.numpy(), np.flip(want, dim) if descending else want)
    np.testing.assert_array_equal(np.take_along_axis(X, found.indices.numpy(), dim), found.values.numpy())
    check_grads(lambda t: t.sort(dim, descending).values ** 2, lucid.tensor(X, requires_grad=True), rtol=1e-4)


def test_equal_elements_keep_their_order_and_nan_is_last():
    x = lucid.tensor([2.0, 1.0, 2.0, 1.0])
    assert x.argsort().tolist() == [1, 3, 0, 2] and x.argsort(descending=True).tolist() == [0, 2, 1, 3]
    assert lucid.tensor([float("nan"), 1.0]).argsort().tolist() == [1, 0]
    assert lucid.tensor(3.0).sort().indices.item() == 0


def test_topk():
    x = lucid.tensor(X)
    for largest in (True, False):
        found = x.topk(2, 1, largest)
        want = np.sort(X, 1)
        np.testing.assert_array_equal(found.values.numpy(), np.flip(want, 1)[:, :2] if largest else want[:, :2])
    assert x.topk(0).values.shape == (3, 4, 0)
    with pytest.raises(ShapeError, match="k=6"):
        x.topk(6)


def test_unique():
    x = lucid.tensor([3, 1, 3])
    assert lucid.unique(x).tolist() == [1, 3]
    values, inverse, counts = x.unique(return_inverse=True, return_counts=True)
    assert values[inverse].tolist() == [3, 1, 3] and counts.tolist() == [1, 2]

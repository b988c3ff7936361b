"""Writing into tensors: values, versions, gradients, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import lucid
from lucid.autograd import check_grads
from lucid.core.errors import DTypeError, GradientError, ShapeError

X = np.random.default_rng(6).uniform(0.5, 2.0, (3, 4))

WRITES = {
    "add_": lambda x, y: x.add_(y),
    "sub_": lambda x, y: x.sub_(y, alpha=2),
    "mul_": lambda x, y: x.mul_(y),
    "div_": lambda x, y: x.div_(y),
    "pow_": lambda x, y: x.pow_(y),
    "exp_": lambda x, y: x.exp_(),
    "sqrt_": lambda x, y: x.sqrt_(),
    "sigmoid_": lambda x, y: x.sigmoid_(),
    "clamp_": lambda x, y: x.clamp_(0.8, 1.5),
    "square_": lambda x, y: x.square_(),
    "lerp_": lambda x, y: x.lerp_(y, 0.25),
    "copy_": lambda x, y: x.copy_(y * y),
    "addcmul_": lambda x, y: x.addcmul_(y, y, value=2),
    "addcdiv_": lambda x, y: x.addcdiv_(x, y),
    "self_": lambda x, y: x.mul_(x),
    "masked_fill_": lambda x, y: x.masked_fill_(y > 1, 3.0),
    "neg_": lambda x, y: x.neg_(),
}
SYMBOLS = {
    "+": "__iadd__",
    "-": "__isub__",
    "*": "__imul__",
    "/": "__itruediv__",
    "**": "__ipow__",
    "%": "__imod__",
    "//": "__ifloordiv__",
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_equals_its_operation(name):
    def written(x, y):
        x = x * 1
        assert WRITES[name](x, y) is x
        return x

    x, y = lucid.tensor(X, requires_grad=True), lucid.tensor(X[::-1].copy(), requires_grad=True)
    out_of_place = getattr(type(x), name.rstrip("_"), None)
    recorded = written(x, y)
    with lucid.no_grad():
        plain = written(x, y)
    np.testing.assert_array_equal(recorded.detach().numpy(), plain.numpy())
    assert out_of_place is None or not np.array_equal(plain.numpy(), X)
    check_grads(lambda x, y: written(x, y) * x, (x, y), rtol=1e-4)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_symbols(symbol):
    for other in (2.5, lucid.tensor(X[0])):
        x = y = lucid.tensor(X)
        want = eval(f"a {symbol} b", {"a": X, "b": other if isinstance(other, float) else X[0]})
        x = getattr(x, SYMBOLS[symbol])(other)
        assert x is y and x.version == 1
        np.testing.assert_allclose(x.numpy(), want, rtol=1e-14)


def test_memory_stays():
    x = lucid.tensor(X)
    a, pointer = x.numpy(), x.data_ptr()
    x += 1
    x.zero_()
    x.fill_(lucid.tensor(3))
    x[0] = 4
    assert x.data_ptr() == pointer and a[0, 0] == 4 and a[1, 1] == 3 and x.version == 4


def test_constants_cut_the_gradient():
    x = lucid.ones(3, requires_grad=True)
    y = x * 2
    y.zero_()
    (y + x).backward()
    assert x.grad.tolist() == [1, 1, 1]
    z = x * 2
    z[:2].fill_(7)
    x.grad = None
    z.backward()
    assert x.grad.tolist() == [0, 0, 2]


def test_leaves_are_not_written_while_recording():
    x = lucid.ones(3, requires_grad=True)
    for write in (lambda: x.add_(1), lambda: x.zero_(), lambda: x.__setitem__(0, 1.0), lambda: x.normal_()):
        with pytest.raises(GradientError, match="a leaf that requires a gradient"):
            write()
    with lucid.no_grad():
        x.add_(1)
        x[0] = 0
        x.mul_(x)
    assert x.tolist() == [0, 4, 4] and x.is_leaf and x.requires_grad


def test_a_constant_becomes_part_of_the_graph():
    w = lucid.ones(3, requires_grad=True)
    total = lucid.zeros(3)
    for i in range(3):
        total += w * i
    total.backward()
    assert w.grad.tolist() == [3, 3, 3] and not total.is_leaf


def test_a_stale_value_is_noticed():
    w = lucid.ones(3, requires_grad=True)
    x = lucid.ones(3)
    y = w * x
    x += 1
    with pytest.raises(GradientError, match="mul: a tensor of shape"):
        y.backward()


def test_overlapping_operands():
    x = lucid.arange(5.0)
    x[1:] += x[:-1]
    assert x.tolist() == [0, 1, 3, 5, 7]
    x.copy_(x.flip(0))
    assert x.tolist() == [7, 5, 3, 1, 0]


@pytest.mark.parametrize(
    ("write", "error", "text"),
    [
        (lambda x: x.add_(1.5), DTypeError, r"add_: a result of float32 cannot be written into lucid.int64"),
        (lambda x: x.div_(2), DTypeError, "div_"),
        (
            lambda x: x.mul_(lucid.ones(2, 3, 1, dtype=int)),
            ShapeError,
            r"shape \(2, 3, 4\) cannot be written into shape \(3, 4\)",
        ),
        (lambda x: x.copy_(lucid.ones(5)), ShapeError, "broadcast"),
    ],
)
def test_results_that_do_not_fit(write, error, text):
    with pytest.raises(error, match=text):
        write(lucid.ones(3, 4, dtype=int))


def test_narrower_types_are_written():
    x = lucid.ones(2, dtype=lucid.float16)
    x += lucid.ones(2, dtype=lucid.float64)
    assert x.dtype is lucid.float16 and x.tolist() == [2, 2]
    y = lucid.ones(2, dtype=lucid.bfloat16).mul_(3).add_(lucid.ones(2))
    assert y.dtype is lucid.bfloat16 and y.tolist() == [4, 4]
    assert lucid.zeros(2, dtype=int).copy_(lucid.tensor([1.7, 2.2])).tolist() == [1, 2]


def _recorded():
    """A result that nobody else holds, as that of a batch norm before a ReLU."""
    x = lucid.tensor(X, requires_grad=True)
    return x, x * 3


def test_alone_nothing_is_copied():
    """The graph keeps the old memory, the tensor takes the result's."""
    x, y = _recorded()
    address = y._array.ctypes.data
    y.mul_(y)
    assert y._array.ctypes.data != address and y.version == 1
    y.backward(lucid.ones_like(y))
    np.testing.assert_allclose(x.grad.numpy(), 18 * X)


def test_what_others_see_is_written():
    _, y = _recorded()
    seen, part, address = y.detach(), y[0], y.data_ptr()
    y += 1
    np.testing.assert_array_equal(seen.numpy(), 3 * X + 1)
    np.testing.assert_array_equal(part.detach().numpy(), 3 * X[0] + 1)
    assert y.data_ptr() == address


def test_a_result_that_the_graph_keeps_is_its_own():
    """The gradient of exp needs its result, which a second write must not reach."""
    x, y = _recorded()
    y.exp_()
    y += 1
    y.backward(lucid.ones_like(y))
    np.testing.assert_allclose(x.grad.numpy(), 3 * np.exp(3 * X))


def test_an_operand_is_not_taken_for_the_result():
    _, y = _recorded()
    source = lucid.tensor(X) * 2
    y.copy_(source)
    y += 1
    np.testing.assert_array_equal(source.numpy(), 2 * X)
    z = lucid.tensor(X) * 1
    z.copy_(source)
    z += 1
    np.testing.assert_array_equal(source.numpy(), 2 * X)


def test_what_the_graph_keeps_of_it_is_taken_and_left_alone():
    """A ReLU keeps its result: the tensor takes that very memory, and leaves it to the graph at the next write."""
    x, y = _recorded()
    z = lucid.nn.functional.relu(y - 4, inplace=True)
    kept = z._array
    assert z._edge[0].saved_result(0) is kept
    del kept
    z += 1
    assert z._edge[0].saved_result(0) is None and z.version == 2
    z.backward(lucid.ones_like(z))
    np.testing.assert_array_equal(x.grad.numpy(), 3.0 * (3 * X > 4))


def test_a_write_that_the_graph_does_not_survive_is_noticed():
    for inplace in (False, True):
        _, y = _recorded()
        z = lucid.nn.functional.relu(y, inplace)
        z.detach().zero_()
        with pytest.raises(GradientError, match="relu: a tensor of shape"):
            z.backward(lucid.ones_like(z))


LARGE = (5, 70, 100)  # elements that kernels take
DIRECT = {
    "add": lambda x, y: x.add_(y),
    "sub": lambda x, y: x.sub_(y),
    "mul": lambda x, y: x.mul_(y),
    "div": lambda x, y: x.div_(y),
    "add a number": lambda x, y: x.add_(3),
    "add itself": lambda x, y: x.add_(x),
    "relu": lambda x, y: lucid.nn.functional.relu(x, inplace=True),
    "relu6": lambda x, y: lucid.nn.functional.relu6(x, inplace=True),
    "leaky_relu": lambda x, y: lucid.nn.functional.leaky_relu(x, 0.3, inplace=True),
    "silu": lambda x, y: lucid.nn.functional.silu(x, inplace=True),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("write", DIRECT.values(), ids=DIRECT)
def test_without_a_graph_a_kernel_writes_where_the_operand_lies(write, dtype):
    x, y = (lucid.randn(*LARGE).to(getattr(lucid, dtype)) for _ in range(2))
    want = write(x.clone().requires_grad_() + 0, y).detach()
    kept = x.numpy() if dtype != "bfloat16" else x.detach()
    place, version = x.data_ptr(), x._version[0]
    with lucid.no_grad():
        assert write(x, y) is x
    assert x.data_ptr() == place and x._version[0] == version + 1
    assert lucid.equal(x, want) and lucid.equal(lucid.as_tensor(kept), want)


@pytest.mark.parametrize("other", [(100,), (70, 1), (1, 70, 100), (), LARGE])
def test_a_kernel_stretches_the_other_operand(other):
    x, y = lucid.randn(*LARGE), lucid.randn(*other)
    want = x + y
    with lucid.no_grad():
        x += y
    assert lucid.equal(x, want)


def test_operands_that_lie_partly_where_the_result_does():
    flat = lucid.randn(40001)
    whole, want = flat[1:], flat[1:] + flat[:-1]
    row = lucid.randn(200, 200)
    first = row + row[0]
    with lucid.no_grad():
        whole += flat[:-1]
        row += row[0]
    assert lucid.equal(flat[1:], want)
    assert lucid.equal(row, first)


def test_what_a_kernel_cannot_write_is_written_or_refused_as_ever():
    x = lucid.randn(*LARGE)
    turned, want = x.permute(2, 1, 0), x.permute(2, 1, 0) + 1
    with lucid.no_grad():
        turned += 1
        assert lucid.equal(turned, want)
        x.mul_(lucid.randn(*LARGE, dtype=lucid.float64) * 0)
        assert lucid.equal(x, lucid.zeros(*LARGE)) and x.dtype is lucid.float32
        with pytest.raises(ShapeError, match="written into"):
            lucid.randn(1, 20000).add_(lucid.randn(3, 1))


def test_a_graph_notices_that_a_kernel_wrote():
    x = lucid.randn(*LARGE, requires_grad=True)
    h = x * 2
    y = (h * h).sum()
    with lucid.no_grad():
        h.add_(1.0)
    with pytest.raises(GradientError):
        y.backward()

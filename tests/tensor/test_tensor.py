"""``Tensor``: what it holds, what it shares, and how it leaves Lucid."""

from __future__ import annotations

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

import lucid
from lucid import Tensor
from lucid.core.errors import DeviceError, DTypeError, GradientError, ShapeError


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        ([1.0, 2], "float32"),
        ([1, 2], "int64"),
        ([True], "bool"),
        ([1j], "complex64"),
        (3.0, "float32"),
        ([], "float32"),
        (np.float64(3), "float64"),
        (np.zeros(2), "float64"),
        (np.zeros(2, np.float16), "float16"),
        ([np.float64(1)], "float64"),
        (np.zeros(2, ml_dtypes.bfloat16), "bfloat16"),
        ([[1, 2.5]], "float32"),
        ((1, 2), "int64"),
        (range(3), "int64"),
    ],
)
def test_element_types_of_data(data, dtype):
    assert Tensor(data).dtype is getattr(lucid, dtype)


def test_dtype_argument_converts():
    assert Tensor([1.7, -1.7], dtype=int).tolist() == [1, -1]
    assert Tensor([1, 2], dtype="bfloat16").dtype is lucid.bfloat16
    assert Tensor(np.array([1 + 2j]), dtype=float).tolist() == [1.0]
    assert Tensor([1e300]).tolist() == [float("inf")]


@pytest.mark.parametrize("data", [["a"], [None], [object()], np.zeros(2, "uint16"), np.zeros(2, "M8[s]"), b"ab"])
def test_elements_that_cannot_be_held(data):
    with pytest.raises(DTypeError):
        Tensor(data)


def test_ragged_lists():
    with pytest.raises(ShapeError, match="unequal lengths"):
        Tensor([[1, 2], [3]])


def test_arrays_are_shared_in_and_out():
    a = np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-2]
    x = Tensor(a)
    assert x.numpy() is a and np.asarray(x) is a
    x[0, 0] = 9
    assert a[0, 0] == 9
    assert lucid.from_numpy(a).data_ptr() == x.data_ptr() == lucid.as_tensor(a).data_ptr()
    assert lucid.tensor(a).data_ptr() != x.data_ptr()
    with pytest.raises(TypeError, match="from_numpy"):
        lucid.from_numpy([1.0])


def test_foreign_byte_order_is_converted():
    assert Tensor(np.array([1.0, 2.0], ">f4")).numpy().dtype.isnative


def test_read_only_arrays_are_held_but_not_written():
    a = np.ones(3)
    a.flags.writeable = False
    x = Tensor(a)
    assert (x + 1).tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="read-only"):
        x.add_(1)


def test_what_it_is():
    x = lucid.zeros(2, 3, 4, dtype=lucid.float64)
    assert x.shape == x.size() == (2, 3, 4) and type(x.shape) is tuple
    assert (x.ndim, x.dim(), x.numel(), x.size(-1), len(x)) == (3, 3, 24, 4, 2)
    assert (x.itemsize, x.element_size(), x.nbytes, x.stride(), x.stride(0)) == (8, 8, 192, (12, 4, 1), 12)
    assert x.is_contiguous() and not x.T.is_contiguous()
    assert x.is_floating_point() and not x.is_complex()
    assert x.device == "cpu" and str(x.device) == "cpu" and repr(x.device) == "device(type='cpu')"


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps", 0])
def test_other_devices_are_refused_with_what_there_is(device):
    for make in (
        lambda: Tensor([1.0], device=device),
        lambda: lucid.zeros(2, device=device),
        lambda: lucid.device(device),
    ):
        with pytest.raises(DeviceError, match="there is 'cpu'"):
            make()
    assert lucid.ones(1).to("cpu").to(lucid.device("cpu")).device == lucid.device("cpu")


def test_numbers():
    x = lucid.tensor([2.5])
    assert (x.item(), float(x), int(x), complex(x), bool(x)) == (2.5, 2.5, 2, 2.5 + 0j, True)
    assert [10, 20, 30][lucid.tensor(1)] == 20
    assert f"{lucid.tensor(2.5):.2f}" == "2.50"
    assert lucid.tensor(1.5, dtype=lucid.bfloat16).item() == 1.5
    assert lucid.tensor([1.5], dtype=lucid.bfloat16).tolist() == [1.5]
    with pytest.raises(ShapeError, match=r"item: .*\(2,\)"):
        lucid.ones(2).item()
    with pytest.raises(ShapeError, match="ambiguous"):
        bool(lucid.ones(2))
    with pytest.raises(TypeError, match="only integer tensors"):
        [1, 2][lucid.tensor(1.0)]
    with pytest.raises(TypeError, match="0-d"):
        len(lucid.tensor(1.0))
    with pytest.raises(TypeError, match="0-d"):
        iter(lucid.tensor(1.0))


def test_equality_is_by_element_and_hash_by_identity():
    x = lucid.tensor([1, 2])
    assert (x == lucid.tensor([1, 3])).tolist() == [True, False]
    assert (x != 1).tolist() == [False, True]
    assert x != "x" and (x == None) is False  # noqa: E711
    assert len({x, x, x.clone()}) == 2
    assert 2 in x and 5 not in x


def test_numpy_of_a_tensor_that_requires_a_gradient():
    x = lucid.ones(2, requires_grad=True)
    for use in (x.numpy, lambda: np.asarray(x), lambda: (x * 2).numpy()):
        with pytest.raises(GradientError, match="detach"):
            use()
    assert x.detach().numpy() is x.numpy(force=True)
    with pytest.raises(BufferError, match="detach"):
        np.from_dlpack(x)


def test_dlpack_shares_memory():
    x = lucid.arange(4.0)
    a = np.from_dlpack(x)
    assert a.ctypes.data == x.data_ptr()
    assert lucid.from_dlpack(a).data_ptr() == x.data_ptr()
    assert x.__dlpack_device__() == (1, 0)


def test_dlpack_of_bfloat16():
    x = lucid.tensor([[1.5, 2.0], [3.0, -4.0]], dtype=lucid.bfloat16)
    for source in (x, x.T, x[1:]):
        y = lucid.from_dlpack(source)
        assert y.dtype is lucid.bfloat16 and y.tolist() == source.tolist()
        assert y.data_ptr() == source.data_ptr() and y.stride() == source.stride()


def test_requires_grad():
    x = lucid.ones(2)
    assert x.requires_grad_() is x and x.requires_grad and x.is_leaf and x.grad_fn is None
    y = x * 2
    assert not y.is_leaf and y.grad_fn.name == "mul"
    with pytest.raises(GradientError, match="leaf"):
        y.requires_grad = False
    for dtype in ("int64", "bool"):
        with pytest.raises(DTypeError, match="only floating point"):
            lucid.ones(2, dtype=dtype, requires_grad=True)


def test_detach_shares_memory_and_version():
    x = lucid.ones(2, requires_grad=True)
    y = x.detach()
    assert not y.requires_grad and y.data_ptr() == x.data_ptr()
    y.add_(1)
    assert x.tolist() == [2, 2] and x.version == 1
    z = x * 2
    assert z.detach_() is z and z.is_leaf and not z.requires_grad


def test_grad_is_checked_when_set():
    x = lucid.ones(2, requires_grad=True)
    x.grad = lucid.ones(2)
    with pytest.raises(ShapeError, match=r"\(3,\)"):
        x.grad = lucid.ones(3)
    with pytest.raises(DTypeError, match=r"lucid\.float64"):
        x.grad = lucid.ones(2).double()
    with pytest.raises(TypeError, match="list"):
        x.grad = [1.0, 1.0]
    x.grad = None
    assert x.grad is None


def test_data_replaces_the_elements():
    x = lucid.ones(2, requires_grad=True)
    x.data = lucid.tensor([5.0, 6.0])
    assert x.tolist() == [5, 6] and x.requires_grad and x.is_leaf
    assert not x.data.requires_grad


class Named(Tensor):
    """A subclass with attributes, as parameters are."""


def test_subclasses():
    x = Named([1.0, 2.0], requires_grad=True)
    x.name = "weights"
    assert type(x) is Named and type(x * 2) is Tensor and type(x[0]) is Tensor
    (x * 2).backward()
    assert x.grad.tolist() == [2, 2]
    for other in (copy.deepcopy(x), pickle.loads(pickle.dumps(x)), copy.copy(x)):
        assert type(other) is Named and other.name == "weights" and other.requires_grad
        assert other.tolist() == [1, 2]
    assert copy.deepcopy(x).grad.tolist() == [2, 2]


def test_copies():
    x = lucid.ones(2, requires_grad=True)
    twice = copy.deepcopy([x, x])
    assert twice[0] is twice[1] and twice[0].data_ptr() != x.data_ptr()
    assert copy.copy(x).data_ptr() == x.data_ptr()
    with pytest.raises(GradientError, match="deepcopy"):
        copy.deepcopy(x * 2)
    for dtype in ("bfloat16", "complex64", "bool"):
        y = lucid.ones(3, dtype=dtype)
        assert pickle.loads(pickle.dumps(y)).dtype is y.dtype


def test_static_creation_of_the_pages():
    assert Tensor.randn(1, 4, 5, requires_grad=True).shape == (1, 4, 5)
    assert Tensor.zeros(2).tolist() == [0, 0] and Tensor.arange(3).tolist() == [0, 1, 2]


def test_what_programs_for_several_devices_say():
    device = lucid.device("cuda" if lucid.cuda.is_available() and lucid.cuda.device_count() else "cpu")
    x = lucid.ones(2).to(device, non_blocking=True)
    names = ("float", "double", "half", "long", "int", "short")
    found = [x.to(getattr(lucid, name), non_blocking=True).dtype.name for name in names]
    assert found == ["float32", "float64", "float16", "int64", "int32", "int16"]


def test_import_loads_no_engine():
    import subprocess
    import sys

    script = "import lucid, sys; sys.exit('llvmlite' in sys.modules or 'ml_dtypes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    assert lucid.nn is sys.modules["lucid.nn"]
    with pytest.raises(AttributeError, match="nothing_here"):
        lucid.nothing_here  # noqa: B018


def test_memory_formats_are_taken_and_change_nothing() -> None:
    x = lucid.randn(2, 3, 4, 5)
    assert x.to(memory_format=lucid.channels_last) is x and x.contiguous(memory_format=lucid.channels_last) is x
    assert x.clone(memory_format=lucid.preserve_format).stride() == x.stride()
    layer = lucid.nn.Conv3d(1, 1, 1)
    assert layer.to("cpu", memory_format=lucid.channels_last_3d, non_blocking=True) is layer
    for call, name in ((x.to, "to"), (x.contiguous, "contiguous"), (x.clone, "clone"), (layer.to, "Conv3d.to")):
        with pytest.raises(TypeError, match=rf"{name}: memory_format='nhwc' must be one of lucid.contiguous_format"):
            call(memory_format="nhwc")

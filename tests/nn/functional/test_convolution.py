"""Convolutions against sums over windows written out, their laws, and every argument form and error."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import lucid
from lucid import nn
from lucid.autograd import check_grads
from lucid.nn import functional as F
from lucid.nn.functional import convolution

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
MODES = list(NUMPY_MODES)
SIZES = {1: (9,), 2: (6, 5), 3: (4, 3, 5)}
KERNELS = {1: (3,), 2: (3, 2), 3: (2, 3, 1)}


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def tensor(seed: int, *shape: int, requires_grad: bool = False) -> lucid.Tensor:
    return lucid.tensor(draw(seed, *shape), requires_grad=requires_grad)


def by_loops(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int, pads: list[tuple[int, int]], dilation: int, groups: int,
    mode: str = "zeros",
) -> np.ndarray:  # fmt: skip
    """The definition, one output at a time."""
    x = np.pad(x, [(0, 0), (0, 0), *pads], mode=NUMPY_MODES[mode])
    kernel, each_in, each_out = w.shape[2:], w.shape[1], w.shape[0] // groups
    out = [(n - dilation * (k - 1) - 1) // stride + 1 for n, k in zip(x.shape[2:], kernel, strict=True)]
    y = np.zeros((x.shape[0], w.shape[0], *out))
    for n, o in np.ndindex(*y.shape[:2]):
        channels = range(o // each_out * each_in, (o // each_out + 1) * each_in)
        for p in np.ndindex(*out):
            y[(n, o, *p)] = b[o] + sum(
                x[(n, c, *(i * stride + t * dilation for i, t in zip(p, tap, strict=True)))] * w[(o, i_c, *tap)]
                for (i_c, c), tap in product(enumerate(channels), np.ndindex(*kernel))
            )
    return y


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 2), (1, 2, 1), (2, 2, 2)])
@pytest.mark.parametrize("mode", MODES)
def test_the_definition(rank: int, stride: int, dilation: int, groups: int, mode: str) -> None:
    pads = [(1, 2), (2, 0), (1, 1)][:rank]
    x, w, b = draw(1, 2, 4, *SIZES[rank]), draw(2, 6, 4 // groups, *KERNELS[rank]), draw(3, 6)
    y = CONV[rank](*map(lucid.tensor, (x, w, b)), stride, pads, dilation, groups, mode)
    np.testing.assert_allclose(
        y.numpy(), by_loops(x, w, b, stride, pads, dilation, groups, mode), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("mode", MODES)
def test_gradients_to_second_order(rank: int, mode: str) -> None:
    inputs = [
        tensor(i, *s, requires_grad=True) for i, s in enumerate([(2, 2, *SIZES[rank]), (4, 1, *KERNELS[rank]), (4,)])
    ]
    padding = [(1, 0), (0, 1), (1, 1)][:rank]
    check_grads(lambda x, w, b: CONV[rank](x, w, b, 2, padding, 1, 2, mode), inputs)
    inputs[1] = tensor(1, 2, 2, *KERNELS[rank], requires_grad=True)
    check_grads(lambda x, w, b: CONV_TRANSPOSE[rank](x, w, b, 2, padding, 1, 2, 1, mode), inputs)


GEOMETRIES = [
    {"stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    {"stride": 2, "padding": 1, "dilation": 1, "groups": 2},
    {"stride": 1, "padding": 2, "dilation": 2, "groups": 1},
    {"stride": 3, "padding": 1, "dilation": 1, "groups": 1},
]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_transposed_convolution_is_the_adjoint(rank: int, mode: str, geometry: dict[str, int]) -> None:
    """⟨conv(x), g⟩ = ⟨x, convᵀ(g)⟩, the padding mode included."""
    size = tuple(n + 3 for n in SIZES[rank])
    x, w = tensor(1, 2, 4, *size), tensor(2, 6, 4 // geometry["groups"], *KERNELS[rank])
    y = CONV[rank](x, w, **geometry, padding_mode=mode)
    g = tensor(3, *y.shape)
    back = CONV_TRANSPOSE[rank](g, w, **geometry, padding_mode=mode, output_size=size)
    assert back.shape == x.shape
    np.testing.assert_allclose((y * g).sum().item(), (x * back).sum().item(), rtol=1e-10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (4, 2, 1), (5, 3, 2), (2, 3, 1), (1, 2, 1)])
def test_transposed_same_is_the_adjoint_of_same(mode: str, kernel: int, stride: int, dilation: int) -> None:
    x, w = tensor(1, 2, 3, 4 * stride), tensor(2, 5, 3, kernel)
    options: dict[str, Any] = {"stride": stride, "padding": "same", "dilation": dilation, "padding_mode": mode}
    y = F.conv1d(x, w, **options)
    g = tensor(3, *y.shape)
    back = F.conv_transpose1d(g, w, **options)
    assert back.shape == x.shape
    np.testing.assert_allclose((y * g).sum().item(), (x * back).sum().item(), rtol=1e-10)


@pytest.mark.parametrize("length", [1, 5, 8, 9])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_sizes_of_the_padding_words(length: int, kernel: int, stride: int, dilation: int) -> None:
    x, w = tensor(1, 1, 1, length), tensor(2, 1, 1, kernel)
    options = {"stride": stride, "dilation": dilation}
    assert F.conv1d(x, w, padding="same", **options).shape[-1] == -(-length // stride)
    assert F.conv1d(x, w, padding="causal", **options).shape[-1] == -(-length // stride)
    assert F.conv_transpose1d(x, w, padding="same", **options).shape[-1] == length * stride
    assert F.conv_transpose1d(x, w, padding="causal", **options).shape[-1] == length * stride


def test_same_puts_the_extra_sample_on_the_right() -> None:
    x, w = lucid.tensor([[[1.0, 2.0, 3.0]]]), lucid.tensor([[[1.0, 10.0]]])
    assert F.conv1d(x, w, padding="same").tolist() == [[[21.0, 32.0, 3.0]]]
    assert F.conv1d(x, w, padding="causal").tolist() == [[[10.0, 21.0, 32.0]]]


@pytest.mark.parametrize("verb", [F.conv1d, F.conv_transpose1d])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_causal_outputs_see_no_later_input(verb: Any, stride: int) -> None:
    x, w = tensor(1, 1, 2, 12), tensor(2, 2, 2, 3)
    before = verb(x, w, stride=stride, padding="causal", dilation=2)
    changed = x.clone()
    changed[..., 8:] += 1.0
    after = verb(changed, w, stride=stride, padding="causal", dilation=2)
    first = 8 // stride if verb is F.conv1d else 8 * stride
    same = np.isclose(before.numpy(), after.numpy(), rtol=0, atol=1e-12).all((0, 1))
    assert same[:first].all() and not same[first]


def test_shift_and_groups_and_dilation() -> None:
    x, w = tensor(1, 2, 4, 20), tensor(2, 6, 2, 3)
    y = F.conv1d(x, w, groups=2)
    np.testing.assert_allclose(F.conv1d(x[..., 3:], w, groups=2).numpy(), y[..., 3:].numpy(), atol=1e-13)
    parts = [F.conv1d(x[:, 2 * g : 2 * g + 2], w[3 * g : 3 * g + 3]) for g in range(2)]
    np.testing.assert_allclose(lucid.cat(parts, 1).numpy(), y.numpy(), atol=1e-13)
    stuffed = np.zeros((6, 2, 7))
    stuffed[..., ::3] = w.numpy()
    np.testing.assert_allclose(
        F.conv1d(x, w, groups=2, dilation=3).numpy(), F.conv1d(x, lucid.tensor(stuffed), groups=2).numpy(), atol=1e-13
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_unbatched_input_is_a_batch_of_one(rank: int) -> None:
    x, w, b = tensor(1, 1, 4, *SIZES[rank]), tensor(2, 4, 4, *KERNELS[rank]), tensor(3, 4)
    for verb in (CONV[rank], CONV_TRANSPOSE[rank]):
        np.testing.assert_array_equal(verb(x[0], w, b).numpy(), verb(x, w, b)[0].numpy())


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_batch_gives_an_empty_batch_and_zero_gradients(mode: str) -> None:
    x, w, b = (
        tensor(1, 0, 2, 9, requires_grad=True),
        tensor(2, 4, 2, 3, requires_grad=True),
        tensor(3, 4, requires_grad=True),
    )
    y = F.conv1d(x, w, b, padding=1, padding_mode=mode)
    assert y.shape == (0, 4, 9)
    y.backward()
    assert x.grad.shape == x.shape and not w.grad.numpy().any() and not b.grad.numpy().any()


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 1), (1, 4), (2, 5), (3, 2)])
def test_every_valid_output_padding_appends(stride: int, dilation: int, padding: int) -> None:
    x, w, b = tensor(1, 1, 2, 4), tensor(2, 2, 3, 3), tensor(3, 3)
    options = {"stride": stride, "dilation": dilation}
    # What a larger size adds on the right is what the full adjoint has there: cut out of one with nothing cut off.
    full = F.conv_transpose1d(x, w, b, **options).numpy()
    for extra in range(max(stride, dilation)):
        size = full.shape[-1] - 2 * padding + extra
        if size < 1:
            continue
        y = F.conv_transpose1d(x, w, b, **options, padding=padding, output_padding=extra)
        by_size = F.conv_transpose1d(x, w, b, **options, padding=padding, output_size=(size,))
        expected = np.concatenate([full, np.broadcast_to(b.numpy()[:, None], (1, 3, extra))], -1)
        expected = expected[..., padding : padding + size]
        np.testing.assert_allclose(y.numpy(), expected, atol=1e-13)
        np.testing.assert_allclose(by_size.numpy(), expected, atol=1e-13)


def test_forms_of_arguments_mean_the_same() -> None:
    x, w = tensor(1, 1, 1, 6, 6), tensor(2, 1, 1, 3, 3)
    expected = F.conv2d(x, w, None, 2, 1, 1).numpy()
    for two, one in (
        (np.int64(2), np.int8(1)),
        ([2, 2], [1, 1]),
        ((2, 2), ((1, 1), (1, 1))),
        ((2, np.int32(2)), [[1, 1], (1, 1)]),
    ):
        np.testing.assert_array_equal(F.conv2d(x, w, stride=two, padding=one).numpy(), expected)
    assert F.conv1d(tensor(1, 1, 1, 6), tensor(2, 1, 1, 3), padding=(1,), stride=[2]).shape == (1, 1, 3)


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16", "float16"])
def test_the_result_has_the_type_of_the_input(precision: str) -> None:
    x, w = tensor(1, 1, 2, 9).to(precision), tensor(2, 3, 2, 3).to(precision)
    assert F.conv1d(x, w, padding=1).dtype == x.dtype
    exact = F.conv1d(x.to("float64"), w.to("float64"), padding=1).numpy()
    bound = {"float32": 1e-6, "float64": 1e-14, "bfloat16": 2.0**-7, "float16": 2.0**-10}[precision]
    np.testing.assert_allclose(F.conv1d(x, w, padding=1).to("float64").numpy(), exact, rtol=bound, atol=8 * bound)


def test_nan_and_infinity_pass_through() -> None:
    x = lucid.tensor([[[1.0, np.nan, 1.0, 1.0, np.inf, 1.0]]])
    y = F.conv1d(x, lucid.ones(1, 1, 2)).numpy().reshape(-1)
    assert np.isnan(y).tolist() == [True, True, False, False, False]
    assert np.isinf(y).tolist() == [False, False, False, True, True]


X = W = lucid.zeros

ERRORS: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: F.conv1d(X(1, 1, 1, 4), W(1, 1, 2)),
        lucid.ShapeError,
        r"conv1d: the input \(1, 1, 1, 4\) has 4 axes, but must have 3 \(N, C, L\)",
    ),
    (
        lambda: F.conv2d(X(1, 2, 8, 8), W(1, 3, 2, 2)),
        lucid.ShapeError,
        r"conv2d: the input \(1, 2, 8, 8\) has 2 channels \(axis 1\), but weight \(1, 3, 2, 2\) with groups=1 takes 3$",
    ),
    (lambda: F.conv2d(X(1, 8, 8, 3), W(1, 3, 2, 2)), lucid.ShapeError, r"channels-last: input.movedim\(-1, 1\)"),
    (lambda: F.conv2d(X(2, 3, 8), W(1, 3, 2, 2)), lucid.ShapeError, r"read as one sample \(C, H, W\), .* only 3 axes$"),
    (
        lambda: F.conv1d(X(1, 1, 2), W(1, 1, 3), dilation=2, padding=1),
        lucid.ShapeError,
        r"larger than the padded input along L: dilation \* \(kernel_size - 1\) \+ 1 = 2 \* \(3 - 1\) \+ 1 = 5 "
        r"samples, but size \+ padding = 2 \+ 1 \+ 1 = 4",
    ),
    (lambda: F.conv2d(X(1, 1, 8, 0), W(1, 1, 1, 1)), lucid.ShapeError, r"no samples along W"),
    (lambda: F.conv1d(X(1, 1, 4), W(1, 1, 2), stride=0), lucid.ShapeError, r"conv1d: stride=0 must be at least 1"),
    (lambda: F.conv1d(X(1, 1, 4), W(1, 1, 2), dilation=0), lucid.ShapeError, r"dilation=0 must be at least 1"),
    (lambda: F.conv1d(X(1, 1, 4), W(1, 1, 2), padding=-1), lucid.ShapeError, r"padding=-1 must be at least 0"),
    (
        lambda: F.conv1d(X(1, 1, 4), W(1, 1, 2), padding=((0, -1),)),
        lucid.ShapeError,
        r"padding=\(0, -1\) must be at least 0",
    ),
    (lambda: F.conv1d(X(1, 1, 4), W(1, 1, 2), padding=2**40), lucid.ShapeError, r"at most 2147483647"),
    (
        lambda: F.conv1d(X(1, 1, 4), W(1, 1, 2), stride=True),
        TypeError,
        r"stride=True must be an int or a tuple of 1 int",
    ),
    (lambda: F.conv1d(X(1, 1, 4), W(1, 1, 2), stride=1.0), TypeError, r"stride=1.0 must be an int"),
    (lambda: F.conv2d(X(1, 1, 4, 4), W(1, 1, 2, 2), stride=(1, 1, 1)), TypeError, r"tuple of 2 ints"),
    (lambda: F.conv2d(X(1, 1, 4, 4), W(1, 1, 2, 2), stride=(1, 1.0)), TypeError, r"tuple of 2 ints"),
    (lambda: F.conv1d(X(1, 1, 4), W(1, 1, 2), padding=(1, 2)), TypeError, r"\(\(low, high\),\)"),
    (
        lambda: F.conv1d(X(1, 1, 4), W(1, 1, 2), padding="full"),
        ValueError,
        r"padding='full' must be one of 'same', 'valid', 'causal'",
    ),
    (lambda: F.conv2d(X(1, 1, 4, 4), W(1, 1, 2, 2), padding="causal"), ValueError, r"one spatial axis, not 2"),
    (
        lambda: F.conv1d(X(1, 1, 4), W(1, 1, 2), padding_mode="mirror"),
        ValueError,
        r"padding_mode='mirror' must be one of 'zeros'",
    ),
    (
        lambda: F.conv1d(X(1, 1, 4), W(1, 1, 2), padding=4, padding_mode="reflect"),
        lucid.ShapeError,
        r"padding \(4, 4\) along L must be less than its 4 samples for 'reflect'",
    ),
    (
        lambda: F.conv1d(X(1, 1, 4), W(1, 1, 2), padding=5, padding_mode="circular"),
        lucid.ShapeError,
        r"at most its 4 samples",
    ),
    (
        lambda: F.conv1d(X(1, 3, 4), W(4, 1, 2), groups=3),
        lucid.ShapeError,
        r"out_channels=4 must be a multiple of groups=3",
    ),
    (lambda: F.conv1d(X(1, 1, 4), W(1, 1, 2), groups=0), lucid.ShapeError, r"groups=0 must be at least 1"),
    (
        lambda: F.conv1d(X(1, 1, 4), W(1, 2)),
        lucid.ShapeError,
        r"the weight \(1, 2\) must have the shape \(C_out, C_in/groups, K\)",
    ),
    (lambda: F.conv1d(X(1, 1, 4), W(3, 1, 2), W(2)), lucid.ShapeError, r"the bias \(2,\) must have the shape \(3,\)"),
    (
        lambda: F.conv1d(X(1, 1, 4).double(), W(1, 1, 2)),
        lucid.DTypeError,
        r"the input is float64 and the weight float32",
    ),
    (
        lambda: F.conv1d(X(1, 1, 4), W(1, 1, 2), W(1).double()),
        lucid.DTypeError,
        r"the input is float32 and the bias float64.*: convert the bias with .to\(lucid.float32\)$",
    ),
    (
        lambda: F.conv1d(X(1, 1, 4).long(), W(1, 1, 2)),
        lucid.DTypeError,
        r"the input is int64 and the weight float32.*: convert the input with .to\(lucid.float32\)$",
    ),
    (
        lambda: F.conv1d(X(1, 1, 4).long(), W(1, 1, 2).long()),
        lucid.DTypeError,
        r"int64; a convolution takes floating-point",
    ),
    (
        lambda: F.conv1d(np.zeros((1, 1, 4)), W(1, 1, 2)),
        TypeError,
        r"must be a Tensor, not ndarray; lucid.tensor\(...\) makes one",
    ),
    (
        lambda: F.conv_transpose1d(X(1, 1, 4), W(1, 1, 2), stride=3, output_padding=3),
        lucid.ShapeError,
        r"output_padding=3 must be in 0 … 2, less than the larger of stride=3 and dilation=1",
    ),
    (
        lambda: F.conv_transpose1d(X(1, 1, 5), W(1, 1, 3), stride=2, output_size=13),
        lucid.ShapeError,
        r"output_size=13 along L would take output_padding=2; valid is 0 … 1, which gives sizes 11 … 12",
    ),
    (
        lambda: F.conv_transpose1d(X(1, 1, 1), W(1, 1, 3), padding=2),
        lucid.ShapeError,
        r"no output along L: .* = \(1 - 1\) \* 1 - \(2 \+ 2\) \+ 1 \* \(3 - 1\) \+ 1 \+ 0 = -1",
    ),
    (
        lambda: F.conv_transpose1d(X(1, 1, 4), W(1, 1, 2), stride=2, padding="same", output_padding=1),
        lucid.ShapeError,
        r"must be 0 with padding='same'",
    ),
    (lambda: F.conv_transpose1d(X(1, 2, 4), W(1, 1, 2)), lucid.ShapeError, r"has 2 channels .* takes 1"),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS)
def test_errors_name_caller_argument_value_and_rule(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_a_second_call_with_bad_nested_values_is_refused_too() -> None:
    x, w = X(1, 1, 6, 6), W(1, 1, 2, 2)
    F.conv2d(x, w, stride=(1, 1))  # cached; (1.0, 1) equals and hashes like it
    with pytest.raises(TypeError, match="stride"):
        F.conv2d(x, w, stride=(1.0, 1))


def test_the_layer_names_itself() -> None:
    with pytest.raises(lucid.ShapeError, match=r"^Conv1d: the input"):
        nn.Conv1d(3, 4, 3)(X(1, 2, 8))
    with pytest.raises(lucid.ShapeError, match=r"^ConvTranspose2d: the input"):
        nn.ConvTranspose2d(3, 4, 3)(X(1, 2, 8, 8))


@pytest.mark.parametrize("one", [1, (1,)], ids=["integer", "tuple"])
def test_a_call_is_looked_up_the_second_time(one: Any) -> None:
    """Checking the arguments takes longer than a small layer; but True is no 1 and 1.0 is an error, cached or not."""
    x, w = lucid.ones(1, 2, 5), lucid.ones(3, 2, 2)
    F.conv1d(x, w, stride=one, padding=one, dilation=one)
    before = convolution._call_again.cache_info().hits
    F.conv1d(x, w, stride=one, padding=one, dilation=one)
    assert convolution._call_again.cache_info().hits == before + 1
    with pytest.raises(TypeError, match="stride"):
        F.conv1d(x, w, stride=(1.0,), padding=one, dilation=one)

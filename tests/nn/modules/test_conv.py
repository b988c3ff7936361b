"""The six convolution layers: arguments, parameters, how they print."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

import lucid
from lucid import nn
from lucid.nn import functional as F

LAYERS = [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]


@pytest.mark.parametrize("layer", LAYERS)
def test_shapes_of_parameters(layer: type[Any]) -> None:
    conv = layer(6, 4, 3, groups=2)
    assert conv.weight.shape == ((6, 2) if conv.is_transposed else (4, 3)) + (3,) * conv.rank
    assert conv.bias.shape == (4,) and isinstance(conv.bias, nn.Parameter)
    assert list(conv.state_dict()) == ["weight", "bias"]
    bare = layer(6, 4, 3, bias=False)
    assert bare.bias is None and list(bare.state_dict()) == ["weight"]


@pytest.mark.parametrize("layer", LAYERS)
def test_initial_values_are_uniform_up_to_their_bound(layer: type[Any]) -> None:
    lucid.manual_seed(0)
    conv = layer(32, 64, 3, groups=4)
    fan_in = (64 if conv.is_transposed else 32) // 4 * 3**conv.rank
    bound = 1 / math.sqrt(fan_in)
    for values in (conv.weight.detach().numpy().reshape(-1), conv.bias.detach().numpy()):
        assert np.abs(values).max() <= bound
        assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.2)
        assert values.mean() == pytest.approx(0, abs=4 * bound / math.sqrt(3 * values.size))
    lucid.manual_seed(0)
    np.testing.assert_array_equal(layer(32, 64, 3, groups=4).weight.detach().numpy(), conv.weight.detach().numpy())


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_layers_compute_what_the_functions_do(mode: str, rank: int) -> None:
    x = lucid.randn(2, 4, *(9, 8, 7)[:rank])
    options: dict[str, Any] = {"stride": 2, "padding": 1, "dilation": 1, "groups": 2, "padding_mode": mode}
    conv = getattr(nn, f"Conv{rank}d")(4, 6, 3, **options)
    expected = getattr(F, f"conv{rank}d")(x, conv.weight, conv.bias, **options)
    np.testing.assert_array_equal(conv(x).detach().numpy(), expected.detach().numpy())
    conv = getattr(nn, f"ConvTranspose{rank}d")(4, 6, 3, output_padding=1, **options)
    expected = getattr(F, f"conv_transpose{rank}d")(x, conv.weight, conv.bias, output_padding=1, **options)
    np.testing.assert_array_equal(conv(x).detach().numpy(), expected.detach().numpy())
    smaller = conv(x, output_size=[n - 1 for n in expected.shape[2:]])
    assert smaller.shape[2:] == tuple(n - 1 for n in expected.shape[2:])
    assert conv(x, output_size=expected.shape).shape == expected.shape


def test_changed_attributes_take_effect() -> None:
    conv = nn.Conv1d(1, 1, 3)
    conv.stride, conv.padding = (2,), (1,)
    assert conv(lucid.zeros(1, 1, 8)).shape == (1, 1, 4)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies(copied: Any) -> None:
    conv = nn.ConvTranspose2d(2, 2, 3, padding="same", padding_mode="reflect")
    x = lucid.randn(1, 2, 5, 5)
    assert copied(conv)(x).tolist() == conv(x).tolist() and repr(copied(conv)) == repr(conv)


@pytest.mark.parametrize(("layer", "text"), [
    (nn.Conv1d(1, 8, 3), "Conv1d(1, 8, kernel_size=(3,), stride=(1,))"),
    (
        nn.Conv2d(2, 8, (3, 5), 2, 1, 2, 2, False, "circular"),
        "Conv2d(2, 8, kernel_size=(3, 5), stride=(2, 2), padding=(1, 1), dilation=(2, 2), groups=2, bias=False, "
        "padding_mode=circular)",
    ),
    (nn.Conv1d(1, 1, 3, padding="causal"), "Conv1d(1, 1, kernel_size=(3,), stride=(1,), padding=causal)"),
    (nn.Conv1d(1, 1, 3, padding=[(2, 0)]), "Conv1d(1, 1, kernel_size=(3,), stride=(1,), padding=((2, 0),))"),
    (
        nn.ConvTranspose1d(4, 2, 3, stride=2, padding=1, output_padding=1, dilation=2, groups=2),
        "ConvTranspose1d(4, 2, kernel_size=(3,), stride=(2,), padding=(1,), output_padding=(1,), dilation=(2,), "
        "groups=2)",
    ),
])  # fmt: skip
def test_every_option_that_is_no_default_is_shown(layer: nn.Module, text: str) -> None:
    assert repr(layer) == text


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "complex64", lucid.float32, np.float64])
def test_element_types(dtype: Any) -> None:
    conv = nn.Conv1d(1, 2, 3, dtype=dtype, device="cpu")
    x = lucid.ones(1, 1, 5).to(conv.weight.dtype)
    assert conv(x).dtype == conv.weight.dtype == conv.bias.dtype


def test_a_sequence_of_arguments_by_position_is_refused_where_their_order_differs() -> None:
    assert nn.ConvTranspose1d(1, 1, 3, 1, 0, 0, dilation=2, groups=1, bias=False).bias is None
    with pytest.raises(TypeError, match=r"ConvTranspose1d: what follows output_padding must be named \(here 2, 1\)"):
        nn.ConvTranspose1d(2, 2, 3, 1, 0, 0, 2, 1)
    with pytest.raises(TypeError, match="silent swap"):
        nn.ConvTranspose2d(2, 2, 3, 1, 0, 0, 2)


CASES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"in_channels": 0}, lucid.ShapeError, "in_channels=0 must be at least 1"),
    ({"out_channels": -4}, lucid.ShapeError, "out_channels=-4 must be at least 1"),
    ({"in_channels": 4.0}, TypeError, "in_channels=4.0 must be an int, not float"),
    ({"in_channels": True}, TypeError, "in_channels=True must be an int, not bool"),
    ({"kernel_size": 0}, lucid.ShapeError, "kernel_size=0 must be at least 1"),
    ({"kernel_size": "3"}, TypeError, "kernel_size='3' must be an int or a tuple"),
    ({"kernel_size": 10**12}, lucid.ShapeError, "kernel_size=1000000000000 must be at least 1 and at most 2147483647"),
    ({"stride": 0}, lucid.ShapeError, "stride=0 must be at least 1"),
    ({"dilation": 0}, lucid.ShapeError, "dilation=0 must be at least 1"),
    ({"padding": -1}, lucid.ShapeError, "padding=-1 must be at least 0"),
    ({"padding": "reflect"}, ValueError, "padding='reflect' must be one of 'same'"),
    ({"padding": 1.5}, TypeError, "padding=1.5 must be an int"),
    ({"padding_mode": "same"}, ValueError, "padding_mode='same' must be one of 'zeros'"),
    ({"groups": 3}, lucid.ShapeError, "in_channels=4 must be a multiple of groups=3"),
    ({"groups": 4}, lucid.ShapeError, "out_channels=6 must be a multiple of groups=4"),
    ({"device": "cuda"}, lucid.DeviceError, "device='cuda' does not exist here; there is 'cpu'"),
    ({"dtype": "int32"}, lucid.DTypeError, "must be floating-point"),
    ({"dtype": "real"}, lucid.DTypeError, "dtype='real'"),
]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("wrong", "error", "text"), CASES)
def test_errors_come_from_the_constructor(
    layer: type[Any], wrong: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text) as caught:
        layer(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **wrong})
    if "device" not in wrong and "dtype" not in wrong:
        assert str(caught.value).startswith(f"{layer.__name__}: ")


def test_errors_of_transposed_layers_come_from_the_constructor_too() -> None:
    with pytest.raises(lucid.ShapeError, match=r"ConvTranspose1d: output_padding=2 must be in 0 … 1"):
        nn.ConvTranspose1d(1, 1, 3, stride=2, output_padding=2)
    with pytest.raises(lucid.ShapeError, match=r"output_padding=\(1,\) must be 0 with padding='same'"):
        nn.ConvTranspose1d(1, 1, 3, stride=2, padding="same", output_padding=1)

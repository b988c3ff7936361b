"""Functions and layers against PyTorch, results and gradients, in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import lucid
from lucid import nn
from lucid.nn import functional as F

T = torch.nn.functional


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def arrays(result: Any) -> list[np.ndarray]:
    results = result if isinstance(result, tuple) else (result,)
    return [r.detach().numpy() for r in results]


def same(ours: Callable[..., Any], theirs: Callable[..., Any], *inputs: np.ndarray, tolerance: float = 1e-11) -> None:
    """Equal results, and equal gradients of a random weighting of the first result in every float input."""
    xs = [lucid.tensor(a, requires_grad=a.dtype.kind == "f") for a in inputs]
    ys = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in inputs]
    mine, other = ours(*xs), theirs(*ys)
    for a, b in zip(arrays(mine), arrays(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        assert a.dtype == b.dtype
    first, second = (r[0] if isinstance(r, tuple) else r for r in (mine, other))
    weight = draw(99, *first.shape)
    first.backward(lucid.tensor(weight))
    second.backward(torch.tensor(weight))
    for x, y in zip(xs, ys, strict=True):
        if x.requires_grad:
            np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=tolerance, atol=tolerance)


ACTIVATIONS = [
    ("relu", {}),
    ("relu6", {}),
    ("leaky_relu", {"negative_slope": 0.2}),
    ("elu", {"alpha": 0.7}),
    ("selu", {}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("silu", {}),
    ("mish", {}),
    ("softplus", {"beta": 2.0, "threshold": 3.0}),
    ("hardtanh", {"min_val": -0.5, "max_val": 0.8}),
    ("hardswish", {}),
    ("hardsigmoid", {}),
    ("softmax", {"dim": 1}),
    ("log_softmax", {"dim": 0}),
    ("softmin", {"dim": 2}),
]


@pytest.mark.parametrize("numbers", [1, 5])
def test_prelu(numbers: int) -> None:
    same(F.prelu, T.prelu, draw(0, 3, 5, 7), draw(1, numbers))
    assert repr(nn.PReLU(numbers)) == repr(torch.nn.PReLU(numbers))


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS)
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_activations(name: str, options: dict[str, Any], scale: float) -> None:
    tolerance = 1e-7 if name == "hardsigmoid" else 1e-11  # PyTorch's 1/6 is a float32
    same(
        lambda x: getattr(F, name)(x, **options), lambda x: getattr(T, name)(x, **options), scale * draw(0, 3, 5, 7),
        tolerance=tolerance,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS)
def test_activations_at_special_values(name: str, options: dict[str, Any]) -> None:
    x = np.array([[[0.0, -0.0, np.inf, -np.inf, np.nan, 3.0, -3.0, 6.0, 1e4, -1e4]]])
    if "softm" in name:
        x = x[:, :, [0, 5, 8, 9]]
    np.testing.assert_allclose(
        getattr(F, name)(lucid.tensor(x), **options).numpy(),
        getattr(T, name)(torch.tensor(x), **options).numpy(),
        atol=1e-12,
    )


CONVS = [
    {},
    {"stride": 2},
    {"padding": 2},
    {"dilation": 2, "padding": 1},
    {"groups": 2},
    {"groups": 2, "stride": 2, "dilation": 2, "padding": 3},
    {"padding": "same"},
    {"padding": "same", "dilation": 3},
    {"padding": "valid"},
]
SIZES = {1: (11,), 2: (9, 8), 3: (6, 7, 5)}
KERNELS = {1: (3,), 2: (3, 2), 3: (2, 3, 1)}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("options", CONVS)
@pytest.mark.parametrize("batch", [(), (3,), (0,)])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_convolutions(rank: int, options: dict[str, Any], batch: tuple[int, ...]) -> None:
    groups = options.get("groups", 1)
    x, w, b = draw(1, *batch, 4, *SIZES[rank]), draw(2, 6, 4 // groups, *KERNELS[rank]), draw(3, 6)
    verb = f"conv{rank}d"
    same(
        lambda x, w, b: getattr(F, verb)(x, w, b, **options),
        lambda x, w, b: getattr(T, verb)(x, w, b, **options),
        x, w, b, tolerance=1e-10,
    )  # fmt: skip


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("options", [
    {},
    {"stride": 2, "output_padding": 1},
    {"stride": 3, "padding": 1, "dilation": 2, "output_padding": 2},
    {"groups": 2, "stride": 2},
    {"dilation": 3, "output_padding": 2},
])  # fmt: skip
@pytest.mark.parametrize("batch", [(), (2,)])
def test_transposed_convolutions(rank: int, options: dict[str, Any], batch: tuple[int, ...]) -> None:
    groups = options.get("groups", 1)
    x, w, b = draw(1, *batch, 4, *SIZES[rank]), draw(2, 4, 6 // groups, *KERNELS[rank]), draw(3, 6)
    verb = f"conv_transpose{rank}d"
    same(
        lambda x, w, b: getattr(F, verb)(x, w, b, **options),
        lambda x, w, b: getattr(T, verb)(x, w, b, **options),
        x, w, b, tolerance=1e-10,
    )  # fmt: skip


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [1, 2, "same"])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_layers_in_every_padding_mode(rank: int, mode: str, padding: Any) -> None:
    options = {"padding": padding, "padding_mode": mode, "dilation": 1 if padding == 1 else 2}
    ours = getattr(nn, f"Conv{rank}d")(2, 3, KERNELS[rank], dtype=lucid.float64, **options)
    theirs = getattr(torch.nn, f"Conv{rank}d")(2, 3, KERNELS[rank], dtype=torch.float64, **options)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    same(ours, theirs, draw(5, 2, 2, *SIZES[rank]), tolerance=1e-10)


POOLS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": 2, "stride": 3, "ceil_mode": True, "padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": 1, "ceil_mode": True},
]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("options", [*POOLS, {"kernel_size": 2, "dilation": 2, "stride": 1, "padding": 1}])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_max_pools(rank: int, options: dict[str, Any], batch: tuple[int, ...]) -> None:
    verb = f"max_pool{rank}d"
    same(
        lambda x: getattr(F, verb)(x, return_indices=True, **options),
        lambda x: getattr(T, verb)(x, return_indices=True, **options),
        draw(6, *batch, 3, *SIZES[rank]),
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("options", POOLS)
@pytest.mark.parametrize("extra", [{}, {"count_include_pad": False}, {"divisor_override": 5}])
def test_avg_pools(rank: int, options: dict[str, Any], extra: dict[str, Any]) -> None:
    if rank == 1 and "divisor_override" in extra:
        extra = {}
    verb = f"avg_pool{rank}d"
    same(
        lambda x: getattr(F, verb)(x, **options, **extra),
        lambda x: getattr(T, verb)(x, **options, **extra),
        draw(7, 2, 3, *SIZES[rank]),
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_adaptive_pools(rank: int, size: int) -> None:
    x = draw(8, 2, 3, *SIZES[rank])
    for kind, options in (("avg", {}), ("max", {"return_indices": True})):
        verb = f"adaptive_{kind}_pool{rank}d"
        ours, theirs = (partial(getattr(m, verb), output_size=size, **options) for m in (F, T))
        same(ours, theirs, x)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 4, 5), (2, 3, 2, 4, 5)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(shape: tuple[int, ...], training: bool, affine: bool) -> None:
    mean, var = draw(1, 3), np.abs(draw(2, 3)) + 0.5
    ours, theirs = (lucid.tensor(mean.copy()), lucid.tensor(var.copy())), (torch.tensor(mean), torch.tensor(var))
    inputs = (draw(3, *shape), draw(4, 3), draw(5, 3)) if affine else (draw(3, *shape),)
    same(
        lambda x, *wb: F.batch_norm(x, *ours, *wb, training=training, momentum=0.3),
        lambda x, *wb: T.batch_norm(x, *theirs, *wb, training=training, momentum=0.3),
        *inputs,
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)


def test_other_norms() -> None:
    x = draw(3, 4, 6, 5, 3)
    same(
        lambda x, w, b: F.layer_norm(x, (5, 3), w, b),
        lambda x, w, b: T.layer_norm(x, (5, 3), w, b),
        x,
        draw(4, 5, 3),
        draw(5, 5, 3),
    )
    same(lambda x: F.layer_norm(x, (3,)), lambda x: T.layer_norm(x, (3,)), x)
    same(lambda x, w, b: F.group_norm(x, 3, w, b), lambda x, w, b: T.group_norm(x, 3, w, b), x, draw(4, 6), draw(5, 6))
    same(
        lambda x, w, b: F.instance_norm(x, weight=w, bias=b), lambda x, w, b: T.instance_norm(x, weight=w, bias=b),
        x, draw(4, 6), draw(5, 6),
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(6, 5), (3, 5, 4), (2, 5, 3, 4), (5,)])
@pytest.mark.parametrize("options", [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"ignore_index": 2},
    {"label_smoothing": 0.2},
    {"label_smoothing": 0.2, "ignore_index": 1, "reduction": "none"},
])  # fmt: skip
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(shape: tuple[int, ...], options: dict[str, Any], weighted: bool) -> None:
    classes = np.random.default_rng(4).integers(0, 5, shape[:1] + shape[2:] if len(shape) > 1 else ())
    if shape == (5,) and "ignore_index" in options:
        classes = np.array(3)
    weight = np.abs(draw(5, 5)) + 0.1 if weighted else None
    same(
        lambda x: F.cross_entropy(
            x, lucid.tensor(classes), None if weight is None else lucid.tensor(weight), **options
        ),
        lambda x: T.cross_entropy(
            x, torch.tensor(classes), None if weight is None else torch.tensor(weight), **options
        ),
        draw(3, *shape),
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_other_losses(reduction: str) -> None:
    x, t = draw(1, 4, 5), draw(2, 4, 5)
    p, q = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(-t))
    for name, options, inputs in (
        ("mse_loss", {}, (x, t)),
        ("l1_loss", {}, (x, t)),
        ("smooth_l1_loss", {"beta": 0.7}, (x, t)),
        ("huber_loss", {"delta": 0.7}, (x, t)),
        ("binary_cross_entropy", {}, (p, q)),
        ("binary_cross_entropy_with_logits", {}, (x, q)),
        ("cross_entropy", {"label_smoothing": 0.1}, (x, q)),
    ):
        same(
            lambda x, t, name=name, options=options: getattr(F, name)(x, t, reduction=reduction, **options),
            lambda x, t, name=name, options=options: getattr(T, name)(x, t, reduction=reduction, **options),
            *inputs,
        )
    pos = np.abs(draw(3, 5))
    same(
        lambda x: F.binary_cross_entropy_with_logits(
            x, lucid.tensor(q), pos_weight=lucid.tensor(pos), reduction=reduction
        ),
        lambda x: T.binary_cross_entropy_with_logits(
            x, torch.tensor(q), pos_weight=torch.tensor(pos), reduction=reduction
        ),
        x,
    )


@pytest.mark.parametrize(("pad", "mode"), [
    ((1, 2), "constant"), ((1, 2, 3, 4), "constant"), ((-1, 2, 1, -2), "constant"),
    ((1, 2), "reflect"), ((2, 1, 1, 3), "reflect"), ((1, 2, 3, 4), "replicate"), ((2, 4, 1, 5), "circular"),
])  # fmt: skip
def test_pad(pad: tuple[int, ...], mode: str) -> None:
    x = draw(1, 2, 3, 6, 5) if len(pad) == 4 else draw(1, 2, 3, 5)
    same(lambda x: F.pad(x, pad, mode), lambda x: T.pad(x, pad, mode), x)
    if mode == "constant":
        same(lambda x: F.pad(x, pad, mode, 2.5), lambda x: T.pad(x, pad, mode, 2.5), x)


def test_resampling() -> None:
    x = draw(1, 2, 8, 4, 6)
    for options in ({"scale_factor": 2}, {"size": (7, 5)}, {"scale_factor": (1.5, 0.7)}, {"scale_factor": 2.3}):
        same(lambda x, o=options: F.interpolate(x, **o), lambda x, o=options: T.interpolate(x, **o), x)
    same(lambda x: F.pixel_shuffle(x, 2), lambda x: T.pixel_shuffle(x, 2), x)
    same(lambda x: F.pixel_unshuffle(x, 2), lambda x: T.pixel_unshuffle(x, 2), x)
    options = {"kernel_size": (2, 3), "dilation": (1, 2), "padding": 1, "stride": 2}
    same(lambda x: F.unfold(x, **options), lambda x: T.unfold(x, **options), x)


@pytest.mark.parametrize(("mode", "shape"), [("linear", (7,)), ("bilinear", (5, 8)), ("trilinear", (3, 4, 5))])
@pytest.mark.parametrize("align_corners", [None, False, True])
@pytest.mark.parametrize("asked", [{"scale_factor": f} for f in (2, 1.7, 0.5)] + [{"size": n} for n in (9, 3, 1)])
def test_interpolation_in_straight_lines(
    mode: str, shape: tuple[int, ...], align_corners: bool | None, asked: dict[str, Any]
) -> None:
    options = {"mode": mode, "align_corners": align_corners, **asked}
    same(lambda x: F.interpolate(x, **options), lambda x: T.interpolate(x, **options), draw(0, 2, 3, *shape))


@pytest.mark.parametrize("align_corners", [None, False, True])
@pytest.mark.parametrize("asked", [
    {"scale_factor": 2}, {"scale_factor": (1.7, 0.6)}, {"scale_factor": 1.7, "recompute_scale_factor": True},
    {"size": (9, 3)}, {"size": 1}, {"size": (40, 50)},
])  # fmt: skip
def test_interpolation_by_cubics(align_corners: bool | None, asked: dict[str, Any]) -> None:
    options = {"mode": "bicubic", "align_corners": align_corners, **asked}
    same(lambda x: F.interpolate(x, **options), lambda x: T.interpolate(x, **options), draw(0, 2, 3, 5, 8))


@pytest.mark.parametrize("mode", ["area", "nearest-exact"])
@pytest.mark.parametrize("asked", [{"scale_factor": 2}, {"scale_factor": 0.6}, {"size": (7, 5)}])
def test_interpolation_by_means_and_middles(mode: str, asked: dict[str, Any]) -> None:
    same(lambda x: F.interpolate(x, mode=mode, **asked), lambda x: T.interpolate(x, mode=mode, **asked),
         draw(1, 2, 3, 8, 9))  # fmt: skip


def test_one_hot() -> None:
    classes = np.array([[3, 0], [1, 1]])
    for count in (-1, 4, 6):
        ours, theirs = F.one_hot(lucid.tensor(classes), count), T.one_hot(torch.tensor(classes), count)
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
        assert ours.numpy().dtype == theirs.numpy().dtype


@pytest.mark.parametrize("make", [
    lambda m: m.Conv1d(4, 8, 3, stride=2, padding=1, bias=False),
    lambda m: m.Conv2d(4, 8, (3, 5), padding="same", padding_mode="reflect", groups=2, dilation=2),
    lambda m: m.Conv3d(2, 2, 3),
    lambda m: m.ConvTranspose2d(4, 8, 3, stride=2, padding=1, output_padding=1, groups=4),
    lambda m: m.Linear(3, 4, bias=False),
    lambda m: m.BatchNorm2d(3, affine=False),
    lambda m: m.MaxPool2d(2),
    lambda m: m.AvgPool1d(3, stride=2),
    lambda m: m.AdaptiveAvgPool2d((1, None)),
    lambda m: m.Sequential(m.ReLU(inplace=True), m.LeakyReLU(0.1), m.Dropout(0.3), m.Flatten()),
    lambda m: m.ModuleDict({"a": m.GELU(), "b": m.ModuleList([m.Sigmoid(), m.Softmax(dim=1)])}),
    lambda m: m.Sequential(m.LayerNorm((3, 4)), m.GroupNorm(2, 4), m.InstanceNorm1d(3), m.PixelShuffle(2)),
    lambda m: m.Sequential(m.ELU(), m.Hardtanh(), m.Softplus(), m.CrossEntropyLoss(), m.Identity(), m.Tanh()),
])  # fmt: skip
def test_repr(make: Callable[[Any], Any]) -> None:
    assert repr(make(nn)) == repr(make(torch.nn))


def test_state_dicts_have_the_same_keys_and_shapes() -> None:
    def build(m: Any) -> Any:
        return m.Sequential(
            m.Conv2d(3, 8, 3), m.BatchNorm2d(8), m.ConvTranspose2d(8, 4, 2, groups=2), m.Flatten(), m.Linear(4, 2),
            m.LayerNorm(2), m.ModuleList([m.GroupNorm(2, 4)]),
        )  # fmt: skip

    ours, theirs = build(nn).state_dict(), build(torch.nn).state_dict()
    assert [(k, tuple(v.shape)) for k, v in ours.items()] == [(k, tuple(v.shape)) for k, v in theirs.items()]


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_initial_values_have_the_same_bound(name: str) -> None:
    ours = getattr(nn, name)(8, 8192, 1, groups=2)
    theirs = getattr(torch.nn, name)(8, 8192, 1, groups=2)
    for part in ("weight", "bias"):  # 8,192 values or more: all of them below 99.5 % of the bound once in 10^17 runs
        a, b = (np.abs(getattr(m, part).detach().numpy()) for m in (ours, theirs))
        assert a.max() == pytest.approx(b.max(), rel=0.005)


def test_initialisers_have_the_same_spread() -> None:
    lucid.manual_seed(0)
    torch.manual_seed(0)
    for name, args in (
        ("xavier_uniform_", ()), ("xavier_normal_", (2.0,)), ("kaiming_uniform_", ()), ("kaiming_normal_", ()),
        ("trunc_normal_", ()), ("orthogonal_", ()), ("dirac_", ()), ("normal_", ()), ("uniform_", ()),
    ):  # fmt: skip
        ours, theirs = lucid.zeros(40, 50, 7), torch.zeros(40, 50, 7)
        getattr(nn.init, name)(ours, *args)
        getattr(torch.nn.init, name)(theirs, *args)
        a, b = ours.numpy(), theirs.numpy()
        assert a.std() == pytest.approx(b.std(), rel=0.03), name
        assert a.mean() == pytest.approx(b.mean(), abs=0.06), name


def test_float16_and_bfloat16_round_as_pytorch() -> None:
    x = draw(1, 4, 6).astype(np.float32)
    for name in ("float16", "bfloat16"):
        ours = lucid.tensor(x).to(name)
        theirs = torch.tensor(x).to(getattr(torch, name))
        for verb in ("gelu", "silu", "softmax", "log_softmax", "elu"):
            a = getattr(F, verb)(ours).to("float32").numpy()
            b = getattr(T, verb)(theirs, **({"dim": -1} if "softmax" in verb else {})).float().numpy()
            np.testing.assert_allclose(a, b, rtol=2.0**-7)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("kind", ["Conv1d", "ConvTranspose1d"])
@pytest.mark.parametrize("dim", [0, 1, -1, None])
def test_weight_norm(kind: str, dim: int | None) -> None:
    ours = nn.utils.weight_norm(getattr(nn, kind)(4, 6, 3, dtype="float64"), dim=dim)
    theirs = torch.nn.utils.weight_norm(getattr(torch.nn, kind)(4, 6, 3, dtype=torch.float64), dim=dim)
    state = theirs.state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == {k: v.shape for k, v in ours.state_dict().items()}
    ours.load_state_dict({name: value.numpy() for name, value in state.items()})
    same(ours, theirs, draw(0, 2, 4, 9))
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(ours.get_parameter(name).grad.numpy(), parameter.grad.numpy(), rtol=1e-10)


@pytest.mark.parametrize("kind", ["Conv1d", "ConvTranspose1d"])
@pytest.mark.parametrize("options", [{"dim": 0}, {"dim": 1}, {"dim": -1}, {"dim": None}, {"n_power_iterations": 2}, {}])
def test_parametrizations(kind: str, options: dict[str, Any]) -> None:
    name = "weight_norm" if "dim" in options else "spectral_norm"
    ours, theirs = (
        getattr(m.nn.utils.parametrizations, name)(getattr(m.nn, kind)(4, 6, 3, dtype=m.float64), **options)
        for m in (lucid, torch)
    )
    carried(ours, theirs)
    for training in (True, False):
        for layer in (ours, theirs):
            layer.train(training).zero_grad()
        same(ours, theirs, draw(0, 2, 4, 9))
        for path, parameter in theirs.named_parameters():
            np.testing.assert_allclose(ours.get_parameter(path).grad.numpy(), parameter.grad.numpy(), rtol=1e-10)
        for path, value in theirs.state_dict().items():  # the singular vectors after the step that training takes
            np.testing.assert_allclose(ours.state_dict()[path].numpy(), value.numpy(), rtol=1e-10)
    theirs.load_state_dict({path: torch.tensor(value.numpy()) for path, value in ours.state_dict().items()})
    for m, layer in ((lucid, ours), (torch, theirs)):
        m.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    np.testing.assert_allclose(ours.weight.detach().numpy(), theirs.weight.detach().numpy(), rtol=1e-10)


def carried(ours: Any, theirs: Any) -> None:
    """The state of PyTorch's module in ours, which has it under the same names in the same order."""
    state = theirs.state_dict()
    assert [(k, tuple(v.shape)) for k, v in state.items()] == [(k, v.shape) for k, v in ours.state_dict().items()]
    ours.load_state_dict({name: value.numpy() for name, value in state.items()})


@pytest.mark.parametrize("leave", [True, False])
def test_register_parametrization(leave: bool) -> None:
    def made(m: Any) -> Any:
        class Affine(m.nn.Module):  # type: ignore[misc]
            def __init__(self, factor: float) -> None:
                super().__init__()
                self.gain = m.nn.Parameter(m.tensor([factor], dtype=m.float64))

            def forward(self, x: Any) -> Any:
                return x * self.gain + 1

            def right_inverse(self, x: Any) -> Any:
                return (x - 1) / self.gain

        layer = m.nn.BatchNorm1d(4, dtype=m.float64)
        for name, factor in (("weight", 2.0), ("running_mean", 3.0), ("weight", 0.5)):
            affine = Affine(factor).requires_grad_(name == "weight")
            m.nn.utils.parametrize.register_parametrization(layer, name, affine)
        return layer

    ours, theirs = made(lucid), made(torch)
    carried(ours, theirs)
    x = draw(0, 5, 4)
    for m, layer in ((lucid, ours), (torch, theirs)):
        layer.eval().weight = m.tensor(x[0])
    same(ours, theirs, x)
    for path, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            np.testing.assert_allclose(ours.get_parameter(path).grad.numpy(), parameter.grad.numpy(), rtol=1e-10)
    for m, layer in ((lucid, ours), (torch, theirs)):
        m.nn.utils.parametrize.remove_parametrizations(layer, "weight", leave_parametrized=leave)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for path, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[path].numpy(), value.numpy(), rtol=1e-10)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_a_checkpoint_of_the_weight_norm_of_old_loads_into_the_new() -> None:
    old = torch.nn.Sequential(torch.nn.utils.weight_norm(torch.nn.Conv1d(4, 6, 3, dtype=torch.float64)))
    ours, theirs = (
        m.nn.Sequential(m.nn.utils.parametrizations.weight_norm(m.nn.Conv1d(4, 6, 3, dtype=m.float64)))
        for m in (lucid, torch)
    )
    ours.load_state_dict({name: value.numpy() for name, value in old.state_dict().items()})
    theirs.load_state_dict(old.state_dict())
    same(ours, theirs, draw(0, 2, 4, 9))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", ["Constant", "Zero", "Reflection", "Replication", "Circular"])
@pytest.mark.parametrize("uneven", [False, True])
def test_pads(rank: int, kind: str, uneven: bool) -> None:
    padding = tuple(range(1, 2 * rank + 1)) if uneven else 2
    more = (1.5,) if kind == "Constant" else ()
    ours, theirs = (getattr(m, f"{kind}Pad{rank}d")(padding, *more) for m in (nn, torch.nn))
    assert repr(ours) == repr(theirs)
    same(ours, theirs, draw(0, 2, 3, *(7, 8, 9)[:rank]))


def test_autocast() -> None:
    """Types, values and gradients of a small network in bfloat16, its weights from PyTorch."""

    def made(m: Any) -> Any:
        return m.Sequential(
            m.Conv2d(3, 8, 3, padding=1), m.ReLU(), m.Conv2d(8, 8, 3, stride=2, groups=2), m.GELU(),
            m.ConvTranspose2d(8, 4, 2, 2), m.Flatten(), m.Linear(4 * 6 * 6, 5),
        )  # fmt: skip

    theirs, ours = made(torch.nn), made(lucid.nn)
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    x, classes = draw(0, 4, 3, 8, 8).astype(np.float32), np.array([0, 4, 2, 2])
    with lucid.autocast("cpu", dtype=lucid.bfloat16):
        y = ours(lucid.tensor(x))
        loss = F.cross_entropy(y, lucid.tensor(classes))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        want = theirs(torch.tensor(x))
        want_loss = T.cross_entropy(want, torch.tensor(classes))
    assert (y.dtype, loss.dtype) == (lucid.bfloat16, lucid.float32)
    assert (want.dtype, want_loss.dtype) == (torch.bfloat16, torch.float32)
    np.testing.assert_allclose(y.detach().float().numpy(), want.detach().float().numpy(), rtol=2**-7, atol=2**-7)
    assert abs(loss.item() - want_loss.item()) < 2**-7
    loss.backward()
    want_loss.backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert p.grad.dtype is lucid.float32 and q.grad.dtype is torch.float32
        size = float(q.grad.abs().max())
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=2**-5, atol=2**-6 * size)


def spied(m: Any, tensor: Any, case: str) -> list[Any]:
    """What hooks on the gradients of a network's layers see and give back, and the gradients in the end."""
    seen: list[Any] = []

    def told(g: Any) -> Any:
        return None if g is None else g.tolist()

    def hook(name: str, change: Callable[[Any], Any] | None = None) -> Callable[..., Any]:
        def called(module: Any, *sides: Any) -> Any:
            seen.append((name, [list(map(told, side)) for side in sides]))
            return None if change is None else tuple(None if g is None else change(g) for g in sides[0])

        return called

    class Branch(m.Module):
        def forward(self, x: Any, y: Any, times: float) -> Any:
            return x * times, "text", (x * x).sum() * y

    net = m.Sequential(m.Linear(3, 3), m.Tanh(), m.Linear(3, 2)).double()
    with (torch if m is torch.nn else lucid).no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(tensor(draw(i, *p.shape)))
    branch = Branch()
    handles = [
        net[0].register_full_backward_hook(hook("first")),
        net[1].register_full_backward_hook(hook("tanh", lambda g: g * 2)),
        net[1].register_full_backward_hook(hook("tanh before"), prepend=True),
        net[2].register_full_backward_pre_hook(hook("last", lambda g: g + 1)),
        net.register_full_backward_hook(hook("all")),
        branch.register_full_backward_hook(hook("branch")),
        branch.register_full_backward_pre_hook(hook("to branch")),
    ]
    x, y = tensor(draw(7, 4, 3)), tensor(draw(8, 2))
    x.requires_grad_("x" in case)
    y.requires_grad_("y" in case)
    results = branch(net(x), y, 3.0)
    if "removed" in case:
        handles[1].remove()
    used = results[::2] if "both" in case else results[2:] if "second" in case else results[:1]
    sum((r * r).sum() for r in used).backward()
    return [*seen, *map(told, [x.grad, y.grad, *[p.grad for p in net.parameters()]])]


def flat(tree: Any) -> list[Any]:
    return [leaf for one in tree for leaf in flat(one)] if isinstance(tree, list | tuple) else [tree]


@pytest.mark.parametrize("case", ["x", "", "x y both", "y second", "x both removed", "x second"])
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_backward_hooks(case: str) -> None:
    ours, theirs = flat(spied(nn, lucid.tensor, case)), flat(spied(torch.nn, torch.tensor, case))
    assert len(ours) == len(theirs) > 50
    for a, b in zip(ours, theirs, strict=True):
        assert a == (pytest.approx(b, rel=1e-11, abs=1e-11) if isinstance(b, float) else b)

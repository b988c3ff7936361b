"""Exported models in ONNX's own reference evaluator give Lucid's results; what cannot be exported is refused.

``tests/parity/test_onnx_runtime.py`` runs the same models in ONNX Runtime.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import lucid
import lucid.nn as nn
import lucid.nn.functional as F
from lucid import Tensor
from lucid.core.errors import DTypeError, ExportError, ShapeError
from lucid.onnx import export, files, is_in_onnx_export
from tests.onnx.cases import CASES, with_statistics
from tests.onnx.roundtrip import check_roundtrip

#: What the evaluator of onnx 1.23 itself cannot compute; ONNX Runtime does.
_BEYOND_REFERENCE = ("AdaptiveMaxPool3d",)


def _is_beyond_reference(name: str) -> bool:
    grouped = name.startswith("ConvTranspose") and ("groups" in name or "BatchNorm" in name)
    return grouped or name in _BEYOND_REFERENCE


def evaluated(path: Path, feeds: dict[str, Any]) -> list[Any]:
    """What ONNX's evaluator makes of a file."""
    return list(ReferenceEvaluator(str(path)).run(None, feeds))


@pytest.mark.parametrize("name", [name for name in CASES if not _is_beyond_reference(name)])
def test_round_trip(name: str, tmp_path: Path) -> None:
    check_roundtrip(CASES[name], tmp_path / "model.onnx", evaluated)


@pytest.mark.parametrize("opset", [18, 19, 20, 21, 22, 23])
def test_every_opset(opset: int, tmp_path: Path) -> None:
    for name in ("U-Net", "reductions", "GroupNorm", "pad circular", "Dropout", "MaxPool2d ceil_mode=True"):
        check_roundtrip(CASES[name], tmp_path / "model.onnx", evaluated, opset_version=opset)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def shapes(values: Any) -> list[list[Any]]:
    return [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values]


def test_names_lengths_and_origin(tmp_path: Path) -> None:
    net = with_statistics(nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(40, 3)))
    path = tmp_path / "net.onnx"
    given = {"signal": {0: "batch"}, "scores": {0: "n"}}
    made = export(net, lucid.zeros(2, 2, 10), path, input_names=["signal"], output_names=["scores"], dynamic_axes=given)
    assert onnx.load(path) == made
    assert [v.name for v in (*made.graph.input, *made.graph.output)] == ["signal", "scores"]
    assert shapes([*made.graph.input, *made.graph.output]) == [["batch", 2, 10], ["n", 3]]
    assert {t.name for t in made.graph.initializer} >= set(net.state_dict())
    assert [node.name for node in made.graph.node] == ["0/Conv", "1/Tanh", "2/Reshape", "3/Gemm"]
    assert (made.producer_name, made.opset_import[0].version) == ("lucid", 18)


def test_arguments_are_named_after_parameters(tmp_path: Path) -> None:
    def forward(x: Tensor, pair: Any, *, gain: Tensor) -> dict[str, Any]:
        return {"sum": x + pair[0] * pair[1], "scaled": x * gain}

    x = lucid.ones(2, 3)
    made = export(forward, (x, [x, x]), tmp_path / "f.onnx", kwargs={"gain": x})
    assert [v.name for v in made.graph.input] == ["x", "pair_0", "pair_1", "gain"]
    assert [v.name for v in made.graph.output] == ["output_0", "output_1"]


def test_lengths_of_one_name_are_one(tmp_path: Path) -> None:
    names = ({0: "batch", 1: "time"}, {0: "batch", 1: "time"})
    made = export(lambda a, b: lucid.cat([a, b], 1), (lucid.zeros(2, 3), lucid.zeros(2, 3)), tmp_path / "f.onnx",
                  dynamic_shapes=names)  # fmt: skip
    assert shapes(made.graph.output) == [["batch", "output_axis1"]]
    with pytest.raises(ShapeError, match=r"lengths \[2, 3\] share the name 'n'"):
        export(lambda a: a * 2, lucid.zeros(2, 3), tmp_path / "f.onnx", dynamic_axes={"a": {0: "n", 1: "n"}})


def test_pads_are_always_explicit(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.ConvTranspose2d(2, 1, 3, 2, 1, 1), nn.MaxPool2d(2))
    made = export(net, lucid.zeros(1, 1, 8, 8), tmp_path / "net.onnx")
    for node in made.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert "auto_pad" not in attributes and len(attributes["pads"]) == 4


def test_batch_norm_is_folded_only_where_nobody_else_reads(tmp_path: Path) -> None:
    conv, norm = nn.Conv1d(1, 2, 3), with_statistics(nn.BatchNorm1d(2))
    norm.eval()
    x = lucid.zeros(1, 1, 8)
    assert kinds(export(lambda x: norm(conv(x)), x, tmp_path / "a.onnx")) == ["Conv"]

    def both(x: Tensor) -> Any:
        y = conv(x)
        return norm(y), y

    assert kinds(export(both, x, tmp_path / "b.onnx")) == ["Conv", "Mul", "Add"]


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.Dropout())
    net[1].eval()
    before = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    export(net, lucid.ones(1, 1, 8), tmp_path / "a.onnx")
    assert [m.training for m in net.modules()] == [True, True, False, True]
    assert not any(m.is_watched for m in net.modules())
    assert all((before[name] == value.numpy()).all() for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_backward_hooks_leave_nothing_in_the_file(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU())
    for layer in net.modules():
        layer.register_full_backward_hook(lambda m, g, up: None)
    assert kinds(export(net, lucid.ones(1, 1, 8), tmp_path / "a.onnx")) == ["Conv", "Relu"]


def test_inside_no_grad_and_inference_mode(tmp_path: Path) -> None:
    for mode in (lucid.no_grad(), lucid.inference_mode()):
        with mode:
            made = export(nn.Conv1d(1, 2, 3), lucid.zeros(1, 1, 8), tmp_path / "a.onnx")
        assert kinds(made) == ["Conv"]


class _Inner(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Net(nn.Module):
    """A function two modules down."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Identity(), _Inner(function))])

    def forward(self, x: Tensor) -> Any:
        return self.blocks[0](x)


def _branch(x: Tensor) -> Tensor:
    return x.exp() if x.sum() > 0 else x.log()


def _silent(x: Tensor) -> Tensor:
    with lucid.no_grad():
        return F.conv1d(x.reshape(1, 1, -1), lucid.ones(1, 1, 3))


def _overwritten(x: Tensor) -> Tensor:
    y = x * 2
    with lucid.no_grad():
        y.add_(1)
    return y * 3


def _at_the_largest(x: Tensor) -> Tensor:
    y = x * 2
    y[:, int(x[0].argmax()._array)].copy_(x[:, 0])
    return y


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda x: x.cumprod(1), "the operation cumprod has no ONNX form"),
        (lambda x: x * x.detach().numpy().max().item(), r"numpy\(\) takes a value"),
        (lambda x: x * x.mean().item(), r"item\(\) takes a value"),
        (lambda x: x * float(x.tolist()[0][0] > 0), r"tolist\(\) takes a value"),
        (lambda x: x * float((x * 2).sum()), r"item\(\) takes a value"),
        (lambda x: x * np.from_dlpack(x.detach()).max(), r"__dlpack__\(\) takes a value"),
        (lambda x: x * x._array.max(), "an operand of mul is no constant"),
        (lambda x: x + lucid.randn(3, 10), "an operand of add is no constant"),
        (lambda x: Tensor(x._array * 2), "a result does not come from the inputs"),
        (_branch, r"bool\(\) takes a value"),
        (lambda x: x.exp() if x._array.sum() > 29.9 else x.log(), "another way"),
        (_silent, "a result does not come from the inputs"),
        (_overwritten, "written in place where no gradient is recorded"),
        (_at_the_largest, "the place of copy_slices depends"),
        (lambda x: x[:, int(x[0].argmax()._array)], "an index of getitem depends"),
        (lambda x: x.roll(int(x[0].argmax()._array), 1), "the shift of roll depends"),
        (lambda x: x.round(decimals=int(x[0].argmax()._array)), "a parameter of round depends"),
        (lambda x: x[x > 0], "no ONNX form"),
        (lambda x: x.to(lucid.bfloat16) * 2, "gives bfloat16"),
        (lambda x: x.to(lucid.complex64).real, "gives complex64"),
        (lambda x: (x > 0) + (x > 1), "booleans has no ONNX form"),
    ],
)
def test_what_is_refused_says_where(function: Any, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(ExportError, match=complaint) as caught:
        export(Net(function), Tensor(np.linspace(0.5, 1.5, 30, dtype=np.float32).reshape(3, 10)), path)
    if "a result" not in complaint:
        assert "(in Net: blocks.0.1)" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_is_beside_the_result_may_look_at_values(tmp_path: Path) -> None:
    seen = []

    def look(x: Tensor) -> Tensor:
        if not is_in_onnx_export():
            seen.append(x.mean().item())
        return x * 2

    net, x = Net(look), lucid.ones(3, 10)
    net(x)
    export(net, x, tmp_path / "net.onnx")
    assert seen == [1.0] and not is_in_onnx_export() and f"{x.sum():.1f}" == "30.0"


@pytest.mark.parametrize(
    ("net", "complaint"),
    [
        (lambda: nn.Upsample(size=30, mode="linear"), "the length of weighted depends on an axis"),
        (lambda: Net(lambda x: x * lucid.arange(x.shape[2])), "an operand of mul is made for one length"),
        (lambda: nn.AdaptiveAvgPool1d(2), "the window of avg_pool depends on an axis that is to be dynamic"),
        (lambda: nn.Conv1d(1, 2, 3, stride=2, padding="same"), "the padding of conv depends on an axis"),
        (lambda: Net(lambda x: x.reshape(-1, 1, 8) * lucid.ones(3, 1, 1)), "do not broadcast"),
        (lambda: Net(lambda x: x[..., : x.shape[-1] // 2]), "an index of getitem depends on an axis"),
        (lambda: Net(lambda x: [x] * x.shape[2]), "a result does not come"),
    ],
)
def test_what_hangs_on_a_dynamic_length_is_refused(net: Any, complaint: str, tmp_path: Path) -> None:
    with pytest.raises((ExportError, ShapeError), match=complaint) as caught:
        export(
            net(), lucid.ones(1, 1, 23 if "padding" in complaint else 24), tmp_path / "a.onnx",
            dynamic_shapes=({2: "time"},),
        )  # fmt: skip
    assert not list(tmp_path.iterdir())
    if caught.type is ShapeError:
        assert "ran the model once more, on (1, 1, 48)" in caught.value.__notes__[-1]


def test_bad_arguments(tmp_path: Path) -> None:
    net, x, path = nn.Conv1d(1, 2, 3), lucid.zeros(1, 1, 8), tmp_path / "a.onnx"
    with pytest.raises(DTypeError, match=r"an input is bfloat16.*model\.float\(\)"):
        export(net.bfloat16(), x.bfloat16(), path)
    with pytest.raises(DTypeError, match="an input is complex64"):
        export(net, x.to(lucid.complex64), path)
    net.float()
    with pytest.raises(ValueError, match="opset_version=17 must be an int from 18 to"):
        export(net, x, path, opset_version=17)
    with pytest.raises(ValueError, match="one of dynamic_axes and dynamic_shapes"):
        export(net, x, path, dynamic_axes={}, dynamic_shapes=())
    with pytest.raises(ShapeError, match="names axis 3 of 'input', which has 3 axes"):
        export(net, x, path, dynamic_axes={"input": {3: "n"}})
    with pytest.raises(TypeError, match="axes as ints"):
        export(net, x, path, dynamic_axes={"input": {"0": "n"}})
    with pytest.raises(ValueError, match=r"dynamic_axes names \['inputs'\]"):
        export(net, x, path, dynamic_axes={"inputs": {0: "n"}})
    with pytest.raises(ValueError, match="must be at most 1 texts"):
        export(net, x, path, input_names=["a", "b"])
    with pytest.raises(TypeError, match="args must hold a tensor"):
        export(net, (), path)
    with pytest.raises(ShapeError, match="the example must have elements"):
        export(net, lucid.zeros(0, 1, 8), path)
    with pytest.raises(ShapeError, match="takes 1"):
        export(net, lucid.zeros(1, 3, 8), path)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'")
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'lucid-conv\[onnx\]'"):
        export(nn.Conv1d(1, 2, 3), lucid.zeros(1, 1, 8), tmp_path / "a.onnx")


def test_large_weights_lie_beside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Conv1d(8, 64, 3), nn.Conv1d(64, 4, 3)), lucid.randn(1, 8, 20)
    monkeypatch.setattr(files, "BESIDE_FROM_BYTES", 5_000)
    path = tmp_path / "net.onnx"
    export(net, x, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    assert path.stat().st_size < 4000
    (y,) = evaluated(path, {"input": x.numpy()})
    assert np.abs(y - net(x).detach().numpy()).max() < 1e-5


def test_an_old_file_stays_where_the_new_one_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise onnx.checker.ValidationError("planted")

    monkeypatch.setattr(onnx.checker, "check_model", fail)
    with pytest.raises(ExportError, match="not valid ONNX: planted"):
        export(nn.Conv1d(1, 2, 3), lucid.zeros(1, 1, 8), path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_the_same_file_twice(tmp_path: Path) -> None:
    net, x = with_statistics(nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.GELU())), lucid.randn(1, 1, 8)
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path in paths:
        export(net, x, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_pytorchs_options_are_taken(tmp_path):
    net, x = nn.Conv1d(1, 2, 3), lucid.zeros(1, 1, 9)
    lucid.onnx.export(net, x, tmp_path / "net.onnx", export_params=True, do_constant_folding=True, verbose=False)
    with pytest.raises(ValueError, match="export_params=False is not there"):
        lucid.onnx.export(net, x, tmp_path / "net.onnx", export_params=False)

"""``Module``: attributes, walks, state, hooks, copies."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest

import lucid
from lucid import nn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3)
        self.scale = nn.Parameter(lucid.ones(2, 1))
        self.register_buffer("seen", lucid.tensor(0))
        self.register_buffer("scratch", lucid.zeros(1), persistent=False)
        self.register_parameter("missing", None)
        self.note = "text"

    def forward(self, x: lucid.Tensor, twice: bool = False) -> lucid.Tensor:
        y = self.conv(x) * self.scale
        return y * 2 if twice else y


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Block()
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(4, 1))


NAMES = ["first.scale", "first.conv.weight", "first.conv.bias", "rest.1.weight", "rest.1.bias"]


def test_walks() -> None:
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [name for name, _ in net.named_parameters(recurse=False)] == []
    assert next(name for name, _ in net.named_parameters("net")) == "net.first.scale"
    assert [name for name, _ in net.named_buffers()] == ["first.seen", "first.scratch"]
    assert [name for name, _ in net.named_modules()] == ["", "first", "first.conv", "rest", "rest.0", "rest.1"]
    assert [name for name, _ in net.named_children()] == ["first", "rest"]
    assert len(list(net.parameters())) == 5 and len(list(net.modules())) == 6 and len(list(net.buffers())) == 2
    assert net.get_submodule("rest.1") is net.rest[1] and net.get_submodule("") is net
    assert net.get_parameter("first.conv.weight") is net.first.conv.weight
    for call, text in (
        (net.get_submodule, "no module 'rest.7': nothing at '7'"),
        (net.get_parameter, "no parameter 'rest.7'"),
    ):
        with pytest.raises(AttributeError, match=text if call == net.get_submodule else "no"):
            call("rest.7")


def test_shared_parameters_and_modules_count_once() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    assert len(list(net.parameters())) == 3
    assert len(list(net.named_parameters(remove_duplicate=False))) == 4
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    twice = nn.Sequential(net, net)
    assert len(list(twice.modules())) == 4 and len(list(twice.named_modules(remove_duplicate=False))) == 7
    both = copy.deepcopy(net)
    assert both[1].weight is both[0].weight and both[0].weight is not net[0].weight


def test_attributes_keep_their_kind() -> None:
    block = Block()
    block.conv.weight = nn.Parameter(lucid.zeros(2, 1, 3))
    block.seen = lucid.tensor(5)
    block.conv.bias = None
    assert [name for name, _ in block.conv.named_parameters()] == ["weight"] and block.state_dict()["seen"].item() == 5
    for name, value, text in (
        ("scale", lucid.ones(2), "scale is a parameter, so it must be an nn.Parameter or None, not Tensor"),
        ("scale", 3, "not int"),
        ("seen", 3, "seen is a buffer, so it must be a Tensor or None, not int"),
        ("conv", lucid.ones(1), "conv is a module, so it must be an nn.Module or None, not Tensor"),
    ):
        with pytest.raises(TypeError, match=f"Block: .*{text}"):
            setattr(block, name, value)
    block.conv = None
    assert [name for name, _ in block.named_modules()] == [""]
    del block.scale
    assert list(block.parameters()) == [] and not hasattr(block, "scale")
    with pytest.raises(AttributeError, match="'Block' object has no attribute 'scale'"):
        block.scale  # noqa: B018
    block.note = nn.Parameter(lucid.ones(1))
    assert [name for name, _ in block.named_parameters()] == ["note"]
    block.seen = nn.Linear(1, 1)
    assert [name for name, _ in block.named_children()] == ["seen"]


def test_init_must_come_first() -> None:
    class Early(nn.Module):
        def __init__(self, value: Any) -> None:
            self.part = value
            super().__init__()

    for value, kind in ((nn.Parameter(lucid.ones(1)), "parameter"), (nn.ReLU(), "module")):
        with pytest.raises(
            AttributeError, match=rf"Early: call super\(\).__init__\(\) before assigning the {kind} 'part'"
        ):
            Early(value)
    assert Early(3).part == 3

    class Never(nn.Module):
        def __init__(self) -> None:
            """Forgets ``super().__init__()``."""

    with pytest.raises(AttributeError, match=r"Never: call super\(\).__init__\(\)"):
        Never()(1)
    with pytest.raises(AttributeError, match=r"Never: call super\(\).__init__\(\)"):
        Never().register_buffer("x", None)


def test_names_and_kinds_of_registrations_are_checked() -> None:
    block = Block()
    for call, error, text in (
        (lambda: block.register_parameter("a.b", None), KeyError, "must be a text without dots"),
        (lambda: block.register_buffer("", None), KeyError, "not empty"),
        (lambda: block.add_module("forward", nn.ReLU()), KeyError, "already an attribute"),
        (
            lambda: block.register_parameter("p", lucid.ones(1)),
            TypeError,
            "must be an nn.Parameter or None, not Tensor",
        ),
        (lambda: block.register_buffer("p", 1), TypeError, "must be a Tensor or None, not int"),
        (lambda: block.add_module("p", 1), TypeError, "must be an nn.Module or None, not int"),
    ):
        with pytest.raises(error, match=text):
            call()


def test_state_dicts_share_memory_and_leave_out_what_does_not_persist() -> None:
    block = Block()
    state = block.state_dict()
    assert list(state) == ["scale", "seen", "conv.weight", "conv.bias"]
    assert not any(tensor.requires_grad for tensor in state.values())
    state["scale"] += 1
    assert block.scale.tolist() == [[2], [2]]
    assert block.state_dict(keep_vars=True)["scale"] is block.scale
    assert next(iter(block.state_dict(prefix="b."))) == "b.scale"


def test_loading_casts_and_copies() -> None:
    block = Block()
    state = {name: np.full(t.shape, 2.0) for name, t in block.state_dict().items()}
    pointers = [p.data_ptr() for p in block.parameters()]
    result = block.load_state_dict(state)
    assert result.missing_keys == [] and result.unexpected_keys == []
    assert all((t.numpy() == 2).all() and t.dtype in (lucid.float32, lucid.int64) for t in block.state_dict().values())
    assert [p.data_ptr() for p in block.parameters()] == pointers
    state["scale"][...] = 7
    assert block.scale.tolist() == [[2], [2]]


def test_every_mismatch_is_listed_at_once_and_nothing_changes() -> None:
    block = Block()
    before = copy.deepcopy(block.state_dict())
    state = {
        "scale": lucid.zeros(2, 1),
        "seen": lucid.zeros(3),
        "conv.weight": lucid.zeros(2, 2, 3),
        "extra": lucid.zeros(1),
    }
    with pytest.raises(RuntimeError) as caught:
        block.load_state_dict(state)
    lines = str(caught.value).splitlines()
    assert lines == [
        "Block: the state dict does not fit:",
        "  Missing key(s): 'conv.bias'.",
        "  Unexpected key(s): 'extra'.",
        "  Size mismatch for 'seen': (3,) in the state dict, () in the module.",
        "  Size mismatch for 'conv.weight': (2, 2, 3) in the state dict, (2, 1, 3) in the module.",
    ]
    assert all(lucid.equal(a, b) for a, b in zip(before.values(), block.state_dict().values(), strict=True))
    del state["seen"], state["conv.weight"]
    result = block.load_state_dict(state, strict=False)
    assert result.missing_keys == ["seen", "conv.weight", "conv.bias"] and result.unexpected_keys == ["extra"]
    assert block.scale.tolist() == [[0], [0]]


def test_modes_and_gradients_of_the_whole_tree() -> None:
    net = Net()
    assert net.eval() is net and not any(m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())
    with pytest.raises(TypeError, match=r"Net\.train: mode='yes'"):
        net.train("yes")
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    net.requires_grad_()
    net.first(lucid.ones(1, 1, 5)).sum().backward()
    net.zero_grad(set_to_none=False)
    assert net.first.scale.grad.tolist() == [[0], [0]] and net.rest[1].weight.grad is None
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    visited: list[str] = []
    net.apply(lambda module: visited.append(type(module).__name__))
    assert visited == ["Conv1d", "Block", "ReLU", "Linear", "Sequential", "Net"]


def test_changing_the_element_type() -> None:
    block = Block()
    block(lucid.ones(1, 1, 5)).sum().backward()
    parameters = list(block.parameters())
    assert block.double() is block
    assert all(a is b for a, b in zip(parameters, block.parameters(), strict=True))
    assert {p.dtype for p in block.parameters()} == {lucid.float64} and block.scale.grad.dtype == lucid.float64
    assert block.seen.dtype == lucid.int64 and block.scratch.dtype == lucid.float64
    assert block(lucid.ones(1, 1, 5, dtype=lucid.float64)).dtype == lucid.float64
    for change, dtype in (
        (lambda: block.to(lucid.float32), lucid.float32), (lambda: block.to("cpu", lucid.float16), lucid.float16),
        (lambda: block.to(dtype="bfloat16"), lucid.bfloat16), (lambda: block.to(lucid.ones(1)), lucid.float32),
        (block.half, lucid.float16), (block.bfloat16, lucid.bfloat16), (block.float, lucid.float32),
        (lambda: block.to("float64"), lucid.float64), (lambda: block.to("cpu"), lucid.float64),
    ):  # fmt: skip
        change()
        assert block.scale.dtype == dtype
    with pytest.raises(lucid.DeviceError, match=r"cuda.*'cpu'"):
        block.to("cuda")
    with pytest.raises(lucid.DTypeError, match="must be floating-point"):
        block.to(lucid.int32)


def test_hooks() -> None:
    block, seen = Block(), []
    x = lucid.ones(1, 1, 5)
    plain = block(x)
    handles = [
        block.register_forward_pre_hook(lambda m, args: seen.append("before")),
        block.register_forward_pre_hook(lambda m, args: (args[0] * 2,)),
        block.register_forward_pre_hook(lambda m, args, kwargs: (args, {"twice": True}), with_kwargs=True),
        block.register_forward_pre_hook(lambda m, args: seen.append("first"), prepend=True),
        block.register_forward_hook(lambda m, args, y: seen.append(y.shape)),
        block.register_forward_hook(lambda m, args, kwargs, y: y + len(kwargs), with_kwargs=True),
    ]
    without = plain - block.conv.bias.reshape(2, 1)
    np.testing.assert_allclose(
        block(x).tolist(), ((without * 2 + block.conv.bias.reshape(2, 1)) * 2 + 1).tolist(), rtol=1e-5
    )
    assert seen == ["first", "before", (1, 2, 3)]
    for handle in handles:
        handle.remove()
    assert block(x).tolist() == plain.tolist() and len(seen) == 3


class Two(nn.Module):
    """Two results of three arguments, the last of which is no tensor."""

    def forward(self, a: Any, b: Any, times: float) -> Any:
        return a * times, (a * a).sum() * b


def spy(seen: list[Any], name: str) -> Any:
    def hook(module: Any, *grads: Any) -> None:
        seen.append((name, *[[None if g is None else g.tolist() for g in side] for side in grads]))

    return hook


def test_backward_hooks_see_the_gradients_of_arguments_and_results() -> None:
    two, seen = Two(), []
    two.register_full_backward_hook(spy(seen, "after"))
    handle = two.register_full_backward_pre_hook(spy(seen, "before"))
    a, b = lucid.tensor([1.0, 2.0], requires_grad=True), lucid.tensor([3.0])
    results = two(a, b, 4.0)
    lucid.autograd.backward(results, [lucid.tensor([1.0, 0.5]), lucid.tensor([2.0])])
    assert seen == [
        ("before", [[1.0, 0.5], [2.0]]),
        ("after", [[16.0, 26.0], [0.0], None], [[1.0, 0.5], [2.0]]),
    ]
    assert a.grad.tolist() == [16.0, 26.0] and b.grad is None
    handle.remove()
    two(a, b, 4.0)[0].backward(lucid.tensor([1.0, 0.5]))
    assert seen[2:] == [("after", [[4.0, 2.0], [0.0], None], [[1.0, 0.5], None])]


def test_backward_hooks_replace_gradients() -> None:
    two, seen = Two(), []
    two.register_full_backward_pre_hook(lambda m, g: (g[0] * 10, None))
    two.register_full_backward_hook(lambda m, g, up: (g[0] + 1, *g[1:]))
    two.register_full_backward_hook(spy(seen, "last"))
    two.register_full_backward_hook(spy(seen, "first"), prepend=True)
    a, b = lucid.tensor([1.0, 2.0], requires_grad=True), lucid.tensor([3.0], requires_grad=True)
    lucid.autograd.backward(two(a, b, 4.0), [lucid.tensor([1.0, 0.5]), lucid.tensor([2.0])])
    upstream = [[10.0, 5.0], None]
    assert seen == [
        ("first", [[40.0, 20.0], [0.0], None], upstream), ("last", [[41.0, 21.0], [0.0], None], upstream),
    ]  # fmt: skip
    assert a.grad.tolist() == [41.0, 21.0] and b.grad.tolist() == [0.0]


def test_backward_hooks_where_no_argument_requires_a_gradient() -> None:
    layer, seen = nn.Linear(2, 1, bias=False), []
    layer.register_full_backward_hook(spy(seen, "after"))
    layer.register_full_backward_hook(lambda m, g, up: seen.append(layer.weight.grad))
    layer(lucid.tensor([1.0, 2.0])).backward(lucid.tensor([3.0]))
    assert seen == [("after", [None], [[3.0]]), None] and layer.weight.grad.tolist() == [[3.0, 6.0]]
    layer.register_full_backward_hook(lambda m, g, up: up)
    with pytest.raises(lucid.GradientError, match="Linear: a backward hook returned gradients, but no input requires"):
        layer(lucid.ones(2)).backward()
    with lucid.no_grad():
        layer(lucid.ones(2))
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("returned", "error", "text"),
    [
        ((None, None), lucid.GradientError, "Linear: a backward hook returned 2 gradients for 1 inputs"),
        (lucid.ones(3), lucid.ShapeError, r"a gradient of shape \(3,\) for input 0 of \(2,\)"),
        ((1.0,), TypeError, "returned a float for input 0: must be a Tensor or None"),
        ((lucid.ones(2, dtype=lucid.float64),), lucid.DTypeError, "of lucid.float64 for input 0 of lucid.float32"),
    ],
)
def test_what_backward_hooks_may_not_return(returned: Any, error: type[Exception], text: str) -> None:
    layer = nn.Linear(2, 1)
    layer.register_full_backward_hook(lambda m, g, up: returned)
    with pytest.raises(error, match=text):
        layer(lucid.ones(2, requires_grad=True)).backward()


def test_backward_hooks_of_second_gradients() -> None:
    layer, seen = nn.Linear(1, 1, bias=False), []
    nn.init.constant_(layer.weight, 2.0)
    layer.register_full_backward_hook(spy(seen, "after"))
    x = lucid.tensor([3.0], requires_grad=True)
    (g,) = lucid.autograd.grad(layer(x) ** 2, x, create_graph=True)  # 8 x
    assert seen == [("after", [[24.0]], [[12.0]])]
    (second,) = lucid.autograd.grad(g, x)
    assert second.tolist() == [8.0] and seen[1:] == [("after", [[8.0]], [[4.0]])]


def test_second_gradients_that_come_past_the_results_call_no_backward_hook() -> None:
    class Square(nn.Module):
        def forward(self, x: Any) -> Any:
            return x * x

    square, seen = Square(), []
    square.register_full_backward_hook(spy(seen, "after"))
    x = lucid.tensor([3.0], requires_grad=True)
    (g,) = lucid.autograd.grad(square(x), x, create_graph=True)
    (second,) = lucid.autograd.grad(g, x)
    assert second.tolist() == [2.0] and seen == [("after", [[6.0]], [[1.0]])]


def test_gradients_that_pass_a_module_by_call_no_backward_hook() -> None:
    layer, seen = nn.Linear(2, 1), []
    layer.register_full_backward_hook(spy(seen, "after"))
    x = lucid.ones(2, requires_grad=True)
    y = layer(x)
    lucid.autograd.grad(y, layer.weight, retain_graph=True)
    assert seen == []  # nobody asked for the input's gradient
    (x * 2).sum().backward()
    assert seen == []
    y.backward()
    assert len(seen) == 1


@pytest.mark.parametrize("taken", [lambda x: x, lambda x: x[:]])
def test_writing_in_place_inside_and_behind_a_module_with_backward_hooks(taken: Any) -> None:
    relu, seen = nn.ReLU(inplace=True), []
    relu.register_full_backward_hook(spy(seen, "after"))
    x = lucid.tensor([-1.0, 2.0], requires_grad=True)
    before = x * 3
    y = relu(taken(before))
    y += 1
    assert y.tolist() == before.tolist() == [1.0, 7.0]
    (y * before).sum().backward()  # (relu(3 x) + 1)², both names for one memory
    assert x.grad.tolist() == [0.0, 42.0] and seen == [("after", [[0.0, 14.0]], [[2.0, 14.0]])]


def test_a_result_without_gradients_to_see_is_told_of() -> None:
    class Named(nn.Module):
        def forward(self, x: Any) -> Any:
            return {"y": x * 2}

    named = Named()
    named.register_full_backward_hook(lambda m, g, up: None)
    with pytest.warns(UserWarning, match="Named: backward hooks are not called, for the result is a dict") as told:
        named(lucid.ones(2, requires_grad=True))
    assert told[0].filename == __file__


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_the_same_and_share_nothing(copied: Any) -> None:
    block = Block().eval()
    other = copied(block)
    assert not other.training and other.note == "text"
    x = lucid.ones(1, 1, 5)
    assert other(x).tolist() == block(x).tolist()
    assert isinstance(other.scale, nn.Parameter) and other.scale.requires_grad
    with lucid.no_grad():
        other.scale *= 2
    assert block.scale.tolist() == [[1], [1]]
    assert list(other.state_dict()) == list(block.state_dict())


def test_weights_can_be_set_in_every_usual_way() -> None:
    conv = nn.Conv1d(1, 1, 2, bias=False)
    for change in (
        lambda: setattr(conv.weight, "data", lucid.Tensor([[[5.0, 6.0]]])),
        lambda: setattr(conv, "weight", nn.Parameter(lucid.Tensor([[[5.0, 6.0]]]))),
        lambda: conv.load_state_dict({"weight": lucid.Tensor([[[5.0, 6.0]]])}),
        lambda: conv.weight.data.copy_(lucid.Tensor([[[5.0, 6.0]]])),
    ):
        nn.init.zeros_(conv.weight)
        change()
        assert conv(lucid.Tensor([[[1.0, 2.0, 3.0, 4.0]]])).tolist() == [[[17, 28, 39]]]
        assert conv.weight.requires_grad
    with lucid.no_grad():
        conv.weight.copy_(lucid.Tensor([[[1.0, 0.0]]]))
        conv.weight[0, 0, 1] = 3.0
    assert conv.weight.tolist() == [[[1, 3]]]


def test_how_it_prints() -> None:
    class Named(nn.Module):
        def extra_repr(self) -> str:
            return "width=3"

    named = Named()
    assert repr(named) == "Named(width=3)"
    named.inner = nn.Sequential(nn.ReLU())
    assert repr(named) == "Named(\n  width=3\n  (inner): Sequential(\n    (0): ReLU()\n  )\n)"
    with pytest.raises(NotImplementedError, match=r"Named has no forward\(\)"):
        named(1)


def test_wrong_arguments_are_told_of_under_the_layer_s_own_name() -> None:
    for call, text in (
        (lambda: nn.Conv2d(3, 4), r"Conv2d\.__init__\(\) missing .* 'kernel_size'"),
        (lambda: nn.ConvTranspose1d(3, 4, 3, strides=2), r"ConvTranspose1d\.__init__\(\) .* 'strides'"),
        (lambda: nn.MaxPool3d(2, strid=1), r"MaxPool3d\.__init__\(\) .* 'strid'"),
        (lambda: nn.BatchNorm2d(), r"BatchNorm2d\.__init__\(\) missing .* 'num_features'"),
        (lambda: nn.Conv1d(1, 1, 1)(), r"Conv1d\.forward\(\) missing .* 'input'"),
    ):
        with pytest.raises(TypeError, match=text):
            call()
    assert nn.Conv1d.__init__ is not nn.Conv2d.__init__
    assert list(inspect.signature(nn.Conv3d).parameters)[:3] == ["in_channels", "out_channels", "kernel_size"]


@pytest.mark.parametrize("training", [True, False])
def test_an_error_tells_the_way_to_the_layer(training: bool) -> None:
    """In training layers are called, in inference a convolution is fused with the activation behind it."""
    net = nn.Sequential(nn.Conv1d(1, 4, 1), nn.ModuleDict())
    net[1] = nn.Sequential(nn.ReLU(), nn.Conv1d(3, 4, 1), nn.ReLU())
    with lucid.set_grad_enabled(training), pytest.raises(lucid.ShapeError, match="Conv1d: the input") as caught:
        net(lucid.ones(1, 1, 5))
    assert caught.value.__notes__ == ["in Sequential: 1.1"]
    with pytest.raises(lucid.ShapeError) as caught:
        net[0](lucid.ones(1, 2, 5))
    assert not hasattr(caught.value, "__notes__")


def test_what_is_no_state_dict_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Net: load_state_dict takes a dict of tensors, .* not str"):
        Net().load_state_dict("network.safetensors")


def test_names_with_a_word_too_many_are_told_of() -> None:
    state = {f"module.{name}": value for name, value in Net().state_dict().items()}
    with pytest.raises(RuntimeError, match=r"They fit without 'module\.': \{name\.removeprefix\('module\.'\)"):
        Net().load_state_dict(state)
    Net().load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    with pytest.raises(RuntimeError) as caught:
        Net().load_state_dict({**state, "more": lucid.zeros(1)})
    assert "They fit" not in str(caught.value)


class Renaming(nn.Linear):
    def _load_from_state_dict(self, state_dict, prefix, *args):
        state_dict[prefix + "weight"] = state_dict.pop(prefix + "kernel")
        super()._load_from_state_dict(state_dict, prefix, *args)


def test_modules_rename_what_they_load():
    net = nn.Sequential(Renaming(2, 1, bias=False), nn.Linear(1, 1, bias=False))
    net[1].register_load_state_dict_pre_hook(
        lambda module, state, prefix, *args: state.update({f"{prefix}weight": state.pop("last")})
    )
    given = {"0.kernel": lucid.ones(1, 2), "last": lucid.zeros(1, 1)}
    net.load_state_dict(given)
    assert net[0].weight.tolist() == [[1.0, 1.0]] and net[1].weight.tolist() == [[0.0]]
    assert list(given) == ["0.kernel", "last"]


def test_a_number_is_no_parameter():
    with pytest.raises(lucid.DTypeError, match=r"lucid\.zeros\(5\) a row"):
        nn.Parameter(lucid.Tensor(5))

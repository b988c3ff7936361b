"""What programs of PyTorch use beside layers: optimizers' kin, scalers, losses, gates, files, registries, by number."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data

import lucid
from lucid import nn


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


A, B, C = draw(1, 4, 6), draw(2, 4, 6), draw(3, 4, 6)
SIGNS = np.array([1.0, -1.0, -1.0, 1.0])
NUMBERS = np.array([[0, 2, 4], [1, 1, 3]])

#: (arguments, call): the call is made with each library and its tensors of the arguments.
CALLS: dict[str, tuple[tuple[np.ndarray, ...], Callable[..., Any]]] = {
    "normalize": ((A,), lambda t, a: t.nn.functional.normalize(a, p=3, dim=0)),
    "cosine_similarity": ((A, B), lambda t, a, b: t.nn.functional.cosine_similarity(a, b, dim=1)),
    "cosine of a matrix and a row": ((A, B[:1]), lambda t, a, b: t.nn.functional.cosine_similarity(a, b, dim=-1)),
    "pairwise_distance": ((A, B), lambda t, a, b: t.nn.functional.pairwise_distance(a, b, keepdim=True)),
    "kl_div": ((A, np.abs(B)), lambda t, a, b: t.nn.functional.kl_div(a, b, reduction="batchmean")),
    "kl_div of logs": ((A, B), lambda t, a, b: t.nn.functional.kl_div(a, b, reduction="sum", log_target=True)),
    "KLDivLoss": ((A, B > 0), lambda t, a, b: t.nn.KLDivLoss(reduction="none")(a, b.double())),
    "triplet": ((A, B, C), lambda t, *abc: t.nn.TripletMarginLoss(margin=2.0, swap=True, reduction="sum")(*abc)),
    "ranking": ((A[:, 0], B[:, 0], SIGNS), lambda t, *abc: t.nn.MarginRankingLoss(0.3)(*abc)),
    "cosine loss": ((A, B, SIGNS), lambda t, *abc: t.nn.CosineEmbeddingLoss(0.1, reduction="none")(*abc)),
    "glu": ((A,), lambda t, a: t.nn.GLU(dim=1)(a)),
    "logsigmoid": ((A * 40,), lambda t, a: t.nn.LogSigmoid()(a)),
    "softsign": ((A,), lambda t, a: t.nn.Softsign()(a)),
    "tanhshrink": ((A,), lambda t, a: t.nn.Tanhshrink()(a)),
    "softshrink": ((A,), lambda t, a: t.nn.Softshrink(0.3)(a)),
    "hardshrink": ((A,), lambda t, a: t.nn.Hardshrink(0.3)(a)),
    "celu": ((A,), lambda t, a: t.nn.CELU(0.7)(a)),
    "threshold": ((A,), lambda t, a: t.nn.Threshold(0.2, 9.0)(a)),
    "softmax2d": ((draw(4, 2, 3, 2, 2),), lambda t, a: t.nn.Softmax2d()(a)),
    "local_response_norm": ((draw(4, 2, 7, 3),), lambda t, a: t.nn.LocalResponseNorm(5, alpha=0.3)(a)),
    "local_response_norm of an image": ((draw(4, 2, 7, 3, 2),), lambda t, a: t.nn.LocalResponseNorm(4, 0.2, k=2)(a)),
    "channel_shuffle": ((draw(4, 2, 6, 3, 2),), lambda t, a: t.nn.ChannelShuffle(3)(a)),
    "rms_norm": ((A,), lambda t, a: t.nn.functional.rms_norm(a, (6,), eps=1e-5)),
    "unfold": ((A,), lambda t, a: a.unfold(1, 3, 2)),
    "diff": ((A,), lambda t, a: t.diff(a, n=2, dim=0)),
    "var_mean": ((A,), lambda t, a: t.stack(t.var_mean(a, dim=1)) + t.stack(t.std_mean(a, dim=1, unbiased=False))),
    "cdist": ((A, B), lambda t, a, b: t.cdist(a, b)),
    "logaddexp": ((A, B), lambda t, a, b: t.logaddexp(a, b) + t.hypot(a, b)),
    "clamps": ((A,), lambda t, a: a.clamp_min(-0.2).clamp_max(0.4) + t.clip(a, -1, 1)),
    "baddbmm": ((draw(4, 2, 3, 2), draw(5, 2, 3, 4), draw(6, 2, 4, 2)), lambda t, *abc: t.baddbmm(*abc, alpha=0.5)),
    "stacks": ((A, B), lambda t, a, b: t.vstack([t.hstack([a, b]), t.hstack([b, a])])),
    "turned": ((A,), lambda t, a: t.rot90(a) @ t.rot90(t.fliplr(a), 3).T),
    "index_fill": ((A,), lambda t, a: a.index_fill(1, t.tensor([0, 2]), 3.0)),
    "index_copy": ((A, B), lambda t, a, b: a.index_copy(0, t.tensor([2, 0]), b[:2])),
    "index_put": ((A,), lambda t, a: a.index_put((t.tensor([1, 1]), t.tensor([2, 2])), a[0, :2], accumulate=True)),
    "masked_scatter": ((A, B), lambda t, a, b: a.masked_scatter(a.detach() > 0, b)),
    "renorm": ((A,), lambda t, a: t.renorm(a, 2, 1, 1.5)),
    "kthvalue": ((A,), lambda t, a: t.kthvalue(a, 2, dim=0, keepdim=True)[0]),
    "running": ((A,), lambda t, a: t.cummax(a, 1)[0] + t.cummin(a, dim=0).values),
    "stft": (
        (draw(4, 2, 50), np.hanning(13)),
        lambda t, a, w: t.view_as_real(t.stft(a, 16, 5, 13, w, normalized=True, return_complex=True)),
    ),
    "stft of one signal": (
        (draw(4, 40),),
        lambda t, a: t.stft(
            a, 15, hop_length=4, window=t.ones(15).double(), center=False, onesided=False, return_complex=True
        ).abs(),
    ),
    "there and back": (
        (draw(4, 2, 50),),
        lambda t, a: t.istft(
            t.stft(a, 16, window=t.hann_window(16, dtype=t.float64), return_complex=True) * (2 - 1j),
            16,
            window=t.hann_window(16, dtype=t.float64),
            length=53,
        ),
    ),
    "affine_grid": ((draw(4, 2, 2, 3),), lambda t, a: t.nn.functional.affine_grid(a, (2, 1, 4, 5), False)),
    "affine_grid of volumes": ((draw(4, 1, 3, 4),), lambda t, a: t.nn.functional.affine_grid(a, (1, 1, 2, 3, 4), True)),
    **{
        f"grid_sample {mode} {border} {corners}": (
            (draw(4, 2, 3, 5, 6), draw(5, 2, 4, 4, 2) * 1.5),
            lambda t, a, g, m=mode, b=border, c=corners: t.nn.functional.grid_sample(a, g, m, b, c),
        )
        for mode in ("bilinear", "nearest")
        for border in ("zeros", "border", "reflection")
        for corners in (False, True)
    },
    "grid_sample of volumes": (
        (draw(4, 1, 2, 3, 4, 5), draw(5, 1, 2, 2, 3, 3)),
        lambda t, a, g: t.nn.functional.grid_sample(a, g, align_corners=False),
    ),
    "fold": ((draw(4, 2, 18, 12),), lambda t, a: t.nn.Fold((5, 6), (3, 3), stride=(2, 1), padding=(1, 0))(a)),
    "max_unpool": (
        (draw(4, 2, 3, 7, 6),),
        lambda t, a: t.nn.MaxUnpool2d(2)(*t.nn.functional.max_pool2d(a, 2, return_indices=True), output_size=(7, 6)),
    ),
    "complex views": ((draw(4, 3, 2),), lambda t, a: t.view_as_real(t.view_as_complex(a) * (1 + 2j))),
}


@pytest.mark.parametrize("name", CALLS)
def test_results_and_gradients(name: str) -> None:
    inputs, call = CALLS[name]
    results = []
    for library in (torch, lucid):
        tensors = [library.tensor(a, requires_grad=a.dtype == np.float64 and a is not SIGNS) for a in inputs]
        result = call(library, *tensors)
        (result * library.tensor(draw(9, *result.shape))).sum().backward()
        results.append([result.detach(), *(x.grad for x in tensors if x.requires_grad)])
    for theirs, ours in zip(*results, strict=True):
        if ours is None:  # no way leads there: zeros
            assert not theirs.any()
            continue
        assert ours.shape == tuple(theirs.shape)
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("call", [
    lambda t: t.bincount(t.tensor([3, 1, 1]), minlength=6),
    lambda t: t.histc(t.tensor([0.5, 1.5, 1.7, 9.0]), 4, 0, 4),
    lambda t: t.isin(t.tensor([1, 2, 3]), t.tensor([3, 1])),
    lambda t: t.searchsorted(t.tensor([1.0, 3.0, 5.0]), t.tensor([[3.0, 6.0]]), right=True),
    lambda t: t.bucketize(t.tensor([0.0, 3.0]), t.tensor([1.0, 3.0, 5.0])),
    lambda t: t.nan_to_num(t.tensor([float("nan"), float("inf"), -float("inf"), 2.0]), 1.0, neginf=-3.0),
    lambda t: t.cat([t.hann_window(8), t.hamming_window(7), t.blackman_window(6, periodic=False), t.hann_window(1)]),
    lambda t: t.argwhere(t.tensor([[1, 0], [0, 2]])),
    lambda t: t.FloatTensor([1, 2]) + t.LongTensor([3, 4]).type(t.FloatTensor) + t.zeros(1).type(t.HalfTensor).float(),
    lambda t: t.tensor(list(t.LongTensor(2, 3).shape + t.Tensor(4, 5).shape + t.FloatTensor(3).shape)),
    lambda t: t.tensor([isinstance(t.ones(1), t.FloatTensor), isinstance(t.ones(1), t.LongTensor), t.is_tensor(1)]),
    lambda t: t.ones(2).clamp_max_(0.5).clamp_min_(0.7),
    lambda t: t.cat([x.reshape(-1) for x in t.unique_consecutive(t.tensor([2, 2, 1, 2]), True, True)]),
    lambda t: t.unique_consecutive(t.tensor([[1, 1, 2], [3, 3, 3]]), dim=1),
    lambda t: t.cat([t.tril_indices(3, 4, 1), t.triu_indices(4, 3, 0)], 1),
    lambda t: t.zeros(3, 4).fill_diagonal_(5),
    lambda t: t.ones(2, 1, 3).squeeze_(1).unsqueeze_(0).transpose_(1, 2),
    lambda t: t.tensor([t.ones(1).type() == "torch.FloatTensor", t.ones(1).is_sparse]),
    lambda t: t.ones(2).type("torch.LongTensor"),
    lambda t: t.tensor(t.nn.init._calculate_fan_in_and_fan_out(t.ones(4, 3, 5))),
])  # fmt: skip
def test_values(call: Callable[[Any], Any]) -> None:
    theirs, ours = call(torch), call(lucid)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6, atol=1e-7)
    assert ours.numpy().dtype == theirs.numpy().dtype


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("packed", [False, True])
def test_ctc(reduction: str, packed: bool) -> None:
    scores, targets = draw(0, 9, 4, 5), np.array([[1, 1, 2], [3, 4, 0], [2, 0, 0], [0, 0, 0]])
    lengths, spoken = (9, 6, 1, 4), (3, 2, 1, 0)
    if packed:
        targets = np.concatenate([row[:n] for row, n in zip(targets, spoken, strict=True)])
    results = []
    for library in (torch, lucid):
        x = library.tensor(scores, requires_grad=True)
        log_p = library.nn.functional.log_softmax(x, dim=2)
        loss = library.nn.functional.ctc_loss(log_p, library.tensor(targets), lengths, spoken, reduction=reduction)
        (loss * library.tensor(draw(1, *loss.shape))).sum().backward()
        results.append((loss.detach().numpy(), x.grad.numpy()))
    for theirs, ours in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_ctc_of_what_does_not_fit() -> None:
    results = []
    for library in (torch, lucid):
        x = library.tensor(draw(0, 2, 2, 3), requires_grad=True)
        lost = library.nn.CTCLoss(blank=2, zero_infinity=True)
        loss = lost(x.log_softmax(2), library.tensor([[1, 1], [0, 1]]), library.tensor([2, 2]), library.tensor([2, 2]))
        loss.backward()
        results.append((loss.detach().numpy(), x.grad.numpy()))
    for theirs, ours in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_embeddings() -> None:
    results = []
    for library in (torch, lucid):
        layer = library.nn.Embedding.from_pretrained(library.tensor(draw(0, 5, 3)), freeze=False, padding_idx=1)
        y = layer(library.tensor(NUMBERS))
        (y * library.tensor(draw(1, *y.shape))).sum().backward()
        results.append((y.detach().numpy(), layer.weight.grad.numpy()))
    for theirs, ours in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.spectral_norm` is deprecated")
def test_spectral_norm_of_old(transposed: bool) -> None:
    name = "ConvTranspose2d" if transposed else "Conv2d"
    theirs = torch.nn.utils.spectral_norm(getattr(torch.nn, name)(4, 6, 3, dtype=torch.float64), n_power_iterations=2)
    ours = nn.utils.spectral_norm(getattr(nn, name)(4, 6, 3, dtype="float64"), n_power_iterations=2)
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    x = draw(0, 2, 4, 5, 5)
    for train in (True, True, False):
        for layer, library in ((theirs, torch), (ours, lucid)):
            layer.train(train)
            layer.zero_grad()
            layer(library.tensor(x)).sum().backward()
        np.testing.assert_allclose(ours.weight_orig.grad.numpy(), theirs.weight_orig.grad.numpy(), rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(ours.weight_u.numpy(), theirs.weight_u.numpy(), rtol=1e-9)
    with torch.no_grad():
        expected = torch.nn.utils.remove_spectral_norm(theirs)(torch.tensor(x)).numpy()
    undone = nn.utils.remove_spectral_norm(ours)
    np.testing.assert_allclose(undone(lucid.tensor(x)).detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    assert sorted(undone.state_dict()) == ["bias", "weight"] and not undone.is_watched


def test_gradients_of_inputs_that_take_no_part() -> None:
    for library in (torch, lucid):
        x, y = (library.ones(2, requires_grad=True) for _ in range(2))
        first, second = library.autograd.grad(
            outputs=(x * 3).sum(), inputs=[x, y], only_inputs=True, allow_unused=True, materialize_grads=True
        )
        assert first.tolist() == [3.0, 3.0] and second.tolist() == [0.0, 0.0]


def test_a_scaler_skips_what_is_not_finite() -> None:
    for library in (torch, lucid):
        w = library.tensor([1.0], requires_grad=True)
        optimizer = library.optim.SGD([w], lr=0.5)
        scaler = library.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
        seen = []
        for factor in (2.0, float("inf"), 1.0, 1.0, 1.0):
            optimizer.zero_grad()
            scaler.scale((w * factor).sum()).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            seen.append((w.item(), scaler.get_scale(), scaler.state_dict()["_growth_tracker"]))
        assert seen == [(0.0, 4.0, 1), (0.0, 2.0, 0), (-0.5, 2.0, 1), (-1.0, 4.0, 0), (-1.5, 4.0, 1)]


def test_what_torch_saves_is_loaded(tmp_path: Path) -> None:
    theirs = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.01)
    theirs(torch.randn(2, 3, 6, 6)).square().sum().backward()
    optimizer.step()
    path = tmp_path / "checkpoint.pt"
    odd = torch.arange(6).view(2, 3).t()
    torch.save(
        {"model": theirs.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "odd": odd, "last": odd[1:],
         "half": torch.ones(3, dtype=torch.bfloat16), "list": [torch.zeros(0, 2), None, (1.5, "x")]}, path,
    )  # fmt: skip
    found = lucid.load(path, map_location="cpu")
    ours = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    ours.load_state_dict(found["model"])
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name].numpy(), value.numpy())
    resumed, x = lucid.optim.Adam(ours.parameters()), draw(0, 2, 3, 6, 6).astype("float32")
    resumed.load_state_dict(found["optimizer"])
    for net, one, library in ((theirs, optimizer, torch), (ours, resumed, lucid)):
        one.zero_grad()
        net(library.tensor(x)).pow(3).sum().backward()
        one.step()
    np.testing.assert_allclose(ours[0].weight.detach().numpy(), theirs[0].weight.detach().numpy(), rtol=1e-4, atol=1e-6)
    assert found["odd"].tolist() == odd.tolist() and found["last"].tolist() == odd[1:].tolist()
    assert found["half"].dtype is lucid.bfloat16 and found["epoch"] == 3
    assert found["list"][0].shape == (0, 2) and found["list"][1:] == [None, (1.5, "x")]


def test_a_saved_module_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(lucid.FormatError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict"):
        lucid.load(tmp_path / "whole.pt")


def test_subclasses_of_optimizers_and_schedulers() -> None:
    def program(t: Any) -> list[float]:
        class Signs(t.optim.Optimizer):  # type: ignore[name-defined,misc]
            def __init__(self, params: Any, lr: float) -> None:
                super().__init__(params, dict(lr=lr))

            @t.no_grad()  # type: ignore[untyped-decorator]
            def step(self, closure: Any = None) -> None:
                for group in self.param_groups:
                    for p in group["params"]:
                        state = self.state[p]
                        if len(state) == 0:
                            state["mean"] = t.zeros_like(p)
                        state["mean"].mul_(0.5).add_(p.grad, alpha=0.5)
                        p.add_(state["mean"].sign(), alpha=-group["lr"])

        class Poly(t.optim.lr_scheduler._LRScheduler):  # type: ignore[name-defined,misc]
            def get_lr(self) -> list[float]:
                return [rate * (1 - self.last_epoch / 10) ** 0.9 for rate in self.base_lrs]

        w = t.tensor([1.0, -2.0], requires_grad=True)
        optimizer = Signs([w], 0.1)
        scheduler, seen = Poly(optimizer), []
        for _ in range(4):
            optimizer.zero_grad()
            (w**3).sum().backward()
            optimizer.step()
            scheduler.step()
            seen += [*w.tolist(), *scheduler.get_last_lr()]
        return seen

    assert program(lucid) == pytest.approx(program(torch), rel=1e-6)


@pytest.mark.filterwarnings("ignore:The epoch parameter in", "ignore:Detected call of `lr_scheduler.step")
def test_restarts_between_two_epochs() -> None:
    rates: list[list[float]] = [[], []]
    for library, seen in zip((torch, lucid), rates, strict=True):
        optimizer = library.optim.SGD([library.ones(1, requires_grad=True)], lr=1.0)
        scheduler = library.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2, T_mult=2)
        for step in range(20):
            scheduler.step(step / 3)
            seen += scheduler.get_last_lr()
    assert rates[1] == pytest.approx(rates[0])


def test_surgery_by_the_registries() -> None:
    for t in (torch, lucid):
        net = t.nn.Sequential(t.nn.Linear(2, 3), t.nn.SiLU(), t.nn.BatchNorm1d(3))
        for parent in net.modules():
            for name, child in parent._modules.items():
                if isinstance(child, t.nn.SiLU):
                    parent._modules[name] = t.nn.ReLU()
        assert isinstance(net[1], t.nn.ReLU) and list(net[0]._parameters) == ["weight", "bias"]
        assert sorted(net[2]._buffers) == ["num_batches_tracked", "running_mean", "running_var"]
        net.set_submodule("1", t.nn.Tanh())
        del net._modules["2"]
        assert len(net) == 2 and isinstance(net[1], t.nn.Tanh)


FAMILIES: dict[str, tuple[Any, Any]] = {
    "optim": (lucid.optim, torch.optim),
    "lr_scheduler": (lucid.optim.lr_scheduler, torch.optim.lr_scheduler),
    "swa_utils": (lucid.optim.swa_utils, torch.optim.swa_utils),
    "init": (nn.init, torch.nn.init),
    "utils": (nn.utils, torch.nn.utils),
    "parametrizations": (nn.utils.parametrizations, torch.nn.utils.parametrizations),
    "parametrize": (nn.utils.parametrize, torch.nn.utils.parametrize),
    "data": (lucid.data, torch.utils.data),
    "autograd": (lucid.autograd, torch.autograd),
    "amp": (lucid.amp, torch.amp),
}
ACCEPTED = {"seed", "function"}  # a DataLoader's own stream; what a decorator without parentheses gets
NOT_OURS = {
    "grad_variables", "is_grads_batched", "multiprocessing_context", "pin_memory_device", "in_order", "masked",
    "fast_mode", "nondet_tol", "check_undefined_grad", "check_grad_dtypes", "check_batched_grad", "grad_outputs",
    "check_batched_forward_grad", "check_forward_ad", "check_backward_ad", "check_fwd_over_rev", "check_rev_over_rev",
    "gen_non_contig_grad_outputs", "raise_exception", "atol", "rtol",
}  # fmt: skip


def heads() -> Any:
    for family, (here, there) in FAMILIES.items():
        for name in dir(here):
            ours, theirs = getattr(here, name), getattr(there, name, None)
            if family == "init" and not name.endswith("_"):  # names of old, which PyTorch wraps
                continue
            if name.startswith("_") or theirs is None or isinstance(ours, type) != isinstance(theirs, type):
                continue
            if callable(ours) and str(getattr(ours, "__module__", "")).startswith("lucid"):
                yield pytest.param(ours, theirs, id=f"{family}.{name}")


def parameters(function: Any) -> list[Parameter]:
    function = function.__init__ if isinstance(function, type) else function
    gathered = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return [p for p in signature(function).parameters.values() if p.kind not in gathered]


@pytest.mark.parametrize(("ours", "theirs"), list(heads()))
def test_argument_names_and_their_order(ours: Any, theirs: Any) -> None:
    if ours in (lucid.Tensor, nn.Module, lucid.autograd.Function):
        return
    names, others = ([p.name for p in parameters(function)] for function in (ours, theirs))
    assert set(names) - set(others) <= ACCEPTED
    assert set(others) - set(names) <= NOT_OURS
    by_place = [p.name for p in parameters(ours) if p.kind is Parameter.POSITIONAL_OR_KEYWORD and p.name in others]
    assert by_place == [name for name in others if name in by_place]


def test_functional_call() -> None:
    results = []
    for library, call in ((torch, torch.func.functional_call), (lucid, lucid.func.functional_call)):
        net = library.nn.Sequential(library.nn.Linear(6, 2, dtype=library.float64), library.nn.BatchNorm1d(2).double())
        with library.no_grad():
            net[0].bias.fill_(0.5)
        w = library.tensor(draw(0, 2, 6), requires_grad=True)
        mean = library.tensor([1.0, 2.0], dtype=library.float64)
        y = call(net.eval(), {"0.weight": w, "1.running_mean": mean}, (library.tensor(A),))
        y.square().sum().backward()
        results.append((y.detach().numpy(), w.grad.numpy()))
        assert net[0].weight is not w and net[0].weight.grad is None
    for theirs, ours in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


@pytest.mark.parametrize("look", [
    lambda: lucid.jit, lambda: nn.LSTM, lambda: nn.functional.upsample, lambda: lucid.optim.LBFGS,
    lambda: lucid.func.vmap,
    lambda: lucid.optim.lr_scheduler.ChainedScheduler, lambda: nn.utils.parametrizations.orthogonal,
    lambda: nn.utils.rnn, lambda: lucid.utils.checkpoint,
])  # fmt: skip
def test_what_is_not_there_says_what_to_do(look: Callable[[], Any]) -> None:
    with pytest.raises(AttributeError, match=r"has no attribute '\w+': \w+"):
        look()

import copy, math, time
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from torch.optim import lr_scheduler
from torch import Tensor
from typing import Dict, Optional, Tuple
from collections import defaultdict


class MaskedConv2d(nn.Conv2d):
    def __init__(self, mask_type, *args, **kwargs):
        super(MaskedConv2d, self).__init__(*args, **kwargs)
        assert mask_type in {"A", "B"}
        self.register_buffer("mask", self.weight.data.clone())
        _, _, kH, kW = self.weight.size()
        self.mask.fill_(1)
        self.mask[:, :, kH // 2, kW // 2 + (mask_type == "B") :] = 0
        self.mask[:, :, kH // 2 + 1 :] = 0

    def forward(self, x):
        self.weight.data *= self.mask
        return super(MaskedConv2d, self).forward(x)


class WSConv2d(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        v, m = torch.var_mean(w, dim=[1, 2, 3], keepdim=True, unbiased=False)
        w = (w - m) / torch.sqrt(v + 1e-10)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class EqualLR:
    def __init__(self, name):
        self.name = name

    def compute_weight(self, module):
        weight = getattr(module, self.name + "_orig")
        fan_in = weight.data.size(1) * weight.data[0][0].numel()
        return weight * math.sqrt(2 / fan_in)

    @staticmethod
    def apply(module, name):
        fn = EqualLR(name)
        weight = getattr(module, name)
        del module._parameters[name]
        module.register_parameter(name + "_orig", nn.Parameter(weight.data))
        module.register_forward_pre_hook(fn)
        return fn

    def __call__(self, module, input):
        setattr(module, self.name, self.compute_weight(module))


class _DenseLayer(nn.Module):
    def __init__(self, i, growth, bn):
        super().__init__()
        self.add_module("norm1", nn.BatchNorm2d(i))
        self.add_module("relu1", nn.ReLU(inplace=True))
        self.add_module("conv1", nn.Conv2d(i, bn * growth, 1, bias=False))
        self.norm2 = nn.BatchNorm2d(bn * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(bn * growth, growth, 3, padding=1, bias=False)

    def forward(self, input):
        prev = [input] if isinstance(input, Tensor) else input
        x = self.conv1(self.relu1(self.norm1(torch.cat(prev, 1))))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nn.ModuleDict):
    def __init__(self, n, i, growth):
        super().__init__()
        for k in range(n):
            self.add_module("denselayer%d" % (k + 1), _DenseLayer(i + k * growth, growth, 2))

    def forward(self, init_features):
        features = [init_features]
        for name, layer in self.items():
            features.append(layer(features))
        return torch.cat(features, 1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = MaskedConv2d("A", 3, 8, 7, 1, 3, bias=False)
        self.ws = WSConv2d(8, 8, 3, padding=1)
        self.eq = nn.Conv2d(8, 8, 3, padding=1)
        EqualLR.apply(self.eq, "weight")
        self.dense = DenseBlock(2, 8, 4)
        self.ps = nn.Sequential(nn.Conv2d(16, 16, 1), nn.PixelShuffle(2), nn.PReLU())
        self.alpha = nn.Parameter(torch.tensor(0.5))
        self.beta: Optional[Tensor] = None
        self.register_buffer("freqs", torch.linspace(0.0, 1.0, 4), persistent=False)
        self.fc = nn.Linear(4 * 4, 5)
        self.scale = nn.Parameter(torch.Tensor(1, 5))
        nn.init.ones_(self.scale)

    def forward(self, x: Tensor, return_features: bool = False) -> Tuple[Tensor, Dict[str, Tensor]]:
        f = {}
        x = F.relu_(self.stem(x)) if hasattr(F, "relu_") else F.relu(self.stem(x))
        x = F.leaky_relu(self.ws(x), 0.2, True)
        x = self.eq(x)
        f["eq"] = x
        x = self.dense(x)
        x = self.ps(x)
        x = F.adaptive_avg_pool2d(x, (2, 2)).flatten(1)
        e = torch.sin(self.freqs[None] * self.alpha.exp()).expand(x.size(0), -1)
        x = x + e.repeat(1, x.size(1) // 4)
        y = self.fc(x) * self.scale
        return (y, f) if return_features else y


class SAM(torch.optim.Optimizer):
    def __init__(self, params, base_optimizer, rho=0.05, **kwargs):
        defaults = dict(rho=rho, **kwargs)
        super(SAM, self).__init__(params, defaults)
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups
        self.defaults.update(self.base_optimizer.defaults)

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        gn = torch.norm(
            torch.stack(
                [p.grad.norm(p=2).to("cpu") for g in self.param_groups for p in g["params"] if p.grad is not None]
            ),
            p=2,
        )
        for g in self.param_groups:
            s = g["rho"] / (gn + 1e-12)
            for p in g["params"]:
                if p.grad is None:
                    continue
                self.state[p]["old_p"] = p.data.clone()
                p.add_(p.grad * s.to(p))
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        for g in self.param_groups:
            for p in g["params"]:
                if p.grad is None:
                    continue
                p.data = self.state[p]["old_p"]
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.base_optimizer.param_groups = self.param_groups


class Lookahead:
    def __init__(self, optimizer, k=2, alpha=0.5):
        self.optimizer, self.k, self.alpha = optimizer, k, alpha
        self.param_groups = optimizer.param_groups
        self.state = defaultdict(dict)
        self.n = 0

    def step(self):
        self.optimizer.step()
        self.n += 1
        if self.n % self.k == 0:
            for g in self.param_groups:
                for fast in g["params"]:
                    st = self.state[fast]
                    if "slow_param" not in st:
                        st["slow_param"] = torch.zeros_like(fast.data)
                        st["slow_param"].copy_(fast.data)
                    slow = st["slow_param"]
                    slow += (fast.data - slow) * self.alpha
                    fast.data.copy_(slow)


def gram(x):
    b, c, h, w = x.size()
    f = x.view(b, c, h * w)
    return torch.bmm(f, f.transpose(1, 2)) / (c * h * w)


def tv(x):
    return torch.sum(torch.abs(x[:, :, :, :-1] - x[:, :, :, 1:])) + torch.sum(
        torch.abs(x[:, :, :-1, :] - x[:, :, 1:, :])
    )


def pgd(model, x, y, eps=0.1, alpha=0.05, steps=2):
    adv = x.clone().detach()
    for _ in range(steps):
        adv.requires_grad = True
        loss = F.cross_entropy(model(adv), y)
        grad = torch.autograd.grad(loss, adv, retain_graph=False, create_graph=False)[0]
        adv = adv.detach() + alpha * grad.sign()
        delta = torch.clamp(adv - x, min=-eps, max=eps)
        adv = torch.clamp(x + delta, min=0, max=1).detach()
    return adv


def make():
    return {"net": Net()}


def run(m, rng):
    out = []
    net = m["net"]
    best_model_wts = copy.deepcopy(net.state_dict())
    best_acc = 0.0
    optimizer = SAM(net.parameters(), optim.SGD, lr=1e-2, momentum=0.9)
    sch = lr_scheduler.StepLR(optimizer.base_optimizer, step_size=2, gamma=0.1)
    x = torch.from_numpy(rng.random((4, 3, 12, 12))).float()
    y = torch.from_numpy(rng.integers(0, 5, 4))
    grads = []
    net.fc.weight.register_hook(lambda g: grads.append(g.abs().mean()))
    for epoch in range(3):
        for phase in ["train", "val"]:
            net.train() if phase == "train" else net.eval()
            running_loss, running_corrects = 0.0, 0
            with torch.set_grad_enabled(phase == "train"):
                outputs = net(x)
                _, preds = torch.max(outputs, 1)
                loss = F.cross_entropy(outputs, y)
                if phase == "train":
                    loss.backward()
                    optimizer.first_step(zero_grad=True)
                    F.cross_entropy(net(x), y).backward()
                    optimizer.second_step(zero_grad=True)
            running_loss += loss.item() * x.size(0)
            running_corrects += torch.sum(preds == y.data)
            if phase == "train":
                sch.step()
            acc = running_corrects.double() / 4
            if phase == "val" and acc > best_acc:
                best_acc = acc
                best_model_wts = copy.deepcopy(net.state_dict())
            out += [("loss", running_loss), ("acc", acc), ("out", outputs)]
    net.load_state_dict(best_model_wts)
    out += [("grads", torch.stack(grads))]
    la = Lookahead(optim.RMSprop(net.parameters(), lr=1e-3, alpha=0.9))
    for _ in range(4):
        la.optimizer.zero_grad()
        y_, f = net(x, return_features=True)
        l = (y_**2).mean() + (gram(f["eq"]) - gram(f["eq"].detach() * 0.5)).pow(2).sum() + 1e-3 * tv(f["eq"])
        l.backward()
        la.step()
        out.append(("l", l))
    net.eval()
    out.append(("pgd", pgd(net, x, y)))
    # R1
    xr = x.clone().requires_grad_()
    o = net(xr)
    (g,) = torch.autograd.grad(outputs=o.sum(), inputs=xr, create_graph=True)
    r1 = g.pow(2).reshape(g.shape[0], -1).sum(1).mean()
    net.zero_grad()
    r1.backward()
    out += [("r1", r1), ("r1g", net.fc.weight.grad), ("r1c", net.ws.weight.grad)]
    # MAML inner loop with functional weights
    w = [p.clone().detach().requires_grad_() for p in (net.fc.weight, net.fc.bias)]
    xi = torch.from_numpy(rng.standard_normal((4, 16))).float()
    fast = w
    for _ in range(2):
        l = F.cross_entropy(F.linear(xi, fast[0], fast[1]), y)
        gr = torch.autograd.grad(l, fast, create_graph=True)
        fast = [p - 0.4 * g for p, g in zip(fast, gr)]
    F.cross_entropy(F.linear(xi, *fast), y).backward()
    out += [("maml", w[0].grad)]
    # image optimisation
    img = torch.full((1, 3, 12, 12), 0.5).requires_grad_(True)
    o = optim.Adam([img], lr=0.05)

    def closure():
        o.zero_grad()
        l = F.mse_loss(net(img, True)[1]["eq"], torch.zeros(1, 8, 12, 12)) + 0.01 * tv(img)
        l.backward()
        return l

    for _ in range(3):
        l = o.step(closure)
    with torch.no_grad():
        img.clamp_(0, 1)
    out += [("img", img), ("il", l.item())]
    out += [
        ("repr", repr(net.dense)),
        ("str", str(net.ps)),
        ("rg", str([n for n, _ in net.named_buffers()])),
        ("kids", str([n for n, _ in net.named_children()])),
        ("mods", str([n for n, _ in net.named_modules()])),
    ]
    out += [
        ("t", "{:.4f} {}".format(out[0][1], x.shape[0])),
        ("f", f"{loss:.3f}"),
        ("dt", str(x.dtype).split(".")[-1]),
        ("sz", str(list(x.size()))),
        ("dev", str(x.device)),
    ]
    return out

import math
import itertools
import torch
import torch.nn.functional as F
import torch.nn as nn
from torch.nn import Conv1d, ConvTranspose1d, AvgPool1d, Conv2d
from torch.nn.utils import weight_norm, remove_weight_norm, spectral_norm

LRELU_SLOPE = 0.1


def init_weights(m, mean=0.0, std=0.01):
    classname = m.__class__.__name__
    if classname.find("Conv") != -1:
        m.weight.data.normal_(mean, std)


def get_padding(kernel_size, dilation=1):
    return int((kernel_size * dilation - dilation) / 2)


class ResBlock1(torch.nn.Module):
    def __init__(self, h, channels, kernel_size=3, dilation=(1, 3, 5)):
        super(ResBlock1, self).__init__()
        self.convs1 = nn.ModuleList(
            [
                weight_norm(Conv1d(channels, channels, kernel_size, 1, dilation=d, padding=get_padding(kernel_size, d)))
                for d in dilation
            ]
        )
        self.convs1.apply(init_weights)
        self.convs2 = nn.ModuleList(
            [
                weight_norm(Conv1d(channels, channels, kernel_size, 1, dilation=1, padding=get_padding(kernel_size, 1)))
                for d in dilation
            ]
        )
        self.convs2.apply(init_weights)

    def forward(self, x):
        for c1, c2 in zip(self.convs1, self.convs2):
            xt = F.leaky_relu(x, LRELU_SLOPE)
            xt = c1(xt)
            xt = F.leaky_relu(xt, LRELU_SLOPE)
            xt = c2(xt)
            x = xt + x
        return x

    def remove_weight_norm(self):
        for l in self.convs1:
            remove_weight_norm(l)
        for l in self.convs2:
            remove_weight_norm(l)


class Generator(torch.nn.Module):
    def __init__(self):
        super(Generator, self).__init__()
        self.num_kernels = 2
        rates = [4, 2]
        ks = [8, 4]
        self.conv_pre = weight_norm(Conv1d(16, 32, 7, 1, padding=3))
        self.ups = nn.ModuleList()
        for i, (u, k) in enumerate(zip(rates, ks)):
            self.ups.append(
                weight_norm(ConvTranspose1d(32 // (2**i), 32 // (2 ** (i + 1)), k, u, padding=(k - u) // 2))
            )
        self.resblocks = nn.ModuleList()
        for i in range(len(self.ups)):
            ch = 32 // (2 ** (i + 1))
            for j, (k, d) in enumerate(zip([3, 7], [[1, 3, 5], [1, 3, 5]])):
                self.resblocks.append(ResBlock1(None, ch, k, d))
        self.conv_post = weight_norm(Conv1d(ch, 1, 7, 1, padding=3))
        self.ups.apply(init_weights)
        self.conv_post.apply(init_weights)

    def forward(self, x):
        x = self.conv_pre(x)
        for i in range(len(self.ups)):
            x = F.leaky_relu(x, LRELU_SLOPE)
            x = self.ups[i](x)
            xs = None
            for j in range(self.num_kernels):
                if xs is None:
                    xs = self.resblocks[i * self.num_kernels + j](x)
                else:
                    xs += self.resblocks[i * self.num_kernels + j](x)
            x = xs / self.num_kernels
        x = F.leaky_relu(x)
        x = self.conv_post(x)
        x = torch.tanh(x)
        return x

    def remove_weight_norm(self):
        for l in self.ups:
            remove_weight_norm(l)
        for l in self.resblocks:
            l.remove_weight_norm()
        remove_weight_norm(self.conv_pre)
        remove_weight_norm(self.conv_post)


class DiscriminatorP(torch.nn.Module):
    def __init__(self, period, kernel_size=5, stride=3, use_spectral_norm=False):
        super(DiscriminatorP, self).__init__()
        self.period = period
        norm_f = weight_norm if use_spectral_norm == False else spectral_norm
        self.convs = nn.ModuleList(
            [
                norm_f(Conv2d(1, 8, (kernel_size, 1), (stride, 1), padding=(get_padding(5, 1), 0))),
                norm_f(Conv2d(8, 16, (kernel_size, 1), (stride, 1), padding=(get_padding(5, 1), 0))),
                norm_f(Conv2d(16, 16, (kernel_size, 1), 1, padding=(2, 0))),
            ]
        )
        self.conv_post = norm_f(Conv2d(16, 1, (3, 1), 1, padding=(1, 0)))

    def forward(self, x):
        fmap = []
        b, c, t = x.shape
        if t % self.period != 0:  # pad first
            n_pad = self.period - (t % self.period)
            x = F.pad(x, (0, n_pad), "reflect")
            t = t + n_pad
        x = x.view(b, c, t // self.period, self.period)
        for l in self.convs:
            x = l(x)
            x = F.leaky_relu(x, LRELU_SLOPE)
            fmap.append(x)
        x = self.conv_post(x)
        fmap.append(x)
        x = torch.flatten(x, 1, -1)
        return x, fmap


class DiscriminatorS(torch.nn.Module):
    def __init__(self, use_spectral_norm=False):
        super(DiscriminatorS, self).__init__()
        norm_f = weight_norm if use_spectral_norm == False else spectral_norm
        self.convs = nn.ModuleList(
            [
                norm_f(Conv1d(1, 16, 15, 1, padding=7)),
                norm_f(Conv1d(16, 16, 41, 2, groups=4, padding=20)),
                norm_f(Conv1d(16, 16, 5, 1, padding=2)),
            ]
        )
        self.conv_post = norm_f(Conv1d(16, 1, 3, 1, padding=1))

    def forward(self, x):
        fmap = []
        for l in self.convs:
            x = l(x)
            x = F.leaky_relu(x, LRELU_SLOPE)
            fmap.append(x)
        x = self.conv_post(x)
        fmap.append(x)
        x = torch.flatten(x, 1, -1)
        return x, fmap


class MSD(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.discriminators = nn.ModuleList(
            [DiscriminatorS(use_spectral_norm=True), DiscriminatorS(), DiscriminatorP(2), DiscriminatorP(3)]
        )
        self.meanpools = nn.ModuleList([AvgPool1d(4, 2, padding=2), AvgPool1d(4, 2, padding=2)])

    def forward(self, y, y_hat):
        rs, gs, fr, fg = [], [], [], []
        for i, d in enumerate(self.discriminators):
            if i == 1:
                y = self.meanpools[i - 1](y)
                y_hat = self.meanpools[i - 1](y_hat)
            a, b = d(y)
            rs.append(a)
            fr.append(b)
            a, b = d(y_hat)
            gs.append(a)
            fg.append(b)
        return rs, gs, fr, fg


def feature_loss(fmap_r, fmap_g):
    loss = 0
    for dr, dg in zip(fmap_r, fmap_g):
        for rl, gl in zip(dr, dg):
            loss += torch.mean(torch.abs(rl - gl))
    return loss * 2


def discriminator_loss(rs, gs):
    loss = 0
    r_losses = []
    for dr, dg in zip(rs, gs):
        r_loss = torch.mean((1 - dr) ** 2)
        g_loss = torch.mean(dg**2)
        loss += r_loss + g_loss
        r_losses.append(r_loss.item())
    return loss, r_losses


def generator_loss(outs):
    loss = 0
    for dg in outs:
        loss += torch.mean((1 - dg) ** 2)
    return loss


def make():
    return {"g": Generator(), "d": MSD()}


def mel(y, win):
    y = F.pad(y.unsqueeze(1), (24, 24), mode="reflect").squeeze(1)
    spec = torch.stft(
        y,
        64,
        hop_length=16,
        win_length=64,
        window=win,
        center=False,
        pad_mode="reflect",
        normalized=False,
        onesided=True,
        return_complex=True,
    )
    spec = torch.view_as_real(spec)
    spec = torch.sqrt(spec.pow(2).sum(-1) + 1e-9)
    return torch.log(torch.clamp(spec, min=1e-5))


def run(m, rng):
    out = []
    g, d = m["g"], m["d"]
    optim_g = torch.optim.AdamW(g.parameters(), 2e-4, betas=[0.8, 0.99])
    optim_d = torch.optim.AdamW(itertools.chain(d.parameters()), 2e-4, betas=[0.8, 0.99])
    sg = torch.optim.lr_scheduler.ExponentialLR(optim_g, gamma=0.999, last_epoch=-1)
    g.train()
    d.train()
    win = torch.hann_window(64)
    for step in range(2):
        x = torch.FloatTensor(rng.standard_normal((2, 16, 32)))
        y = torch.FloatTensor(rng.standard_normal((2, 256))).unsqueeze(1)
        y_hat = g(x)
        optim_d.zero_grad()
        rs, gs, _, _ = d(y, y_hat.detach())
        loss_d, _ = discriminator_loss(rs, gs)
        loss_d.backward()
        optim_d.step()
        optim_g.zero_grad()
        loss_mel = F.l1_loss(mel(y.squeeze(1), win), mel(y_hat.squeeze(1), win)) * 45
        rs, gs, fr, fg = d(y, y_hat)
        loss_g = generator_loss(gs) + feature_loss(fr, fg) + loss_mel
        loss_g.backward()
        optim_g.step()
        out += [
            ("ld", loss_d.item()),
            ("lg", loss_g),
            ("yhat", y_hat),
            ("gv", g.conv_pre.weight_v.grad),
            ("gg", g.ups[0].weight_g.grad),
        ]
    sg.step()
    g.eval()
    g.remove_weight_norm()
    with torch.no_grad():
        out.append(("final", g(x)))
    out.append(("keys", str(sorted(g.state_dict().keys()))))
    return out

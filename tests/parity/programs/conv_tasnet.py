import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd import Variable
from itertools import permutations

EPS = 1e-8


def overlap_and_add(signal, frame_step):
    outer_dimensions = signal.size()[:-2]
    frames, frame_length = signal.size()[-2:]
    import math

    subframe_length = math.gcd(frame_length, frame_step)
    subframe_step = frame_step // subframe_length
    subframes_per_frame = frame_length // subframe_length
    output_size = frame_step * (frames - 1) + frame_length
    output_subframes = output_size // subframe_length
    subframe_signal = signal.reshape(*outer_dimensions, -1, subframe_length)
    frame = torch.arange(0, output_subframes).unfold(0, subframes_per_frame, subframe_step)
    frame = signal.new_tensor(frame).long()
    frame = frame.contiguous().view(-1)
    result = signal.new_zeros(*outer_dimensions, output_subframes, subframe_length)
    result.index_add_(-2, frame, subframe_signal)
    return result.view(*outer_dimensions, -1)


class GlobalLayerNorm(nn.Module):
    def __init__(self, channel_size):
        super(GlobalLayerNorm, self).__init__()
        self.gamma = nn.Parameter(torch.Tensor(1, channel_size, 1))
        self.beta = nn.Parameter(torch.Tensor(1, channel_size, 1))
        self.reset_parameters()

    def reset_parameters(self):
        self.gamma.data.fill_(1)
        self.beta.data.zero_()

    def forward(self, y):
        mean = y.mean(dim=1, keepdim=True).mean(dim=2, keepdim=True)
        var = (torch.pow(y - mean, 2)).mean(dim=1, keepdim=True).mean(dim=2, keepdim=True)
        return self.gamma * (y - mean) / torch.pow(var + EPS, 0.5) + self.beta


class ChannelwiseLayerNorm(nn.Module):
    def __init__(self, channel_size):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channel_size, 1))
        self.beta = nn.Parameter(torch.zeros(1, channel_size, 1))

    def forward(self, y):
        mean = torch.mean(y, dim=1, keepdim=True)
        var = torch.var(y, dim=1, keepdim=True, unbiased=False)
        return self.gamma * (y - mean) / torch.pow(var + EPS, 0.5) + self.beta


class Chomp1d(nn.Module):
    def __init__(self, chomp_size):
        super().__init__()
        self.chomp_size = chomp_size

    def forward(self, x):
        return x[:, :, : -self.chomp_size].contiguous()


class TemporalBlock(nn.Module):
    def __init__(self, i, o, kernel_size, dilation, causal):
        super().__init__()
        conv1x1 = nn.Conv1d(i, o, 1, bias=False)
        pad = (kernel_size - 1) * dilation if causal else dilation
        dw = nn.Conv1d(o, o, kernel_size, padding=pad, dilation=dilation, groups=o, bias=False)
        layers = (
            [dw] + ([Chomp1d(pad)] if causal else []) + [nn.PReLU(), GlobalLayerNorm(o), nn.Conv1d(o, i, 1, bias=False)]
        )
        self.net = nn.Sequential(conv1x1, nn.PReLU(), GlobalLayerNorm(o), nn.Sequential(*layers))

    def forward(self, x):
        residual = x
        return self.net(x) + residual


class ConvTasNet(nn.Module):
    def __init__(self, N=32, L=16, B=16, H=24, P=3, X=3, R=2, C=2, causal=False):
        super().__init__()
        self.C, self.N, self.L = C, N, L
        self.encoder = nn.Conv1d(1, N, kernel_size=L, stride=L // 2, bias=False)
        rep = []
        for r in range(R):
            rep += [nn.Sequential(*[TemporalBlock(B, H, P, 2**x, causal) for x in range(X)])]
        self.network = nn.Sequential(
            ChannelwiseLayerNorm(N),
            nn.Conv1d(N, B, 1, bias=False),
            nn.Sequential(*rep),
            nn.Conv1d(B, C * N, 1, bias=False),
        )
        self.basis = nn.Linear(N, L, bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_normal_(p)

    def forward(self, mixture):
        mixture = torch.unsqueeze(mixture, 1)
        w = F.relu(self.encoder(mixture))
        M, N, K = w.size()
        mask = F.relu(self.network(w).view(M, self.C, N, K))
        s = torch.unsqueeze(w, 1) * mask
        s = torch.transpose(s, 2, 3)
        s = self.basis(s)
        s = overlap_and_add(s, self.L // 2)
        T = mixture.size(-1)
        return F.pad(s, (0, T - s.size(-1)))


def cal_si_snr_with_pit(source, est, source_lengths):
    assert source.size() == est.size()
    B, C, T = source.size()
    mask = get_mask(source, source_lengths)
    est = est * mask
    num_samples = source_lengths.view(-1, 1, 1).float()
    mean_target = torch.sum(source, dim=2, keepdim=True) / num_samples
    mean_est = torch.sum(est, dim=2, keepdim=True) / num_samples
    zt = (source - mean_target) * mask
    ze = (est - mean_est) * mask
    s_target = torch.unsqueeze(zt, dim=1)
    s_est = torch.unsqueeze(ze, dim=2)
    dot = torch.sum(s_est * s_target, dim=3, keepdim=True)
    energy = torch.sum(s_target**2, dim=3, keepdim=True) + EPS
    proj = dot * s_target / energy
    noise = s_est - proj
    snr = torch.sum(proj**2, dim=3) / (torch.sum(noise**2, dim=3) + EPS)
    snr = 10 * torch.log10(snr + EPS)
    perms = source.new_tensor(list(permutations(range(C))), dtype=torch.long)
    index = torch.unsqueeze(perms, 2)
    perms_one_hot = source.new_zeros((*perms.size(), C)).scatter_(2, index, 1)
    snr_set = torch.einsum("bij,pij->bp", [snr, perms_one_hot])
    idx = torch.argmax(snr_set, dim=1)
    best, _ = torch.max(snr_set, dim=1, keepdim=True)
    best /= C
    return best, perms, idx


def get_mask(source, source_lengths):
    B, _, T = source.size()
    mask = source.new_ones((B, 1, T))
    for i in range(B):
        mask[i, :, source_lengths[i] :] = 0
    return mask


def reorder_source(source, perms, max_idx):
    B, C, *_ = source.size()
    mp = torch.index_select(perms, dim=0, index=max_idx)
    out = torch.zeros_like(source)
    for b in range(B):
        for c in range(C):
            out[b, c] = source[b, mp[b][c]]
    return out


def make():
    return {"net": ConvTasNet(), "causal": ConvTasNet(causal=True)}


def run(m, rng):
    out = []
    for k in m:
        model = m[k]
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
        sch = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", factor=0.5, patience=0)
        for step in range(3):
            src = torch.from_numpy(rng.standard_normal((3, 2, 400))).float()
            lengths = torch.LongTensor([400, 350, 300])
            mix = src.sum(dim=1)
            est = model(mix)
            snr, perms, idx = cal_si_snr_with_pit(src, est, lengths)
            loss = 0 - torch.mean(snr)
            optimizer.zero_grad()
            loss.backward()
            gn = torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
            optimizer.step()
            sch.step(loss)
            out += [
                ("loss", loss),
                ("gn", gn),
                ("est", est),
                ("re", reorder_source(est.data, perms, idx)),
                ("lr", optimizer.state_dict()["param_groups"][0]["lr"]),
            ]
    return out

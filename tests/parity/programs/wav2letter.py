import torch
import torch.nn as nn
import torch.nn.functional as F


class GatedConv(nn.Module):
    def __init__(self, i, o, k, s=1, d=1):
        super().__init__()
        self.conv = nn.utils.weight_norm(nn.Conv1d(i, o * 2, k, stride=s, padding=(k - 1) * d // 2, dilation=d))
        self.norm = nn.BatchNorm1d(o, eps=1e-3, momentum=0.01)
        self.act = nn.GLU(dim=1)

    def forward(self, x):
        return self.norm(self.act(self.conv(x)))


class MaskedSep(nn.Module):
    def __init__(self, c, k):
        super().__init__()
        self.dw = nn.Conv1d(c, c, k, groups=c, padding="same", bias=False)
        self.pw = nn.Conv1d(c, c, 1)
        self.gn = nn.GroupNorm(4, c)
        self.act = nn.Hardtanh(0, 20, inplace=True)

    def forward(self, x, lens):
        mask = torch.arange(x.size(2)).to(lens.device)[None, :] >= lens[:, None]
        x = x.masked_fill(mask.unsqueeze(1).to(device=x.device), 0)
        return self.act(self.gn(self.pw(self.dw(x)))) + x


class Wav2Letter(nn.Module):
    def __init__(self, n_mels=20, classes=8):
        super().__init__()
        self.front = nn.Sequential(GatedConv(n_mels, 24, 11, 2), nn.Dropout(0.0), GatedConv(24, 24, 5))
        self.blocks = nn.ModuleList([MaskedSep(24, k) for k in (5, 7)])
        self.head = nn.Conv1d(24, classes, 1)

    def forward(self, x, lens):
        x = self.front(x)
        lens = torch.div(lens + 1, 2, rounding_mode="floor")
        for b in self.blocks:
            x = b(x, lens)
        return self.head(x), lens


class GreedyCTCDecoder(torch.nn.Module):
    def __init__(self, labels, blank=0):
        super().__init__()
        self.labels, self.blank = labels, blank

    def forward(self, emission):
        indices = torch.argmax(emission, dim=-1)
        indices = torch.unique_consecutive(indices, dim=-1)
        return "".join([self.labels[i] for i in indices if i != self.blank])


def make():
    return {"net": Wav2Letter()}


def run(m, rng):
    out = []
    net = m["net"]
    crit = nn.CTCLoss(blank=0, reduction="mean", zero_infinity=True)
    opt = torch.optim.NAdam(net.parameters(), lr=1e-3, weight_decay=1e-4)
    sch = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=5e-3, steps_per_epoch=2, epochs=3, anneal_strategy="linear")
    for step in range(5):
        x = torch.from_numpy(rng.standard_normal((3, 20, 50))).float()
        lens = torch.tensor([50, 40, 21])
        targets = torch.from_numpy(rng.integers(1, 8, (3, 10)))
        tl = torch.tensor([10, 6, 3], dtype=torch.long)
        logits, olens = net(x, lens)
        lp = F.log_softmax(logits.permute(2, 0, 1), dim=2)
        loss = crit(lp, targets, olens, tl)
        flat = torch.cat([t[:n] for t, n in zip(targets, tl)])
        l2 = F.ctc_loss(lp, flat, tuple(olens.tolist()), tuple(tl.tolist()), reduction="none")
        opt.zero_grad()
        (loss + 0.1 * l2.sum()).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 400)
        opt.step()
        sch.step()
        out += [
            ("loss", loss),
            ("l2", l2),
            ("g", net.head.weight.grad),
            ("g0", net.front[0].conv.weight_v.grad),
            ("lr", sch.get_last_lr()),
            ("beta", opt.param_groups[0]["betas"]),
        ]
    net.eval()
    dec = GreedyCTCDecoder("-abcdefg")
    with torch.inference_mode():
        e, _ = net(x, lens)
        out.append(("dec", dec(e[0].t())))
    return out

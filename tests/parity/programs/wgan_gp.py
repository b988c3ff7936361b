import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import autograd
from torch.autograd import Variable
from torch.nn.utils.parametrizations import spectral_norm
import numpy as np

Tensor = torch.FloatTensor


def weights_init_normal(m):
    classname = m.__class__.__name__
    if classname.find("Conv") != -1:
        torch.nn.init.normal_(m.weight.data, 0.0, 0.02)
    elif classname.find("BatchNorm2d") != -1:
        torch.nn.init.normal_(m.weight.data, 1.0, 0.02)
        torch.nn.init.constant_(m.bias.data, 0.0)


class Generator(nn.Module):
    def __init__(self, nz=8, ngf=8, nc=1):
        super().__init__()
        self.label_emb = nn.Embedding(10, nz)
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf * 4, 4, 1, 0, bias=False),
            nn.BatchNorm2d(ngf * 4, 0.8),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 4, ngf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf * 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(ngf * 2, nc, 3, stride=1, padding=1),
            nn.Tanh(),
        )

    def forward(self, noise, labels):
        gen_input = torch.mul(self.label_emb(labels), noise)
        return self.main(gen_input[..., None, None])


class Discriminator(nn.Module):
    def __init__(self, ndf=8):
        super().__init__()

        def block(i, o, bn=True):
            b = [nn.Conv2d(i, o, 3, 2, 1), nn.LeakyReLU(0.2, inplace=True), nn.Dropout2d(0.0)]
            if bn:
                b.append(nn.InstanceNorm2d(o, affine=True))
            return b

        self.model = nn.Sequential(*block(1, ndf, bn=False), *block(ndf, ndf * 2))
        ds = 16 // 2**2
        self.adv_layer = nn.Sequential(nn.Linear(ndf * 2 * ds**2, 1))
        self.aux_layer = nn.Sequential(nn.Linear(ndf * 2 * ds**2, 10), nn.Softmax(dim=1))

    def forward(self, img):
        out = self.model(img)
        out = out.view(out.shape[0], -1)
        return self.adv_layer(out), self.aux_layer(out)


def compute_gradient_penalty(D, real_samples, fake_samples, alpha):
    interpolates = (alpha * real_samples + ((1 - alpha) * fake_samples)).requires_grad_(True)
    d_interpolates = D(interpolates)[0]
    fake = Variable(Tensor(real_samples.shape[0], 1).fill_(1.0), requires_grad=False)
    gradients = autograd.grad(
        outputs=d_interpolates,
        inputs=interpolates,
        grad_outputs=fake,
        create_graph=True,
        retain_graph=True,
        only_inputs=True,
    )[0]
    gradients = gradients.view(gradients.size(0), -1)
    return ((gradients.norm(2, dim=1) - 1) ** 2).mean()


def make():
    g, d = Generator(), Discriminator()
    g.apply(weights_init_normal)
    d.apply(weights_init_normal)
    return {"g": g, "d": d}


def run(m, rng):
    out = []
    g, d = m["g"], m["d"]
    opt_g = torch.optim.Adam(g.parameters(), lr=2e-4, betas=(0.5, 0.999))
    opt_d = torch.optim.Adam(d.parameters(), lr=2e-4, betas=(0.5, 0.999))
    auxiliary = torch.nn.NLLLoss()
    for it in range(3):
        imgs = Tensor(rng.standard_normal((6, 1, 16, 16)))
        real = Variable(imgs.type(Tensor))
        z = Variable(Tensor(rng.normal(0, 1, (6, 8))))
        labels = Variable(torch.LongTensor(rng.integers(0, 10, 6)))
        opt_d.zero_grad()
        fake = g(z, labels)
        rv, ra = d(real)
        fv, fa = d(fake.detach())
        alpha = Tensor(rng.random((6, 1, 1, 1)))
        gp = compute_gradient_penalty(d, real.data, fake.data, alpha)
        d_loss = -torch.mean(rv) + torch.mean(fv) + 10 * gp + auxiliary(torch.log(ra + 1e-8), labels)
        d_loss.backward()
        out += [(n, p.grad.clone()) for n, p in d.named_parameters()]
        opt_d.step()
        for p in d.parameters():
            p.data.clamp_(-0.5, 0.5)
        opt_g.zero_grad()
        for p in d.parameters():
            p.requires_grad = False
        fv, fa = d(g(z, labels))
        g_loss = -torch.mean(fv) + F.cross_entropy(fa, labels)
        g_loss.backward()
        for p in d.parameters():
            p.requires_grad = True
        opt_g.step()
        out += [("dl", d_loss.item()), ("gl", g_loss.item()), ("gp", gp), ("gw", g.main[0].weight.grad)]
        print("[D loss: %f] [G loss: %f]" % (d_loss.item(), g_loss.item())) if False else None
    return out

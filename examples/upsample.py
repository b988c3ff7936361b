"""A transposed convolution learns to undo a convolution with stride: half the samples in, all of them out."""

from math import pi

import lucid
import lucid.nn as nn

lucid.manual_seed(0)
time = lucid.linspace(0, 1, 256)
waves = lucid.stack([lucid.sin(2 * pi * f * time) for f in range(1, 17)]).unsqueeze(1)
halves = waves[:, :, ::2]

net = nn.ConvTranspose1d(1, 1, kernel_size=8, stride=2, padding=3)
optimizer = lucid.optim.Adam(net.parameters(), lr=0.02)
for _ in range(300):
    loss = ((net(halves) - waves)[:, :, 8:-8] ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

print(f"mean squared error {loss.item():.2e}")
assert loss.item() < 1e-3

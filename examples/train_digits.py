"""A training loop written out: scikit-learn's digits, in the words PyTorch's users know."""

import numpy as np
from sklearn.datasets import load_digits

import lucid
import lucid.nn as nn
import lucid.nn.functional as F
from lucid.data import DataLoader, TensorDataset

EPOCHS = 8


class Net(nn.Module):
    """Two convolutions, each followed by a pooling, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, kernel_size=3, padding="same")
        self.second = nn.Conv2d(16, 32, kernel_size=3, padding="same")
        self.last = nn.Linear(32 * 2 * 2, 10)

    def forward(self, x: lucid.Tensor) -> lucid.Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.max_pool2d(F.relu(self.second(x)), 2)
        return self.last(x.flatten(1))


lucid.manual_seed(0)
digits = load_digits()
images = lucid.from_numpy((digits.images / 16).astype(np.float32)).unsqueeze(1)
classes = lucid.from_numpy(digits.target)
learn = DataLoader(TensorDataset(images[:1400], classes[:1400]), batch_size=32, shuffle=True)

net = Net()
optimizer = lucid.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
for epoch in range(EPOCHS):
    for x, y in learn:
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with lucid.inference_mode():
        right = (net(images[1400:]).argmax(1) == classes[1400:]).float().mean().item()
    print(f"epoch {epoch + 1}: last loss {loss.item():.3f}, held-out accuracy {right:.3f}")

assert right > 0.9

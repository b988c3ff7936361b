"""What the first training step of the digits network costs: with an empty kernel cache, and with a filled one.

python -m benchmarks.first_step
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

STEP = """
import time
begin = time.perf_counter()
import lucid
from lucid import nn, optim
from lucid.kernels import jit

net = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10),
)
optimizer = optim.Adam(net.parameters())
x, y = lucid.randn(64, 1, 8, 8), lucid.zeros(64, dtype=lucid.int64)
ready = time.perf_counter()
nn.CrossEntropyLoss()(net(x), y).backward()
optimizer.step()
end = time.perf_counter()
print(f"import and set-up {ready - begin:.2f} s, first step {end - ready:.2f} s,", end=" ")
jit.settle()
print(f"{jit.kernel_count()} kernels, made good afterwards in {time.perf_counter() - end:.2f} s")
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        for start in ("cold", "warm", "warm"):
            print(f"{start}: ", end="", flush=True)
            subprocess.run([sys.executable, "-c", STEP], env={**os.environ, "LUCID_CACHE_DIR": cache}, check=True)


if __name__ == "__main__":
    main()

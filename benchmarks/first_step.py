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

compile_text, made = jit.compile_text, []
def timed(text, *rest):
    start = time.perf_counter()
    code = compile_text(text, *rest)
    made.append((time.perf_counter() - start, text.splitlines()[0]))
    return code
jit.compile_text = timed

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
print(f"{jit.kernel_count()} kernels, {len(made)} by their text in {sum(m[0] for m in made):.2f} s")
for seconds, name in sorted(made, reverse=True)[:5]:
    print(f"  {seconds * 1e3:6.1f} ms {name}")
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        for start in ("cold", "warm", "warm"):
            print(f"{start}: ", end="", flush=True)
            subprocess.run([sys.executable, "-c", STEP], env={**os.environ, "LUCID_CACHE_DIR": cache}, check=True)


if __name__ == "__main__":
    main()

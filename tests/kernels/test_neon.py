"""Every kernel is emitted for NEON and verified by LLVM, though no machine here runs it.

A subprocess, since LLVM aborts on what it cannot lower: kernels are written for NEON as a training step asks for them,
turned into AArch64 assembly, and never called.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys, warnings
from lucid.kernels import jit, settings
from lucid.kernels.isa import NEON
from lucid.kernels.runtime import threads

emitted = {}

class Emitted:
    def __init__(self, text):
        self.assembly = jit.emit_elsewhere(text, NEON)
        emitted[text.splitlines()[0]] = self.assembly.count("fmla")
    def address(self, name):
        assert f"{name}:" in self.assembly, f"{name} is not exported"
        return 1

jit.compile_text = jit._well = lambda text, *_: Emitted(text)
jit.doors.exist = lambda arch: False  # no quick code before it
class Idle:
    run = run_steps = allow = shrink = lambda *args: None
    launch = lambda *args: -1
    method = lambda self, region, otherwise: otherwise

threads._pool = Idle()
threads.set_num_threads(2)
settings.change(isa=NEON)
warnings.simplefilter("ignore")  # results are whatever the memory holds

import lucid
from lucid import nn
from lucid.nn import functional as F

dtype = getattr(lucid, sys.argv[1])
net = nn.Sequential(
    nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3, stride=2, padding=1),
    nn.GELU(), nn.Conv2d(24, 24, 5, padding=2, groups=24), nn.MaxPool2d(2), nn.ConvTranspose2d(24, 16, 4, 2, 1),
    nn.AvgPool2d(2), nn.Conv2d(16, 16, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(16 * 64, 10), nn.Sigmoid(),
).to(dtype=dtype)
signal = nn.Sequential(
    nn.Conv1d(1, 32, 10, stride=5), nn.Conv1d(32, 32, 129, padding=64, groups=32), nn.Tanh(), nn.Conv1d(32, 32, 33),
    nn.ConvTranspose1d(32, 8, 8, stride=4),
).to(dtype=dtype)
volume = nn.Sequential(nn.Conv3d(2, 8, 3, padding=1), nn.ELU(), nn.ConvTranspose3d(8, 4, 2, stride=2)).to(dtype=dtype)
for layers, shape in ((net, (32, 3, 32, 32)), (signal, (4, 1, 8000)), (volume, (2, 2, 12, 12, 12))):
    optimizer = lucid.optim.AdamW(layers.parameters())
    y = layers(lucid.randn(*shape, dtype=dtype, requires_grad=True))
    loss = F.cross_entropy(y.flatten(1), lucid.zeros(shape[0], dtype=lucid.int64)) + y.sum() + y.exp().mean()
    loss.backward()
    optimizer.step()
print(json.dumps(emitted))
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kernel_of_a_training_step_is_emitted_for_neon(dtype: str):
    done = subprocess.run([sys.executable, "-c", SCRIPT, dtype], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-3000:]
    emitted = json.loads(done.stdout.splitlines()[-1])
    assert len(emitted) >= 25, sorted(emitted)
    assert sum(count > 0 for count in emitted.values()) >= 5, "convolutions multiply and add in one instruction"

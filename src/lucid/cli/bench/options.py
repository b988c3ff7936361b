"""The words of ``lucid bench``, apart from the command so that the others need not load it."""

from __future__ import annotations

import argparse
from pathlib import Path

from lucid.cli.bench.peers import PEERS
from lucid.cli.bench.problem import SUITES

EXAMPLES = """\
examples:
  lucid bench --quick                           every layer for a moment: for a look, not for a figure
  lucid bench --only "rn 3x3" --peers torch     layers whose name contains a text, beside PyTorch alone
  lucid bench --suite drawn --forward-only      layers that no kernel was tuned on
  lucid bench --out runs/bench                  runs/bench.json, runs/bench.md and runs/bench.png
"""


def add_options(made: argparse.ArgumentParser) -> None:
    """What the command understands, but for ``--threads``."""
    made.add_argument("--only", metavar="TEXT", help="only the layers whose name contains TEXT")
    made.add_argument("--suite", choices=list(SUITES), default="layers", help="which layers (default: %(default)s)")
    made.add_argument("--list", action="store_true", help="name the layers and measure nothing")
    made.add_argument("--forward-only", action="store_true", help="leave the gradients out")
    made.add_argument("--quick", action="store_true", help="few rounds: for a look, not for a figure")
    made.add_argument(
        "--peers",
        default="torch,torch-pages,ort,openvino",
        metavar="NAMES",
        help=f"who takes turns with Lucid, of {', '.join(PEERS)}; those not installed are left out "
        "(default: %(default)s; '' for none)",
    )
    made.add_argument(
        "--isa", choices=["avx2"], help="hold Lucid and its peers to an instruction set; without those that cannot be"
    )
    made.add_argument(
        "--base", default="lucid", choices=list(PEERS), help="whose time the ratios are over (default: %(default)s)"
    )
    made.add_argument("--out", type=Path, metavar="FILE", help="write FILE.json, FILE.md and FILE.png")

"""The command line: its words, their meaning, and the exit status."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from lucid.cli.bench import options as bench_options
from lucid.cli.errors import CommandError
from lucid.cli.export import export
from lucid.cli.predict import predict
from lucid.cli.tasks import TASKS
from lucid.cli.train import INTERRUPTED, train

WRONG_USE = 2

TRAIN_EXAMPLES = """\
examples:
  lucid train digits                        a network for handwritten digits, in runs/digits
  lucid train vowels --epochs 40 --seed 1   tell nine speakers apart, with a longer run
  lucid train digits --threads 1 --out /tmp/one
  lucid train digits --resume               go on after Ctrl-C, to the same weights bit for bit
  lucid train digits --resume --epochs 20   add epochs to a finished run
"""
PREDICT_EXAMPLES = """\
examples:
  lucid predict runs/digits/checkpoint.safetensors              accuracy on the held-out samples
  lucid predict runs/digits/checkpoint.safetensors 17           one held-out sample
  lucid predict runs/digits/checkpoint.safetensors mine.npy     (8, 8) or (N, 8, 8), values 0 to 16
  lucid predict runs/vowels/checkpoint.safetensors voice.csv    12 rows of up to 29 numbers
"""
EXPORT_EXAMPLES = """\
examples:
  lucid export runs/digits/checkpoint.safetensors                    runs/digits/checkpoint.onnx
  lucid export runs/vowels/checkpoint.safetensors --out vowels.onnx --opset 20
"""
EXAMPLES = """\
examples:
  lucid train digits
  lucid predict runs/digits/checkpoint.safetensors
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USE, f"{self.prog}: {message}; see {self.prog} --help\n")


def whole(least: int) -> Callable[[str], int]:
    """A reader of whole numbers from ``least`` up."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} up")
        return int(text)

    return read


def rate(text: str) -> float:
    """A reader of learning rates."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def parser() -> argparse.ArgumentParser:
    """Every command and option."""
    top = Parser(
        prog="lucid",
        description="Train small convolution networks on real data, use them, export them, and time their layers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"lucid {version('lucid-conv')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_predict(commands)
    _add_export(commands)
    _add_bench(commands)
    return top


def _add_train(commands: argparse._SubParsersAction[Parser]) -> None:
    made = commands.add_parser(
        "train",
        help="train a network and write its checkpoint and its picture",
        description="Train a network. After every epoch, and on Ctrl-C, the checkpoint is written.",
        epilog=TRAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("task", choices=list(TASKS), help="what to learn")
    made.add_argument("--epochs", type=whole(1), metavar="N", help="passes over the data " + _defaults("epochs"))
    made.add_argument("--lr", type=rate, metavar="X", help="first learning rate " + _defaults("lr"))
    made.add_argument("--batch-size", type=whole(1), metavar="N", help="samples a step " + _defaults("batch_size"))
    made.add_argument("--seed", type=whole(0), metavar="N", help="of the weights and the order " + _defaults("seed"))
    made.add_argument("--threads", type=whole(1), metavar="N", help="native threads (default: one a core)")
    made.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: runs/TASK)")
    made.add_argument(
        "--resume",
        type=Path,
        nargs="?",
        const=True,
        metavar="FILE",
        help="go on where the checkpoint FILE (default: the one in DIR) ends; its own settings hold",
    )
    made.set_defaults(run=train)


def _add_predict(commands: argparse._SubParsersAction[Parser]) -> None:
    made = commands.add_parser(
        "predict",
        help="use a trained network",
        description="Say what a trained network makes of samples.",
        epilog=PREDICT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("checkpoint", type=Path, help="a file that lucid train wrote")
    made.add_argument("input", nargs="?", help="a .npy or .csv file, or a held-out sample's number (default: all)")
    made.set_defaults(run=predict)


def _add_export(commands: argparse._SubParsersAction[Parser]) -> None:
    made = commands.add_parser(
        "export",
        help="write a trained network as an ONNX file",
        description="Write a trained network as an ONNX file, which ONNX Runtime, OpenVINO and others run, and check\n"
        "it on the held-out samples. Needs the package onnx: pip install 'lucid-conv[onnx]'.\n"
        "From Python any model is exported: lucid.onnx.export(model, example, path).",
        epilog=EXPORT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("checkpoint", type=Path, help="a file that lucid train wrote")
    made.add_argument("--out", type=Path, metavar="FILE", help="where to write (default: beside the checkpoint, .onnx)")
    made.add_argument("--opset", type=whole(1), metavar="N", help="version of ONNX's operators (default: 18)")
    made.set_defaults(run=export)


def _add_bench(commands: argparse._SubParsersAction[Parser]) -> None:
    made = commands.add_parser(
        "bench",
        help="time convolution layers beside other libraries",
        description="Time convolution layers in Lucid and in PyTorch, ONNX Runtime and OpenVINO, in turns,\n"
        "results checked. × is another library's time over Lucid's.",
        epilog=bench_options.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench_options.add_options(made)
    made.add_argument("--threads", type=whole(1), metavar="N", help="threads of each library (default: one a core)")
    made.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    from lucid.cli.bench.command import bench  # brings LLVM, which the other words do without until they compute

    return bench(options)


def _defaults(name: str) -> str:
    """What each task takes where the option is left out."""
    values = {task.name: f"{getattr(task.recipe, name):g}" for task in TASKS.values()}
    if len(set(values.values())) == 1:
        return f"(default: {next(iter(values.values()))})"
    return "(default: " + ", ".join(f"{value} for {task}" for task, value in values.items()) + ")"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status: 0, 1 for wrong results, 2 where the user can mend it, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except CommandError as error:
        return _complain(options.command, str(error))
    except BrokenPipeError:
        # Whoever read the output has gone; what is left must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _complain(options.command, f"{error.filename or 'the disk'}: {error.strerror}; choose another place")
    except KeyboardInterrupt:
        print(f"\nlucid {options.command}: stopped at once; the last checkpoint stands", file=sys.stderr)
        return INTERRUPTED


def _complain(command: str, text: str) -> int:
    print(f"lucid {command}: {text}", file=sys.stderr)
    return WRONG_USE


if __name__ == "__main__":
    sys.exit(main())

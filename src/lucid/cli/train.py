"""``lucid train``: a run on the screen, its checkpoint and its picture."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import lucid
from lucid.cli.errors import CommandError
from lucid.cli.progress import Screen, columns, percent
from lucid.cli.run import Checkpoint, Epoch, Run, evaluate
from lucid.cli.tasks import TASKS, Recipe, Task
from lucid.io import atomic_write

CHECKPOINT = "checkpoint.safetensors"
PICTURE = "report.png"
INTERRUPTED = 130  # what a shell reports of a command that Ctrl-C ended
HEADINGS = ("epoch", "loss", "accuracy", "held-out loss", "held-out accuracy", "seconds")
WIDTHS = tuple(max(len(heading), 7) for heading in HEADINGS)


@dataclass(slots=True)
class Request:
    """Whether the user asked to stop."""

    stop: bool = False


@contextmanager
def stop_on_signal() -> Iterator[Request]:
    """Ctrl-C or a termination asks to stop after the batch; a second one stops at once."""
    request = Request()

    def asked(number: int, frame: FrameType | None) -> None:
        request.stop = True
        signal.signal(number, previous[number])

    previous: dict[int, Any] = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train(options: argparse.Namespace) -> int:
    """Run the command; its exit status."""
    if options.threads:
        lucid.set_num_threads(options.threads)
    run, checkpoint = prepare(options)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    screen = Screen(sys.stdout)
    announce(run, screen)
    with stop_on_signal() as request:
        complete = carry_on(run, checkpoint, screen, request)
    if not complete:
        return report_stop(run, checkpoint, screen)
    finish(run, checkpoint, screen)
    return 0


def prepare(options: argparse.Namespace) -> tuple[Run, Path]:
    """The run that the options ask for, new or resumed, and where its checkpoint goes."""
    task = TASKS[options.task]
    out = options.out or (options.resume.parent if isinstance(options.resume, Path) else Path("runs") / task.name)
    if not options.resume:
        return Run(task, new_recipe(options, task), task.load()), out / CHECKPOINT
    source = options.resume if isinstance(options.resume, Path) else out / CHECKPOINT
    checkpoint = Checkpoint.read(source)
    if checkpoint.task is not task:
        raise CommandError(f"{source} is a run on {checkpoint.task.name}: lucid train {checkpoint.task.name} --resume")
    return Run.restored(checkpoint, task.load(), resumed_recipe(options, checkpoint)), out / CHECKPOINT


def asked_for(options: argparse.Namespace) -> dict[str, Any]:
    """The parts of the recipe that the command line sets."""
    names = ("epochs", "lr", "batch_size", "seed")
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def new_recipe(options: argparse.Namespace, task: Task) -> Recipe:
    return replace(task.recipe, **asked_for(options))


def resumed_recipe(options: argparse.Namespace, checkpoint: Checkpoint) -> Recipe:
    """The checkpoint's recipe. Only more epochs can be asked for: anything else would not continue that run."""
    for name, value in asked_for(options).items():
        had = getattr(checkpoint.recipe, name)
        if name != "epochs" and value != had:
            flag = name.replace("_", "-")
            raise CommandError(f"the run to resume has --{flag} {had}, not {value}: leave --{flag} out, or start anew")
    epochs = options.epochs or checkpoint.recipe.epochs
    done = checkpoint.state["position"]["epoch"]
    if epochs < done:
        raise CommandError(f"the run to resume has done {done} epochs already: ask for more than --epochs {epochs}")
    return replace(checkpoint.recipe, epochs=epochs)


def announce(run: Run, screen: Screen) -> None:
    """What is trained, on how much, and from where."""
    weights = sum(p.numel() for p in run.network.parameters())
    learn, held_out = len(run.data.train_x), len(run.data.test_x)
    screen.line(f"{run.task.title}: {learn} to learn from, {held_out} held out")
    screen.line(f"{weights:,} weights, batches of {run.recipe.batch_size}, {lucid.get_num_threads()} threads")
    if run.history or run.position.batch:
        screen.line(f"resumed after {place(run)}")
    screen.line()
    screen.line(columns(HEADINGS, WIDTHS))
    for row in run.history:
        screen.line(table_row(row))


def place(run: Run) -> str:
    """Where a run stands, in words."""
    here = run.position
    if not here.batch:
        return f"epoch {here.epoch} of {run.recipe.epochs}"
    return f"batch {here.batch} of {run.batches} of epoch {here.epoch + 1} of {run.recipe.epochs}"


def table_row(row: Epoch) -> str:
    cells = (
        f"{row.number}",
        f"{row.loss:.4f}",
        percent(row.accuracy),
        f"{row.held_out_loss:.4f}",
        percent(row.held_out_accuracy),
        f"{row.seconds:.2f}",
    )
    return columns(cells, WIDTHS)


def carry_on(run: Run, checkpoint: Path, screen: Screen, request: Request) -> bool:
    """Train until done or asked to stop, with a checkpoint after every epoch; whether it is done."""
    while not run.finished:
        for tally in run.steps():
            label = f"epoch {run.position.epoch + 1:>3}/{run.recipe.epochs}"
            note = f"loss {tally.mean_loss:.4f}  accuracy {percent(tally.accuracy)}"
            screen.bar(label, run.position.batch / run.batches, note)
            if request.stop:
                run.save(checkpoint)
                return False
        row = run.finish_epoch()
        run.save(checkpoint)
        screen.line(table_row(row))
        if request.stop:
            return run.finished
    return True


def report_stop(run: Run, checkpoint: Path, screen: Screen) -> int:
    screen.line(f"stopped after {place(run)}; wrote {checkpoint}")
    screen.line(f"go on with: lucid train {run.task.name} --resume {checkpoint}")
    return INTERRUPTED


def finish(run: Run, checkpoint: Path, screen: Screen) -> None:
    """Say how good the network is, and draw it."""
    if not run.history:
        return
    tally, found = evaluate(run.network, run.data.test_x, run.data.test_y)
    seconds = sum(row.seconds for row in run.history)
    screen.line()
    screen.line(
        f"held-out accuracy {percent(tally.accuracy)}, {tally.right} of {tally.seen}, "
        f"after {len(run.history)} epochs and {seconds:.1f} s of training"
    )
    if not math.isfinite(run.history[-1].loss):
        screen.line("the loss is not a finite number any more: train anew with a smaller --lr")
    screen.line(f"wrote {checkpoint}")
    picture = checkpoint.with_name(PICTURE)
    try:
        from lucid.viz.report import Outcome, draw
    except ImportError:
        screen.line(f"no {picture}: pip install 'lucid-conv[demo]' brings matplotlib, which draws it")
        return
    outcome = Outcome(
        title=run.task.title,
        kind=run.task.kind,
        classes=run.task.classes,
        history=[(row.loss, row.held_out_loss, row.accuracy, row.held_out_accuracy) for row in run.history],
        samples=run.data.test_x,
        truth=run.data.test_y,
        found=found,
        filters=next(run.network.parameters()).numpy(force=True),
    )
    with atomic_write(picture) as file:
        draw(outcome).savefig(file, format="png", dpi=110)
    screen.line(f"wrote {picture}")

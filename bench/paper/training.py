"""Training that survives being killed: it goes on from its last checkpoint, to the same losses bit for bit.

That holds because a step depends on two things alone: on its number, which decides the batch and the draws, and on
what a checkpoint keeps, model and optimizer. No generator has a state to lose.
"""

import argparse
import io
import statistics
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from ..results import replace

CHECKPOINT_SECONDS = 5.0  # the most that a kill costs
RUNNING_STEPS = 100  # the loss beside the bar is the mean of so many steps
SEEDS = 2**63


class CheckpointError(Exception):
    """A checkpoint can't be used; the message says what to do."""


@dataclass
class Training:
    """What is trained, and what came of it so far: one entry of `losses` and `seconds` a step.

    `loss(step)` gives the losses of that step, one an element for runs that train side by side on parameters of
    their own: their sum is differentiated, so that none feels the others.
    """

    name: str  # of the checkpoint, and beside the bar
    configuration: Mapping[str, object]  # all that decides the losses
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[int], Tensor]
    losses: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def step(self) -> None:
        start = time.perf_counter()
        loss = self.loss(len(self.losses))
        self.optimizer.zero_grad()
        loss.sum().backward()
        self.optimizer.step()
        self.losses.append(loss.detach().reshape(-1).tolist())
        self.seconds.append(time.perf_counter() - start)

    def means(self, window: int) -> np.ndarray:
        """Mean losses over each whole window of steps, [windows, runs]."""
        losses = np.array(self.losses)
        return losses[: len(losses) // window * window].reshape(-1, window, losses.shape[1]).mean(1)


def add_arguments(parser: argparse.ArgumentParser, epochs: int, seeds: int) -> None:
    """The options of every training, with the defaults of this one."""
    parser.add_argument("--epochs", type=_positive, metavar="N", help=f"how long to train (default: {epochs})")
    parser.add_argument("--seeds", type=_positive, metavar="N", help=f"how many seeds to train (default: {seeds})")
    parser.add_argument("--fresh", action="store_true", help="train anew, in place of what checkpoints hold")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def seeds(first: int, count: int) -> list[int]:
    return [(first + i) % SEEDS for i in range(count)]


class Batches:
    """Batches of images, as a function of the step alone: each epoch visits all in an order of its own."""

    def __init__(self, images: Tensor, size: int, seed: int) -> None:
        self.images, self.size, self.seed = images, size, seed
        self.an_epoch = len(images) // size
        self._epoch = -1

    def __call__(self, step: int) -> Tensor:
        epoch, place = divmod(step, self.an_epoch)
        if epoch != self._epoch:
            (state,) = np.random.SeedSequence((self.seed, epoch)).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(state))
            self._epoch, self._order = epoch, torch.randperm(len(self.images), generator=generator)
        return self.images[self._order[place * self.size : (place + 1) * self.size]]


def train(training: Training, steps: int, folder: Path, fresh: bool, console: Console) -> None:
    """Bring a training to `steps`, from its checkpoint in the folder if there is one.

    A checkpoint with fewer steps is gone on from, so a run can be made longer. Raises CheckpointError where it has
    more, or another configuration, or isn't whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{training.name}.pt"
    configuration = {**training.configuration, "threads": torch.get_num_threads(), "torch": str(torch.__version__)}
    if path.exists() and not fresh:
        _resume(training, path, configuration, steps)
        done = len(training.losses)
        what = "was finished before; --fresh trains anew" if done == steps else f"goes on after step {done}"
        console.print(f"{training.name}: {what} ({path})", highlight=False, soft_wrap=True)
    if len(training.losses) == steps:
        return
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
        TextColumn("loss {task.fields[loss]:.4g}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(training.name, total=steps, completed=len(training.losses), loss=float("nan"))
        saved = time.monotonic()
        while len(training.losses) < steps:
            training.step()
            running = statistics.fmean(map(statistics.fmean, training.losses[-RUNNING_STEPS:]))
            progress.update(task, advance=1, loss=running)
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                _save(training, path, configuration)
                saved = time.monotonic()
    _save(training, path, configuration)


def _save(training: Training, path: Path, configuration: Mapping[str, object]) -> None:
    content = io.BytesIO()
    checkpoint = {
        "configuration": dict(configuration),
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "losses": torch.tensor(training.losses, dtype=torch.float64),
        "seconds": torch.tensor(training.seconds, dtype=torch.float64),
    }
    torch.save(checkpoint, content)
    replace(path, content.getvalue())


def _resume(training: Training, path: Path, configuration: Mapping[str, object], steps: int) -> None:
    checkpoint = _read(path)
    differences = _differences(checkpoint["configuration"], configuration)
    if len(checkpoint["losses"]) > steps:
        differences.append(f"steps: the checkpoint has {len(checkpoint['losses'])}, asked for {steps}")
    if differences:
        raise CheckpointError(
            "\n  ".join([f"{path} is of another run:", *differences])
            + "\nGive this run another --output, or --fresh to train anew in its place."
        )
    training.model.load_state_dict(checkpoint["model"])
    training.optimizer.load_state_dict(checkpoint["optimizer"])
    training.losses = checkpoint["losses"].tolist()
    training.seconds = checkpoint["seconds"].tolist()


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load by itself doesn't see flipped bits
            if broken := archive.testzip():
                raise zipfile.BadZipFile(f"{broken} has another checksum")
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
        missing = {"configuration", "model", "optimizer", "losses", "seconds"} - set(checkpoint)
        if missing:
            raise KeyError(f"no {', '.join(sorted(missing))}")
    except Exception as error:  # whatever it is that a damaged file makes the readers raise
        raise CheckpointError(
            f"{path} is no whole checkpoint ({error}).\nMove it away, or give --fresh to train anew in its place."
        ) from error
    return checkpoint


def _differences(checkpoint: Mapping[str, object], asked: Mapping[str, object]) -> list[str]:
    return [
        f"{key}: the checkpoint has {checkpoint.get(key)!r}, asked for {asked.get(key)!r}"
        for key in dict.fromkeys([*asked, *checkpoint])
        if checkpoint.get(key) != asked.get(key)
    ]

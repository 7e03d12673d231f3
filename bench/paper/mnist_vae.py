"""The paper's categorical VAE on MNIST (Table 2), trained with one estimator after the other.

A setting named CxL has L latent variables of C categories each. Targets are greyscale; the loss is the negative
ELBO in nats an image, and its KL term differentiates through the probabilities.
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

import reinmax_kernels

PIXELS = 784
BATCH = 100
RUNNING_STEPS = 100  # the running loss is the mean of so many steps


@dataclass(frozen=True)
class Setting:
    """The hyper-parameters that the paper gives one estimator for one size of the latent space."""

    label: str
    estimator: Callable[..., tuple[Tensor, Tensor]]
    categories: int
    latents: int
    optimizer: type[torch.optim.Adam] | type[torch.optim.RAdam]
    learning_rate: float
    tau: float


SETTINGS = (
    Setting("ReinMax", reinmax_kernels.reinmax, 10, 30, torch.optim.RAdam, 5e-4, 1.3),
    Setting("ST", reinmax_kernels.straight_through, 10, 30, torch.optim.RAdam, 7e-4, 1.4),
)


class CategoricalVAE(nn.Module):
    def __init__(self, categories: int, latents: int) -> None:
        super().__init__()
        self.categories, self.latents = categories, latents
        self.encoder = _perceptron(PIXELS, 512, 256, latents * categories)
        self.decoder = _perceptron(latents * categories, 256, 512, PIXELS)

    def encode(self, images: Tensor) -> Tensor:
        """Logits [B, L, C] of the latent variables of images [B, 784]."""
        return self.encoder(images).unflatten(-1, (self.latents, self.categories))

    def decode(self, one_hot: Tensor) -> Tensor:
        """Logits [B, 784] of the pixels, from one-hot latent variables [B, L, C]."""
        return self.decoder(one_hot.flatten(-2))


def _perceptron(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them, and nothing after the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def negative_elbo(images: Tensor, pixel_logits: Tensor, probs: Tensor) -> Tensor:
    """Mean over the batch of the reconstruction's cross-entropy and of KL(q || uniform), q = probs [B, L, C]."""
    batch, latents, categories = probs.shape
    cross_entropy = functional.binary_cross_entropy_with_logits(pixel_logits, images, reduction="sum") / batch
    negative_entropy = (probs * (probs + 1e-10).log()).sum() / batch
    return cross_entropy + negative_entropy + latents * math.log(categories)


def batches(images: Tensor, seed: int) -> Iterator[Tensor]:
    """Batches [BATCH, 784] in [0, 1] of uint8 images [N, 28, 28], shuffled anew each epoch, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(images), generator=generator)
        for index in order[: len(order) // BATCH * BATCH].split(BATCH):
            yield as_input(images[index])


def as_input(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255


@dataclass
class Run:
    """A training in progress or done: `losses` and `seconds` hold one value a step."""

    setting: Setting
    seed: int
    model: CategoricalVAE
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def train(
    setting: Setting, images: Tensor, steps: int, seed: int, after_step: Callable[[Run], None] = lambda run: None
) -> Run:
    """Train on uint8 images [N, 28, 28]. The seed decides the weights, the order of the images and the draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        run = Run(setting, seed, CategoricalVAE(setting.categories, setting.latents))
    optimizer = setting.optimizer(run.model.parameters(), lr=setting.learning_rate)
    for step, batch in zip(range(steps), batches(images, seed), strict=False):
        start = time.perf_counter()
        logits = run.model.encode(batch)
        one_hot, probs = setting.estimator(logits, setting.tau, seed=seed, offset=step)
        loss = negative_elbo(batch, run.model.decode(one_hot), probs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.losses.append(loss.item())
        run.seconds.append(time.perf_counter() - start)
        after_step(run)
    return run


@torch.no_grad()
def reconstruct(run: Run, images: Tensor) -> Tensor:
    """The expected pixels [N, 28, 28] after one draw of the latent variables of each image."""
    logits = run.model.encode(as_input(images))
    one_hot, _ = run.setting.estimator(logits, run.setting.tau, seed=run.seed, offset=len(run.losses))
    return run.model.decode(one_hot).sigmoid().unflatten(-1, images.shape[1:])


def compare(
    settings: Sequence[Setting], images: Tensor, steps: int, seed: int, data_set: str, console: Console
) -> list[Run]:
    """Train every setting on the same batches from the same weights, and print the running losses."""
    runs = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("-ELBO {task.fields[loss]:.1f}"), console=console, transient=True) as progress:
        for setting in settings:
            task = progress.add_task(f"VAE with {setting.label}", total=steps, loss=math.nan)

            def show(run: Run, task: TaskID = task) -> None:
                progress.update(task, advance=1, loss=statistics.mean(run.losses[-RUNNING_STEPS:]))

            runs.append(train(setting, images, steps, seed, show))
    _print_runs(runs, steps, steps * BATCH / len(images), data_set, console)
    return runs


def _print_runs(runs: Sequence[Run], steps: int, epochs: float, data_set: str, console: Console) -> None:
    window = max(1, min(RUNNING_STEPS, steps // 2))
    table = Table(
        *("estimator", "latents", "settings", "data set", "seed", "steps"),
        *(f"-ELBO, first {window}", f"-ELBO, last {window}", "ms/step"),
        title="Categorical VAE, greyscale targets: training -ELBO, nats an image",
        caption=f"Mean over the steps named; batch {BATCH}, {epochs:.2g} epochs. The paper trains 160 epochs.",
    )
    for run in runs:
        setting = run.setting
        table.add_row(
            setting.label,
            f"{setting.latents} of {setting.categories}",
            f"{setting.optimizer.__name__} {setting.learning_rate:g}, τ {setting.tau:g}",
            data_set,
            str(run.seed),
            str(steps),
            f"{statistics.mean(run.losses[:window]):.2f}",
            f"{statistics.mean(run.losses[-window:]):.2f}",
            f"{1e3 * statistics.median(run.seconds):.1f}",
        )
    console.print(table)


def draw_reconstructions(runs: Sequence[Run], images: Tensor, path: Path) -> None:
    """A picture of one row of uint8 images [N, 28, 28], and one row of reconstructions for each run."""
    rows = {"original": images / 255} | {run.setting.label: reconstruct(run, images) for run in runs}
    figure = Figure(figsize=(len(images), len(rows) * 1.05), layout="constrained")
    axes = figure.subplots(len(rows), len(images), squeeze=False)
    for row, (label, pictures) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(label)
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture.numpy(), cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)

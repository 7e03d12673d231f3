"""The categorical VAE on MNIST (Table 2), trained with each estimator at the paper's settings.

A size named CxL has L latent variables of C categories each. Targets are greyscale; the loss is the negative ELBO in
nats an image, and its KL term differentiates through the probabilities. The default of 20 epochs takes about a
quarter of an hour on two cores; the paper's protocol is `--latents all --epochs 160 --seeds 10`, some days.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.optim import Adam, Optimizer, RAdam

import reinmax_kernels

from .. import data, results
from . import curves, training
from .curves import spread
from .estimators import ESTIMATORS
from .training import Batches, Training
from .vae import CategoricalVAE, as_input, negative_elbo

BATCH = 100
DEFAULT = {"epochs": 20, "seeds": 1}
QUICK_STEPS = 1200  # two epochs of MNIST
PUBLISHED = "published (160 epochs, 10 seeds)"
PICTURES = 10
QUICK = ("ReinMax", "ST")  # the estimators of a --quick run


@dataclass(frozen=True)
class Setting:
    """The hyper-parameters that the paper gives one estimator for one size, and the -ELBO that it reports."""

    latents: str
    estimator: str
    optimizer: type[Optimizer]
    learning_rate: float
    tau: float
    published: float

    @property
    def label(self) -> str:
        return f"{self.optimizer.__name__} {1e4 * self.learning_rate:g}e-4, τ {self.tau:g}"


SETTINGS = (
    Setting("8x4", "ReinMax", Adam, 5e-4, 1.3, 124.66),
    Setting("8x4", "ST", Adam, 10e-4, 1.3, 135.53),
    Setting("8x4", "STGS", Adam, 3e-4, 0.5, 126.85),
    Setting("8x4", "GR-MCK", Adam, 5e-4, 0.5, 125.94),
    Setting("8x4", "GST-1.0", Adam, 5e-4, 1.0, 126.35),
    Setting("4x24", "ReinMax", RAdam, 5e-4, 1.5, 99.77),
    Setting("4x24", "ST", RAdam, 10e-4, 1.5, 112.03),
    Setting("4x24", "STGS", RAdam, 5e-4, 0.3, 101.32),
    Setting("4x24", "GR-MCK", RAdam, 5e-4, 0.3, 99.96),
    Setting("4x24", "GST-1.0", RAdam, 5e-4, 0.5, 101.49),
    Setting("8x16", "ReinMax", RAdam, 7e-4, 1.5, 97.70),
    Setting("8x16", "ST", RAdam, 10e-4, 1.5, 112.94),
    Setting("8x16", "STGS", RAdam, 5e-4, 0.5, 99.32),
    Setting("8x16", "GR-MCK", RAdam, 7e-4, 0.7, 99.58),
    Setting("8x16", "GST-1.0", RAdam, 7e-4, 0.5, 98.29),
    Setting("16x12", "ReinMax", RAdam, 7e-4, 1.5, 98.06),
    Setting("16x12", "ST", Adam, 5e-4, 1.5, 113.31),
    Setting("16x12", "STGS", RAdam, 7e-4, 0.7, 100.09),
    Setting("16x12", "GR-MCK", Adam, 5e-4, 1.0, 102.54),
    Setting("16x12", "GST-1.0", RAdam, 7e-4, 0.5, 98.12),
    Setting("64x8", "ReinMax", RAdam, 5e-4, 1.5, 100.71),
    Setting("64x8", "ST", Adam, 5e-4, 1.5, 113.90),
    Setting("64x8", "STGS", RAdam, 7e-4, 0.7, 104.00),
    Setting("64x8", "GR-MCK", Adam, 7e-4, 2.0, 112.34),
    Setting("64x8", "GST-1.0", RAdam, 7e-4, 0.7, 102.53),
    Setting("10x30", "ReinMax", RAdam, 5e-4, 1.3, 98.37),
    Setting("10x30", "ST", RAdam, 7e-4, 1.4, 112.63),
    Setting("10x30", "STGS", RAdam, 5e-4, 0.5, 99.63),
    Setting("10x30", "GR-MCK", RAdam, 5e-4, 1.0, 102.02),
    Setting("10x30", "GST-1.0", RAdam, 5e-4, 0.5, 98.64),
)
Runs = Mapping[Setting, Sequence[Training]]  # of one size; one training a seed
SIZES = tuple(dict.fromkeys(setting.latents for setting in SETTINGS))


def prepare(setting: Setting, images: data.Images, seed: int, suffix: str = "") -> Training:
    """The training of one setting. The seed decides the weights, the order of the images and the draws."""
    categories, latents = map(int, setting.latents.split("x"))
    model = CategoricalVAE(categories, latents, seed)
    batches = Batches(images.train, BATCH, seed)

    def loss(step: int) -> Tensor:
        batch = as_input(batches(step))
        one_hot, probs = ESTIMATORS[setting.estimator](model.encode(batch), setting.tau, seed=seed, offset=step)
        return negative_elbo(batch, model.decode(one_hot), probs)

    return Training(
        name=f"vae-{images.key}-{setting.latents}-{setting.estimator}-seed{seed}{suffix}",
        configuration={
            **{"experiment": "mnist-vae", "data set": images.title, "images": len(images.train), "batch": BATCH},
            **{"latents": setting.latents, "estimator": setting.estimator, "seed": seed, "tau": setting.tau},
            **{"optimizer": setting.optimizer.__name__, "learning rate": setting.learning_rate},
        },
        model=model,
        optimizer=setting.optimizer(model.parameters(), lr=setting.learning_rate),
        loss=loss,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    data.add_arguments(parser)
    parser.add_argument(
        "--latents", choices=[*SIZES, "all"], default="10x30", help="categories x latent variables (default: 10x30)"
    )
    parser.add_argument(
        *("--estimators",),
        **{"nargs": "+", "choices": list(ESTIMATORS), "metavar": "NAME"},
        help=f"some of {', '.join(ESTIMATORS)} (default: all; with --quick: {', '.join(QUICK)})",
    )
    training.add_arguments(parser, **DEFAULT)


def run(options: argparse.Namespace, console: Console) -> None:
    images = data.load(options.data_set, options.data, console)
    an_epoch = len(images.train) // BATCH
    epochs = options.epochs or (max(1, QUICK_STEPS // an_epoch) if options.quick else DEFAULT["epochs"])
    seeds = training.seeds(options.seed, options.seeds or DEFAULT["seeds"])
    suffix = "-quick" if options.quick else ""
    settings = [s for s in SETTINGS if s.estimator in (options.estimators or (QUICK if options.quick else ESTIMATORS))]
    table = Table(
        *("latents\nC x L", "estimator", "settings", "seeds", "steps"),
        *("-ELBO,\nfirst epoch", "-ELBO,\nlast epoch", PUBLISHED.replace(" (", "\n("), "ms/step"),
        title=f"Categorical VAE on {images.title}, greyscale: training -ELBO, nats an image",
        caption=f"Mean over the epoch (± standard deviation over seeds); batch {BATCH}, epochs {epochs}. "
        "Published figures are the paper's, on MNIST, and nothing that ran here.",
    )
    for size in SIZES if options.latents == "all" else [options.latents]:
        runs = {s: [prepare(s, images, seed, suffix) for seed in seeds] for s in settings if s.latents == size}
        for setting, trainings in runs.items():
            for each in trainings:
                training.train(each, epochs * an_epoch, options.output / "checkpoints", options.fresh, console)
            table.add_row(*_cells(setting, trainings, images, an_epoch))
        _save(options, f"vae-{images.key}-{size}{suffix}", size, runs, images, an_epoch)
    console.print(table)


def _cells(setting: Setting, trainings: Sequence[Training], images: data.Images, an_epoch: int) -> list[str]:
    epochs = np.concatenate([each.means(an_epoch) for each in trainings], axis=1)
    return [
        *(setting.latents, setting.estimator, setting.label),
        *(str(len(trainings)), str(len(epochs) * an_epoch), spread(epochs[0], 2), spread(epochs[-1], 2)),
        f"{setting.published:.2f}" if images.key == "mnist" else "-",
        f"{1e3 * statistics.median(trainings[0].seconds):.1f}",
    ]


def _save(options: argparse.Namespace, name: str, size: str, runs: Runs, images: data.Images, an_epoch: int) -> None:
    flat = [each for trainings in runs.values() for each in trainings]
    rows = [
        {**each.configuration, "epoch": epoch + 1, "steps": (epoch + 1) * an_epoch, "-ELBO": float(mean)}
        for each in flat
        for epoch, (mean,) in enumerate(each.means(an_epoch))
    ]
    configuration = {each.name: each.configuration for each in flat}
    results.save(options.output, name, configuration, rows, _draw(size, runs, images))


def _draw(size: str, runs: Runs, images: data.Images) -> Figure:
    """Beside the curves: test images, what the first seed makes of them, and what it decodes from the prior."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.7))
    axes = left.subplots()
    for setting, trainings in runs.items():
        colour = curves.draw(axes, trainings, setting.estimator)
        if images.key == "mnist":
            label = f"{setting.estimator}, {PUBLISHED}"
            axes.axhline(setting.published, color=colour, linestyle=":", linewidth=1, label=label)
    axes.set(xlabel="steps", ylabel="training -ELBO, nats an image", yscale="log")
    for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatted("{x:g}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")

    originals = images.test[:PICTURES]
    rows = {"test images": originals / 255}
    rows |= {f"{s.estimator}:\nreconstructed": reconstruct(s, first, originals) for s, (first, *_) in runs.items()}
    rows |= {f"{s.estimator}:\nfrom the prior": decode_prior(first) for s, (first, *_) in runs.items()}
    _draw_pictures(right.subplots(len(rows), PICTURES), rows)
    figure.suptitle(f"Categorical VAE {size} (categories x latent variables), {images.title}")
    return figure


def _draw_pictures(grid: np.ndarray, rows: dict[str, Tensor]) -> None:
    for axes, (label, pictures) in zip(grid, rows.items(), strict=True):
        axes[0].set_ylabel(label, rotation=0, ha="right", va="center")
        for axis, picture in zip(axes, pictures, strict=True):
            axis.imshow(picture.numpy(), cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])


@torch.no_grad()
def reconstruct(setting: Setting, trained: Training, images: Tensor) -> Tensor:
    """The expected pixels [N, 28, 28] after one draw of the latent variables of each image."""
    one_hot, _ = ESTIMATORS[setting.estimator](trained.model.encode(as_input(images)), setting.tau, seed=0)
    return trained.model.decode(one_hot).sigmoid().unflatten(-1, images.shape[1:])


@torch.no_grad()
def decode_prior(trained: Training) -> Tensor:
    """The expected pixels [PICTURES, 28, 28] of latent variables drawn from the uniform prior."""
    model = trained.model
    one_hot, _ = reinmax_kernels.reinmax(torch.zeros(PICTURES, model.latents, model.categories), seed=1)
    return model.decode(one_hot).sigmoid().unflatten(-1, (28, 28))

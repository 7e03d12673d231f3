"""Time and memory of training steps (the efficiency table), of each estimator and of Gumbel-Rao in plain PyTorch.

The quadratic programme has 128 binary variables and a batch of 512, the VAE 30 variables of 10 categories and a batch
of 100: the estimators' part of a step is what is measured, the draw and the gradient of the logits.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from reinmax_kernels import gumbel_rao

from .. import cases, results, timer
from ..memory import peak_bytes
from ..tables import three_digits
from . import plain_gumbel_rao
from .estimators import ESTIMATORS

SAMPLES = (100, 300, 1000)
QUICK_SAMPLES = (100,)
SECONDS, QUICK_SECONDS = 10.0, 0.5  # a work's share of the time
PLAIN = ", plain PyTorch"


@dataclass(frozen=True)
class Problem:
    """Logits of so many rows, and what the paper publishes of whole training steps: seconds of 200 steps, and MB."""

    rows: int
    categories: int
    published: Mapping[str, str]


_NAMES = ("ReinMax", "ST", "STGS", "GST-1.0", *(f"GR-MCK {k}" for k in SAMPLES))
PROBLEMS = {
    "quadratic": Problem(
        65536,
        2,
        dict(
            zip(
                _NAMES,
                ("0.2s 6.5MB", "0.2s 5.0MB", "0.2s 5.5MB", "0.2s 8.0MB", "0.8s 0.3GB", "2.2s 1GB", "6.6s 3GB"),
                strict=True,
            )
        ),
    ),
    "vae": Problem(
        3000,
        10,
        dict(
            zip(
                _NAMES,
                ("5.2s 13MB", "5.2s 13MB", "5.2s 13MB", "5.2s 13MB", "5.2s 76MB", "5.2s 0.2GB", "5.4s 0.6GB"),
                strict=True,
            )
        ),
    ),
}


def compared(samples: tuple[int, ...]) -> dict[str, Callable[..., tuple[Tensor, Tensor]]]:
    """The table's columns: of Gumbel-Rao one for each number of samples, and beside it plain PyTorch's."""
    columns = {name: estimator for name, estimator in ESTIMATORS.items() if name != "GR-MCK"}
    for k in samples:
        columns[f"GR-MCK {k}"] = partial(gumbel_rao, num_samples=k)
        columns[f"GR-MCK {k}{PLAIN}"] = partial(plain_gumbel_rao.gumbel_rao, num_samples=k)
    return columns


def step(estimator: Callable[..., tuple[Tensor, Tensor]], logits: Tensor, grad: Tensor) -> Tensor:
    one_hot, _ = estimator(logits)
    return torch.autograd.grad(one_hot, logits, grad)[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cases.add_device_argument(parser)


def run(options: argparse.Namespace, console: Console) -> None:
    torch.manual_seed(options.seed)
    columns = compared(QUICK_SAMPLES if options.quick else SAMPLES)
    rows = []
    for name, problem in PROBLEMS.items():
        logits = torch.randn(problem.rows, problem.categories, device=options.device).requires_grad_()
        works = {column: partial(step, e, logits, torch.randn_like(logits)) for column, e in columns.items()}
        seconds = QUICK_SECONDS if options.quick else SECONDS
        times = timer.take_turns(works, seconds, synchronise=cases.wait_for(options.device))
        for column, work in works.items():
            row = {"problem": name, "rows": problem.rows, "categories": problem.categories, "estimator": column}
            row |= {"seconds": statistics.median(times[column]), "peak bytes": peak_bytes(work, options.device)}
            rows.append(row | {"published": problem.published.get(column, "")})
    _print(rows, console)
    configuration = {key: getattr(options, key) for key in ("device", "seed", "quick")}
    configuration |= {"tau": 1.0, "samples": list(SAMPLES)}
    results.save(options.output, "efficiency", configuration, rows, _draw(rows))


def _print(rows: list[dict[str, object]], console: Console) -> None:
    table = Table(
        *("problem", "estimator", "ms", "x ST", "peak, MB", "x ST", "published"),
        title="Time and memory of a draw and its gradient; τ = 1",
        caption="x: so many times what ST takes. Peak: beside the logits. Published figures are the paper's, of 200 "
        "whole training steps of another machine, and nothing that ran here.",
    )
    for problem in PROBLEMS:
        table.add_section()
        of_problem = {row["estimator"]: row for row in rows if row["problem"] == problem}
        for name, row in of_problem.items():
            cells = []
            for key, unit in (("seconds", 1e-3), ("peak bytes", 1e6)):
                cells += [three_digits(row[key] / unit), three_digits(row[key] / of_problem["ST"][key])]
            table.add_row(problem, name, *cells, row["published"])
    console.print(table)


def _draw(rows: list[dict[str, object]]) -> Figure:
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    grid = figure.subplots(1, 2)
    for axes, (key, label, unit) in zip(grid, (("seconds", "ms", 1e-3), ("peak bytes", "MB", 1e6)), strict=True):
        for problem, marker in zip(PROBLEMS, ("o", "s"), strict=True):
            of_problem = [row for row in rows if row["problem"] == problem]
            axes.plot([r["estimator"] for r in of_problem], [r[key] / unit for r in of_problem], marker, label=problem)
        axes.set(ylabel=label, yscale="log")
        axes.tick_params(axis="x", rotation=70)
        axes.grid(alpha=0.3)
    grid[0].legend()
    return figure

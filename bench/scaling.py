"""How the ops' time grows with the categories and with the rows, and where it jumps."""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from . import cases, results
from .cases import Case
from .peers import WORKS, Operands
from .tables import Row, three_digits
from .timer import Spread, ratio, take_turns

ELEMENTS, QUICK_ELEMENTS = 2**22, 2**12  # N * C while C changes, and the largest while N changes
CATEGORIES = 64  # while N changes
SMALL = 32  # up to here the CPU kernels' lanes are rows, and what a row costs by itself shows in every element
CLIFF = 1.5
SECONDS, QUICK_SECONDS = 1.0, 0.02
MEASURED = ("sample", "forward", "backward")


@dataclass(frozen=True)
class Sweep:
    title: str
    varies: str
    cases: Sequence[Case]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cases.add_arguments(parser)


def sweeps(elements: int) -> Sequence[Sweep]:
    powers = [2**exponent for exponent in range(1, 21) if 2**exponent <= elements]
    return (
        Sweep(
            f"Categories, with {elements} elements in all",
            "categories",
            [Case(str(power), elements // power, power, "sweep") for power in powers],
        ),
        Sweep(
            f"Rows of {CATEGORIES} categories",
            "rows",
            [Case(str(power), power, CATEGORIES, "sweep") for power in powers if power * CATEGORIES <= elements],
        ),
    )


def run(options: argparse.Namespace, console: Console) -> None:
    chosen = sweeps(QUICK_ELEMENTS if options.quick else ELEMENTS)
    rows = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(chosen) * len(MEASURED))
        for sweep in chosen:
            generator = torch.Generator().manual_seed(options.seed)
            operands = {case: Operands.random(case, options, generator) for case in sweep.cases}
            for work in MEASURED:
                progress.update(task, description=f"{sweep.title}: {work}")
                rows += _rows(sweep, work, operands, QUICK_SECONDS if options.quick else SECONDS)
                progress.advance(task)
    for sweep in chosen:
        console.print(_table(sweep, [row for row in rows if row["sweep"] == sweep.varies]))
    for work in MEASURED:
        console.print(_cliff([row for row in rows if (row["sweep"], row["work"]) == ("categories", work)]))
    console.print(f"{options.dtype}; {torch.get_num_threads()} threads; median of rounds in which all take turns.")
    results.save(options.output, "scaling", cases.configuration(options), rows, _figure(chosen, rows))


def _rows(sweep: Sweep, name: str, operands: Mapping[Case, Operands], seconds: float) -> list[Row]:
    work = WORKS[name]
    ours = next(iter(work.peers))
    calls = {case.name: work.calls(operands[case])[ours] for case in sweep.cases}
    device = operands[sweep.cases[0]].rows.device.type
    times = take_turns(calls, seconds, synchronise=cases.wait_for(device))
    per_element = {
        case: [1e9 * seconds / (case.rows * case.categories) for seconds in times[case.name]] for case in sweep.cases
    }
    rows = []
    for before, case in itertools.pairwise([None, *sweep.cases]):
        time = Spread.of(per_element[case])
        rows.append(
            {
                "sweep": sweep.varies,
                "work": name,
                "rows": case.rows,
                "categories": case.categories,
                "nanoseconds_per_element": time.median,
                "nanoseconds_per_element_low": time.low,
                "nanoseconds_per_element_high": time.high,
                "step": ratio(per_element[case], per_element[before]).median if before else None,
            }
        )
    return rows


def _cliff(rows: Sequence[Row]) -> str:
    """The largest step between neighbours, up or down, where both are beyond small C; and the step at its border."""
    work = rows[0]["work"]
    (border,) = (row["step"] for row in rows if row["categories"] == 2 * SMALL)
    steps = [row for row in rows if row["categories"] > 2 * SMALL]
    worst = max(steps, key=lambda row: max(row["step"], 1 / row["step"]))
    verdict = "no cliff" if max(worst["step"], 1 / worst["step"]) <= CLIFF else "a CLIFF"
    return (
        f"{work}: beyond {SMALL} categories the largest step is x {three_digits(worst['step'])}, from "
        f"{worst['categories'] // 2} to {worst['categories']} categories: {verdict} by the limit of {CLIFF}. "
        f"From {SMALL} to {2 * SMALL}, where lanes turn from rows to categories, it is x {three_digits(border)}."
    )


def _table(sweep: Sweep, rows: Sequence[Row]) -> Table:
    table = Table(sweep.varies, title=sweep.title, caption="nanoseconds for each element; x: to the line before")
    for work in MEASURED:
        table.add_column(work, justify="right")
        table.add_column("x", justify="right")
    for case in sweep.cases:
        cells = [case.name]
        for row in rows:
            if (row["rows"], row["categories"]) == (case.rows, case.categories):
                cells.append(three_digits(row["nanoseconds_per_element"]))
                cells.append("" if row["step"] is None else three_digits(row["step"]))
        table.add_row(*cells)
    return table


def _figure(chosen: Sequence[Sweep], rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(12, 5), layout="constrained")
    for axes, sweep in zip(figure.subplots(1, len(chosen)), chosen, strict=True):
        for work in MEASURED:
            of_work = [row for row in rows if (row["sweep"], row["work"]) == (sweep.varies, work)]
            axes.loglog(
                [row[sweep.varies] for row in of_work],
                [row["nanoseconds_per_element"] for row in of_work],
                "o-",
                base=2,
                label=work,
            )
        axes.set(title=sweep.title, xlabel=sweep.varies, ylabel="ns for each element")
        axes.set_yscale("log", base=10)
        axes.legend()
    return figure

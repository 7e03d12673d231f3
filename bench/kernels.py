"""How long the ops take, beside what else computes the same, and beside a pass that only moves the same bytes."""

import argparse
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import reinmax_kernels

from . import cases, results
from .cases import Case
from .peers import LIMITS, WORKS, Operands, Work, captured, failure
from .tables import Row, add_sections, table_of_cases, three_digits
from .timer import Spread, page_faults, ratio, take_turns

BUSY = 0.5  # load average from which other work is likely to show
SECONDS = 2.0  # that each peer may use up in its turns: one round of what takes more than a second
QUICK_SECONDS = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cases.add_arguments(parser)
    cases.add_shapes_argument(parser)
    cases.add_graphs_argument(parser)


def run(options: argparse.Namespace, console: Console) -> None:
    cases.check_graphs(options)
    torch.manual_seed(options.seed)  # the peers draw from the global generator
    chosen = cases.chosen(options)
    configuration = cases.configuration(options) | {"graphs": options.graphs}
    configuration["load"] = round(os.getloadavg()[0], 2)  # what else keeps the machine busy
    rows = measure(chosen, options, console)
    for name, work in WORKS.items():
        console.print(_table(work, [row for row in rows if row["work"] == name]))
    console.print(_legend(configuration, chosen), highlight=False)
    if configuration["load"] > BUSY:
        console.print(
            f"The machine was busy (load average {configuration['load']}): don't trust these times.", style="red"
        )
    results.save(options.output, "kernels", configuration, rows, _figure(rows))


def measure(chosen: Sequence[Case], options: argparse.Namespace, console: Console) -> list[Row]:
    generator = torch.Generator().manual_seed(options.seed)
    rows = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(chosen) * len(WORKS))
        for case in chosen:
            torch.compiler.reset()  # compiled for this shape alone, whatever came before
            operands = Operands.random(case, options, generator)
            for name in WORKS:
                progress.update(task, description=f"{case.name}: {name}")
                rows += _rows(case, name, operands, QUICK_SECONDS if options.quick else SECONDS, options.graphs)
                progress.advance(task)
    return rows


def _rows(case: Case, name: str, operands: Operands, seconds: float, graphs: bool) -> list[Row]:
    work = WORKS[name]
    calls = work.calls(operands)
    ours, *others = calls
    failures = {peer: reason for peer in others if (reason := failure(calls[peer], graphs))}
    available = {peer: captured(call) if graphs else call for peer, call in calls.items() if peer not in failures}
    times = take_turns(available, seconds, synchronise=cases.wait_for(operands.rows.device.type))

    def row(peer: str) -> Row:
        about = {
            "work": name,
            "case": case.name,
            "rows": case.rows,
            "categories": case.categories,
            "source": case.source,
            "peer": peer,
        }
        if peer in failures:
            return about | {"unavailable": failures[peer]}
        time, times_ours = Spread.of(times[peer]), ratio(times[peer], times[ours])
        return about | {
            "seconds": time.median,
            "seconds_low": time.low,
            "seconds_high": time.high,
            "rounds": len(times[peer]),
            "ratio": times_ours.median,
            "ratio_low": times_ours.low,
            "ratio_high": times_ours.high,
            "bytes": work.traffic(operands),
            **({} if operands.rows.is_cuda else {"page_faults": page_faults(calls[peer])}),
            **{share: ratio(times[limit], times[peer]).median for limit, share in LIMITS.items() if limit in times},
        }

    return [row(peer) for peer in calls]


def geometric_means(rows: Iterable[Row], key: str) -> dict[str, float]:
    """For each peer, over all the cases where it has such a figure."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.get(key) is not None:
            values.setdefault(row["peer"], []).append(row[key])
    return {peer: statistics.geometric_mean(figures) for peer, figures in values.items()}


def _table(work: Work, rows: Sequence[Row]) -> Table:
    shares = [share for share in LIMITS.values() if any(share in row for row in rows)]
    counts = [count for count in ("page_faults",) if any(count in row for row in rows)]
    headings = ["ms (quartiles)", "x ours", "GB/s", *(name.replace("_", " ") for name in (*shares, *counts))]
    table = table_of_cases(work.title, headings)

    def cells(row: Row) -> Sequence[str]:
        milliseconds = [three_digits(1e3 * row[key]) for key in ("seconds", "seconds_low", "seconds_high")]
        return (
            milliseconds[0] if row["rounds"] == 1 else "{} ({}-{})".format(*milliseconds),
            three_digits(row["ratio"]),
            three_digits(row["bytes"] / row["seconds"] / 1e9),
            *(_percent(row[share]) for share in shares),
            *(str(row[count]) for count in counts),
        )

    add_sections(table, rows, cells)
    if len({row["case"] for row in rows}) > 1:
        _add_means(table, rows, shares)
    return table


def _add_means(table: Table, rows: Sequence[Row], shares: Sequence[str]) -> None:
    table.add_section()
    ratios, *means = (geometric_means(rows, key) for key in ("ratio", *shares))
    labels = iter(["geometric", "means"])
    for peer, mean in ratios.items():
        table.add_row(next(labels, ""), peer, "", three_digits(mean), "", *(_percent(share[peer]) for share in means))


def _percent(share: float) -> str:
    return f"{three_digits(100 * share)}%"


_OF_THE_CPU = (
    "The fresh limit writes to memory had anew, as results are: what lies between is page faults. reinmax_kernels asks "
    "for larger pages and leaves a large one-hot's zeros unwritten, so it can be faster; they are mapped when they are "
    "first read."
)
_OF_A_GPU = (
    "The copy moves as many bytes, half of them each way. What is called again and again stays in the GPU's cache if "
    "it is small."
)


def _legend(configuration: Mapping[str, object], chosen: Sequence[Case]) -> str:
    build = reinmax_kernels.build_info()
    build |= {key: ", ".join(value) for key, value in build.items() if isinstance(value, list)}
    facts = {**configuration, "threads": torch.get_num_threads(), **build}
    return "\n".join(
        [
            *(f"{case.name} ({case.shape}): {case.source}" for case in chosen),
            "Times are medians (quartiles) over rounds in which all take turns; x ours: how many times as long as the "
            "first, round by round. GB/s are of the least that has to move.",
            "The limit moves the same bytes and computes next to nothing, in memory that is there already. "
            + (_OF_A_GPU if configuration["device"] == "cuda" else _OF_THE_CPU),
            "; ".join(f"{key} {value}" for key, value in facts.items() if value != "") + ".",
        ]
    )


def _figure(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(12, 8), layout="constrained")
    for axes, (name, work) in zip(figure.subplots(2, 2).flat, WORKS.items(), strict=True):
        for peer in dict.fromkeys(row["peer"] for row in rows if row["work"] == name):
            timed = [row for row in rows if (row["work"], row["peer"]) == (name, peer) and "seconds" in row]
            rates = [row["bytes"] / row["seconds"] / 1e9 for row in timed]
            axes.plot([row["case"] for row in timed], rates, "_" if peer in LIMITS else "o", label=peer)
        axes.set(title=work.title, ylabel="GB/s", yscale="log")
        axes.tick_params("x", rotation=30)
        axes.legend(fontsize="small")
    return figure

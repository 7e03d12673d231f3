"""What the compiler makes of the Triton kernels, and the time that this allows for: predicted, not measured.

No GPU is needed. Each kernel is compiled as the library would launch it. Instructions of an element are those that all
threads execute, by the machine code and the trips of its loops, over the elements of all rows.
"""

import argparse
from collections.abc import Iterator, Sequence

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .. import cases, results
from ..tables import Row, add_sections, table_of_cases, three_digits
from .code import figures
from .gpus import GPUS
from .launches import AMD, triton_kernels_launch
from .specimens import Specimen, all_specimens, is_on_chip

TARGETS = (80, 90, 100, 120, AMD)
PREDICTED_PATHS = ("sample", "sample_dense", "reinmax_backward", "straight_through_backward")
CAPTION = "predicted, not measured"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=cases.DTYPES, default="float32", help="of the logits (default: float32)")
    cases.add_shapes_argument(parser)


def run(options: argparse.Namespace, console: Console) -> None:
    triton_kernels_launch()
    dtype = getattr(torch, options.dtype)
    configuration = {key: getattr(options, key) for key in ("dtype", "quick")}
    targets, gpus, categories = (TARGETS, GPUS, {}) if not options.quick else ((90, AMD), GPUS[1:2], [64, 4096])
    specimens = all_specimens([dtype], **({"categories": categories} if categories else {}))
    with Progress(console=console, transient=True) as progress:
        rows = list(progress.track(_compiled(specimens, targets), total=len(targets) * len(specimens)))
        code = [row for several in rows for row in several]
        chosen = cases.chosen(options)
        tracked = progress.track(_predicted(chosen, gpus, dtype), total=len(chosen) * len(PREDICTED_PATHS))
        predictions = list(tracked)
    console.print(_table_of_code(code))
    results.save(options.output, "static", configuration, code, _figure_of_code(code))
    table = table_of_cases(f"Microseconds, {CAPTION}", [cell for gpu in gpus for cell in (gpu.name, "bound by")])
    add_sections(table, predictions, lambda row: [cell for gpu in gpus for cell in _cells(row, gpu.name)])
    console.print(table)
    console.print(
        f"{options.dtype}, tau 1. The larger of bytes over bandwidth and instructions over issue slots, by published "
        f"figures of each GPU: {CAPTION}.",
        highlight=False,
    )
    results.save(options.output, "static_predicted", configuration, predictions, _figure_of_times(predictions, gpus))


def _compiled(specimens: Sequence[Specimen], targets: Sequence[int | str]) -> Iterator[list[Row]]:
    """Of each specimen for each target, a row for each launch."""
    for target in targets:
        for specimen in specimens:
            rows = []
            for launch in specimen.launches():
                found = figures(launch, target)
                per_element = launch.threads(target) / specimen.elements
                row = {
                    "path": specimen.path,
                    "rows": specimen.rows,
                    "categories": specimen.categories,
                    "dtype": specimen.dtype_name,
                    "kernel": launch.name,
                    "target": _target_name(target),
                    "warps": launch.warps,
                    "programs": launch.programs,
                    **vars(found),
                }
                if found.executed is not None:
                    row["instructions_per_element"] = found.executed * per_element
                    row["in_loops_per_element"] = found.looped * per_element
                rows.append(row)
            yield rows


def _target_name(target: int | str) -> str:
    return target if isinstance(target, str) else f"sm_{target}"


def _predicted(chosen: Sequence[cases.Case], gpus: Sequence, dtype: torch.dtype) -> Iterator[Row]:
    for case in chosen:
        for path in PREDICTED_PATHS:
            row = {"case": case.name, "rows": case.rows, "categories": case.categories, "peer": path}
            for gpu in gpus:
                specimen = Specimen(path, case.rows, case.categories, dtype, gpu.processors)
                launches = specimen.launches()
                executed = sum(figures(each, gpu.target).executed * each.threads(gpu.target) for each in launches)
                moved = specimen.least_bytes(is_on_chip(launches))
                seconds, bound = gpu.seconds(moved, executed)
                row |= {gpu.name: seconds, f"{gpu.name} bound": bound, f"{gpu.name} memory": moved / gpu.bandwidth}
            yield row


def _cells(row: Row, gpu: str) -> Sequence[str]:
    return three_digits(row[gpu] * 1e6), row[f"{gpu} bound"]


def _table_of_code(rows: Sequence[Row]) -> Table:
    table = Table(title="Machine code")
    headings = ("registers", "spilled", "occupancy", "loads", "stores", "instr./el.", "in loops")
    for heading in ("path", "shape", "kernel", "target"):
        table.add_column(heading)
    for heading in headings:
        table.add_column(heading, justify="right")
    before = None
    for row in rows:
        if (row["path"], row["target"]) != before:
            table.add_section()
            before = row["path"], row["target"]
        known = row["occupancy"] is not None
        figures_of_nvidia = (
            [
                f"{row['occupancy']:.0%}",
                _widths(row["load_bits"]),
                _widths(row["store_bits"]),
                three_digits(row["instructions_per_element"]),
                three_digits(row["in_loops_per_element"]),
            ]
            if known
            else [""] * 5
        )
        table.add_row(
            row["path"],
            f"{row['rows']}x{row['categories']}",
            row["kernel"].removesuffix("_kernel"),
            row["target"],
            str(row["registers"]),
            str(row["spilled_bytes"]),
            *figures_of_nvidia,
        )
    return table


def _widths(count: dict[int, int]) -> str:
    return " ".join(f"{number}x{bits}" for bits, number in count.items())


def _figure_of_code(rows: Sequence[Row]) -> Figure:
    """Instructions of an element, for NVIDIA's targets."""
    rows = [row for row in rows if row["occupancy"] is not None]
    figure = Figure(figsize=(14, 5), layout="constrained")
    axes = figure.subplots()
    for target in dict.fromkeys(row["target"] for row in rows):
        total: dict[str, float] = {}
        for row in rows:
            if row["target"] == target:
                name = f"{row['path']} {row['rows']}x{row['categories']}"
                total[name] = total.get(name, 0) + row["instructions_per_element"]
        axes.plot(list(total), list(total.values()), "o", label=target)
    axes.set(ylabel="instructions an element", yscale="log")
    axes.tick_params("x", rotation=90)
    axes.legend()
    return figure


def _figure_of_times(rows: Sequence[Row], gpus: Sequence) -> Figure:
    figure = Figure(figsize=(4 * len(gpus) + 3, 5), layout="constrained")
    figure.suptitle(f"Time over that of the bytes alone, {CAPTION}")
    names = list(dict.fromkeys(row["case"] for row in rows))
    for axes, gpu in zip(figure.subplots(1, len(gpus), squeeze=False, sharey=True)[0], gpus, strict=True):
        for path in PREDICTED_PATHS:
            ratios = [row[gpu.name] / row[f"{gpu.name} memory"] for row in rows if row["peer"] == path]
            axes.plot(names, ratios, "o", label=path)
        axes.set(title=gpu.name, yscale="log")
        axes.tick_params("x", rotation=60)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(PREDICTED_PATHS))
    return figure

"""How the figures are shown: tables and plots."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from rich.table import Table

from ..tables import Row, add_sections, table_of_cases, three_digits
from .gpus import GPU, PREDICTED

HEADINGS = {  # of columns, and what they show of an NVIDIA launch
    "occ.": lambda row: f"{row['occupancy']:.0%}",
    "loads": lambda row: _widths(row["load_bits"]),
    "stores": lambda row: _widths(row["store_bits"]),
    "instr.": lambda row: ("≤" if row["is_bound"] else "") + _reckoned(row, "instructions_per_element"),
    "in loops": lambda row: _reckoned(row, "in_loops_per_element"),
}
BACKENDS = {"triton": "Triton", "cuda": "CUDA"}


def table_of_code(rows: Sequence[Row]) -> Table:
    """A line for each launch, a section for each path and target."""
    caption = (
        "Loads and stores: those of 16 bytes, of all. Instructions are an element's; outside of loops over long rows,\n"
        "CUDA's kernels count as if they executed all that they have, for masks and for rows that are not aligned too."
    )
    table = Table(title="Machine code", caption=caption, caption_justify="left")
    table.add_column("path")  # the only one that may take two lines
    for heading in ("", "shape"):
        table.add_column(heading, no_wrap=True)
    for heading in ("regs", "spilled", *HEADINGS):
        table.add_column(heading, justify="right", no_wrap=True)
    before = None
    for row in rows:
        labels = [row["path"], row["target"]]
        if labels != before:
            table.add_section()
            table.add_row(*labels)
            before = labels
        shown = [show(row) for show in HEADINGS.values()] if row["occupancy"] is not None else []
        kernel, shape = row["kernel"].removesuffix("_kernel"), f"{row['rows']}x{row['categories']}"
        common = BACKENDS[row["backend"]], shape, str(row["registers"]), str(row["spilled_bytes"])
        table.add_row(f"  {kernel}", *common, *shown)
    return table


def _reckoned(row: Row, key: str) -> str:
    return three_digits(row[key]) if key in row else ""


def _widths(count: Mapping[int, int]) -> str:
    return f"{count.get(128, 0)} of {sum(count.values())}"


def table_of_traffic(rows: Sequence[Row]) -> Table:
    """A line for each path and shape, the backends side by side."""
    caption = (
        "Of the least that a path has to move, a few rows interpreted: bytes that threads load and store, among which\n"
        "each thread's copy of what is one number a row; and sectors of 32 bytes that warps ask for."
    )
    table = Table(title="Traffic", caption=caption, caption_justify="left")
    for heading in ("path", "shape"):
        table.add_column(heading, no_wrap=True)
    for backend in BACKENDS.values():
        for heading in ("bytes", "sectors"):
            table.add_column(f"{backend}: {heading}", justify="right")
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row["path"], f"{row['rows']}x{row['categories']}"), {})[row["backend"]] = row
    for (path, shape), of_backend in lines.items():
        cells = (_traffic(of_backend[each]) if each in of_backend else ("", "") for each in BACKENDS)
        table.add_row(path, shape, *(cell for several in cells for cell in several))
    return table


def _traffic(row: Row) -> tuple[str, str]:
    return f"x {row['bytes_of_least']:.3f}", f"x {row['sectors_of_least']:.3f}"


def figure_of_traffic(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(14, 7), layout="constrained")
    axes = figure.subplots()
    for backend, label in BACKENDS.items():
        of_backend = [row for row in rows if row["backend"] == backend]
        names = [f"{row['path']} {row['rows']}x{row['categories']}" for row in of_backend]
        axes.plot(names, [row["sectors_of_least"] for row in of_backend], "o", label=label)
    axes.set(ylabel="sectors, of the least")
    axes.tick_params("x", rotation=90)
    axes.legend()
    return figure


def table_of_times(rows: Sequence[Row], gpus: Sequence[GPU]) -> Table:
    headings = [cell for gpu in gpus for cell in (gpu.name, "by")]
    table = table_of_cases(f"Microseconds, and what bounds them: {PREDICTED}", headings)
    add_sections(table, rows, lambda row: [cell for gpu in gpus for cell in _cells(row, gpu.name)])
    return table


def _cells(row: Row, gpu: str) -> Sequence[str]:
    return three_digits(row[gpu] * 1e6), {"memory": "mem", "instructions": "instr"}[row[f"{gpu} bound"]]


def figure_of_code(rows: Sequence[Row]) -> Figure:
    """Instructions of an element in all launches of a path, for NVIDIA's targets."""
    figure = Figure(figsize=(14, 7), layout="constrained")
    axes = figure.subplots()
    totals: dict[str, dict[str, float]] = {}
    for row in rows:
        if "instructions_per_element" in row:
            of_target = totals.setdefault(f"{BACKENDS[row['backend']]}, {row['target']}", {})
            name = f"{row['path']} {row['rows']}x{row['categories']}"
            of_target[name] = of_target.get(name, 0) + row["instructions_per_element"]
    for target, of_target in totals.items():
        axes.plot(list(of_target), list(of_target.values()), "o", label=target)
    axes.set(ylabel="instructions an element", yscale="log")
    axes.tick_params("x", rotation=90)
    axes.legend()
    return figure


def figure_of_times(rows: Sequence[Row], gpus: Sequence[GPU]) -> Figure:
    figure = Figure(figsize=(4 * len(gpus) + 3, 5), layout="constrained")
    figure.suptitle(f"Time over that of the bytes alone, {PREDICTED}")
    cases, paths = (list(dict.fromkeys(row[key] for row in rows)) for key in ("case", "peer"))
    for axes, gpu in zip(figure.subplots(1, len(gpus), squeeze=False, sharey=True)[0], gpus, strict=True):
        for path in paths:
            ratios = [row[gpu.name] / row[f"{gpu.name} memory"] for row in rows if row["peer"] == path]
            axes.plot(cases, ratios, "o", label=path)
        axes.set(title=gpu.name, yscale="log")
        axes.tick_params("x", rotation=60)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(paths))
    return figure

"""Write the README's tables of times from the committed results.

The results are had by `python -m bench kernels --output bench/published`, on a GPU with `--device cuda` and `--output
bench/published/cuda`, and with `--graphs` besides and `--output bench/published/graphs`. Only their JSON files are
committed.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from . import results
from .kernels import geometric_means
from .peers import LIMITS
from .tables import Row, three_digits

README = results.ROOT / "README.md"
PUBLISHED = [results.ROOT / "bench" / "published" / run / "kernels.json" for run in ("", "cuda", "graphs")]
BEGIN, END = "<!-- times: written by `python -m bench readme` -->", "<!-- end of times -->"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options beside the common ones."""


def run(options: argparse.Namespace, console: Console) -> None:
    text = README.read_text()
    results.replace(README, between_marks(text, published()).encode())
    console.print(f"{README}: times of {', '.join(map(str, PUBLISHED))}")


def published() -> str:
    return "\n\n".join(times(json.loads(path.read_text())) for path in PUBLISHED)


def between_marks(text: str, content: str) -> str:
    """The text with the content between its two marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def times(document: Mapping[str, Any]) -> str:
    """What the README says of the times, in Markdown."""
    rows, configuration = document["rows"], document["configuration"]
    device = "the CPU" if configuration["device"] == "cpu" else "a GPU"
    return "\n\n".join(
        [
            f"### On {device}{', replayed from CUDA graphs' if configuration.get('graphs') else ''}",
            "Forward and backward of `reinmax`; x: so many times as long as ours takes.",
            _table([row for row in rows if row["work"] == "reinmax"]),
            "The index alone, `sample`.",
            _table([row for row in rows if row["work"] == "sample"]),
            _caption(configuration, document["environment"]),
        ]
    )


def _caption(configuration: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    run = "a quick run" if configuration["quick"] else "a full run"
    return (
        f"{environment['device']}, {environment['threads']} threads, load average {configuration['load']:g} before; "
        f"torch {environment['torch']}, {configuration['dtype']}, tau {configuration['tau']:g}, gradients at "
        f"{configuration['gradients']}; {run} of commit {environment['commit']}, {environment['date'][:10]}."
    )


def _table(rows: Sequence[Row]) -> str:
    ours, *peers = dict.fromkeys(row["peer"] for row in rows if row["peer"] not in LIMITS)
    share, limit = ("of_copy", "of a copy") if any("of_copy" in row for row in rows) else ("of_limit", "of the limit")
    lines = [
        ["case", "shape", f"{ours}, ms", *peers, limit],
        ["---", "---", *["---:"] * (len(peers) + 2)],
    ]
    for case in dict.fromkeys(row["case"] for row in rows):
        of_case = {row["peer"]: row for row in rows if row["case"] == case}
        row = of_case[ours]
        ratios = [_times_ours(of_case[peer].get("ratio")) for peer in peers]
        shape = f"{row['rows']} x {row['categories']}"
        lines.append([case, shape, three_digits(1e3 * row["seconds"]), *ratios, f"{row[share]:.0%}"])
    means = geometric_means(rows, "ratio")
    ratios = [_times_ours(means.get(peer)) for peer in peers]
    lines.append(["geometric mean", "", "", *ratios, f"{geometric_means(rows, share)[ours]:.0%}"])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _times_ours(ratio: float | None) -> str:
    return "not available" if ratio is None else f"x {three_digits(ratio)}"

"""How the printed tables look: a section for each case, a line for each peer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

Row = Mapping[str, Any]  # one measurement, and one line of a CSV file


def table_of_cases(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, caption_justify="left")
    for heading in ("case", ""):
        table.add_column(heading, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def add_sections(table: Table, rows: Sequence[Row], cells: Callable[[Row], Sequence[str]]) -> None:
    """The case and its shape, the peer, and the cells that are made of a row; where it couldn't be measured, why."""
    case = None
    for row in rows:
        if row["case"] != case:
            table.add_section()
            case = row["case"]
            labels = iter(dict.fromkeys([case, f"{row['rows']}x{row['categories']}"]))
        table.add_row(next(labels, ""), row["peer"], *(["not available"] if "unavailable" in row else cells(row)))
    reasons = (f"{row['peer']}, not available: {row['unavailable']}" for row in rows if "unavailable" in row)
    table.caption = "\n".join(dict.fromkeys(reasons))


def three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"

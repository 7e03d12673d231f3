"""Peers that take turns at one work, without a limit beside them: their measurements and how a table shows them."""

from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from .tables import Row, add_sections, table_of_cases, three_digits
from .timer import Spread, ratio, take_turns

Calls = Mapping[str, Callable[[], object]]  # each peer's call, ours first


def measure(calls: Calls, seconds: float, about: Row) -> list[Row]:
    """A row for each peer, with what there is to say about all of them."""
    ours = next(iter(calls))
    calls[ours]()  # at its first gradient PyTorch imports for seconds, which would be taken for a slow call
    times = take_turns(calls, seconds)
    return [
        {
            **about,
            "peer": peer,
            **_spread("seconds", Spread.of(times[peer])),
            **_spread("ratio", ratio(times[peer], times[ours])),
        }
        for peer in calls
    ]


def print_tables(rows: Sequence[Row], console: Console) -> None:
    """One for each work."""
    for work in dict.fromkeys(row["work"] for row in rows):
        of_work = [row for row in rows if row["work"] == work]
        more = [heading for heading in ("peak / logits",) if heading in of_work[0]]
        table = table_of_cases(work, ("ms (quartiles)", "x ours (quartiles)", *more))
        add_sections(table, of_work, _cells)
        console.print(table)


def _spread(name: str, spread: Spread) -> dict[str, float]:
    return {name: spread.median, f"{name}_low": spread.low, f"{name}_high": spread.high}


def _cells(row: Row) -> Sequence[str]:
    def spell(name: str, scale: float) -> str:
        return "{} ({}-{})".format(*(three_digits(scale * row[key]) for key in _spread(name, Spread(0, 0, 0))))

    more = [three_digits(row["peak / logits"])] if "peak / logits" in row else []
    return spell("seconds", 1e3), spell("ratio", 1), *more

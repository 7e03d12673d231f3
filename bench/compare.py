"""Peers that take turns at one work, without a limit beside them: their measurements and how a table shows them."""

import argparse
from collections.abc import Callable, Mapping, Sequence

import torch
from rich.console import Console

from reinmax_kernels import backends

from . import cases
from .peers import OURS_IN_TRITON, captured, in_triton
from .tables import Row, add_sections, table_of_cases, three_digits
from .timer import Spread, ratio, take_turns

Calls = Mapping[str, Callable[[], object]]  # each peer's call, ours first


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cases.add_device_argument(parser)
    cases.add_graphs_argument(parser)
    parser.add_argument("--dtype", choices=cases.DTYPES, default="float32", help="of all (default: float32)")


def with_triton(calls: Calls, options: argparse.Namespace) -> Calls:
    """On a GPU ours by the Triton kernels comes second, where Triton is installed."""
    if options.device == "cpu" or not backends.has_triton:
        return calls
    ours = next(iter(calls))
    return {ours: calls[ours], OURS_IN_TRITON: in_triton(calls[ours]), **calls}


def measure(calls: Calls, seconds: float, about: Row, options: argparse.Namespace) -> list[Row]:
    """A row for each peer, with what there is to say about all of them."""
    ours = next(iter(calls))
    for call in calls.values():  # PyTorch imports for seconds and Triton compiles, once: no part of a call
        call()
    if options.graphs:
        calls = {peer: captured(call) for peer, call in calls.items()}
    times = take_turns(calls, seconds, synchronise=cases.wait_for(options.device))
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


def print_legend(options: argparse.Namespace, load: float, console: Console) -> None:
    device = f"{options.device}, replayed from CUDA graphs" if options.graphs else options.device
    facts = device, options.dtype, f"{torch.get_num_threads()} threads", f"load average {load}"
    console.print(f"{', '.join(facts)}.", highlight=False)


def configuration(options: argparse.Namespace, load: float) -> dict[str, object]:
    return {key: getattr(options, key) for key in ("device", "graphs", "dtype", "quick", "seed")} | {"load": load}


def _spread(name: str, spread: Spread) -> dict[str, float]:
    return {name: spread.median, f"{name}_low": spread.low, f"{name}_high": spread.high}


def _cells(row: Row) -> Sequence[str]:
    def spell(name: str, scale: float) -> str:
        return "{} ({}-{})".format(*(three_digits(scale * row[key]) for key in _spread(name, Spread(0, 0, 0))))

    more = [three_digits(row["peak / logits"])] if "peak / logits" in row else []
    return spell("seconds", 1e3), spell("ratio", 1), *more

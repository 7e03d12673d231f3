"""Where rows are in the stream of random numbers that their seeds begin."""

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from . import row


class Stream(NamedTuple):
    """int64 seeds, each for so many rows, or None where nothing is drawn; an offset; the number of the first row."""

    seeds: Any
    rows_per_seed: Any
    offset: Any
    row_offset: Any


NO_STREAM = Stream(None, 1, 0, 0)


def stream_of(seed: Tensor, rows: int, offset: int, row_offset: int) -> tuple[Stream, bool]:
    """The stream, and whether it has but one seed."""
    seeds = seed.contiguous()
    return Stream(seeds, rows // seeds.numel(), offset, row_offset), seeds.numel() == 1


@triton.jit
def position(stream, i, here, ONE_SEED: tl.constexpr):
    """The seeds of rows i, if they are here, and the rows' numbers in that stream."""
    if ONE_SEED:
        seed, number = tl.load(stream.seeds) + tl.zeros_like(i), i
    else:
        seed = tl.load(stream.seeds + i // stream.rows_per_seed, mask=here, other=0)
        number = i % stream.rows_per_seed
    return seed, stream.row_offset + number


@triton.jit
def position_of_row(stream, i, LANES: tl.constexpr, ONE_SEED: tl.constexpr):
    """The same for one row i, the seed by `row.load_once`."""
    if ONE_SEED:
        group, number = 0, i
    else:
        group, number = i // stream.rows_per_seed, i % stream.rows_per_seed
    return row.load_once(stream.seeds + group, LANES), stream.row_offset + number

"""Assignments of tokens to experts, sorted by expert: a stable counting sort, by experts of any number.

A list is cut into parts, a program of one warp each. Launches, one after the other: every part counts its assignments
to each expert; of each expert, the parts' counts become how many lie in the parts before; every part places its
assignments. The counts are sums of integers, and nothing else depends on an order, so that the result is always the
same. An index that is no expert counts as the one behind the last, so that nothing is ever written out of bounds.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, row

_MOST_EXPERTS = 2**31 - 1  # and what is none is numbered in 32 bits
_CHUNK = 32  # assignments that a program places at a time, one a lane
_BLOCK = 256  # assignments that it counts at a time, or experts that it looks at
_EXPERTS = 4  # whose counts are summed by one program, side by side in memory: 32 bytes
_PARTS = 256  # at most, whose counts it sums at a time
_COUNTS = 4  # that a thread of it holds


@triton.jit
def _experts_of(index_ptr, at, inside, experts):
    """Those of a list's positions. What is no expert is `experts`."""
    e = tl.load(index_ptr + at, mask=inside, other=0)
    return tl.where((e >= 0) & (e < experts), e, experts).to(tl.int32)


@triton.jit
def count_experts_kernel(
    index_ptr, places_ptr, length: row.Multiple, width: row.Multiple, parts, part_size, experts, BLOCK: tl.constexpr
):
    """How many of a part's assignments each expert has, and how many have none: places [L, parts, width > E]."""
    program = tl.program_id(0).to(tl.int64)
    places_ptr += program * row.value(width)
    i = tl.arange(0, BLOCK)
    for start in range(0, row.value(width), BLOCK):
        tl.store(places_ptr + start + i, tl.zeros((BLOCK,), tl.int64), mask=start + i < row.value(width))
    tl.debug_barrier()  # threads count for experts that others have set to zero
    size = row.value(length)
    index_ptr += program // parts * size
    begin = program % parts * part_size
    for start in range(begin, tl.minimum(begin + part_size, size), BLOCK):
        inside = (start + i < size) & (start + i < begin + part_size)
        e = _experts_of(index_ptr, start + i, inside, experts)
        tl.atomic_add(places_ptr + e, tl.full((BLOCK,), 1, tl.int64), mask=inside, sem="relaxed", scope="cta")


@triton.jit
def sum_parts_kernel(
    places_ptr, counts_ptr, width: row.Multiple, parts, experts, PARTS: tl.constexpr, EXPERTS: tl.constexpr
):
    """Of a list and some experts: from the parts' counts to the sums over the parts before, and over all of them."""
    wide = row.value(width)
    groups = wide // EXPERTS
    number = tl.program_id(0).to(tl.int64) // groups
    e = tl.program_id(0) % groups * EXPERTS + tl.arange(0, EXPERTS)
    p = tl.arange(0, PARTS)[:, None].to(tl.int64)
    places_ptr += number * parts * wide
    before = tl.zeros((EXPERTS,), tl.int64)
    for start in range(0, parts, PARTS):
        at = places_ptr + (start + p) * wide + e[None, :]
        count = tl.load(at, mask=start + p < parts, other=0)
        tl.debug_barrier()  # of few counts several threads hold the same
        tl.store(at, before[None, :] + tl.cumsum(count, 0) - count, mask=start + p < parts)
        before += tl.sum(count, 0)
    tl.store(counts_ptr + number * experts + e, before, mask=e < experts)


@triton.jit
def _bits_set(x):
    """How many, of 32."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return (x * 0x01010101) >> 24


@triton.jit
def place_assignments_kernel(
    index_ptr,
    places_ptr,
    counts_ptr,
    order_ptr,
    inverse_ptr,
    length: row.Multiple,
    width: row.Multiple,
    parts,
    part_size,
    experts,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Places a part's assignments, a chunk after the other. The part's places [width] are, for each expert, that of its
    next assignment.
    """
    program = tl.program_id(0).to(tl.int64)
    number = program // parts
    places_ptr += program * row.value(width)
    counts_ptr += number * experts
    first = tl.full((), 0, tl.int64)  # of the experts so far
    for start in range(0, experts + 1, BLOCK):
        e = start + tl.arange(0, BLOCK)
        count = tl.load(counts_ptr + e, mask=e < experts, other=0)
        before = tl.load(places_ptr + e, mask=e <= experts, other=0)
        tl.store(places_ptr + e, first + tl.cumsum(count, 0) - count + before, mask=e <= experts)
        first += tl.sum(count, 0)

    size = row.value(length)
    index_ptr += number * size
    order_ptr += number * size
    inverse_ptr += number * size
    lane = tl.arange(0, CHUNK)
    bit = tl.full((CHUNK,), 1, tl.uint32) << lane
    begin = program % parts * part_size
    end = tl.minimum(begin + part_size, size)
    e = _experts_of(index_ptr, begin + lane, begin + lane < end, experts)
    for start in range(begin, end, CHUNK):
        at = start + lane
        inside = at < end
        # In time for the next chunk: the memory takes longer than all that is done here.
        following = _experts_of(index_ptr, at + CHUNK, at + CHUNK < end, experts)
        e = tl.where(inside, e, -1)
        same = tl.sum(tl.where(e[:, None] == e[None, :], bit[:, None], 0), 0)  # lanes of the same expert, a bit each
        tl.debug_barrier()  # threads go on from places that others have stored
        place = tl.load(places_ptr + e, mask=inside, other=0) + _bits_set(same & (bit - 1))
        tl.store(order_ptr + place, at, mask=inside)
        tl.store(inverse_ptr + at, place, mask=inside)
        tl.debug_barrier()  # and store them when all have read
        tl.store(places_ptr + e, place + 1, mask=inside & (same >> lane == 1))  # the expert's last lane
        e = following


class _Parts(NamedTuple):
    """How lists [..., M] are cut: each into so many parts of `size` assignments, the last perhaps of fewer."""

    lists: int
    parts: int
    size: int


def _parts_of(index: Tensor, num_experts: int) -> _Parts:
    """So many that they occupy the device, but none that has fewer assignments than there are experts to count for."""
    if num_experts >= _MOST_EXPERTS:
        raise ValueError(f"num_experts: expected fewer than {_MOST_EXPERTS}, got {num_experts}")
    lists, length = index.shape[:-1].numel(), index.shape[-1]
    chunks = launch.cdiv(length, _CHUNK)
    of_part = max(launch.blocks_per_part(lists, chunks, 1, index.device), launch.cdiv(num_experts, _CHUNK))
    return _Parts(lists, launch.cdiv(chunks, of_part), of_part * _CHUNK)


def _count(index: Tensor, num_experts: int, cut: _Parts) -> tuple[Tensor, Tensor]:
    """Of contiguous lists: counts [..., E], and of each part and expert how many the parts before have."""
    width = launch.cdiv(num_experts + 1, _EXPERTS) * _EXPERTS
    places = torch.empty((cut.lists, cut.parts, width), dtype=torch.int64, device=index.device)
    counts = torch.empty((*index.shape[:-1], num_experts), dtype=torch.int64, device=index.device)
    launch.run(
        count_experts_kernel,
        (cut.lists * cut.parts,),
        1,
        index.device,
        index,
        places,
        row.multiple(index.shape[-1]),
        row.multiple(places.shape[-1]),
        cut.parts,
        cut.size,
        num_experts,
        BLOCK=_BLOCK,
    )
    parts = min(launch.next_power_of_2(cut.parts), _PARTS)
    launch.run(
        sum_parts_kernel,
        (cut.lists * width // _EXPERTS,),
        launch.cdiv(parts * _EXPERTS, 32 * _COUNTS),
        index.device,
        places,
        counts,
        row.multiple(width),
        cut.parts,
        num_experts,
        PARTS=parts,
        EXPERTS=_EXPERTS,
    )
    return counts, places


def expert_counts(index: Tensor, num_experts: int) -> Tensor:
    """Of each list of assignments [..., M]: how many each expert has [..., E]."""
    if index.numel() == 0:
        return index.new_zeros((*index.shape[:-1], num_experts))
    counts, _ = _count(index.contiguous(), num_experts, _parts_of(index, num_experts))
    return counts


def dispatch_plan(index: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each list of assignments [..., M]: how many each expert has [..., E], the positions in the order of their
    experts, and where in that order each position is. Those whose index is no expert come last, and count for none.
    """
    index = index.contiguous()
    order, inverse = torch.empty_like(index), torch.empty_like(index)
    if index.numel() == 0:
        return index.new_zeros((*index.shape[:-1], num_experts)), order, inverse
    cut = _parts_of(index, num_experts)
    counts, places = _count(index, num_experts, cut)
    launch.run(
        place_assignments_kernel,
        (cut.lists * cut.parts,),
        1,
        index.device,
        index,
        places,
        counts,
        order,
        inverse,
        row.multiple(index.shape[-1]),
        row.multiple(places.shape[-1]),
        cut.parts,
        cut.size,
        num_experts,
        CHUNK=_CHUNK,
        BLOCK=_BLOCK,
    )
    return counts, order, inverse

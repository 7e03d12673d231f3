"""Instructions by which the lanes of a warp exchange values."""

import numpy as np

from ..decoder import Decoder, spread
from ..report import Kind
from ..steps import Execute, Step, WarpStep
from ..threads import WARP, Active, ballot
from ..types import TYPES
from .registry import instruction

U32 = TYPES["u32"]


@instruction("shfl")
def shuffle(decoder: Decoder) -> Step:
    """The value of another lane, or the own one where the other lies outside of the segment."""
    decoder.take("sync")
    mode = decoder.take("up", "down", "bfly", "idx")
    decoder.take("b32")
    target, in_range = decoder.pair(0)
    write, write_in_range = decoder.write(target), decoder.write(in_range)
    value, distance, clamp = (decoder.source(number, U32) for number in (1, 2, 3))
    machine = decoder.machine

    def execute(active: Active) -> None:
        lane = active.lanes
        b = distance(active).astype(np.int64) & 31
        c = clamp(active).astype(np.int64)
        segment = c >> 8 & 31
        first, last = lane & segment, lane & segment | c & 31 & ~segment
        source = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": first | b & ~segment}[mode]
        valid = source >= last if mode == "up" else source <= last
        source = active.warps * WARP + np.where(valid, source, lane)
        values = np.zeros(machine.threads.count, np.uint32)
        values[active.index] = value(active)
        active_lanes = machine.threads.mask(active)
        if not (reached := active_lanes[source]).all():
            thread = active.numbers[np.flatnonzero(~reached)[0]]
            machine.issue(Kind.INACTIVE_LANE, machine.threads.describe(thread))
        write(active, values[source])
        write_in_range(active, valid)

    return WarpStep(decoder.source(4, U32), execute)


@instruction("vote")
def vote(decoder: Decoder) -> Step:
    decoder.take("sync")
    mode = decoder.take("all", "any", "uni", "ballot")
    decoder.take("b32" if mode == "ballot" else "pred")
    write, condition, members = decoder.destination(0), decoder.predicate(1), decoder.source(2, U32)
    threads = decoder.machine.threads

    def execute(active: Active) -> None:
        yes = np.zeros(threads.count, bool)
        yes[active.index] = condition(active)
        voters = ballot(threads.mask(active))[active.warps] & members(active)
        votes = ballot(yes)[active.warps] & voters
        outcomes = {
            "all": votes == voters,
            "any": votes != 0,
            "uni": (votes == voters) | (votes == 0),
            "ballot": votes,
        }
        write(active, outcomes[mode])

    return WarpStep(members, execute)


@instruction("activemask")
def active_mask(decoder: Decoder) -> Execute:
    decoder.take("b32")
    write, threads = decoder.destination(0), decoder.machine.threads
    return lambda active: write(active, ballot(threads.mask(active))[active.warps])


@instruction("match")
def match(decoder: Decoder) -> Step:
    """.any: the lanes with the same value. .all: the whole mask where all values are the same, else nothing."""
    mode = decoder.take("any", "all")
    decoder.take("sync")
    type_ = decoder.type("b")
    target, all_equal = decoder.pair(0)
    write, write_all_equal = decoder.write(target), decoder.write(all_equal)
    value, members = decoder.source(1, type_), decoder.source(2, U32)
    threads = decoder.machine.threads

    def execute(active: Active) -> None:
        values = np.zeros(threads.count, type_.dtype)
        values[active.index] = value(active)
        by_warp = values.reshape(-1, WARP)
        equal = ballot((by_warp[:, :, None] == by_warp[:, None, :]).reshape(-1, WARP))[active.index]
        mask = members(active)
        equal = equal & mask & ballot(threads.mask(active))[active.warps]
        if mode == "all":
            agree = equal == mask
            write_all_equal(active, agree)
            equal = np.where(agree, mask, np.uint32(0))
        write(active, equal)

    return WarpStep(members, execute)


@instruction("redux")
def reduce(decoder: Decoder) -> Step:
    """Reduces over the lanes of each mask."""
    decoder.take("sync")
    operations = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }
    name = decoder.take(*operations)
    absolute, propagates, type_ = decoder.flag("abs"), decoder.flag("NaN"), decoder.type("busf")
    write, value, members = decoder.destination(0), decoder.source(1, type_), decoder.source(2, U32)
    is_float = type_.kind == "f"
    if is_float and name not in ("min", "max"):
        raise decoder.unsupported(f"redux.{name} of floats")
    if (absolute or propagates) and not is_float:
        raise decoder.unsupported("redux.abs or .NaN of integers")
    worst = (name == "max") == propagates  # NaN counts as the largest number where it shall win a maximum

    def execute(active: Active) -> None:
        values = spread(value(active), active)
        if is_float:
            values = _ordered(np.abs(values) if absolute else values, nan_is_largest=worst)
        group = active.warps << 32 | spread(members(active), active)
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[order], prepend=-1))
        reduced = operations[name].reduceat(values[order], starts)
        result = np.empty(len(active), values.dtype)
        result[order] = np.repeat(reduced, np.diff(starts, append=len(active)))
        write(active, _from_ordered(result) if is_float else result)

    return WarpStep(members, execute)


def _ordered(values: np.ndarray, *, nan_is_largest: bool) -> np.ndarray:
    """Integers in the order of the float32, of which -0 comes before +0."""
    bits = values.view(np.int32)
    limits = np.iinfo(np.int32)
    nan = limits.max if nan_is_largest else limits.min
    return np.where(np.isnan(values), np.int32(nan), bits ^ (bits >> 31 & 0x7FFF_FFFF))


def _from_ordered(ordered: np.ndarray) -> np.ndarray:
    # Both integers that stand for NaN become the GPU's NaN: one is it, the other one lies below all numbers.
    bits = ordered ^ (ordered >> 31 & 0x7FFF_FFFF)
    return np.where(ordered == np.iinfo(np.int32).min, np.int32(0x7FFF_FFFF), bits)


@instruction("elect")
def elect(decoder: Decoder) -> Step:
    """One lane of the mask, which is the lowest here: its number, and whether it is this one."""
    decoder.take("sync")
    target, elected = decoder.pair(0)
    write, write_elected, members = decoder.write(target), decoder.write(elected), decoder.source(1, U32)

    def execute(active: Active) -> None:
        mask = members(active)
        leader = np.bitwise_count((mask & (~mask + np.uint32(1))) - np.uint32(1)).astype(np.uint32)
        write(active, leader)
        write_elected(active, leader == active.lanes)

    return WarpStep(members, execute)

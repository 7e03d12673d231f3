"""Branches, ends, barriers and fences."""

import numpy as np

from ..decoder import SCOPES, Decoder
from ..errors import Fault
from ..report import Kind
from ..steps import BlockBarrier, Branch, Execute, Exit, IndexedBranch, Step, WarpStep
from ..threads import Active
from ..types import TYPES
from .registry import instruction

U32 = TYPES["u32"]
ASSERTION_FAILURE = "__assertfail"


@instruction("bra")
def branch(decoder: Decoder) -> Step:
    decoder.flag("uni")
    return Branch(decoder.label(0))


@instruction("brx")
def indexed_branch(decoder: Decoder) -> Step:
    decoder.take("idx")
    decoder.flag("uni")
    return IndexedBranch(decoder.source(0, U32), decoder.branch_table(1))


@instruction("ret", "exit")
def end(decoder: Decoder) -> Step:
    decoder.flag("uni")
    return Exit()


@instruction("trap")
def trap(decoder: Decoder) -> Execute:
    def execute(active: Active) -> None:
        raise Fault(Kind.TRAP, decoder.machine.threads.describe(active.numbers[0]))

    return execute


@instruction("call")
def call(decoder: Decoder) -> Execute:
    """Calls are replaced by the function's body. What is left is a function without one, of which one is known."""
    if ASSERTION_FAILURE not in decoder.instruction.operands:
        raise decoder.unsupported("the called function is not known")
    decoder.flag("uni")
    decoder.ignore_operands()

    def execute(active: Active) -> None:
        raise Fault(Kind.TRAP, f"assertion failed; {decoder.machine.threads.describe(active.numbers[0])}")

    return execute


@instruction("bar", "barrier")
def barrier(decoder: Decoder) -> Step:
    if decoder.flag("warp"):
        decoder.take("sync")
        return WarpStep(decoder.source(0, U32), decoder.machine.clocks.pass_warp_barrier)
    decoder.flag("cta")
    action = decoder.take("sync", "red")
    decoder.flag("aligned")
    if action == "red":
        return _reduction_barrier(decoder)
    _check_whole_block(decoder, 1)
    return BlockBarrier(decoder.immediate(0))


def _reduction_barrier(decoder: Decoder) -> Step:
    """`bar.red`: a barrier at which all threads learn how many predicates are set, or whether any or all are."""
    name = decoder.take("popc", "and", "or")
    decoder.take("u32" if name == "popc" else "pred")
    write, condition = decoder.destination(0), decoder.predicate(decoder.operand_count - 1)
    if decoder.operand_count == 4:
        _check_whole_block(decoder, 2)
    reductions = {"popc": np.count_nonzero, "and": np.all, "or": np.any}

    def release(active: Active) -> None:
        values = np.broadcast_to(condition(active), len(active))
        write(active, np.array([reductions[name](values)]))

    return BlockBarrier(decoder.immediate(1), release)


def _check_whole_block(decoder: Decoder, position: int) -> None:
    if position < decoder.operand_count and decoder.immediate(position) != decoder.machine.threads.block_size:
        raise decoder.unsupported("a barrier of a part of the block")


@instruction("membar", "fence")
def fence(decoder: Decoder) -> Execute:
    """Threads see one another's writes at once here."""
    decoder.take("sc", "acq_rel", "acquire", "release", default="acq_rel")
    decoder.take(*SCOPES)
    return lambda active: None


@instruction("nanosleep", "griddepcontrol", "setmaxnreg", "pmevent")
def no_operation(decoder: Decoder) -> Execute:
    """They change when something happens, and no result."""
    decoder.modifiers.clear()
    decoder.ignore_operands()
    return lambda active: None

"""What an instruction is translated to: a function of the threads that execute it, or a step that steers them."""

from collections.abc import Callable
from dataclasses import dataclass

from .decoder import Reader
from .threads import Active

Execute = Callable[[Active], None]


@dataclass
class Branch:
    """`bra`: on to another instruction."""

    target: int


@dataclass
class IndexedBranch:
    """`brx.idx`: on to one of several instructions, as a register says."""

    index: Reader
    targets: list[int]


@dataclass
class Exit:
    """`ret` and `exit`: the thread has ended."""


@dataclass
class BlockBarrier:
    """`bar.sync`: waits for all threads of the block. `release` runs for them together as they go on."""

    identifier: int
    release: Execute | None = None


@dataclass
class WarpStep:
    """An instruction that the lanes of a member mask execute together, waiting for one another."""

    members: Reader
    execute: Execute


Step = Execute | Branch | IndexedBranch | Exit | BlockBarrier | WarpStep

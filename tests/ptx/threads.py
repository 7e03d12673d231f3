"""The threads of a launch.

Every thread has a number, block after block with each block filled up to whole warps, and whatever a thread owns lies
at its number in an array. So an instruction is one array operation, over however many threads take part.
"""

from functools import cached_property

import numpy as np

WARP = 32


class Active:
    """The threads that take part in one instruction, in ascending order.

    `index` picks them from an array of all threads: a slice where they are all, which saves the copy.
    """

    def __init__(self, numbers: np.ndarray, index: np.ndarray | slice):
        self.numbers, self.index = numbers, index

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def warps(self) -> np.ndarray:
        """The warp of each thread."""
        return self.numbers // WARP

    @cached_property
    def warp_count(self) -> int:
        return 1 + int(np.count_nonzero(np.diff(self.warps))) if len(self) else 0

    @cached_property
    def lanes(self) -> np.ndarray:
        """The lane of each thread in its warp."""
        return self.numbers % WARP

    def where(self, chosen: np.ndarray) -> "Active":
        """Those of these threads at which `chosen`, a mask or positions, points."""
        numbers = self.numbers[chosen]
        return Active(numbers, numbers)


class Threads:
    """All threads of a launch: their numbering and their special registers."""

    def __init__(self, grid: tuple[int, ...], block: tuple[int, ...]):
        self.grid, self.block = _three(grid), _three(block)
        self.blocks = int(np.prod(self.grid))
        self.block_size = int(np.prod(self.block))
        self.block_stride = -(-self.block_size // WARP) * WARP
        self.count = self.blocks * self.block_stride
        self.warps = self.count // WARP
        numbers = np.arange(self.count)
        self.block_of = numbers // self.block_stride
        self.in_block = numbers % self.block_stride
        self.exists = self.in_block < self.block_size
        self.everyone = Active(numbers, slice(None))

    def select(self, mask: np.ndarray) -> Active:
        """The threads at which a mask over all threads is set."""
        numbers = np.flatnonzero(mask)
        return self.everyone if len(numbers) == self.count else Active(numbers, numbers)

    def mask(self, active: Active) -> np.ndarray:
        mask = np.zeros(self.count, bool)
        mask[active.index] = True
        return mask

    def describe(self, number: int) -> str:
        return f"thread {self.in_block[number]} of block {self.block_of[number]}"

    def special_registers(self, dynamic_shared_bytes: int, shared_bytes: int) -> dict[str, np.ndarray]:
        """The read-only registers by name, each with one 32-bit value a thread or one for all."""
        lane = np.arange(self.count, dtype=np.uint32) % np.uint32(WARP)
        equal = np.uint32(1) << lane
        below = equal - np.uint32(1)
        registers = {
            "%laneid": lane,
            "%warpid": self.in_block // WARP,
            "%nwarpid": self.block_stride // WARP,
            "%lanemask_eq": equal,
            "%lanemask_lt": below,
            "%lanemask_le": below | equal,
            "%lanemask_gt": ~(below | equal),
            "%lanemask_ge": ~below,
            "%dynamic_smem_size": dynamic_shared_bytes,
            "%total_smem_size": shared_bytes,
            "%cluster_ctarank": 0,
            "%cluster_nctarank": 1,
        }
        for name, number, extents in (("tid", self.in_block, self.block), ("ctaid", self.block_of, self.grid)):
            rest = number
            for axis, extent in zip("xyz", extents, strict=True):
                registers[f"%n{name}.{axis}"] = extent
                registers[f"%{name}.{axis}"] = rest % extent if axis != "z" else rest
                rest = rest // extent
        return {name: np.broadcast_to(np.asarray(value, np.uint32), self.count) for name, value in registers.items()}


def ballot(mask: np.ndarray) -> np.ndarray:
    """One 32-bit word a warp, with a bit for each of its threads at which the mask is set."""
    return np.packbits(mask.reshape(-1, WARP), axis=1, bitorder="little").view(np.uint32).ravel()


def _three(extents: tuple[int, ...]) -> tuple[int, int, int]:
    if not 1 <= len(extents) <= 3 or min(extents) < 1:
        raise ValueError(f"a grid or a block has one to three extents of at least 1, not {extents}")
    return (*extents, 1, 1)[:3]

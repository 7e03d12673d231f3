"""`mma.sync`: a product of small matrices, added to a third one, all of them spread over the registers of a warp.

Matrices consist of blocks of 8 rows. Lane t holds one row of each block, t / 4; of the columns there, 4 lanes hold 32
bits each of factors, and two neighbours of the sum. A factor in double precision is held in 64 bits. The second factor
is held by its columns. Blocks follow one another down the rows first.
"""

import numpy as np

from ..decoder import Decoder, Reader, spread
from ..floats import canonical, widen
from ..steps import Step, WarpStep
from ..threads import Active
from ..types import TYPES, UNSIGNED, Type
from .matrices import ALL_LANES
from .registry import instruction

SHAPES = {"m16n8k16": (16, 16), "m16n8k8": (16, 8), "m8n8k4": (8, 4)}  # rows, and columns of the first factor
FACTORS = {"m16n8k16": ("f16", "bf16"), "m16n8k8": ("f16", "bf16"), "m8n8k4": ("f64",)}


@instruction("mma")
def multiply_matrices(decoder: Decoder) -> Step:
    """The sum is rounded once, from float64: a GPU keeps fewer bits of it."""
    for required in ("sync", "aligned", "row", "col"):
        decoder.take(required)
    shape = decoder.take(*SHAPES)
    of_result, of_left, of_right, of_sum = (decoder.type("f") for _ in range(4))
    sums = "f64" if of_left.name == "f64" else "f32"
    if of_left.name not in FACTORS[shape] or (of_right, of_result.name, of_sum.name) != (of_left, sums, sums):
        raise decoder.unsupported(f"{shape} of these types")
    rows, depth = SHAPES[shape]
    blocks = rows // 8
    writes = [decoder.write(each) for each in decoder.elements(0)]
    held = TYPES["b64" if sums == "f64" else "b32"]
    left, right = ([decoder.read(each, held) for each in decoder.elements(position)] for position in (1, 2))
    addends = [decoder.read(each, of_sum) for each in decoder.elements(3)]
    of_block = depth * of_left.size // (4 * held.size)  # registers
    if [len(each) for each in (writes, left, right, addends)] != [2 * blocks, blocks * of_block, of_block, 2 * blocks]:
        raise decoder.unsupported("so many registers")

    def execute(active: Active) -> None:
        a, b = (_rows(_held(each, active), of_left, count) for each, count in ((left, blocks), (right, 1)))
        c = np.stack(_held(addends, active), -1).reshape(-1, 8, 4, blocks, 2)
        c = np.moveaxis(c, 3, 1).reshape(-1, rows, 8).astype(np.float64)
        total = (a @ b.swapaxes(1, 2) + c).reshape(-1, blocks, 8, 4, 2)
        for number, write in enumerate(writes):
            values = np.ascontiguousarray(total[:, number // 2, :, :, number % 2]).ravel().astype(of_sum.dtype)
            write(active, values if sums == "f64" else canonical(values, np.isnan(values)))

    return WarpStep(lambda active: ALL_LANES, execute)


def _held(reads: list[Reader], active: Active) -> list[np.ndarray]:
    """Registers, of each warp's lanes [8, 4]."""
    return [np.ascontiguousarray(spread(read(active), active)).reshape(-1, 8, 4) for read in reads]


def _rows(registers: list[np.ndarray], type_: Type, blocks: int) -> np.ndarray:
    """A factor [rows, columns] of each warp, from its registers."""
    elements = [widen(each.view(UNSIGNED[type_.size]).view(type_.dtype), type_) for each in registers]
    columns = [np.concatenate(elements[first : first + blocks], 1) for first in range(0, len(elements), blocks)]
    return np.concatenate(columns, 2).astype(np.float64)

"""`ldmatrix` and `stmatrix`: 8x8 matrices of 16-bit elements between shared memory and the registers of a warp.

Lane 8m + r has the address of row r of matrix m. Lane t holds two neighbours of row t / 4, from column 2 (t % 4) on.
"""

import numpy as np

from ..decoder import Decoder
from ..steps import Step, WarpStep
from ..threads import Active
from ..types import TYPES, UNSIGNED
from .registry import instruction

WORD = UNSIGNED[4]
ALL_LANES = np.array([0xFFFF_FFFF], np.uint32)


def _decode(decoder: Decoder) -> tuple[int, bool]:
    """The number of matrices, and whether they are transposed on the way."""
    for required in ("sync", "aligned", "m8n8", "b16"):
        decoder.take(required)
    decoder.take("shared", "shared::cta")
    return int(decoder.take("x1", "x2", "x4")[1:]), decoder.flag("trans")


@instruction("ldmatrix")
def load_matrices(decoder: Decoder) -> Step:
    count, transposed = _decode(decoder)
    writes = [decoder.write(each) for each in decoder.elements(0)]
    address, memory = decoder.address(1), decoder.machine.memory
    _check_count(decoder, writes, count)

    def execute(active: Active) -> None:
        addresses = address(active)
        loaded = []
        for matrix in range(count):
            rows = active.lanes // 8 == matrix
            words = memory.load("shared", addresses[rows], WORD, 4, active.where(rows))
            loaded.append(_fragments(np.stack(words, axis=-1), transposed))
        for write, fragments in zip(writes, loaded, strict=True):
            write(active, fragments)

    return WarpStep(lambda active: ALL_LANES, execute)


@instruction("stmatrix")
def store_matrices(decoder: Decoder) -> Step:
    count, transposed = _decode(decoder)
    reads = [decoder.read(each, TYPES["b32"]) for each in decoder.elements(1)]
    address, memory = decoder.address(0), decoder.machine.memory
    _check_count(decoder, reads, count)

    def execute(active: Active) -> None:
        addresses = address(active)
        for matrix, read in enumerate(reads):
            rows = active.lanes // 8 == matrix
            fragments = np.broadcast_to(read(active), len(active))
            words = _fragments(np.ascontiguousarray(fragments).reshape(-1, 4), transposed).reshape(-1, 4)
            columns = [np.ascontiguousarray(words[:, number]) for number in range(4)]
            memory.store("shared", addresses[rows], columns, active.where(rows))

    return WarpStep(lambda active: ALL_LANES, execute)


def _check_count(decoder: Decoder, registers: list, count: int) -> None:
    if len(registers) != count:
        raise decoder.unsupported(f"{len(registers)} registers for {count} matrices")


def _fragments(words: np.ndarray, transposed: bool) -> np.ndarray:
    """The words of matrices, four a row, in the order of the lanes, which is theirs but for the transpose."""
    if not transposed:
        return words.ravel()
    elements = np.ascontiguousarray(words).view(np.uint16).reshape(-1, 8, 8)
    return np.ascontiguousarray(elements.transpose(0, 2, 1)).view(WORD).ravel()

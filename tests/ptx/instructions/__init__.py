"""How each instruction works: one module a family. To add one, write a translator and mark it `@instruction("opcode")`.

A translator asks its `Decoder` for modifiers and operands, once a launch, and returns what to do each time.
"""

from . import (  # noqa: F401 - each module enters its instructions into the table
    arithmetic,
    async_copies,
    atomics,
    bits,
    comparison,
    control,
    conversion,
    matrices,
    matrix_products,
    movement,
    warp,
)
from .registry import translate

__all__ = ["translate"]

"""Atomic operations on memory."""

import numpy as np

from ..decoder import SCOPES, Decoder, spread
from ..floats import add_to_odd, canonical, flush_subnormals, narrow, widen
from ..steps import Step
from ..threads import Active
from ..types import Type, lanewise
from .registry import instruction


def _integer_operation(name: str, old: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    match name:
        case "add":
            return old + a
        case "min":
            return np.minimum(old, a)
        case "max":
            return np.maximum(old, a)
        case "and":
            return old & a
        case "or":
            return old | a
        case "xor":
            return old ^ a
        case "exch":
            return a
        case "cas":
            return np.where(old == a, b, old)
        case "inc":
            return np.where(old >= a, 0, old + 1).astype(old.dtype)
        case "dec":
            return np.where((old == 0) | (old > a), a, old - 1).astype(old.dtype)


OPERATIONS = ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")


def _float_addition(type_: Type, space: str):
    """Of float32, global memory flushes subnormal numbers and shared memory keeps them."""
    element = type_.element

    def add(old: np.ndarray, a: np.ndarray) -> np.ndarray:
        if element.size == 2:
            return narrow(add_to_odd(*(widen(each, element).astype(np.float64) for each in (old, a))), element)
        if element.name == "f64":
            return old + a
        flush = (lambda values: values) if space == "shared" else flush_subnormals
        total = flush(flush(old) + flush(a))
        return canonical(total, np.isnan(total))

    return lanewise(add, type_)


@instruction("atom", "red")
def atomic(decoder: Decoder) -> Step:
    """`atom`, and `red`, which returns nothing. The elements of a vector are updated one by one."""
    space = decoder.state_space()
    if space not in ("generic", "global", "shared"):
        raise decoder.unsupported(f"atomic operation on .{space}")
    decoder.take("relaxed", "acquire", "release", "acq_rel", default="relaxed")
    decoder.take(*SCOPES, default="gpu")
    decoder.flag("noftz")
    name, count = decoder.take(*OPERATIONS), int(decoder.take("v2", "v4", "v8", default="v1")[1:])
    type_ = decoder.type("busf", packed=True)
    returns = decoder.opcode == "atom"
    targets = decoder.elements(0) if returns else ["_"] * count
    writes = [decoder.write(each) for each in targets]
    address = decoder.address(int(returns))
    first = 1 + int(returns)
    operands = [decoder.read(each, type_) for each in decoder.elements(first)]
    replacements = [decoder.source(first + 1, type_)] if name == "cas" else operands
    if decoder.flag("L2::cache_hint"):
        decoder.text(decoder.operand_count - 1)
    if not len(writes) == len(operands) == count:
        raise decoder.unsupported("a vector of another length")
    if type_.kind == "f" and name not in ("add", "exch"):
        raise decoder.unsupported(f"atomic .{name} of floats")
    memory, add = decoder.machine.memory, _float_addition(type_, space)

    def execute(active: Active) -> None:
        places = address(active)
        for number, (write, operand, replacement) in enumerate(zip(writes, operands, replacements, strict=True)):
            a, b = spread(operand(active), active), spread(replacement(active), active)

            def new_value(old: np.ndarray, lanes: np.ndarray, a=a, b=b) -> np.ndarray:
                old = old.view(type_.dtype)
                is_sum = type_.kind == "f" and name == "add"
                new = add(old, a[lanes]) if is_sum else _integer_operation(name, old, a[lanes], b[lanes])
                return new.view(type_.unsigned)

            where = places + np.uint64(number * type_.size)
            write(active, memory.update(space, where, type_.unsigned, active, new_value).view(type_.dtype))

    return execute

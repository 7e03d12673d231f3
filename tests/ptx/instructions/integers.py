"""Integer arithmetic. Overflow wraps around."""

from collections.abc import Callable

import numpy as np

from ..decoder import Decoder, spread
from ..report import Kind
from ..steps import Execute, Step
from ..threads import Active
from ..types import TYPES, Type, lanewise
from .registry import instruction

LIMB = np.uint64(32)
LOW_LIMB = np.uint64(0xFFFF_FFFF)


def add_or_subtract(decoder: Decoder) -> Step:
    """`add` and `sub`, with the carry flag where .cc asks for it."""
    if decoder.flag("cc"):
        return _with_carry(decoder, carry_in=False, carry_out=True)
    operation = {"add": np.add, "sub": np.subtract}[decoder.opcode]
    if decoder.flag("sat"):
        return _saturating(decoder, operation)
    type_ = decoder.type("us", packed=True)
    return decoder.elementwise(lanewise(operation, type_), type_, type_)


def _saturating(decoder: Decoder, operation: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Execute:
    decoder.take("s32")  # other types lack it
    limits = np.iinfo(np.int32)

    def saturated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        exact = operation(a.astype(np.int64), b.astype(np.int64))
        return np.clip(exact, limits.min, limits.max).astype(np.int32)

    return decoder.elementwise(saturated, TYPES["s32"], TYPES["s32"])


@instruction("addc", "subc")
def add_or_subtract_with_carry(decoder: Decoder) -> Step:
    return _with_carry(decoder, carry_in=True, carry_out=decoder.flag("cc"))


def _with_carry(decoder: Decoder, *, carry_in: bool, carry_out: bool) -> Execute:
    """The sum a + b + carry or the difference a - b - borrow; the borrow is kept in the same flag."""
    type_ = decoder.type("us")
    subtract = decoder.opcode.startswith("sub")
    dtype, flag = type_.unsigned, decoder.machine.carry
    write, a, b = decoder.destination(0), decoder.source(1, type_), decoder.source(2, type_)

    def execute(active: Active) -> None:
        left, right = a(active).view(dtype), b(active).view(dtype)
        incoming = flag[active.index].astype(dtype) if carry_in else np.zeros(1, dtype)
        partial = left - right if subtract else left + right
        total = partial - incoming if subtract else partial + incoming
        if carry_out:
            wrapped = (left < right) | (partial < incoming) if subtract else (partial < left) | (total < partial)
            flag[active.index] = wrapped
        write(active, total)

    return execute


def multiply(decoder: Decoder) -> Step:
    """`mul`: the .lo or .hi half of the product, or the .wide product."""
    part = decoder.take("lo", "hi", "wide")
    type_ = decoder.type("us")
    return decoder.elementwise(_product(decoder, part, type_), type_, type_)


def multiply_add(decoder: Decoder) -> Step:
    """`mad`, with the carry flag where .cc asks for it."""
    if decoder.flag("cc"):
        return _multiply_add_with_carry(decoder, carry_in=False, carry_out=True)
    part = decoder.take("lo", "hi", "wide")
    type_ = decoder.type("us")
    product = _product(decoder, part, type_)
    addend = type_.wide if part == "wide" else type_
    return decoder.elementwise(lambda a, b, c: product(a, b) + c, type_, type_, addend)


@instruction("madc")
def multiply_add_with_carry(decoder: Decoder) -> Step:
    return _multiply_add_with_carry(decoder, carry_in=True, carry_out=decoder.flag("cc"))


def _multiply_add_with_carry(decoder: Decoder, *, carry_in: bool, carry_out: bool) -> Execute:
    part = decoder.take("lo", "hi")
    type_ = decoder.type("us")
    dtype, flag, product = type_.unsigned, decoder.machine.carry, _product(decoder, part, type_)
    write = decoder.destination(0)
    a, b, c = (decoder.source(1 + number, type_) for number in range(3))

    def execute(active: Active) -> None:
        multiplied = product(a(active), b(active)).view(dtype)
        incoming = flag[active.index].astype(dtype) if carry_in else np.zeros(1, dtype)
        partial = multiplied + c(active).view(dtype)
        total = partial + incoming
        if carry_out:
            flag[active.index] = (partial < multiplied) | (total < partial)
        write(active, total)

    return execute


def _product(decoder: Decoder, part: str, type_: Type) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    if part == "wide" and type_.size == 8:
        raise decoder.unsupported(f"a .{part} product of .{type_.name}")
    if part == "lo":
        return np.multiply
    if part == "wide":
        wide = type_.wide.dtype
        return lambda a, b: a.astype(wide) * b.astype(wide)
    if type_.size < 8:
        wide, shift = type_.wide.dtype, type_.wide.dtype.type(type_.bits)
        return lambda a, b: ((a.astype(wide) * b.astype(wide)) >> shift).astype(type_.dtype)
    return _high_signed if type_.kind == "s" else _high_unsigned


def _high_unsigned(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper 64 bits of the product, by halves."""
    a_low, a_high, b_low, b_high = a & LOW_LIMB, a >> LIMB, b & LOW_LIMB, b >> LIMB
    middle = a_high * b_low + (a_low * b_low >> LIMB)
    other_middle = a_low * b_high + (middle & LOW_LIMB)
    return a_high * b_high + (middle >> LIMB) + (other_middle >> LIMB)


def _high_signed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # As unsigned, a negative number is too large by 2**64.
    high = _high_unsigned(a.view(np.uint64), b.view(np.uint64)).view(np.int64)
    return high - np.where(a < 0, b, 0) - np.where(b < 0, a, 0)


def divide(decoder: Decoder) -> Step:
    """`div` of integers, towards zero."""
    return _division(decoder, remainder=False)


@instruction("rem")
def remainder(decoder: Decoder) -> Step:
    """`rem`: has the sign of the dividend."""
    return _division(decoder, remainder=True)


def _division(decoder: Decoder, *, remainder: bool) -> Execute:
    type_ = decoder.type("us")
    write, dividend, divisor = decoder.destination(0), decoder.source(1, type_), decoder.source(2, type_)

    def magnitude(values: np.ndarray) -> np.ndarray:
        return np.abs(values).view(type_.unsigned)  # that of the smallest number, too, as unsigned

    def execute(active: Active) -> None:
        a, b = dividend(active), divisor(active)
        if (b == 0).any():
            thread = active.numbers[np.flatnonzero(spread(b, active) == 0)[0]]
            decoder.machine.issue(Kind.DIVISION_BY_ZERO, decoder.machine.threads.describe(thread))
        quotient = magnitude(a) // np.maximum(magnitude(b), 1)
        quotient = np.where((a < 0) != (b < 0), 0 - quotient, quotient).view(type_.dtype)
        write(active, a - quotient * b if remainder else quotient)

    return execute


def minimum_or_maximum(decoder: Decoder) -> Step:
    operation = {"min": np.minimum, "max": np.maximum}[decoder.opcode]
    type_ = decoder.type("us", packed=True)
    return decoder.elementwise(lanewise(operation, type_), type_, type_)


def negate_or_absolute(decoder: Decoder) -> Step:
    type_ = decoder.type("us")
    return decoder.elementwise({"neg": np.negative, "abs": np.abs}[decoder.opcode], type_)

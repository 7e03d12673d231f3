"""Logic, shifts, and instructions that count or move bits."""

import functools

import numpy as np

from ..decoder import Decoder
from ..steps import Step
from ..types import TYPES
from .registry import instruction

U32 = TYPES["u32"]


@instruction("and", "or", "xor")
def logic(decoder: Decoder) -> Step:
    operation = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[decoder.opcode]
    type_ = decoder.type("bp")
    return decoder.elementwise(operation, type_, type_)


@instruction("not")
def invert(decoder: Decoder) -> Step:
    return decoder.elementwise(np.bitwise_not, decoder.type("bp"))


@instruction("cnot")
def logical_not(decoder: Decoder) -> Step:
    type_ = decoder.type("b")
    return decoder.elementwise(lambda a: (a == 0).astype(type_.dtype), type_)


@instruction("lop3")
def any_logic(decoder: Decoder) -> Step:
    """Any function of three bits: its table has the result for bits a, b, c at place 4a + 2b + c."""
    type_ = decoder.type("b")
    table = decoder.immediate(4)
    minterms = [minterm for minterm in range(8) if table >> minterm & 1]

    def look_up(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        terms = (
            (a if minterm & 4 else ~a) & (b if minterm & 2 else ~b) & (c if minterm & 1 else ~c) for minterm in minterms
        )
        return functools.reduce(np.bitwise_or, terms, np.zeros(1, type_.dtype))

    return decoder.elementwise(look_up, type_, type_, type_)


@instruction("shl", "shr")
def shift(decoder: Decoder) -> Step:
    """Shifts by the width or more leave nothing, or the sign of a signed number."""
    type_ = decoder.type("bus")
    operation = np.left_shift if decoder.opcode == "shl" else np.right_shift
    keeps_sign = decoder.opcode == "shr" and type_.kind == "s"

    def shifted(a: np.ndarray, distance: np.ndarray) -> np.ndarray:
        within = operation(a, np.minimum(distance, type_.bits - 1).astype(type_.dtype))
        return within if keeps_sign else np.where(distance < type_.bits, within, type_.dtype.type(0))

    return decoder.elementwise(shifted, type_, U32)


@instruction("shf")
def funnel_shift(decoder: Decoder) -> Step:
    """Shifts the 64 bits b:a; to the left it returns the upper half, to the right the lower one."""
    left = decoder.take("l", "r") == "l"
    wraps = decoder.take("wrap", "clamp") == "wrap"
    decoder.take("b32")

    def shifted(low: np.ndarray, high: np.ndarray, distance: np.ndarray) -> np.ndarray:
        both = high.astype(np.uint64) << np.uint64(32) | low
        distance = (distance & np.uint32(31) if wraps else np.minimum(distance, np.uint32(32))).astype(np.uint64)
        return ((both << distance) >> np.uint64(32) if left else both >> distance).astype(np.uint32)

    return decoder.elementwise(shifted, U32, U32, U32)


@instruction("prmt")
def permute_bytes(decoder: Decoder) -> Step:
    """Picks four bytes of the eight of b:a, each by four bits; the highest of them asks for the byte's sign instead."""
    decoder.take("b32")

    def permuted(a: np.ndarray, b: np.ndarray, selectors: np.ndarray) -> np.ndarray:
        both = b.astype(np.uint64) << np.uint64(32) | a
        result = np.uint32(0)
        for number in range(4):
            selector = selectors >> np.uint32(4 * number)
            byte = (both >> (selector & np.uint32(7)).astype(np.uint64) * np.uint64(8)).astype(np.uint8)
            sign = (byte.view(np.int8) >> 7).view(np.uint8)
            byte = np.where(selector & np.uint32(8), sign, byte)
            result = result | byte.astype(np.uint32) << np.uint32(8 * number)
        return result

    return decoder.elementwise(permuted, U32, U32, U32)


@instruction("bfe")
def extract_field(decoder: Decoder) -> Step:
    """The field of `length` bits from `start` on, a signed one with its sign; beyond the operand its sign goes on."""
    type_ = decoder.type("us")
    width = type_.bits

    def extracted(a: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        start, length = start & np.uint32(255), np.minimum(length & np.uint32(255), width)
        field = a >> np.minimum(start, width - 1).astype(type_.dtype)
        if type_.kind != "s":
            field = np.where(start < width, field, type_.dtype.type(0))
        unused = np.minimum(width - length, width - 1).astype(type_.dtype)
        return np.where(length > 0, (field << unused) >> unused, type_.dtype.type(0))

    return decoder.elementwise(extracted, type_, U32, U32)


@instruction("bfi")
def insert_field(decoder: Decoder) -> Step:
    """Operand b with `length` of its bits, from `start` on, replaced by the lowest bits of a."""
    type_ = decoder.type("b")
    width, number = type_.bits, type_.dtype.type

    def inserted(a: np.ndarray, b: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        start, length = start & np.uint32(255), np.minimum(length & np.uint32(255), width)
        low_bits = np.where(
            length < width, (number(1) << np.minimum(length, width - 1).astype(number)) - number(1), ~number(0)
        )
        shift = np.minimum(start, width - 1).astype(number)
        mask = np.where(start < width, low_bits << shift, number(0))
        return b & ~mask | a << shift & mask

    return decoder.elementwise(inserted, type_, type_, U32, U32)


@instruction("popc")
def population_count(decoder: Decoder) -> Step:
    return decoder.elementwise(lambda a: np.bitwise_count(a).astype(np.uint32), decoder.type("b"))


@instruction("clz")
def count_leading_zeros(decoder: Decoder) -> Step:
    type_ = decoder.type("b")
    return decoder.elementwise(lambda a: np.uint32(type_.bits) - _bit_length(a), type_)


@instruction("bfind")
def find_leading_bit(decoder: Decoder) -> Step:
    """The place of the highest bit that is set, of a negative number that is not; all ones where there is none."""
    from_top = decoder.flag("shiftamt")
    type_ = decoder.type("us")

    def found(a: np.ndarray) -> np.ndarray:
        length = _bit_length(
            (a ^ (a >> type_.dtype.type(type_.bits - 1)) if type_.kind == "s" else a).view(type_.unsigned)
        )
        place = np.uint32(type_.bits) - length if from_top else length - np.uint32(1)
        return np.where(length > 0, place, np.uint32(0xFFFF_FFFF))

    return decoder.elementwise(found, type_)


def _bit_length(a: np.ndarray) -> np.ndarray:
    for distance in (1, 2, 4, 8, 16, 32)[: a.itemsize.bit_length() + 2]:
        a = a | a >> a.dtype.type(distance)
    return np.bitwise_count(a).astype(np.uint32)


@instruction("brev")
def reverse_bits(decoder: Decoder) -> Step:
    type_ = decoder.type("b")

    def reversed_bits(a: np.ndarray) -> np.ndarray:
        octets = np.ascontiguousarray(a).view(np.uint8).reshape(-1, type_.size)
        backwards = np.unpackbits(octets, axis=1, bitorder="little")[:, ::-1]
        return np.packbits(backwards, axis=1, bitorder="little").view(type_.dtype).ravel()

    return decoder.elementwise(reversed_bits, type_)

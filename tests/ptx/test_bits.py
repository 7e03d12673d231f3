"""Logic, shifts and bit fields against Python's integers."""

import numpy as np
import pytest

from .assembly import evaluate

WIDTHS = {"16": np.uint16, "32": np.uint32, "64": np.uint64}
RANDOM = np.random.default_rng(0).integers(0, 2**63, 64, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def words(dtype):
    """Random words and those with all bits, none, and a single one."""
    bits = 8 * np.dtype(dtype).itemsize
    single = [1 << place for place in range(bits)]
    return np.concatenate([RANDOM.astype(dtype), np.array([0, (1 << bits) - 1, *single], dtype)])


@pytest.mark.parametrize("bits", WIDTHS)
def test_logic(bits):
    a = words(WIDTHS[bits])
    b = a[::-1].copy()
    for opcode, expected in (("and", a & b), ("or", a | b), ("xor", a ^ b)):
        assert (evaluate(f"{opcode}.b{bits} {{d}}, {{a}}, {{b}};", a.dtype, a, b) == expected).all()
    assert (evaluate(f"not.b{bits} {{d}}, {{a}};", a.dtype, a) == ~a).all()
    assert (evaluate(f"cnot.b{bits} {{d}}, {{a}};", a.dtype, a) == (a == 0)).all()


def test_logic_of_predicates():
    a, b = np.array([0, 0, 1, 1], bool), np.array([0, 1, 0, 1], bool)
    for opcode, expected in (("and", a & b), ("or", a | b), ("xor", a ^ b)):
        assert (evaluate(f"{opcode}.pred {{d}}, {{a}}, {{b}};", bool, a, b) == expected).all()
    assert (evaluate("not.pred {d}, {a};", bool, a) == ~a).all()


@pytest.mark.parametrize("table", [0x00, 0xFF, 0x80, 0x96, 0xE8, 0xCA, 0x01, 0x3C])
def test_lop3_looks_bits_up(table):
    a, b, c = np.array([[place >> 2 & 1, place >> 1 & 1, place & 1] for place in range(8)], np.uint32).T
    result = evaluate(f"lop3.b32 {{d}}, {{a}}, {{b}}, {{c}}, {table};", np.uint32, a, b, c)
    assert (result & 1).tolist() == [table >> place & 1 for place in range(8)]


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("distance", [0, 1, 5, 15, 16, 31, 32, 63, 64, 200])
def test_shifts_by_the_width_and_more_leave_nothing(bits, distance):
    a = words(WIDTHS[bits])
    mask = (1 << int(bits)) - 1
    left = [(int(value) << distance) & mask for value in a]
    assert evaluate(f"shl.b{bits} {{d}}, {{a}}, {distance};", a.dtype, a).tolist() == left
    assert evaluate(f"shr.u{bits} {{d}}, {{a}}, {distance};", a.dtype, a).tolist() == [int(v) >> distance for v in a]
    signed = a.view(f"i{a.itemsize}")
    result = evaluate(f"shr.s{bits} {{d}}, {{a}}, {distance};", signed.dtype, signed)
    assert result.tolist() == [int(value) >> distance for value in signed]


@pytest.mark.parametrize("distance", [0, 1, 13, 31, 32, 33, 100])
@pytest.mark.parametrize("mode", ["wrap", "clamp"])
def test_funnel_shift(distance, mode):
    low, high = words(np.uint32), words(np.uint32)[::-1].copy()
    effective = distance % 32 if mode == "wrap" else min(distance, 32)
    both = [(int(upper) << 32) + int(lower) for lower, upper in zip(low, high, strict=True)]
    left = evaluate(f"shf.l.{mode}.b32 {{d}}, {{a}}, {{b}}, {distance};", np.uint32, low, high)
    assert left.tolist() == [(value << effective >> 32) % 2**32 for value in both]
    right = evaluate(f"shf.r.{mode}.b32 {{d}}, {{a}}, {{b}}, {distance};", np.uint32, low, high)
    assert right.tolist() == [(value >> effective) % 2**32 for value in both]


@pytest.mark.parametrize("selector", [0x3210, 0x7654, 0x0123, 0x5410, 0x7632, 0xBA98, 0xFEDC, 0x8000])
def test_byte_permutation(selector):
    a, b = words(np.uint32), words(np.uint32)[::-1].copy()
    octets = np.stack([a, b], axis=-1).view(np.uint8)
    chosen = []
    for place in range(4):
        digit = selector >> 4 * place & 15
        byte = octets[:, digit & 7]
        chosen.append(np.where(byte >= 128, 255, 0).astype(np.uint8) if digit & 8 else byte)
    expected = np.ascontiguousarray(np.stack(chosen, axis=-1)).view(np.uint32).ravel()
    assert (evaluate(f"prmt.b32 {{d}}, {{a}}, {{b}}, {selector};", np.uint32, a, b) == expected).all()


def extracted(value, start, length, bits, *, signed):
    """The definition of `bfe`, bit by bit."""
    bit = [value >> place & 1 for place in range(bits)]
    sign = bit[min(start + length - 1, bits - 1)] if signed and length else 0
    result = [bit[start + place] if place < length and start + place < bits else sign for place in range(bits)]
    return sum(digit << place for place, digit in enumerate(result))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("start", [0, 3, 31, 32, 63, 255])
@pytest.mark.parametrize("length", [0, 1, 8, 31, 32, 64, 255])
def test_bit_fields(bits, start, length):
    a = words(WIDTHS[str(bits)])
    for kind in "us":
        result = evaluate(f"bfe.{kind}{bits} {{d}}, {{a}}, {start}, {length};", a.dtype, a)
        expected = [extracted(int(value), start, min(length, bits), bits, signed=kind == "s") for value in a]
        assert result.tolist() == expected
    b = a[::-1].copy()
    mask = ((1 << min(length, bits)) - 1) << start & ((1 << bits) - 1)
    expected = [(int(y) & ~mask) | (int(x) << start & mask) for x, y in zip(a, b, strict=True)]
    assert evaluate(f"bfi.b{bits} {{d}}, {{a}}, {{b}}, {start}, {length};", a.dtype, a, b).tolist() == expected


@pytest.mark.parametrize("bits", [32, 64])
class TestCounts:
    def test_population_and_leading_zeros(self, bits):
        a = words(WIDTHS[str(bits)])
        assert evaluate(f"popc.b{bits} {{d}}, {{a}};", np.uint32, a).tolist() == [int(v).bit_count() for v in a]
        leading = [bits - int(value).bit_length() for value in a]
        assert evaluate(f"clz.b{bits} {{d}}, {{a}};", np.uint32, a).tolist() == leading

    def test_leading_bit(self, bits):
        a = words(WIDTHS[str(bits)])
        places = [int(value).bit_length() - 1 for value in a]
        assert evaluate(f"bfind.u{bits} {{d}}, {{a}};", np.int32, a).tolist() == places
        signed = [(int(v) if v >= 0 else ~int(v)).bit_length() - 1 for v in a.view(f"i{a.itemsize}")]
        assert evaluate(f"bfind.s{bits} {{d}}, {{a}};", np.int32, a).tolist() == signed
        shifts = [bits - 1 - place if place >= 0 else -1 for place in places]
        assert evaluate(f"bfind.shiftamt.u{bits} {{d}}, {{a}};", np.int32, a).tolist() == shifts

    def test_reversal(self, bits):
        a = words(WIDTHS[str(bits)])
        expected = [int(f"{int(value):0{bits}b}"[::-1], 2) for value in a]
        assert evaluate(f"brev.b{bits} {{d}}, {{a}};", a.dtype, a).tolist() == expected

"""Integer arithmetic against Python's integers."""

import hypothesis.extra.numpy
import numpy as np
import pytest
from hypothesis import given

from .assembly import evaluate, run
from .report import Kind

TYPES = {
    f"{kind}{bits}": np.dtype(f"{'i' if kind == 's' else 'u'}{bits // 8}") for kind in "su" for bits in (16, 32, 64)
}


def edges(dtype):
    """Numbers at which integers turn, and some others."""
    limits = np.iinfo(dtype)
    half = limits.bits // 2
    values = [
        0,
        1,
        2,
        3,
        7,
        limits.max,
        limits.max - 1,
        limits.min,
        limits.min + 1,
        limits.max // 3,
        (1 << half) - 1,
        1 << half,
    ]
    values += [-1, -2, -7] if limits.min else []
    return np.array(values, dtype)


def wrapped(values, dtype):
    """Python integers modulo the width."""
    bits = 8 * np.dtype(dtype).itemsize
    mask = (1 << bits) - 1
    return np.array([int(value) & mask for value in values.ravel()], f"u{bits // 8}").view(dtype).reshape(values.shape)


def pairs(dtype):
    a, b = np.meshgrid(edges(dtype), edges(dtype))
    return a.ravel(), b.ravel()


def towards_zero(x, y):
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


@pytest.mark.parametrize("name", TYPES)
class TestArithmetic:
    def test_add_and_subtract_wrap(self, name):
        a, b = pairs(TYPES[name])
        wide_a, wide_b = a.astype(object), b.astype(object)
        assert (evaluate(f"add.{name} {{d}}, {{a}}, {{b}};", a.dtype, a, b) == wrapped(wide_a + wide_b, a.dtype)).all()
        assert (evaluate(f"sub.{name} {{d}}, {{a}}, {{b}};", a.dtype, a, b) == wrapped(wide_a - wide_b, a.dtype)).all()

    def test_multiply_low_and_high(self, name):
        a, b = pairs(TYPES[name])
        product = a.astype(object) * b.astype(object)
        bits = 8 * a.itemsize
        assert (evaluate(f"mul.lo.{name} {{d}}, {{a}}, {{b}};", a.dtype, a, b) == wrapped(product, a.dtype)).all()
        high = evaluate(f"mul.hi.{name} {{d}}, {{a}}, {{b}};", a.dtype, a, b)
        assert (high == wrapped(product >> bits, a.dtype)).all()

    def test_multiply_add(self, name):
        a, b = pairs(TYPES[name])
        c = np.resize(edges(a.dtype)[::-1], a.size)
        expected = wrapped(a.astype(object) * b.astype(object) + c.astype(object), a.dtype)
        assert (evaluate(f"mad.lo.{name} {{d}}, {{a}}, {{b}}, {{c}};", a.dtype, a, b, c) == expected).all()

    def test_division_goes_towards_zero(self, name):
        a, b = pairs(TYPES[name])
        a, b = a[b != 0], b[b != 0]
        quotient = np.array([towards_zero(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)], object)
        assert (evaluate(f"div.{name} {{d}}, {{a}}, {{b}};", a.dtype, a, b) == wrapped(quotient, a.dtype)).all()
        rest = a.astype(object) - quotient * b.astype(object)
        assert (evaluate(f"rem.{name} {{d}}, {{a}}, {{b}};", a.dtype, a, b) == wrapped(rest, a.dtype)).all()

    def test_minimum_and_maximum(self, name):
        a, b = pairs(TYPES[name])
        assert (evaluate(f"min.{name} {{d}}, {{a}}, {{b}};", a.dtype, a, b) == np.minimum(a, b)).all()
        assert (evaluate(f"max.{name} {{d}}, {{a}}, {{b}};", a.dtype, a, b) == np.maximum(a, b)).all()


@pytest.mark.parametrize("name", ["s16", "u16", "s32", "u32"])
def test_wide_products(name):
    a, b = pairs(TYPES[name])
    wide = np.dtype(f"{a.dtype.kind}{2 * a.itemsize}")
    c = np.resize(edges(wide), a.size)
    product = a.astype(object) * b.astype(object)
    assert (evaluate(f"mul.wide.{name} {{d}}, {{a}}, {{b}};", wide, a, b) == wrapped(product, wide)).all()
    sums = evaluate(f"mad.wide.{name} {{d}}, {{a}}, {{b}}, {{c}};", wide, a, b, c)
    assert (sums == wrapped(product + c.astype(object), wide)).all()


@pytest.mark.parametrize("name", ["s16", "s32", "s64"])
def test_negation_and_absolute_value_wrap(name):
    a = edges(TYPES[name])
    assert (evaluate(f"neg.{name} {{d}}, {{a}};", a.dtype, a) == wrapped(-a.astype(object), a.dtype)).all()
    assert (evaluate(f"abs.{name} {{d}}, {{a}};", a.dtype, a) == wrapped(np.abs(a.astype(object)), a.dtype)).all()


def test_saturating_addition():
    a, b = pairs(np.int32)
    for opcode, exact in (("add", a.astype(np.int64) + b), ("sub", a.astype(np.int64) - b)):
        result = evaluate(f"{opcode}.sat.s32 {{d}}, {{a}}, {{b}};", np.int32, a, b)
        assert (result == np.clip(exact, -(2**31), 2**31 - 1)).all()


@pytest.mark.parametrize(("name", "dtype"), [("u16x2", np.uint16), ("s16x2", np.int16)])
def test_packed_integers(name, dtype):
    a, b = (np.resize(values, 200).view(np.uint32) for values in pairs(dtype))
    for opcode, operation in (("add", np.add), ("min", np.minimum), ("max", np.maximum)):
        result = evaluate(f"{opcode}.{name} {{d}}, {{a}}, {{b}};", np.uint32, a, b)
        assert (result.view(dtype) == operation(a.view(dtype), b.view(dtype))).all()


@given(hypothesis.extra.numpy.arrays(np.uint64, (2, 8)))
def test_upper_half_of_64_bit_products(factors):
    a, b = factors
    expected = [int(x) * int(y) >> 64 for x, y in zip(a, b, strict=True)]
    assert evaluate("mul.hi.u64 {d}, {a}, {b};", np.uint64, a, b).tolist() == expected
    expected = [int(x) * int(y) >> 64 for x, y in zip(a.view(np.int64), b.view(np.int64), strict=True)]
    assert evaluate("mul.hi.s64 {d}, {a}, {b};", np.int64, a, b).tolist() == expected


class TestCarry:
    """Numbers of two words, as compilers build wide integers."""

    @given(hypothesis.extra.numpy.arrays(np.uint64, (3, 4)))
    def test_addition_of_128_bits(self, values):
        a, b, c = values
        text = "add.cc.u64 %rd33, {a}, {b}; addc.cc.u64 %rd34, {b}, {c}; addc.u64 {d}, 0, 0; add.u64 {d}, {d}, %rd34;"
        result = evaluate(text, np.uint64, a, b, c)
        for x, y, z, found in zip(*values.tolist(), result.tolist(), strict=True):
            total = (y << 64) + x + (z << 64) + y
            assert found == ((total >> 64) + (total >> 128)) % 2**64

    @given(hypothesis.extra.numpy.arrays(np.uint32, (3, 4)))
    def test_subtraction_of_64_bits(self, values):
        a, b, c = values
        result = evaluate(
            "sub.cc.u32 {d}, {a}, {b}; subc.cc.u32 {d}, {b}, {c}; subc.u32 {d}, {d}, 0;", np.uint32, a, b, c
        )
        for x, y, z, found in zip(*values.tolist(), result.tolist(), strict=True):
            low_borrow = x < y
            middle = y - z - low_borrow
            assert found == (middle % 2**32 - (middle < 0)) % 2**32

    @given(hypothesis.extra.numpy.arrays(np.uint32, (3, 4)))
    def test_product_and_sum_of_64_bits(self, values):
        a, b, c = values
        result = evaluate("mad.lo.cc.u32 %r33, {a}, {b}, {c}; madc.hi.u32 {d}, {a}, {b}, 0;", np.uint32, a, b, c)
        assert result.tolist() == [(x * y + z) >> 32 for x, y, z in zip(*values.tolist(), strict=True)]

    def test_carry_runs_through_words_that_are_full(self):
        full = np.array([2**32 - 1], np.uint32)
        text = "add.cc.u32 %r33, {a}, 1; addc.cc.u32 %r33, {a}, 0; addc.u32 {d}, 0, 0;"
        assert evaluate(text, np.uint32, full).tolist() == [1]
        text = "sub.cc.u32 %r33, 0, 1; subc.cc.u32 %r33, {a}, {a}; subc.u32 {d}, 0, 0;"
        assert evaluate(text, np.uint32, full).tolist() == [2**32 - 1]
        text = "add.cc.u32 %r33, {a}, 1; madc.lo.cc.u32 %r33, {a}, 1, 0; addc.u32 {d}, 0, 0;"
        assert evaluate(text, np.uint32, full).tolist() == [1]

    def test_each_thread_has_its_own_flag(self):
        a = np.array([0, 2**32 - 1], np.uint32)
        assert evaluate("add.cc.u32 {d}, {a}, 1; addc.u32 {d}, 0, 0;", np.uint32, a).tolist() == [0, 1]


def test_division_by_zero_is_an_issue():
    out = np.zeros(32, np.uint32)
    store = "mad.wide.u32 %rd1, %r0, 4, %rd0; st.global.u32 [%rd1], %r2;"
    report = run(f"div.u32 %r2, 7, %r0; {store}", out, check=False)
    assert report.kinds == {Kind.DIVISION_BY_ZERO}
    assert "thread 0 of block 0" in report.issues[0].detail
    assert out[1:].tolist() == [7 // n for n in range(1, 32)]
    run(f"add.u32 %r0, %r0, 1; div.u32 %r2, 7, %r0; sub.u32 %r0, %r0, 1; {store}", out)

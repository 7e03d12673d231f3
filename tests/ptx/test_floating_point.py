"""Floating-point arithmetic against exact arithmetic, bit by bit."""

import math
from fractions import Fraction

import hypothesis.extra.numpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from . import exact
from .assembly import evaluate
from .floats import add_to_odd, fma64, narrow, widen
from .types import TYPES

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, about infinities and NaN

CARRIERS = {"f16": np.float16, "bf16": np.uint16, "f32": np.float32, "f64": np.float64}
NAN = {"f16": 0x7FFF, "bf16": 0x7FFF, "f32": 0x7FFFFFFF}


def edges(name):
    """Numbers at which the format turns, of both signs, and some others."""
    precision, smallest = exact.FORMATS[name]
    largest = (2 - 2.0 ** (1 - precision)) * 2.0 ** exact.LARGEST_EXPONENTS[name]
    tiny = 2.0 ** (smallest - precision + 1)
    positive = [
        0,
        tiny,
        2.0**smallest - tiny,
        2.0**smallest,
        0.75,
        1,
        1 + 2.0 ** (1 - precision),
        1.5,
        3,
        largest,
        math.inf,
    ]
    values = np.array([*positive, *(-value for value in positive), math.nan], np.float64)
    return narrow(values, TYPES[name])


def same(found, expected, name):
    """Whether all bits agree; arithmetic has one NaN."""
    bits = f"u{found.itemsize}"
    expected = narrow(np.asarray(expected, np.float64), TYPES[name]).view(bits)
    if name in NAN:
        return (found.view(bits) == expected).all()
    return ((found.view(bits) == expected) | (np.isnan(found) & np.isnan(expected.view(found.dtype)))).all()


def combinations(name, count):
    return [axis.ravel() for axis in np.meshgrid(*[edges(name)] * count)]


# Float32 alone has directed roundings.
@pytest.mark.parametrize(
    ("name", "mode"), [(name, "rn") for name in CARRIERS] + [("f32", mode) for mode in ("rz", "rm", "rp")]
)
class TestRounding:
    def test_arithmetic(self, name, mode):
        a, b = combinations(name, 2)
        wide_a, wide_b = (widen(values, TYPES[name]).astype(np.float64) for values in (a, b))
        one = narrow(np.array([1.0]), TYPES[name])
        flipped = narrow(-wide_b, TYPES[name])
        zero_of_product = narrow(np.copysign(0, wide_a) * np.copysign(1, wide_b), TYPES[name])
        for opcode, expected in (
            ("add", exact.fma(a, one, b, name, mode)),
            ("sub", exact.fma(a, one, flipped, name, mode)),
            ("mul", exact.fma(a, b, zero_of_product, name, mode)),
        ):
            found = evaluate(f"{opcode}.{mode}.{name} {{d}}, {{a}}, {{b}};", CARRIERS[name], a, b)
            assert same(found, expected, name), opcode

    def test_multiply_add(self, name, mode):
        a, b, c = (values[::7] for values in combinations(name, 3))
        found = evaluate(f"fma.{mode}.{name} {{d}}, {{a}}, {{b}}, {{c}};", CARRIERS[name], a, b, c)
        assert same(found, exact.fma(a, b, c, name, mode), name)


def floats(width):
    return hypothesis.extra.numpy.arrays(f"f{width // 8}", (3, 16), elements=st.floats(width=width))


@given(st.integers(0, 2**32 - 1))
def test_inexact_sums_are_odd_neighbours(seed):
    random = np.random.default_rng(seed)
    a, b = random.standard_normal((2, 64)) * 2.0 ** random.integers(-30, 30, (2, 64))
    for x, y, total in zip(a.tolist(), b.tolist(), add_to_odd(a, b).tolist(), strict=True):
        error = abs(Fraction(x) + Fraction(y) - Fraction(total))
        assert not error or (error < Fraction(math.ulp(total)) and np.float64(total).view(np.int64) & 1)


class TestFusedMultiplyAdd:
    @given(floats(32))
    def test_float32(self, values):
        found = evaluate("fma.rn.f32 {d}, {a}, {b}, {c};", np.float32, *values)
        assert same(found, exact.fma(*values, "f32"), "f32")

    @given(floats(16))
    def test_float16(self, values):
        found = evaluate("fma.rn.f16 {d}, {a}, {b}, {c};", np.float16, *values)
        assert same(found, exact.fma(*values, "f16"), "f16")

    @given(floats(64))
    def test_float64(self, values):
        with np.errstate(all="ignore"):
            assert same(fma64(*values), exact.fma(*values, "f64"), "f64")

    @given(st.integers(0, 2**32 - 1))
    def test_cancellation(self, seed):
        # c is nearly -a * b: what remains lies in the last bits of the product.
        random = np.random.default_rng(seed)
        a, b = random.standard_normal((2, 64))
        c = -a * b * (1 + random.integers(-2, 3, 64) * 2.0**-52)
        assert same(fma64(a, b, c), exact.fma(a, b, c, "f64"), "f64")
        a, b, c = (values.astype(np.float32) for values in (a, b, -a.astype(np.float32) * b.astype(np.float32)))
        found = evaluate("fma.rn.f32 {d}, {a}, {b}, {c};", np.float32, a, b, c)
        assert same(found, exact.fma(a, b, c, "f32"), "f32")

    def test_ties_that_two_roundings_would_miss(self):
        # Just above the middle of two float32, by less than a float64 shows.
        a, b = np.float32([1 + 2.0**-12]), np.float32([1 + 2.0**-12])
        c = np.float32([2.0**-60])
        found = evaluate("fma.rn.f32 {d}, {a}, {b}, {c};", np.float32, a, b, c)
        assert found.tolist() == [1 + 2.0**-11 + 2.0**-23]
        assert (a * b + c).tolist() == [1 + 2.0**-11]


@pytest.mark.parametrize("name", ["f16x2", "bf16x2", "f32x2"])
def test_packed_lanes_do_not_mix(name):
    element = name.removesuffix("x2")
    packed = np.uint32 if element != "f32" else np.uint64
    values = np.resize(edges(element), 46)
    a, b, c = values, values[::-1].copy(), np.roll(values, 5)
    for opcode, operands in (("add", (a, b)), ("mul", (a, b)), ("fma", (a, b, c))):
        letters = ", ".join(f"{{{letter}}}" for letter in "abc"[: len(operands)])
        scalar = evaluate(f"{opcode}.rn.{element} {{d}}, {letters};", CARRIERS[element], *operands)
        found = evaluate(f"{opcode}.rn.{name} {{d}}, {letters};", packed, *(each.view(packed) for each in operands))
        assert (found.view(f"u{scalar.itemsize}") == scalar.view(f"u{scalar.itemsize}")).all()


class TestModifiers:
    def test_ftz_flushes_operands_and_results(self):
        tiny, normal = np.float32(2.0**-130), np.float32(2.0**-126)
        a, b = np.float32([tiny, -tiny, normal, normal]), np.float32([0, 0, -1.5 * normal, 0])
        assert evaluate("add.ftz.f32 {d}, {a}, {b};", np.float32, a, b).tolist() == [0, 0, 0, normal]
        signs = np.signbit(evaluate("add.ftz.f32 {d}, {a}, {b};", np.float32, a, np.copysign(b, a)))
        assert signs.tolist() == [False, True, False, False]
        assert evaluate("add.f32 {d}, {a}, {b};", np.float32, a, b).tolist() == [tiny, -tiny, -0.5 * normal, normal]

    @pytest.mark.parametrize("name", ["f16", "f32"])
    def test_sat_clamps(self, name):
        a = edges(name)
        found = evaluate(f"add.sat.{name} {{d}}, {{a}}, {{b}};", CARRIERS[name], a, np.zeros_like(a))
        expected = np.where(a > 0, np.minimum(a, 1), 0)
        assert (found == expected).all()
        assert not np.signbit(found).any()

    def test_relu_keeps_nan(self):
        a = np.float16([-1, -0.0, 2, np.nan, -np.inf])
        found = evaluate("fma.rn.relu.f16 {d}, {a}, {b}, {c};", np.float16, a, np.float16(1), np.float16(0))
        assert found[[0, 1, 2, 4]].tolist() == [0, 0, 2, 0]
        assert np.isnan(found[3])

    def test_arithmetic_has_one_nan(self):
        payload = np.array([0xFFC12345, 0x7F800001], np.uint32).view(np.float32)
        for text in ("add.f32 {d}, {a}, {a};", "mul.f32 {d}, {a}, {a};", "fma.rn.f32 {d}, {a}, {a}, {a};"):
            assert (evaluate(text, np.uint32, payload) == 0x7FFFFFFF).all()
        infinity = np.float32([np.inf])
        assert evaluate("sub.f32 {d}, {a}, {a};", np.uint32, infinity).tolist() == [0x7FFFFFFF]


class TestMinimumAndMaximum:
    @pytest.mark.parametrize("name", CARRIERS)
    def test_the_number_wins_over_nan(self, name):
        a, b = combinations(name, 2)
        wide_a, wide_b = (widen(values, TYPES[name]).astype(np.float64) for values in (a, b))
        for opcode, choose, zero in (("min", np.fmin, -0.0), ("max", np.fmax, 0.0)):
            found = evaluate(f"{opcode}.{name} {{d}}, {{a}}, {{b}};", CARRIERS[name], a, b)
            different_zeros = (wide_a == 0) & (wide_b == 0) & (np.signbit(wide_a) != np.signbit(wide_b))
            assert same(found, np.where(different_zeros, zero, choose(wide_a, wide_b)), name)

    @pytest.mark.parametrize("name", ["f16", "bf16", "f32"])
    def test_nan_wins_if_asked_to(self, name):
        a, b = combinations(name, 2)
        wide_a, wide_b = (widen(values, TYPES[name]).astype(np.float64) for values in (a, b))
        for opcode, choose in (("min", np.minimum), ("max", np.maximum)):
            found = widen(evaluate(f"{opcode}.NaN.{name} {{d}}, {{a}}, {{b}};", CARRIERS[name], a, b), TYPES[name])
            np.testing.assert_array_equal(found, choose(wide_a, wide_b))


def test_minimum_of_three():
    a, b, c = np.float32([1, np.nan, 3]), np.float32([2, 2, np.nan]), np.float32([3, -0.0, 1])
    assert evaluate("min.f32 {d}, {a}, {b}, {c};", np.float32, a, b, c).tolist() == [1, 0, 1]


@pytest.mark.parametrize("name", CARRIERS)
def test_sign_instructions_change_one_bit(name):
    a = edges(name)
    bits = a.view(f"u{a.itemsize}")
    sign = bits.dtype.type(1 << 8 * a.itemsize - 1)
    assert (evaluate(f"neg.{name} {{d}}, {{a}};", bits.dtype, a) == bits ^ sign).all()
    assert (evaluate(f"abs.{name} {{d}}, {{a}};", bits.dtype, a) == bits & ~sign).all()


def test_copysign():
    a, b = combinations("f32", 2)
    found = evaluate("copysign.f32 {d}, {a}, {b};", np.float32, a, b)
    assert (found.view(np.uint32) == np.copysign(b, a).view(np.uint32)).all()


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("finite", lambda a: np.isfinite(a)),
        ("infinite", lambda a: np.isinf(a)),
        ("number", lambda a: ~np.isnan(a)),
        ("notanumber", lambda a: np.isnan(a)),
        ("normal", lambda a: np.isfinite(a) & (np.abs(a) >= 2.0**-126)),
        ("subnormal", lambda a: (a != 0) & (np.abs(a) < 2.0**-126)),
    ],
)
def test_properties(test, expected):
    a = edges("f32")
    assert (evaluate(f"testp.{test}.f32 {{d}}, {{a}};", bool, a) == expected(a)).all()

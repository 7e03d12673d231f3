"""Comparisons and selections."""

import operator

import numpy as np
import pytest

from .assembly import evaluate
from .floats import widen
from .test_floating_point import CARRIERS, combinations
from .test_integers import TYPES as INTEGERS
from .test_integers import pairs
from .types import TYPES

COMPARISONS = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
UNSIGNED = {"lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(name):
    a, b = pairs(INTEGERS[name])
    for comparison, expected in (COMPARISONS | (UNSIGNED if name[0] == "u" else {})).items():
        assert (evaluate(f"setp.{comparison}.{name} {{d}}, {{a}}, {{b}};", bool, a, b) == expected(a, b)).all()


@pytest.mark.parametrize("name", CARRIERS)
@pytest.mark.parametrize("comparison", COMPARISONS)
def test_floats_with_nan_compare_as_asked(name, comparison):
    a, b = combinations(name, 2)
    wide_a, wide_b = widen(a, TYPES[name]), widen(b, TYPES[name])
    nan = np.isnan(wide_a) | np.isnan(wide_b)
    expected = COMPARISONS[comparison](wide_a, wide_b)
    found = evaluate(f"setp.{comparison}.{name} {{d}}, {{a}}, {{b}};", bool, a, b)
    assert (found == expected & ~nan).all()
    found = evaluate(f"setp.{comparison}u.{name} {{d}}, {{a}}, {{b}};", bool, a, b)
    assert (found == expected | nan).all()


@pytest.mark.parametrize("name", CARRIERS)
def test_nan_itself(name):
    a, b = combinations(name, 2)
    nan = np.isnan(widen(a, TYPES[name])) | np.isnan(widen(b, TYPES[name]))
    assert (evaluate(f"setp.nan.{name} {{d}}, {{a}}, {{b}};", bool, a, b) == nan).all()
    assert (evaluate(f"setp.num.{name} {{d}}, {{a}}, {{b}};", bool, a, b) == ~nan).all()


def test_ftz_makes_subnormals_equal_to_zero():
    a, b = np.float32([2.0**-130]), np.float32([0])
    assert not evaluate("setp.eq.f32 {d}, {a}, {b};", bool, a, b)
    assert evaluate("setp.eq.ftz.f32 {d}, {a}, {b};", bool, a, b)


@pytest.mark.parametrize("combination", ["and", "or", "xor"])
def test_combined_with_a_predicate(combination):
    a, b = np.arange(6, dtype=np.int32), np.int32([3])
    p = np.array([0, 1] * 3, bool)
    combine = getattr(np, f"logical_{combination}")
    text = f"setp.lt.{combination}.s32 {{d}}, {{a}}, {{b}}, "
    assert (evaluate(text + "{c};", bool, a, b, p) == combine(a < 3, p)).all()
    assert (evaluate(text + "!{c};", bool, a, b, p) == combine(a < 3, ~p)).all()


def test_second_destination_is_the_opposite():
    a, b, p = np.arange(6, dtype=np.int32), np.int32([3]), np.array([0, 1] * 3, bool)
    opposite = evaluate("setp.lt.and.s32 %p5|{d}, {a}, {b}, {c};", bool, a, b, p)
    assert (opposite == (a >= 3) & p).all()


@pytest.mark.parametrize("name", ["f16x2", "bf16x2"])
def test_pairs_have_a_predicate_a_lane(name):
    element = name.removesuffix("x2")
    low, high = (values[:400] for values in combinations(element, 2))
    a, b = (np.stack(lanes, axis=-1).view(np.uint32).ravel() for lanes in ((low, high), (high, np.roll(low, 7))))
    lower = evaluate(f"setp.lt.{name} {{d}}|%p5, {{a}}, {{b}};", bool, a, b)
    upper = evaluate(f"setp.lt.{name} %p5|{{d}}, {{a}}, {{b}};", bool, a, b)
    low, high = widen(low, TYPES[element]), widen(high, TYPES[element])
    assert (lower == (low < high)).all()
    assert (upper == (high < np.roll(low, 7))).all()


def test_set_writes_numbers():
    a, b = np.float32([1, 2, np.nan]), np.float32([2, 1, 1])
    assert evaluate("set.lt.u32.f32 {d}, {a}, {b};", np.uint32, a, b).tolist() == [2**32 - 1, 0, 0]
    assert evaluate("set.lt.f32.f32 {d}, {a}, {b};", np.float32, a, b).tolist() == [1, 0, 0]


def test_selections():
    a, b, p = np.arange(4, dtype=np.float64), -np.arange(4, dtype=np.float64), np.array([0, 1, 1, 0], bool)
    assert evaluate("selp.f64 {d}, {a}, {b}, {c};", np.float64, a, b, p).tolist() == [0, 1, 2, -3]
    sign = np.float32([0, -0.0, -1, np.nan])
    assert evaluate("slct.f64.f32 {d}, {a}, {b}, {c};", np.float64, a, b, sign).tolist() == [0, 1, -2, -3]
    sign = np.int32([0, -1, 5, -(2**31)])
    assert evaluate("slct.f64.s32 {d}, {a}, {b}, {c};", np.float64, a, b, sign).tolist() == [0, -1, 2, -3]

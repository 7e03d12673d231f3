"""Division, roots and approximated functions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from . import exact
from .assembly import evaluate
from .floats import widen
from .test_floating_point import CARRIERS, combinations, edges, same
from .types import TYPES

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, about infinities and NaN


@pytest.mark.parametrize("modifiers", ["rn.f32", "full.f32", "approx.f32", "rn.f64"])
def test_division(modifiers):
    name = modifiers.split(".")[1]
    a, b = combinations(name, 2)
    with np.errstate(all="ignore"):
        expected = a / b
    assert same(evaluate(f"div.{modifiers} {{d}}, {{a}}, {{b}};", CARRIERS[name], a, b), expected, name)


@given(st.fractions(), st.fractions())
def test_quotients_are_rounded_once(x, y):
    a, b = np.float32([x]), np.float32([y])
    if b and a and np.isfinite(a / b):
        expected = exact.rounded(Fraction(float(a[0])) / Fraction(float(b[0])), "f32")
        assert evaluate("div.rn.f32 {d}, {a}, {b};", np.float32, a, b).tolist() == [expected]


@pytest.mark.parametrize(
    ("opcode", "function"),
    [
        ("rcp.approx", lambda a: 1 / a),
        ("rcp.rn", lambda a: 1 / a),
        ("sqrt.approx", np.sqrt),
        ("sqrt.rn", np.sqrt),
        ("rsqrt.approx", lambda a: 1 / np.sqrt(a)),
        ("ex2.approx", np.exp2),
        ("lg2.approx", np.log2),
        ("sin.approx", np.sin),
        ("cos.approx", np.cos),
        ("tanh.approx", np.tanh),
    ],
)
def test_functions(opcode, function):
    a = np.concatenate([edges("f32"), np.linspace(-40, 40, 99, dtype=np.float32)])
    with np.errstate(all="ignore"):
        expected = function(a.astype(np.float64))
    assert same(evaluate(f"{opcode}.f32 {{d}}, {{a}};", np.float32, a), expected, "f32")


def test_ftz_of_functions():
    a = np.float32([2.0**-130, -(2.0**-130)])
    assert evaluate("lg2.approx.ftz.f32 {d}, {a};", np.float32, a).tolist() == [-np.inf, -np.inf]
    assert evaluate("ex2.approx.ftz.f32 {d}, {a};", np.float32, np.float32([-130])).tolist() == [0]
    assert evaluate("rcp.approx.ftz.f32 {d}, {a};", np.float32, a).tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_16_bit_functions(name):
    a = edges(name)
    with np.errstate(all="ignore"):
        expected = np.tanh(widen(a, TYPES[name]).astype(np.float64))
    assert same(evaluate(f"tanh.approx.{name} {{d}}, {{a}};", CARRIERS[name], a), expected, name)


def test_reciprocal_of_float64_has_32_bits():
    a = np.array([3.0, -7.0, np.inf, 2.0**-1030])
    found = evaluate("rcp.approx.ftz.f64 {d}, {a};", np.float64, a)
    assert (found.view(np.uint64) & np.uint64(0xFFFFFFFF) == 0).all()
    np.testing.assert_allclose(found, [1 / 3, -1 / 7, 0, np.inf], rtol=2e-6)

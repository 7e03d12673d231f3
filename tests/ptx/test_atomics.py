"""Atomic operations: each thread sees what those before it left."""

import numpy as np
import pytest

from . import Buffer
from .assembly import run
from .floats import narrow, widen
from .types import TYPES

INTEGERS = {"u32": np.uint32, "s32": np.int32, "u64": np.uint64, "s64": np.int64}

# 32 threads, each with its value, at one place; what the operation returned goes to its own place.
ONE_PLACE = """
    mul.wide.u32 %rd5, %r0, {size}; add.u64 %rd6, %rd0, %rd5; add.u64 %rd7, %rd1, %rd5;
    ld.global.b{bits} {value}, [%rd6];
    {atomic}
    st.global.b{bits} [%rd7], {old};"""


def update(operation, values, start, name, *, space="global", operands="{value}"):
    """What a location holds in the end, and what each thread got."""
    dtype = values.dtype
    bits = 8 * dtype.itemsize
    value, old = ("%rd20", "%rd21") if bits == 64 else ("%r20", "%r21")
    address, prologue, epilogue = "%rd2", "", ""
    if space == "shared":
        address = "cell"
        prologue = f"ld.global.b{bits} {old}, [%rd2]; st.shared.b{bits} [cell], {old}; bar.warp.sync 0xffffffff;"
        epilogue = f"bar.warp.sync 0xffffffff; ld.shared.b{bits} {value}, [cell]; st.global.b{bits} [%rd2], {value};"
    atomic = f"atom.{space}.{operation}.{name} {old}, [{address}], {operands.format(value=value)};"
    body = ONE_PLACE.format(size=dtype.itemsize, bits=bits, value=value, old=old, atomic=prologue + atomic)
    cell, returned = np.array([start], dtype), np.zeros(32, dtype)
    run(body + epilogue, values, returned, cell, declarations=".shared .align 8 .b8 cell[8];")
    return cell[0], returned


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("operation", ["add", "min", "max", "and", "or", "xor", "exch"])
def test_integers(space, name, operation):
    values = np.random.default_rng(0).integers(0, 2**64, 32, dtype=np.uint64).astype(INTEGERS[name])
    functions = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
        "exch": lambda old, value: value,
    }
    expected = [values.dtype.type(12345)]
    with np.errstate(over="ignore"):
        for value in values:
            expected.append(functions[operation](expected[-1], value))
    last, returned = update(operation, values, 12345, name if operation != "exch" else f"b{name[1:]}", space=space)
    assert last == expected[-1]
    assert (returned == expected[:-1]).all()


def test_compare_and_swap():
    # Of 32 threads that want to raise 5 to 6, one does.
    values = np.full(32, 5, np.uint64)
    last, returned = update("cas", values, 5, "b64", operands="{value}, 6")
    assert last == 6
    assert returned.tolist() == [5] + [6] * 31


def test_counters_wrap_at_their_limit():
    values = np.full(32, 4, np.uint32)
    assert update("inc", values, 3, "u32")[1].tolist() == ([3, 4, 0, 1, 2] * 7)[:32]
    assert update("dec", values, 1, "u32")[1].tolist() == ([1, 0, 4, 3, 2] * 7)[:32]
    assert update("inc", values, 9, "u32")[1].tolist() == [9, *([0, 1, 2, 3, 4] * 7)[:31]]
    assert update("dec", values, 9, "u32")[1].tolist() == [9, *([4, 3, 2, 1, 0] * 7)[:31]]


@pytest.mark.parametrize(("name", "dtype"), [("f32", np.float32), ("f64", np.float64)])
def test_floats_are_added_one_after_another(name, dtype):
    values = np.random.default_rng(0).standard_normal(32).astype(dtype)
    last, returned = update("add", values, 1, name)
    expected = [dtype(1)]
    for value in values:
        expected.append(expected[-1] + value)
    assert last == expected[-1]
    assert (returned == expected[:-1]).all()


def test_global_memory_flushes_subnormals_and_shared_memory_does_not():
    tiny = np.full(32, 2.0**-140, np.float32)
    assert update("add", tiny, 0, "f32", space="global")[0] == 0
    assert update("add", tiny, 0, "f32", space="shared")[0] == np.float32(2.0**-135)


@pytest.mark.parametrize("name", ["f16x2", "bf16x2"])
def test_packed_floats(name):
    element = TYPES[name].element
    values = narrow(np.arange(64.0) % 4 / 8, element)  # so small that no sum is rounded
    last, _ = update("add.noftz", values.view(np.uint32), 0, name)
    total = widen(np.array([last]).view(element.dtype), element)
    assert total.tolist() == [16 * (0 + 2) / 8, 16 * (1 + 3) / 8]


def test_reduction_returns_nothing():
    x = np.zeros(4, np.uint32)
    body = "and.b32 %r2, %r0, 3; mad.wide.u32 %rd1, %r2, 4, %rd0; red.release.gpu.global.add.u32 [%rd1], %r0;"
    report = run(body, x, grid=2)
    assert x.tolist() == [2 * sum(range(n, 32, 4)) for n in range(4)]
    assert report.global_atomics.bytes == 2 * 32 * 4


def test_vectors_are_updated_element_by_element():
    x = np.zeros(2, np.float32)
    body = "cvt.rn.f32.u32 %r2, %r0; red.global.v2.f32.add [%rd0], {%r2, 0f3F800000};"
    run(body, x)
    assert x.tolist() == [sum(range(32)), 32]


def test_uninitialised_counters_are_found():
    body = "atom.global.add.u32 %r2, [%rd0], 1;"
    report = run(body, Buffer(np.zeros(1, np.uint32), initialized=False), check=False)
    assert len(report.issues) == 1

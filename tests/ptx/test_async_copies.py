"""Asynchronous copies land when they are waited for."""

import numpy as np
import pytest

from . import Kind
from .assembly import run

TILE = ".shared .align 16 .b8 tile[2048];"
PLACES = """mad.wide.u32 %rd5, %r0, 16, %rd0; mad.wide.u32 %rd6, %r0, 16, %rd1;
    mov.u32 %r2, tile; mad.lo.u32 %r3, %r0, 16, %r2;"""
READ_BACK = "ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r3]; st.global.v4.u32 [%rd6], {%r4, %r5, %r6, %r7};"


def copied(body, check=True):
    x, y = np.arange(1, 129, dtype=np.uint32), np.zeros(128, np.uint32)
    report = run(PLACES + body + READ_BACK, x, y, declarations=TILE, check=check)
    return x, y, report


@pytest.mark.parametrize(
    "wait",
    [
        "cp.async.commit_group; cp.async.wait_group 0;",
        "cp.async.wait_all;",
        "cp.async.commit_group; cp.async.wait_all;",
    ],
)
def test_copy_lands_at_the_wait(wait):
    x, y, report = copied("cp.async.cg.shared.global.L2::128B [%r3], [%rd5], 16;" + wait)
    assert (x == y).all()
    assert report.global_loads.sectors == 16


@pytest.mark.parametrize("wait", ["", "cp.async.commit_group;", "cp.async.commit_group; cp.async.wait_group 1;"])
def test_without_a_wait_memory_is_not_initialised(wait):
    _, y, report = copied("cp.async.cg.shared.global [%r3], [%rd5], 16;" + wait, check=False)
    assert (y == 0).all()
    assert report.kinds == {Kind.UNINITIALIZED}


def test_groups_land_in_order():
    x, y, _ = copied("""
        cp.async.ca.shared.global [%r3], [%rd5], 4; cp.async.ca.shared.global [%r3+4], [%rd5+4], 4;
        cp.async.commit_group;
        cp.async.ca.shared.global [%r3+8], [%rd5+8], 8; cp.async.commit_group;
        st.shared.u32 [%r3+512], 0; cp.async.wait_group 1; ld.shared.v2.u32 {%r8, %r9}, [%r3];
        cp.async.wait_group 0;""")
    assert (x == y).all()


def test_a_source_of_no_bytes_fills_with_zeros():
    x, y, report = copied(
        "setp.lt.u32 %p1, %r0, 10; selp.u32 %r8, 16, 0, %p1; mov.b64 %rd7, 0; selp.b64 %rd5, %rd5, %rd7, %p1;"
        "cp.async.cg.shared.global [%r3], [%rd5], 0x10, %r8; cp.async.wait_all;"
    )
    assert (y[:40] == x[:40]).all()
    assert (y[40:] == 0).all()
    assert report.global_loads.bytes == 160


def test_reading_goes_on_while_a_copy_is_under_way():
    # The neighbour reads what is being overwritten; the barrier comes after the copy has begun.
    neighbour = "xor.b32 %r8, %r0, 1; mad.lo.u32 %r8, %r8, 16, %r2; ld.shared.u32 %r9, [%r8];"
    start = "st.shared.v4.u32 [%r3], {%r0, %r0, %r0, %r0}; bar.sync 0;"
    copy = "cp.async.cg.shared.global [%r3], [%rd5], 16;"
    wait = "bar.sync 0; cp.async.wait_all;"
    assert copied(start + neighbour + copy + wait, check=False)[2].kinds == {Kind.DATA_RACE}
    x, y, _ = copied(start + neighbour + "bar.sync 0;" + copy + wait)
    assert (x == y).all()


def test_a_copy_is_checked_as_it_begins():
    (issue,) = copied("cp.async.cg.shared.global [%r3+2040], [%rd5], 16;", check=False)[2].issues
    assert issue.kind == Kind.MISALIGNED
    assert issue.instruction.startswith("cp.async")


def test_another_thread_needs_a_barrier_besides():
    neighbour = "xor.b32 %r8, %r0, 1; mad.lo.u32 %r3, %r8, 16, %r2;"
    start = "cp.async.cg.shared.global [%r3], [%rd5], 16; cp.async.wait_all;"
    assert copied(start + neighbour, check=False)[2].kinds == {Kind.DATA_RACE}
    x, y, _ = copied(start + "bar.sync 0;" + neighbour)
    assert (y.reshape(-1, 4) == x.reshape(-1, 4)[np.arange(32) ^ 1]).all()

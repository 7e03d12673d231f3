"""The counts of a report, for accesses whose counts are known."""

import numpy as np
import pytest

from .assembly import run

TILE = ".shared .align 16 .b8 tile[8192];"


@pytest.mark.parametrize(
    ("stride", "sectors"),
    [(4, 4), (8, 8), (32, 32), (0, 1), (64, 32)],
)
def test_sectors_of_a_warp(stride, sectors):
    x = np.zeros(1024, np.uint32)
    report = run(f"mad.wide.u32 %rd1, %r0, {stride}, %rd0; ld.global.u32 %r2, [%rd1];", x)
    assert (report.global_loads.requests, report.global_loads.bytes, report.global_loads.sectors) == (1, 128, sectors)


def test_warps_do_not_share_sectors():
    x = np.zeros(4, np.uint32)
    report = run("ld.global.u32 %r2, [%rd0];", x, block=64, grid=2)
    assert (report.global_loads.requests, report.global_loads.sectors) == (4, 4)


def test_wide_and_unaligned_accesses():
    x = np.zeros(1024, np.uint32)
    report = run("mad.wide.u32 %rd1, %r0, 16, %rd0; ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd1];", x)
    assert (report.global_loads.bytes, report.global_loads.sectors) == (512, 16)
    report = run("mad.wide.u32 %rd1, %r0, 4, %rd0; st.global.u32 [%rd1+4], %r0;", x)
    assert (report.global_stores.bytes, report.global_stores.sectors) == (128, 5)


@pytest.mark.parametrize(
    ("stride", "wavefronts"),
    [(4, 1), (8, 2), (16, 4), (128, 32), (132, 1), (0, 1)],
)
def test_bank_conflicts(stride, wavefronts):
    report = run(f"mul.lo.u32 %r2, %r0, {stride}; st.shared.u32 [%r2], 1;", declarations=TILE)
    shared = report.shared
    assert (shared.requests, shared.bytes, shared.wavefronts) == (1, 128, wavefronts)
    assert shared.bank_conflicts == wavefronts - 1


@pytest.mark.parametrize(
    ("text", "wavefronts"), [("st.shared.u64 [%r2], %rd2;", 2), ("st.shared.v2.u64 [%r2], {%rd2, %rd3};", 4)]
)
def test_wide_accesses_to_shared_memory_take_turns(text, wavefronts):
    size = 4 * 2 * (wavefronts // 2)
    report = run(f"mul.lo.u32 %r2, %r0, {size}; {text}", declarations=TILE)
    assert (report.shared.wavefronts, report.shared.bank_conflicts) == (wavefronts, 0)
    padded = run(f"mul.lo.u32 %r2, %r0, {2 * size}; {text}", declarations=TILE)
    assert (padded.shared.wavefronts, padded.shared.bank_conflicts) == (2 * wavefronts, wavefronts)


def test_instructions():
    text = "setp.lt.u32 %p1, %r0, 4; @%p1 add.u32 %r2, %r2, 1;"
    report = run(text, block=96, grid=2)
    # Two mov and ret besides. An instruction that a predicate switches off takes its warp's turn.
    assert report.warp_instructions == 6 * 5
    assert report.thread_instructions == 192 * 4 + 8
    assert report.warp_instructions_by_opcode == {"mov": 12, "setp": 6, "add": 6, "ret": 6}


def test_incomplete_warps_count_as_warps():
    report = run("add.u32 %r2, %r2, 1;", block=40)
    assert report.warp_instructions_by_opcode["add"] == 2
    assert report.thread_instructions == 40 * 4

"""Branches, barriers, and what threads may do while they are parted."""

import numpy as np
import pytest

from .assembly import run

STORE = "mad.wide.u32 %rd1, %r0, 4, %rd0; st.global.u32 [%rd1], %r9;"


def result(body, block=32, **options):
    out = np.zeros(block, np.uint32)
    report = run(body + STORE, out, block=block, **options)
    return out, report


def test_loop_with_a_count_of_each_thread():
    text = """mov.u32 %r9, 0; mov.u32 %r2, 0;
        LOOP: add.u32 %r9, %r9, %r2; add.u32 %r2, %r2, 1; setp.le.u32 %p1, %r2, %r0; @%p1 bra LOOP;"""
    out, report = result(text)
    assert out.tolist() == [n * (n + 1) // 2 for n in range(32)]
    assert report.divergent_branches == 31
    assert report.warp_instructions_by_opcode["st"] == 1  # behind the loop they are together again


def test_indexed_branch():
    text = """and.b32 %r2, %r0, 3;
        TABLE: .branchtargets A, B, C, A;
        brx.idx %r2, TABLE;
        A: mov.u32 %r9, 10; bra.uni END;
        B: mov.u32 %r9, 20; bra.uni END;
        C: mov.u32 %r9, 30;
        END:"""
    assert result(text)[0].tolist() == [10, 20, 30, 10] * 8


def test_blocks_of_inline_assembly_have_their_own_names():
    text = """mov.u32 %r9, 1;
        { .reg .pred p; .reg .b32 t; setp.lt.u32 p, %r0, 4; mov.u32 t, 100; @p bra DONE; add.u32 %r9, %r9, t; DONE: }
        { .reg .pred p; .reg .b32 t; setp.ge.u32 p, %r0, 8; mov.u32 t, 1000; @p bra DONE; add.u32 %r9, %r9, t;
            { .reg .b32 t; mov.u32 t, 5; } add.u32 %r9, %r9, t; DONE: }"""
    assert result(text)[0].tolist() == [2001] * 4 + [2101] * 4 + [101] * 24


def test_exit_of_some_threads():
    text = "mov.u32 %r9, 3; setp.gt.u32 %p1, %r0, 9; @%p1 exit;"
    assert result(text)[0].tolist() == [3] * 10 + [0] * 22


def test_threads_join_again_behind_a_branch():
    text = "setp.lt.u32 %p1, %r0, 5; @%p1 bra SKIP; add.u32 %r2, %r2, 1; SKIP: add.u32 %r9, %r2, 7;"
    out, report = result(text)
    assert out.tolist() == [7] * 5 + [8] * 27
    assert report.warp_instructions_by_opcode["add"] == 2


@pytest.mark.parametrize(
    "barrier", ["bar.sync 0;", "barrier.sync.aligned 1;", "bar.sync 3, 64;", "barrier.cta.sync 2;"]
)
def test_barriers_order_the_block(barrier):
    text = f"""mad.lo.u32 %r3, %r0, 4, 0; st.shared.u32 [%r3], %r0; {barrier}
        xor.b32 %r4, %r3, 252; ld.shared.u32 %r9, [%r4];"""
    out, _ = result(text, block=64, declarations=".shared .align 4 .b8 tile[256];")
    assert out.tolist() == list(range(63, -1, -1))


@pytest.mark.parametrize(("mode", "expected"), [("popc.u32", 10), ("and.pred", 0), ("or.pred", 1)])
def test_barriers_that_reduce(mode, expected):
    destination = "%r9" if mode == "popc.u32" else "%p2"
    text = f"setp.lt.u32 %p1, %r0, 10; bar.red.{mode} {destination}, 0, %p1;"
    text += "" if mode == "popc.u32" else "selp.u32 %r9, 1, 0, %p2;"
    out, _ = result(text, block=96)
    assert (out == expected).all()
    negated = text.replace(", %p1;", ", !%p1;")
    assert (result(negated, block=96)[0] == {"popc.u32": 86, "and.pred": 0, "or.pred": 1}[mode]).all()


def test_warps_meet_at_a_barrier_by_different_ways():
    # The first warp loops before the barrier, the second does not.
    text = """mov.u32 %r2, 0; setp.ge.u32 %p1, %r0, 32; @%p1 bra MEET;
        LOOP: add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r2, 9; @%p2 bra LOOP;
        MEET: st.shared.u32 [tile], %r2; bar.sync 0; ld.shared.u32 %r9, [tile];"""
    text = text.replace("MEET: st", "MEET: setp.eq.u32 %p3, %r0, 0; @%p3 st")
    out, _ = result(text, block=64, declarations=".shared .align 4 .b8 tile[4];")
    assert (out == 9).all()


def test_fences_and_hints_do_nothing():
    text = """mov.u32 %r9, 1; membar.gl; fence.acq_rel.gpu; fence.sc.sys; nanosleep.u32 20; griddepcontrol.wait;
        griddepcontrol.launch_dependents; .pragma "nounroll"; prefetch.global.L2 [%rd0];"""
    assert (result(text)[0] == 1).all()


def test_last_block_sums_up():
    # Each block adds 1 to a counter; the last one to come reads what all have written.
    partial, counter, out = np.zeros(4, np.uint32), np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    text = """setp.ne.u32 %p1, %r0, 0; @%p1 ret;
        mad.wide.u32 %rd5, %r1, 4, %rd0; add.u32 %r2, %r1, 10; st.global.u32 [%rd5], %r2; membar.gl;
        atom.global.add.u32 %r3, [%rd1], 1; setp.ne.u32 %p2, %r3, 3; @%p2 ret;
        ld.volatile.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd0];
        add.u32 %r4, %r4, %r5; add.u32 %r4, %r4, %r6; add.u32 %r4, %r4, %r7; st.global.u32 [%rd2], %r4;"""
    run(text, partial, counter, out, grid=4)
    assert out[0] == 10 + 11 + 12 + 13

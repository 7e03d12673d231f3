"""Small kernels with one issue each, and their twins without it."""

from dataclasses import dataclass

from .report import Kind

TILE = ".shared .align 16 .b8 tile[256];"
# The thread's word of the buffer in %rd2 and of the tile in %r2, its neighbour's in %r3.
PLACES = """mad.wide.u32 %rd2, %r0, 4, %rd0; mov.u32 %r2, tile; mad.lo.u32 %r2, %r0, 4, %r2; xor.b32 %r4, %r0, 1;
    mov.u32 %r3, tile; mad.lo.u32 %r3, %r4, 4, %r3; xor.b32 %r5, %r0, 32; mad.lo.u32 %r5, %r5, 4, 0;"""


@dataclass
class Case:
    """A faulty text and a sound one, which differ in as little as possible."""

    kind: Kind
    faulty: str
    sound: str
    block: int = 32
    grid: int = 1
    detail: str = ""
    initialized: bool = True


CASES = {
    "load behind the end": Case(
        Kind.OUT_OF_BOUNDS,
        "ld.global.u32 %r9, [%rd2+4];",
        "ld.global.u32 %r9, [%rd2];",
        block=64,
        detail="256 bytes into argument 0 of 256 bytes; thread 63 of block 0",
    ),
    "store before the beginning": Case(
        Kind.OUT_OF_BOUNDS,
        "st.global.u32 [%rd2+-4], %r0;",
        "st.global.u32 [%rd2+0], %r0;",
        detail="thread 0 of block 0",
    ),
    "null pointer": Case(
        Kind.OUT_OF_BOUNDS, "mov.u64 %rd2, 0; ld.global.u32 %r9, [%rd2];", "ld.global.u32 %r9, [%rd2];"
    ),
    "negative address": Case(
        Kind.OUT_OF_BOUNDS, "mov.u64 %rd2, -4; ld.global.u32 %r9, [%rd2];", "ld.global.u32 %r9, [%rd2];"
    ),
    "behind shared memory": Case(
        Kind.OUT_OF_BOUNDS,
        "st.shared.u32 [%r2+252], %r0;",
        "st.shared.u32 [%r2+128], %r0;",
        detail="thread 1 of block 0",
    ),
    "behind local memory": Case(
        Kind.OUT_OF_BOUNDS,
        ".local .b8 depot[8]; st.local.u32 [depot+8], %r0;",
        ".local .b8 depot[8]; st.local.u32 [depot+4], %r0;",
    ),
    "misaligned word": Case(
        Kind.MISALIGNED,
        "ld.global.u32 %r9, [%rd2+2];",
        "ld.global.u16 %rs1, [%rd2+2];",
        detail="thread 0 of block 0",
    ),
    "misaligned vector": Case(
        Kind.MISALIGNED,
        "ld.global.v2.u32 {%r8, %r9}, [%rd2];",
        "shl.b32 %r7, %r0, 3; cvt.u64.u32 %rd3, %r7; add.u64 %rd3, %rd3, %rd0; ld.global.v2.u32 {%r8, %r9}, [%rd3];",
        detail="8 bytes at",
    ),
    "misaligned shared memory": Case(
        Kind.MISALIGNED, "st.shared.u64 [%r2], %rd0;", "and.b32 %r2, %r2, 0xf8; st.shared.u64 [%r2], %rd0;"
    ),
    "global memory that was not written": Case(
        Kind.UNINITIALIZED,
        "setp.ne.u32 %p1, %r0, 9; @%p1 st.global.u32 [%rd2], %r0; ld.global.u32 %r9, [%rd2];",
        "st.global.u32 [%rd2], %r0; ld.global.u32 %r9, [%rd2];",
        initialized=False,
        detail="thread 9 of block 0",
    ),
    "shared memory that was not written": Case(
        Kind.UNINITIALIZED, "ld.shared.u32 %r9, [%r2];", "st.shared.u32 [%r2], 0; ld.shared.u32 %r9, [%r2];"
    ),
    "local memory that was not written": Case(
        Kind.UNINITIALIZED,
        ".local .b8 depot[8]; ld.local.u32 %r9, [depot];",
        ".local .b8 depot[8]; st.local.u32 [depot], 0; ld.local.u32 %r9, [depot];",
    ),
    "write to constant memory": Case(
        Kind.READ_ONLY,
        ".local .b8 depot[8]; mov.u64 %rd3, table; cvta.const.u64 %rd3, %rd3; st.u32 [%rd3], 1;",
        ".local .b8 depot[8]; mov.u64 %rd3, depot; cvta.local.u64 %rd3, %rd3; st.u32 [%rd3], 1;",
    ),
    "read after write across warps": Case(
        Kind.DATA_RACE,
        "st.shared.u32 [%r2], %r0; ld.shared.u32 %r9, [%r5];",
        "st.shared.u32 [%r2], %r0; bar.sync 0; ld.shared.u32 %r9, [%r5];",
        block=64,
        detail="read after write by another thread of the block",
    ),
    "read after write within a warp": Case(
        Kind.DATA_RACE,
        "st.shared.u32 [%r2], %r0; ld.shared.u32 %r9, [%r3];",
        "st.shared.u32 [%r2], %r0; bar.warp.sync -1; ld.shared.u32 %r9, [%r3];",
        detail="read after write by another thread of the warp",
    ),
    "write after read across warps": Case(
        Kind.DATA_RACE,
        "st.shared.u32 [%r2], %r0; bar.sync 0; ld.shared.u32 %r9, [%r5]; st.shared.u32 [%r2], 1;",
        "st.shared.u32 [%r2], %r0; bar.sync 0; ld.shared.u32 %r9, [%r5]; bar.sync 0; st.shared.u32 [%r2], 1;",
        block=64,
        detail="write after read by another thread of the block",
    ),
    "write after read within a warp": Case(
        Kind.DATA_RACE,
        "st.shared.u32 [%r2], %r0; bar.warp.sync -1; ld.shared.u32 %r9, [%r3]; st.shared.u32 [%r2], 1;",
        "st.shared.u32 [%r2], %r0; bar.warp.sync -1; "
        "ld.shared.u32 %r9, [%r3]; bar.warp.sync -1; st.shared.u32 [%r2], 1;",
        detail="write after read by another thread of the warp",
    ),
    "write after the reads of a whole block": Case(
        Kind.DATA_RACE,
        "setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [tile], 5; bar.sync 0; "
        "ld.shared.u32 %r9, [tile]; @%p1 st.shared.u32 [tile], 6;",
        "setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [tile], 5; bar.sync 0; "
        "ld.shared.u32 %r9, [tile]; bar.sync 0; @%p1 st.shared.u32 [tile], 6;",
        block=64,
    ),
    "bytes of other threads": Case(
        Kind.DATA_RACE,
        "mov.u32 %r6, tile; add.u32 %r7, %r6, %r0; add.u32 %r8, %r6, %r4; st.shared.u8 [%r7], 1; "
        "ld.shared.u8 %r9, [%r8];",
        "mov.u32 %r6, tile; add.u32 %r7, %r6, %r0; add.u32 %r8, %r6, %r4; st.shared.u8 [%r7], 1; "
        "ld.shared.u8 %r9, [%r7];",
    ),
    "bytes that were not written": Case(
        Kind.UNINITIALIZED,
        "st.shared.u8 [tile], 1; ld.shared.u8 %r9, [tile+1];",
        "st.shared.u8 [tile], 1; ld.shared.u8 %r9, [tile];",
        block=1,
    ),
    "read that another thread's read has followed": Case(
        Kind.DATA_RACE,
        "setp.eq.u32 %p1, %r0, 40; setp.eq.u32 %p2, %r0, 0; @%p1 ld.global.u32 %r9, [%rd0]; "
        "@%p2 ld.global.u32 %r9, [%rd0];"
        "@%p2 st.global.u32 [%rd0], 1;",
        "setp.eq.u32 %p1, %r0, 40; setp.eq.u32 %p2, %r0, 0; @%p1 ld.global.u32 %r9, [%rd0+4]; "
        "@%p2 ld.global.u32 %r9, [%rd0];"
        "@%p2 st.global.u32 [%rd0], 1;",
        block=64,
    ),
    "read of another block that this block's read has followed": Case(
        Kind.DATA_RACE,
        "setp.eq.u32 %p1, %r1, 0; @%p1 ld.global.u32 %r9, [%rd2]; @%p1 bra END; bar.sync 0; ld.global.u32 %r9, [%rd2];"
        "bar.sync 0; st.global.u32 [%rd2], 1; END:",
        "setp.eq.u32 %p1, %r1, 0; @%p1 ld.global.u32 %r9, [%rd2+128]; @%p1 bra END; bar.sync 0; "
        "ld.global.u32 %r9, [%rd2];"
        "bar.sync 0; st.global.u32 [%rd2], 1; END:",
        grid=2,
    ),
    "syncwarp does not order warps": Case(
        Kind.DATA_RACE,
        "st.shared.u32 [%r2], %r0; bar.warp.sync -1; ld.shared.u32 %r9, [%r5];",
        "st.shared.u32 [%r2], %r0; bar.sync 0; ld.shared.u32 %r9, [%r5];",
        block=64,
    ),
    "writes of different values in one instruction": Case(
        Kind.DATA_RACE,
        "st.shared.u32 [tile], %r0;",
        "st.shared.u32 [tile], 7;",
        detail="different values in one instruction",
    ),
    "writes of different values one after another": Case(
        Kind.DATA_RACE,
        "setp.lt.u32 %p1, %r0, 32; @%p1 st.shared.u32 [tile], 7; @!%p1 st.shared.u32 [tile], 8;",
        "setp.lt.u32 %p1, %r0, 32; @%p1 st.shared.u32 [tile], 7; @!%p1 st.shared.u32 [tile], 7;",
        block=64,
        detail="write after write",
    ),
    "plain read of what others update atomically": Case(
        Kind.DATA_RACE,
        "st.shared.u32 [tile], 0; bar.sync 0; atom.shared.add.u32 %r9, [tile], 1; ld.shared.u32 %r9, [tile];",
        "st.shared.u32 [tile], 0; bar.sync 0; atom.shared.add.u32 %r9, [tile], 1; "
        "bar.sync 0; ld.shared.u32 %r9, [tile];",
        block=64,
        detail="read after atomic",
    ),
    "atomic update of what another thread sets": Case(
        Kind.DATA_RACE,
        "setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [tile], 0; atom.shared.add.u32 %r9, [tile], 1;",
        "setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [tile], 0; bar.sync 0; atom.shared.add.u32 %r9, [tile], 1;",
        block=64,
        detail="atomic after write",
    ),
    "global memory within a block": Case(
        Kind.DATA_RACE,
        "st.global.u32 [%rd2], %r0; mad.wide.u32 %rd3, %r4, 4, %rd0; ld.global.u32 %r9, [%rd3];",
        "st.global.u32 [%rd2], %r0; bar.sync 0; mad.wide.u32 %rd3, %r4, 4, %rd0; ld.global.u32 %r9, [%rd3];",
        detail="global memory",
    ),
    "global memory across blocks, which no barrier orders": Case(
        Kind.DATA_RACE,
        "bar.sync 0; add.u32 %r9, %r0, %r1; st.global.u32 [%rd2], %r9; bar.sync 0;",
        "bar.sync 0; mad.wide.u32 %rd2, %r1, 128, %rd2; st.global.u32 [%rd2], %r9; bar.sync 0;",
        grid=2,
    ),
    "write after a read of another block": Case(
        Kind.DATA_RACE,
        "ld.global.u32 %r9, [%rd2]; setp.eq.u32 %p1, %r1, 1; @%p1 st.global.u32 [%rd2], 1;",
        "ld.global.u32 %r9, [%rd2]; setp.eq.u32 %p1, %r1, 1; @%p1 st.global.u32 [%rd2+128], 1;",
        grid=2,
        detail="write after read by a thread of another block",
    ),
    "barrier on two ways": Case(
        Kind.DIVERGENT_BARRIER,
        "setp.lt.u32 %p1, %r0, 7; @%p1 bra LOW; bar.sync 0; bra END; LOW: bar.sync 0; END:",
        "setp.lt.u32 %p1, %r0, 7; @%p1 bra LOW; bra END; LOW: add.u32 %r9, %r9, 1; END: bar.sync 0;",
    ),
    "barrier that some never reach": Case(
        Kind.DIVERGENT_BARRIER,
        "setp.lt.u32 %p1, %r0, 7; @%p1 exit; bar.sync 0;",
        "setp.lt.u32 %p1, %r0, 7; bar.sync 0; @%p1 exit;",
        detail="7 threads of block 0 ended before",
    ),
    "predicated barrier": Case(
        Kind.DIVERGENT_BARRIER,
        "setp.lt.u32 %p1, %r0, 7; @%p1 bar.sync 0;",
        "setp.lt.u32 %p1, %r0, 32; @%p1 bar.sync 0;",
    ),
    "two barriers": Case(
        Kind.DEADLOCK,
        "setp.lt.u32 %p1, %r0, 32; @%p1 bra LOW; bar.sync 0; bra END; LOW: bar.sync 1; END:",
        "bar.sync 0; setp.lt.u32 %p1, %r0, 32; @%p1 bra LOW; bra END; LOW: add.u32 %r9, %r9, 1; END: bar.sync 1;",
        block=64,
        detail="32 threads wait at line",
    ),
    "shuffle of one half": Case(
        Kind.DEADLOCK,
        "setp.lt.u32 %p1, %r0, 16; @%p1 bra LOW; "
        "bra END; LOW: shfl.sync.bfly.b32 %r9, %r0, 1, 31, -1; END: bar.sync 0;",
        "setp.lt.u32 %p1, %r0, 16; @%p1 bra LOW; "
        "bra END; LOW: shfl.sync.bfly.b32 %r9, %r0, 1, 31, 0xffff; END: bar.sync 0;",
    ),
    "shuffle from a lane that takes no part": Case(
        Kind.INACTIVE_LANE,
        "setp.lt.u32 %p1, %r0, 16; @%p1 shfl.sync.bfly.b32 %r9, %r0, 16, 31, 0xffff;",
        "setp.lt.u32 %p1, %r0, 16; @%p1 shfl.sync.bfly.b32 %r9, %r0, 8, 31, 0xffff;",
    ),
    "lane that is not in its mask": Case(
        Kind.MEMBER_MASK, "vote.sync.ballot.b32 %r9, 1, 0xffff;", "vote.sync.ballot.b32 %r9, 1, 0xffffffff;"
    ),
    "mask with lanes that have ended": Case(
        Kind.MEMBER_MASK,
        "setp.ge.u32 %p1, %r0, 16; @%p1 exit; vote.sync.ballot.b32 %r9, 1, -1;",
        "setp.ge.u32 %p1, %r0, 16; @%p1 exit; vote.sync.ballot.b32 %r9, 1, 0xffff;",
    ),
    "trap": Case(
        Kind.TRAP, "setp.eq.u32 %p1, %r0, 31; @%p1 trap;", "setp.eq.u32 %p1, %r0, 32; @%p1 trap;", detail="thread 31"
    ),
    "loop without an end": Case(Kind.NO_PROGRESS, "LOOP: bra LOOP;", "bra LOOP; LOOP:"),
}

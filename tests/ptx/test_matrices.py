"""`ldmatrix` and `stmatrix`."""

import numpy as np
import pytest

from .assembly import run

TILE = ".shared .align 16 .b8 tile[512];"


def fragments(matrices, *, transposed):
    """Which two elements each lane holds of each matrix, by the definition."""
    held = np.zeros((32, len(matrices), 2), np.uint16)
    for lane in range(32):
        for number, matrix in enumerate(matrices):
            matrix = matrix.T if transposed else matrix
            held[lane, number] = matrix[lane // 4, 2 * (lane % 4) : 2 * (lane % 4) + 2]
    return held


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_come_and_go(count, transposed):
    matrices = np.random.default_rng(0).integers(0, 2**16, (count, 8, 8), dtype=np.uint16)
    shape = f"sync.aligned.m8n8.x{count}" + (".trans" if transposed else "")
    registers = ", ".join(f"%r{20 + number}" for number in range(count))
    stores = "".join(f"st.global.u32 [%rd5+{4 * number}], %r{20 + number};" for number in range(count))
    out, copy = np.zeros((32, count), np.uint32), np.zeros_like(matrices)
    text = f"""
        mov.u32 %r2, tile; rem.u32 %r3, %r0, {8 * count}; mad.lo.u32 %r3, %r3, 16, %r2; mul.wide.u32 %rd6, %r0, 16;
        setp.ge.u32 %p1, %r0, {8 * count}; add.u64 %rd7, %rd0, %rd6; add.u64 %rd8, %rd2, %rd6;
        @%p1 bra LOADED; ld.global.v4.u32 {{%r4, %r5, %r6, %r7}}, [%rd7];
        st.shared.v4.u32 [%r3], {{%r4, %r5, %r6, %r7}};
        LOADED: bar.sync 0; ldmatrix.{shape}.shared.b16 {{{registers}}}, [%r3];
        mad.wide.u32 %rd5, %r0, {4 * count}, %rd1; {stores}
        bar.sync 0; stmatrix.{shape}.shared.b16 [%r3], {{{registers}}}; bar.sync 0;
        @%p1 ret; ld.shared.v4.u32 {{%r4, %r5, %r6, %r7}}, [%r3]; st.global.v4.u32 [%rd8], {{%r4, %r5, %r6, %r7}};"""
    run(text, matrices, out, copy, declarations=TILE)
    assert (out.view(np.uint16).reshape(32, count, 2) == fragments(matrices, transposed=transposed)).all()
    assert (copy == matrices).all()

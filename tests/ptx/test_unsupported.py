"""What is not modelled is refused, and not passed over."""

import numpy as np
import pytest

from . import UnsupportedInstruction, launch, parse
from .assembly import kernel, run


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("wgmma.fence.sync.aligned;", "wgmma is not modelled"),
        ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r2}, {%r3}, {%r4}, {%r5};", "so many registers"),
        ("call.uni vprintf, (%r2);", "the called function is not known"),
        ("add.u32.strange %r2, %r0, 1;", "modifier .strange"),
        ("max.xorsign.abs.f32 %r2, %r3, %r4;", "modifier .xorsign"),
        ("add.rz.f64 %rd2, %rd3, %rd4;", "rounding .rz of float64"),
        ("add.ftz.f64 %rd2, %rd3, %rd4;", ".ftz"),
        ("prmt.b32.f4e %r2, %r3, %r4, %r5;", "modifier .f4e"),
        ("cvt.rn.satfinite.e4m3x2.f32 %rs2, %r3, %r4;", ""),
        ("cvt.rn.satfinite.f16.f32 %rs2, %r3;", "modifier .satfinite"),
        ("cvt.s32.f32 %r2, %r3;", "without its rounding"),
        ("set.lt.u32.f16x2 %r1, %r2, %r3;", "packed"),
        ("mov.u32 %r2, %clock;", "operand %clock"),
        ("mov.u32 %r2, %rs3;", "a register of 2 bytes"),
        ("mov.u32 %r2, nowhere;", "operand nowhere"),
        ("mov.b64 %rd2, {%r3, %r4, %r5};", "3 registers moved to 1"),
        ("selp.u32 %r2, %r3, %r4, %r5;", "a register of 4 bytes read as .pred"),
        ("bar.sync 0, 16;", "a part of the block"),
        ("bar.sync %r2;", "no integer constant"),
        ("bar.arrive 0, 32;", "none of .sync"),
        ("barrier.cluster.arrive;", "none of .sync"),
        ("fence.proxy.async;", ""),
        ("cp.async.bulk.shared.global [%r2], [%rd0], 16, [%r3];", ""),
        ("cp.async.mbarrier.arrive.shared.b64 [%r2];", ""),
        ("ld.global.v2.u32 {%r2, %r3, %r4}, [%rd0];", "3 registers for 2 elements"),
        ("ld.shared::cluster.u32 %r2, [%r3];", "modifier .shared::cluster"),
        ("ld.global.b128 %rd2, [%rd0];", ""),
        ("ld.global.u32 %r2, [%rd0], %rd3;", "operand %rd3"),
        ("atom.global.max.f32 %r2, [%rd0], %r3;", "atomic .max of floats"),
        ("bra nowhere;", ""),
        ("shfl.up.b32 %r2, %r3, 1, 0;", "none of .sync"),
        ("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r2}, [%r3];", "1 registers for 2 matrices"),
        ("vote.sync.any.pred %p1, %p2;", "an operand is missing"),
    ],
)
def test_refused_before_anything_runs(text, reason):
    x = np.zeros(4, np.uint32)
    with pytest.raises(UnsupportedInstruction) as raised:
        run(f"st.global.u32 [%rd0], 1; {text}", x)
    error = raised.value
    assert reason in error.reason
    assert error.text == text.rstrip(";")
    assert error.kernel == "kernel"
    assert f"`{error.text}`, line {error.line} of kernel kernel" in str(error)
    assert not x.any()


def test_line_is_that_of_the_text():
    text = kernel("\n\nmma.sync %r2;\n", 0)
    with pytest.raises(UnsupportedInstruction) as raised:
        launch(parse(text)["kernel"], (1,), (32,), [])
    assert "mma" in text.splitlines()[raised.value.line - 1]


def test_a_copy_that_reads_a_part_is_refused_as_it_runs():
    text = "cp.async.ca.shared.global [tile], [%rd0], 16, 8;"
    with pytest.raises(UnsupportedInstruction, match="fills the rest"):
        run(text, np.zeros(4, np.uint32), declarations=".shared .align 16 .b8 tile[16];")

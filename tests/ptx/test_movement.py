"""Moves, loads and stores."""

import numpy as np
import pytest

from . import Buffer, launch, parse
from .assembly import HEADER, evaluate, run

PLACE = "mul.wide.u32 %rd5, %r0, {size}; add.u64 %rd6, %rd0, %rd5; add.u64 %rd7, %rd1, %rd5;"


class TestRegisters:
    def test_packing_and_unpacking(self):
        a, b = np.array([0x11112222], np.uint32), np.array([0x33334444], np.uint32)
        assert evaluate("mov.b64 {d}, {{{a}, {b}}};", np.uint64, a, b).tolist() == [0x3333444411112222]
        assert evaluate("mov.b64 %rd33, {{{a}, {b}}}; mov.b64 {{_, {d}}}, %rd33;", np.uint32, a, b).tolist() == [
            0x33334444
        ]
        text = "mov.b32 {{%rs1, %rs2}}, {a}; mov.b32 {d}, {{%rs2, %rs1}};"
        assert evaluate(text, np.uint32, a).tolist() == [0x22221111]

    def test_target_may_be_the_source(self):
        a = np.array([0x1111222233334444], np.uint64)
        assert evaluate(
            "mov.b64 {{%r5, %r6}}, {a}; mov.b32 {{%rs1, %rs2}}, %r5; mov.b64 {d}, {{%r6, %r5}};", np.uint64, a
        ).tolist() == [0x3333444411112222]

    @pytest.mark.parametrize(
        ("constant", "value"),
        [
            ("0x10", 16),
            ("-1", 2**32 - 1),
            ("017", 15),
            ("0b101", 5),
            ("7U", 7),
            ("WARP_SZ", 32),
            ("0f3F800000", 0x3F800000),
        ],
    )
    def test_constants(self, constant, value):
        kind = "f32" if "f" in constant else "u32"
        assert evaluate(f"mov.{kind} {{d}}, {constant}; // {{a}}", np.uint32, np.zeros(1, np.uint32)).tolist() == [
            value
        ]

    def test_special_registers(self):
        out = np.zeros((2, 64, 4), np.uint32)
        text = """
            mov.u32 %r2, %laneid; mov.u32 %r3, %warpid; mov.u32 %r4, %lanemask_lt;
            mov.u32 %r5, %ntid.x; mad.lo.u32 %r6, %r1, %r5, %r0; mad.wide.u32 %rd1, %r6, 16, %rd0;
            mov.u32 %r7, %nctaid.x;
            st.global.v4.u32 [%rd1], {%r2, %r3, %r4, %r7};"""
        run(text, out, grid=2, block=64)
        thread = np.arange(64)
        for block in out:
            assert (block == np.stack([thread % 32, thread // 32, (1 << thread % 32) - 1, np.full(64, 2)], 1)).all()

    def test_three_dimensions(self):
        text = (
            HEADER
            + """.entry k(.param .u64 p) { .reg .b32 %r<20>; .reg .b64 %rd<5>;
            ld.param.u64 %rd0, [p];
            mov.u32 %r0, %tid.x; mov.u32 %r1, %tid.y; mov.u32 %r2, %tid.z; mov.u32 %r3, %ctaid.y;
            mov.u32 %r4, %ntid.x; mov.u32 %r5, %ntid.y; mov.u32 %r6, %ntid.z;
            mad.lo.u32 %r7, %r2, %r5, %r1; mad.lo.u32 %r7, %r7, %r4, %r0;
            mul.lo.u32 %r8, %r4, %r5; mul.lo.u32 %r8, %r8, %r6; mad.lo.u32 %r7, %r3, %r8, %r7;
            mad.wide.u32 %rd1, %r7, 4, %rd0; st.global.u32 [%rd1], %r7; ret; }"""
        )
        out = np.zeros((3, 4, 3, 2), np.uint32)
        launch(parse(text)["k"], (1, 3), (2, 3, 4), [out])
        assert (out.ravel() == np.arange(out.size)).all()


class TestLoadsAndStores:
    @pytest.mark.parametrize(
        ("vector", "bits"), [("", 8), ("", 16), ("", 32), ("", 64), (".v2", 32), (".v4", 32), (".v2", 64)]
    )
    def test_copy(self, vector, bits):
        count = int(vector[2:] or 1)
        size = count * bits // 8
        x = np.random.default_rng(0).integers(0, 256, 32 * size, dtype=np.uint8)
        y = np.zeros_like(x)
        prefix = {8: "%rs", 16: "%rs", 32: "%r", 64: "%rd"}[bits]
        registers = ", ".join(f"{prefix}{20 + number}" for number in range(count))
        registers = f"{{{registers}}}" if vector else registers
        body = f"ld.global{vector}.b{bits} {registers}, [%rd6]; st.global{vector}.b{bits} [%rd7], {registers};"
        report = run(PLACE.format(size=size) + body, x, Buffer(y, initialized=False))
        assert (x == y).all()
        assert report.global_loads.bytes == report.global_stores.bytes == x.size

    def test_eight_words_at_once(self):
        x, y = np.arange(256, dtype=np.uint32), np.zeros(256, np.uint32)
        registers = "{" + ", ".join(f"%r{number}" for number in range(20, 28)) + "}"
        run(
            PLACE.format(size=32) + f"ld.global.v8.b32 {registers}, [%rd6]; st.global.v8.b32 [%rd7], {registers};", x, y
        )
        assert (x == y).all()

    def test_small_loads_are_extended(self):
        x, y = np.arange(-16, 16, dtype=np.int8), np.zeros(32, np.int32)
        body = "mad.wide.u32 %rd5, %r0, 4, %rd1; cvt.u64.u32 %rd6, %r0; add.u64 %rd6, %rd6, %rd0;"
        run(body + "ld.global.s8 %r2, [%rd6]; st.global.u32 [%rd5], %r2;", x, y)
        assert (x == y).all()
        run(body + "ld.global.u8 %r2, [%rd6]; st.global.u32 [%rd5], %r2;", x, y)
        assert (x.view(np.uint8) == y).all()

    @pytest.mark.parametrize(
        "load",
        [
            "ld.global.nc.u32 %r2, [%rd6];",
            "ld.global.ca.b32 {%r2}, [ %rd6 + 0 ];",
            "ld.volatile.global.u32 %r2, [%rd6];",
            "ld.relaxed.gpu.global.u32 %r2, [%rd6];",
            "ld.global.L1::no_allocate.L2::128B.u32 %r2, [%rd6];",
            "createpolicy.fractional.L2::evict_last.b64 %rd9, 1.0; ld.global.L2::cache_hint.b32 %r2, [%rd6], %rd9;",
            "add.u64 %rd8, %rd6, 4; ld.u32 %r2, [%rd8+-4];",
        ],
    )
    def test_caching_changes_no_result(self, load):
        x, y = np.arange(32, dtype=np.uint32), np.zeros(32, np.uint32)
        run(PLACE.format(size=4) + load + "st.global.wb.u32 [%rd7], %r2;", x, y)
        assert (x == y).all()

    def test_predicated(self):
        x, y = np.arange(32, dtype=np.uint32), np.full(32, 99, np.uint32)
        body = (
            "setp.lt.u32 %p1, %r0, 7; mov.u32 %r2, 55; @%p1 ld.global.u32 %r2, [%rd6]; @!%p1 st.global.u32 [%rd7], %r2;"
        )
        run(PLACE.format(size=4) + body, x, y)
        assert y.tolist() == [99] * 7 + [55] * 25

    def test_shared_memory(self):
        x, y = np.arange(64, dtype=np.uint32), np.zeros(64, np.uint32)
        body = """mov.u32 %r2, tile; mad.lo.u32 %r3, %r0, 4, %r2; ld.global.u32 %r4, [%rd6]; st.shared.u32 [%r3], %r4;
            bar.sync 0; xor.b32 %r5, %r0, 63; mad.lo.u32 %r3, %r5, 4, %r2; ld.shared.u32 %r4, [%r3];
            st.global.u32 [%rd7], %r4;"""
        for declaration, dynamic in (
            (".shared .align 4 .b8 tile[256];", 0),
            (".extern .shared .align 16 .b8 tile[];", 256),
        ):
            y[:] = 0
            run(PLACE.format(size=4) + body, x, y, block=64, declarations=declaration, shared_bytes=dynamic)
            assert (y == x[::-1]).all()

    def test_local_memory_is_the_threads_own(self):
        x, y = np.arange(32, dtype=np.uint32), np.zeros(32, np.uint32)
        body = """.local .align 8 .b8 depot[16]; mov.u64 %rd8, depot; cvta.local.u64 %rd9, %rd8;
            st.u32 [%rd9+4], %r0; ld.local.u32 %r2, [depot+4]; st.global.u32 [%rd7], %r2;"""
        report = run(PLACE.format(size=4) + body, x, y)
        assert (x == y).all()
        assert report.local_bytes == 2 * 4 * 32

    def test_module_variables(self):
        declarations = """.const .align 4 .f32 table[4] = {0f3F800000, 0f40000000, 3.0, 4.0};
            .global .align 4 .u32 counter = 41;"""
        body = """and.b32 %r2, %r0, 3; mul.wide.u32 %rd8, %r2, 4; mov.u64 %rd9, table; add.u64 %rd9, %rd9, %rd8;
            ld.const.f32 %r3, [%rd9]; mov.u64 %rd10, counter; ld.global.u32 %r4, [%rd10]; cvt.rn.f32.u32 %r4, %r4;
            add.f32 %r3, %r3, %r4; st.global.f32 [%rd7], %r3;"""
        x, y = np.zeros(32, np.float32), np.zeros(32, np.float32)
        run(PLACE.format(size=4) + body, x, y, declarations=declarations)
        assert y.tolist() == [42, 43, 44, 45] * 8

    def test_generic_addresses_find_their_space(self):
        declarations = ".shared .align 4 .b8 tile[128];"
        body = """mov.u32 %r2, tile; cvt.u64.u32 %rd8, %r2; cvta.shared.u64 %rd9, %rd8; add.u64 %rd9, %rd9, %rd5;
            setp.lt.u32 %p1, %r0, 16; selp.b64 %rd10, %rd9, %rd7, %p1; st.u32 [%rd10], %r0; ld.u32 %r3, [%rd10];
            isspacep.shared %p2, %rd10; isspacep.global %p3, %rd10;
            selp.u32 %r4, 100, 0, %p2; selp.u32 %r5, 1000, 0, %p3;
            cvta.to.shared.u64 %rd11, %rd9; @%p1 ld.shared.u32 %r3, [%rd11];
            add.u32 %r3, %r3, %r4; add.u32 %r3, %r3, %r5; st.global.u32 [%rd6], %r3;"""
        x, y = np.zeros(32, np.uint32), np.zeros(32, np.uint32)
        report = run(PLACE.format(size=4) + body, x, y, declarations=declarations)
        assert x.tolist() == [100 + n for n in range(16)] + [1000 + n for n in range(16, 32)]
        assert report.shared.bytes == 3 * 16 * 4


def test_parameters_are_laid_out_as_in_c():
    text = (
        HEADER
        + """.entry k(.param .u8 a, .param .u16 b, .param .f64 c, .param .align 4 .b8 s[12],
            .param .u64 .ptr .align 1 p)
        { .reg .b16 %rs<5>; .reg .b32 %r<9>; .reg .b64 %rd<9>;
        ld.param.u8 %rs0, [a]; ld.param.u16 %rs1, [b]; ld.param.f64 %rd0, [c]; ld.param.v2.u32 {%r0, %r1}, [s];
        ld.param.u32 %r2, [s+8]; ld.param.u64 %rd1, [p]; mov.b64 %rd2, s; ld.param.u32 %r3, [%rd2+4];
        cvt.u32.u16 %r4, %rs0; cvt.u32.u16 %r5, %rs1;
        st.global.v4.u32 [%rd1], {%r0, %r1, %r2, %r3}; st.global.v2.u32 [%rd1+16], {%r4, %r5};
        st.global.f64 [%rd1+24], %rd0;
        ret; }"""
    )
    out = np.zeros(8, np.uint32)
    struct = np.array([10, 20, 30], np.uint32).tobytes()
    launch(parse(text)["k"], (1,), (1,), [np.uint8(1), np.uint16(2), np.float64(3), struct, out])
    assert out[:6].tolist() == [10, 20, 30, 20, 1, 2]
    assert out[6:].view(np.float64).tolist() == [3]

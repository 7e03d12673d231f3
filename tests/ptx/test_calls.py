"""Calls of device functions."""

import numpy as np
import pytest

from . import Kind, UnsupportedInstruction
from .assembly import run

STORE = "mad.wide.u32 %rd1, %r0, 4, %rd0; st.global.u32 [%rd1], %r9;"
TWICE = """.func (.param .b32 out) twice(.param .b32 in) {
    .reg .b32 %r<3>; ld.param.b32 %r0, [in]; add.u32 %r0, %r0, %r0; st.param.b32 [out], %r0; ret; }"""
HALVES = """.visible .func (.param .b32 result) steps(.param .b32 number) {
    .reg .pred %p<2>; .reg .b32 %r<5>; ld.param.b32 %r0, [number]; mov.u32 %r1, 0;
    AGAIN: setp.le.u32 %p1, %r0, 1; @%p1 bra DONE; shr.u32 %r0, %r0, 1; add.u32 %r1, %r1, 1; bra AGAIN;
    DONE: st.param.b32 [result+0], %r1; @%p1 ret; trap; }"""
NESTED = """.func (.param .b32 out) four_times(.param .b32 in) { .reg .b32 %r<3>; ld.param.b32 %r1, [in];
    { .param .b32 a; st.param.b32 [a], %r1; .param .b32 b; call.uni (b), twice, (a); ld.param.b32 %r1, [b]; }
    { .param .b32 a; st.param.b32 [a], %r1; .param .b32 b; call.uni (b), twice, (a); ld.param.b32 %r1, [b]; }
    st.param.b32 [out], %r1; ret; }"""


def called(name, declarations, predicate=""):
    text = f"""{{ .param .b32 argument; st.param.b32 [argument+0], %r0; .param .b32 value; st.param.b32 [value], 1000;
        {predicate} call.uni (value), {name}, (argument); ld.param.b32 %r9, [value+0]; }}"""
    out = np.zeros(32, np.uint32)
    run("setp.lt.u32 %p1, %r0, 5;" + text + STORE, out, declarations=declarations)
    return out


def test_result_comes_back():
    assert (called("twice", TWICE) == 2 * np.arange(32)).all()


def test_threads_part_within_a_function():
    assert called("steps", HALVES).tolist() == [max(n.bit_length() - 1, 0) for n in range(32)]


def test_functions_call_others():
    assert (called("four_times", NESTED + TWICE) == 4 * np.arange(32)).all()


def test_some_threads_call():
    assert called("twice", TWICE, "@%p1").tolist() == [0, 2, 4, 6, 8] + [1000] * 27
    assert called("twice", TWICE, "@!%p1").tolist() == [1000] * 5 + list(range(10, 64, 2))


def test_structures_are_passed_by_value():
    declarations = """.func (.param .align 8 .b8 out[16]) swap(.param .align 8 .b8 in[16]) { .reg .b64 %rd<3>;
        ld.param.v2.b64 {%rd1, %rd2}, [in]; st.param.b64 [out], %rd2; st.param.b64 [out+8], %rd1; ret; }"""
    text = """{ .param .align 8 .b8 a[16]; .param .align 8 .b8 b[16]; mov.b64 %rd5, 7; mov.b64 %rd6, 9;
        st.param.b64 [a], %rd5; st.param.b64 [a+8], %rd6; call.uni (b), swap, (a); ld.param.b32 %r9, [b]; }"""
    out = np.zeros(32, np.uint32)
    run(text + STORE, out, declarations=declarations)
    assert (out == 9).all()


def test_recursion_is_refused():
    declarations = ".func forever() { call.uni forever; ret; }"
    with pytest.raises(UnsupportedInstruction, match="not known"):
        run("call.uni forever;", declarations=declarations)


def test_functions_that_nobody_calls_may_hold_anything():
    run("", declarations=".func strange() { mma.sync; ret; }")


def test_failed_assertion():
    declarations = ".extern .func __assertfail(.param .b64 message, .param .b32 line) .noreturn;"
    text = """setp.lt.u32 %p1, %r0, {limit}; @%p1 bra FINE;
        {{ .param .b64 a; st.param.b64 [a], 0; .param .b32 b; st.param.b32 [b], 5; call.uni __assertfail, (a, b); }}
        FINE:"""
    run(text.format(limit=32), declarations=declarations)
    report = run(text.format(limit=30), declarations=declarations, check=False)
    assert report.kinds == {Kind.TRAP}
    assert report.issues[0].detail == "assertion failed; thread 30 of block 0"

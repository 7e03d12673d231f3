"""What is read from the text."""

import numpy as np
import pytest

from . import ParseError, launch, parse
from .assembly import HEADER, run
from .source import split_operands


def test_several_kernels_and_parts_of_their_names():
    module = parse(
        HEADER + ".entry first(){ ret; } .visible .entry _Z6secondIfEvPT_(.param .u64 p){ ret; } .func third(){ ret; }"
    )
    assert list(module) == ["first", "_Z6secondIfEvPT_"]
    assert module["second"].parameters[0].name == "p"
    with pytest.raises(KeyError, match="names 0 kernels of first"):
        module["third"]
    with pytest.raises(KeyError, match="names 2 kernels"):
        module["s"]


def test_comments_and_debug_information_are_passed_over():
    text = (
        HEADER
        + """
        .file 1 "a//b.cu"
        .visible .entry k() /* entry { */ {
        // begin inline asm
        .loc 1 2 3, function_name $L__info, inlined_at 1 2 3
        .reg .b32 %r<2>; // }
        mov.u32 %r1, 5; /* { */
        // end inline asm
        ret;
        }
        .section .debug_info
        {
        .b8 1 // }
        .b64 $L__tmp0
        }
        .section .debug_macinfo { }"""
    )
    (kernel,) = parse(text).values()
    assert [each.text for each in kernel.instructions] == ["mov.u32 %r1, 5", "ret"]
    assert "mov.u32" in text.splitlines()[kernel.instructions[0].line - 1]


def test_instructions():
    text = (
        HEADER
        + """.entry k() { .reg .pred p, %q<3>; .reg .b64 %rd<2>; .reg .f32 %f<9>;
        @!p ld.global.L1::evict_last.v2.f32 { %f1 , %f2 }, [ %rd1 + 8 ];
        @%q2 bra.uni END;
        END: ret; }"""
    )
    kernel = parse(text)["k"]
    load, branch, _ = kernel.instructions
    assert (load.opcode, load.modifiers) == ("ld", ("global", "L1::evict_last", "v2", "f32"))
    assert load.operands == ("{ %f1 , %f2 }", "[ %rd1 + 8 ]")
    assert (load.predicate, load.negated) == ("p", True)
    assert (branch.predicate, branch.negated, branch.operands) == ("%q2", False, ("END",))
    assert kernel.labels == {"END": 2}
    assert set(kernel.registers) == {"p", "%q2", "%f1", "%f2", "%rd1"}


def test_variables_have_their_places():
    text = (
        HEADER
        + """
        .extern .shared .align 16 .b8 dynamic[];
        .shared .align 4 .b8 outside[6];
        .entry k() { .shared .align 8 .f64 inside[2]; .shared .b8 byte; .local .align 16 .b8 depot[24];
            .local .v4 .f32 vector; .shared .align 2 .b16 table[3][5]; ret; }"""
    )
    kernel = parse(text)["k"]
    assert kernel.offsets == {
        "inside": 0,
        "byte": 16,
        "depot": 0,
        "vector": 24,
        "table": 18,
        "outside": 48,
        "dynamic": 64,
    }
    assert (kernel.shared_bytes, kernel.local_bytes) == (64, 40)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("\n.entry k() {\n ret;", 2, "the text ends before"),
        ("\n.global .u32 x", 2, "the text ends before"),
        (".entry k() {\n .reg .b24 %r; ret; }", 2, "type .b24"),
        (".entry k(.param .u32 .strange) { ret; }", 1, "parameter"),
        ("\nnonsense;", 2, "`nonsense` is not understood"),
        ("\n\n.global .u64 p = other;", 3, "initial value `other`"),
        (".entry k() {\n 1 + 1; }", 2, "no instruction"),
        (".entry k() .reqnctapercluster 2 { ret; }", 1, "clusters"),
    ],
)
def test_errors_name_the_line(text, line, message):
    with pytest.raises(ParseError, match=f"line {line}: .*{message}"):
        parse(text)


def test_operands_are_split_outside_of_brackets():
    assert split_operands(" {%r1, %r2}, [%rd1+4], (a, b), 5 ") == ["{%r1, %r2}", "[%rd1+4]", "(a, b)", "5"]
    assert split_operands("") == []


def test_blocks_that_the_kernel_demands():
    module = parse(
        HEADER + ".entry exact() .reqntid 64, 1, 1 { ret; } .entry most() .maxntid 64 .minnctapersm 2 { ret; }"
    )
    launch(module["exact"], (1,), (64,), [])
    launch(module["most"], (1,), (33,), [])
    with pytest.raises(ValueError, match="demands blocks of"):
        launch(module["exact"], (1,), (32,), [])
    with pytest.raises(ValueError, match="allows 64 threads"):
        launch(module["most"], (1,), (65,), [])


def test_initial_values():
    declarations = (
        ".global .align 8 .b8 bytes[4] = {1, 2, 0xff}; .const .f64 half = 0d3FE0000000000000; .global .s16 minus = -2;"
    )
    text = """mov.u64 %rd1, bytes; ld.global.u32 %r2, [%rd1]; ld.const.f64 %rd2, [half]; ld.global.s16 %r3, [minus];
        st.global.u32 [%rd0], %r2; st.global.u32 [%rd0+4], %r3; st.global.f64 [%rd0+8], %rd2;"""
    out = np.zeros(4, np.uint32)
    run(text, out, block=1, declarations=declarations)
    assert out[:2].tolist() == [0x00FF0201, 2**32 - 2]
    assert out[2:].view(np.float64) == 0.5

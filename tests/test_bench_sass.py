"""Statistics of machine code, on a disassembly that is kept here and on a real one where there is a compiler."""

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from bench import sass
from bench.occupancy import Occupancy

# Two kernels as cuobjdump prints them, shortened: a loop within a loop, and one without.
SASS = """
	code for sm_90a
	.target	sm_90a

		Function : _Z6nestedPf
	.headerflags	@"EF_CUDA_ACCELERATORS EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                        /* 0x00000a00ff017b82 */
                                                                                 /* 0x000fe20000000800 */
        /*0010*/              @!P1 LDG.E.STRONG.GPU R12, desc[UR6][R28.64] ;     /* 0x000000061c0c9981 */
        /*0020*/                   LDG.E.128.CONSTANT R4, desc[UR18][R8.64] ;    /* 0x0000001208047981 */
        /*0030*/                   LDG.E.U16 R8, desc[UR18][R8.64+0x200] ;       /* 0x0000001208087981 */
        /*0040*/                   FFMA.FTZ R9, R8, R4, R5 ;                     /* 0x0000000408097223 */
        /*0050*/                   MUFU.EX2 R9, R9 ;                             /* 0x0000000900097308 */
        /*0060*/               @P0 BRA 0x40 ;                                    /* 0xfffffff800548947 */
        /*0070*/                   STL.64 [R1+0x8], R4 ;                         /* 0x0000080401007387 */
        /*0080*/             @!UP0 BRA 0x20 ;                                    /* 0xfffffff800548947 */
        /*0090*/               @P3 BRA 0xb0 ;                                    /* 0x0000000000548947 */
        /*00a0*/                   LDL R2, [R1+0x8] ;                            /* 0x0000080001027983 */
        /*00b0*/                   STG.E.64 desc[UR6][R2.64], R4 ;               /* 0x0000000402007986 */
        /*00c0*/                   EXIT ;                                        /* 0x000000000000794d */
        /*00d0*/                   BRA 0xd0;                                     /* 0xfffffffc00fc7947 */
        /*00e0*/                   NOP;                                          /* 0x0000000000007918 */
		..........

		Function : straight
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   IMAD.SHL.U32 R3, R3, 0x200, RZ ;              /* 0x0000020003037824 */
        /*0010*/                   EXIT ;                                        /* 0x000000000000794d */
"""
USAGE = """
Resource usage:
 Common:
  GLOBAL:52 CONSTANT[4]:24
 Function straight:
  REG:12 STACK:0 SHARED:1024 LOCAL:0 CONSTANT[0]:576 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _Z6nestedPf:
  REG:54 STACK:16 SHARED:2048 LOCAL:0 CONSTANT[0]:576 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
NESTED, STRAIGHT = sass.parse(SASS, USAGE)


def test_resources():
    assert (NESTED.name, NESTED.capability, NESTED.registers, NESTED.stack_bytes) == ("_Z6nestedPf", (9, 0), 54, 16)
    # Without the 1024 bytes that the system reserves.
    assert (NESTED.shared_bytes, STRAIGHT.shared_bytes) == (1024, 0)
    before = SASS.replace("sm_90a", "sm_80")
    assert sass.parse(before, USAGE)[0].shared_bytes == 2048
    assert sass.parse(SASS.replace("sm_90a", "sm_120"), USAGE)[0].capability == (12, 0)


def test_instructions_without_padding():
    assert NESTED.mix == Counter(LDG=3, BRA=4, LDC=1, FFMA=1, MUFU=1, STL=1, LDL=1, STG=1, EXIT=1)
    assert NESTED.instructions[1] == sass.Instruction(0x10, "LDG.E.STRONG.GPU", "R12, desc[UR6][R28.64]", "!P1")
    assert STRAIGHT.mix == Counter(IMAD=1, EXIT=1)


def test_widths_of_accesses():
    assert NESTED.widths("LDG") == {32: 1, 128: 1, 16: 1}
    assert NESTED.widths("STG") == {64: 1}
    assert NESTED.widths("ATOM") == {}
    assert (NESTED.local_loads, NESTED.local_stores) == (4, 8)


def test_loops():
    outer, inner = NESTED.loops
    assert inner.mix == Counter(FFMA=1, MUFU=1, BRA=1)
    assert outer.mix == Counter(LDG=2, FFMA=1, MUFU=1, BRA=2, STL=1)
    assert (outer.innermost, inner.innermost) == (False, True)
    assert not STRAIGHT.loops


def test_occupancy_of_a_launch():
    # 54 registers are 56 in units of a warp's 256: 36 warps. 8 warps a block make 4 blocks.
    assert NESTED.occupancy(256) == Occupancy(4, 32, 0.5)
    assert NESTED.occupancy(256, dynamic_shared_bytes=100_000).blocks == 2


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="not the disassembly"):
        sass.parse("ELF", USAGE)


def test_real_cubin(tmp_path):
    if (nvcc := shutil.which("nvcc")) is None:
        pytest.skip("there is no nvcc")
    try:
        sass.cuobjdump()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    source, cubin = Path(__file__).parent / "ptx/kernels/softmax_sample.cu", tmp_path / "kernel.cubin"
    subprocess.run([nvcc, "-cubin", "-arch=sm_90", "-std=c++17", source, "-o", cubin], check=True)
    for kernel in sass.kernels(cubin):
        assert kernel.name in ("softmax_sample_float", "softmax_sample_bfloat16")
        assert kernel.widths("LDG")[128] >= 1
        assert kernel.local_loads == kernel.local_stores == kernel.stack_bytes == 0
        assert any(loop.mix["MUFU"] for loop in kernel.loops)
        assert 0.25 <= kernel.occupancy(256).fraction <= 1

"""Arguments and buffers."""

import numpy as np
import pytest

from . import Buffer, Kind, launch, parse
from .assembly import HEADER, run

COPY = """mad.wide.u32 %rd2, %r0, 4, %rd0; mad.wide.u32 %rd3, %r0, 4, %rd1;
    ld.global.u32 %r2, [%rd2]; st.global.u32 [%rd3], %r2;"""
SCALARS = HEADER + ".entry k(.param .u32 n, .param .f32 x, .param .b16 h, .param .align 4 .b8 s[8]) { ret; }"


def test_arrays_are_updated_in_place():
    x, y = np.arange(32, dtype=np.float32).reshape(4, 8), np.zeros((8, 4), np.float32)
    run(COPY, x, y)
    assert (y.ravel() == x.ravel()).all()


def test_the_same_array_twice_is_one_place():
    x = np.arange(33, dtype=np.uint32)
    run(
        "mad.wide.u32 %rd2, %r0, 4, %rd0; ld.global.u32 %r2, [%rd2]; add.u32 %r2, %r2, 1; sub.u64 %rd3, %rd1, %rd0;"
        "cvt.u32.u64 %r3, %rd3; add.u32 %r2, %r2, %r3; st.global.u32 [%rd2], %r2;",
        x,
        x,
    )
    assert (x == [*range(1, 33), 32]).all()


def test_parts_of_one_array_are_refused():
    x = np.zeros(64, np.uint32)
    with pytest.raises(ValueError, match="share a part"):
        run(COPY, x[:40], x[20:])


def test_arrays_have_to_be_contiguous():
    x = np.zeros((8, 8), np.uint32)
    with pytest.raises(ValueError, match="contiguous"):
        run(COPY, x.T, x)


def test_read_only_arrays_may_be_read():
    x, y = np.arange(32, dtype=np.uint32), np.zeros(32, np.uint32)
    x.flags.writeable = False
    run(COPY, x, y)
    assert (x == y).all()


def test_offset_misses_the_alignment():
    x, y = np.arange(32, dtype=np.uint32), np.zeros(32, np.uint32)
    run(COPY, Buffer(x, offset=4), y)
    assert (x == y).all()
    vector = "ld.global.v2.u32 {%r2, %r3}, [%rd0];"
    assert run(vector, Buffer(x, offset=4), check=False).kinds == {Kind.MISALIGNED}
    run(vector, Buffer(x, offset=8))


def test_results_are_there_after_a_fault():
    x = np.zeros(32, np.uint32)
    report = run(
        "mad.wide.u32 %rd2, %r0, 4, %rd0; st.global.u32 [%rd2], 1; ld.global.u32 %r2, [%rd2+128];", x, check=False
    )
    assert not report.completed
    assert (x == 1).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {0: np.uint64(1)},
        {0: np.float32(1)},
        {1: np.float64(1)},
        {1: np.int32(1)},
        {1: 1.0},
        {2: np.uint8(1)},
        {3: bytes(4)},
    ],
)
def test_scalars_have_the_parameters_type(wrong):
    arguments = [np.int32(1), np.float32(1), np.float16(1), bytes(8)]
    kernel = parse(SCALARS)["k"]
    assert launch(kernel, (1,), (1,), arguments).completed
    for place, argument in wrong.items():
        arguments[place] = argument
    with pytest.raises(TypeError, match="takes"):
        launch(kernel, (1,), (1,), arguments)
    with pytest.raises(TypeError, match="takes 4 arguments, not 3"):
        launch(kernel, (1,), (1,), arguments[:3])


@pytest.mark.parametrize("grid", [(0,), (1, 1, 1, 1), ()])
def test_grids_have_three_extents_at_most(grid):
    with pytest.raises(ValueError, match="one to three extents"):
        launch(parse(HEADER + ".entry k() { ret; }")["k"], grid, (1,), [])


def test_empty_arrays():
    x = np.zeros(0, np.uint32)
    run("setp.ge.u32 %p1, %r0, 0; @%p1 ret; ld.global.u32 %r2, [%rd0];", x)
    assert run("ld.global.u32 %r2, [%rd0];", x, check=False).kinds == {Kind.OUT_OF_BOUNDS}


# Structs of pointers.

STRUCT = """.entry k(.param .align 8 .b8 s[24]) {
    .reg .b32 %r<4>; .reg .b64 %rd<4>;
    ld.param.u64 %rd0, [s+8]; ld.param.u64 %rd1, [s+16]; mov.u32 %r0, %tid.x;
    mad.wide.u32 %rd2, %r0, 4, %rd0; mad.wide.u32 %rd3, %r0, 4, %rd1;
    ld.global.u32 %r2, [%rd2]; st.global.u32 [%rd3], %r2; ret; }"""


def copy_by_struct(x, y, threads=8, **options):
    struct = np.array([0, x.array.ctypes.data, y.array.ctypes.data], np.uint64).tobytes()
    function = parse(HEADER + STRUCT)["k"]
    return launch(function, (1,), (threads,), [struct], memory=[x, y], **options)


def test_pointers_in_structs_lead_to_memory_where_numpy_has_it():
    storage = np.arange(20, dtype=np.uint32)
    x, y = Buffer(storage[3:11]), Buffer(np.zeros(8, np.uint32), initialized=False)
    copy_by_struct(x, y)
    assert (y.array == storage[3:11]).all()


def test_memory_ends_where_its_array_ends():
    storage = np.arange(20, dtype=np.uint32)
    report = copy_by_struct(Buffer(storage[3:11]), Buffer(np.zeros(9, np.uint32)), threads=9, check=False)
    assert report.kinds == {Kind.OUT_OF_BOUNDS}


def test_what_a_launch_has_written_the_next_may_read():
    x, y, z = (Buffer(np.arange(8, dtype=np.uint32), initialized=not n) for n in range(3))
    copy_by_struct(x, y, threads=5)
    assert y.initialized.tolist() == [True] * 20 + [False] * 12
    assert not copy_by_struct(y, z, threads=5).issues
    assert copy_by_struct(y, z, threads=6, check=False).kinds == {Kind.UNINITIALIZED}

"""`mma.sync`, against NumPy's product."""

import numpy as np
import pytest

from .assembly import run
from .errors import UnsupportedInstruction

HALVES = {
    "f16": lambda x: x.astype(np.float16).view(np.uint16),
    "bf16": lambda x: (x.view(np.uint32) >> 16).astype("H"),
}


def integers(*shape):
    """Which all types hold."""
    return np.random.default_rng(sum(shape)).integers(-9, 9, shape).astype(np.float32)


def loads(registers, pointer, width, places):
    """One of a matrix's elements for each register: `places` are its offsets, in PTX of the lane."""
    kind = "r" if width == 4 else "rd"
    return "".join(
        f"{place} mad.wide.u32 %rd8, %r3, 1, %rd{pointer}; ld.global.b{8 * width} %{kind}{register}, [%rd8];"
        for register, place in zip(registers, places, strict=True)
    )


# %r10 is the lane's row in a block, %r11 its place among the four of that row.
LANE = "shr.u32 %r10, %r0, 2; and.b32 %r11, %r0, 3;"


def at(row, column, stride, unit, *, step):
    """The bytes of the element `step` places a lane from (row, column) on."""
    return (
        f"add.u32 %r4, %r10, {row}; mul.lo.u32 %r3, %r4, {stride * unit}; "
        f"mad.lo.u32 %r3, %r11, {step * unit}, %r3; add.u32 %r3, %r3, {column * unit};"
    )


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("name", HALVES)
def test_halves(name, depth):
    a, b, c = integers(16, depth), integers(8, depth), integers(16, 8)
    out = np.zeros((16, 8), np.float32)
    columns = range(0, depth, 8)
    left = [at(row, column, depth, 2, step=2) for column in columns for row in (0, 8)]
    right = [at(0, column, depth, 2, step=2) for column in columns]
    sums = [at(row, column, 8, 4, step=2) for row in (0, 8) for column in (0, 1)]
    a_registers, b_registers, sum_registers = range(12, 12 + len(left)), range(20, 20 + len(right)), range(24, 28)

    def vector(registers):
        return "{" + ", ".join(f"%r{each}" for each in registers) + "}"

    stores = "".join(
        f"{place} mad.wide.u32 %rd8, %r3, 1, %rd3; st.global.b32 [%rd8], %r{register};"
        for register, place in zip(sum_registers, sums, strict=True)
    )
    operands = ", ".join(map(vector, (sum_registers, a_registers, b_registers, sum_registers)))
    text = f"""{LANE} {loads(a_registers, 0, 4, left)} {loads(b_registers, 1, 4, right)}
        {loads(sum_registers, 2, 4, sums)}
        mma.sync.aligned.m16n8k{depth}.row.col.f32.{name}.{name}.f32 {operands};
        {stores}"""
    run(text, HALVES[name](a), HALVES[name](b), c, out)
    assert (out == a @ b.T + c).all()


def test_doubles():
    a, b, c = integers(8, 4).astype(float), integers(8, 4).astype(float), integers(8, 8).astype(float)
    out, third = np.zeros((8, 8)), 1 / 3
    a[0, 0] += third  # which float32 would round
    factor, sums = [at(0, 0, 4, 8, step=1)], [at(0, column, 8, 8, step=2) for column in (0, 1)]
    stores = "".join(
        f"{place} mad.wide.u32 %rd8, %r3, 1, %rd3; st.global.b64 [%rd8], %rd{register};"
        for register, place in zip((22, 23), sums, strict=True)
    )
    text = f"""{LANE} {loads([20], 0, 8, factor)} {loads([21], 1, 8, factor)} {loads([22, 23], 2, 8, sums)}
        mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {{%rd22, %rd23}}, {{%rd20}}, {{%rd21}}, {{%rd22, %rd23}};
        {stores}"""
    run(text, a, b, c, out)
    np.testing.assert_allclose(out, a @ b.T + c, rtol=1e-15)


@pytest.mark.parametrize(
    "types", ["f16.f16.f16.f16", "f32.bf16.f16.f32", "f32.tf32.tf32.f32", "f64.f64.f64.f64", "f32.f32.f32.f32"]
)
def test_other_types_are_refused(types):
    registers = "{%r1, %r2, %r3, %r4}, {%r1, %r2, %r3, %r4}, {%r1, %r2}, {%r1, %r2, %r3, %r4}"
    with pytest.raises(UnsupportedInstruction):
        run(f"mma.sync.aligned.m16n8k16.row.col.{types} {registers};", np.zeros(1))


def test_a_sum_that_is_no_number_is_the_gpus():
    out = np.zeros(128, np.uint32)
    text = """mov.b32 %r4, 0xFFFFFFFF; mov.b32 %r5, 0; mul.wide.u32 %rd8, %r0, 16; add.u64 %rd8, %rd0, %rd8;
        mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
            {%r6, %r7, %r8, %r9}, {%r4, %r5, %r5, %r5}, {%r5, %r5}, {%r5, %r5, %r5, %r5};
        st.global.v4.b32 [%rd8], {%r6, %r7, %r8, %r9};"""
    run(text, out)
    rows = out.reshape(8, 4, 4)  # lanes' rows, and the sums: the first two are of the row that has a NaN
    assert (rows[..., :2] == 0x7FFF_FFFF).all()
    assert (rows[..., 2:] == 0).all()

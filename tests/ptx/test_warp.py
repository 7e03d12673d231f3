"""Instructions among the lanes of a warp."""

import numpy as np
import pytest

from .assembly import run

LANES = np.arange(32)
STORE = "mad.wide.u32 %rd1, %r0, 4, %rd0; st.global.u32 [%rd1], %r9;"


def result(body, block=32):
    out = np.zeros(block, np.uint32)
    run(body + STORE, out, block=block)
    return out


def shuffled(mode, distance, clamp):
    """The definition of `shfl`, lane by lane: the lane it reads and whether that is in range."""
    segment, limit = clamp >> 8 & 31, clamp & 31
    lanes = []
    for lane in range(32):
        last = lane & segment | limit & ~segment & 31
        source = {
            "up": lane - distance,
            "down": lane + distance,
            "bfly": lane ^ distance,
            "idx": lane & segment | distance & ~segment & 31,
        }[mode]
        valid = source >= last if mode == "up" else source <= last
        lanes.append((source if valid else lane, valid))
    return lanes


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("distance", [0, 1, 3, 16, 31])
@pytest.mark.parametrize("segments", [0, 0x1800, 0x1F00])
def test_shuffle(mode, distance, segments):
    clamp = segments + (0 if mode == "up" else 31)
    expected = shuffled(mode, distance, clamp)
    text = f"add.u32 %r2, %r0, 100; shfl.sync.{mode}.b32 %r9|%p1, %r2, {distance}, {clamp}, 0xffffffff;"
    assert result(text).tolist() == [100 + lane for lane, _ in expected]
    assert result(text + "selp.u32 %r9, 1, 0, %p1;").tolist() == [valid for _, valid in expected]


def test_shuffle_stays_in_its_warp():
    found = result("shfl.sync.idx.b32 %r9, %r0, 5, 31, -1;", block=96)
    assert found.tolist() == [5] * 32 + [37] * 32 + [69] * 32


class TestVotes:
    ODD = "and.b32 %r2, %r0, 1; setp.ne.u32 %p1, %r2, 0;"

    def test_ballot(self):
        assert (result(self.ODD + "vote.sync.ballot.b32 %r9, %p1, 0xffffffff;") == 0xAAAAAAAA).all()
        assert (result(self.ODD + "vote.sync.ballot.b32 %r9, !%p1, 0xffffffff;") == 0x55555555).all()

    @pytest.mark.parametrize(("mode", "of_odd", "of_all"), [("any", 1, 1), ("all", 0, 1), ("uni", 0, 1)])
    def test_decisions(self, mode, of_odd, of_all):
        vote = f"vote.sync.{mode}.pred %p2, %p1, -1; selp.u32 %r9, 1, 0, %p2;"
        assert (result(self.ODD + vote) == of_odd).all()
        assert (result("setp.ge.u32 %p1, %r0, 0;" + vote) == of_all).all()

    def test_only_members_vote(self):
        halves = "setp.lt.u32 %p3, %r0, 16; selp.u32 %r3, 0xffff, 0xffff0000, %p3;"
        found = result(self.ODD + halves + "vote.sync.ballot.b32 %r9, %p1, %r3;")
        assert found.tolist() == [0xAAAA] * 16 + [0xAAAA0000] * 16

    def test_active_mask_on_both_sides_of_a_branch(self):
        text = "setp.lt.u32 %p1, %r0, 5; @%p1 bra FEW; activemask.b32 %r9; bra END; FEW: activemask.b32 %r9; END:"
        assert result(text).tolist() == [31] * 5 + [0xFFFFFFE0] * 27


class TestReductions:
    VALUES = np.random.default_rng(0).integers(0, 2**32, 32, dtype=np.uint32)

    def reduced(self, text, values):
        out = np.zeros(32, np.uint32)
        load = "mad.wide.u32 %rd5, %r0, 4, %rd0; ld.global.u32 %r2, [%rd5]; add.u64 %rd0, %rd1, 0;"
        run(load + text + STORE, values, out)
        return out

    @pytest.mark.parametrize(
        "name", ["add.u32", "min.u32", "max.u32", "min.s32", "max.s32", "and.b32", "or.b32", "xor.b32"]
    )
    def test_integers(self, name):
        operation, kind = name.split(".")
        function = {"min": np.minimum, "max": np.maximum, "add": np.add, "and": np.bitwise_and, "or": np.bitwise_or}
        values = self.VALUES.view(np.int32 if kind == "s32" else np.uint32)
        expected = function.get(operation, np.bitwise_xor).reduce(values, dtype=values.dtype)
        found = self.reduced(f"redux.sync.{operation}.{kind} %r9, %r2, -1;", self.VALUES)
        assert (found.view(values.dtype) == expected).all()

    def test_each_mask_reduces_its_own(self):
        halves = "setp.lt.u32 %p3, %r0, 16; selp.u32 %r3, 0xffff, 0xffff0000, %p3;"
        found = self.reduced(halves + "redux.sync.max.u32 %r9, %r2, %r3;", self.VALUES)
        assert found.tolist() == [self.VALUES[:16].max()] * 16 + [self.VALUES[16:].max()] * 16

    def test_floats(self):
        values = np.random.default_rng(1).standard_normal(32).astype(np.float32)
        values[[3, 4, 5]] = [-7, 0.0, -0.0]
        for text, expected in (("max", values.max()), ("min", -7), ("max.abs", 7), ("max.NaN", values.max())):
            found = self.reduced(f"redux.sync.{text}.f32 %r9, %r2, -1;", values.view(np.uint32)).view(np.float32)
            assert (found == np.float32(expected)).all()

    def test_floats_with_nan(self):
        values = np.full(32, -0.0, np.float32)
        values[7] = np.nan
        for operation in ("min", "max"):
            found = self.reduced(f"redux.sync.{operation}.f32 %r9, %r2, -1;", values.view(np.uint32))
            assert (found == 0x80000000).all()
            found = self.reduced(f"redux.sync.{operation}.NaN.f32 %r9, %r2, -1;", values.view(np.uint32))
            assert (found == 0x7FFFFFFF).all()
            nothing = np.full(32, np.nan, np.float32).view(np.uint32)
            assert (self.reduced(f"redux.sync.{operation}.f32 %r9, %r2, -1;", nothing) == 0x7FFFFFFF).all()


class TestMatches:
    def test_any(self):
        found = result("rem.u32 %r2, %r0, 3; match.any.sync.b32 %r9, %r2, -1;")
        assert found.tolist() == [sum(1 << other for other in range(lane % 3, 32, 3)) for lane in range(32)]

    def test_any_of_64_bits(self):
        text = "cvt.u64.u32 %rd3, %r0; shl.b64 %rd3, %rd3, 63; match.any.sync.b64 %r9, %rd3, -1;"
        assert result(text).tolist() == [0x55555555, 0xAAAAAAAA] * 16

    @pytest.mark.parametrize(("value", "expected"), [("5", 0xFFFFFFFF), ("%r0", 0)])
    def test_all(self, value, expected):
        text = f"mov.u32 %r2, {value}; match.all.sync.b32 %r9|%p1, %r2, -1;"
        assert (result(text) == expected).all()
        assert (result(text + "selp.u32 %r9, 1, 0, %p1;") == (expected > 0)).all()


def test_elect_chooses_one_lane():
    text = "elect.sync %r2|%p1, -1; selp.u32 %r9, 1, 0, %p1;"
    assert result(text).tolist() == [1] + [0] * 31
    halves = "setp.lt.u32 %p3, %r0, 16; selp.u32 %r3, 0xffff, 0xffff0000, %p3;"
    assert result(halves + "elect.sync %r9|%p1, %r3;").tolist() == [0] * 16 + [16] * 16


def test_lanes_wait_at_a_shuffle_for_those_that_come_back_to_it():
    text = """setp.ge.u32 %p1, %r0, 16; mov.u32 %r3, %r0; @%p1 bra AWAY;
        BACK: shfl.sync.idx.b32 %r9, %r3, 31, 31, -1; bra END;
        AWAY: add.u32 %r3, %r3, 100; bra BACK;
        END:"""
    assert (result(text) == 131).all()


def test_lanes_that_parted_meet_at_a_shuffle():
    # Even lanes take a longer way to the same shuffle.
    text = """and.b32 %r2, %r0, 1; setp.eq.u32 %p1, %r2, 0; mov.u32 %r3, 7; @%p1 bra LONG; bra JOIN;
        LONG: add.u32 %r3, %r0, 1; mul.lo.u32 %r3, %r3, 3;
        JOIN: shfl.sync.bfly.b32 %r9, %r3, 1, 31, -1;"""
    assert result(text).tolist() == [7 if lane % 2 == 0 else 3 * lane for lane in range(32)]

"""Every kind of issue: a small kernel that has it, and its twin that has not."""

import numpy as np
import pytest

from . import Buffer, Kind, LaunchError
from .assembly import run
from .issue_cases import CASES, PLACES, TILE

FAULTS = {Kind.OUT_OF_BOUNDS, Kind.MISALIGNED, Kind.READ_ONLY, Kind.DEADLOCK, Kind.TRAP, Kind.NO_PROGRESS}


def launched(text, case, **options):
    words = Buffer(np.zeros(64, np.uint32), initialized=case.initialized)
    declarations = TILE + ".const .align 4 .b8 table[8];"
    return run(
        PLACES + text, words, block=case.block, grid=case.grid, declarations=declarations, most_steps=1000, **options
    )


@pytest.mark.parametrize("name", CASES)
def test_issue_is_found(name):
    case = CASES[name]
    report = launched(case.faulty, case, check=False)
    assert report.kinds == {case.kind}
    assert case.detail in report.issues[0].detail
    assert report.completed == (case.kind not in FAULTS)


@pytest.mark.parametrize("name", CASES)
def test_its_twin_has_none(name):
    report = launched(CASES[name].sound, CASES[name])
    assert not report.issues
    assert report.completed


def test_every_kind_has_a_case():
    assert {case.kind for case in CASES.values()} | {Kind.DIVISION_BY_ZERO} == set(Kind)


def test_issues_name_the_instruction_and_count():
    text = "st.shared.u32 [tile], 0; ld.shared.u32 %r9, [tile+8]; bar.sync 0; ld.shared.u32 %r9, [tile+8];"
    with pytest.raises(LaunchError) as raised:
        run(text, declarations=TILE)
    report = raised.value.report
    assert [issue.instruction for issue in report.issues] == ["ld.shared.u32 %r9, [tile+8]"] * 2
    assert "read of uninitialised memory at line" in str(raised.value)
    loop = "LOOP: ld.shared.u32 %r9, [tile]; add.u32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, 5; @%p1 bra LOOP;"
    (issue,) = run(loop, declarations=TILE, check=False).issues
    assert issue.count == 5
    assert str(issue).endswith("(5 times)")


def test_races_may_be_left_out():
    case = CASES["read after write across warps"]
    assert not launched(case.faulty, case, races=False).issues

"""The sweeps, and where their times jump."""

import json

import pytest

from bench import scaling, timer
from bench.__main__ import main


def test_sweeps():
    over_categories, over_rows = scaling.sweeps(2**22)
    assert [case.categories for case in over_categories.cases] == [2**exponent for exponent in range(1, 21)]
    assert {case.rows * case.categories for case in over_categories.cases} == {2**22}
    assert {case.categories for case in over_rows.cases} == {scaling.CATEGORIES}
    assert over_rows.cases[-1].rows * scaling.CATEGORIES == 2**22


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({32: 0.2, 64: 0.9, 128: 1.2, 256: 1.0}, "x 1.2, from 64 to 128 categories: no cliff"),
        ({32: 1.0, 64: 1.0, 128: 1.6, 256: 1.0}, "x 1.6, from 64 to 128 categories: a CLIFF"),
        ({32: 1.0, 64: 1.0, 128: 1.1, 256: 0.5}, "x 0.5, from 128 to 256 categories: a CLIFF"),
        (
            {32: 1.0, 64: 0.3, 128: 1.1, 256: 1.0},
            "From 32 to 64, where lanes turn from rows to categories, it is x 0.3",
        ),
    ],
)
def test_cliff(steps, said):
    rows = [{"work": "sample", "categories": categories, "step": step} for categories, step in steps.items()]
    assert said in scaling._cliff([{"work": "sample", "categories": 8, "step": None}, *rows])


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timer, "ROUND_SECONDS", 1e-4)
    monkeypatch.setattr(scaling, "QUICK_SECONDS", 1e-4)
    assert main(["scaling", "--quick", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for part in (*scaling.MEASURED, "4096", "categories", "the largest step is"):
        assert part in printed
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert {row["work"] for row in rows} == set(scaling.MEASURED)
    assert [row["step"] is None for row in rows if row["sweep"] == "rows"] == ([True] + [False] * 5) * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scaling.csv", "scaling.json", "scaling.png"]

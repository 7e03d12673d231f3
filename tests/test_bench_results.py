"""The files that results go to."""

import csv
import json

import pytest
from matplotlib.figure import Figure

from bench import results

ROWS = [{"case": "a", "seconds": 1.5}, {"case": "b", "unavailable": "no, never"}]


def test_csv_json_and_plot_under_one_name(tmp_path):
    results.save(tmp_path / "new" / "folder", "name", {"dtype": "float32"}, ROWS, Figure())
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["name.csv", "name.json", "name.png"]
    document = json.loads((folder / "name.json").read_text())
    assert (document["name"], document["configuration"], document["rows"]) == ("name", {"dtype": "float32"}, ROWS)
    assert all(document["environment"][key] for key in ("commit", "date", "device", "threads", "python", "torch"))
    with (folder / "name.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"case": "a", "seconds": "1.5", "unavailable": ""},
            {"case": "b", "seconds": "", "unavailable": "no, never"},
        ]
    assert (folder / "name.png").read_bytes().startswith(b"\x89PNG")


def test_no_plot_where_there_is_none(tmp_path):
    results.save(tmp_path, "name", {}, ROWS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["name.csv", "name.json"]


def test_interrupted_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    results.replace(path, b"old")

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(results.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.replace(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_outside_of_a_repository_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    assert results.environment()["commit"] == "unknown"

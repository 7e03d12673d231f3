"""The README's table of times is what the committed results say."""

import json

from bench import readme
from bench.__main__ import main
from bench.peers import LIMIT, OURS, PACKAGE


def test_table_is_that_of_the_committed_results():
    text = readme.README.read_text()
    assert text == readme.between_marks(text, readme.published())


def test_command_writes_between_the_marks_only(monkeypatch, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    monkeypatch.setattr(readme, "README", path)
    assert main(["readme"]) == 0
    text = path.read_text()
    assert text.startswith(f"before\n{readme.BEGIN}\n")
    assert text.endswith(f"\n{readme.END}\nafter\n")
    assert "old" not in text


def test_figures():
    def row(peer, case, **figures):
        return {"work": "reinmax", "case": case, "rows": 4, "categories": 3, "peer": peer} | figures

    rows = [
        row(OURS, "a", seconds=0.001, ratio=1.0, of_limit=0.5),
        row(PACKAGE, "a", seconds=0.002, ratio=2.0, of_limit=0.25),
        row(LIMIT, "a", seconds=0.0005, ratio=0.5, of_limit=1.0),
        row(OURS, "b", seconds=0.01, ratio=1.0, of_limit=0.125),
        row(PACKAGE, "b", unavailable="why"),
    ]
    document = json.loads(readme.PUBLISHED[0].read_text()) | {"rows": rows + [r | {"work": "sample"} for r in rows]}
    text = readme.times(document)
    for line in (
        f"| case | shape | {OURS}, ms | {PACKAGE} | of the limit |",
        "| a | 4 x 3 | 1 | x 2 | 50% |",
        "| b | 4 x 3 | 10 | not available | 12% |",
        "| geometric mean |  |  | x 2 | 25% |",
    ):
        assert text.count(line) == 2


def test_a_gpu_is_compared_with_a_copy():
    document = json.loads(readme.PUBLISHED[0].read_text())
    ours = {"case": "a", "rows": 4, "categories": 3, "peer": OURS, "seconds": 0.001, "ratio": 1.0}
    shares = {"of_limit": 0.5, "of_copy": 0.75}
    document["rows"] = [{"work": work} | ours | shares for work in ("reinmax", "sample")]
    document["configuration"] |= {"device": "cuda", "graphs": True}
    text = readme.times(document)
    assert text.startswith("### On a GPU, replayed from CUDA graphs\n")
    assert text.count(f"| case | shape | {OURS}, ms | of a copy |") == 2
    assert text.count("| a | 4 x 3 | 1 | 75% |") == 2

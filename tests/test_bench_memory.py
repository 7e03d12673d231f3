"""The memory counters against tensors counted by hand, and the command."""

import json

import pytest
import torch

from bench import memory, peers
from bench.__main__ import main
from bench.peers import OURS, PACKAGE

BYTES = 4 * 50 * 40
X, W = torch.randn(50, 40, requires_grad=True), torch.randn(50, 40, requires_grad=True)


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch):
    def compiler():
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(peers, "_compiled_package", compiler)


class TestSaved:
    @pytest.mark.parametrize(
        ("forward", "kept"),
        [
            (lambda: X + W, 0),
            (lambda: X.exp(), 1),  # its result
            (lambda: X * W, 2),
            (lambda: X * X, 1),  # one storage, saved twice
            (lambda: X.T * X.T, 1),  # views of one storage
            (lambda: (X.exp() * W).sin(), 3),  # exp's result is saved twice, the product, and W
        ],
    )
    def test_distinct_storages(self, forward, kept):
        assert sum(memory.saved_storages(forward).values()) == kept * BYTES

    def test_storage_of_a_slice_is_kept_whole(self):
        assert sum(memory.saved_storages(lambda: X[:1].sin()).values()) == BYTES


class TestPeak:
    @pytest.mark.parametrize(
        ("work", "most"),
        [
            (lambda: None, 0),
            (lambda: X.detach().view(-1), 0),
            (lambda: X.detach().neg(), 1),
            (lambda: X.detach().neg().neg().neg(), 2),  # the argument lives beside the result
            (lambda: [X.detach().neg() for _ in range(3)], 3),
            (lambda: [X.detach().neg() for _ in range(3)] and X.detach().neg(), 3),  # the three are gone by then
        ],
    )
    def test_most_at_one_moment(self, work, most):
        assert memory.peak_bytes(work) == most * BYTES


class TestCommand:
    def test_figures_are_those_counted_by_hand(self, tmp_path, capsys):
        rows, categories = 4, 1024
        arguments = ["--quick", "--output", str(tmp_path), "--shapes", f"{rows}x{categories}"]
        assert main(["memory", *arguments]) == 0
        found = {row["peer"]: row for row in json.loads((tmp_path / "memory.json").read_text())["rows"]}
        array = 4 * rows * categories
        ours, package = found[OURS], found[PACKAGE]
        assert ours["saved"] == array + 16 * rows  # the logits, an index and a log-sum-exp a row
        assert ours["beyond"] == 16 * rows
        assert package["saved"] == 3 * array + 4  # logits, one-hot and probabilities; tau
        assert ours["saved_ratio"] == ours["saved"] / package["saved"] <= 0.36
        assert 3 * array <= ours["peak"] < 4 * array  # one-hot, probabilities and gradient, and what a row needs
        printed = capsys.readouterr().out
        for part in (*peers.ESTIMATORS, "of it, not available: no compiler here", f"{rows}x{categories}", "float32"):
            assert part in printed
        assert sorted(path.name for path in tmp_path.iterdir()) == ["memory.csv", "memory.json", "memory.png"]

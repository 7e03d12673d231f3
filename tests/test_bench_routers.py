"""The routers' peers, and the command that times them."""

import json

import pytest
import torch
from test_sparse_mixer import plain

from bench import routers, sparse_mixer, timer
from bench.__main__ import main
from bench.peers import OURS


@pytest.mark.parametrize("k", [1, 2])
def test_the_plain_sparse_mixer_weighs_as_ours_does_where_nothing_is_left_to_chance(k):
    logits = torch.tensor([[1.0, 200.0, -3.0, 20.0]], requires_grad=True)  # one expert left by the jitter each time
    index, weight = sparse_mixer.sparse_mixer(logits, k)
    assert index.tolist() == [[1, 3][:k]]
    torch.testing.assert_close(weight, torch.ones(1, k))


def test_the_plain_sparse_mixer_has_the_law_of_ours():
    logits = torch.tensor([1.0, 0.9, 1.05, -1.0]).expand(40_000, -1)
    ours, theirs = (router(logits, k=2) for router in (plain, sparse_mixer.sparse_mixer))
    for expert in range(4):
        share, expected = ((index == expert).float().mean(0) for index, _ in (theirs, ours))
        torch.testing.assert_close(share, expected, rtol=0, atol=0.02)
    torch.testing.assert_close(theirs[1].mean(0), ours[1].mean(0), rtol=0, atol=0.01)


def test_the_plain_gradient_leaves_the_factor_out():
    logits = torch.randn(200, 6, dtype=torch.float64).requires_grad_()
    index, weight = sparse_mixer.sparse_mixer(logits, 1)
    (grad,) = torch.autograd.grad(weight.sum(), logits)
    largest = logits.amax(-1, keepdim=True)
    far = (largest - logits) / torch.maximum(logits.abs(), largest) > 0.2
    (expected,) = torch.autograd.grad(logits.masked_fill(far, -torch.inf).softmax(-1).gather(-1, index).sum(), logits)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("work", routers.WORKS)
def test_every_call_runs(work):
    calls, _ = routers.WORKS[work]
    for call in calls(torch.randn(20, 8), 2, torch.randn(20, 2)).values():
        call()


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timer, "ROUND_SECONDS", 1e-4)
    monkeypatch.setattr(routers, "QUICK_SECONDS", 1e-3)
    assert main(["routers", "--quick", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for part in (*routers.WORKS, OURS, routers.PLAIN, "softmax().topk()", "argsort(stable=True)", "moe-8, k = 2"):
        assert part in printed
    rows = json.loads((tmp_path / "routers.json").read_text())["rows"]
    assert len(rows) == 2 * 2 * len(routers.WORKS)
    assert all(row["ratio"] == 1 for row in rows if row["peer"] == OURS)

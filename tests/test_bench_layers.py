"""The peers of bits and codebook lookups, and the command that times them."""

import json

import pytest
import torch

import reinmax_kernels
from bench import layers, timer
from bench.__main__ import main
from bench.peers import OURS


@pytest.mark.parametrize("tau", [1.0, 0.7])
def test_the_dense_codebook_computes_the_same(tau):
    calls = layers.codebook_lookup(torch.randn(20, 8), torch.randn(20, 8), tau)
    for name in ("reinmax", "straight_through"):
        torch.manual_seed(1)
        ours = calls[OURS if name == "reinmax" else name]()
        torch.manual_seed(1)
        torch.testing.assert_close(calls[f"{name}, then @"](), ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("estimator", ["reinmax", "gumbel_softmax"])
def test_pairs_compute_the_same_in_the_mean(estimator):
    logits = torch.full((200, 200), 0.6, dtype=torch.float64)
    calls = layers.bernoulli(logits, torch.ones_like(logits), 0.7)
    ours, theirs = (
        calls[name]()[0] for name in (OURS if estimator == "reinmax" else estimator, f"{estimator} on pairs")
    )
    error = ((ours.var() + theirs.var()) / ours.numel()).sqrt()
    assert (ours.mean() - theirs.mean()).abs() < 4.5 * error
    bits = reinmax_kernels.bernoulli(logits)[0].mean(), calls["torch.bernoulli, no gradient"]().mean()
    assert abs(bits[0] - bits[1]) < 0.02


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timer, "ROUND_SECONDS", 1e-4)
    monkeypatch.setattr(layers, "QUICK_SECONDS", 1e-3)
    assert main(["layers", "--quick", "--tau", "0.5", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for part in (*layers.WORKS, OURS, "reinmax on pairs", "reinmax, then @", "peak / logits", "vq-64"):
        assert part in printed
    rows = json.loads((tmp_path / "layers.json").read_text())["rows"]
    assert len(rows) == 6 + 4
    assert all(row["ratio"] == 1 for row in rows if row["peer"] == OURS)
    assert all(row["peak / logits"] > 0.5 for row in rows)

"""`python -m bench static`: figures of kernels compiled without a GPU, and what is predicted from them."""

import json
import os
import subprocess
import sys

import pytest
import torch

import cuda_toolkit
from bench.__main__ import main
from bench.static import traffic
from bench.static.cuda import code as cuda_code
from bench.static.gpus import GPU
from bench.static.specimens import NOISY, Specimen
from reinmax_kernels import backends

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
needs_triton = pytest.mark.skipif(not backends.has_triton, reason="Triton is not installed")


def test_the_slower_of_memory_and_instructions():
    gpu = GPU("round", 90, processors=10, clock=1e9, bandwidth=1e12)
    assert gpu.seconds(moved_bytes=2e12, instructions=1.28e12) == (2, "memory")
    assert gpu.seconds(moved_bytes=1e12, instructions=3 * 1.28e12) == (3, "instructions")


@pytest.mark.parametrize(
    ("path", "on_chip", "passes", "state"),
    [
        ("sample", False, 1, 8),
        ("sample_dense", True, 3, 16),
        ("sample_dense", False, 4, 16),
        ("reinmax_backward", False, 3, 16),
        ("reinmax_backward, tau", True, 3, 16),
        ("reinmax_backward, tau, both", False, 7, 16),
        ("straight_through_backward", False, 5, 16),
        ("gapped_straight_through_backward", False, 6, 16),
        ("bernoulli", True, 3, 0),
        ("bernoulli_reinmax_backward, tau, both", True, 5, 0),
    ],
)
def test_least_bytes(path, on_chip, passes, state):
    assert Specimen(path, 3, 1000).least_bytes(on_chip) == 3 * (4000 * passes + state)


def test_least_bytes_of_a_plan():
    """Two assignments a row, read twice; order and inverse."""
    for experts, dtype in ((8, torch.float32), (64, torch.bfloat16)):
        assert Specimen("dispatch_plan", 5, experts, dtype).least_bytes(False) == 5 * 2 * 8 * 4


@pytest.mark.parametrize(
    ("rows", "categories", "processors", "counted"),
    [(64, 262144, 132, (1, 2)), (1, 262144, 132, (1, 132)), (131, 16384, 100, (1, 1)), (1024, 32768, 132, (4, None))],
)
def test_few_long_rows_are_counted_by_one_on_its_share_of_the_device(rows, categories, processors, counted):
    """All blocks that share a row read what each has found, and more of them would share one that is alone."""
    small = traffic.reduced(Specimen("sample", rows, categories, processors=processors))
    assert (small.rows, small.processors) == counted


def has_nvcc():
    try:
        cuda_toolkit.nvcc()
    except cuda_toolkit.ToolkitError:
        return False
    return True


def check_cuda(cuda, triton):
    """The CUDA kernels' rows, beside Triton's."""
    assert {row["target"] for row in cuda} == {"sm_90"}
    reckoned = [row for row in triton if row["path"].split(",")[0] in cuda_code.LISTED]
    assert {(row["path"], row["categories"]) for row in cuda} == {(row["path"], row["categories"]) for row in reckoned}
    assert all(row["spilled_bytes"] == 0 and row["occupancy"] >= 0.5 for row in cuda)
    by_case = {(row["path"], row["categories"]): row for row in cuda}
    gradient = by_case["straight_through_backward", 4096]
    assert gradient["kernel"] == "backward_medium_kernel"
    assert gradient["warps"] * 32 * 16 == 4096
    assert gradient["load_bits"]["128"] * 16 >= 2 * 16 * 4  # logits and gradient of a thread's sixteen positions
    assert gradient["instructions_per_element"] == gradient["instructions"] / 16  # it has no loop over rows
    bits = by_case["bernoulli_reinmax_backward", 4096]
    assert bits["kernel"] == "bernoulli_backward_kernel"
    assert bits["load_bits"]["128"] == 4  # logits, bits and both gradients of a thread's four
    draw, dense = by_case["sample", 4096], by_case["sample_dense", 4096]
    assert 0 < draw["in_loops_per_element"] < dense["in_loops_per_element"] < dense["instructions_per_element"]
    assert draw["in_loops_per_element"] <= 20  # an element's share of the loop over whole chunks


def check_traffic(rows, with_cuda):
    """Each backend's rows, of what moves them once a pass."""
    found = {(row["backend"], row["path"], row["categories"]): row for row in rows}
    for backend in ("triton", "cuda") if with_cuda else ("triton",):
        for path in set(cuda_code.RECKONED) - set(NOISY):
            row = found[backend, path, 4096]
            assert 1 <= row["bytes_of_least"] <= 1.4, row  # among them each thread's copies of a few numbers
            assert 1 <= row["sectors_of_least"] <= 1.07, row
            assert row["instructions_per_element"] > 1
    assert not any(row["path"].startswith("gumbel") for row in rows)


@needs_triton
def test_interpreted_kernels_cannot_be_compiled(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert main(["static", "--quick"]) == 1
    assert "unset it to have them compiled" in capsys.readouterr().err


@needs_triton
def test_command(tmp_path):
    command = [sys.executable, "-m", "bench", "static", "--quick", "--output", tmp_path, "--shapes", "vae", "8x8192"]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for part in ("Traffic", "sm_90", "gfx942", "Triton", "H100", "predicted, not measured", "vae", "8x8192"):
        assert part in result.stdout
    expected = {
        f"{name}.{kind}" for name in ("static", "static_traffic", "static_predicted") for kind in ("csv", "json", "png")
    }
    assert {path.name for path in tmp_path.iterdir()} == expected

    document = json.loads((tmp_path / "static.json").read_text())
    without_cuda = document["configuration"]["without_cuda"]
    assert (without_cuda is None) == has_nvcc()
    code = [row for row in document["rows"] if row["backend"] == "triton"]
    gradient = next(row for row in code if (row["path"], row["categories"]) == ("straight_through_backward", 4096))
    assert gradient["kernel"] == "backward_tile_kernel"
    assert gradient["warps"] * 32 * 8 == 4096
    assert gradient["load_bits"]["128"] * 16 == 2 * 8 * 4  # logits and gradient of a thread's eight positions
    assert gradient["store_bits"]["128"] * 16 == 8 * 4
    assert gradient["instructions_per_element"] == gradient["instructions"] / 8  # it has no loop
    looped = next(row for row in code if row["kernel"] == "sample_long_kernel" and row["target"] == "sm_90")
    assert 0 < looped["in_loops_per_element"] < looped["instructions_per_element"]

    if without_cuda is None:
        check_cuda([row for row in document["rows"] if row["backend"] == "cuda"], code)
    else:
        assert f"Without the CUDA kernels: {without_cuda}"[:60] in result.stdout

    check_traffic(json.loads((tmp_path / "static_traffic.json").read_text())["rows"], without_cuda is None)

    predicted = json.loads((tmp_path / "static_predicted.json").read_text())["rows"]
    assert {(row["case"], row["peer"]) for row in predicted} >= {("vae", "sample"), ("8x8192", "reinmax_backward")}
    assert all(row["H100"] >= row["H100 memory"] > 0 for row in predicted)
    if without_cuda is None:
        by_backend = {row["backend"]: row for row in predicted if row["case"] == "8x8192" and "reinmax" in row["peer"]}
        assert (
            by_backend["cuda"]["H100 memory"]
            == by_backend["triton"]["H100 memory"]
            == 8 * (3 * 4 * 8192 + 16) / 3.35e12
        )

"""When the CUDA kernels are built, with what and for which GPUs. No nvcc is needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cuda_toolkit

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("FORCE_CUDA", "REINMAX_KERNELS_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    for function in (cuda_toolkit.nvcc, cuda_toolkit.version, cuda_toolkit.home):
        function.cache_clear()


def toolkit(folder, release="13.0"):
    """A folder with a compiler that tells its release, and where it is."""
    nvcc = folder / "bin/nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V0'\necho '#$ TOP={folder}' >&2\n")
    nvcc.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("torch_cuda", "environment", "wanted"),
    [
        ("13.0", {}, True),
        ("13.2", {}, True),
        ("12.8", {}, False),  # nvcc's runtime would be another than torch's
        (None, {}, False),
        (None, {"FORCE_CUDA": "1"}, True),
        ("12.8", {"FORCE_CUDA": "1"}, True),
        ("13.0", {"REINMAX_KERNELS_CUDA": "0"}, False),
        ("13.0", {"REINMAX_KERNELS_CUDA": "0", "FORCE_CUDA": "1"}, False),
    ],
)
def test_which_builds_have_cuda_kernels(tmp_path, monkeypatch, capsys, torch_cuda, environment, wanted):
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path)))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cuda_toolkit.is_wanted(torch_cuda) == wanted
    told = "torch is for CUDA 12.8, nvcc of 13.0" in capsys.readouterr().out
    assert told == (torch_cuda == "12.8" and not wanted)


def test_a_cuda_torch_without_nvcc_gets_none(monkeypatch, capsys):
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    assert not cuda_toolkit.is_wanted("13.0")
    assert "without CUDA kernels: no nvcc at /nowhere/bin/nvcc; set CUDA_HOME" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["lib64", "lib", "targets/sbsa-linux/lib"])
def test_the_static_runtime_is_looked_for(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path)))
    with pytest.raises(cuda_toolkit.ToolkitError, match=r"no libcudart_static.a below"):
        cuda_toolkit.static_runtime()
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "libcudart_static.a").touch()
    assert cuda_toolkit.static_runtime() == tmp_path / folder


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX"]),
        ("9.0", ["9.0"]),
        ("8.0;9.0a, 12.0+PTX", ["8.0", "9.0a", "12.0+PTX"]),
    ],
)
def test_architectures(monkeypatch, given, names):
    if given:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    assert cuda_toolkit.architectures() == names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("7.5", "the kernels need a capability of 8.0 or more, got '7.5'"),
        ("9.0 7.0+PTX", "got '7.0.PTX'"),
        ("Hopper", "expected capabilities such as '8.0 9.0.PTX', got 'Hopper'"),
    ],
)
def test_architectures_that_are_refused(monkeypatch, given, message):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    with pytest.raises(cuda_toolkit.ToolkitError, match=f"TORCH_CUDA_ARCH_LIST: .*{message}"):
        cuda_toolkit.architectures()


def test_flags_of_architectures():
    assert cuda_toolkit.architecture_flags(["8.0", "12.0+PTX"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CUDA_HOME": "/nowhere"}, "no nvcc at /nowhere/bin/nvcc"),
        ({"TORCH_CUDA_ARCH_LIST": "7.5"}, "the kernels need a capability of 8.0 or more, got '7.5'"),
    ],
)
def test_what_is_asked_for_and_can_not_be_built_is_an_error(environment, message):
    command = [sys.executable, "setup.py", "--name"]
    environment = os.environ | {"FORCE_CUDA": "1"} | environment
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode != 0
    assert f"reinmax_kernels: {message}" in result.stderr + result.stdout or message in result.stderr
    assert "REINMAX_KERNELS_CUDA=0 builds without CUDA kernels" in result.stderr

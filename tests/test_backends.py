"""Choosing a backend, and what a build says of itself."""

import concurrent.futures
import contextlib
import importlib.machinery
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import reinmax_kernels
from reinmax_kernels import backends, codebook_ops, ops, router_ops

native_only = pytest.mark.skipif(backends.native is None, reason="this build has no C++ kernels")
PACKAGE = Path(reinmax_kernels.__file__).parent
CPU = torch.device("cpu")


def python(code, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )


def test_backends_nest_and_are_restored_after_an_error():
    assert backends.overload(CPU) == "default"
    with contextlib.suppress(KeyError), reinmax_kernels.backend("reference"):
        assert backends.overload(CPU) == "reference"
        with reinmax_kernels.backend("auto"):
            assert backends.overload(CPU) == "default"
        assert backends.overload(CPU) == "reference"
        raise KeyError
    assert backends.overload(CPU) == "default"


def test_backend_belongs_to_its_thread():
    with reinmax_kernels.backend("reference"), concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(backends.overload, CPU).result() == "default"
        assert backends.overload(CPU) == "reference"


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"expected one of auto, reference, cpu, cuda, triton; got 'gpu'"):
        reinmax_kernels.backend("gpu").__enter__()


@native_only
def test_the_forced_backend_serves_the_call_and_its_backward():
    logits = torch.randn(5, 7, requires_grad=True)
    with reinmax_kernels.backend("reference"):
        one_hot, _ = reinmax_kernels.reinmax(logits)
    with torch.profiler.profile() as backward_of_reference:  # it follows the forward, wherever it runs
        one_hot.sum().backward()
    one_hot, _ = reinmax_kernels.reinmax(logits)
    with reinmax_kernels.backend("reference"), torch.profiler.profile() as backward_of_native:
        one_hot.sum().backward()
    for profile, plain in ((backward_of_reference, True), (backward_of_native, False)):
        assert ("aten::scatter_" in {event.name for event in profile.events()}) == plain
    # The reference is made of PyTorch's operations, the C++ kernel of none that computes.
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as native:
        reinmax_kernels.sample(logits.detach(), seed=1)
    with reinmax_kernels.backend("reference"), torch.profiler.profile() as plain:
        reinmax_kernels.sample(logits.detach(), seed=1)
    assert "aten::cumsum" in {event.name for event in plain.events()}
    assert "aten::cumsum" not in {event.name for event in native.events()}


@native_only
def test_cpu_backend_refuses_tensors_of_other_devices():
    with (
        reinmax_kernels.backend("cpu"),
        pytest.raises(ValueError, match="'cpu' serves CPU tensors, got logits on meta"),
    ):
        reinmax_kernels.sample(torch.empty(3, 4, device="meta"), seed=1)


cuda_only = pytest.mark.skipif(not backends.cuda_architectures, reason="this build has no CUDA kernels")


@pytest.mark.skipif(bool(backends.cuda_architectures), reason="this build has CUDA kernels")
def test_cuda_backend_is_refused_where_it_was_not_built():
    with pytest.raises(RuntimeError, match="'cuda' is not in this build; install with nvcc beside a torch"):
        reinmax_kernels.backend("cuda").__enter__()


@cuda_only
def test_cuda_backend_serves_cuda_tensors_alone():
    with reinmax_kernels.backend("cuda"):
        assert backends.overload(torch.device("cuda", 0)) == "default"
        with pytest.raises(ValueError, match="'cuda' serves CUDA tensors, got logits on cpu"):
            reinmax_kernels.sample(torch.zeros(2, 3), seed=1)


ROOT = Path(__file__).parents[1]
CUDA_SOURCES = {
    op: str(path.relative_to(ROOT))
    for path in (ROOT / "csrc/cuda").glob("*.cpp")
    for op in re.findall(r'library\.impl\(\s*"(\w+)"', path.read_text())
}


@pytest.mark.parametrize("op", [*ops.TABLE, *router_ops.TABLE, *codebook_ops.TABLE])
def test_cuda_tensors_are_served_by_the_ops_cuda_kernel_where_it_was_built_else_by_triton(op):
    """As the dispatcher of PyTorch has it, which is asked here for there may be no GPU to ask."""
    registered = torch._C._dispatch_dump(f"{ops.NAMESPACE}::{op}")
    served = {line.split(":")[0]: line for line in registered.splitlines()}
    if backends.cuda_architectures and op in CUDA_SOURCES:
        assert CUDA_SOURCES[op] in served["CUDA"]
    else:
        assert ("CUDA" in served) == backends.has_triton
    assert ("XPU" in served) == backends.has_triton


@pytest.mark.parametrize(("name", "overload"), [("auto", "default"), ("reference", "reference")])
def test_environment_chooses_for_the_process(name, overload):
    code = "import torch; from reinmax_kernels import backends; print(backends.overload(torch.device('cpu')))"
    result = python(code, REINMAX_KERNELS_BACKEND=name)
    assert result.stdout.strip() == overload, result.stderr


def test_environment_with_an_unknown_backend():
    result = python("import reinmax_kernels", REINMAX_KERNELS_BACKEND="fast")
    assert "REINMAX_KERNELS_BACKEND: expected one of auto, reference, cpu, cuda, triton; got 'fast'" in result.stderr


@native_only
def test_environment_chooses_the_simd_level():
    for level in reinmax_kernels.build_info()["simd_available"]:
        code = "import reinmax_kernels; print(reinmax_kernels.build_info()['simd'])"
        assert python(code, REINMAX_KERNELS_SIMD=level).stdout.strip() == level
    result = python("import reinmax_kernels", REINMAX_KERNELS_SIMD="mmx")
    assert "REINMAX_KERNELS_SIMD: expected one of baseline" in result.stderr
    assert "got 'mmx'" in result.stderr


def test_build_info_and_its_command():
    info = reinmax_kernels.build_info()
    assert info["version"] == reinmax_kernels.__version__
    assert info["torch"] == torch.__version__
    assert info["backends"][0] == "reference"
    printed = subprocess.run(
        [sys.executable, "-m", "reinmax_kernels"], capture_output=True, text=True, check=True
    ).stdout
    assert [line.split(":")[0] for line in printed.splitlines()] == list(info)
    if backends.native is not None:
        assert info["simd"] in info["simd_available"]
        assert info["compiler"]
        assert all(re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", each) for each in info["cuda_architectures"])
        assert ("cuda" in info["backends"]) == bool(info["cuda_architectures"])


@pytest.fixture
def package_copy(tmp_path):
    """The package without its compiled module, importable from a folder of its own."""
    shutil.copytree(PACKAGE, tmp_path / "reinmax_kernels", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path


def test_broken_native_module_is_an_error_and_no_fallback(package_copy):
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (package_copy / "reinmax_kernels" / f"_C{suffix}").write_bytes(b"not a library")
    result = python("import reinmax_kernels", cwd=package_copy, PYTHONPATH=str(package_copy))
    assert "ImportError: reinmax_kernels: the compiled module is installed but does not load" in result.stderr
    assert "rebuild it" in result.stderr


def test_without_a_native_module_the_reference_serves_and_cpu_is_refused(package_copy):
    code = (
        "import reinmax_kernels as r, torch;"
        "print(r.build_info()['backends'], r.sample(torch.zeros(2, 3), seed=1).shape);"
        "r.backend('cpu').__enter__()"
    )
    result = python(code, cwd=package_copy, PYTHONPATH=str(package_copy))
    others = ", 'triton'" if backends.has_triton else ""
    assert result.stdout.strip() == f"['reference'{others}] torch.Size([2])"
    assert "RuntimeError: backend: 'cpu' is not in this build, which is pure Python" in result.stderr


def test_without_triton_it_is_refused():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import reinmax_kernels as r, torch\n"
        "print(r.sample(torch.zeros(2, 3), seed=1).shape, 'triton' in r.build_info()['backends'])\n"
        "r.backend('triton').__enter__()"
    )
    result = python(code)
    assert result.stdout.strip() == "torch.Size([2]) False"
    assert (
        "RuntimeError: backend: 'triton' needs Triton >= 3.6, found none: pip install 'reinmax_kernels[triton]'"
        in result.stderr
    )


@pytest.mark.skipif(not backends.has_triton, reason="Triton is not installed")
def test_triton_serves_cpu_tensors_only_on_its_interpreter():
    code = "import reinmax_kernels as r, torch\nwith r.backend('triton'): r.sample(torch.zeros(2, 3))"
    result = python(code, TRITON_INTERPRET="0")
    assert "ValueError: backend: 'triton' serves CPU tensors only under TRITON_INTERPRET=1" in result.stderr
    assert python(code, TRITON_INTERPRET="1").returncode == 0

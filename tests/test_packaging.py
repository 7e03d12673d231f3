"""The wheel and the sdist, built from a copy of the tree and used from another folder."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from reinmax_kernels import backends

ROOT = Path(__file__).resolve().parents[1]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
SDIST = "from setuptools.build_meta import build_sdist; import sys; print(build_sdist(sys.argv[1]))"
CONTRACT_VECTOR = """
import sys, numpy, torch, reinmax_kernels
vectors = numpy.load(sys.argv[1])
logits, seed = torch.from_numpy(vectors["case04_logits"]), int(vectors["case04_args"][0])
index = reinmax_kernels.sample(logits, seed=seed)
assert index.tolist() == vectors["case04_index"].tolist()
print(reinmax_kernels.__file__, reinmax_kernels.build_info()["backends"])
"""


def run(command, cwd, **environment):
    result = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build_wheel(source: Path, target: Path, **environment) -> Path:
    run([*PIP, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", target, "."], source, **environment)
    (wheel,) = target.glob("*.whl")
    return wheel


def members(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def draw_from_elsewhere(wheel: Path, target: Path) -> str:
    run([*PIP, "install", "--no-deps", "--target", target / "site", wheel], target)
    command = [sys.executable, "-c", CONTRACT_VECTOR, ROOT / "tests/data/contract_vectors.npz"]
    output = run(command, target, PYTHONPATH=str(target / "site"))
    assert output.startswith(str(target / "site"))
    return output


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the sources, so that a build leaves nothing behind in the checkout."""
    copy = tmp_path_factory.mktemp("tree") / "reinmax_kernels"
    ignored = shutil.ignore_patterns(".*", "*.so", "*.egg-info", "__pycache__", "build", "dist", "results", "data")
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    """Built from the sdist, so that one build shows both; without the CUDA kernels, which take minutes."""
    target = tmp_path_factory.mktemp("dist")
    name = run([sys.executable, "-c", SDIST, target], tree).splitlines()[-1]
    shutil.unpack_archive(target / name, target / "unpacked", filter="data")
    (source,) = (target / "unpacked").iterdir()
    assert list((source / "csrc/cuda").glob("*.cu"))
    return build_wheel(source, target / "wheels", REINMAX_KERNELS_CUDA="0")


@pytest.fixture(scope="module")
def pure_wheel(tree, tmp_path_factory):
    return build_wheel(tree, tmp_path_factory.mktemp("pure"), REINMAX_KERNELS_NATIVE="0")


@pytest.mark.skipif(backends.native is None, reason="this environment was installed without the C++ kernels")
def test_wheel_from_sdist_holds_the_package_and_nothing_else(wheel, tmp_path):
    assert wheel.name.startswith("reinmax_kernels-")
    assert "-cp310-abi3-" in wheel.name
    names = members(wheel)
    packages = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert packages == {"reinmax_kernels"}
    with zipfile.ZipFile(wheel) as archive:
        (top_level,) = (name for name in names if name.endswith("top_level.txt"))
        assert archive.read(top_level).decode().split() == ["reinmax_kernels"]
    expected = (
        "py.typed",
        "_C.abi3.so",
        "triton_kernels/__init__.py",
        "triton_kernels/sample.py",
        "reference/contract.py",
    )
    assert {f"reinmax_kernels/{name}" for name in expected} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "'cpu'" in draw_from_elsewhere(wheel, tmp_path)


@pytest.mark.skipif(backends.native is None, reason="this environment was installed without the C++ kernels")
def test_the_library_needs_torch_and_no_part_of_cuda():
    """It has to load where there is no CUDA. Beside a torch with CUDA, libtorch.so brings its stream along."""
    library = backends.native.__file__
    needed = re.findall(r"NEEDED.*\[(.*)\]", run(["readelf", "--dynamic", "--wide", library], ROOT))
    assert "libtorch.so" in needed
    assert [name for name in needed if "cuda" in name] == []
    symbols = [line.split() for line in run(["nm", "--dynamic", library], ROOT).splitlines()]
    undefined = {name: kind for kind, name in (symbol[-2:] for symbol in symbols) if kind in "Uw"}
    of_every_torch = {"aoti_torch_device_type_cuda"}
    assert {name for name, kind in undefined.items() if "cuda" in name and kind != "w"} <= of_every_torch
    exported = {symbol[-1] for symbol in symbols if symbol[-2] not in "Uw"}
    assert [name for name in exported if "cuda" in name] == []


def test_pure_python_wheel_runs_on_the_reference(pure_wheel, tmp_path):
    assert pure_wheel.name.endswith("-py3-none-any.whl")
    assert not any(name.endswith(".so") for name in members(pure_wheel))
    drawn = draw_from_elsewhere(pure_wheel, tmp_path)
    assert "'reference'" in drawn
    assert "'cpu'" not in drawn
    script = "import reinmax_kernels; reinmax_kernels.backend('cpu').__enter__()"
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert "RuntimeError: backend: 'cpu' is not in this build" in result.stderr


def test_triton_kernels_do_not_pass_for_the_top_level_package_of_that_name():
    result = subprocess.run([sys.executable, "-c", "import triton_kernels"], cwd=ROOT, capture_output=True, text=True)
    assert "ImportError: imported as 'triton_kernels', expected 'reinmax_kernels.triton_kernels'" in result.stderr

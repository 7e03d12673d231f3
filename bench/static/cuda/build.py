"""Builds the CUDA backend for one architecture as PTX, with a fake CUDA runtime under it."""

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch.utils import cpp_extension

import cuda_toolkit
from reinmax_kernels import codebook_ops, ops, router_ops

from ... import sass

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent
OPS = {**ops.TABLE, **router_ops.TABLE, **codebook_ops.TABLE}  # the op tables that have files in csrc/cuda
TORCH_ABI = "0x020A000000000000"  # as in setup.py
WRAPPED = (  # torch's functions that the fake runtime stands in for
    "aoti_torch_empty_strided",
    "torch_call_dispatcher",
    "aoti_torch_get_current_stream",
    "aoti_torch_delete_stream",
    "torch_stream_native_handle",
    "aoti_torch_create_device_guard",
    "aoti_torch_delete_device_guard",
)
MOST_SAID = 8000  # characters of a compiler's errors: pytest keeps them for each test that wanted the build
JOBS = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
PART = re.compile(r"^(?=\.(?:visible|weak|extern|entry|func)\b)", re.MULTILINE)
ENTRY = re.compile(r"\.entry\s+([\w$]+)")


@dataclass
class Build:
    """One architecture's build, loaded into this process. Its ops have a namespace of their own."""

    architecture: int
    folder: Path

    @cached_property
    def library(self) -> ctypes.CDLL:
        self.schemas = torch.library.Library(namespace(self.architecture), "DEF")  # forgotten when it is collected
        for name, op in OPS.items():
            self.schemas.define(name + op.schema)
        return ctypes.CDLL(str(self.folder / "library.so"))

    @cached_property
    def _by_file(self) -> dict[str, dict[str, str]]:
        return {path.stem: split(path.read_text()) for path in sorted(self.folder.glob("*/*.ptx"))}

    @cached_property
    def kernels(self) -> dict[str, str]:
        """The PTX of each kernel by its mangled name, with what it shares with others in its file."""
        return {name: text for kernels in self._by_file.values() for name, text in kernels.items()}

    @cached_property
    def files(self) -> dict[str, str]:
        """The stem of the .cu that each kernel comes from."""
        return {name: stem for stem, kernels in self._by_file.items() for name in kernels}

    @cached_property
    def machine_code(self) -> dict[str, sass.Kernel]:
        """What ptxas makes of each kernel."""

        def assembled(path: Path) -> list[sass.Kernel]:
            with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
                ptxas = cuda_toolkit.home() / "bin/ptxas"
                run([ptxas, f"-arch=sm_{self.architecture}", "-O3", path, "-o", cubin.name])
                return sass.kernels(Path(cubin.name))

        paths = [path for path in self.folder.glob("*/*.ptx") if self._by_file[path.stem]]
        with ThreadPoolExecutor(JOBS) as pool:
            return {kernel.name: kernel for kernels in pool.map(assembled, paths) for kernel in kernels}

    def op(self, name: str) -> torch._ops.OpOverload:
        return getattr(getattr(torch.ops, namespace(self.architecture)), name).default


def built(architecture: int) -> Build:
    """Of this checkout, kept until its sources change. Raises ToolkitError where there is no nvcc."""
    cuda_toolkit.nvcc()
    folder = ROOT / "build/static" / f"sm_{architecture}"
    library = folder / "library.so"
    text = (path for path in (ROOT / "csrc").rglob("*") if path.is_file() and path.suffix != ".md")
    sources = [*text, *HERE.glob("*.cpp"), *HERE.glob("*.h")]
    if not library.exists() or library.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        build(architecture, folder)
    return Build(architecture, folder)


def namespace(architecture: int) -> str:
    return f"reinmax_kernels_sm_{architecture}"


def split(text: str) -> dict[str, str]:
    """Each kernel of a module by itself, for to read them all takes long."""
    parts = PART.split(text)
    shared = "".join(part for part in parts if not ENTRY.search(part))
    return {match[1]: shared + part for part in parts if (match := ENTRY.search(part))}


def nvcc(architecture: int, *arguments: object) -> None:
    """Compiles as setup.py does, but to PTX, and no further."""
    target = f"-gencode=arch=compute_{architecture},code=compute_{architecture}"
    run([cuda_toolkit.nvcc(), *cuda_toolkit.NVCC_FLAGS, target, *arguments])


def run(command: Sequence[object]) -> None:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode:
        said = f"{result.stdout}{result.stderr}"[:MOST_SAID]
        raise RuntimeError(f"{' '.join(map(str, command))}\n{said}")


def build(architecture: int, folder: Path, source: Path = ROOT / "csrc") -> None:
    """Everything of csrc/cuda, as the library has it but for the CUDA runtime and torch's streams."""
    common = [f"-I{source}", f"-Dreinmax_kernels={namespace(architecture)}"]
    system = [*cpp_extension.include_paths(), cuda_toolkit.home() / "include"]
    includes = [part for path in system for part in ("-isystem", path)]
    cpp = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", f"-DTORCH_TARGET_VERSION={TORCH_ABI}"]

    def compile_kernels(path: Path) -> Path:
        target = folder / path.stem
        target.mkdir()
        nvcc(architecture, *common, "--keep", f"--keep-dir={target}", "-c", path, "-o", target / "object.o")
        return target / "object.o"

    def compile_host(path: Path) -> Path:
        target = folder / f"{path.stem}.o"
        forced = () if path.parent == HERE else ("-include", HERE / "on_cpu_tensors.h")
        run(["c++", *cpp, *common, *includes, *forced, "-c", path, "-o", target])
        return target

    with ThreadPoolExecutor(JOBS) as pool:
        kernels = pool.map(compile_kernels, sorted((source / "cuda").glob("*.cu")))
        hosts = pool.map(compile_host, [HERE / "fake_cuda.cpp", *sorted((source / "cuda").glob("*.cpp"))])
        objects = [*kernels, *hosts]
    libraries = [part for path in cpp_extension.library_paths() for part in (f"-L{path}", f"-Wl,-rpath,{path}")]
    wrapped = [f"-Wl,--wrap={name}" for name in WRAPPED]
    flags = ["-shared", "-Wl,-z,defs", *wrapped, *libraries, "-ltorch", "-ltorch_cpu", "-lc10"]
    run(["c++", *objects, *flags, "-o", folder / "library.so"])

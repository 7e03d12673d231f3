"""The CUDA toolkit, as far as a build needs it: where its compiler and its runtime are, for which GPUs to compile, and
how. Torch's own extensions for CUDA would not be built beside a torch without it.
"""

import functools
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

ARCHITECTURES = "8.0 8.6 8.9 9.0 10.0 12.0+PTX"
LEAST_CAPABILITY = (8, 0)
ARCHITECTURE = re.compile(r"(\d+)\.(\d)([af]?)(\+PTX)?")

# No contraction, on which draws depend. The definitions are those that torch compiles its own extensions with.
NVCC_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fmad=false",
    "--expt-relaxed-constexpr",
    "-D__CUDA_NO_HALF_OPERATORS__",
    "-D__CUDA_NO_HALF_CONVERSIONS__",
    "-D__CUDA_NO_BFLOAT16_CONVERSIONS__",
    "-D__CUDA_NO_HALF2_OPERATORS__",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra",
]


class ToolkitError(Exception):
    """There is no toolkit, or none that can do what is asked of it."""


@functools.cache
def nvcc() -> Path:
    """CUDA's compiler: that of CUDA_HOME, on the PATH, where CUDA is installed by habit, or of pip's cuda-toolkit."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    found = [Path(home, "bin/nvcc") for home in homes] or [
        *map(Path, filter(None, [shutil.which("nvcc")])),
        Path("/usr/local/cuda/bin/nvcc"),
        *sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin/nvcc")),
    ]
    for path in found:
        if path.exists():
            return path
    raise ToolkitError(f"no nvcc at {', '.join(map(str, found))}; set CUDA_HOME, or pip install 'cuda-toolkit[nvcc]'")


@functools.cache
def version() -> tuple[int, int]:
    printed = subprocess.run([nvcc(), "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"release (\d+)\.(\d+)", printed)
    if match is None:
        raise ToolkitError(f"{nvcc()} --version does not tell its release: {printed!r}")
    return int(match[1]), int(match[2])


@functools.cache
def home() -> Path:
    """The toolkit's folder, which nvcc tells: what is on the PATH may be a script that calls it."""
    printed = subprocess.run([nvcc(), "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    match = re.search(r"^#\$ TOP=(.*)$", printed, re.MULTILINE)
    return Path(match[1]).resolve() if match else nvcc().resolve().parents[1]


def is_wanted(torch_cuda: str | None) -> bool:
    """Whether to build the CUDA kernels, beside a torch of that version of CUDA, or of none."""
    if os.environ.get("REINMAX_KERNELS_CUDA") == "0":
        return False
    if os.environ.get("FORCE_CUDA") == "1":
        return True
    if torch_cuda is None:
        return False
    try:
        major, minor = version()
    except ToolkitError as error:
        print(f"reinmax_kernels: without CUDA kernels: {error}")
        return False
    if major != int(torch_cuda.split(".")[0]):
        print(f"reinmax_kernels: without CUDA kernels: torch is for CUDA {torch_cuda}, nvcc of {major}.{minor}")
        return False
    return True


def static_runtime() -> Path:
    """The folder of libcudart_static.a: linked with it, a library loads where there is no CUDA."""
    for folder in _library_folders():
        if (folder / "libcudart_static.a").exists():
            return folder
    raise ToolkitError(f"no libcudart_static.a below {home()}; pip install 'cuda-toolkit[cudart]' beside its nvcc")


def _library_folders() -> Iterator[Path]:
    yield from (home() / name for name in ("lib64", "lib", "lib/x64"))
    yield from home().glob("targets/*/lib")


def architectures() -> list[str]:
    """What to compile for: TORCH_CUDA_ARCH_LIST, as torch reads it, or every GPU that is not too old."""
    names = re.split(r"[\s;,]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip() or ARCHITECTURES)
    for name in names:
        match = ARCHITECTURE.fullmatch(name)
        if match is None:
            raise ToolkitError(f"TORCH_CUDA_ARCH_LIST: expected capabilities such as '8.0 9.0+PTX', got {name!r}")
        if (int(match[1]), int(match[2])) < LEAST_CAPABILITY:
            raise ToolkitError(f"TORCH_CUDA_ARCH_LIST: the kernels need a capability of 8.0 or more, got {name!r}")
    return names


def architecture_flags(names: Sequence[str]) -> list[str]:
    """nvcc's flags for capabilities such as "9.0", with "+PTX" for what later GPUs can compile themselves."""
    flags = []
    for name in names:
        major, minor, suffix, ptx = ARCHITECTURE.fullmatch(name).groups()  # type: ignore[union-attr]
        number = f"{major}{minor}{suffix}"
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if ptx:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def compile_objects(sources: Sequence[Path], folder: Path, names: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Compiles by ninja, MAX_JOBS at a time, what has changed since the last time, headers included."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(nvcc()), *NVCC_FLAGS, *architecture_flags(names), *flags, "-MD -MF $out.d -c $in -o $out"]
    objects = {source: folder.resolve() / f"{source.stem}.o" for source in sources}
    edges = [f"build {_escaped(target)}: nvcc {_escaped(source.resolve())}" for source, target in objects.items()]
    lines = ["rule nvcc", f"  command = {' '.join(command)}", "  depfile = $out.d", "  deps = gcc", *edges]
    (folder / "build.ninja").write_text("\n".join([*lines, ""]))
    jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
    subprocess.run(["ninja", "-C", str(folder), *jobs], check=True)
    return [str(target) for target in objects.values()]


def _escaped(path: Path) -> str:
    return re.sub(r"([ $:])", r"$\1", str(path))


if __name__ == "__main__":
    try:
        print(f"reinmax_kernels: nvcc {'.'.join(map(str, version()))} at {nvcc()}, for {' '.join(architectures())}")
    except ToolkitError as error:
        print(f"reinmax_kernels: without CUDA kernels: {error}")

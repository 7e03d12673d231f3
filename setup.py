"""Builds `reinmax_kernels._C`, the C++ kernels, in torch's stable ABI and Python's limited API: one wheel serves every
CPython from 3.10 and every torch from 2.10.

REINMAX_KERNELS_NATIVE=0 leaves it out, for a pure-Python install that runs on the reference. The CUDA kernels come in
where nvcc is found beside a torch of the same major version of CUDA; FORCE_CUDA=1 builds them beside any torch, on
machines without a GPU too, and REINMAX_KERNELS_CUDA=0 never. TORCH_CUDA_ARCH_LIST says for which GPUs.
"""

import os
import shlex
import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # which builds from a pyproject.toml leave out

import cuda_toolkit

TORCH_ABI = 0x020A000000000000  # 2.10


def native_extension():
    """The keyword arguments of `setup` that build the C++ kernels."""
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        raise SystemExit(
            "reinmax_kernels: the C++ kernels are built against your torch; run `pip install torch setuptools ninja` "
            "and `pip install --no-build-isolation .`, or set REINMAX_KERNELS_NATIVE=0 for pure Python"
        ) from error
    sources = [Path("csrc/library.cpp"), *sorted(Path("csrc/cpu").glob("*.cpp"))]
    macros = [("TORCH_TARGET_VERSION", hex(TORCH_ABI))]
    # With CUDA, libtorch brings libtorch_cuda along, where the stream of older torches is looked up.
    link = ["-Wl,--no-as-needed", "-ltorch"]
    include = Path("csrc").resolve()
    architectures = []
    if cuda_toolkit.is_wanted(torch.version.cuda):
        try:
            architectures = cuda_toolkit.architectures()
            # Its symbols are no other library's business: torch brings a CUDA runtime of its own.
            link += [f"-L{cuda_toolkit.static_runtime()}", "-lcudart_static", "-Wl,--exclude-libs,libcudart_static.a"]
            link += ["-ldl", "-lrt", "-lpthread"]
        except cuda_toolkit.ToolkitError as error:
            raise SystemExit(f"reinmax_kernels: {error}; REINMAX_KERNELS_CUDA=0 builds without CUDA kernels") from error
        sources += sorted(Path("csrc/cuda").glob("*.cpp"))
        macros.append(("REINMAX_KERNELS_CUDA", ",".join(architectures)))

    class BuildKernels(BuildExtension):
        def build_extensions(self):
            if architectures:
                files, folder = sorted(Path("csrc/cuda").glob("*.cu")), Path("build/cuda")
                flags = [shlex.quote(f"-I{include}")]
                self.extensions[0].extra_objects += cuda_toolkit.compile_objects(files, folder, architectures, flags)
            super().build_extensions()

    extension = CppExtension(
        "reinmax_kernels._C",
        [str(source) for source in sources],
        include_dirs=[str(include)],
        define_macros=macros,
        extra_compile_args=[
            "-std=c++17",
            "-O3",
            "-g0",  # Python's own flags ask for debug information, ten times the code
            "-fvisibility=hidden",
            "-ffp-contract=off",  # the sampling contract: no multiplication and addition may fuse
            "-Wall",
            "-Wextra",
        ],
        extra_link_args=link,
        py_limited_api=True,
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildKernels},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(**({} if os.environ.get("REINMAX_KERNELS_NATIVE") == "0" else native_extension()))

"""Builds `reinmax_kernels._C`, the C++ kernels, in torch's stable ABI and Python's limited API: one wheel serves every
CPython from 3.10 and every torch from 2.10.

REINMAX_KERNELS_NATIVE=0 leaves it out, for a pure-Python install that runs on the reference.
"""

import os
from pathlib import Path

from setuptools import setup

TORCH_ABI = 0x020A000000000000  # 2.10


def native_extension():
    """The keyword arguments of `setup` that build the C++ kernels."""
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        raise SystemExit(
            "reinmax_kernels: the C++ kernels are built against your torch; run `pip install torch setuptools ninja` "
            "and `pip install --no-build-isolation .`, or set REINMAX_KERNELS_NATIVE=0 for pure Python"
        ) from error
    sources = [Path("csrc/library.cpp"), *sorted(Path("csrc/cpu").glob("*.cpp"))]
    extension = CppExtension(
        "reinmax_kernels._C",
        [str(source) for source in sources],
        include_dirs=[str(Path("csrc").resolve())],
        define_macros=[("TORCH_TARGET_VERSION", hex(TORCH_ABI))],
        extra_compile_args=[
            "-std=c++17",
            "-O3",
            "-fvisibility=hidden",
            "-ffp-contract=off",  # the sampling contract: no multiplication and addition may fuse
            "-Wall",
            "-Wextra",
        ],
        py_limited_api=True,
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(**({} if os.environ.get("REINMAX_KERNELS_NATIVE") == "0" else native_extension()))

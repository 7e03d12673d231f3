"""Which backend serves a call.

The ops are declared once, in two overloads: `default`, which PyTorch's dispatcher sends to the kernel of the
tensor's device (C++ where it was built, else the reference), and `reference`, which is plain PyTorch on any device.
Choosing a backend is choosing an overload.
"""

import contextlib
import importlib
import os
import threading
from collections.abc import Iterator
from importlib.machinery import PathFinder
from typing import Any

import torch

NAMES = ("auto", "reference", "cpu")
_ENVIRONMENT = "REINMAX_KERNELS_BACKEND"


def _load_native() -> Any:
    """The compiled module; None where this is a pure-Python install. A module that is there must load.

    Looked for in this package's folder alone, so that no other install lends its own.
    """
    if PathFinder.find_spec(f"{__package__}._C", [os.path.dirname(__file__)]) is None:
        return None
    try:
        return importlib.import_module(f"{__package__}._C")
    except ImportError as error:
        raise ImportError(
            f"reinmax_kernels: the compiled module is installed but does not load with torch {torch.__version__} "
            f"({error}); rebuild it with `pip install --no-build-isolation --force-reinstall --no-deps reinmax_kernels`"
        ) from error


native = _load_native()


def _checked(name: str, source: str) -> str:
    if name not in NAMES:
        raise ValueError(f"{source}: expected one of {', '.join(NAMES)}; got {name!r}")
    if name == "cpu" and native is None:
        raise RuntimeError(
            f"{source}: 'cpu' is not in this build, which is pure Python (REINMAX_KERNELS_NATIVE=0 or no compiled "
            "module); install with the C++ kernels, or use 'reference'"
        )
    return name


class _Forced(threading.local):
    """The backend that the user chose, thread by thread; a new thread starts from the environment's choice."""

    name = _checked(os.environ.get(_ENVIRONMENT, "auto"), _ENVIRONMENT)


_forced = _Forced()


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Serve every call inside the `with` block, in this thread, by one backend.

    `"auto"` (the default): the fastest that this build has for the tensor's device. `"reference"`: plain PyTorch.
    `"cpu"`: the C++ kernels. The environment variable REINMAX_KERNELS_BACKEND chooses for the whole process.
    All backends draw the same sample from the same seed. The backward of a call runs where its forward ran.

    Raises ValueError for an unknown name, RuntimeError for a backend that this build has not.
    """
    previous, _forced.name = _forced.name, _checked(name, "backend")
    try:
        yield
    finally:
        _forced.name = previous


def overload(device: torch.device) -> str:
    """The overload of the ops that serves tensors of this device now."""
    name = _forced.name
    if name == "cpu" and device.type != "cpu":
        raise ValueError(f"backend: 'cpu' serves CPU tensors, got logits on {device}")
    return "reference" if name == "reference" else "default"


def build_info() -> dict[str, Any]:
    """What this build contains: version, torch, backends, and of the C++ kernels the compiler, the SIMD levels this
    machine can run, the one in use, and the CUDA architectures. `python -m reinmax_kernels` prints it.
    """
    from . import __version__

    info: dict[str, Any] = {"version": __version__, "torch": torch.__version__, "backends": ["reference"]}
    if native is not None:
        info["backends"].append("cpu")
        info |= native.build_info()
    return info

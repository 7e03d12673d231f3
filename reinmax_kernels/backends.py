"""Which backend serves a call.

The ops are declared once, in three overloads: `default`, which PyTorch's dispatcher sends to the kernel of the
tensor's device (C++ or CUDA C++ where that was built, else Triton on a GPU, else the reference), `reference`, which is
plain PyTorch on any device, and `triton`. Choosing a backend is choosing an overload.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from typing import Any

import torch

from . import reference

NAMES = ("auto", "reference", "cpu", "cuda", "triton")
TRITON_DEVICES = ("CUDA", "XPU")  # as the dispatcher calls them; ROCm's tensors are CUDA's
_ENVIRONMENT = "REINMAX_KERNELS_BACKEND"
# Whether values are checked where kernels do not look themselves, on a GPU: it costs a pass and waits for the device.
CHECKS = os.environ.get("REINMAX_KERNELS_CHECK") == "1"


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
cuda_architectures: list[str] = [] if native is None else native.build_info()["cuda_architectures"]


def _triton_version() -> str | None:
    """The version of Triton; None where there is none. Known without importing it, which takes a while."""
    if importlib.util.find_spec("triton") is None:
        return None
    for distribution in ("triton", "pytorch-triton", "pytorch-triton-rocm", "triton-rocm", "pytorch-triton-xpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(distribution)
    return "unknown"


LEAST_TRITON = (3, 6)
triton_version = _triton_version()
has_triton = triton_version is not None and (
    triton_version == "unknown" or tuple(int(part) for part in triton_version.split(".")[:2]) >= LEAST_TRITON
)


def implementations(name: str, overload: str) -> dict[str, Callable[..., Any]]:
    """What serves an overload of the op `name`, for each key of the dispatcher that the compiled module does not serve
    itself, of which only the dispatcher knows.

    Triton's kernels are opaque to `torch.compile`. `torch.library.triton_op` would show it their launches, which it
    can't fuse with anything, and freeze the tiles, chosen here from sizes and strides, into the graph. It would save
    a call's way through Python: in a compiled function on an H200 an opaque op took 25 to 70 us longer than the same as
    a triton_op, nothing longer in a CUDA graph (mode="reduce-overhead"), and nothing longer where it is C++, as CUDA's.
    """

    @functools.cache
    def found() -> Callable[..., Any]:  # only when it is called: Triton's import takes a second
        if not has_triton:  # the CUDA kernels leave some types to it, by its overload's name
            return getattr(reference, name)  # type: ignore[no-any-return]
        kernels = importlib.import_module(f"{__package__}.triton_kernels")
        return getattr(kernels, name, getattr(reference, name))  # type: ignore[no-any-return]  # may have no kernel

    def in_triton(*args: Any) -> Any:
        return found()(*args)

    if overload == "triton":
        return {"CompositeExplicitAutograd": in_triton}
    by_key = {"CompositeExplicitAutograd": getattr(reference, name)}
    if overload == "default" and has_triton:
        by_key |= dict.fromkeys(TRITON_DEVICES, in_triton)
    return by_key


def _checked(name: str, source: str) -> str:
    if name not in NAMES:
        raise ValueError(f"{source}: expected one of {', '.join(NAMES)}; got {name!r}")
    if name == "cpu" and native is None:
        raise RuntimeError(
            f"{source}: 'cpu' is not in this build, which is pure Python (REINMAX_KERNELS_NATIVE=0 or no compiled "
            "module); install with the C++ kernels, or use 'reference'"
        )
    if name == "cuda" and not cuda_architectures:
        raise RuntimeError(
            f"{source}: 'cuda' is not in this build; install with nvcc beside a torch of the same CUDA, or with "
            "FORCE_CUDA=1, or use 'triton'"
        )
    if name == "triton" and not has_triton:
        raise RuntimeError(
            f"{source}: 'triton' needs Triton >= 3.6, found {triton_version or 'none'}: "
            "pip install 'reinmax_kernels[triton]'"
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
    `"cpu"`: the C++ kernels. `"cuda"`: the CUDA C++ kernels, and for an op or dtype that has none what `"auto"` takes.
    `"triton"`: the Triton kernels, for tensors on a GPU, and on the CPU where TRITON_INTERPRET=1 was set before the
    first call. The environment variable REINMAX_KERNELS_BACKEND chooses for the whole process. All backends draw the
    same sample from the same seed. The backward of a call runs where its forward ran.

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
    if name in ("cpu", "cuda") and device.type != name:
        raise ValueError(f"backend: {name!r} serves {name.upper()} tensors, got logits on {device}")
    if name == "triton":
        if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError("backend: 'triton' serves CPU tensors only under TRITON_INTERPRET=1; got logits on cpu")
        return name
    return "reference" if name == "reference" else "default"


def build_info() -> dict[str, Any]:
    """What this build contains: version, torch, backends, and of the C++ kernels the compiler, the SIMD levels this
    machine can run, the one in use, and the CUDA architectures. `python -m reinmax_kernels` prints it.
    """
    from . import __version__

    info: dict[str, Any] = {"version": __version__, "torch": torch.__version__, "backends": ["reference"]}
    if native is not None:
        info["backends"] += ["cpu", "cuda"] if cuda_architectures else ["cpu"]
        info |= native.build_info()
    if has_triton:
        info["backends"].append("triton")
        info["triton"] = triton_version
    return info

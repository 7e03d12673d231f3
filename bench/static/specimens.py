"""The kernels as their users launch them: each path at numbers of categories that take each of the kernels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..cases import MAX_CATEGORIES
from . import launches
from .cuda import launches as launches_of_cuda
from .cuda.build import Build
from .launches import Launch

CHUNK = 1024  # elements of a row that are weighed together; one of these chunks is drawn first

NOISY = ("gumbel_rao_backward", "bernoulli_gumbel_softmax_backward")  # backwards that take the stream of the draw

ROUTED = 2  # experts of a token
MOST_EXPERTS = 1024

CODE = 64  # elements of a codebook's vector
MOST_CODES = 2**18

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _sample(ops: Any, x: Tensor, index: Tensor, log_sum_exp: Tensor, seed: Tensor, tau: Tensor) -> object:
    return ops.sample(x, seed, None, 3, 0)


def _sample_dense(ops: Any, x: Tensor, index: Tensor, log_sum_exp: Tensor, seed: Tensor, tau: Tensor) -> object:
    return ops.sample_dense(x, seed, None, 3, 0)


def _backward(name: str, *own: object, tempered: bool = False, both: bool = False) -> Callable[..., object]:
    def launch(ops: Any, x: Tensor, index: Tensor, log_sum_exp: Tensor, seed: Tensor, tau: Tensor) -> object:
        g = torch.empty_like(x)
        h = torch.empty_like(x) if both else None
        stream = (seed, 3, 0) if name in NOISY else ()
        return getattr(ops, name)(g, h, x, index, log_sum_exp, None, tau if tempered else None, *stream, *own)

    return launch


def _bernoulli(ops: Any, x: Tensor, index: Tensor, log_sum_exp: Tensor, seed: Tensor, tau: Tensor) -> object:
    return ops.bernoulli(x, seed, None, 4, 0)


def _bits_backward(estimator: str, *, tempered: bool = False, both: bool = False) -> Callable[..., object]:
    def launch(ops: Any, x: Tensor, index: Tensor, log_sum_exp: Tensor, seed: Tensor, tau: Tensor) -> object:
        g, bits = torch.empty_like(x), torch.empty_like(x)
        h = torch.empty_like(x) if both else None
        name = f"bernoulli_{estimator}_backward"
        stream = (seed, 3, 0) if name in NOISY else ()
        return getattr(ops, name)(g, h, x, bits, None, tau if tempered else None, *stream)

    return launch


def _router(name: str, *settings: object, draws: bool = False) -> Callable[..., object]:
    def launch(ops: Any, x: Tensor, index: Tensor, log_sum_exp: Tensor, seed: Tensor, tau: Tensor) -> object:
        return getattr(ops, name)(x, *((seed, None, 3, 0) if draws else ()), *settings)

    return launch


def _router_backward(name: str, *settings: object, drew: bool = False) -> Callable[..., object]:
    def launch(ops: Any, x: Tensor, index: Tensor, log_sum_exp: Tensor, seed: Tensor, tau: Tensor) -> object:
        chosen = index[:, None] + torch.arange(ROUTED)
        saved = (log_sum_exp[:, None].expand(-1, ROUTED), None) if drew else ()
        return getattr(ops, name)(torch.empty_like(x[:, :ROUTED]), x, chosen, *saved, *settings)

    return launch


def _dispatch_plan(ops: Any, x: Tensor, index: Tensor, log_sum_exp: Tensor, seed: Tensor, tau: Tensor) -> object:
    return ops.dispatch_plan(index[:, None].expand(-1, ROUTED).flatten(), x.shape[1])


def _codebook_lookup(ops: Any, x: Tensor, index: Tensor, log_sum_exp: Tensor, seed: Tensor, tau: Tensor) -> object:
    return ops.codebook_lookup(x, x.new_empty(x.shape[1], CODE), seed, None, 3, 0)


def _codebook_backward(name: str, *, tempered: bool = False) -> Callable[..., object]:
    def launch(ops: Any, x: Tensor, index: Tensor, log_sum_exp: Tensor, seed: Tensor, tau: Tensor) -> object:
        vectors, codebook = x.new_empty(x.shape[0], CODE), x.new_empty(x.shape[1], CODE)
        return getattr(ops, name)(vectors, codebook, x, index, log_sum_exp, None, tau if tempered else None)

    return launch


def _codebook_gradient(ops: Any, x: Tensor, index: Tensor, log_sum_exp: Tensor, seed: Tensor, tau: Tensor) -> object:
    return ops.codebook_gradient(x.new_empty(x.shape[0], CODE), index, x.shape[1])


@dataclass(frozen=True)
class Path:
    """A call of a backend's op. `reads` and `writes`: how often it has to read and to write a tensor [..., C], or what
    a row has in place of logits.
    """

    launch: Callable[..., object]
    reads: int
    writes: int
    reads_again: int = 0  # where a row does not fit on the chip
    state: int = 16  # bytes of a row besides: index and log-sum-exp
    most_categories: int = MAX_CATEGORIES
    assignments: int = 0  # of a row, in int64, where these are its elements


PATHS = {
    "sample": Path(_sample, 1, 0, 0, state=8),
    "sample_dense": Path(_sample_dense, 1, 2, 1),
    "reinmax_backward": Path(_backward("reinmax_backward"), 2, 1, 0),
    "reinmax_backward, tau": Path(_backward("reinmax_backward", tempered=True), 2, 1, 2),
    "reinmax_backward, tau, both": Path(_backward("reinmax_backward", tempered=True, both=True), 3, 1, 3),
    "straight_through_backward": Path(_backward("straight_through_backward"), 2, 1, 2),
    "straight_through_backward, tau": Path(_backward("straight_through_backward", tempered=True), 2, 1, 2),
    "gapped_straight_through_backward": Path(_backward("gapped_straight_through_backward", 1.0), 2, 1, 3),
    "gapped_straight_through_backward, tau, both": Path(
        _backward("gapped_straight_through_backward", 1.0, tempered=True, both=True), 3, 1, 4
    ),
    # Of loops over samples one trip is counted.
    "gumbel_rao_backward": Path(_backward("gumbel_rao_backward", 1), 2, 1, 2),
    "gumbel_rao_backward, tau, both": Path(_backward("gumbel_rao_backward", 100, tempered=True, both=True), 3, 1, 3),
    "sparse_mixer": Path(_router("sparse_mixer", ROUTED, 2, 0.1, draws=True), 1, 0, most_categories=MOST_EXPERTS),
    "sparse_mixer_backward": Path(
        _router_backward("sparse_mixer_backward", 0.1, 1.0, drew=True), 1, 1, most_categories=MOST_EXPERTS
    ),
    "topk_router": Path(_router("topk_router", ROUTED, False, True), 1, 0, most_categories=MOST_EXPERTS),
    "topk_router_backward": Path(
        _router_backward("topk_router_backward", False, True), 1, 1, most_categories=MOST_EXPERTS
    ),
    # The index is read to count, and once more to place.
    "dispatch_plan": Path(_dispatch_plan, 2, 2, state=0, most_categories=MOST_EXPERTS, assignments=ROUTED),
    # Of elements by themselves, whatever a row is. Straight-through has no use for the bits.
    "bernoulli": Path(_bernoulli, 1, 2, state=0),
    "bernoulli_reinmax_backward": Path(_bits_backward("reinmax"), 3, 1, state=0),
    "bernoulli_reinmax_backward, tau, both": Path(_bits_backward("reinmax", tempered=True, both=True), 4, 1, state=0),
    "bernoulli_straight_through_backward": Path(_bits_backward("straight_through"), 2, 1, state=0),
    "bernoulli_straight_through_backward, tau": Path(_bits_backward("straight_through", tempered=True), 2, 1, state=0),
    "bernoulli_gumbel_softmax_backward": Path(_bits_backward("gumbel_softmax"), 3, 1, state=0),
    "bernoulli_gumbel_softmax_backward, tau, both": Path(
        _bits_backward("gumbel_softmax", tempered=True, both=True), 4, 1, state=0
    ),
    # Vectors and the codebook, of another size, are not counted.
    "codebook_lookup": Path(_codebook_lookup, 1, 0, most_categories=MOST_CODES),
    "codebook_reinmax_backward": Path(
        _codebook_backward("codebook_reinmax_backward"), 1, 1, most_categories=MOST_CODES
    ),
    "codebook_reinmax_backward, tau": Path(
        _codebook_backward("codebook_reinmax_backward", tempered=True), 1, 1, 1, most_categories=MOST_CODES
    ),
    "codebook_straight_through_backward": Path(
        _codebook_backward("codebook_straight_through_backward"), 1, 1, 1, most_categories=MOST_CODES
    ),
    "codebook_gradient": Path(_codebook_gradient, 0, 0, most_categories=MOST_CODES),
}


@dataclass(frozen=True)
class Specimen:
    """A path on logits of one shape and dtype, on a device of so many multiprocessors (see `intercepted`)."""

    path: str
    rows: int
    categories: int
    dtype: torch.dtype = torch.float32
    processors: int | None = 132

    def __str__(self) -> str:
        return f"{self.path} {self.rows}x{self.categories} {self.dtype_name}"

    @property
    def op(self) -> str:
        return self.path.split(",")[0]

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def elements(self) -> int:
        return self.rows * (PATHS[self.path].assignments or self.categories)

    @property
    def element_size(self) -> int:
        return torch.int64.itemsize if PATHS[self.path].assignments else self.dtype.itemsize

    @property
    def is_possible(self) -> bool:
        return self.categories <= PATHS[self.path].most_categories

    def call(self, ops: Any, *, zeroed: bool = False) -> object:
        """Calls an op with tensors that hold zeros, or else nothing, where none of them is read."""
        make = torch.zeros if zeroed else torch.empty
        x = make((self.rows, self.categories), dtype=self.dtype)
        index = make(self.rows, dtype=torch.int64)
        log_sum_exp, tau = make(self.rows, dtype=torch.float64), torch.ones((), dtype=torch.float64)
        return PATHS[self.path].launch(ops, x, index, log_sum_exp, make(1, dtype=torch.int64), tau)

    def launches(self) -> Sequence[Launch]:
        """Of the Triton kernels."""
        from reinmax_kernels import triton_kernels

        return launches.recorded(lambda: self.call(triton_kernels), self.processors)

    def cuda_launches(self, build: Build) -> Sequence[launches_of_cuda.Launch]:
        return launches_of_cuda.recorded(build, self.call, self.processors)

    def least_bytes(self, on_chip: bool) -> int:
        """What the path has to read and write: tensors [..., C], index and log-sum-exp, or assignments. Where a row
        stays on the chip, nothing is read again. Where it doesn't, that counts as if memory served it, though caches
        can hold the short rows that programs have just read: 16 a multiprocessor, of 16 KiB each, are 35 MB of the 50
        of an H200's L2.
        """
        path = PATHS[self.path]
        passes = path.reads + path.writes + (0 if on_chip else path.reads_again)
        return passes * self.elements * self.element_size + self.rows * path.state

    def chosen_chunk_bytes(self, launched: Sequence[Launch | launches_of_cuda.Launch]) -> int:
        """What is read of the rows once more to draw from the chosen chunk of each."""
        draws = any(each.name == "sample_long_kernel" for each in launched)
        return self.rows * CHUNK * self.dtype.itemsize if draws else 0


def is_on_chip(launched: Sequence[Launch | launches_of_cuda.Launch]) -> bool:
    """Whether rows are held in registers by the program that read them. Of those that Gumbel-Rao keeps that is the
    weights, but not the rows.
    """
    return len(launched) == 1 and not any(word in launched[0].name for word in ("long", "kept"))


FEW_ROWS = 4  # of many categories: several programs share each


def all_specimens(
    dtypes: Sequence[torch.dtype] = DTYPES, categories: Sequence[int] = (10, 64, 1024, 4096, 32768)
) -> list[Specimen]:
    shapes = [(8192, c) for c in categories] + [(FEW_ROWS, c) for c in categories if c > 16384]
    every = [Specimen(path, *shape, dtype) for path in PATHS for shape in shapes for dtype in dtypes]
    return [specimen for specimen in every if specimen.is_possible]

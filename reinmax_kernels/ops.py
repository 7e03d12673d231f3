"""The op table: schema, shape function, vmap rule and autograd of every op, each declared once.

An op is a pure function: randomness enters as a seed, the temperature as a tensor (None is 1), so that
torch.compile, torch.export and CUDA graphs see all there is to see. Logits are [..., C] with any strides; the
dispatcher finds the kernel (see `backends.py`).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import unwrap_if_dead
from torch._ops import OpOverload
from torch.autograd.function import once_differentiable

from . import backends

NAMESPACE = "reinmax_kernels"
OVERLOADS = ("default", "reference", "triton")

# Shape functions: what an op returns, without its values.


def _sample_shape(logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape[:-1], dtype=torch.int64)


def _sample_dense_shape(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = logits.shape[:-1]
    index, log_sum_exp = logits.new_empty(rows, dtype=torch.int64), logits.new_empty(rows, dtype=torch.float64)
    return logits.new_empty(logits.shape), logits.new_empty(logits.shape), index, log_sum_exp


def _bernoulli_shape(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape), logits.new_empty(logits.shape)


def _backward_shape(_g: Tensor | None, _h: Tensor | None, logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


# vmap rules: the batch becomes the leading dimension of the rows, and each entry of it has its own seeds.


def batch_first(tensor: Tensor, dim: int | None, batch: int) -> Tensor:
    """With the batch leading; what has none is the same for every entry."""
    return tensor.expand(batch, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def seeds_of_entries(seed: Tensor, dim: int | None, batch: int) -> Tensor:
    """Those of all entries in turn. Without entries there are no rows, for which any one seed does."""
    if batch == 0:
        return seed.new_zeros(1)
    seeds = batch_first(seed, dim, batch)
    return seeds.reshape(seeds.numel())  # and not -1, which is ambiguous inside a vmap over nothing


def mask_batch_first(mask: Tensor | None, dim: int | None, logits_ndim: int) -> Tensor | None:
    """An unbatched mask broadcasts as it is; a batched one needs its batch dimension where the logits have theirs."""
    if mask is None or dim is None:
        return mask
    mask = mask.movedim(dim, 0)
    return mask.reshape(mask.shape[0], *(1,) * (logits_ndim - mask.ndim), *mask.shape[1:])


def _draw_vmap(op: OpOverload) -> Callable[..., Any]:
    def rule(info: Any, in_dims: Any, logits: Tensor, seed: Tensor, mask: Any, offset: int, row_offset: int) -> Any:
        logits = batch_first(logits, in_dims[0], info.batch_size)
        seed = seeds_of_entries(seed, in_dims[1], info.batch_size)
        outputs = op(logits, seed, mask_batch_first(mask, in_dims[2], logits.ndim), offset, row_offset)
        return outputs, 0 if isinstance(outputs, Tensor) else (0,) * len(outputs)

    return rule


def _backward_vmap(op: OpOverload, state: int) -> Callable[..., Any]:
    """`state`: how many tensors the draw left to the backward."""
    mask_at = 3 + state

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        def tensors_first(tensors: Any, dims: Any) -> Any:
            pairs = zip(tensors, dims, strict=True)
            return [batch_first(t, dim, info.batch_size) if isinstance(t, Tensor) else t for t, dim in pairs]

        mask, tau = args[mask_at : mask_at + 2]
        mask_dim, tau_dim = in_dims[mask_at : mask_at + 2]
        if tau_dim is not None:
            raise ValueError("tau: expected the same value for the whole batch of a vmap, got one for each entry")
        rows = tensors_first(args[:mask_at], in_dims[:mask_at])
        mask = mask_batch_first(mask, mask_dim, rows[2].ndim)
        own = [
            seeds_of_entries(value, dim, info.batch_size) if isinstance(value, Tensor) else value
            for value, dim in zip(args[mask_at + 2 :], in_dims[mask_at + 2 :], strict=True)
        ]
        return op(*rows, mask, tau, *own), 0

    return rule


class Op(NamedTuple):
    schema: str
    shape: Callable[..., Any]
    vmap: Callable[[OpOverload], Callable[..., Any]]
    noise: bool = False  # a backward that draws again from the forward's stream: it takes the seed and the offsets
    draw: str = ""  # the op whose draw a backward differentiates


_DRAW = "(Tensor logits, Tensor seed, Tensor? mask, SymInt offset, SymInt row_offset)"


def _backward(setting: str = "", noise: bool = False, draw: str = "sample_dense") -> Op:
    """What every backward takes, then the stream of one that makes noise, then a setting of the estimator's own."""
    sample, state = {"sample_dense": ("one_hot", ["index", "log_sum_exp"]), "bernoulli": ("bits", ["bits"])}[draw]
    kept = "".join(f"Tensor {name}, " for name in ("logits", *state))
    stream = ["Tensor seed, SymInt offset, SymInt row_offset"] if noise else []
    own = "".join(f", {arguments}" for arguments in (*stream, setting) if arguments)
    schema = f"(Tensor? grad_{sample}, Tensor? grad_probs, {kept}Tensor? mask, Tensor? tau{own}) -> Tensor"
    return Op(schema, _backward_shape, functools.partial(_backward_vmap, state=len(state)), noise, draw)


TABLE = {
    "sample": Op(f"{_DRAW} -> Tensor", _sample_shape, _draw_vmap),
    "sample_dense": Op(
        f"{_DRAW} -> (Tensor one_hot, Tensor probs, Tensor index, Tensor log_sum_exp)", _sample_dense_shape, _draw_vmap
    ),
    "reinmax_backward": _backward(),
    "straight_through_backward": _backward(),
    "gapped_straight_through_backward": _backward("float gap"),
    "gumbel_rao_backward": _backward("SymInt num_samples", noise=True),
    # Elementwise: a bit for each logit.
    "bernoulli": Op(f"{_DRAW} -> (Tensor bits, Tensor probs)", _bernoulli_shape, _draw_vmap),
    "bernoulli_reinmax_backward": _backward(draw="bernoulli"),
    "bernoulli_straight_through_backward": _backward(draw="bernoulli"),
    "bernoulli_gumbel_softmax_backward": _backward(noise=True, draw="bernoulli"),
}

_library = torch.library.Library(NAMESPACE, "DEF")


def declare(name: str, op_of: Op, overload: str) -> OpOverload:
    """Makes an overload of an op known to PyTorch, with all that serves it."""
    schema, shape, vmap, *_ = op_of
    qualified = name if overload == "default" else f"{name}.{overload}"
    _library.define(qualified + schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout))
    for key, function in backends.implementations(name, overload).items():
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{qualified}", key):  # of C++
            _library.impl(qualified, function, key)
    _library.impl(qualified, torch.library.fallthrough_kernel, "Autograd")  # a Function differentiates, not the op
    torch.library.register_fake(f"{NAMESPACE}::{qualified}", shape, lib=_library)
    op: OpOverload = getattr(getattr(getattr(torch.ops, NAMESPACE), name), overload)
    torch.library.register_vmap(f"{NAMESPACE}::{qualified}", vmap(op), lib=_library)
    return op


OPS = {overload: {name: declare(name, op, overload) for name, op in TABLE.items()} for overload in OVERLOADS}


def _estimator(draw: OpOverload, product: OpOverload, noise: bool) -> type[torch.autograd.Function]:
    """One draw forward, one estimator's vector-Jacobian product backward. An autograd.Function because it costs a third
    less time a call than torch.library.register_autograd, and torch.compile and torch.func see through it just the
    same.
    """

    def backward(ctx: Any, grad_sample: Tensor | None, grad_probs: Tensor | None) -> Any:
        if grad_sample is None and grad_probs is None:
            return None
        *saved, seed = ctx.saved_tensors
        return product(grad_sample, grad_probs, *saved, *((seed, *ctx.offsets) if noise else ()), *ctx.setting)

    backward_once = once_differentiable(backward)

    class Estimator(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(
            logits: Tensor,
            seed: Tensor,
            mask: Tensor | None,
            offset: int,
            row_offset: int,
            tau: Tensor | None,
            setting: float | None,
        ) -> Any:
            return draw(logits, seed, mask, offset, row_offset)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            logits, seed, mask, offset, row_offset, tau, setting = inputs
            sample, _, *state = output
            ctx.save_for_backward(logits, *(state or (sample,)), mask, tau, seed if noise else None)
            ctx.offsets = offset, row_offset
            ctx.setting = () if setting is None else (setting,)
            ctx.mark_non_differentiable(*state)
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, grad_sample: Tensor | None, grad_probs: Tensor | None, *_: None) -> Any:
            # Only where a graph of the backward is asked for (`create_graph=True`) is there something to refuse.
            differentiate = backward_once if torch.is_grad_enabled() else backward
            return differentiate(ctx, grad_sample, grad_probs), None, None, None, None, None, None

    return Estimator


ESTIMATORS = {
    overload: {
        name.removesuffix("_backward"): _estimator(ops[TABLE[name].draw], op, TABLE[name].noise)
        for name, op in ops.items()
        if TABLE[name].draw
    }
    for overload, ops in OPS.items()
}


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """`function.apply(*args)`, of a function that has all arguments in order.

    `Function.apply` binds default arguments by `inspect`, which takes twice as long as the rest of a small call, and
    which these functions have no use for. This is the method of its base that it ends in.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    alive = (unwrap_if_dead(arg) if isinstance(arg, Tensor) else arg for arg in args)
    return super(torch.autograd.Function, function).apply(*alive)  # type: ignore[misc]


def estimate(
    estimator: type[torch.autograd.Function],
    logits: Tensor,
    seed: Tensor,
    mask: Tensor | None,
    offset: int,
    row_offset: int,
    tau: Tensor | None,
    setting: float | None,
) -> tuple[Tensor, Tensor]:
    """(one_hot, probs) of logits [..., C], or (bits, probs) of logits, differentiable by one of ESTIMATORS."""
    drawn, probs, *_ = apply(estimator, logits, seed, mask, offset, row_offset, tau, setting)
    return drawn, probs

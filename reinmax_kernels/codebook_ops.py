"""The op table of codebook lookups: as in `ops.py`, with a vector for each category."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd.function import once_differentiable

from .ops import OVERLOADS, Op, batch_first, declare, mask_batch_first, seeds_of_entries

# Shape functions.


def _lookup_shape(logits: Tensor, codebook: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    rows = logits.shape[:-1]
    index, log_sum_exp = logits.new_empty(rows, dtype=torch.int64), logits.new_empty(rows, dtype=torch.float64)
    return codebook.new_empty((*rows, codebook.shape[-1])), index, log_sum_exp


def _backward_shape(_grad_vectors: Tensor, _codebook: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


def _gradient_shape(grad_vectors: Tensor, _index: Tensor, codes: int) -> Tensor:
    return grad_vectors.new_empty((codes, grad_vectors.shape[-1]))


# vmap rules: the batch becomes the leading dimension of the rows, unless each entry has a codebook of its own.


def _one_by_one(op: OpOverload, shape: Callable[..., Any], info: Any, in_dims: Any, args: Any) -> Any:
    """`shape` tells what is returned where there is no entry."""

    def of_entry(i: int) -> Any:
        return [t if dim is None else t.select(dim, i) for t, dim in zip(args, in_dims, strict=True)]

    def like_an_entry(t: Tensor, dim: int) -> Tensor:
        return t.new_empty([size for at, size in enumerate(t.shape) if at != dim % t.ndim])

    if info.batch_size == 0:
        pairs = zip(args, in_dims, strict=True)
        outputs = shape(*(t if dim is None else like_an_entry(t, dim) for t, dim in pairs))
        if isinstance(outputs, Tensor):
            return outputs.new_empty((0, *outputs.shape)), 0
        return tuple(t.new_empty((0, *t.shape)) for t in outputs), (0,) * len(outputs)
    outputs = [op(*of_entry(i)) for i in range(info.batch_size)]
    if isinstance(outputs[0], Tensor):
        return torch.stack(outputs), 0
    return tuple(map(torch.stack, zip(*outputs, strict=True))), (0,) * len(outputs[0])


def _lookup_vmap(op: OpOverload) -> Callable[..., Any]:
    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        if in_dims[1] is not None:
            return _one_by_one(op, _lookup_shape, info, in_dims, args)
        logits, codebook, seed, mask, *offsets = args
        logits = batch_first(logits, in_dims[0], info.batch_size)
        seed = seeds_of_entries(seed, in_dims[2], info.batch_size)
        return op(logits, codebook, seed, mask_batch_first(mask, in_dims[3], logits.ndim), *offsets), (0, 0, 0)

    return rule


def _backward_vmap(op: OpOverload) -> Callable[..., Any]:
    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        if in_dims[6] is not None:
            raise ValueError("tau: expected the same value for the whole batch of a vmap, got one for each entry")
        if in_dims[1] is not None:
            return _one_by_one(op, _backward_shape, info, in_dims, args)
        grad_vectors, logits, index, log_sum_exp = (
            batch_first(args[i], in_dims[i], info.batch_size) for i in (0, 2, 3, 4)
        )
        mask = mask_batch_first(args[5], in_dims[5], logits.ndim)
        return op(grad_vectors, args[1], logits, index, log_sum_exp, mask, args[6]), 0

    return rule


def _gradient_vmap(op: OpOverload) -> Callable[..., Any]:
    return lambda info, in_dims, *args: _one_by_one(op, _gradient_shape, info, in_dims, args)


_BACKWARD = Op(
    "(Tensor grad_vectors, Tensor codebook, Tensor logits, Tensor index, Tensor log_sum_exp, Tensor? mask, Tensor? tau)"
    " -> Tensor",
    _backward_shape,
    _backward_vmap,
)
TABLE = {
    "codebook_lookup": Op(
        "(Tensor logits, Tensor codebook, Tensor seed, Tensor? mask, SymInt offset, SymInt row_offset)"
        " -> (Tensor vectors, Tensor index, Tensor log_sum_exp)",
        _lookup_shape,
        _lookup_vmap,
    ),
    "codebook_reinmax_backward": _BACKWARD,
    "codebook_straight_through_backward": _BACKWARD,
    "codebook_gradient": Op(
        "(Tensor grad_vectors, Tensor index, SymInt codes) -> Tensor", _gradient_shape, _gradient_vmap
    ),
}

OPS = {overload: {name: declare(name, op, overload) for name, op in TABLE.items()} for overload in OVERLOADS}


def _lookup(ops: dict[str, OpOverload], estimator: str) -> type[torch.autograd.Function]:
    def backward(ctx: Any, grad_vectors: Tensor) -> tuple[Tensor | None, Tensor | None]:
        logits, codebook, index, log_sum_exp, mask, tau = ctx.saved_tensors
        product = ops[f"codebook_{estimator}_backward"]
        of_logits, of_codebook = ctx.needs_input_grad[:2]
        return (
            product(grad_vectors, codebook, logits, index, log_sum_exp, mask, tau) if of_logits else None,
            ops["codebook_gradient"](grad_vectors, index, codebook.shape[0]) if of_codebook else None,
        )

    class Lookup(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(
            logits: Tensor,
            codebook: Tensor,
            seed: Tensor,
            mask: Tensor | None,
            offset: int,
            row_offset: int,
            tau: Tensor | None,
        ) -> Any:
            return ops["codebook_lookup"](logits, codebook, seed, mask, offset, row_offset)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            logits, codebook, _, mask, _, _, tau = inputs
            _, index, log_sum_exp = output
            ctx.save_for_backward(logits, codebook, index, log_sum_exp, mask, tau)
            ctx.mark_non_differentiable(index, log_sum_exp)
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, grad_vectors: Tensor | None, *_: None) -> Any:
            if grad_vectors is None:
                return (None,) * 7
            differentiate = once_differentiable(backward) if torch.is_grad_enabled() else backward
            return *differentiate(ctx, grad_vectors), None, None, None, None, None

    return Lookup


LOOKUPS = {
    overload: {estimator: _lookup(ops, estimator) for estimator in ("reinmax", "straight_through")}
    for overload, ops in OPS.items()
}

"""The op table of the routers: as in `ops.py`, with experts for categories."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd.function import once_differentiable

from .ops import OVERLOADS, Op, batch_first, declare, mask_batch_first, seeds_of_entries

# Shape functions.


def _chosen_shape(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    chosen = (*logits.shape[:-1], k)
    return logits.new_empty(chosen, dtype=torch.int64), logits.new_empty(chosen)


def _sparse_mixer_shape(
    logits: Tensor, _seed: Tensor | None, _mask: Tensor | None, _offset: int, _row_offset: int, k: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    index, weight = _chosen_shape(logits, k)
    return index, weight, logits.new_empty(index.shape, dtype=torch.float64)


def _topk_router_shape(logits: Tensor, k: int, *_: Any) -> tuple[Tensor, Tensor]:
    return _chosen_shape(logits, k)


def _backward_shape(_grad_weight: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


def _expert_counts_shape(index: Tensor, num_experts: int) -> Tensor:
    return index.new_empty((*index.shape[:-1], num_experts))


def _dispatch_plan_shape(index: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    return _expert_counts_shape(index, num_experts), index.new_empty(index.shape), index.new_empty(index.shape)


# vmap rules: the batch becomes the leading dimension of the tokens.


def _tensors_first(op: OpOverload) -> Callable[..., Any]:
    """Of an op whose tensors all have a row for each token."""

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        pairs = zip(args, in_dims, strict=True)
        outputs = op(*(batch_first(t, dim, info.batch_size) if isinstance(t, Tensor) else t for t, dim in pairs))
        return outputs, 0 if isinstance(outputs, Tensor) else (0,) * len(outputs)

    return rule


def _sparse_mixer_vmap(op: OpOverload) -> Callable[..., Any]:
    def rule(info: Any, in_dims: Any, logits: Tensor, seed: Any, mask: Any, *settings: Any) -> Any:
        logits = batch_first(logits, in_dims[0], info.batch_size)
        if seed is not None:  # each entry has its own
            seed = seeds_of_entries(seed, in_dims[1], info.batch_size)
        return op(logits, seed, mask_batch_first(mask, in_dims[2], logits.ndim), *settings), (0, 0, 0)

    return rule


def _sparse_mixer_backward_vmap(op: OpOverload) -> Callable[..., Any]:
    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        *tensors, mask, jitter_eps, scale = args
        tensors = [batch_first(t, dim, info.batch_size) for t, dim in zip(tensors, in_dims, strict=False)]
        return op(*tensors, mask_batch_first(mask, in_dims[4], tensors[1].ndim), jitter_eps, scale), 0

    return rule


TABLE = {
    "sparse_mixer": Op(
        "(Tensor logits, Tensor? seed, Tensor? mask, SymInt offset, SymInt row_offset, SymInt k, SymInt version, "
        "float jitter_eps) -> (Tensor index, Tensor weight, Tensor log_sum_exp)",
        _sparse_mixer_shape,
        _sparse_mixer_vmap,
    ),
    "sparse_mixer_backward": Op(
        "(Tensor grad_weight, Tensor logits, Tensor index, Tensor log_sum_exp, Tensor? mask, float jitter_eps, "
        "float scale) -> Tensor",
        _backward_shape,
        _sparse_mixer_backward_vmap,
    ),
    "topk_router": Op(
        "(Tensor logits, SymInt k, bool sigmoid, bool normalize) -> (Tensor index, Tensor weight)",
        _topk_router_shape,
        _tensors_first,
    ),
    "topk_router_backward": Op(
        "(Tensor grad_weight, Tensor logits, Tensor index, bool sigmoid, bool normalize) -> Tensor",
        _backward_shape,
        _tensors_first,
    ),
    "dispatch_plan": Op(
        "(Tensor index, SymInt num_experts) -> (Tensor counts, Tensor order, Tensor inverse)",
        _dispatch_plan_shape,
        _tensors_first,
    ),
    "expert_counts": Op("(Tensor index, SymInt num_experts) -> Tensor", _expert_counts_shape, _tensors_first),
}

OPS = {overload: {name: declare(name, op, overload) for name, op in TABLE.items()} for overload in OVERLOADS}


def _gradient(ctx: Any, product: Callable[[Any, Tensor], Tensor], grad_weight: Tensor | None) -> Tensor | None:
    """What the product makes of the weights' gradient, which can't be differentiated again."""
    if grad_weight is None:
        return None
    differentiate = once_differentiable(product) if torch.is_grad_enabled() else product
    gradient: Tensor = differentiate(ctx, grad_weight)
    return gradient


def _sparse_mixer(ops: dict[str, OpOverload]) -> type[torch.autograd.Function]:
    class SparseMixer(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(
            logits: Tensor,
            seed: Tensor | None,
            mask: Tensor | None,
            offset: int,
            row_offset: int,
            k: int,
            version: int,
            jitter_eps: float,
        ) -> Any:
            return ops["sparse_mixer"](logits, seed, mask, offset, row_offset, k, version, jitter_eps)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            logits, seed, mask, _, _, _, version, jitter_eps = inputs
            index, _, log_sum_exp = output
            ctx.save_for_backward(logits, index, log_sum_exp, mask)
            # Version 1's estimator is twice the weight's own derivative, which it is where nothing is drawn.
            ctx.settings = jitter_eps, 2.0 if version == 1 and seed is not None else 1.0
            ctx.mark_non_differentiable(index, log_sum_exp)
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, _: None, grad_weight: Tensor | None, __: None) -> Any:
            def product(ctx: Any, grad_weight: Tensor) -> Any:
                return ops["sparse_mixer_backward"](grad_weight, *ctx.saved_tensors, *ctx.settings)

            return _gradient(ctx, product, grad_weight), None, None, None, None, None, None, None

    return SparseMixer


def _topk_router(ops: dict[str, OpOverload]) -> type[torch.autograd.Function]:
    class TopkRouter(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(logits: Tensor, k: int, sigmoid: bool, normalize: bool) -> Any:
            return ops["topk_router"](logits, k, sigmoid, normalize)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            logits, _, *ctx.form = inputs
            index, _ = output
            ctx.save_for_backward(logits, index)
            ctx.mark_non_differentiable(index)
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, _: None, grad_weight: Tensor | None) -> Any:
            def product(ctx: Any, grad_weight: Tensor) -> Any:
                return ops["topk_router_backward"](grad_weight, *ctx.saved_tensors, *ctx.form)

            return _gradient(ctx, product, grad_weight), None, None, None

    return TopkRouter


SPARSE_MIXER = {overload: _sparse_mixer(ops) for overload, ops in OPS.items()}
TOPK_ROUTER = {overload: _topk_router(ops) for overload, ops in OPS.items()}

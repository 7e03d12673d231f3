"""The op table of the routers: as in `ops.py`, with experts for categories."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd.function import once_differentiable

from .ops import OVERLOADS, Op, batch_first, declare

# Shape functions.


def _chosen_shape(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    chosen = (*logits.shape[:-1], k)
    return logits.new_empty(chosen, dtype=torch.int64), logits.new_empty(chosen)


def _topk_router_shape(logits: Tensor, k: int, *_: Any) -> tuple[Tensor, Tensor]:
    return _chosen_shape(logits, k)


def _backward_shape(_grad_weight: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


def _dispatch_plan_shape(index: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    counts = index.new_empty((*index.shape[:-1], num_experts))
    return counts, index.new_empty(index.shape), index.new_empty(index.shape)


# vmap rules: the batch becomes the leading dimension of the tokens.


def _tensors_first(op: OpOverload) -> Callable[..., Any]:
    """Of an op whose tensors all have a row for each token."""

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        pairs = zip(args, in_dims, strict=True)
        outputs = op(*(batch_first(t, dim, info.batch_size) if isinstance(t, Tensor) else t for t, dim in pairs))
        return outputs, 0 if isinstance(outputs, Tensor) else (0,) * len(outputs)

    return rule


TABLE = {
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
}

OPS = {overload: {name: declare(name, op, overload) for name, op in TABLE.items()} for overload in OVERLOADS}


def _gradient(ctx: Any, product: Callable[[Any, Tensor], Tensor], grad_weight: Tensor | None) -> Tensor | None:
    """What the product makes of the weights' gradient, which can't be differentiated again."""
    if grad_weight is None:
        return None
    differentiate = once_differentiable(product) if torch.is_grad_enabled() else product
    gradient: Tensor = differentiate(ctx, grad_weight)
    return gradient


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


TOPK_ROUTER = {overload: _topk_router(ops) for overload, ops in OPS.items()}

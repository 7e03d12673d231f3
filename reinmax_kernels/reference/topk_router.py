"""A deterministic router: the k experts of largest logit, weighed by softmax or sigmoid."""

import torch
from torch import Tensor

from .. import rows
from . import contract
from .sample import accumulate_dtype


def _log_scores(x: Tensor, index: Tensor, sigmoid: bool) -> Tensor:
    """Of the chosen experts. Logarithms, so that no logit is too small for its share of a sum."""
    scores = torch.nn.functional.logsigmoid(x) if sigmoid else x.log_softmax(-1)
    return scores.gather(-1, index)


def _weight(x: Tensor, index: Tensor, sigmoid: bool, normalize: bool) -> Tensor:
    if normalize and not sigmoid:  # the sum over the row has no part in it
        return x.gather(-1, index).softmax(-1)
    scores = _log_scores(x, index, sigmoid)
    return scores.softmax(-1) if normalize else scores.exp()


def require_scores(logits: Tensor) -> None:
    """Raises ValueError for the first row without a largest logit."""
    if not contract.valid_rows(logits.to(accumulate_dtype(logits.dtype))).all():
        raise rows.invalid_row(logits, None)


def topk_router(logits: Tensor, k: int, sigmoid: bool, normalize: bool) -> tuple[Tensor, Tensor]:
    """The k experts of largest logit [..., k], the lower index first among equals, and their weights."""
    x = logits.to(accumulate_dtype(logits.dtype))
    if logits.device.type == "cpu":
        require_scores(logits)
    index = x.sort(dim=-1, descending=True, stable=True).indices[..., :k].contiguous()
    return index, _weight(x, index, sigmoid, normalize).to(logits.dtype)


def topk_router_backward(grad_weight: Tensor, logits: Tensor, index: Tensor, sigmoid: bool, normalize: bool) -> Tensor:
    """The derivative of the chosen experts' weights."""
    x = logits.to(accumulate_dtype(logits.dtype))
    through = grad_weight.to(x.dtype) * _weight(x, index, sigmoid, normalize)
    total = through.sum(-1, keepdim=True)
    if normalize:
        through = through - _weight(x, index, sigmoid, normalize) * total
    if sigmoid:
        through = through * (-x.gather(-1, index)).sigmoid()
    everywhere = torch.zeros_like(x) if sigmoid or normalize else -x.softmax(-1) * total
    return everywhere.scatter_add(-1, index, through).to(logits.dtype).contiguous()

"""The draw, and its dense form: one-hot sample and probabilities."""

import torch
from torch import Tensor

from .. import rows
from . import contract


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 keeps float64; everything else is computed in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits as the estimators see them: -inf where the mask forbids, in the dtype they compute in."""
    x = logits.to(accumulate_dtype(logits.dtype))
    return x if mask is None else torch.where(mask, x, -torch.inf)


def draw_values(x: Tensor) -> Tensor:
    """The float32 values that draws are made with. A finite float64 that float32 can't hold becomes NaN: a row that
    has one is invalid.
    """
    narrowed = x.float()
    return torch.where(narrowed.isinf() & ~x.isinf(), torch.nan, narrowed) if x.dtype == torch.float64 else narrowed


def require_distributions(logits: Tensor, mask: Tensor | None) -> None:
    """Raises ValueError for the first row without a distribution."""
    if not contract.valid_rows(draw_values(masked(logits, mask))).all():
        raise rows.invalid_row(logits, mask)


def sample(logits: Tensor, seed: Tensor, mask: Tensor | None, offset: int, row_offset: int) -> Tensor:
    """Index [...] drawn from softmax(logits) for logits [..., C]."""
    if logits.device.type == "cpu":
        require_distributions(logits, mask)
    x = draw_values(masked(logits, mask)).reshape(logits.shape[:-1].numel(), logits.shape[-1])
    return contract.draw(x, seed, offset, row_offset).reshape(logits.shape[:-1])


def log_sum_exps(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Of each row, in float64: NaN for a row without a distribution."""
    x = masked(logits, mask)
    return x.double().logsumexp(-1).masked_fill(~contract.valid_rows(draw_values(x)), torch.nan)


def sample_dense(
    logits: Tensor, seed: Tensor, mask: Tensor | None, offset: int, row_offset: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One-hot draw and probabilities [..., C] in the logits' dtype, index [...], log-sum-exp [...] in float64.

    Rows without a distribution, on devices that do not check: index 0, probabilities and log-sum-exp NaN.
    """
    index = sample(logits, seed, mask, offset, row_offset)
    log_sum_exp = log_sum_exps(logits, mask)
    probs = masked(logits, mask).softmax(-1).masked_fill(log_sum_exp.isnan().unsqueeze(-1), torch.nan)
    one_hot = torch.zeros(logits.shape, dtype=logits.dtype, device=logits.device)
    one_hot.scatter_(-1, index.unsqueeze(-1), 1.0)
    return one_hot, probs.to(logits.dtype).contiguous(), index, log_sum_exp

"""Past 2**31 elements: every offset must be 64 bits wide."""

import pytest
import torch

import reinmax_kernels
from reinmax_kernels import backends

CATEGORIES = 65_536 + 3
ROWS = 2**31 // CATEGORIES + 2


@pytest.mark.slow
@pytest.mark.skipif(backends.native is None, reason="the reference would need hundreds of gigabytes")
def test_more_than_2_to_the_31_elements():
    """4.3 GB of logits and as much of gradient; the incoming gradient is one number, expanded."""
    assert ROWS * CATEGORIES > 2**31
    row = torch.randn(CATEGORIES, generator=torch.Generator().manual_seed(0)).bfloat16()
    logits = row.repeat(ROWS, 1)
    index = reinmax_kernels.sample(logits, seed=3)
    for i in (0, ROWS - 1):
        assert index[i] == reinmax_kernels.sample(row[None], seed=3, row_offset=i)[0]
    assert index.unique().numel() > ROWS // 2

    # The gradient of sum(one_hot * w) for a w that is the same in every row, without its [N, C] copy.
    weight = torch.randn(CATEGORIES, generator=torch.Generator().manual_seed(1)).bfloat16()
    log_sum_exp = row.double().logsumexp(-1).repeat(ROWS)
    backward = torch.ops.reinmax_kernels.reinmax_backward
    grad = backward(weight.expand(ROWS, -1), None, logits, index, log_sum_exp, None, None)
    for i in (0, ROWS // 2, ROWS - 1):
        alone = backward(weight[None], None, row[None], index[i : i + 1], log_sum_exp[:1], None, None)
        assert torch.equal(grad[i], alone[0])
        assert grad[i].any()
    del grad

    zero = backward(
        torch.ones((), dtype=torch.bfloat16).expand(ROWS, CATEGORIES), None, logits, index, log_sum_exp, None, None
    )
    assert zero[-1].float().abs().max() < 1e-6  # a constant gradient carries no preference

"""The results of codebook lookups' backwards by the CUDA kernels."""

import device_codebook
import torch

from reinmax_kernels import codebook_ops

REFERENCE = codebook_ops.OPS["reference"]


class TestBackward(device_codebook.CodebookBackwardOfReals):
    def test_of_a_mask_that_repeats_its_memory_no_more_is_touched(self, executed):
        """What lies behind it is somebody else's, and the interpreter writes back all that it was given."""
        mask = torch.ones(1200, dtype=torch.bool)
        logits, codebook, v = torch.randn(5, 1200), torch.randn(1200, 6), torch.randn(5, 6)
        _, index, log_sum_exp = REFERENCE["codebook_lookup"](logits, codebook, torch.tensor([3]), None, 0, 0)
        with executed(90) as device:
            device.codebook_reinmax_backward(v, codebook, logits, index, log_sum_exp, mask.expand(5, -1), None)
        assert device.memory[mask.data_ptr()].array.nbytes == 1200


class TestGradient(device_codebook.CodebookGradientBySorting):
    pass

"""One seed, one sample: the reference, the CPU's kernels, and Triton's and CUDA's kernels as they are compiled."""

import pytest
import torch

from reinmax_kernels import backends, ops

CASES = [
    ((300, 2), torch.float32),
    ((40, 7), torch.bfloat16),
    ((33, 64), torch.float16),
    ((5, 65), torch.float64),
    ((6, 1000), torch.bfloat16),
    ((3, 2049), torch.float32),
    ((2, 12345), torch.float16),
]


@pytest.mark.skipif(backends.native is None, reason="this environment was installed without the C++ kernels")
@pytest.mark.skipif(not backends.has_triton, reason="Triton is not installed")
@pytest.mark.parametrize("op", ["sample", "bernoulli"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
def test_all_draw_the_same(executed, shape, dtype, masked, op):
    from compiled.execution import executed as executed_in_triton

    logits = (4 * torch.randn(shape)).to(dtype)
    mask = None
    if masked:
        mask = torch.rand(shape) < 0.7
        mask[:, -1] = True
    seed, offset, row_offset = torch.randint(-(2**63), 2**63 - 1, (3,)).tolist()
    arguments = logits, torch.tensor([seed]), mask, offset, row_offset

    def drawn(function):
        outputs = function(*arguments)
        return outputs if op == "sample" else outputs[0]

    with executed() as cuda:
        found = {"CUDA": drawn(getattr(cuda, op))}
    with executed_in_triton() as triton:
        found["Triton"] = drawn(getattr(triton, op))
    found["CPU"] = drawn(ops.OPS["default"][op])
    expected = drawn(ops.OPS["reference"][op])
    assert {way: torch.equal(each, expected) for way, each in found.items()} == dict.fromkeys(found, True)

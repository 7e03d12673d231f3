"""The results of the routers' compiled Triton kernels, and faults that are planted in them."""

import re

import device_routers
import pytest
import torch
from device_results import seed

from .execution import executed as run


class TestSparseMixer(device_routers.SparseMixer):
    pass


class TestTopkRouter(device_routers.TopkRouter):
    pass


class TestDispatchPlan(device_routers.DispatchPlan):
    @pytest.mark.parametrize("target", [80, 90, 120])
    @pytest.mark.parametrize(("shape", "experts"), [((300,), 3), ((2000,), 100), ((3, 700), 7), ((9600,), 5)])
    def test_many_parts(self, executed, shape, experts, target):
        """Of a chunk or two each: of the last, more than are summed at a time."""
        index = torch.randint(experts, shape)
        index[..., ::50] = -1
        self.check(executed, index, experts, target=target, processors=132)


FAULTS = {  # an op, and what is taken for something else in its kernel
    "a multiplier of Philox": ("sparse_mixer", r"(mul\.(?:hi\.u|lo\.s)32\s.*), -766435501;", r"\1, -766435499;"),
    "the factor of an expert that is not the best": ("sparse_mixer", r"0f3EAAA64C", "0f3F000000"),
    "how far an expert is left behind": ("sparse_mixer", r"div\.rn\.f32", "mul.rn.f32"),
    "the largest logit": ("sparse_mixer_backward", r"max\.f32", "min.f32"),
    "the best expert that is left": ("topk_router", r"max\.s32", "min.s32"),
    "what the weights have in common": ("topk_router_backward", r"sub(\.rn)?\.f32", "add.rn.f32"),
    "the lanes before": ("dispatch_plan", r"popc\.b32", "not.b32"),
    "lanes of the same expert": ("dispatch_plan", r"setp\.eq\.b32", "setp.ge.s32"),
    "what the parts before have": ("dispatch_plan", r"shfl\.sync\.up\.b32", "shfl.sync.down.b32"),
    "an index that is no expert": ("dispatch_plan", r"setp\.lt\.s64(\s+%p\d+, %rd\d+), 0;", r"setp.lt.s64\1, -9;"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_changes_the_results(fault):
    op, pattern, replacement = FAULTS[fault]
    logits, g = torch.randn(64, 8), torch.randn(64, 2)
    index, _, log_sum_exp = device_routers.REFERENCE["sparse_mixer"](logits, seed(), None, 3, 7, 2, 2, 0.3)
    arguments = {
        "sparse_mixer": (logits, seed(), None, 3, 7, 2, 2, 0.3),
        "sparse_mixer_backward": (g, logits, index, log_sum_exp, None, 0.3, 1.0),
        "topk_router": (logits, 2, False, True),
        "topk_router_backward": (g, logits, index, False, True),
        "dispatch_plan": (torch.arange(300).remainder(6) - 1, 5),
    }[op]
    edits = []

    def edit(text):
        edited = re.sub(pattern, replacement, text)
        edits.append(edited != text)
        return edited

    results = []
    for planted in (None, edit):
        with run(edit=planted, check=False, processors=132) as device:
            found = getattr(device, op)(*arguments)
        results.append((found,) if isinstance(found, torch.Tensor) else found)
    assert any(edits)  # of one kernel at least
    assert not all(torch.allclose(*pair, atol=1e-3, equal_nan=True) for pair in zip(*results, strict=True))

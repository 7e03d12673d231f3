"""What kernels of bits for a GPU have to give, beside the reference: cases that all ways to run them share.

The fixture `executed` is as in `device_results`.
"""

import ctypes

import laws
import pytest
import torch
from boundaries import counter_for, edges
from device_results import assert_rounded, random, seed
from test_contract import VECTORS

from reinmax_kernels import ops
from reinmax_kernels.reference import contract

REFERENCE = ops.OPS["reference"]
STREAM = 2**62 + 5, 2**32 - 20  # offset and row_offset
BITS = sorted(name.removesuffix("_bits") for name in VECTORS.files if name.endswith("_bits"))
BACKWARDS = {  # and what each takes of its own, after what all take
    "bernoulli_reinmax_backward": (),
    "bernoulli_straight_through_backward": (),
    "bernoulli_gumbel_softmax_backward": (seed(-3), *STREAM),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
# Several programs' elements, of which the last one's are not all there; fewer than one access has, and one more than a
# program.
CASES = [*((2200, dtype) for dtype in DTYPES), (1, torch.bfloat16), (7, torch.float16), (1025, torch.float32)]
GROUPS = [(1, torch.float32), (3, torch.bfloat16), (64, torch.bfloat16), (130, torch.float32)]
LAYOUTS = {
    "transposed": lambda shape: torch.randn(shape[::-1]).permute(2, 1, 0),
    "sliced": lambda shape: torch.randn(*shape[:-1], 2 * shape[-1] + 1)[..., 1::2],
    "leading swapped": lambda shape: torch.randn(shape[1], shape[0], shape[2]).transpose(0, 1),
    "broadcast": lambda shape: torch.randn(1, *shape[1:]).expand(shape),
    "one number": lambda shape: torch.randn(()).expand(shape),
    "unaligned": lambda shape: torch.randn(shape[0] * shape[1] * shape[2] + 1)[1:].view(shape),
}


def exact(tensor):
    return None if tensor is None else tensor.double()


def tau_tensor(tau):
    return None if tau is None else torch.tensor(tau, dtype=torch.float64)


def vector(name):
    first, offset, row_offset = VECTORS[f"{name}_args"].tolist()
    logits, bits = (torch.from_numpy(VECTORS[f"{name}_{part}"]) for part in ("logits", "bits"))
    return logits, (seed(first), None, offset, row_offset), bits


def logits_of(count, dtype):
    """Among them certain bits, and rare ones."""
    logits = random(count, dtype, 3)
    if count > 8:
        logits[[1, 4, 7]] = torch.tensor([torch.inf, -torch.inf, -60.0]).to(dtype)
    return logits


def assert_near(found, truth, tolerance, cut_off):
    """As `assert_rounded`; twice as far where the last places are cut off."""
    if found.dtype in cut_off:
        eps = torch.finfo(found.dtype).eps
        assert ((found.double() - truth).abs() <= eps * truth.abs() * (1 + eps) + tolerance).all()
    else:
        assert_rounded(found, truth, tolerance)


class Draws:
    """Forward."""

    cut_off = ()  # dtypes that are not rounded

    @pytest.mark.parametrize("name", BITS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_contract_vectors(self, executed, name, dtype):
        logits, arguments, bits = vector(name)
        with executed() as device:
            drawn, _ = device.bernoulli(logits.to(dtype), *arguments)
        assert torch.equal(drawn, bits.to(dtype))

    @pytest.mark.parametrize("row_offset", [2**32 - 20, 2**32 - 19, -1, -2], ids=["even", "odd", "wraps", "ends"])
    @pytest.mark.parametrize(("count", "dtype"), CASES)
    def test_forward(self, executed, count, dtype, row_offset):
        self.check(executed, logits_of(count, dtype), seed(-9), None, STREAM[0], row_offset)

    def check(self, executed, logits, seeds, mask, *stream):
        dtype = logits.dtype
        bits, _ = REFERENCE["bernoulli"](logits, seeds, mask, *stream)
        with executed() as device:
            drawn, probs = device.bernoulli(logits, seeds, mask, *stream)
        assert torch.equal(drawn, bits)
        assert (probs.dtype, probs.shape) == (dtype, logits.shape)
        assert drawn.is_contiguous()
        assert probs.is_contiguous()
        x = logits.double() if mask is None else logits.double().masked_fill(~mask, -torch.inf)
        # To the last places, of small ones too: half types are rounded once.
        truth, eps = x.sigmoid(), torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        assert_near(probs, truth, (4 + x.abs().nan_to_num(0, 0, 0)) * eps * truth, self.cut_off)

    @pytest.mark.parametrize("row_offset", [0, 1])
    @pytest.mark.parametrize(("per_seed", "dtype"), GROUPS)
    def test_seeds_of_groups(self, executed, per_seed, row_offset, dtype):
        logits = random(6 * per_seed, dtype)
        self.check(executed, logits, seed(1, -2, 2**62, 4, 5, -6), None, -1, row_offset)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_strides(self, executed, layout, dtype):
        logits = LAYOUTS[layout]((7, 3, 10)).to(dtype)
        self.check(executed, logits, seed(), None, *STREAM)

    def test_every_other_element_of_half_type(self, executed):
        self.check(executed, random((30, 21), torch.float16)[:, ::2], seed(), None, *STREAM)

    @pytest.mark.parametrize(
        ("shape", "dtype"),
        [
            ((), torch.float32),
            ((1,), torch.float16),
            ((20,), torch.float32),
            ((60, 1), torch.float16),
            ((3, 1, 20), torch.float64),
            *(((3, 60, 20), dtype) for dtype in DTYPES),
        ],
    )
    def test_masks(self, executed, shape, dtype):
        mask = torch.rand(shape) < 0.7
        logits = random((3, 60, 20), dtype).masked_fill(~mask, torch.nan)
        self.check(executed, logits, seed(), mask, *STREAM)

    def test_seeds_apart_are_gathered(self, executed):
        self.check(executed, torch.randn(6, 5), torch.arange(12).view(6, 2)[:, 1][::2], None, *STREAM)

    @pytest.mark.parametrize("shape", [(), (1,), (1, 3, 1)])
    def test_few_elements(self, executed, shape):
        self.check(executed, torch.randn(shape), seed(), None, *STREAM)

    @pytest.mark.parametrize("x", [0.0, 0.3, -0.3, 5.0, -26.0, 27.9])
    @pytest.mark.parametrize("odd", [0, 1])
    def test_the_draw_is_exact_at_every_boundary(self, executed, x, odd):
        weight = contract.exp2(torch.tensor([-abs(x)]) * torch.tensor(contract.LOG2_E)).double()
        unlikely = int((weight * 2**contract.WEIGHT_BITS).round())
        weights = [2**39, unlikely] if x >= 0 else [unlikely, 2**39]
        for i, uniform in edges(weights):
            for other in range(64):  # until the pair's number has 63 bits
                place = counter_for(*((other, uniform) if odd else (uniform, other)), 7)
                if place["row_offset"] % 2**64 < 2**63:
                    break
            offset, number = (ctypes.c_int64(n).value for n in (place["offset"], 2 * place["row_offset"] % 2**64 + odd))
            for before in range(2):  # the first element, and the second
                logits = torch.full((2,), x)
                with executed() as device:
                    drawn, _ = device.bernoulli(logits, seed(7), None, offset, number - before)
                assert drawn[before] == 1 - i


class Gradients:
    """Backward."""

    cut_off = ()

    @pytest.mark.parametrize(("tau", "gradients"), [(None, "g"), (None, "gh"), (0.5, "h"), (0.5, "gh")])
    @pytest.mark.parametrize(("count", "dtype"), CASES[2:])
    @pytest.mark.parametrize("name", BACKWARDS)
    def test_backward(self, executed, name, count, dtype, tau, gradients):
        g, h = (random(count, dtype) if letter in gradients else None for letter in "gh")
        self.check(executed, name, g, h, logits_of(count, dtype), None, tau)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("name", BACKWARDS)
    def test_whole_accesses(self, executed, name, dtype):
        self.check(executed, name, random(1024, dtype), random(1024, dtype), logits_of(1024, dtype), None, 0.7)

    def check(self, executed, name, g, h, logits, mask, tau, own=None):
        """Of bits that the estimator's own law does not have to have drawn."""
        dtype, own = logits.dtype, BACKWARDS[name] if own is None else own
        x = logits if mask is None else logits.masked_fill(~mask, -torch.inf)
        bits = (torch.rand(logits.shape) < x.double().sigmoid()).to(dtype)
        given = tau_tensor(tau)
        with executed() as device:
            grad = getattr(device, name)(g, h, logits, bits, mask, given, *own)
        truth = REFERENCE[name](exact(g), exact(h), logits.double(), bits.double(), mask, given, *own)
        assert (grad.dtype, grad.shape) == (dtype, logits.shape)
        assert grad.is_contiguous()
        tolerance = (4e-6 if dtype != torch.float64 else 4e-14) * max(1, 1 / (tau or 1))
        assert_near(grad, truth, tolerance, self.cut_off)
        assert (grad[x.isinf()] == 0).all()
        return grad

    @pytest.mark.parametrize("name", BACKWARDS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_extreme_logits_and_temperatures(self, executed, name, dtype):
        logits = torch.tensor([1e4, -1e4, 88.0, -88.0, 120.0, -120.0, 0.0, -0.0, torch.inf, -torch.inf] * 3).to(dtype)
        for tau in (None, 0.05, 20.0, 1e-50, 1e50):
            bits, one = (torch.arange(30) % 3 == 0).to(dtype), torch.ones(30, dtype=dtype)
            with executed() as device:
                grad = getattr(device, name)(one, one, logits, bits, None, tau_tensor(tau), *BACKWARDS[name])
            assert not grad.isnan().any()
            assert (grad[logits.isinf()] == 0).all()
            assert grad[logits != 0].isfinite().all()

    def test_a_bit_far_below_keeps_its_weight_at_a_high_temperature(self, executed):
        # e^(-200) is no float, e^(-200 / 100) is.
        for dtype, rtol in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
            logits, one = torch.tensor([200.0, -200.0, 90.0, -30.0], dtype=dtype), torch.ones(4, dtype=dtype)
            bits = (logits > 0).to(dtype)
            arguments = one, None, logits, bits, None, tau_tensor(100.0), seed(4), 0, 0
            with executed() as device:
                grad = device.bernoulli_gumbel_softmax_backward(*arguments)
            truth = laws.bit_gradient("gumbel_softmax", logits, bits, one, 0 * one, 100.0, seed=4)
            torch.testing.assert_close(grad.double(), truth, rtol=rtol, atol=0)

    @pytest.mark.parametrize(("per_seed", "dtype"), GROUPS)
    def test_noise_of_groups(self, executed, per_seed, dtype):
        logits, g = random(6 * per_seed, dtype), random(6 * per_seed, dtype)
        own = seed(1, -2, 2**62, 4, 5, -6), -1, 2**32 - 3
        self.check(executed, "bernoulli_gumbel_softmax_backward", g, None, logits, None, 0.8, own)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("name", BACKWARDS)
    def test_strides(self, executed, name, layout):
        shape = (7, 3, 10)
        logits, g, h = LAYOUTS[layout](shape), torch.randn(shape), LAYOUTS[layout](shape)
        self.check(executed, name, g, h, logits, None, None)
        self.check(executed, name, LAYOUTS[layout](shape), None, torch.randn(shape), None, None)
        self.check(executed, name, LAYOUTS["transposed"](shape), LAYOUTS["sliced"](shape), logits, None, None)

    @pytest.mark.parametrize("shape", [(), (20,), (60, 1), (3, 1, 20), (3, 60, 20)])
    @pytest.mark.parametrize("name", BACKWARDS)
    def test_masks(self, executed, name, shape):
        mask = torch.rand(shape) < 0.7
        logits, g, h = (torch.randn(3, 60, 20).masked_fill(~mask, torch.nan) for _ in range(3))
        self.check(executed, name, g, h, logits, mask, 0.6)


class Elements:
    """What concerns both directions."""

    @pytest.mark.parametrize(
        ("value", "dtype"), [(torch.nan, torch.float32), (torch.nan, torch.bfloat16), (1e39, torch.float64)]
    )
    @pytest.mark.parametrize("tau", [None, 0.5])
    @pytest.mark.parametrize("name", BACKWARDS)
    def test_an_element_without_a_bit_disturbs_no_other(self, executed, name, value, dtype, tau):
        logits = torch.randn(1027).to(dtype)
        spoilt, bad = logits.clone(), torch.tensor([0, 5, 1026])
        spoilt[bad] = value
        one, results = torch.ones_like(logits), []
        for given in (logits, spoilt):
            with executed() as device:
                bits, probs = device.bernoulli(given, seed(), None, *STREAM)
                grads = [
                    getattr(device, name)(g, h, given, bits, None, tau_tensor(tau), *BACKWARDS[name])
                    for g, h in ((one, one), (one, None), (None, one))
                ]
            results.append([bits, probs, *grads])
        bits, *others = results[1]
        assert (bits[bad] == 0).all()
        assert all(tensor[bad].isnan().all() for tensor in others)
        good = torch.ones(1027, dtype=torch.bool)
        good[bad] = False
        assert all(torch.equal(*(tensor[good] for tensor in pair)) for pair in zip(*results, strict=True))

    @pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
    @pytest.mark.parametrize("name", BACKWARDS)
    def test_no_elements(self, executed, name, shape):
        logits = torch.randn(shape)
        with executed() as device:
            bits, probs = device.bernoulli(logits, seed(), None, 0, 0)
            grad = getattr(device, name)(bits, probs, logits, bits, None, None, *BACKWARDS[name])
        assert bits.shape == probs.shape == grad.shape == shape


class OtherTargets:
    """Compute capabilities beside 9.0."""

    # Of sm_120's bfloat16 the interpreter doesn't know the subtraction that widens its operands.
    @pytest.mark.parametrize(("target", "dtype"), [(80, torch.bfloat16), (120, torch.float32)])
    @pytest.mark.parametrize("name", BACKWARDS)
    def test_draws_and_gradients(self, executed, name, target, dtype):
        Draws().check(lambda: executed(target), logits_of(1030, dtype), seed(-9), None, *STREAM)
        operands = random(1030, dtype), random(1030, dtype), logits_of(1030, dtype)
        Gradients().check(lambda: executed(target), name, *operands, None, 0.6)

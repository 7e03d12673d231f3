"""What kernels for a GPU have to give, carried out on the PTX interpreter and compared with the reference: cases that
all ways to write them share. The interpreter checks every access besides: a launch that reads or writes where it must
not, races or reads what nobody wrote is an error.

Indices equal the contract's to the bit; the interpreter rounds a fused multiply-add once, as a GPU does.

The fixture `executed` is a context in which the ops, as methods of what it gives, run for a compute capability and on a
device of so many multiprocessors.
"""

import pytest
import torch
from test_contract import NAMES, VECTORS, vector

from reinmax_kernels import ops

REFERENCE = ops.OPS["reference"]
BACKWARDS = {  # and what each takes of its own, after what all take
    "reinmax_backward": (),
    "straight_through_backward": (),
    "gapped_straight_through_backward": (0.75,),
    "gumbel_rao_backward": (torch.tensor([5]), 3, 7, 3),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SHAPES = [(5, 10), (4, 64), (2, 1000), (1, 1030)]  # several rows to a program, one, and one of several chunks
LONG = [16384 + 16, 16385]
CASES = [*((shape, torch.float32) for shape in SHAPES), *zip(SHAPES, DTYPES[1:] * 2, strict=False)]
CASES += [((5, 200), torch.float32)]  # two accesses of 16 bytes to each thread of a warp
NOISE = sorted(name.removesuffix("_u") for name in VECTORS.files if name.startswith("noise") and name.endswith("_u"))
IN_PARTS = 132  # multiprocessors, for which one long row is far too little work


def seed(*values):
    return torch.tensor(values or (5,))


def random(shape, dtype, scale=1.0):
    return (scale * torch.randn(shape)).to(dtype)


def operands(name):
    """Of a contract vector: the logits, the other arguments of a draw, and the index that they must give."""
    logits, args, index = vector(name)
    seeds = args["seed"] if isinstance(args["seed"], torch.Tensor) else seed(args["seed"])
    return logits, (seeds, None, args["offset"], args["row_offset"]), index


def noise(name):
    """Of the contract's noise: seed and offsets, sizes, and the uniforms in float64."""
    first, offset, row_offset, rows, categories, samples = VECTORS[f"{name}_args"].tolist()
    return (seed(first), offset, row_offset), rows, categories, samples, torch.from_numpy(VECTORS[f"{name}_u"]).double()


def backward(device, name, *arguments):
    """One of BACKWARDS."""
    return getattr(device, name)(*arguments, *BACKWARDS[name])


def true_backward(name, *arguments):
    return REFERENCE[name](*arguments, *BACKWARDS[name])


def assert_rounded(found, truth, tolerance):
    """Within half a unit in the last place, and a tolerance of what was computed before it was rounded."""
    eps = torch.finfo(found.dtype).eps
    subnormal = torch.finfo(found.dtype).smallest_normal * eps
    bound = 0.5 * eps * truth.abs() * (1 + eps) + subnormal + tolerance
    assert ((found.double() - truth).abs() <= bound).all()


class Draws:
    """Forward."""

    whole_rows = 1  # of many categories, for not one to be shared

    @pytest.mark.parametrize("name", NAMES)
    def test_contract_vectors(self, executed, name):
        logits, arguments, index = operands(name)
        with executed() as device:
            assert torch.equal(device.sample(logits, *arguments), index)

    @pytest.mark.parametrize("name", NAMES[::6])
    def test_contract_vectors_through_the_one_hot(self, executed, name):
        logits, arguments, index = operands(name)
        with executed() as device:
            one_hot, _, drawn, _ = device.sample_dense(logits, *arguments)
        assert torch.equal(drawn, index)
        assert torch.equal(one_hot, torch.nn.functional.one_hot(index, logits.shape[-1]).to(logits.dtype))

    @pytest.mark.parametrize(("shape", "dtype"), CASES)
    def test_forward(self, executed, shape, dtype):
        self.check(executed, shape, dtype, None)

    @pytest.mark.parametrize("processors", [None, IN_PARTS], ids=["whole", "in parts"])
    @pytest.mark.parametrize(("categories", "dtype"), [*zip(LONG, [torch.bfloat16, torch.float64], strict=True)])
    def test_forward_of_long_rows(self, executed, categories, dtype, processors):
        rows = 1 if processors else self.whole_rows
        self.check(executed, (rows, categories), dtype, processors)

    def check(self, executed, shape, dtype, processors):
        logits = random(shape, dtype, 2)
        expected = REFERENCE["sample_dense"](logits, seed(), None, 3, 7)
        with executed(processors=processors) as device:
            index = device.sample(logits, seed(), None, 3, 7)
            one_hot, probs, dense_index, log_sum_exp = device.sample_dense(logits, seed(), None, 3, 7)
        assert torch.equal(index, expected[2])
        assert torch.equal(dense_index, expected[2])
        assert torch.equal(one_hot, expected[0])
        assert_rounded(probs, logits.double().softmax(-1), 3e-7 if dtype != torch.float64 else 1e-15)
        assert torch.allclose(log_sum_exp, expected[3], rtol=0, atol=1e-13 if dtype == torch.float64 else 2e-7)

    @pytest.mark.parametrize(("rows", "categories"), [(6, 5), (6, 1100), (768, 5)])
    def test_seeds_of_groups(self, executed, rows, categories):
        logits, seeds = torch.randn(rows, categories), seed(1, -2, 2**62)
        for offset, row_offset in ((0, 0), (-1, 2**40), (1, -1)):
            with executed() as device:
                index = device.sample(logits, seeds, None, offset, row_offset)
            assert torch.equal(index, REFERENCE["sample"](logits, seeds, None, offset, row_offset))


class Gradients:
    """Backward."""

    whole_rows = 1  # of many categories, for not one to be shared

    @pytest.mark.parametrize("tau", [None, 0.5])
    @pytest.mark.parametrize(("shape", "dtype"), CASES[2:])
    @pytest.mark.parametrize("name", BACKWARDS)
    def test_backward(self, executed, name, shape, dtype, tau):
        self.check(executed, name, shape, dtype, tau, "gh" if tau else "g", None)

    @pytest.mark.parametrize("processors", [None, IN_PARTS], ids=["whole", "in parts"])
    @pytest.mark.parametrize(("tau", "gradients"), [(None, "g"), (0.5, "gh")])
    @pytest.mark.parametrize("categories", LONG[:1])
    @pytest.mark.parametrize("name", BACKWARDS)
    def test_backward_of_long_rows(self, executed, name, categories, tau, gradients, processors):
        rows = 1 if processors else self.whole_rows
        self.check(executed, name, (rows, categories), torch.bfloat16, tau, gradients, processors)

    def check(self, executed, name, shape, dtype, tau, gradients, processors):
        logits, g, h = random(shape, dtype, 2), random(shape, dtype), random(shape, dtype)
        g, h = (gradient if letter in gradients else None for letter, gradient in (("g", g), ("h", h)))
        _, _, index, log_sum_exp = REFERENCE["sample_dense"](logits, seed(), None, 0, 0)
        tau = None if tau is None else torch.tensor(tau, dtype=torch.float64)
        with executed(processors=processors) as device:
            grad = backward(device, name, g, h, logits, index, log_sum_exp, None, tau)
        doubles = [None if gradient is None else gradient.double() for gradient in (g, h)]
        truth = true_backward(name, *doubles, logits.double(), index, log_sum_exp, None, tau)
        assert grad.dtype == dtype
        assert_rounded(grad, truth, 4e-6 if dtype != torch.float64 else 4e-14)


class NoisyGradients:
    """Backward, of estimators that make noise: the contract's, for any number of categories and samples."""

    @pytest.mark.parametrize("name", NOISE)
    def test_noise_is_the_contracts(self, executed, name):
        # From the vectors' uniforms to a gradient by the definition alone.
        stream, rows, categories, samples, u = noise(name)
        logits, g = torch.randn(rows, categories).double(), torch.randn(rows, categories).double()
        _, _, index, log_sum_exp = REFERENCE["sample_dense"](logits, *stream[:1], None, *stream[1:])
        drawn = index[:, None].expand(samples, -1, 1)
        ratio = (u / (1 - u)).unsqueeze(-1) if categories == 2 else u.log() / u.log().gather(-1, drawn)
        behind = torch.log1p(ratio / logits.softmax(-1)).scatter(-1, drawn, 0.0)
        for tau in (1.0, 0.4):
            s = (-behind / tau).softmax(-1)
            expected = (s * (g - (s * g).sum(-1, keepdim=True)) / tau).mean(0)
            given = None if tau == 1 else torch.tensor(tau, dtype=torch.float64)
            with executed() as device:
                operands = g, None, logits, index, log_sum_exp, None, given
                actual = device.gumbel_rao_backward(*operands, *stream, samples)
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("tau", [None, 0.3])
    @pytest.mark.parametrize(
        ("shape", "dtype", "samples"),
        [
            ((70, 2), torch.float32, 1),
            ((3, 2), torch.bfloat16, 301),  # samples of a row shared by threads, and not a multiple of four
            ((3, 2), torch.float64, 6),
            ((5, 1), torch.float32, 2),
            ((9, 3), torch.float16, 1),
            ((4, 4), torch.float32, 40),
            ((3, 33), torch.float64, 9),
            ((2, 128), torch.float32, 33),
            ((2, 132), torch.float16, 2),
            ((2, 260), torch.float32, 4),  # by two warps
            ((1, 200), torch.bfloat16, 129),  # more samples than threads
        ],
    )
    def test_samples(self, executed, shape, dtype, samples, tau):
        self.check(executed, shape, dtype, samples, tau, None)

    @pytest.mark.parametrize("tau", [None, 0.3])
    @pytest.mark.parametrize(
        ("shape", "dtype", "samples", "processors"),
        [
            ((2, 2052), torch.float64, 33, None),  # more of their sums than there is memory for at once
            ((1, 8190), torch.float32, 2, IN_PARTS),
            ((4, 4104), torch.float32, 1, None),  # a block to each row
            ((5, 4101), torch.bfloat16, 2, None),
            ((4, 2050), torch.float64, 3, None),
        ],
    )
    def test_samples_of_long_rows(self, executed, shape, dtype, samples, tau, processors):
        self.check(executed, shape, dtype, samples, tau, processors)

    def check(self, executed, shape, dtype, samples, tau, processors):
        logits, g, h = random(shape, dtype, 4), random(shape, dtype), random(shape, dtype)
        _, _, index, log_sum_exp = REFERENCE["sample_dense"](logits, seed(), None, 0, 0)
        given = None if tau is None else torch.tensor(tau, dtype=torch.float64)
        own = seed(-3), 2**40 + 1, -2, samples
        with executed(processors=processors) as device:
            grad = device.gumbel_rao_backward(g, h, logits, index, log_sum_exp, None, given, *own)
        truth = REFERENCE["gumbel_rao_backward"](
            g.double(), h.double(), logits.double(), index, log_sum_exp, None, given, *own
        )
        assert_rounded(grad, truth, 8e-6 if dtype != torch.float64 else 4e-14)

    @pytest.mark.parametrize("tau", [None, 0.3])
    @pytest.mark.parametrize(("categories", "samples"), [(9, 1), (300, 2), (4104, 1), (4101, 2)])
    def test_masked_rows_of_which_one_has_no_distribution(self, executed, categories, samples, tau):
        logits, g, h = (torch.randn(4, categories) for _ in range(3))
        mask = torch.rand(categories) < 0.7
        mask[0] = True
        logits.masked_fill_(~mask, torch.inf)
        _, _, index, log_sum_exp = REFERENCE["sample_dense"](logits, seed(), mask, 0, 0)
        given = None if tau is None else torch.tensor(tau, dtype=torch.float64)
        operands = index, log_sum_exp, mask, given, seed(), 1, 2, samples
        truth = REFERENCE["gumbel_rao_backward"](g.double(), h.double(), logits.double(), *operands)
        logits[2, 0] = log_sum_exp[2] = torch.nan
        with executed() as device:
            grad = device.gumbel_rao_backward(g, h, logits, *operands)
        assert grad[2].isnan().all()
        valid = [0, 1, 3]
        assert (grad[valid][:, ~mask] == 0).all()
        assert_rounded(grad[valid], truth[valid], 8e-6)

    @pytest.mark.parametrize("categories", [2, 7, 300])
    def test_seeds_of_groups(self, executed, categories):
        logits, g, seeds = torch.randn(6, categories), torch.randn(6, categories), seed(1, -2, 2**62)
        _, _, index, log_sum_exp = REFERENCE["sample_dense"](logits, seeds, None, 0, 0)
        operands = g, None, logits, index, log_sum_exp, None, None, seeds, -1, 2**32 - 1, 3
        with executed() as device:
            grad = device.gumbel_rao_backward(*operands)
        assert torch.allclose(grad, REFERENCE["gumbel_rao_backward"](*operands), atol=2e-6)

    @pytest.mark.parametrize("categories", [2, 9])
    def test_logits_far_apart(self, executed, categories):
        """Probabilities that underflow, weights that do not: a large tau brings them back."""
        logits, g = 1e4 * torch.randn(20, categories), torch.randn(20, categories)
        index = torch.randint(categories, (20,))
        log_sum_exp = logits.double().logsumexp(-1)
        for tau in (None, 1e4, 1e-4):
            given = None if tau is None else torch.tensor(tau, dtype=torch.float64)
            operands = g, None, logits, index, log_sum_exp, None, given, seed(), 0, 0, 5
            with executed() as device:
                grad = device.gumbel_rao_backward(*operands)
            scale = 1 if tau is None else tau
            assert torch.allclose(scale * grad, scale * REFERENCE["gumbel_rao_backward"](*operands), atol=4e-6)


class OtherTargets:
    """Compute capabilities beside 9.0."""

    @pytest.mark.parametrize("target", [80, 120])
    @pytest.mark.parametrize("name", NAMES[5::15])
    def test_contract_vectors(self, executed, name, target):
        logits, arguments, index = operands(name)
        with executed(target) as device:
            assert torch.equal(device.sample(logits, *arguments), index)

    # Of sm_120's bfloat16 the interpreter doesn't know the subtraction that widens its operands.
    @pytest.mark.parametrize(("target", "dtype"), [(80, torch.bfloat16), (120, torch.float32)])
    @pytest.mark.parametrize("shape", [(5, 10), (1, 1030), (1, 16385)])
    @pytest.mark.parametrize("name", BACKWARDS)
    def test_values_and_gradients(self, executed, name, shape, target, dtype):
        logits, g = random(shape, dtype, 2), random(shape, dtype)
        expected = REFERENCE["sample_dense"](logits, seed(), None, 0, 0)
        with executed(target) as device:
            _, _, index, log_sum_exp = device.sample_dense(logits, seed(), None, 0, 0)
            grad = backward(device, name, g, None, logits, *expected[2:], None, None)
        assert torch.equal(index, expected[2])
        assert torch.allclose(log_sum_exp, expected[3], rtol=0, atol=2e-7)
        assert_rounded(grad, true_backward(name, g.double(), None, logits.double(), *expected[2:], None, None), 4e-6)


LAYOUTS = {
    "transposed": lambda shape: torch.randn(shape[-1], *shape[:-1]).movedim(0, -1),
    "sliced": lambda shape: torch.randn(*shape[:-1], 2 * shape[-1] + 1)[..., 1::2],
    "leading swapped": lambda shape: torch.randn(shape[1], shape[0], shape[2]).transpose(0, 1),
    "broadcast": lambda shape: torch.randn(1, *shape[1:]).expand(shape),
    "unaligned": lambda shape: torch.randn(shape[0] * shape[1] * shape[2] + 1)[1:].view(shape),
}


class Rows:
    """Masks, strides, rows without a distribution."""

    @pytest.mark.parametrize("name", BACKWARDS)
    @pytest.mark.parametrize("categories", [8, 10, 1100, 16385])
    def test_masks(self, executed, categories, name):
        torch.manual_seed(3)
        logits, g = torch.randn(2, categories), torch.randn(2, categories)
        mask = torch.rand(categories) < 0.7
        mask[0] = True
        logits.masked_fill_(~mask, torch.nan)
        expected = REFERENCE["sample_dense"](logits, seed(), mask, 0, 0)
        with executed() as device:
            _, probs, index, _ = device.sample_dense(logits, seed(), mask, 0, 0)
            grad = backward(device, name, g, None, logits, *expected[2:], mask, None)
        assert torch.equal(index, expected[2])
        assert (probs[:, ~mask] == 0).all()
        assert torch.allclose(probs, expected[1], atol=3e-7)
        assert (grad[:, ~mask] == 0).all()
        assert torch.allclose(grad, true_backward(name, g, None, logits, *expected[2:], mask, None), atol=1e-6)

    @pytest.mark.parametrize("name", BACKWARDS)
    @pytest.mark.parametrize(("layout", "categories"), [*((layout, 10) for layout in LAYOUTS), ("unaligned", 1500)])
    def test_strides(self, executed, layout, categories, name):
        logits, g = (LAYOUTS[layout]((2, 3, categories)) for _ in range(2))
        expected = REFERENCE["sample_dense"](logits.contiguous(), seed(), None, 0, 0)
        args = (g, None, logits, *expected[2:], None, None)
        with executed() as device:
            index = device.sample(logits, seed(), None, 0, 0)
            grad = backward(device, name, *args)
        assert torch.equal(index, expected[2])
        assert torch.allclose(grad, true_backward(name, *args), atol=1e-6)

    @pytest.mark.parametrize("name", BACKWARDS)
    @pytest.mark.parametrize(
        ("categories", "value"),
        [
            (7, torch.nan),
            (64, torch.inf),
            *((1100, value) for value in (torch.nan, torch.inf, -torch.inf)),
            (17000, torch.nan),
        ],
    )
    def test_a_row_without_a_distribution_disturbs_no_other(self, executed, categories, value, name):
        logits = torch.randn(3, categories).bfloat16()
        expected = REFERENCE["sample_dense"](logits, seed(), None, 0, 0)
        spoilt = logits.clone()
        spoilt[1, slice(None) if value == -torch.inf else -1] = value
        with executed() as device:
            one_hot, probs, index, log_sum_exp = device.sample_dense(spoilt, seed(), None, 0, 0)
            grad = backward(device, name, spoilt, None, spoilt, index, log_sum_exp, None, None)
        assert index[1] == 0
        assert probs[1].isnan().all()
        assert log_sum_exp[1].isnan()
        assert grad[1].isnan().all()
        assert torch.equal(index[::2], expected[2][::2])
        assert torch.equal(one_hot[::2], expected[0][::2])
        assert grad[::2].isfinite().all()

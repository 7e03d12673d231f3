"""The Triton kernels on Triton's interpreter: every path and dtype against the reference. What only a compiler can get
wrong is tested in tests/compiled. The interpreter checks no bounds, so nothing here proves that memory is safe.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from device_results import BACKWARDS, backward, true_backward
from estimators import ESTIMATORS
from test_contract import NAMES, vector

import reinmax_kernels
from reinmax_kernels import backends, ops, sample
from reinmax_kernels.reference import contract

if not backends.has_triton:
    pytest.skip("Triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("the kernels are compiled in this run: TRITON_INTERPRET=1 is not set", allow_module_level=True)

from reinmax_kernels.triton_kernels import gumbel_rao_long, launch, row

from reinmax_kernels import triton_kernels

REFERENCE = ops.OPS["reference"]
QUIET = [name for name in BACKWARDS if name != "gumbel_rao_backward"]  # noise is slow to make on the interpreter
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# Short rows in groups of 32 or less, and of more; rows in registers; long rows.
SHAPES = [(7, 1), (130, 2), (33, 3), (20, 10), (9, 32), (5, 33), (16, 64), (9, 255), (4, 1024), (3, 1025), (2, 5000)]
LONG = [(2, 8193), (1, 16385)]

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of infinities and NaN


@pytest.fixture(params=[1, 3], ids=["whole", "in parts"])
def parts(request, monkeypatch):
    """Long rows are read by one program each, or by several."""
    monkeypatch.setattr(launch, "blocks_per_part", lambda rows, blocks, warps, device: -(-blocks // request.param))
    return request.param


def seed(*values):
    return torch.tensor(values or (5,))


def double(tensor):
    return None if tensor is None else tensor.double()


def near_a_boundary(logits, index, other):
    """Whether two indices of one row are neighbours, but for weights too small to matter: what the interpreter's
    multiply-add, which rounds twice, may change.
    """
    p = logits.double().softmax(-1)
    low, high = sorted((int(index), int(other)))
    return p[low + 1 : high].sum() < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_contract_vectors(name):
    logits, args, index = vector(name)
    with reinmax_kernels.backend("triton"):
        drawn = sample(logits, **args)
    wrong = (drawn != index).nonzero().flatten().tolist()
    assert all(near_a_boundary(logits[i], drawn[i], index[i]) for i in wrong)
    assert len(wrong) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward(shape, dtype):
    check_forward(shape, dtype)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("shape", LONG)
def test_forward_of_long_rows(parts, shape, dtype):
    check_forward(shape, dtype)


@pytest.mark.parametrize("shape", [(1, 2), (513, 2), (512, 4), (130, 8), (130, 3), (65, 10), (5, 63), (7, 60)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_short_rows(shape, dtype):
    """Loaded across their boundaries, or not; whole tiles, and tiles that reach beyond the last row."""
    check_forward(shape, dtype)
    check_backward("reinmax_backward", shape, dtype, None, "gh")


@pytest.mark.parametrize("categories", [5, 1100, 9000])
def test_double_logits_of_which_single_precision_rounds_the_largest_off(parts, categories):
    logits = torch.zeros(2, categories, dtype=torch.float64)
    logits[0, 1], logits[1, -1] = 1e11 + 3000, -1e11 - 3000
    _, probs, _, log_sum_exp = triton_kernels.sample_dense(logits, seed(), None, 0, 0)
    assert torch.equal(log_sum_exp, logits.logsumexp(-1))
    assert torch.allclose(probs, logits.softmax(-1), rtol=1e-14, atol=0)


def test_chunks_that_a_row_does_not_have_weigh_nothing(parts):
    check_forward((2, 17 * 1024), torch.float32, below=200)


def test_what_is_loaded_packed():
    tensor = torch.randn(8, 4)
    inner, (rows, no_mask) = row.rows_of(tensor.shape, tensor, None)
    assert row.are_packed(4, no_mask, rows, row.NO_ROWS)
    _, (strided,) = row.rows_of(tensor.shape, torch.randn(8, 5)[:, :4])
    assert not row.are_packed(4, no_mask, rows, strided)
    _, (allowed,) = row.rows_of(tensor.shape, tensor > 0)
    assert not row.are_packed(4, allowed, rows)
    _, (longer,) = row.rows_of((8, 10), torch.randn(8, 10))
    assert not row.are_packed(10, no_mask, longer)
    assert inner == 1


@pytest.mark.parametrize(
    ("n", "count", "unit"),
    [(0, 0, 1), (1, 1, 1), (10, 5, 2), (1000, 125, 8), (48, 48, 1), (-4, -1, 4), (2**31 + 4, 2**31 + 4, 1)],
)
def test_multiples(n, count, unit):
    """Divisibility by 16 is left for the compiler to see; numbers of 64 bits stay as they are."""
    assert (row.multiple(n).count, row.multiple(n).unit.value) == (count, unit)


@pytest.mark.parametrize(
    ("tensor", "elements"),
    [
        (torch.zeros(2, 3, 16), 4),
        (torch.zeros(4, 10), 2),
        (torch.zeros(4, 7), 1),
        (torch.zeros(65)[1:].view(4, 16), 1),
        (torch.zeros(4, 32)[:, ::2], 1),
        (torch.zeros(4, 16).bfloat16(), 8),
        (torch.zeros(16).expand(4, 16), 4),
    ],
)
def test_the_widest_access(tensor, elements):
    _, (rows,) = row.rows_of(tensor.shape, tensor)
    assert row.widest_access(rows, row.NO_ROWS) == elements


def check_forward(shape, dtype, below=0):
    logits = (2 * torch.randn(shape) - below).to(dtype)
    logits[0, 1:] = -torch.inf
    expected = REFERENCE["sample_dense"](logits, seed(), None, 3, 7)
    one_hot, probs, index, log_sum_exp = triton_kernels.sample_dense(logits, seed(), None, 3, 7)
    assert torch.equal(triton_kernels.sample(logits, seed(), None, 3, 7), index)
    assert torch.equal(index, expected[2])
    assert torch.equal(one_hot, expected[0])
    eps = torch.finfo(dtype).eps
    truth = logits.double().softmax(-1)
    assert ((probs.double() - truth).abs() <= eps * truth + (3e-7 if eps > 1e-9 else 1e-15)).all()
    assert torch.allclose(log_sum_exp, expected[3], rtol=0, atol=1e-13 if dtype == torch.float64 else 2e-7)


@pytest.mark.parametrize("tau", [None, 0.5, 1e-3, 1e3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES[::2])
@pytest.mark.parametrize("name", QUIET)
def test_backward(name, shape, dtype, tau):
    check_backward(name, shape, dtype, tau, "gh")


@pytest.mark.parametrize("gradients", ["g", "h", "gh"])
@pytest.mark.parametrize("tau", [None, 0.5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", LONG)
@pytest.mark.parametrize("name", QUIET)
def test_backward_of_long_rows(parts, name, shape, dtype, tau, gradients):
    check_backward(name, shape, dtype, tau, gradients)


@pytest.mark.parametrize("tau", [1e-3, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["reinmax_backward", "gapped_straight_through_backward"])
def test_extreme_temperatures_of_long_rows(parts, name, dtype, tau):
    check_backward(name, (1, 9000), dtype, tau, "gh")


def check_backward(name, shape, dtype, tau, gradients):
    logits, g, h = ((scale * torch.randn(shape)).to(dtype) for scale in (2, 1, 1))
    logits[0, 1:] = -torch.inf
    g[0, 1:] = torch.nan  # whatever arrives where nothing can be drawn
    g, h = (gradient if letter in gradients else None for letter, gradient in (("g", g), ("h", h)))
    _, _, index, log_sum_exp = REFERENCE["sample_dense"](logits, seed(), None, 0, 0)
    tau = None if tau is None else torch.tensor(tau, dtype=torch.float64)
    grad = backward(triton_kernels, name, g, h, logits, index, log_sum_exp, None, tau)
    truth = true_backward(name, double(g), double(h), logits.double(), index, log_sum_exp, None, tau)
    eps = torch.finfo(dtype).eps
    rounding = 1 if dtype == torch.bfloat16 else 0.51  # the interpreter cuts bfloat16 off
    scale = 4 * max(1.0, 1 / (1.0 if tau is None else tau.item()))
    assert grad.dtype == dtype
    assert (
        (grad.double() - truth).abs() <= rounding * eps * truth.abs() + (1e-6 if eps > 1e-9 else 1e-14) * scale
    ).all()
    assert (grad[0, 1:] == 0).all()


# Noise.


@pytest.mark.parametrize("tau", [None, 0.3])
@pytest.mark.parametrize(
    ("shape", "dtype", "samples"),
    [
        ((5, 1), torch.float32, 2),
        ((300, 2), torch.bfloat16, 1),
        ((9, 2), torch.float32, 301),
        ((9, 2), torch.float64, 6),
        ((9, 3), torch.float16, 7),
        ((33, 4), torch.float64, 2),
        ((20, 10), torch.float32, 9),
        ((3, 130), torch.float64, 5),
        ((2, 1030), torch.bfloat16, 2),
    ],
)
def test_samples(shape, dtype, samples, tau):
    check_samples(shape, dtype, samples, tau)


@pytest.mark.parametrize(
    ("dtype", "at_once", "tau"),
    [(torch.float32, 1024, None), (torch.bfloat16, 2, 0.3), (torch.float64, 1024, 0.3), (torch.float64, 2, None)],
)
def test_samples_of_long_rows(parts, dtype, at_once, tau, monkeypatch):
    """All together, or a few of them in each launch."""
    monkeypatch.setattr(gumbel_rao_long, "_MOST_SAMPLES", at_once)
    check_samples((2, 4101), dtype, 3, tau)


def check_samples(shape, dtype, samples, tau):
    logits, g, h = ((scale * torch.randn(shape)).to(dtype) for scale in (2, 1, 1))
    _, _, index, log_sum_exp = REFERENCE["sample_dense"](logits, seed(), None, 0, 0)
    scale = 1 if tau is None else 1 / tau
    tau = None if tau is None else torch.tensor(tau, dtype=torch.float64)
    own = seed(-3), 2**40 + 1, -2, samples
    for arrived in (g, h), (g, None), (None, h):
        grad = triton_kernels.gumbel_rao_backward(*arrived, logits, index, log_sum_exp, None, tau, *own)
        operands = *map(double, arrived), logits.double(), index, log_sum_exp
        truth = REFERENCE["gumbel_rao_backward"](*operands, None, tau, *own)
        eps = torch.finfo(dtype).eps
        tolerance = (1e-6 if eps > 1e-9 else 1e-14) * scale
        assert ((grad.double() - truth).abs() <= eps * truth.abs() + tolerance).all()


@pytest.mark.parametrize("categories", [2, 7, 300, 5000])
def test_noise_of_groups(categories):
    logits, g, seeds = torch.randn(6, categories), torch.randn(6, categories), seed(1, -2, 2**62)
    _, _, index, log_sum_exp = REFERENCE["sample_dense"](logits, seeds, None, 0, 0)
    operands = g, None, logits, index, log_sum_exp, None, None, seeds, -1, 2**32 - 1, 3
    expected = REFERENCE["gumbel_rao_backward"](*operands)
    assert torch.allclose(triton_kernels.gumbel_rao_backward(*operands), expected, atol=1e-6)


# Strides, masks, seeds.


def transposed(shape):
    return torch.randn(shape[-1], *shape[:-1]).movedim(0, -1)


def sliced(shape):
    return torch.randn(*shape[:-1], 2 * shape[-1] + 1)[..., 1::2]


def leading_swapped(shape):
    return torch.randn(shape[1], shape[0], *shape[2:]).transpose(0, 1)


def broadcast(shape):
    return torch.randn(1, *shape[1:]).expand(shape)


def crossed(shape):
    """Three leading dimensions that no two loops walk through."""
    return torch.randn(shape[1], shape[0], 2, *shape[2:]).permute(1, 0, 2, 3)


@pytest.mark.parametrize("categories", [10, 100, 1500])
@pytest.mark.parametrize("layout", [transposed, sliced, leading_swapped, broadcast, crossed])
def test_strides(layout, categories):
    logits = layout((4, 3, categories))
    expected = REFERENCE["sample_dense"](logits.contiguous(), seed(), None, 0, 0)
    _, probs, index, log_sum_exp = triton_kernels.sample_dense(logits, seed(), None, 0, 0)
    assert torch.equal(index, expected[2])
    g = layout((4, 3, categories))
    args = (g, None, logits, index, log_sum_exp, None, None)
    for name in BACKWARDS:
        assert torch.allclose(backward(triton_kernels, name, *args), true_backward(name, *args), atol=1e-6)
    assert probs.is_contiguous()


@pytest.mark.parametrize("shape", [(10,), (3, 1), (4, 1, 10), (3, 10), (4, 3, 10), (1,)])
def test_masks(shape):
    torch.manual_seed(3)
    logits, g = torch.randn(4, 3, 10), torch.randn(4, 3, 10)
    mask = torch.rand(shape) < 0.7
    mask[..., 0] = True
    logits.masked_fill_(~mask, torch.nan)
    expected = REFERENCE["sample_dense"](logits, seed(), mask, 0, 0)
    _, probs, index, log_sum_exp = triton_kernels.sample_dense(logits, seed(), mask, 0, 0)
    assert torch.equal(index, expected[2])
    assert (probs.masked_select(~mask.expand_as(probs)) == 0).all()
    for name in BACKWARDS:
        grad = backward(triton_kernels, name, g, None, logits, index, log_sum_exp, mask, None)
        assert torch.allclose(grad, true_backward(name, g, None, logits, *expected[2:], mask, None), atol=1e-6)
        assert (grad.masked_select(~mask.expand_as(grad)) == 0).all()


@pytest.mark.parametrize("categories", [5, 1100])
def test_seeds_of_groups(categories):
    logits, seeds = torch.randn(6, categories), seed(1, -2, 2**62)
    for offset, row_offset in ((0, 0), (-1, 2**40), (1, -1)):
        expected = REFERENCE["sample"](logits, seeds, None, offset, row_offset)
        assert torch.equal(triton_kernels.sample(logits, seeds, None, offset, row_offset), expected)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 7), (0, 3000), (0, 40000)])
def test_no_rows(shape):
    logits = torch.randn(shape)
    one_hot, _, index, log_sum_exp = triton_kernels.sample_dense(logits, seed(), None, 0, 0)
    assert one_hot.shape == shape
    assert index.shape == shape[:-1]
    for name in BACKWARDS:
        assert backward(triton_kernels, name, logits, None, logits, index, log_sum_exp, None, None).shape == shape


# Rows without a distribution.


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("categories", [1, 7, 64, 1100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_without_a_distribution_disturbs_no_other(categories, dtype, value):
    check_a_row_without_a_distribution(categories, dtype, value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("categories", "dtype"), [(17000, torch.float32), (9000, torch.float64)])
def test_a_long_row_without_a_distribution_disturbs_no_other(parts, categories, dtype, value):
    check_a_row_without_a_distribution(categories, dtype, value)


def check_a_row_without_a_distribution(categories, dtype, value):
    logits = torch.randn(3, categories).to(dtype)
    clean = triton_kernels.sample_dense(logits, seed(), None, 0, 0)
    spoilt = logits.clone()
    spoilt[1, slice(None) if value == -torch.inf else -1] = value
    one_hot, probs, index, log_sum_exp = triton_kernels.sample_dense(spoilt, seed(), None, 0, 0)
    assert index[1] == 0
    assert probs[1].isnan().all()
    assert log_sum_exp[1].isnan()
    for after, before in zip((one_hot, probs, index, log_sum_exp), clean, strict=True):
        assert torch.equal(after[::2], before[::2])
    assert torch.equal(triton_kernels.sample(spoilt, seed(), None, 0, 0), index)
    for name in BACKWARDS:
        grad = backward(triton_kernels, name, torch.ones_like(spoilt), None, spoilt, index, log_sum_exp, None, None)
        assert grad[1].isnan().all()
        assert grad[::2].isfinite().all()


def test_a_float64_beyond_float32_makes_its_row_invalid():
    logits = torch.zeros(3, 5, dtype=torch.float64)
    logits[1, 2] = 1e39
    _, probs, index, _ = triton_kernels.sample_dense(logits, seed(), None, 0, 0)
    assert index[1] == 0
    assert probs[1].isnan().all()


def test_a_switch_makes_it_raise():
    code = (
        "import torch, reinmax_kernels\n"
        "with reinmax_kernels.backend('triton'): reinmax_kernels.sample(torch.tensor([[0., 1.], [0., float('nan')]]))"
    )
    environment = os.environ | {"REINMAX_KERNELS_CHECK": "1", "TRITON_INTERPRET": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "ValueError: logits: row 1 of 2 holds NaN at category 1" in result.stderr


# Through the public functions.


@pytest.mark.parametrize("function", ESTIMATORS.values(), ids=ESTIMATORS)
def test_autograd(function):
    logits, g = torch.randn(6, 3, 12, requires_grad=True), torch.randn(6, 3, 12)
    results = []
    for name in ("reference", "triton"):
        with reinmax_kernels.backend(name):
            one_hot, probs = function(logits, 1.3, dim=1, seed=2)
            results.append((one_hot, probs, *torch.autograd.grad((one_hot, probs), logits, (g, g))))
    for ours, reference in zip(*results, strict=True):
        assert torch.allclose(ours, reference, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_draws_at_the_boundaries_of_the_law(rows):
    """Prefix sums of ties and zeros: the first that exceeds the target."""
    logits = torch.zeros(rows, 64)
    logits[:, ::2] = -torch.inf
    logits[:, 1::4] = -40.0  # too small to be drawn
    with reinmax_kernels.backend("triton"):
        drawn = torch.cat([sample(logits, seed=step) for step in range(50)])
    assert set(drawn.tolist()) <= set(range(3, 64, 4))
    assert len(set(drawn.tolist())) > 8


def test_frequencies():
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5])
    with reinmax_kernels.backend("triton"):
        counts = sample(logits.expand(20_000, 4), seed=3).bincount(minlength=4).numpy()
    expected = 20_000 * logits.double().softmax(-1).numpy()
    assert ((counts - expected) ** 2 / expected).sum() < 20  # chi-square of 3 degrees of freedom, p = 2e-4
    assert np.array_equal(counts, contract_counts(logits, 20_000))


def contract_counts(logits, rows):
    index = contract.draw(logits.expand(rows, -1), torch.tensor([3]), 0, 0)
    return index.bincount(minlength=len(logits)).numpy()


# Rows as kernels address them.


@pytest.mark.parametrize("layout", [transposed, leading_swapped, broadcast])
def test_rows_are_not_copied(layout):
    tensor = layout((4, 3, 10))
    inner, (rows,) = row.rows_of(tensor.shape, tensor)
    assert rows.data.data_ptr() == tensor.data_ptr()
    for i, (a, b) in enumerate((a, b) for a in range(4) for b in range(3)):
        at = i // inner * number(rows.outer_stride) + i % inner * number(rows.inner_stride)
        assert at == a * tensor.stride(0) + b * tensor.stride(1)


def number(multiple):
    return multiple.count * multiple.unit.value


def test_few_long_rows_are_shared_out():
    device = torch.device("cpu")
    assert launch.blocks_per_part(1000, 256, 2, device) == 256
    assert launch.blocks_per_part(1, 256, 2, device) < 256
    assert launch.blocks_per_part(1, 1, 2, device) == 1

"""Strides change nothing: every layout of logits, masks and incoming gradients gives what a contiguous copy gives."""

import math

import pytest
import torch
from estimators import ESTIMATORS
from hypothesis import given
from hypothesis import strategies as st

import reinmax_kernels
from reinmax_kernels import sample


def strided(shape, order, steps, starts):
    """An empty tensor of this shape whose memory runs through the dimensions in another order, with gaps of
    `steps` and a margin of `starts` elements.
    """
    memory = torch.full([shape[d] * steps[d] + starts[d] for d in order], 7.0)
    view = memory.permute([order.index(d) for d in range(len(shape))])
    return view[tuple(slice(starts[d], starts[d] + shape[d] * steps[d], steps[d]) for d in range(len(shape)))]


def like(values, order, steps, starts):
    """The values of a tensor in another layout."""
    view = strided(values.shape, order, steps, starts).to(values.dtype)
    view = view if view.stride() != values.stride() else strided(values.shape, order, steps, starts).to(values.dtype)
    return view.copy_(values)


def transposed(x):
    return x.mT.contiguous().mT


def column_slice(x):
    wide = torch.cat([torch.full_like(x, 9.0), x, torch.full_like(x, 9.0)], -1)
    return wide[..., x.shape[-1] : 2 * x.shape[-1]]


def misaligned(x):
    return torch.cat([x.new_full((1,), 9.0), x.flatten()])[1:].view(x.shape)


def every_third_category(x):
    return x.repeat_interleave(3, -1)[..., ::3]


def every_second_row(x):
    return x.repeat_interleave(2, -2)[..., ::2, :]


def batch_last(x):
    return x.movedim(0, -1).contiguous().movedim(-1, 0)


def odd_rows(x):
    """A row stride that is no multiple of a vector, and rows that start anywhere."""
    return torch.cat([x, torch.full_like(x[..., :1], 9.0)], -1)[..., :-1]


def flipped(x):
    return x.flip(-1).contiguous().flip(-1)


LAYOUTS = [
    transposed,
    column_slice,
    misaligned,
    every_third_category,
    every_second_row,
    batch_last,
    odd_rows,
    flipped,
]
SHAPES = [(3, 5, 7), (2, 4, 64), (2, 3, 1030), (2, 3, 5000), (3, 6, 3), (1, 1, 33), (4, 1, 1)]


def run(name, logits, g, h, **options):
    """One-hot, probabilities and gradient. The logits are a leaf of the layout that they come in."""
    logits = logits.detach().requires_grad_()
    one_hot, probs = ESTIMATORS[name](logits, **options)
    (grad,) = torch.autograd.grad([one_hot, probs], logits, [g, h])
    return one_hot.detach(), probs.detach(), grad


def check_equal(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a, b)


def check_close(ours, expected):
    """The one-hot exactly, probabilities and gradient to a few roundings."""
    check_equal(ours[:1], expected[:1])
    for a, b in zip(ours[1:], expected[1:], strict=True):
        tolerance = {torch.float32: 3e-6, torch.float64: 1e-13}.get(a.dtype, 2 * torch.finfo(a.dtype).eps)
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * 8)


@pytest.fixture
def check(backend):
    """Bit for bit. The reference sums with torch.sum, whose order follows the strides, so it may round differently."""
    return check_close if backend == "reference" else check_equal


@pytest.fixture(params=ESTIMATORS)
def name(request):
    return request.param


@pytest.fixture(params=[1.0, 0.7])
def tau(request):
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_logits(check, name, tau, layout, shape, dtype):
    logits, g, h = (torch.randn(shape).to(dtype) for _ in range(3))
    other = layout(logits)
    assert torch.equal(other, logits)
    check(run(name, other, g, h, seed=1, tau=tau), run(name, logits, g, h, seed=1, tau=tau))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_what_is_only_sampled(backend, layout, shape, dtype):
    logits = torch.randn(shape).to(dtype)
    assert torch.equal(sample(layout(logits), seed=1), sample(logits, seed=1))
    expanded = logits[..., :1, :].expand(shape)
    assert torch.equal(sample(expanded, seed=1), sample(expanded.clone(), seed=1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_gradients(check, name, tau, layout, shape):
    logits, g, h = (torch.randn(shape) for _ in range(3))
    expected = run(name, logits, g, h, seed=1, tau=tau)
    check(run(name, logits, layout(g), h, seed=1, tau=tau), expected)
    check(run(name, logits, g, layout(h), seed=1, tau=tau), expected)
    check(run(name, layout(logits), layout(g), layout(h), seed=1, tau=tau), expected)


@pytest.mark.parametrize("expanded", [(1, 1, 1), (2, 1, 1), (1, 3, 1), (1, 1, 50), (2, 1, 50)])
def test_expanded_gradients(check, name, tau, expanded):
    shape = (2, 3, 50)
    logits, g, h = torch.randn(shape), torch.randn(expanded).expand(shape), torch.randn(expanded).expand(shape)
    expected = run(name, logits, g.clone(), h.clone(), seed=1, tau=tau)
    check(run(name, logits, g, h, seed=1, tau=tau), expected)


def test_the_gradient_of_a_sum_is_expanded(check, name, tau):
    # one_hot.sum() sends back one element with stride 0; a sum over a one-hot is 1 whatever is drawn.
    logits = torch.randn(40, 30, requires_grad=True)
    one_hot, probs = ESTIMATORS[name](logits, tau)
    strides = []
    one_hot.register_hook(lambda grad: strides.append(grad.stride()))
    (one_hot.sum() + probs.sum()).backward()
    assert strides == [(0, 0)]
    torch.testing.assert_close(logits.grad, torch.zeros(40, 30), rtol=0, atol=3e-6)


@pytest.mark.parametrize("expanded", [(1, 1, 60), (4, 1, 60), (1, 5, 60), (4, 5, 1), (1, 1, 1)])
def test_expanded_logits(check, name, tau, expanded):
    shape = (4, 5, 60)
    logits, g, h = torch.randn(expanded).expand(shape), torch.randn(shape), torch.randn(shape)
    expected = run(name, logits.clone(), g, h, seed=1, tau=tau)
    check(run(name, logits, g, h, seed=1, tau=tau), expected)
    # Through the expansion, the gradients of all copies arrive at the one row.
    leaf = logits[tuple(slice(n) for n in expanded)].clone().requires_grad_()
    one_hot, probs = ESTIMATORS[name](leaf.expand(shape), seed=1, tau=tau)
    (grad,) = torch.autograd.grad([one_hot, probs], leaf, [g, h])
    torch.testing.assert_close(grad, expected[2].sum_to_size(expanded), rtol=1e-5, atol=1e-5)


def test_overlapping_rows(check, name, tau):
    # Windows over one buffer, as torch.as_strided and Tensor.unfold make them.
    windows = torch.randn(60).unfold(0, 21, 3)
    assert windows.stride() == (3, 1)
    g, h = torch.randn(windows.shape), torch.randn(windows.shape)
    expected = run(name, windows.clone(), g, h, seed=1, tau=tau)
    check(run(name, windows, g, h, seed=1, tau=tau), expected)


def test_channels_last(check, name, tau):
    logits, g, h = (torch.randn(2, 9, 4, 5) for _ in range(3))
    expected = run(name, logits, g, h, dim=1, seed=1, tau=tau)
    images = [t.contiguous(memory_format=torch.channels_last) for t in (logits, g, h)]
    assert images[0].stride() == (180, 1, 45, 9)
    check(run(name, *images, dim=1, seed=1, tau=tau), expected)
    rows = [t.movedim(1, -1).contiguous() for t in (logits, g, h)]
    check([t.movedim(-1, 1) for t in run(name, *rows, seed=1, tau=tau)], expected)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_outputs_are_ordinary_tensors(backend, name, dim):
    # Contiguous with the categories last, owning their memory: writing to one changes nothing else.
    logits = torch.randn(3, 4, 5)
    one_hot, probs = ESTIMATORS[name](logits.mT.contiguous().mT, dim=dim)
    assert one_hot.movedim(dim, -1).is_contiguous()
    assert probs.movedim(dim, -1).is_contiguous()
    before = probs.clone(), logits.clone()
    one_hot.fill_(3.0)
    check_equal((probs, logits), before)


# Masks.

MASK_LAYOUTS = {
    "contiguous": lambda m: m,
    "transposed": lambda m: m.mT.contiguous().mT,
    "sliced": lambda m: m.repeat_interleave(2, -1)[..., ::2],
    "sliced rows": lambda m: m.repeat_interleave(2, -2)[..., ::2, :],
    "misaligned": lambda m: torch.cat([torch.zeros(1, dtype=torch.bool), m.flatten()])[1:].view(m.shape),
    "batch last": batch_last,
}


@pytest.mark.parametrize("shape", [(3, 4, 70), (3, 1, 70), (1, 4, 70), (1, 1, 70), (3, 4, 1), (4, 70), (4, 1), (1, 70)])
@pytest.mark.parametrize("layout", MASK_LAYOUTS)
@pytest.mark.parametrize("logits_layout", [lambda x: x, batch_last, column_slice])
def test_layouts_of_the_mask(check, name, tau, shape, layout, logits_layout):
    logits, g, h = (torch.randn(3, 4, 70) for _ in range(3))
    mask = torch.rand(shape) < 0.5
    mask[..., -1] = True
    expected = run(name, logits.masked_fill(~mask, -torch.inf), g, h, seed=1, tau=tau)
    mask, logits = MASK_LAYOUTS[layout](mask), logits_layout(logits)
    check(run(name, logits, g, h, mask=mask, seed=1, tau=tau), expected)
    check(run(name, logits, g, h, mask=mask.expand(3, 4, 70), seed=1, tau=tau), expected)


@pytest.mark.parametrize("shape", [(3, 6, 4), (3, 6, 1), (1, 6, 4), (6, 1), (6, 4), (1, 4), (4,), ()])
def test_masks_with_the_categories_in_the_middle(check, name, tau, shape):
    logits, g, h = (torch.randn(3, 6, 4) for _ in range(3))
    mask = torch.rand(shape) < 0.5
    if len(shape) > 1 and shape[-2] == 6:
        mask[..., 2, :] = True
    else:
        mask[...] = True
    expected = run(name, logits.masked_fill(~mask, -torch.inf), g, h, dim=1, seed=1, tau=tau)
    check(run(name, logits, g, h, dim=1, mask=mask, seed=1, tau=tau), expected)


# Anything at all.


@st.composite
def layouts(draw, shape):
    ndim = len(shape)
    order = draw(st.permutations(range(ndim)))
    steps, starts = (draw(st.tuples(*[st.integers(low, 3)] * ndim)) for low in (1, 0))
    return lambda values: like(values, order, steps, starts)


@st.composite
def problems(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    dim = draw(st.integers(-len(shape), len(shape) - 1))
    shape[dim] = draw(st.sampled_from([1, 2, 3, 5, 8, 17, 33, 100, 1025]))
    mask_shape = draw(st.none() | st.tuples(*(st.sampled_from([1, n]) for n in shape)))
    mask = None
    if mask_shape is not None:
        mask = torch.rand(mask_shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) < 0.6
        mask.select(dim, draw(st.integers(0, mask_shape[dim] - 1))).fill_(True)
        mask = draw(layouts(mask.shape))(mask)
        drop = draw(st.integers(0, next((i for i, n in enumerate(mask.shape) if n > 1), mask.ndim)))
        mask = mask.reshape(mask.shape[drop:]) if drop else mask
    options = {
        "dim": dim,
        "mask": mask,
        "tau": draw(st.sampled_from([1.0, 0.5, 3.0])),
        "seed": draw(st.integers(-(2**63), 2**64 - 1)),
        "offset": draw(st.integers(0, 2**64 - 1)),
        "row_offset": draw(st.sampled_from([0, 1, 2**32 - 1, 2**63 - 1])),
    }
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
    return tuple(shape), dtype, [draw(layouts(shape)) for _ in range(3)], options


@given(problems())
def test_any_layout(check, name, problem):
    shape, dtype, changes, options = problem
    generator = torch.Generator().manual_seed(math.prod(shape))
    tensors = [torch.randn(shape, generator=generator).to(dtype) for _ in range(3)]
    changed = [change(t) for change, t in zip(changes, tensors, strict=True)]
    ours = run(name, *changed, **options)
    check(ours, run(name, *tensors, **options))
    tau, dim = options.pop("tau"), options["dim"]
    assert torch.equal(sample(changed[0], **options), ours[0].argmax(dim))

    # And every backend agrees with the reference: exactly on what is drawn, to rounding on the rest.
    with reinmax_kernels.backend("reference"):
        check_close(ours, run(name, *tensors, tau=tau, **options))

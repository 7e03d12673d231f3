"""What kernels of codebook lookups for a GPU have to give, beside the reference: cases that all ways to run them share.

The fixture `executed` is as in `device_results`.
"""

import pytest
import torch
from device_results import random, seed

from reinmax_kernels import codebook_ops

REFERENCE = codebook_ops.OPS["reference"]
BACKWARDS = ["codebook_reinmax_backward", "codebook_straight_through_backward"]
ESTIMATORS = [("codebook_reinmax_backward", None), ("codebook_reinmax_backward", 0.5), (BACKWARDS[1], None)]  # and tau
STREAM = 2**62 + 5, 2**32 - 20  # offset and row_offset
SAME = [  # N, C, d and the dtype of logits and codebook
    (3, 1, 1, torch.float32),
    (5, 2, 3, torch.float64),
    (67, 100, 40, torch.float32),
    (35, 70, 17, torch.float64),
    (2, 1030, 5, torch.float64),
    (1, 1500, 33, torch.float32),
]
SAME_HALF = [(70, 33, 20, torch.bfloat16), (3, 130, 65, torch.float16), (3, 1100, 16, torch.bfloat16)]
MIXED = [  # N, C, d and the dtypes of logits and codebook
    (9, 64, 16, torch.float32, torch.bfloat16),
    (4, 65, 8, torch.float64, torch.float16),
    (4, 65, 8, torch.bfloat16, torch.float64),
]


def target_of(logits, codebook):
    """A compute capability whose instructions for this product the PTX interpreter knows."""
    return 80 if codebook.element_size() == 2 and logits.dtype != torch.float64 else 90


def assert_close(found, truth, tolerance):
    """But for the rounding to the dtype, where Triton's interpreter cuts bfloat16 off, and a tolerance of what was
    computed before.
    """
    eps = torch.finfo(found.dtype).eps
    assert ((found.double() - truth).abs() <= eps * truth.abs() + tolerance).all()


class CodebookLookup:
    """Forward."""

    @pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
    @pytest.mark.parametrize(
        ("rows", "categories", "d", "dtype"),
        [
            *SAME[:4],
            *SAME_HALF[:2],
            (2, 1030, 1025, torch.float32),
            (2, 5000, 2, torch.float64),
            (2, 2050, 2, torch.bfloat16),
        ],
    )
    def test_values(self, executed, rows, categories, d, dtype, masked):
        logits, codebook = random((rows, categories), dtype, 2), random((categories, d), dtype)
        mask = None
        if masked:
            mask = torch.rand(rows, categories) < 0.7
            mask[:, 0] = True
            logits = logits.masked_fill(~mask, torch.nan)
        self.check(executed, logits, codebook, seed(-9), mask)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_values_of_long_rows_in_parts(self, executed, dtype):
        self.check(executed, random((1, 16385), dtype), random((16385, 3), torch.float32), seed(), None, 132)

    def check(self, executed, logits, codebook, seeds, mask, processors=None):
        operands = logits, codebook, seeds, mask, *STREAM
        expected = REFERENCE["codebook_lookup"](*operands)
        with executed(processors=processors) as device:
            vectors, index, log_sum_exp = device.codebook_lookup(*operands)
        assert torch.equal(index, expected[1])
        assert torch.equal(vectors, expected[0])
        assert vectors.dtype == codebook.dtype
        tolerance = 1e-13 if logits.dtype == torch.float64 else 1e-6
        torch.testing.assert_close(log_sum_exp, expected[2], rtol=0, atol=tolerance)

    def test_seeds_of_groups_and_strides(self, executed):
        logits, codebook = torch.randn(12, 2, 3).movedim(0, -1), torch.randn(7, 24)[:, ::2].T
        self.check(executed, logits, codebook, seed(1, -2, 2**62), None)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("categories", [5, 1100])
    def test_a_row_without_a_distribution_disturbs_no_other(self, executed, categories, value):
        logits, codebook, v = torch.randn(3, categories), torch.randn(categories, 4), torch.randn(3, 4)
        expected = REFERENCE["codebook_lookup"](logits, codebook, seed(), None, 0, 0)
        logits[1, slice(None) if value == -torch.inf else -1] = value
        with executed() as device:
            vectors, index, log_sum_exp = device.codebook_lookup(logits, codebook, seed(), None, 0, 0)
            grads = [getattr(device, name)(v, codebook, logits, index, log_sum_exp, None, None) for name in BACKWARDS]
        assert index[1] == 0
        assert log_sum_exp[1].isnan()
        assert torch.equal(vectors[1], codebook[0])
        assert torch.equal(vectors[::2], expected[0][::2])
        for grad in grads:
            assert grad[1].isnan().all()
            assert grad[::2].isfinite().all()

    def test_no_rows(self, executed):
        logits, codebook = torch.randn(0, 5), torch.randn(5, 3)
        with executed() as device:
            vectors, index, log_sum_exp = device.codebook_lookup(logits, codebook, seed(), None, 0, 0)
            grads = [
                getattr(device, name)(vectors, codebook, logits, index, log_sum_exp, None, None) for name in BACKWARDS
            ]
            grad_codebook = device.codebook_gradient(vectors, index, 5)
        assert (vectors.shape, index.shape, log_sum_exp.shape) == ((0, 3), (0,), (0,))
        assert all(grad.shape == (0, 5) for grad in grads)
        assert torch.equal(grad_codebook, torch.zeros(5, 3))


class CodebookBackwardOfReals:
    """The gradient of the logits, where all are float32 or float64."""

    @pytest.mark.parametrize("processors", [None, 132])
    @pytest.mark.parametrize(("rows", "categories", "d", "dtype"), SAME)
    @pytest.mark.parametrize(("name", "tau"), ESTIMATORS)
    def test_gradients(self, executed, name, tau, rows, categories, d, dtype, processors):
        logits, codebook = random((rows, categories), dtype, 2), random((categories, d), dtype)
        self.check(executed, name, random((rows, d), dtype), codebook, logits, tau, processors=processors)

    def check(self, executed, name, v, codebook, logits, tau, mask=None, processors=None):
        _, index, log_sum_exp = REFERENCE["codebook_lookup"](logits, codebook, seed(), mask, 0, 0)
        tau = None if tau is None else torch.tensor(tau, dtype=torch.float64)
        with executed(target_of(logits, codebook), processors=processors) as device:
            grad = getattr(device, name)(v, codebook, logits, index, log_sum_exp, mask, tau)
        assert grad.dtype == logits.dtype
        truth = REFERENCE[name](v.double(), codebook.double(), logits.double(), index, log_sum_exp, mask, tau)
        scale = 1 + codebook.shape[1] ** 0.5  # of a product, whose terms are of size 1
        assert_close(grad, truth, scale * (4e-14 if logits.dtype == torch.float64 else 4e-6))

    @pytest.mark.parametrize("of_each_row", [False, True])
    @pytest.mark.parametrize("codes", [100, 1200])
    @pytest.mark.parametrize(("name", "tau"), ESTIMATORS)
    def test_masks_and_what_a_forbidden_code_holds(self, executed, name, tau, codes, of_each_row):
        self.check_masks(executed, name, tau, torch.float32, codes, of_each_row)

    @pytest.mark.parametrize("shape", [(5, 1), (2, 3, 1), (3, 1)])
    @pytest.mark.parametrize("name", BACKWARDS)
    def test_a_mask_of_whole_rows(self, executed, name, shape):
        """Of as many rows as there are categories, too. Without one a row has no distribution."""
        codes = 5 if len(shape) == 2 else 6
        logits, codebook = torch.randn(*shape[:-1], codes), torch.randn(codes, 4)
        v, mask = torch.randn(*shape[:-1], 4), torch.ones(shape, dtype=torch.bool)
        mask.view(-1)[2] = False
        _, index, log_sum_exp = REFERENCE["codebook_lookup"](logits, codebook, seed(), None, 0, 0)
        log_sum_exp.view(-1)[2] = torch.nan
        with executed(90) as device:
            grad = getattr(device, name)(v, codebook, logits, index, log_sum_exp, mask, None)
        truth = REFERENCE[name](v, codebook, logits, index, log_sum_exp, None, None)
        rows, known = grad.view(-1, codes), [i for i in range(mask.numel()) if i != 2]
        assert rows[2].isnan().all()
        assert torch.allclose(rows[known], truth.view(-1, codes)[known], atol=1e-5)

    @pytest.mark.parametrize("name", BACKWARDS)
    def test_what_carries_a_gradient(self, executed, name):
        logits, codebook, v = torch.randn(3, 7), torch.randn(7, 4), torch.randn(3, 4)
        _, index, log_sum_exp = REFERENCE["codebook_lookup"](logits, codebook, seed(), None, 0, 0)
        with executed(90) as device:
            op = getattr(device, name)
            expected = op(v, codebook, logits, index, log_sum_exp, None, None)
            found = op(v.requires_grad_(), codebook.requires_grad_(), logits, index, log_sum_exp, None, None)
        assert torch.equal(found, expected)

    @pytest.mark.parametrize("name", BACKWARDS)
    def test_no_rows_have_no_gradient(self, executed, name):
        nothing = torch.zeros(0, dtype=torch.int64)
        with executed(90) as device:
            grad = getattr(device, name)(
                torch.randn(0, 3), torch.randn(5, 3), torch.randn(0, 5), nothing, nothing.double(), None, None
            )
        assert grad.shape == (0, 5)

    def check_masks(self, executed, name, tau, dtype, codes=100, of_each_row=False):
        mask = torch.rand(codes) < 0.7
        mask[0] = True
        logits, codebook = random((5, codes), dtype).masked_fill(~mask, torch.nan), random((codes, 6), dtype)
        codebook[~mask] = torch.nan
        v = random((5, 6), dtype)
        clean = codebook.nan_to_num(nan=1.0)
        _, index, log_sum_exp = REFERENCE["codebook_lookup"](logits, clean, seed(), mask, 0, 0)
        given = None if tau is None else torch.tensor(tau, dtype=torch.float64)
        allowed = mask.expand(5, -1) if of_each_row else mask
        with executed(target_of(logits, codebook)) as device:
            grad = getattr(device, name)(v, codebook, logits, index, log_sum_exp, allowed, given)
        assert (grad[:, ~mask] == 0).all()
        truth = REFERENCE[name](v.double(), clean.double(), logits.double(), index, log_sum_exp, mask, given)
        assert_close(grad, truth, 2e-5)

    @pytest.mark.parametrize("name", BACKWARDS)
    def test_strides(self, executed, name):
        logits, codebook = torch.randn(40, 2, 3).movedim(0, -1), torch.randn(9, 80)[:, ::2].T
        for v in (torch.randn(9, 2, 3).movedim(0, -1), torch.ones(()).expand(2, 3, 9)):
            self.check(executed, name, v, codebook, logits, 0.9)

    @pytest.mark.parametrize(("name", "tau"), [(name, tau) for name in BACKWARDS for tau in (1e-2, 1e4)])
    def test_logits_far_apart(self, executed, name, tau):
        logits, codebook, v = 1e4 * torch.randn(5, 70), torch.randn(70, 4), torch.randn(5, 4)
        logits[::2, 1:] = -torch.inf
        self.check(executed, name, v, codebook, logits, tau)


class CodebookBackward(CodebookBackwardOfReals):
    """The same of all types."""

    @pytest.mark.parametrize("processors", [None, 132])
    @pytest.mark.parametrize(("rows", "categories", "d", "dtype"), SAME_HALF)
    @pytest.mark.parametrize(("name", "tau"), ESTIMATORS)
    def test_gradients_of_half_types(self, executed, name, tau, rows, categories, d, dtype, processors):
        self.test_gradients(executed, name, tau, rows, categories, d, dtype, processors)

    @pytest.mark.parametrize(("rows", "categories", "d", "dtype", "codebook_dtype"), MIXED)
    @pytest.mark.parametrize(("name", "tau"), ESTIMATORS)
    def test_gradients_of_mixed_types(self, executed, name, tau, rows, categories, d, dtype, codebook_dtype):
        logits, codebook = random((rows, categories), dtype, 2), random((categories, d), codebook_dtype)
        self.check(executed, name, random((rows, d), codebook_dtype), codebook, logits, tau)

    @pytest.mark.parametrize(("name", "tau"), ESTIMATORS)
    def test_masks_of_half_types(self, executed, name, tau):
        self.check_masks(executed, name, tau, torch.bfloat16)


class CodebookGradient:
    """The gradient of the codebook."""

    @pytest.mark.parametrize(
        ("rows", "codes", "d", "dtype"),
        [
            (1, 1, 1, torch.float32),
            (128, 3, 5, torch.float64),
            (129, 2, 130, torch.bfloat16),
            (700, 40, 6, torch.float32),
            (300, 1000, 33, torch.float64),
            (385, 1, 4, torch.float16),
            (2100, 900, 3, torch.float32),
            (1100, 2**23, 1, torch.float16),
        ],
    )
    def test_sums(self, executed, rows, codes, d, dtype):
        index = torch.randint(codes, (rows,))
        index[-1] = codes - 1
        if codes > 3:
            index[:300] = 3  # one code that several programs share
        self.check(executed, random((rows, d), dtype), index, codes)

    @pytest.mark.parametrize("before", [0, 1, 31, 32, 33, 127, 128, 129])
    def test_codes_that_begin_and_end_anywhere(self, executed, before):
        """Of codes drawn 256 times, in pieces of 128 rows or of 32."""
        index = torch.cat([torch.zeros(before, dtype=torch.int64), *(torch.full((256,), code) for code in (2, 5, 6))])
        self.check(executed, torch.randn(len(index), 3).double(), index, 8)

    def test_strides(self, executed):
        index = torch.randint(5, (3, 4)).T
        self.check(executed, torch.randn(2, 4, 3).movedim(0, -1), index, 5)

    def test_a_row_without_a_number_disturbs_no_other_code(self, executed):
        v, index = torch.randn(40, 3), torch.arange(40) % 7
        v[9] = torch.nan
        with executed() as device:
            grad = device.codebook_gradient(v, index, 8)
        assert grad[2].isnan().all()
        assert grad[torch.arange(8) != 2].isfinite().all()

    def check(self, executed, v, index, codes):
        with executed() as device:
            grad = device.codebook_gradient(v, index, codes)
        expected = REFERENCE["codebook_gradient"](v.double(), index, codes)
        assert (grad.shape, grad.dtype) == ((codes, v.shape[-1]), v.dtype)
        assert_close(grad, expected, 1e-13)
        assert (grad[index.flatten().bincount(minlength=codes) == 0] == 0).all()


class CodebookGradientBySorting(CodebookGradient):
    """The same of the CUDA kernels, which sort the rows themselves."""

    def test_no_rows(self, executed):
        with executed() as device:
            grad = device.codebook_gradient(torch.randn(0, 3), torch.zeros(0, dtype=torch.int64), 5)
        assert torch.equal(grad, torch.zeros(5, 3))

    def test_the_order_of_sums_is_that_of_the_rows(self, executed):
        """But for the last of them the terms cancel out in this order, and in no other one that a sort might give."""
        index = torch.tensor([1, 0]).repeat(1200)
        index[6:] = 2
        v = torch.zeros(2400, 1, dtype=torch.float64)
        v[:6:2, 0] = torch.tensor([1e20, -1e20, 1.0])
        v[1:6:2, 0] = torch.tensor([1.0, 1e20, -1e20])
        with executed() as device:
            assert device.codebook_gradient(v, index, 3).flatten().tolist() == [0, 1, 0]

    def test_an_index_that_is_no_code_counts_for_none(self, executed):
        index = torch.randint(5, (1200,))
        v, spoilt = torch.randn(1200, 2).double(), torch.rand(1200) < 0.2
        expected = REFERENCE["codebook_gradient"](v[~spoilt], index[~spoilt], 5)
        index[spoilt] = torch.tensor([-1, 5, 2**40, -(2**63)])[torch.randint(4, (int(spoilt.sum()),))]
        with executed() as device:
            assert_close(device.codebook_gradient(v, index, 5), expected, 1e-13)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_vectors_at_odd_addresses(self, executed, dtype):
        index = torch.randint(5, (40,))
        self.check(executed, random((40 * 4 + 1,), dtype)[1:].view(40, 4), index, 5)
        self.check(executed, random((40, 5), dtype)[:, :4], index, 5)

"""The sampling contract: known answers, exactness of its integer arithmetic, and the law of the draws."""

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch
from boundaries import counter_for, edges
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import reinmax_kernels
from reinmax_kernels import sample
from reinmax_kernels.reference import contract

VECTORS = np.load(Path(__file__).parent / "data" / "contract_vectors.npz")
NAMES = [name.removesuffix("_index") for name in VECTORS.files if name.endswith("_index")]
SAME_SEED = [name for name in NAMES if not name.startswith("group")]


def vector(name):
    """Logits, arguments of `sample`, and the index that they must give."""
    seed, offset, row_offset, *number = VECTORS[f"{name}_args"].tolist()
    for d in number:  # the d-th draw of a row has d in the highest byte of the offset
        offset = ctypes.c_int64(offset ^ (d << 56)).value
    if f"{name}_seeds" in VECTORS:
        seed = torch.from_numpy(VECTORS[f"{name}_seeds"])
    logits, index = (torch.from_numpy(VECTORS[f"{name}_{part}"]) for part in ("logits", "index"))
    return logits, {"seed": seed, "offset": offset, "row_offset": row_offset}, index


# Known answers.


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    counter, key = (tuple(torch.tensor([word]) for word in words) for words in (counter, key))
    assert [word.item() for word in contract.philox(counter, key)] == expected


def test_the_vectors_reach_every_path():
    categories = {VECTORS[f"{name}_logits"].shape[-1] for name in NAMES}
    assert {1, 2, 3, 33, 1023, 1024, 1025, 32768} <= categories
    assert len(SAME_SEED) >= 34


@pytest.mark.parametrize("name", NAMES)
def test_vectors(backend, threads, name):
    logits, args, index = vector(name)
    assert torch.equal(sample(logits, **args), index)


@pytest.mark.parametrize("name", NAMES)
def test_vectors_through_the_one_hot(backend, name):
    logits, args, index = vector(name)
    one_hot, _ = reinmax_kernels.reinmax(logits, **args)
    assert torch.equal(one_hot, torch.nn.functional.one_hot(index, logits.shape[-1]).to(logits.dtype))


@pytest.mark.parametrize("name", SAME_SEED)
@pytest.mark.parametrize("parts", [2, 5])
def test_a_split_batch_continues_with_row_offset(backend, name, parts):
    logits, args, index = vector(name)
    row_offset, drawn = args.pop("row_offset"), []
    for part in logits.tensor_split(parts):
        drawn.append(sample(part, **args, row_offset=row_offset))
        row_offset += len(part)
    assert torch.equal(torch.cat(drawn), index)


def test_groups_split_between_and_inside(backend):
    logits, args, index = vector("group00")
    seeds, row_offset, offset = args["seed"], args["row_offset"], args["offset"]
    per_seed = len(logits) // len(seeds)
    halves = [
        sample(logits[half * 2 * per_seed :][: 2 * per_seed], seed=pair, offset=offset, row_offset=row_offset)
        for half, pair in enumerate(seeds.split(2))
    ]
    assert torch.equal(torch.cat(halves), index)
    for group, seed in enumerate(seeds.tolist()):
        rows = slice(group * per_seed, (group + 1) * per_seed)
        one = [
            sample(part, seed=seed, offset=offset, row_offset=row_offset + start)
            for start, part in ((0, logits[rows][:4]), (4, logits[rows][4:]))
        ]
        assert torch.equal(torch.cat(one), index[rows])


@pytest.mark.parametrize("name", ["case01", "case06", "case18", "case28", "case29"])
def test_a_seed_is_its_64_bits_however_it_is_spelt(backend, name):
    logits, args, index = vector(name)
    seed = args.pop("seed")
    spellings = [seed, seed % 2**64, torch.tensor(seed), torch.tensor([seed]), np.int64(seed)]
    for spelling in spellings:
        assert torch.equal(sample(logits, seed=spelling, **args), index)


@pytest.mark.parametrize("name", ["case28", "case29"])
def test_offset_and_row_offset_are_their_64_bits(backend, name):
    logits, args, index = vector(name)
    args["offset"] %= 2**64
    assert torch.equal(sample(logits, **args), index)
    # Row numbers wrap at 2**64 and are unsigned: the second row follows the row before it across the wrap.
    both = sample(logits[:1].expand(2, -1), seed=1, row_offset=2**64 - 1)
    alone = [sample(logits[:1], seed=1, row_offset=row).item() for row in (-1, 0)]
    assert both.tolist() == alone


@pytest.mark.parametrize(("n", "c"), [(9001, 3), (3001, 33), (1001, 500), (257, 1025), (5, 70001), (1, 2**20 + 1)])
def test_batches_large_enough_to_be_shared_between_threads(backend, threads, n, c):
    logits = 3 * torch.randn(n, c)
    with reinmax_kernels.backend("reference"):
        expected = sample(logits, seed=11, offset=2, row_offset=5)
    assert torch.equal(sample(logits, seed=11, offset=2, row_offset=5), expected)


# The arithmetic.

words32 = st.integers(0, 2**32 - 1)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**62))
def test_multiply_high_is_exact(u, v):
    uniform = torch.tensor([u & 0xFFFFFFFF]), torch.tensor([u >> 32])
    assert contract.multiply_high(uniform, torch.tensor([v])).item() == u * v >> 64


@pytest.mark.parametrize("u", [0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1])
@pytest.mark.parametrize("v", [0, 1, 2**31 - 1, 2**31, 2**39, 2**49, 2**62 - 1, 2**62])
def test_multiply_high_is_exact_at_the_edges(u, v):
    uniform = torch.tensor([u & 0xFFFFFFFF]), torch.tensor([u >> 32])
    assert contract.multiply_high(uniform, torch.tensor([v])).item() == u * v >> 64


@given(words32, words32)
def test_multiply32_is_exact(a, b):
    low, high = contract._multiply32(torch.tensor([a]), b)
    assert (low.item(), high.item()) == (a * b & 0xFFFFFFFF, a * b >> 32)


def test_exp2_is_as_good_as_float32_can_hold():
    t = torch.cat([-64 * torch.rand(1_000_000), -torch.rand(100_000), -torch.logspace(-30, 1.8, 10_000)])
    truth = torch.exp2(t.double())
    assert ((contract.exp2(t).double() - truth) / truth).abs().max() < 1.3e-7
    assert contract.exp2(torch.zeros(1)).item() == 1.0
    assert torch.equal(contract.exp2(-torch.arange(64.0)), 2.0 ** -torch.arange(64.0))
    assert contract.exp2(torch.tensor([-1e30])).item() == 2.0**-64


# As the contract's text gives them; a coefficient one unit off in its last place would move draws only once in 2**25.
COEFFICIENTS = (
    1.534581242594868e-4,
    1.3399930903688073e-3,
    9.618489071726799e-3,
    5.550328642129898e-2,
    2.4022646248340607e-1,
    6.931471824645996e-1,
    1.0,
)


def test_exp2_rounds_as_a_fused_multiply_add_does():
    # An 80-bit accumulator holds more of each step than float64 does; if double rounding showed anywhere in the
    # float64 stand-in, the two would differ there.
    if np.finfo(np.longdouble).nmant < 63:
        pytest.skip("long double is no wider than float64 on this machine")
    f = (torch.rand(1_000_000) - 0.5).numpy()
    t = torch.from_numpy(f) - 1  # n = -1 or, at the ends, -2 or 0
    n = t.round()
    remainder = (t - n).numpy().astype(np.longdouble)
    value = np.full_like(f, np.float32(COEFFICIENTS[0]))
    for coefficient in COEFFICIENTS[1:]:
        value = (value.astype(np.longdouble) * remainder + np.float32(coefficient)).astype(np.float32)
    assert torch.equal(contract.exp2(t), torch.ldexp(torch.from_numpy(value), n))


# The law of the draws.


def weights(x, monkeypatch):
    """The integer weights that a draw from float32 logits [C] used: chunk weights, and the elements' chunk by chunk."""
    seen = []

    def first_above(weight, target):
        seen.append(weight)
        return original(weight, target)

    original = contract._first_above
    monkeypatch.setattr(contract, "_first_above", first_above)
    contract.draw(x[None], torch.tensor([0]), 0, 0)
    chunk_weight = seen[0][0]
    seen.clear()
    chunks = x.split(contract.CHUNK)
    for chunk in chunks:  # a chunk's weights depend on the chunk alone
        contract.draw(chunk[None], torch.tensor([0]), 0, 0)
    return chunk_weight, [q[0, : len(chunk)] for q, chunk in zip(seen[1::2], chunks, strict=True)]


def drawn_law(x, monkeypatch):
    """The exact distribution of the draw, in float64."""
    chunk_weight, elements = weights(x, monkeypatch)
    chunk = chunk_weight.double() / chunk_weight.sum().double()
    return torch.cat([p * q.double() / q.sum().double() for p, q in zip(chunk, elements, strict=True)])


def test_counters_can_be_chosen():
    at = counter_for(0x0123456789ABCDEF, 0xFEDCBA9876543210, seed=0x1122334455667788)
    offset, row = (ctypes.c_int64(at[name]).value for name in ("offset", "row_offset"))
    words = contract.row_bits(1, torch.tensor([0x1122334455667788]), offset, row)
    assert [word.item() for word in words] == [0x89ABCDEF, 0x01234567, 0x76543210, 0xFEDCBA98]


@pytest.mark.parametrize("c", [1, 2, 3, 5, 16, 17, 33, 100, 1024])
def test_the_draw_is_exact_at_every_boundary_of_a_chunk(backend, monkeypatch, c):
    x = 3 * torch.randn(c)
    x[1::5] = -torch.inf
    _, (q,) = weights(x, monkeypatch)
    drawn = [(i, sample(x, seed=9, **counter_for(0, u, seed=9)).item()) for i, u in edges(q.tolist())]
    assert [index for _, index in drawn] == [i for i, _ in drawn]


@pytest.mark.parametrize("c", [1025, 2048, 5000])
def test_the_draw_is_exact_at_every_boundary_between_chunks(backend, monkeypatch, c):
    x = 3 * torch.randn(c)
    x[1024 : 1024 + 512] = -torch.inf
    chunk_weight, elements = weights(x, monkeypatch)
    for k, u in edges(chunk_weight.tolist()):
        ends = list(edges(elements[k].tolist()))
        for i, v in (ends[0], ends[len(ends) // 2], ends[-1]):
            assert sample(x, seed=9, **counter_for(u, v, seed=9)).item() == 1024 * k + i


@pytest.mark.parametrize("scale", [1, 3, 8])
@pytest.mark.parametrize("c", [2, 3, 10, 100, 1024, 1025, 5000, 262144])
def test_the_drawn_law_is_the_softmax(monkeypatch, c, scale):
    # What is left is the rounding of the logits' differences, as in a float32 softmax, whose total variation distance
    # on the same logits goes up to 1e-6.
    x = scale * torch.randn(c)
    error = (drawn_law(x, monkeypatch) - x.double().softmax(0)).abs().sum() / 2
    assert error < 7e-8


@pytest.mark.parametrize(("gap", "relative_error"), [(0, 1e-15), (10, 1e-6), (18, 1e-4), (25, 0.065)])
def test_tails(monkeypatch, gap, relative_error):
    # x - m and its product with log2(e) are exact to one float32 rounding each, so a gap of g nats is off by at most
    # about g * 2**-23; the rounding of 2**39 e**-g to an integer adds to it, up to 6% at 25 nats.
    x = torch.tensor([0.0, -gap])
    _, (q,) = weights(x, monkeypatch)
    assert q[0] == 2**39
    assert q[1].item() / 2**39 == pytest.approx(np.exp(-gap), rel=relative_error)


def test_beyond_27_7_nats_a_weight_is_zero(monkeypatch):
    _, (q,) = weights(torch.tensor([0.0, -27.7, -27.8, -1000.0, -torch.inf]), monkeypatch)
    assert q.tolist() == [2**39, 1, 0, 0, 0]


def test_draws_at_a_gap_of_18_nats(backend):
    # A thousand rare categories first, so that a row draws one of them exactly when R2 is small. Looking at R2 tells
    # the few rows out of two million that can draw one, and only they need be drawn.
    rare, rows, seed = 1000, 2**21, 7
    x = torch.cat([torch.full((rare,), -18.0), torch.zeros(1)])
    mass = x.double().softmax(0)[:-1].sum().item()
    _, _, _, high = contract.row_bits(rows, torch.tensor([seed]), 0, 0)
    candidates = (high < 1.5 * mass * 2**32).nonzero().flatten().tolist()
    drawn = np.array([sample(x, seed=seed, row_offset=row).item() for row in candidates])
    drawn = drawn[drawn < rare]
    assert len(drawn) < len(candidates)  # else rows that drew a rare category were left out
    assert stats.binomtest(len(drawn), rows, mass).pvalue > 1e-4
    assert stats.kstest(drawn / rare, "uniform").pvalue > 1e-4


def rows_for(backend):
    """As many draws as take about a second."""
    return 2**13 if backend == "reference" else 2**19


def chi_square(counts, expected):
    """The p-value of counts, with categories too rare for the test put together."""
    order = np.argsort(expected)
    counts, expected = counts[order], expected[order]
    _, bins = np.unique(np.cumsum(expected) // 20, return_inverse=True)
    assert bins[-1] > 0
    return stats.chisquare(np.bincount(bins, counts), np.bincount(bins, expected)).pvalue


@pytest.mark.parametrize("c", [2, 3, 10, 33, 1000, 5000])
def test_draws_follow_the_softmax(backend, c):
    rows = rows_for(backend) // (4 if c > 1024 else 1)
    x = torch.randn(c)
    counts = sample(x.expand(rows, c), seed=c).bincount(minlength=c).numpy()
    assert chi_square(counts, rows * x.double().softmax(0).numpy()) > 1e-4


@pytest.mark.parametrize("c", [4, 4 * 1024])
@pytest.mark.parametrize("apart", ["rows", "offsets", "seeds", "draws"])
def test_neighbouring_draws_are_independent(backend, apart, c):
    rows = rows_for(backend) // (4 if c > 4 else 1)
    x = torch.tensor([0.0, 0.5, -0.5, 0.3]).repeat_interleave(c // 4).expand(rows, c)
    if apart == "rows":
        first, second = sample(x, seed=3).view(-1, 2).T
    else:
        first = sample(x, seed=3)
        change = {"offsets": {"offset": 1}, "seeds": {"seed": 4}, "draws": {"offset": 1 << 56}}[apart]
        second = sample(x, **({"seed": 3} | change))
    # Of many categories, the quarter shows how the chunk was drawn, the place in the chunk how the element was.
    for part in (lambda i: i // (c // 4), lambda i: i % 4):
        table = np.zeros((4, 4))
        np.add.at(table, (part(first).numpy(), part(second).numpy()), 1)
        assert stats.chi2_contingency(table[: 4 if c > 4 else None]).pvalue > 1e-4


def test_chunk_and_element_are_drawn_independently(backend):
    c, rows = 4096, rows_for(backend) // 4
    index = sample(torch.zeros(rows, c), seed=9).numpy()
    table = np.zeros((4, 8))
    np.add.at(table, (index // 1024, index % 1024 // 128), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-4
    assert chi_square(table.ravel(), np.full(32, rows / 32)) > 1e-4

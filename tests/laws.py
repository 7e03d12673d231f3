"""The estimators as the papers write them, in float64, and exact expectations over every possible draw.

Nothing here is shared with the library: where the two agree, both are right.
"""

import functools
import itertools

import numpy as np
import torch


def jacobian_product(q, v):
    """J(q) v = (diag(q) - q q^T) v, row by row."""
    return torch.einsum("...ij,...j->...i", torch.diag_embed(q) - q.unsqueeze(-1) * q.unsqueeze(-2), v)


def one_hot(index, categories):
    return torch.nn.functional.one_hot(index, categories).double()


def reinmax(logits, index, g, h, tau):
    """2 J((p + e) / 2) g - J(pi) g / 2 + J(pi) h."""
    logits, g, h = logits.double(), g.double(), h.double()
    pi, p, e = logits.softmax(-1), (logits / tau).softmax(-1), one_hot(index, logits.shape[-1])
    return 2 * jacobian_product((p + e) / 2, g) - jacobian_product(pi, g) / 2 + jacobian_product(pi, h)


def reinmax_algorithm_2(logits, index, g, tau):
    """Algorithm 2 of the paper line by line, differentiated by autograd. Finite logits only."""
    theta = logits.double().detach().requires_grad_()
    d = one_hot(index, theta.shape[-1])
    pi_0 = theta.softmax(-1)
    pi_1 = (d + (theta / tau).softmax(-1)) / 2
    pi_1 = ((pi_1.log() - theta).detach() + theta).softmax(-1)
    pi_2 = 2 * pi_1 - pi_0 / 2
    sample = pi_2 - pi_2.detach() + d
    return torch.autograd.grad(sample, theta, g.double())[0]


def straight_through(logits, index, g, h, tau):
    """J(p) g / tau + J(pi) h."""
    logits, g, h = logits.double(), g.double(), h.double()
    return jacobian_product((logits / tau).softmax(-1), g) / tau + jacobian_product(logits.softmax(-1), h)


GAP = 1.0


def gapped_straight_through(logits, index, g, h, tau, gap=GAP):
    """J(q) g / tau + J(pi) h, with q = softmax((theta + m1 - m2) / tau)."""
    logits, g, h = logits.double(), g.double(), h.double()
    e, largest = one_hot(index, logits.shape[-1]), logits.amax(-1, keepdim=True)
    drawn = logits.gather(-1, index.unsqueeze(-1))
    m1 = torch.where(e == 1, largest - drawn, 0)
    m2 = torch.where(e == 1, 0, torch.relu(logits - largest + gap))
    q = ((logits + m1 - m2) / tau).softmax(-1)
    return jacobian_product(q, g) / tau + jacobian_product(logits.softmax(-1), h)


def _philox(counter, key):
    """Philox4x32-10 of uint64 arrays that hold 32-bit words."""
    low = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, np.uint64) for c in counter))
    k0, k1 = (np.asarray(k, np.uint64) for k in key)
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> np.uint64(32)) ^ c1 ^ k0, p1 & low, (p0 >> np.uint64(32)) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return np.stack([c0, c1, c2, c3], -1)


def _splitmix64(x):
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def noise(seed, offset, row_offset, rows, categories, samples):
    """The contract's uniforms: [K, N, C], and [K, N] for two categories."""
    key = _splitmix64(seed % 2**64 ^ _splitmix64((offset + 1) % 2**64))
    key = key % 2**32, key >> 32
    row = np.array([(row_offset + i) % 2**64 for i in range(rows)], np.uint64)
    row = row & np.uint64(0xFFFFFFFF), row >> np.uint64(32)
    k, j = np.arange(samples, dtype=np.uint64), np.arange(categories, dtype=np.uint64)
    if categories == 2:
        words = _philox((0, k[:, None] // np.uint64(4), *row), key)
        word = np.take_along_axis(words, (k % np.uint64(4)).astype(np.int64)[:, None, None], -1)[..., 0]
    else:
        words = _philox((j // np.uint64(4), k[:, None, None], *(r[:, None] for r in row)), key)
        word = np.take_along_axis(words, (j % np.uint64(4)).astype(np.int64)[None, None, :, None], -1)[..., 0]
    return torch.from_numpy(((word >> np.uint64(9)).astype(np.float64) + 0.5) * 2.0**-23)


def gumbel_given_draw(logits, index, samples, seed=0, offset=0, row_offset=0):
    """Gumbel-perturbed logits [K, N, C] of which the drawn one is the largest, up to a constant a row and sample."""
    u = noise(seed, offset, row_offset, *logits.shape, samples)
    z, drawn = logits.logsumexp(-1, keepdim=True), index.unsqueeze(-1)
    if logits.shape[-1] == 2:  # the variate that two categories need stands for a ratio
        exponential = (u / (1 - u)).unsqueeze(-1).expand(-1, -1, 2).clone()
        log_drawn = torch.zeros_like(z)
    else:
        exponential = -u.log()
        log_drawn = exponential.gather(-1, drawn.expand(samples, -1, -1)).log()
    noisy = -torch.logaddexp(exponential.log() - logits, log_drawn - z)
    return noisy.scatter(-1, drawn.expand(samples, -1, -1), (z - log_drawn).expand(samples, -1, -1))


SAMPLES = 3


def gumbel_rao(logits, index, g, h, tau, samples=SAMPLES, **stream):
    """The mean over samples of J(softmax(G_k / tau)) g / tau, and J(pi) h."""
    logits, g, h = logits.double(), g.double(), h.double()
    noisy = gumbel_given_draw(logits.flatten(0, -2), index.flatten(), samples, **stream).unflatten(1, index.shape)
    s = (noisy / tau).softmax(-1)
    through_sample = (s * (g - (s * g).sum(-1, keepdim=True))).mean(0) / tau
    return through_sample + jacobian_product(logits.softmax(-1), h)


# Each of logits, index, g, h, tau; those of noise also of seed, offset and row_offset.
GRADIENTS = {
    "reinmax": reinmax,
    "straight_through": straight_through,
    "gapped_straight_through": gapped_straight_through,
    "gumbel_rao": gumbel_rao,
    "gumbel_softmax": functools.partial(gumbel_rao, samples=1),
}
NOISY = {"gumbel_rao": SAMPLES, "gumbel_softmax": 1}
OPS = {name: name for name in GRADIENTS} | {"gumbel_softmax": "gumbel_rao"}


def gradient(name, logits, index, g, h, tau, **stream):
    """What the estimator's gradient is, given the draw and the stream that it came from."""
    return GRADIENTS[name](logits, index, g, h, tau, **(stream if name in NOISY else {}))


BIT_ESTIMATORS = ("reinmax", "straight_through", "gumbel_softmax")


def bit_gradient(name, logits, bits, g, h, tau, **stream):
    """The gradient of an estimator of bits [N]: that of the categories (x, 0), of which the first is drawn for a 1."""

    def pairs(values):
        return torch.stack([values.double(), torch.zeros_like(values, dtype=torch.float64)], -1)

    index = 1 - bits.to(torch.int64)
    return gradient(name, pairs(logits), index, pairs(g), pairs(h), tau, **stream)[:, 0]


def expected_bit_gradient(name, overload, f, logits):
    """The exact mean of a bit estimator of the library, for the loss f(bits [N])."""
    op = getattr(getattr(torch.ops.reinmax_kernels, f"bernoulli_{name}_backward"), overload)
    total = torch.zeros_like(logits)
    for index, probability in draws(torch.stack([logits, torch.zeros_like(logits)], -1)):
        bits = (1 - index).double().requires_grad_()
        (g,) = torch.autograd.grad(f(bits), bits)
        total += probability * op(g, None, logits, bits.detach(), None, None)
    return total


def true_bit_gradient(f, logits):
    theta = logits.detach().requires_grad_()
    pairs = torch.stack([theta, torch.zeros_like(theta)], -1)
    mean = sum(probability * f((1 - index).double()) for index, probability in draws(pairs))
    return torch.autograd.grad(mean, theta)[0]


def own_arguments(name, seed=0, offset=0, row_offset=0):
    """What the estimator's op takes after what all take."""
    if name in NOISY:
        return torch.tensor([seed]), offset, row_offset, NOISY[name]
    return (GAP,) if name == "gapped_straight_through" else ()


def backward(name, overload, g, h, logits, index, mask=None, tau=None, **stream):
    """The library's backward for a draw of our choosing."""
    op = getattr(getattr(torch.ops.reinmax_kernels, f"{OPS[name]}_backward"), overload)
    x = logits.double() if mask is None else logits.double().masked_fill(~mask, -torch.inf)
    tau = None if tau is None else torch.tensor(tau, dtype=torch.float64)
    return op(g, h, logits, index, x.logsumexp(-1), mask, tau, *own_arguments(name, **stream))


def draws(logits):
    """Every joint draw from independent rows of logits [N, C], as (index [N], its probability)."""
    n, c = logits.shape
    probs = logits.double().softmax(-1)
    for index in itertools.product(range(c), repeat=n):
        index = torch.tensor(index)
        yield index, probs.gather(-1, index.unsqueeze(-1)).prod()


def expected_gradient(name, overload, f, logits):
    """The estimator's exact mean for the loss f(one_hot [N, C])."""
    total = torch.zeros_like(logits)
    for index, probability in draws(logits):
        sample = one_hot(index, logits.shape[-1]).requires_grad_()
        (g,) = torch.autograd.grad(f(sample), sample)
        total += probability * backward(name, overload, g, None, logits, index)
    return total


def true_gradient(f, logits):
    """The gradient of E[f(D)], by differentiating the sum over all draws."""
    theta = logits.detach().requires_grad_()
    mean = sum(probability * f(one_hot(index, theta.shape[-1])) for index, probability in draws(theta))
    return torch.autograd.grad(mean, theta)[0]

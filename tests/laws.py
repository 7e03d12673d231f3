"""The estimators as the papers write them, in float64, and exact expectations over every possible draw.

Nothing here is shared with the library: where the two agree, both are right.
"""

import itertools

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


GRADIENTS = {"reinmax": reinmax, "straight_through": straight_through}


def backward(name, overload, g, h, logits, index, mask=None, tau=None):
    """The library's backward for a draw of our choosing."""
    op = getattr(getattr(torch.ops.reinmax_kernels, f"{name}_backward"), overload)
    x = logits.double() if mask is None else logits.double().masked_fill(~mask, -torch.inf)
    tau = None if tau is None else torch.tensor(tau, dtype=torch.float64)
    return op(g, h, logits, index, x.logsumexp(-1), mask, tau)


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

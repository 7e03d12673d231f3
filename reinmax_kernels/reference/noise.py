"""The contract's noise: uniform and exponential variates for each element of a row, made anew where they are needed."""

import torch
from torch import Tensor

from .contract import philox, words

_GOLDEN = 0x9E3779B97F4A7C15
_MIXERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_WORD_BITS = 9  # dropped, so that what remains and a half fits a float32
UNIFORM_SCALE = 2.0**-23


def _signed(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """As if the 64 bits had no sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def splitmix64(x: Tensor) -> Tensor:
    """One step of SplitMix64 (Steele et al., OOPSLA 2014), element by element; products wrap around."""
    x = x + _signed(_GOLDEN)
    for bits, multiplier in _MIXERS:
        x = (x ^ _shift_right(x, bits)) * _signed(multiplier)
    return x ^ _shift_right(x, 31)


class Stream:
    """The noise of `rows` rows of `categories`, as the seeds and the offsets of their draw determine it."""

    def __init__(self, seed: Tensor, offset: int, row_offset: int, rows: int, categories: int) -> None:
        seeds = seed.reshape(-1)
        rows_per_seed = rows // max(seeds.numel(), 1)
        step = splitmix64(torch.full_like(seeds, offset) + 1)
        self._key = words(splitmix64(seeds ^ step).repeat_interleave(rows_per_seed).unsqueeze(-1))
        number = torch.arange(rows_per_seed, device=seed.device).repeat(seeds.numel()) + row_offset
        self._number = words(number.unsqueeze(-1))
        self._categories = categories

    def _uniform(self, first: Tensor, second: Tensor) -> Tensor:
        """[rows, 4 n] of counters that begin with n first and second words."""
        counter = (first, second, *self._number)
        drawn = torch.stack(philox(torch.broadcast_tensors(*counter), self._key), -1).flatten(-2)
        return ((drawn >> _WORD_BITS).double() + 0.5) * UNIFORM_SCALE

    def uniforms(self, sample: int) -> Tensor:
        """u in (0, 1) for each category, [rows, C], in float64: of Monte-Carlo sample number `sample`."""
        device = self._number[0].device
        quads = torch.arange(-(-self._categories // 4), device=device)
        return self._uniform(quads, torch.full_like(quads, sample))[:, : self._categories]

    def uniform_of_two(self, sample: int) -> Tensor:
        """The one u a sample that two categories need, [rows, 1]."""
        zero = torch.zeros(1, dtype=torch.int64, device=self._number[0].device)
        return self._uniform(zero, zero + sample // 4)[:, sample % 4].unsqueeze(-1)

    def exponential_ratios(self, sample: int, index: Tensor) -> Tensor:
        """E_j / E_D for each category j, [rows, C], where E are exponential variates and D is the category drawn."""
        drawn = index.unsqueeze(-1)
        if self._categories == 2:
            u = self.uniform_of_two(sample)
            return (u / (1 - u)).expand(-1, 2)
        exponentials = -self.uniforms(sample).log()
        return exponentials / exponentials.gather(-1, drawn)

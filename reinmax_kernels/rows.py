"""From what a user passes to what the ops take: the only checks of shape, dtype and value.

The ops see logits [..., C] with the categories last, whatever the strides. Every leading position is one row;
rows are counted in the order of the leading dimensions. Nothing here copies: moving a dimension is a view.
"""

import math
import numbers

import torch
from torch import Tensor

DTYPES = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
MAX_CATEGORIES = 2**23
MAX_EXPERTS = 1024
_INT64_SPAN = 2**64
_SEED_RANGE = 2**63 - 1  # the most that torch.randint takes


def categories_last(logits: Tensor, dim: int) -> Tensor:
    """The logits with their category dimension moved last, after every check that needs no values."""
    ndim = floating_point(logits, "logits").ndim
    if not -ndim <= dim < ndim:
        raise IndexError(f"dim: expected a value in [{-ndim}, {ndim - 1}] for {ndim}-dimensional logits, got {dim}")
    categories = logits.size(dim)
    if not 1 <= categories <= MAX_CATEGORIES:
        raise ValueError(f"logits: expected 1 to 2**23 categories along dim {dim}, got shape {tuple(logits.shape)}")
    return logits if dim in (-1, ndim - 1) else logits.movedim(dim, -1)


def floating_point(tensor: Tensor, name: str) -> Tensor:
    """The tensor, which has a dtype that kernels take."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name}: expected float16, bfloat16, float32 or float64, got {_name(tensor.dtype)}")
    return tensor


def mask_categories_last(mask: Tensor | None, logits: Tensor, dim: int) -> Tensor | None:
    """The mask as a view that broadcasts against `categories_last(logits, dim)`; `logits` as the user gave them."""
    mask = broadcast_mask(mask, logits)
    if mask is None:
        return None
    if dim in (-1, logits.ndim - 1):
        return mask if mask.ndim else mask.unsqueeze(-1)
    category_dim = dim % logits.ndim - (logits.ndim - mask.ndim)
    return mask.movedim(category_dim, -1) if category_dim >= 0 else mask.unsqueeze(-1)


def broadcast_mask(mask: Tensor | None, logits: Tensor) -> Tensor | None:
    """The mask, which broadcasts to the logits."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask: expected a boolean tensor, got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask: expected a boolean tensor (True = allowed), got {_name(mask.dtype)}")
    if mask.device != logits.device:
        raise ValueError(f"mask: expected it on {logits.device} like the logits, got {mask.device}")
    leading = logits.ndim - mask.ndim
    fits = leading >= 0 and all(m in (1, n) for m, n in zip(mask.shape, logits.shape[leading:], strict=True))
    if not fits:
        raise ValueError(
            f"mask: expected a shape that broadcasts to the logits' {tuple(logits.shape)}, got {tuple(mask.shape)}"
        )
    return mask


def seed_tensor(seed: int | Tensor | None, generator: torch.Generator | None, logits: Tensor) -> Tensor:
    """The seeds as an int64 tensor on the logits' device: one given, one per group of rows, or one drawn."""
    device = logits.device
    if seed is None:
        if generator is not None:
            _check_generator(generator, device)
        return torch.randint(_SEED_RANGE, (1,), generator=generator, device=device)
    if generator is not None:
        raise ValueError("seed, generator: expected at most one of them, got both")
    if not isinstance(seed, Tensor):
        return torch.full((1,), int64_bits(seed, "seed"), dtype=torch.int64, device=device)
    if seed.dtype != torch.int64:
        raise TypeError(f"seed: expected an int or an int64 tensor, got {_name(seed.dtype)}")
    if seed.device != device:
        raise ValueError(f"seed: expected it on {device} like the logits, got {seed.device}")
    if seed.ndim > 1 or seed.numel() == 0:
        raise ValueError(f"seed: expected G >= 1 seeds in one dimension, got shape {tuple(seed.shape)}")
    row_count = math.prod(logits.shape[:-1])
    if row_count % seed.numel():
        raise ValueError(f"seed: expected a number of seeds that divides the {row_count} rows, got {seed.numel()}")
    return seed


def _check_generator(generator: torch.Generator, device: torch.device) -> None:
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator, got {type(generator).__name__}")
    if generator.device.type != device.type or generator.device.index not in (None, device.index):
        raise ValueError(f"generator: expected one of {device} like the logits, got one of {generator.device}")


def int64_bits(value: int, name: str) -> int:
    """A 64-bit integer, signed or unsigned, as the signed integer of the same bits."""
    if type(value) is int and value == 0:  # the default, as in `tau_tensor`
        return value
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt, numbers.Integral)):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    if not -_INT64_SPAN // 2 <= value < _INT64_SPAN:
        raise ValueError(f"{name}: expected a value in [-2**63, 2**64), got {value}")
    if not isinstance(value, (int, torch.SymInt)):
        value = int(value)  # NumPy's integers overflow
    return value if value < _INT64_SPAN // 2 else value - _INT64_SPAN


def tau_tensor(tau: float | Tensor, device: torch.device) -> Tensor | None:
    """The temperature in float64 on the device, whatever the logits' dtype; None stands for 1, the fast path."""
    if type(tau) is float and tau == 1:  # the default, which nearly every call has: no more than this is spent on it
        return None
    if isinstance(tau, Tensor):
        if tau.dtype == torch.bool or tau.is_complex():
            raise TypeError(f"tau: expected a real number, got a tensor of {_name(tau.dtype)}")
        if tau.numel() != 1:
            raise ValueError(f"tau: expected a number or a tensor of one element, got shape {tuple(tau.shape)}")
        if tau.device.type == "cpu" and not torch.compiler.is_compiling():
            _check_tau(tau.item())
        return tau.detach().to(device, torch.float64).reshape(())
    if isinstance(tau, bool) or not isinstance(tau, (int, float, torch.SymFloat, numbers.Real)):
        raise TypeError(f"tau: expected a real number, got {type(tau).__name__}")
    _check_tau(tau)
    if tau == 1:
        return None
    # A product keeps tau symbolic under torch.compile, where `full` would compile anew for each value.
    return torch.ones((), dtype=torch.float64, device=device) * tau


def _check_tau(tau: float) -> None:
    if not 0 < tau < math.inf:
        raise ValueError(f"tau: expected a finite value > 0, got {tau}")


def gap_value(gap: float) -> float:
    """The gap of gapped straight-through as a float."""
    if isinstance(gap, bool) or not isinstance(gap, (int, float, torch.SymFloat, numbers.Real)):
        raise TypeError(f"gap: expected a real number, got {type(gap).__name__}")
    if not 0 <= gap < math.inf:
        raise ValueError(f"gap: expected a finite value >= 0, got {gap}")
    return float(gap)


def sample_count(num_samples: int) -> int:
    """The number of noise samples, at least one."""
    if isinstance(num_samples, bool) or not isinstance(num_samples, (int, torch.SymInt, numbers.Integral)):
        raise TypeError(f"num_samples: expected an int, got {type(num_samples).__name__}")
    if not 1 <= num_samples < 2**32:
        raise ValueError(f"num_samples: expected a value in [1, 2**32), got {num_samples}")
    return int(num_samples)


def router_logits(logits: Tensor, k: int) -> Tensor:
    """Logits [..., E] of which a router can choose k experts, after every check that needs no values."""
    categories_last(logits, -1)
    experts = logits.shape[-1]
    if not 2 <= experts <= MAX_EXPERTS:
        raise ValueError(f"logits: expected 2 to {MAX_EXPERTS} experts in the last dimension, got {experts}")
    if isinstance(k, bool) or not isinstance(k, (int, torch.SymInt, numbers.Integral)):
        raise TypeError(f"k: expected an int, got {type(k).__name__}")
    if not 1 <= k <= experts:
        raise ValueError(f"k: expected a value in [1, {experts}] for {experts} experts, got {k}")
    return logits


def jitter_value(jitter_eps: float) -> float:
    """The jitter of a router as a float."""
    if isinstance(jitter_eps, bool) or not isinstance(jitter_eps, (int, float, torch.SymFloat, numbers.Real)):
        raise TypeError(f"jitter_eps: expected a real number, got {type(jitter_eps).__name__}")
    if not 0 <= jitter_eps < math.inf:
        raise ValueError(f"jitter_eps: expected a finite value >= 0, got {jitter_eps}")
    return float(jitter_eps)


def codebook(codebook: Tensor, logits: Tensor) -> Tensor:
    """A codebook [C, d] for logits [..., C], after every check that needs no values."""
    floating_point(codebook, "codebook")
    if codebook.device != logits.device:
        raise ValueError(f"codebook: expected it on {logits.device} like the logits, got {codebook.device}")
    categories = logits.shape[-1]
    if codebook.ndim != 2 or codebook.shape[0] != categories or codebook.shape[1] < 1:
        raise ValueError(
            f"codebook: expected shape ({categories}, d) with d >= 1 for these logits, got {tuple(codebook.shape)}"
        )
    return codebook


def expert_index(index: Tensor, num_experts: int) -> Tensor:
    """An index of experts, after every check that needs no values."""
    if not isinstance(index, Tensor):
        raise TypeError(f"index: expected an int64 tensor, got {type(index).__name__}")
    if index.dtype != torch.int64:
        raise TypeError(f"index: expected an int64 tensor, got {_name(index.dtype)}")
    if isinstance(num_experts, bool) or not isinstance(num_experts, (int, torch.SymInt, numbers.Integral)):
        raise TypeError(f"num_experts: expected an int, got {type(num_experts).__name__}")
    if num_experts < 1:
        raise ValueError(f"num_experts: expected at least 1, got {num_experts}")
    return index


def require_experts(index: Tensor, num_experts: int) -> None:
    """Raises ValueError for the first position of a list [..., M] that holds no expert."""
    bad = (index < 0) | (index >= num_experts)
    if bad.any():
        at = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"index: expected experts in [0, {num_experts}), got {index[at].item()} at position {at[-1]}")


def require_experts_to_draw(logits: Tensor, mask: Tensor | None, valid: Tensor, k: int) -> None:
    """Raises ValueError for the first row of logits [..., E] that has fewer than k experts to draw; `valid` [N] tells
    which rows have a distribution.
    """
    if not valid.all():
        raise invalid_row(logits, mask)
    allowed = logits if mask is None else torch.where(mask, logits, -torch.inf)
    drawable = (allowed != -torch.inf).reshape(-1, logits.shape[-1]).sum(-1)
    if (drawable < k).any():
        row = int((drawable < k).nonzero()[0])
        raise ValueError(
            f"logits: row {row} of {len(drawable)} has {int(drawable[row])} experts above -inf; "
            f"expected at least k = {k}"
        )


def invalid_row(logits: Tensor, mask: Tensor | None) -> ValueError:
    """The error for the first row of logits [..., C] that has no distribution: which, and what it holds."""
    categories = logits.shape[-1]
    allowed = torch.ones((), dtype=torch.bool) if mask is None else mask
    allowed = allowed.expand(logits.shape).reshape(-1, categories)
    flat = logits.reshape(-1, categories).masked_fill(~allowed, -torch.inf)
    narrowed = flat.float()
    bad = flat.isnan() | (narrowed.isinf() & (flat != -torch.inf))
    row = int((bad.any(-1) | (flat == -torch.inf).all(-1)).nonzero()[0])
    if bad[row].any():
        category = int(bad[row].nonzero()[0])
        held = f"{_spell(flat[row, category].item())} at category {category}"
    elif not allowed[row].any():
        held = "no category that the mask allows"
    else:
        held = "only -inf"
    return ValueError(
        f"logits: row {row} of {len(flat)} holds {held}; expected numbers or -inf, at least one of them finite"
    )


def invalid_bit(logits: Tensor, allowed: Tensor) -> ValueError:
    """The error for the first of the allowed logits that no bit can be drawn with: which, and what it holds."""
    unusable = (allowed & (logits.isnan() | (logits.float().isinf() & ~logits.isinf()))).flatten()
    element = int(unusable.nonzero()[0])
    return ValueError(
        f"logits: element {element} of {logits.numel()} holds {_spell(logits.flatten()[element].item())}; "
        "expected numbers or infinities"
    )


def _spell(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+inf"
    return f"{value:g} (beyond float32, in which draws are made)"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

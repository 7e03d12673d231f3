"""The draw, and its dense form. A row of one chunk is held in registers. A longer one is read chunk by chunk, then once
more where it is to be written out, and the chosen chunk once more; where such rows are few, several programs share
each, in two launches.

Rows of 2 to 4 chunks could be held, too, by several warps together. On an H200 (Triton 3.6, float32, 2026-11-26) that
took 154 us for 8192 dense rows of 2048 categories and 296 us for as many of 4096; to read them again took 68 and
142 us, with these kernels as they were then, where what has to be moved takes 48 and 96 us at 4.2 TB/s. The machine
code says why: 146 and 152 instructions an element against 89 and 67, of reductions, scans and changes of layout in
which all warps take part; of the other dtypes it says the same. What is read again of so short a row, caches can serve:
its program has just read it.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import contract, launch, row
from .stream import Stream, position, position_of_row, stream_of

CHUNK = contract.CHUNK
_MOST_CHUNKS = 128  # that a program weighs, in registers


class Drawn(NamedTuple):
    """Where results go. None may be one-hot and probabilities together, and the log-sum-exp too where they are."""

    index: Any
    one_hot: Any
    probs: Any
    log_sum_exp: Any


class Chunks(NamedTuple):
    """Of chunks of a row, or of all rows [N, chunks]: the largest logit (in memory in the logits' dtype, or else in
    float32) and the sum of weights; of float64 logits whose probabilities are wanted, which keep their precision, also
    the log-sum-exp.
    """

    largest: Any
    total: Any
    log_sum_exp: Any


@triton.jit
def _uniforms(stream, i, here, ONE_SEED: tl.constexpr):
    """The uniforms of rows i, if they are here."""
    seed, number = position(stream, i, here, ONE_SEED)
    return contract.uniforms(seed, number, stream.offset + tl.zeros_like(i))


@triton.jit
def _log_sum_exp(largest, total):
    """In float64, from the largest logit and the sum of weights relative to it, scaled by 2**39; NaN for no sum."""
    known = tl.where(total > 0, largest.to(tl.float64), float("nan"))
    return known + (tl.log(tl.maximum(total, 1).to(tl.float64)) - contract.WEIGHT_BITS * contract.LN_2)


@triton.jit
def _finite(largest):
    """What exponents are relative to: 0 where all logits are -inf."""
    return tl.where(largest > float("-inf"), largest, 0.0)


@triton.jit
def _log_sum_exp_double(x, AXIS: tl.constexpr):
    """Of float64 logits, which keep their precision; -inf where all are."""
    largest = _finite(tl.max(x, AXIS))
    return largest + tl.log(tl.sum(tl.exp(x - tl.expand_dims(largest, AXIS)), AXIS))


@triton.jit
def _store_dense(out, start, at, inside, is_drawn, probs):
    """At 32-bit offsets from where a program's rows begin, which is 64 bits wide."""
    tl.store(out.one_hot + start + at, tl.where(is_drawn, 1.0, 0.0).to(out.one_hot.dtype.element_ty), mask=inside)
    tl.store(out.probs + start + at, probs.to(out.probs.dtype.element_ty), mask=inside)


@triton.jit
def sample_short_kernel(
    logits: row.Rows,
    mask: row.Rows,
    stream: Stream,
    out: Drawn,
    rows,
    length: row.Multiple,
    inner,
    ONE_SEED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PACKED: tl.constexpr,
):
    """ROWS rows to a program, of at most one chunk each. Where rows are PACKED, BLOCK is the number of categories."""
    categories = row.value(length)
    first = tl.program_id(0).to(tl.int64) * ROWS
    i = first + tl.arange(0, ROWS)
    j = tl.arange(0, BLOCK)[None, :]
    inside = (i < rows)[:, None] & (j < categories)
    if PACKED:
        x = row.load_packed(logits.data, first, rows, ROWS, BLOCK, float("-inf"))
    else:
        x = row.load_logits(logits, mask, i[:, None], j, inside, inner)
    value = row.draw_value(x)
    largest = contract.largest(value, 1)
    weight = contract.weight(value, largest[:, None])
    total = contract.integer_sum(weight, 1)
    _, uniform = _uniforms(stream, i, i < rows, ONE_SEED)
    index = tl.where(total > 0, contract.choose(weight, contract.scale_uniform(row.spread(uniform), total)), 0)
    tl.store(out.index + i, index.to(tl.int64), mask=i < rows)
    if out.log_sum_exp is not None:
        if x.dtype == tl.float64:
            log_sum_exp = tl.where(total > 0, _log_sum_exp_double(x, 1), float("nan"))
        else:
            log_sum_exp = _log_sum_exp(row.spread(largest), row.spread(total))
        tl.store(out.log_sum_exp + i, log_sum_exp, mask=i < rows)
    if out.probs is not None:
        if x.dtype == tl.float64:
            probs = tl.exp(x - log_sum_exp[:, None])
        else:
            probs = weight * (1.0 / total.to(tl.float32))[:, None]  # 0 * inf is NaN
        if PACKED:
            row.store_packed(out.one_hot, first, rows, tl.where(j == index[:, None], 1.0, 0.0))
            row.store_packed(out.probs, first, rows, probs)
        else:
            at = tl.arange(0, ROWS)[:, None] * categories + j
            _store_dense(out, first * categories, at, inside, j == index[:, None], probs)


@triton.jit
def _choose_chunk(chunks, uniform):
    """Of a row's chunks [K]: the chosen one, the row's largest logit, and its sum of weights, which is 0 where it has
    no distribution.
    """
    largest = contract.largest(chunks.largest, 0)
    weight = contract.chunk_weight(chunks.total, chunks.largest, largest)
    total = tl.sum(weight, 0)
    chunk, _ = contract.first_above(contract.scannable(weight[None, :]), contract.scale_uniform(uniform, total))
    return tl.max(chunk, 0), largest, total


@triton.jit
def _weigh_chunks(
    logits, mask, i, first, last, categories, inner, CHUNKS: tl.constexpr, WITH_LOG_SUM_EXP: tl.constexpr
):
    """The chunks [first, last) of row i, in tiles [CHUNKS] that begin with them."""
    k = first + tl.arange(0, CHUNKS)
    largest = tl.full([CHUNKS], float("-inf"), tl.float32)
    total = tl.zeros([CHUNKS], tl.int64)
    log_sum_exp = tl.full([CHUNKS], float("-inf"), tl.float64)
    for chunk in range(first, last):
        j = chunk * CHUNK + tl.arange(0, CHUNK)
        x = row.load_logits(logits, mask, i, j, j < categories, inner)
        value = row.draw_value(x)
        chunk_largest = contract.largest(value, 0)
        largest = tl.where(k == chunk, chunk_largest, largest)
        total = tl.where(k == chunk, contract.integer_sum(contract.weight(value, chunk_largest), 0), total)
        if WITH_LOG_SUM_EXP:
            log_sum_exp = tl.where(k == chunk, _log_sum_exp_double(x, 0), log_sum_exp)
    return Chunks(largest, total, log_sum_exp)


@triton.jit
def _stored_weight(stored, start, k, count, row_largest):
    """Of chunks k beside those of the whole row."""
    largest = tl.load(stored.largest + start + k, mask=k < count, other=float("-inf"))
    total = tl.load(stored.total + start + k, mask=k < count, other=0)
    return contract.chunk_weight(total, largest.to(tl.float32), row_largest)


@triton.jit
def _choose_stored_chunk(stored, start, count, uniform, GROUPS: tl.constexpr, GROUP: tl.constexpr):
    """Of a row's chunks in memory, GROUPS of GROUP each: the chosen one, the row's largest logit, and its sum of
    weights. No more is held of a group than one chunk and the sum; the chosen group is read once more.
    """
    of_group = tl.arange(0, GROUPS) * GROUP
    largest = tl.full([GROUPS], float("-inf"), tl.float32)
    for member in tl.static_range(GROUP):
        k = of_group + member
        loaded = tl.load(stored.largest + start + k, mask=k < count, other=float("-inf"))
        largest = contract.larger_or_nan(largest, loaded.to(tl.float32))
    row_largest = contract.largest(largest, 0)
    weight = tl.zeros([GROUPS], tl.int64)
    for member in tl.static_range(GROUP):
        weight += _stored_weight(stored, start, of_group + member, count, row_largest)
    row_total = tl.sum(weight, 0)
    target = contract.scale_uniform(uniform, row_total)
    group, before = contract.first_above(contract.scannable(weight[None, :]), target)
    if GROUP == 1:
        chunk = group
    else:
        k = group * GROUP + tl.arange(0, GROUP)
        weight = _stored_weight(stored, start, k, count, row_largest)
        member, _ = contract.first_above(contract.scannable(weight[None, :]), target - before)
        chunk = group * GROUP + member
    return tl.max(chunk, 0), row_largest, row_total


@triton.jit
def _stored_log_sum_exp(stored, start, count, GROUPS: tl.constexpr, GROUP: tl.constexpr):
    """The row's, from those of its chunks."""
    of_group = tl.arange(0, GROUPS) * GROUP
    largest = tl.full([GROUPS], float("-inf"), tl.float64)
    for member in tl.static_range(GROUP):
        k = of_group + member
        largest = tl.maximum(largest, tl.load(stored.log_sum_exp + start + k, mask=k < count, other=float("-inf")))
    of_row = _finite(tl.max(largest, 0))
    total = tl.zeros([GROUPS], tl.float64)
    for member in tl.static_range(GROUP):
        k = of_group + member
        total += tl.exp(tl.load(stored.log_sum_exp + start + k, mask=k < count, other=float("-inf")) - of_row)
    return of_row + tl.log(tl.sum(total, 0))


@triton.jit
def _store_chunks(to, start, count, chunks, CHUNKS: tl.constexpr, WITH_LOG_SUM_EXP: tl.constexpr):
    k = tl.arange(0, CHUNKS)
    tl.store(to.largest + start + k, chunks.largest.to(to.largest.dtype.element_ty), mask=k < count)
    tl.store(to.total + start + k, chunks.total, mask=k < count)
    if WITH_LOG_SUM_EXP:
        tl.store(to.log_sum_exp + start + k, chunks.log_sum_exp, mask=k < count)


@triton.jit
def _draw_from_chunk(logits, mask, i, chunk, largest, target, categories, inner):
    """The index in row i of the chunk's first element whose prefix sum of weights exceeds the target [1]."""
    j = chunk * CHUNK + tl.arange(0, CHUNK)[None, :]
    value = row.draw_value(row.load_logits(logits, mask, i, j, j < categories, inner))
    element = contract.choose(contract.weight(value, largest), target)
    return chunk * CHUNK + tl.max(element, 0)


@triton.jit
def _probability(x, largest, total):
    """exp(x - largest) / total, where the largest logit weighs 2**39 of the total; NaN for no total. By the hardware's
    exponential, whose error is far below the rounding of half types.
    """
    log2_e = tl.full(x.shape, contract.LOG2_E, tl.float32)
    log2_total = tl.log2(total.to(tl.float32) * 0.5**contract.WEIGHT_BITS)
    return tl.exp2(tl.fma(x - largest, log2_e, tl.zeros_like(x) - log2_total))


@triton.jit
def _store_dense_chunks(
    logits, mask, out, i, largest, total, log_sum_exp, first, last, categories, inner, BLOCK: tl.constexpr
):
    """Probabilities of the chunks [first, last) of row i, read once more, and a one-hot that is still to get its one,
    with which no other position has to be compared.
    """
    start = i * categories
    for block in range(first * CHUNK, last * CHUNK, BLOCK):
        j = block + tl.arange(0, BLOCK)
        inside = j < categories
        x = row.load_logits(logits, mask, i, j, inside, inner)
        if x.dtype == tl.float64:
            probs = tl.exp(x - log_sum_exp)
        elif x.dtype == tl.float32:
            probs = contract.weight(x, largest) * (1.0 / total.to(tl.float32))
        else:
            probs = _probability(x.to(tl.float32), largest, total)
        _store_dense(out, start, j, inside, False, probs)


@triton.jit
def sample_long_kernel(
    logits: row.Rows,
    mask: row.Rows,
    stream: Stream,
    out: Drawn,
    scratch: Chunks,
    count,
    chunks_per_part,
    length: row.Multiple,
    inner,
    ONE_SEED: tl.constexpr,
    CHUNKS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    WEIGHS: tl.constexpr,
    DRAWS: tl.constexpr,
):
    """One row to a program, or a part of its chunks: weighs them, draws, and writes what is dense. A row in parts is
    weighed in one launch and drawn in another, in which each part finds the row's sums for itself, and the chosen
    chunk; the part that has that chunk draws from it. CHUNKS are held at once: of what was weighed, one of each GROUP.
    """
    WITH_LOG_SUM_EXP: tl.constexpr = out.log_sum_exp is not None and logits.data.dtype.element_ty == tl.float64
    categories = row.value(length)
    i = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    first = part * chunks_per_part
    last = tl.minimum(first + chunks_per_part, count)
    if WEIGHS:
        chunks = _weigh_chunks(logits, mask, i, first, last, categories, inner, CHUNKS, WITH_LOG_SUM_EXP)
        if not DRAWS:
            _store_chunks(scratch, i * count + first, last - first, chunks, CHUNKS, WITH_LOG_SUM_EXP)
    if DRAWS:
        one_row = i + tl.zeros([1], tl.int64)
        if WEIGHS:
            uniform, element_uniform = _uniforms(stream, one_row, one_row >= 0, ONE_SEED)
            chosen, largest, total = _choose_chunk(chunks, uniform)
        else:
            seed, number = position_of_row(stream, one_row, CHUNKS, ONE_SEED)
            uniform, element_uniform = contract.uniforms(seed, number, stream.offset + tl.zeros_like(one_row))
            chosen, largest, total = _choose_stored_chunk(scratch, i * count, count, uniform, CHUNKS, GROUP)
        chunk = tl.where(total > 0, chosen, 0)
        if not WITH_LOG_SUM_EXP:
            log_sum_exp = _log_sum_exp(largest, total)
        elif WEIGHS:
            log_sum_exp = _log_sum_exp_double(chunks.log_sum_exp, 0)
        else:
            log_sum_exp = _stored_log_sum_exp(scratch, i * count, count, CHUNKS, GROUP)
        log_sum_exp = tl.where(total > 0, log_sum_exp, float("nan"))
        if out.log_sum_exp is not None:  # noqa: SIM102 (which is known when the kernel is compiled)
            if part == 0:
                tl.store(out.log_sum_exp + i, log_sum_exp)
        if out.probs is not None:
            _store_dense_chunks(
                logits, mask, out, i, largest, total, log_sum_exp, first, last, categories, inner, BLOCK
            )
            tl.debug_barrier()  # of the one-hot, the zero that another thread wrote comes before the one
        if (first <= chunk) & (chunk < last):
            if WEIGHS:
                is_chosen = tl.arange(0, CHUNKS) == chunk
                chunk_largest = tl.max(tl.where(is_chosen, chunks.largest, float("-inf")), 0)
                chunk_total = tl.sum(tl.where(is_chosen, chunks.total, 0), 0)
            else:
                chunk_largest = row.load_once(scratch.largest + i * count + chunk, CHUNKS).to(tl.float32)
                chunk_total = row.load_once(scratch.total + i * count + chunk, CHUNKS)
            known = tl.where(total > 0, chunk_total, 0)
            target = contract.scale_uniform(element_uniform, known)
            target = tl.where(known > 0, target, -1)  # which all sums exceed: index 0
            index = _draw_from_chunk(logits, mask, i, chunk, chunk_largest, target, categories, inner)
            tl.store(out.index + i, index.to(tl.int64))
            if out.probs is not None:
                tl.store(out.one_hot + i * categories + index, 1.0)


def sample(logits: Tensor, seed: Tensor, mask: Tensor | None, offset: int, row_offset: int) -> Tensor:
    """Index [...] drawn from softmax(logits) for logits [..., C]. A row without a distribution gives 0."""
    index = torch.empty(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    _launch(logits, seed, mask, offset, row_offset, Drawn(index, None, None, None))
    return index


def sample_with_log_sum_exp(
    logits: Tensor, seed: Tensor, mask: Tensor | None, offset: int, row_offset: int
) -> tuple[Tensor, Tensor]:
    """Index [...], and log-sum-exp [...] in float64: NaN for a row without a distribution."""
    index = torch.empty(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    log_sum_exp = torch.empty_like(index, dtype=torch.float64)
    _launch(logits, seed, mask, offset, row_offset, Drawn(index, None, None, log_sum_exp))
    return index, log_sum_exp


def sample_dense(
    logits: Tensor, seed: Tensor, mask: Tensor | None, offset: int, row_offset: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One-hot draw and probabilities [..., C] in the logits' dtype, index [...], log-sum-exp [...] in float64. A row
    without a distribution: index 0, probabilities and log-sum-exp NaN.
    """
    one_hot = torch.empty_like(logits, memory_format=torch.contiguous_format)
    probs = torch.empty_like(one_hot)
    index = torch.empty(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    log_sum_exp = torch.empty_like(index, dtype=torch.float64)
    _launch(logits, seed, mask, offset, row_offset, Drawn(index, one_hot, probs, log_sum_exp))
    return one_hot, probs, index, log_sum_exp


def _launch(logits: Tensor, seed: Tensor, mask: Tensor | None, offset: int, row_offset: int, out: Drawn) -> None:
    rows, categories, device = out.index.numel(), logits.shape[-1], logits.device
    if rows == 0:
        return
    inner, (logits_rows, mask_rows) = row.rows_of(logits.shape, logits, mask)
    stream, is_one = stream_of(seed, rows, offset, row_offset)
    operands = (logits_rows, mask_rows, stream, out)
    one_seed = {"ONE_SEED": is_one}
    chunks = launch.cdiv(categories, contract.CHUNK.value)
    length = row.multiple(categories)
    if chunks > 1:
        _launch_long(operands, rows, length, chunks, inner, one_seed, device)
    else:
        tile = launch.tile(categories, launch.elements_per_thread("draw", categories, logits.dtype))
        assert tile is not None  # no row of one chunk is too long
        packed = row.are_packed(categories, mask_rows, logits_rows)
        shape = {"ROWS": tile.rows, "BLOCK": tile.block, "PACKED": packed, **one_seed}
        grid = (launch.cdiv(rows, tile.rows),)
        launch.run(sample_short_kernel, grid, tile.warps, device, *operands, rows, length, inner, **shape)


def _launch_long(
    operands: tuple[Any, ...],
    rows: int,
    length: row.Multiple,
    count: int,
    inner: int,
    one_seed: dict[str, bool],
    device: torch.device,
) -> None:
    logits, (_, _, probs, log_sum_exp) = operands[0], operands[-1]
    is_double, is_dense = logits.data.dtype == torch.float64, probs is not None
    # A chunk at a time, which one warp does best as long as its registers suffice: to write, too, if the addresses are
    # few, of 8 elements each. Doubles take two, and as many more to sum their exponentials beside the weights.
    has_many_addresses = is_dense and min(row.widest_access(each) for each in (logits, row.contiguous(probs))) < 8
    sums_doubles = is_double and log_sum_exp is not None
    warps = (2 if has_many_addresses or sums_doubles or count > 32 else 1) * (2 if is_double else 1)
    per_part = min(launch.blocks_per_part(rows, count, warps, device), _MOST_CHUNKS)
    parts = launch.cdiv(count, per_part)

    def scratch(dtype: torch.dtype) -> Tensor:
        return torch.empty((rows, count) if parts > 1 else 0, dtype=dtype, device=device)

    of_chunks = scratch(torch.float64) if sums_doubles else None
    largest = scratch(torch.float32 if is_double else logits.data.dtype)
    chunks = Chunks(largest, scratch(torch.int64), of_chunks)

    def run(weighs: bool, draws: bool, per_part: int, held: int, warps: int, block: int = contract.CHUNK.value) -> None:
        held = launch.next_power_of_2(held)
        of_thread = 1 if weighs else launch.cdiv(held, 32 * warps)
        shape = {"CHUNKS": held // of_thread, "GROUP": of_thread, "BLOCK": block, "WEIGHS": weighs, "DRAWS": draws}
        shape |= one_seed
        arguments = (*operands, chunks, count, per_part, length, inner)
        launch.run(sample_long_kernel, (rows, launch.cdiv(count, per_part)), warps, device, *arguments, **shape)

    # What is written goes block by block: a chunk, or half of it where a thread would need too many registers, for an
    # address and a mask of each access, or for doubles in programs so wide that no target leaves them more than 64.
    half, is_narrow = contract.CHUNK.value // 2, is_dense and _is_narrow(probs)
    if parts == 1:
        run(True, True, count, count, warps, half if is_narrow else 2 * half)
        return
    run(True, False, per_part, per_part, warps)
    if is_dense:
        at_once, warps = _dense_draw(logits.data, chunks, count, per_part, warps)
        per_part = at_once * launch.blocks_per_part(rows, launch.cdiv(count, at_once), warps, device)
        block = half if is_narrow or (is_double and warps > 8) else 2 * half
        run(False, True, per_part, max(count, 32 * warps), warps, at_once * block)
    else:  # no more to hold of a row than its chunks
        enough = min(max(warps, launch.next_power_of_2(count) // 32), launch.MOST_WARPS)
        run(False, True, count, count, enough)


def _is_narrow(probs: Tensor) -> bool:
    """Whether dense rows are written fewer than 16 bytes at a time: they begin anywhere."""
    return row.widest_access(row.contiguous(probs)) < 16 // probs.element_size()


def _dense_draw(logits: Tensor, chunks: Chunks, count: int, weighed: int, warps: int) -> tuple[int, int]:
    """How many chunks a program takes at once to draw a dense row in parts, and with how many warps, after so many
    chunks to a part were weighed by so many warps. Each part reads what is known of all chunks: programs of more warps
    are fewer parts, and a thread has less of that to hold.
    """
    known = sum(each.element_size() for each in chunks if each is not None)
    moved = 4 * contract.CHUNK.value * logits.element_size()  # logits are read twice, and two such tensors written
    most_parts = moved // (64 * known)  # so that what is known is 1/64 of that, or less
    at_once = max(
        launch.next_power_of_2(launch.cdiv(count, weighed * most_parts)),
        launch.next_power_of_2(count) // (32 * warps),  # a thread holds one chunk's
    )
    at_once = min(at_once, launch.MOST_WARPS // warps)
    return at_once, at_once * warps

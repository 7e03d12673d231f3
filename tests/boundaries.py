"""Draws at the boundaries between categories: which uniforms lie there, and which counter gives a uniform."""


def counter_for(r1, r2, seed):
    """The offset and row number at which a seed's Philox gives these two uniforms: Philox run backwards."""
    mask, multipliers, key_steps = 2**32 - 1, (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
    c0, c1, c2, c3 = r1 & mask, r1 >> 32, r2 & mask, r2 >> 32
    for step in reversed(range(10)):
        k0, k1 = ((half + step * by) & mask for half, by in zip((seed & mask, seed >> 32), key_steps, strict=True))
        before0, before2 = (low * pow(m, -1, 2**32) & mask for low, m in zip((c3, c1), multipliers, strict=True))
        high0, high1 = (before * m >> 32 for before, m in zip((before0, before2), multipliers, strict=True))
        c0, c1, c2, c3 = before0, c0 ^ high1 ^ k0, before2, c2 ^ high0 ^ k1
    return {"offset": c2 | c3 << 32, "row_offset": c0 | c1 << 32}


def edges(weight):
    """For each element of positive weight, the uniforms at both ends of the interval that draws it."""
    total, below = sum(weight), 0
    for i, w in enumerate(weight):
        if w:
            yield i, -(-(below << 64) // total)  # the smallest u with u * total >> 64 == below
            yield i, -(-((below + w) << 64) // total) - 1
        below += w

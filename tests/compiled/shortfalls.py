"""Where the kernels do not pass a gate, and what they reach instead."""

# Triton knows of a number only whether 16 divides it, and needs that to make wide accesses of masked ones.
NARROW_MULTIPLE = 16

OCCUPANCY: dict[tuple[str, int | str], int] = {}  # in percent

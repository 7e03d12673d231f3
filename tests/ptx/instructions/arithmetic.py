"""The opcodes that integers and floats share."""

from functools import partial

from ..decoder import Decoder
from ..steps import Step
from . import floating_point, integers
from .registry import Translator, instruction


def _by_type(of_integers: Translator, of_floats: Translator, decoder: Decoder) -> Step:
    return (of_floats if decoder.next_type().kind == "f" else of_integers)(decoder)


for opcode, of_integers, of_floats in (
    ("add", integers.add_or_subtract, floating_point.add),
    ("sub", integers.add_or_subtract, floating_point.subtract),
    ("mul", integers.multiply, floating_point.multiply),
    ("mad", integers.multiply_add, floating_point.multiply_add),
    ("div", integers.divide, floating_point.divide),
    ("min", integers.minimum_or_maximum, floating_point.minimum_or_maximum),
    ("max", integers.minimum_or_maximum, floating_point.minimum_or_maximum),
    ("neg", integers.negate_or_absolute, floating_point.negate_or_absolute),
    ("abs", integers.negate_or_absolute, floating_point.negate_or_absolute),
):
    instruction(opcode)(partial(_by_type, of_integers, of_floats))

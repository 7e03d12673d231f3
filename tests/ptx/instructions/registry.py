"""The table from opcodes to translators."""

from collections.abc import Callable

from ..decoder import Decoder
from ..machine import Machine
from ..program import Instruction
from ..steps import Step

Translator = Callable[[Decoder], Step]

TRANSLATORS: dict[str, Translator] = {}


def instruction(*opcodes: str) -> Callable[[Translator], Translator]:
    """Enters a translator into the table."""

    def enter(translator: Translator) -> Translator:
        TRANSLATORS.update(dict.fromkeys(opcodes, translator))
        return translator

    return enter


def translate(instruction: Instruction, machine: Machine) -> Step:
    """What the instruction does on this machine. Raises `UnsupportedInstruction` where any part is not modelled."""
    decoder = Decoder(instruction, machine)
    if instruction.opcode not in TRANSLATORS:
        raise decoder.unsupported(f"{instruction.opcode} is not modelled")
    step = TRANSLATORS[instruction.opcode](decoder)
    decoder.finish()
    return step

"""What can go wrong: text that is no PTX, an instruction that is not modelled, a kernel that misbehaves."""


class PTXError(Exception):
    """Base of all errors of this package."""


class ParseError(PTXError):
    """The text is not the PTX that this package reads."""

    def __init__(self, message: str, line: int):
        super().__init__(f"line {line}: {message}")
        self.line = line


class UnsupportedInstruction(PTXError):  # noqa: N818 - so that it is clear that the kernel is not to blame
    """The kernel holds an instruction, a modifier or an operand that is not modelled; it was not run."""

    def __init__(self, reason: str, text: str, line: int, kernel: str):
        super().__init__(f"{reason}: `{text}`, line {line} of kernel {kernel}")
        self.reason, self.text, self.line, self.kernel = reason, text, line, kernel


class LaunchError(PTXError):
    """The kernel ran and something was wrong with it; `report` says what."""

    def __init__(self, report):
        super().__init__("\n".join(map(str, report.issues)))
        self.report = report


class Fault(Exception):  # noqa: N818 - the hardware's word
    """The kernel cannot go on. `launch` catches it and makes an issue of it."""

    def __init__(self, kind, detail: str):
        super().__init__(detail)
        self.kind, self.detail = kind, detail

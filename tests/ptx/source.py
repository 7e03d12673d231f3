"""PTX text and a place in it."""

import bisect
import re

from .errors import ParseError

STRING_OR_COMMENT = re.compile(r'"[^"\n]*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
DEBUG_SECTION = re.compile(r"\.section\s+\S+\s*\{[^}]*\}", re.DOTALL)
LINE_DIRECTIVE = re.compile(r"^[ \t]*\.(?:version|target|address_size|file|loc)\b[^\n]*", re.MULTILINE)


class Source:
    """The text without comments and debug information, read from front to back."""

    def __init__(self, text: str):
        for pattern in (STRING_OR_COMMENT, DEBUG_SECTION, LINE_DIRECTIVE):
            text = pattern.sub(_blank, text)
        self.text = text
        self.position = 0
        self.line_starts = [match.end() for match in re.finditer("\n", text)]

    @property
    def line(self) -> int:
        return bisect.bisect_right(self.line_starts, self.position) + 1

    def error(self, message: str) -> ParseError:
        return ParseError(message, self.line)

    def next_character(self) -> str:
        """The next character that is not blank, at which the place then is; nothing at the end."""
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1
        return self.text[self.position : self.position + 1]

    def match(self, pattern: re.Pattern) -> re.Match | None:
        """Reads what matches the pattern here, if anything does."""
        match = pattern.match(self.text, self.position)
        if match:
            self.position = match.end()
        return match

    def up_to(self, delimiters: str) -> tuple[str, str]:
        """Reads the text before the next of the delimiters, and the delimiter."""
        found = re.compile(f"[{delimiters}]").search(self.text, self.position)
        if found is None:
            raise self.error(f"the text ends before any of {delimiters}")
        before = self.text[self.position : found.start()]
        self.position = found.end()
        return before, found[0]

    def statement(self) -> str:
        """Reads up to the next semicolon; blanks of any kind become one space."""
        return " ".join(self.up_to(";")[0].split())

    def skip_block(self) -> None:
        """Passes over the rest of a block whose opening brace has been read."""
        depth = 1
        while depth:
            depth += 1 if self.up_to("{}")[1] == "{" else -1


def split_operands(text: str) -> list[str]:
    """Splits at the commas that no bracket encloses."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def _blank(match: re.Match) -> str:
    """Nothing but the line ends, so that lines keep their numbers; strings stay."""
    return match[0] if match[0].startswith('"') else "\n" * match[0].count("\n")

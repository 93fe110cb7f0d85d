"""What a check found: how bad it is, one line, and what to do about it."""

import textwrap
from collections.abc import Iterable
from typing import Literal, NamedTuple

Level = Literal["error", "warning", "note", "ok"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note", "ok")
WIDTH = 80
_MARGIN = " " * 9


class Finding(NamedTuple):
    """One thing that a check found.

    Attributes:
        level: `error`, training cannot work so; `warning`, it will work badly; `note`, worth knowing; `ok`, as it
            should be.
        name: What was checked, in a word or two for programs, such as `truncated`.
        text: What was found, with numbers.
        advice: What to do; empty where nothing is to be done.
        page: The page of the documentation that says more, such as `docs/memory.md`; empty without one.
    """

    level: Level
    name: str
    text: str
    advice: str = ""
    page: str = ""

    @property
    def sentence(self) -> str:
        """What was found and what to do, in one line."""
        return f"{self.text}; {self.advice}" if self.advice else self.text

    def lines(self) -> list[str]:
        """The finding for a terminal, no line over 80 columns; a longer word, such as a path, is broken."""
        advice = " ".join(filter(None, [self.advice, self.page and f"({self.page})"]))
        shown = wrapped(self.text, f"{self.level:9}", _MARGIN)
        return [*shown, *(wrapped(f"-> {advice}", _MARGIN, _MARGIN + "   ") if advice else [])]


def most_severe_first(findings: Iterable[Finding]) -> list[Finding]:
    """The findings by level, those of one level in their order."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def wrapped(text: str, first: str, others: str) -> list[str]:
    """The text in lines of at most 80 columns, the first and the others each with its own start."""
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)

"""What a check found: how bad it is, one line, and what to do about it."""

from collections.abc import Iterable
from itertools import chain, repeat
from typing import Literal, NamedTuple

from rich.text import Text

from aapo.progress import console

Level = Literal["error", "warning", "note", "ok"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note", "ok")
WIDTH = 80
MAX_QUOTED = 60
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
        """The finding for a terminal, no line over 80 columns; a longer word, such as a path, is broken up."""
        page = self.page and (f" ({self.page})" if self.advice else f"see {self.page}")
        shown = wrapped(self.text, f"{self.level:9}", _MARGIN)
        return [*shown, *(wrapped(f"-> {self.advice}{page}", _MARGIN, _MARGIN) if self.advice or page else [])]


def most_severe_first(findings: Iterable[Finding]) -> list[Finding]:
    """The findings by level, those of one level in their order."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def wrapped(text: str, first: str, others: str) -> list[str]:
    """The text in lines of at most 80 columns, the first and the others each with its own start of one width."""
    lines = Text(text).wrap(console, WIDTH - len(first), overflow="fold", tab_size=2)
    return [start + line.plain.rstrip() for start, line in zip(chain([first], repeat(others)), lines, strict=False)]


def percent(share: float) -> str:
    """A share as a percentage that is 0% or 100% only where it is exactly that."""
    if 0 < share < 0.01:
        return "<1%"
    return ">99%" if 0.99 < share < 1 else f"{share:.0%}"


def quoted(text: str | None) -> str:
    """The end of a text in quotes, on one line, control characters escaped."""
    words = " ".join((text or "").split())
    return repr(words if len(words) <= MAX_QUOTED else "…" + words[-MAX_QUOTED:])

"""Kinds of declarations of what a setting may be: numbers between bounds, names, texts, lists, mappings."""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from aapo.errors import nearest

LARGEST = sys.float_info.max
# Above this, what is only counted is a slip of the keyboard.
MANY = 10**9


class Allowed(Protocol):
    """What a setting may be."""

    def admits(self, value: Any) -> bool:
        """Whether the value, which is not None, is allowed."""
        ...

    def words(self) -> str:
        """What is allowed, after `it must be`."""
        ...


@dataclass(frozen=True)
class Number:
    """A finite number between bounds.

    Attributes:
        low: Least value.
        high: Greatest value.
        above: Whether `low` itself is not allowed.
        below: Whether `high` itself is not allowed.
        whole: Whether it must be a whole number.
        also: What is allowed beside the numbers.
        note: The fix, where it is not obvious.
    """

    low: float = -LARGEST
    high: float = LARGEST
    above: bool = False
    below: bool = False
    whole: bool = False
    also: tuple[Any, ...] = ()
    note: str = ""

    def admits(self, value: Any) -> bool:
        """Whether it is such a number; NaN and infinities are not."""
        if value in self.also:
            return True
        if not _is_a(Integral if self.whole else Real, value):
            return False
        low = self.low < value if self.above else self.low <= value
        return bool(low and (value < self.high if self.below else value <= self.high))

    def words(self) -> str:
        """The kind of number and its bounds."""
        kind = "a whole number" if self.whole else "a number"
        if self.low == -LARGEST or self.high == LARGEST:
            kind = kind if self.whole else "a finite number"
            bounds = f" {'>' if self.above else '>='} {_written(self.low)}" if self.low > -LARGEST else ""
            bounds += f" {'<' if self.below else '<='} {_written(self.high)}" if self.high < LARGEST else ""
        elif self.above or self.below:
            open_, close = "(" if self.above else "[", ")" if self.below else "]"
            bounds = f" in {open_}{_written(self.low)}, {_written(self.high)}{close}"
        else:
            bounds = f" from {_written(self.low)} to {_written(self.high)}"
        return "".join(f"{word} or " for word in self.also) + kind + bounds + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Steps:
    """A number of optimizer steps, or below 1 a share of all of them.

    Attributes:
        zero: Whether there may be none.
    """

    zero: bool = False

    def admits(self, value: Any) -> bool:
        """Whether it is a share or a whole number."""
        if not _is_a(Real, value):
            return False
        return 0 < value < 1 or (1 <= value <= MANY and value == int(value)) or (self.zero and value == 0)

    def words(self) -> str:
        """Both ways to say it."""
        share = "[0, 1)" if self.zero else "(0, 1)"
        return f"a whole number of steps from 1 to {_written(MANY)} or a share of all in {share}"


@dataclass(frozen=True)
class Names:
    """One of these names.

    Attributes:
        names: All of them, true and false among them where they are allowed.
        several: Whether a list of names is allowed.
        blanks: Whether a text may hold several with blanks between them.
        pattern: Other texts that are allowed.
        note: What those are.
    """

    names: tuple[str | bool, ...]
    several: bool = False
    blanks: bool = False
    pattern: str = ""
    note: str = ""

    def _unknown(self, value: Any) -> list[Any]:
        items = value if self.several and isinstance(value, (list, tuple)) else [value]
        if self.blanks:
            items = [word for item in items for word in (item.split() if isinstance(item, str) else [item])]
        return [item for item in items if item not in self.names and not self._other(item)]

    def _other(self, item: Any) -> bool:
        return bool(self.pattern) and isinstance(item, str) and re.fullmatch(self.pattern, item) is not None

    def admits(self, value: Any) -> bool:
        """Whether all of it is known."""
        return not self._unknown(value)

    def near(self, value: Any) -> str:
        """The nearest name, as `errors.nearest` writes it."""
        unknown = self._unknown(value)[0]
        return nearest(unknown, (str(name) for name in self.names)) if isinstance(unknown, str) else ""

    def words(self) -> str:
        """The names."""
        names = ", ".join(str(name).lower() if isinstance(name, bool) else name for name in self.names)
        return f"{'some' if self.several else 'one'} of {names}{f', or {self.note}' if self.note else ''}"


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def admits(self, value: Any) -> bool:
        """Whether it is one of the two."""
        return isinstance(value, bool)

    def words(self) -> str:
        """Both."""
        return "true or false"


@dataclass(frozen=True)
class Text:
    """A text or a path.

    Attributes:
        pattern: What all of it matches.
        what: What it then is.
    """

    pattern: str = r"(?s:.*)"
    what: str = "text"

    def admits(self, value: Any) -> bool:
        """Whether it is such a text."""
        return isinstance(value, (str, PathLike)) and re.fullmatch(self.pattern, str(value)) is not None

    def words(self) -> str:
        """What it must be."""
        return self.what


@dataclass(frozen=True)
class Items:
    """A list.

    Attributes:
        of: What its items are.
        least: How many there are at least.
    """

    of: Allowed
    least: int = 0

    def admits(self, value: Any) -> bool:
        """Whether all items are allowed."""
        return isinstance(value, (list, tuple)) and len(value) >= self.least and all(map(self.of.admits, value))

    def words(self) -> str:
        """What an item is."""
        return f"a list{f' of at least {self.least}' if self.least else ''}, each item {self.of.words()}"


@dataclass(frozen=True)
class Entries:
    """A mapping, also as JSON, or an object that stands for one.

    Attributes:
        file: Whether it may be named by its file.
        numbers: Whether a text in it that could be a number is none, since YAML takes `1e-7` for text.
    """

    file: bool = False
    numbers: bool = False

    def admits(self, value: Any) -> bool:
        """Whether it is one."""
        if isinstance(value, (str, PathLike)):
            return _is_json_mapping(str(value)) or (self.file and _is_file(str(value)))
        return not (self.numbers and isinstance(value, Mapping) and any(map(_is_number, value.values())))

    def words(self) -> str:
        """What it may be, and how numbers are written."""
        kind = "a mapping or an existing file" if self.file else "a mapping"
        return kind + (" whose numbers are written as YAML reads them, such as 1.0e-7" if self.numbers else "")


@dataclass(frozen=True)
class Object:
    """An object, which Python can give and YAML cannot.

    Attributes:
        what: Which.
    """

    what: str

    def admits(self, value: Any) -> bool:
        """Whether it is nothing that YAML reads."""
        return not isinstance(value, (str, Real, Mapping, list))

    def words(self) -> str:
        """What it must be."""
        return f"{self.what}, which a recipe cannot hold; remove it"


@dataclass(frozen=True)
class Elsewhere:
    """What another module checks: a name of its registry, a function of the user's own, text or a list."""

    def admits(self, value: Any) -> bool:
        """All, here."""
        return True

    def words(self) -> str:
        """Nothing is refused here."""
        return "what its own module allows"


def whole(low: int, high: int, *, also: tuple[Any, ...] = (), note: str = "") -> Number:
    """Whole numbers from `low` to `high`; see `Number`."""
    return Number(low, high, whole=True, also=also, note=note)


def _is_a(kind: type, value: Any) -> bool:
    """Whether a value is a number of this kind, which true and false are not."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_json_mapping(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # such as a name that is too long
        return False


def _is_number(value: Any) -> bool:
    """Whether a value is text that Python reads as a number."""
    try:
        return isinstance(value, str) and isinstance(float(value), float)
    except ValueError:
        return False


def _written(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"

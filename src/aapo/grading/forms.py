"""What kind of thing an answer is: number, words, list, set, tuple, interval, matrix, equation or expression."""

from typing import NamedTuple

from aapo.grading.numbers import Number
from aapo.grading.units import Unit


class Expression(NamedTuple):
    """Any other mathematics, as LaTeX without its unit."""

    text: str
    unit: Unit | None = None


class Words(NamedTuple):
    """Text, folded: without case, spaces and punctuation."""

    text: str
    folded: str


class Based(NamedTuple):
    """A numeral in a number base, such as 101_2."""

    text: str
    digits: str
    base: int


class Residue(NamedTuple):
    """A class of integers such as 2 (mod 7)."""

    text: str
    value: int
    modulus: int


class Elements(NamedTuple):
    """Several answers: `list` and `set` without order, `tuple` with its brackets, `ratio`, `union` of sets."""

    text: str
    kind: str
    items: tuple["Form", ...]
    brackets: str = ""


class Matrix(NamedTuple):
    """Rows of elements."""

    text: str
    rows: tuple[tuple["Form", ...], ...]


class Equation(NamedTuple):
    """A name and what it equals, or an equation; `members` are what stands between the equality signs.

    Attributes:
        text: As written.
        name: The variable or function before the first sign, or None when that is something to compute.
        members: The sides, without the name.
        solved: Whether the left side names or equals the value on the right, rather than has to be solved.
    """

    text: str
    name: str | None
    members: tuple["Form", ...]
    solved: bool = True


Form = Number | Expression | Words | Based | Residue | Elements | Matrix | Equation

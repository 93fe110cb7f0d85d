r"""Inequalities in one variable as the intervals that they stand for."""

import re
from typing import NamedTuple

from aapo.grading.notation import trim
from aapo.grading.numbers import read_number


class Bounds(NamedTuple):
    """An interval: its ends as text, and the brackets that say whether they belong to it."""

    low: str
    high: str
    brackets: str


_VARIABLE = r"[a-zA-Z](?:_\w)?"
_SIGN = r"(<|\\le(?![a-zA-Z])|>|\\ge(?![a-zA-Z]))"
_SIDE = r"(-?[^<>=]*?)"
_BETWEEN = re.compile(rf"{_SIDE}\s?{_SIGN}\s?({_VARIABLE})\s?{_SIGN}\s?{_SIDE}")
_BOUND = re.compile(rf"(-?\s?{_VARIABLE})\s?{_SIGN}\s?{_SIDE}")
_BOUND_FIRST = re.compile(rf"{_SIDE}\s?{_SIGN}\s?(-?\s?{_VARIABLE})")
_UNEQUAL = re.compile(rf"{_VARIABLE}\s?\\ne(?![a-zA-Z])\s?{_SIDE}")
_MODULUS = re.compile(rf"\|\s?{_VARIABLE}\s?(?:([-+])\s?([\d.]+|\\frac\{{\d+\}}\{{\d+\}})\s?)?\|\s?{_SIGN}\s?{_SIDE}")
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
_LETTER = re.compile(r"[a-zA-Z](?![a-zA-Z]*\{)")


def intervals(text: str) -> list[Bounds] | None:
    """The intervals whose union a normalized inequality is, in ascending order; None for what is no such inequality."""
    if found := _BETWEEN.fullmatch(text):
        return _between(*found.groups())
    if found := _BOUND.fullmatch(text):
        return _half_line(found[1], found[2], found[3])
    if found := _BOUND_FIRST.fullmatch(text):
        return _half_line(found[3], _FLIPPED[found[2]], found[1])
    if (found := _UNEQUAL.fullmatch(text)) and _is_constant(found[1]):
        return [Bounds(r"-\infty", trim(found[1]), "()"), Bounds(trim(found[1]), r"\infty", "()")]
    if found := _MODULUS.fullmatch(text):
        return _within(*found.groups())
    return None


def _between(low: str, first: str, _: str, second: str, high: str) -> list[Bounds] | None:
    if (first in ("<", r"\le")) != (second in ("<", r"\le")) or not low or not high:
        return None
    if first in (">", r"\ge"):
        low, first, second, high = high, _FLIPPED[second], _FLIPPED[first], low
    return [Bounds(trim(low), trim(high), _brackets(first, second))]


def _half_line(variable: str, sign: str, bound: str) -> list[Bounds] | None:
    if not _is_constant(bound):
        return None
    if variable.startswith("-"):
        number = read_number(bound)
        if number is None:
            return None
        sign, bound = _FLIPPED[sign], bound[1:] if bound.startswith("-") else f"-{bound}"
    if sign in (">", r"\ge"):
        return [Bounds(trim(bound), r"\infty", _brackets(_FLIPPED[sign], "<"))]
    return [Bounds(r"-\infty", trim(bound), _brackets("<", sign))]


def _within(side: str | None, shift: str | None, sign: str, radius: str) -> list[Bounds] | None:
    """|x - c| < r, and |x - c| > r."""
    size, middle = read_number(trim(radius)), read_number(shift or "0")
    if size is None or middle is None or size.value <= 0:
        return None
    center = -middle.value if side == "+" else middle.value
    low, high = str(center - size.value), str(center + size.value)
    if sign in ("<", r"\le"):
        return [Bounds(low, high, _brackets(sign, sign))]
    end = _FLIPPED[sign]
    return [Bounds(r"-\infty", low, _brackets("<", end)), Bounds(high, r"\infty", _brackets(end, "<"))]


def _is_constant(bound: str) -> bool:
    return bool(bound) and not _LETTER.search(re.sub(r"\\[a-zA-Z]+", "", bound))


def _brackets(first: str, second: str) -> str:
    return ("[" if first == r"\le" else "(") + ("]" if second == r"\le" else ")")

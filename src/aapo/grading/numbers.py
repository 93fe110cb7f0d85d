r"""Numbers as they are written, read exactly."""

import re
from fractions import Fraction
from typing import NamedTuple

from aapo.grading.units import LABEL, SHORT_SCALES, Unit, parse_unit, read_label

# A decimal that shows this many significant digits may be a rounded value.
ROUNDED_DIGITS = 6
# One that shows this many was computed in floating point, and its last digits may be off.
FLOAT_DIGITS = 16
FLOAT_ERROR = Fraction(1, 2**51)

_INTEGER = r"(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+|\d+)"
_DECIMAL = rf"(?>{_INTEGER}(?:\.\d*)?|\.\d+)"
_SIGN = r"(?P<sign>(?:[+-]\s?)*)"
_POWER = r"(?:10\s?\^\s?(?:\{\s?(?P<power>[+-]?\s?\d{1,4})\s?\}|(?P<digit>-?\d)))"
_FORMS = [
    re.compile(_SIGN + pattern)
    for pattern in (
        rf"(?P<decimal>{_DECIMAL})(?:[eE](?P<exponent>[+-]?\d{{1,4}}))?",
        rf"(?P<decimal>{_DECIMAL})\s?(?:\\times|\\cdot|\*|x)\s?{_POWER}",
        _POWER,
        rf"\\frac\{{\s?(?P<above>[+-]?\s?{_DECIMAL})\s?\}}\{{\s?(?P<below>[+-]?\s?{_DECIMAL})\s?\}}",
        rf"(?P<above>{_DECIMAL})\s?/\s?(?P<below>[+-]?{_DECIMAL})",
        r"(?P<whole>\d+)\s?\\frac\{\s?(?P<above>\d+)\s?\}\{\s?(?P<below>\d+)\s?\}",
        r"(?P<whole>\d+) (?P<above>\d+)\s?/\s?(?P<below>\d+)",
        r"(?P<start>\d*\.\d{0,20}?)(?P<repeated>\d{1,6}?)(?P=repeated){2,12}\s?(?:\.{3}|…)",
        rf"(?P<decimal>{_DECIMAL})\s?(?:\.{{3}}|…)",
        r"(?P<start>\d*\.\d*)(?:\\(?:overline|dot|bar)\s?\{?|\()(?P<repeated>\d+)[)}]?",
    )
]
_REST = re.compile(
    r"\s?(?:(?P<percent>%|(?:percent(?:age)?|per cent|pct)\.?|\\text\{\s?(?:%|percent(?:age)?|per cent|pct)\.?\s?\})"
    r"|(?P<degrees>\^\\circ)\s?(?:\\text\{\s?)?[CF]?\}?"
    rf"|(?P<texts>{LABEL})(?P<after>[a-zA-Z ]*)"
    r"|(?P<words>(?<=\s)(?!(?:and|or)\s)[a-zA-Z][a-zA-Z /.]*(?:\^?\{?\d\}?)?(?:/[a-zA-Z]+)?(?:\^\{?\d\}?)?"
    r"|(?P<attached>[a-zA-Z]{2,}(?:\^\{?\d\}?)?)))"
)


_TEXT = re.compile(r"\\text\s?\{([^{}]*)\}")
_SHORT = re.compile(r"\\text\{([KkMB])\}")
_PART = re.compile(rf"({_DECIMAL})\s*([a-zA-Z°'\"]+)\.?")
_MARKS = {"'": "arcmin", "''": "arcsec", '"': "arcsec"}
_COMPOUND = re.compile(rf"{_PART.pattern}(?:\s*(?:,|and|&)*\s*{_PART.pattern}){{1,3}}")


class Number(NamedTuple):
    """A number that is written out.

    Attributes:
        text: As written.
        value: Exactly.
        last_digit: The value of one unit of the last digit, for a decimal that shows six significant digits or more;
            None for a number that is exact.
        percent: Whether a percent sign follows; `value` is then in percent.
        unit: The unit that follows, or None.
        thousands: What the number is worth more against one without a unit, where K or M follows it immediately, which
            may be a unit as well.
        float_error: How far the value may be off where it was computed in floating point, else None.
    """

    text: str
    value: Fraction
    last_digit: Fraction | None = None
    percent: bool = False
    unit: Unit | None = None
    thousands: int = 1
    float_error: Fraction | None = None


def read_number(text: str) -> Number | None:
    """The number that a normalized text is, with percent sign, unit or words after it; None if it is not just that."""
    for form in _FORMS:
        found = form.match(text)
        value = _value(found.groupdict()) if found else None
        if found is None or value is None:
            continue
        # math-verify reads no ellipsis
        number = _with_rest(_floating(Number(text.replace("...", ""), *value)), text[found.end() :].rstrip())
        if number is not None:
            return number
    return _compound(text)


def _floating(number: Number) -> Number:
    """The number with what it may be off by, if it was computed in floating point."""
    digits = number.text.replace(".", "").strip("-0 ")
    if number.last_digit is None or len(digits) < FLOAT_DIGITS or not digits.isdigit():
        return number
    error = abs(number.value) * FLOAT_ERROR if len(digits) <= FLOAT_DIGITS + 1 else number.last_digit
    return number._replace(float_error=max(error, number.last_digit))


def _compound(text: str) -> Number | None:
    """A quantity in several units, such as 2 hours 15 minutes, in the first of them."""
    plain = _TEXT.sub(r" \1 ", text).replace(r"^\circ", " ° ").strip()
    if not _COMPOUND.fullmatch(plain):
        return None
    value, units = Fraction(0), list[Unit]()
    for amount, word in _PART.findall(plain):
        unit = parse_unit(_MARKS.get(word) or word)
        if unit is None or (units and (unit.dimensions != units[0].dimensions or unit.factor >= units[-1].factor)):
            return None
        units.append(unit)
        value += _plain(amount) * unit.factor
    return Number(text, value / units[0].factor, unit=units[0])


def _value(parts: dict[str, str | None]) -> tuple[Fraction, Fraction | None] | None:
    """The value and the unit of the last digit, or None for a fraction without value."""
    sign = -1 if (parts.get("sign") or "").count("-") % 2 else 1
    if parts.get("repeated"):
        return sign * _repeating(parts["start"] or "", parts["repeated"] or ""), None
    if parts.get("above"):
        below = _plain(parts["below"] or "")
        if below == 0:
            return None
        return sign * (_plain(parts.get("whole") or "0") + _plain(parts["above"] or "") / below), None
    exponent = int((parts.get("power") or parts.get("digit") or parts.get("exponent") or "0").replace(" ", ""))
    written = parts.get("decimal") or "1"
    scale = Fraction(10) ** exponent
    return sign * _plain(written) * scale, _last_digit(written, scale)


def _plain(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").removesuffix("."))


def _last_digit(written: str, scale: Fraction) -> Fraction | None:
    whole, point, decimals = written.replace(",", "").replace(" ", "").partition(".")
    if not point or not decimals or len((whole + decimals).lstrip("0")) < ROUNDED_DIGITS:
        return None
    return scale / 10 ** len(decimals)


def _repeating(start: str, repeated: str) -> Fraction:
    whole, _, decimals = start.partition(".")
    first = Fraction(int(whole + decimals or "0"), 10 ** len(decimals))
    return first + Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(decimals))


def _with_rest(number: Number, rest: str) -> Number | None:
    """The number with the percent sign, unit or words in `rest`; None if it is something else."""
    if not rest:
        return number
    if short := _SHORT.fullmatch(rest):
        return number._replace(unit=parse_unit(short[1]), thousands=SHORT_SCALES[short[1]])
    found = _REST.fullmatch(rest)
    if found is None:
        return None
    if found["percent"]:
        return number._replace(percent=True)
    if found["degrees"]:
        return number._replace(unit=parse_unit("°"))
    words = found["texts"] or found["words"] or found["attached"]
    bare = not found["texts"] or bool(found["after"])
    label = read_label(words + (found["after"] or ""), bare=bare, attached=found["attached"] is not None)
    if label is None:
        return None
    digit = number.last_digit and number.last_digit * label.scale
    return number._replace(value=number.value * label.scale, last_digit=digit, unit=label.unit)


def same_number(gold: Number, answer: Number) -> bool:
    """Whether an answer's number is the gold answer's.

    Exactly, or up to the last digit of a rounded decimal. A unit counts if both have one; a percent sign on one side
    only may mean the number or the share, but a gold answer of at most 1 is a share.
    """
    if gold.unit is not None and answer.unit is not None:
        if gold.unit.dimensions != answer.unit.dimensions:
            return False
        return _close(gold, answer, gold.unit.factor, answer.unit.factor)
    if gold.percent == answer.percent:
        return _close(gold, answer, gold.thousands, answer.thousands)
    if gold.unit is not None or answer.unit is not None:
        return False
    if gold.percent:
        return _close(gold, answer) or _close(gold, answer, Fraction(1, 100))
    return _close(gold, answer, 1, Fraction(1, 100)) or (abs(gold.value) > 1 and _close(gold, answer))


def _close(gold: Number, answer: Number, scale: Fraction | int = 1, other: Fraction | int = 1) -> bool:
    difference = abs(gold.value * scale - answer.value * other)
    own = gold.float_error or gold.last_digit
    digits = [digit * by for digit, by in ((own, scale), (answer.last_digit, other)) if digit is not None]
    return difference == 0 or (bool(digits) and difference < max(digits))

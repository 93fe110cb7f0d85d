r"""A normalized answer as its form, taken apart down to elements that are compared one by one.

What cannot be named is an `Expression`, left to math-verify.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import product

from aapo.grading.brackets import closes_at_end, split
from aapo.grading.forms import Based, Elements, Equation, Expression, Form, Matrix, Residue, Words
from aapo.grading.inequalities import Bounds, intervals
from aapo.grading.notation import trim
from aapo.grading.numbers import Number, read_number
from aapo.grading.sides import is_name, is_solved, symbols
from aapo.grading.units import LABEL, parse_unit, read_label
from aapo.grading.words import fold, is_words

_CONJUNCTION = re.compile(
    r",?\s?\\text\s?\{\s?,?\s?(?:and|or)\s?\}\s?|(?<=[)\]}\d])(?:and|or)(?=[(\[{\\\d-])|,?(?<=[\s,}\d)])\s?(?:and|or|\\lor|\\vee|\\wedge|\\land)\s(?=\S)"
)
# Letters alone would be variables, except in hexadecimal numerals.
_BASED = re.compile(
    r"\(?([0-9][0-9A-Za-z]*|[A-F][0-9A-F]+(?=\)?\s?_\s?\{?\s?16))\)?"
    r"\s?_\s?(?:\{\s?(?:\\text\{)?(\d{1,2})\s?\}?\s?\}|(\d{1,2}))"
)
_ALTERNATIVE = re.compile(
    r",?\s?(?:\\text\s?\{\s?,?\s?or\s?\}|(?<![a-zA-Z])or(?![a-zA-Z])|\\(?:lor|vee)(?![a-zA-Z]))\s?"
)
_EITHER = re.compile(r"(?<![a-zA-Z])or(?![a-zA-Z])|\\(?:lor|vee)(?![a-zA-Z])")
_SIGNS = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
MAX_SIGNS = 4
_CASES = re.compile(r"\\begin\{cases\}(.*)\\end\{cases\}", re.DOTALL)
_CONDITION = re.compile(r"^\s?(?:\\text\s?\{\s?(?:if|for|when|,)?\s?\}|if |for |when )\s?")
_NEW_ROW = re.compile(r"\\\\(?:\[[^\]]{0,8}\])?")
_MATRIX = re.compile(
    r"\\begin\{(?:small)?([pbBvV]?matrix|array)\}(?:\{[lcr|\s]*\})?(.*)\\end\{(?:small)?(?:[pbBvV]?matrix|array)\}",
    re.DOTALL,
)
_SET_OF = re.compile(r"\s?[a-zA-Z](?:\s?\\in\s?\\mathbb\{R\})?\s?")
_POINT = re.compile(r"([A-Z](?:_\s?\w|_\s?\{\w+\})?'{0,2})\s?:?\s?(\(.*\))", re.DOTALL)
_HATS = re.compile(r"\\(?:hat|vec|overrightarrow|mathbf)\s?\{?\s?(?:\\)?([ijk])(?:math)?\s?\}?")
_COMPONENT = re.compile(r"([-+]?)\s?(\d*(?:\.\d+)?|\\frac\{\d+\}\{\d+\})\s?([ijk])(?![a-zA-Z])")
_VECTOR = re.compile(
    rf"\s?{_COMPONENT.pattern.replace('[ijk]', 'i')}(?:\s?{_COMPONENT.pattern.replace('[ijk]', '[jk]')}){{1,2}}\s?"
)
_RELATION = re.compile(r"<|>|\\(?:le|ge|ne)(?![a-zA-Z])")
_SET = re.compile(r"\\\{.*\\\}", re.DOTALL)
_RESIDUE = re.compile(
    r"(?:[a-zA-Z](?:_\w)?\s?\\equiv\s?)?(-?\d{1,18})\s?(?:\\pmod\s?\{?\s?|\(\s?(?:\\text\s?\{\s?mod\s?\}|\\?b?mod)\s?)(\d{1,18})"
    r"\s?[})]?"
)
_MEMBERSHIP = re.compile(r"[a-zA-Z](?:_\w)?\s?\\in(?![a-zA-Z])\s?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,2}/\d{1,2}/\d{4}")
_PARTED_DIGITS = re.compile(r"\d[\d.,]*(?: \d[\d.,]*)+")
_FINAL_TEXT = re.compile(rf"(.*?[^\s{{(^_])\s?({LABEL})", re.DOTALL)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_GENERIC_UNIT = re.compile(
    r"\s(?:(?:square|cubic|sq\.?)\s)?(?:units?|inch(?:es)?|feet|[kcm]m|meters?)(?:\^\{?[23]\}?)?$"
)


def read(text: str, *, thousands: bool = True) -> Form:
    """The form of a normalized answer.

    Args:
        text: From `normalize`.
        thousands: Whether 1,234 is one number; otherwise it is a list of two.
    """
    if (thousands or "," not in text) and (number := read_number(text)) is not None:
        return number
    if found := _BASED.fullmatch(text):
        digits, base = found[1].upper(), int(found[2] or found[3])
        if 2 <= base <= 36 and all(int(digit, 36) < base for digit in digits):
            return Based(text, digits, base)
    if (found := _RESIDUE.fullmatch(text)) and int(found[2]) > 0:
        return Residue(text, int(found[1]), int(found[2]))
    is_set = text.startswith(r"\{") and closes_at_end(text)
    if not is_set and _SIGNS.search(text):
        return Elements(text, "list", tuple(_each_sign(text)))
    return _read_structure(text)


def _read_structure(text: str) -> Form:
    membership = _MEMBERSHIP.match(text)
    if membership:
        return read(trim(text[membership.end() :]))
    if systems := _systems(text):
        return Elements(text, "list", systems)
    parts = split(_CONJUNCTION.sub(" , ", text), ",;")
    if len(parts) > 1:
        items = tuple(read(trim(part)) for part in parts if part.strip())
        ranges = [item for item in items if isinstance(item, Elements) and item.kind == "range"]
        if len(ranges) == len(items) > 1:
            return _together(text, ranges, either=_EITHER.search(text) is not None)
        return items[0] if len(items) == 1 else Elements(text, "list", items)
    if text.startswith(r"\{") and (form := _bracketed(text)) is not None:
        return form
    if (found := intervals(text)) is not None:
        return _sets(text, found)
    sides = split(text, "=")
    if len(sides) > 1 and not _RELATION.search(_SET.sub("", text)):
        return _equation(text, [trim(side) for side in sides])
    if len(about := text.split(r"\approx")) == 2:
        return _approximation(text, trim(about[0]), trim(about[1]))
    if len(parts := text.split(r"\cup")) > 1:
        return Elements(text, "union", tuple(read(trim(part)) for part in parts))
    return _bracketed(text) or _point(text) or _unit_vectors(text) or _atom(text)


def _point(text: str) -> Form | None:
    """A named point such as A(4,1), or a row that is transposed."""
    if text.endswith("^T") and isinstance(form := _bracketed(trim(text[:-2])), (Elements, Matrix)):
        if isinstance(form, Elements):
            return form._replace(text=text, brackets="()") if form.kind == "tuple" else None
        even = len({len(row) for row in form.rows}) == 1
        return form._replace(text=text, rows=tuple(zip(*form.rows, strict=True))) if even else None
    if (
        (found := _POINT.fullmatch(text))
        and isinstance(form := _bracketed(found[2]), Elements)
        and form.kind == "tuple"
    ):
        return Equation(text, found[1], (form,))
    return None


def _unit_vectors(text: str) -> Form | None:
    """2i + 7j as the vector (2, 7)."""
    plain = _HATS.sub(r"\1", text)
    if not _VECTOR.fullmatch(plain):
        return None
    parts = dict.fromkeys("ijk" if "k" in plain else "ij", "0")
    for sign, size, name in _COMPONENT.findall(plain):
        parts[name] = sign.strip().removeprefix("+") + (size.strip() or "1")
    return Elements(text, "tuple", tuple(read(part) for part in parts.values()), "()")


def _systems(text: str) -> tuple[Form, ...]:
    """The solutions in `m=2, n=3; m=5, n=1`, each a list of named values; empty for anything else."""
    solutions = split(_ALTERNATIVE.sub(" ; ", text), ";")
    if len(solutions) < 2 or any("=" not in solution for solution in solutions):
        return ()
    if not all(len(split(_CONJUNCTION.sub(" , ", solution), ",")) > 1 for solution in solutions):
        return ()
    return tuple(read(trim(solution)) for solution in solutions)


def _approximation(text: str, left: str, right: str) -> Form:
    """What is on the left, unless that is a name; numbers that differ are no answer."""
    if not right:
        return Expression(text)
    if not left or is_name(left):
        return read(right)
    value, rounded = read(left), read(right)
    if isinstance(value, Number) and isinstance(rounded, Number) and _far(value, rounded):
        return Words(text, fold(text))
    return value


def _far(value: Number, rounded: Number) -> bool:
    scale = rounded.unit.factor / value.unit.factor if value.unit and rounded.unit else 1
    return not value.percent and abs(value.value - rounded.value * scale) * 10 > abs(value.value)


def _equation(text: str, sides: list[str]) -> Form:
    if len(sides) == 2 and not is_name(sides[0]) and sides[0] and is_name(sides[1]):
        sides = sides[::-1]
    name = sides[0] if is_name(sides[0]) or not sides[0] else None
    members = tuple(read(side) for side in (sides[1:] if name is not None else sides) if side)
    if not members:
        return Expression(text)
    # In 12 = 3x = 12 it is the second side that is unsolved.
    unknown = next((side for side in sides[:-1] if symbols(side)), sides[0])
    return Equation(text, name, members, name is not None or is_name(unknown) or is_solved(unknown, sides[-1]))


def _each_sign(text: str) -> Iterator[Form]:
    r"""The list items that \pm and \mp stand for.

    Several \pm in a term are independent of each other; \mp goes with the \pm beside it.
    """
    for part in split(_CONJUNCTION.sub(" , ", text), ",;"):
        signs = _SIGNS.findall(part)
        if not signs:
            if part.strip():
                yield read(trim(part))
            continue
        free = r"\mp" not in signs and len(signs) <= MAX_SIGNS
        for chosen in product("+-", repeat=len(signs)) if free else (["+"] * len(signs), ["-"] * len(signs)):
            yield read(trim(_signed(part, chosen)))


def _signed(part: str, chosen: Sequence[str]) -> str:
    r"""A term with its \pm signs replaced, and \mp by the contrary."""
    signs = iter(chosen)
    contrary = {"+": "-", "-": "+"}
    text = _SIGNS.sub(lambda found: next(signs) if found.group() == r"\pm" else contrary[next(signs)], part)
    return text.replace("= +", "= ").replace("( +", "(").strip().removeprefix("+")


def _sets(text: str, intervals: list[Bounds]) -> Form:
    """The interval, or union of intervals, that an inequality stands for."""
    ranges = tuple(Elements(text, "range", (read(item.low), read(item.high)), item.brackets) for item in intervals)
    return ranges[0] if len(ranges) == 1 else Elements(text, "union", ranges)


def _together(text: str, ranges: list[Elements], *, either: bool) -> Elements:
    """Inequalities in a row: their union, or what they have in common where the union would be everything."""
    union = Elements(text, "union", tuple(ranges))
    if either or len(ranges) != 2:
        return union
    low, high = sorted(ranges, key=lambda item: item.items[0].text == r"-\infty")
    (start, end), (bottom, stop) = low.items, high.items
    if end.text != r"\infty" or bottom.text != r"-\infty":
        return union
    if isinstance(start, Number) and isinstance(stop, Number) and start.value >= stop.value:
        return union
    return Elements(text, "range", (start, stop), low.brackets[0] + high.brackets[1])


def _cases(text: str, inside: str) -> Form:
    """A list of equations, or the pieces of a function: values with their conditions, in any order."""
    rows = [split(row, "&") for row in _NEW_ROW.split(inside) if row.strip()]
    pieces = [tuple(read(trim(_CONDITION.sub("", trim(cell)))) for cell in row if cell.strip()) for row in rows]
    if [len(piece) for piece in pieces] == [1]:
        return pieces[0][0]
    if all(len(piece) == 1 for piece in pieces):
        return Elements(text, "list", tuple(piece[0] for piece in pieces))
    return Elements(text, "list", tuple(Elements(text, "piece", piece) for piece in pieces))


def _bracketed(text: str) -> Form | None:
    """A matrix, set, tuple or interval, or what single parentheses hold."""
    if found := _CASES.fullmatch(text):
        return _cases(text, found[1])
    if found := _MATRIX.fullmatch(text):
        if found[1] in ("vmatrix", "Vmatrix"):
            return Expression(text)
        rows = [row for row in _NEW_ROW.split(found[2]) if row.strip()]
        if found[1] == "array" and len(rows) == 1 and "&" not in rows[0]:
            return read(trim(rows[0]))
        return Matrix(text, tuple(tuple(read(trim(cell)) for cell in split(row, "&")) for row in rows))
    if text.startswith(r"\{") and text.endswith(r"\}") and closes_at_end(text):
        inside = text[2:-2]
        for bar in (r"\mid", "|", ":"):
            if len(parts := inside.split(bar)) == 2 and _SET_OF.fullmatch(parts[0]):
                return read(trim(parts[1]))
        inner = read(trim(inside), thousands=False)
        items = inner.items if isinstance(inner, Elements) and inner.kind == "list" else (inner,)
        return Elements(text, "set", items)
    if text[:1] in "([" and text[-1:] in ")]" and len(text) > 2 and closes_at_end(text):
        parts = split(text[1:-1], ",;")
        if len(parts) == 1:
            return read(trim(text[1:-1])) if text[0] == "(" and text[-1] == ")" else None
        if all(part.strip() for part in parts):
            return Elements(text, "tuple", tuple(read(trim(part)) for part in parts), text[0] + text[-1])
    return None


def _atom(text: str) -> Form:
    """Words, a ratio or an expression."""
    if text == r"\mathbb{R}" or fold(text) in ("allrealnumbers", "allreals"):
        return Elements(text, "range", (Expression(r"-\infty"), Expression(r"\infty")), "()")
    ratio = text.split(":")
    if len(ratio) > 1 and all(re.fullmatch(r"\s?-?\d[\d.]*\s?", part) for part in ratio):
        return Elements(text, "ratio", tuple(read(trim(part)) for part in ratio))
    if _PARTED_DIGITS.fullmatch(text):
        return Elements(text, "list", tuple(read(part) for part in text.split(" ")))
    if _DATE.fullmatch(text):  # no subtraction, no fraction
        return Words(text, fold(text))
    form = _without_unit(text)
    return Words(text, fold(text)) if is_words(form.text) else form


def _without_unit(text: str) -> Expression:
    r"""The mathematics before a final \text{unit}."""
    found = _FINAL_TEXT.fullmatch(text)
    if found and re.search(r"\\(?:text|AA)", found[2]) and r"\text" not in found[1] and not is_words(found[1]):
        label = read_label(found[2], bare=not re.search(r"\d", found[1]))
        if label is not None and label.scale == 1 and (label.unit is not None or re.search(r"[\d\\]", found[1])):
            return Expression(found[1], label.unit)
        return Expression(text)
    found = _GENERIC_UNIT.search(text)
    if found and re.search(r"\d", text[: found.start()]):
        return Expression(text[: found.start()], parse_unit(found.group().strip()))
    before, _, word = text.rpartition(" ")
    unit = parse_unit(word, bare=True) if re.fullmatch(r"[a-zA-Z]{2,}", word) else None  # one letter is a variable
    if unit is not None and before[-1:] in tuple("0123456789})"):
        return Expression(before, unit)
    return Expression(text if _TRIGONOMETRIC.search(text) else re.sub(r"\^\\circ$", "", text).strip())

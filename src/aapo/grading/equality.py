"""Whether an answer is the gold answer, element by element.

One recursion serves two oracles: in the trainer's process the elements that exact comparison cannot decide are left
open, and the result is None; in a worker math-verify decides them.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache, reduce

from aapo.grading.forms import Based, Elements, Equation, Expression, Form, Matrix, Residue, Words
from aapo.grading.notation import squeeze
from aapo.grading.numbers import Number, same_number
from aapo.grading.reading import read
from aapo.grading.sides import is_combination, same_name, symbols
from aapo.grading.units import Unit
from aapo.grading.words import fold, may_be_letters

# Decides two pieces of LaTeX, or None for "ask a worker".
Oracle = Callable[[str, str], bool | None]

# More elements than this, not written alike, are not paired off.
MAX_ELEMENTS = 30

_OPERATION = re.compile(
    r"(?<=[\w)}!])\s?[-+*/^!]|\\(?:cdot|times|div|binom|sqrt|log|ln|lg|exp|sin|cos|tan|sec|csc|cot|arc|sum|prod|int|gcd|lcm|frac"
    r"|lfloor|lceil|max|min|bmod|pmod|mod|choose|det|begin|lim)|[!|_']|(?<![\\a-zA-Z])[a-zA-Z]"
)
_SET_NOTATION = re.compile(
    r"\\(?:setminus|backslash|cap|cup|mathbb|mid|in|infty|emptyset|begin|le|ge|ne)(?![a-zA-Z])|[<>|]"
)
# A list of two numbers, or a decimal with a comma.
_DECIMAL_COMMA = re.compile(r"0,(\d{3})")
_TIME = re.compile(r"\d{1,2}:\d\d[ap]m")


def equal(gold: Form, answer: Form, oracle: Oracle, *, evaluated: bool = True) -> bool | None:
    """Whether two forms are equal; None where the oracle left something open that matters.

    Args:
        gold: The gold answer.
        answer: The model's.
        oracle: Decides what exact comparison cannot.
        evaluated: Where the gold answer is a plain number, unevaluated arithmetic is wrong.
    """

    def same(one: Form, other: Form) -> bool | None:
        return equal(one, other, oracle, evaluated=evaluated)

    if _same_text(gold.text, answer.text) and _unit(gold) == _unit(answer):
        return True
    if isinstance(gold, Words) or isinstance(answer, Words):
        return _same_words(gold.text, answer.text)
    if isinstance(gold, Residue) or isinstance(answer, Residue):
        return _equal_residues(gold, answer)
    if isinstance(gold, Equation) or isinstance(answer, Equation):
        return _equal_equations(gold, answer, oracle, evaluated)
    if isinstance(gold, Number) and isinstance(answer, Number):
        return same_number(gold, answer)
    if isinstance(gold, Based) or isinstance(answer, Based):
        return _equal_based(gold, answer)
    if isinstance(gold, Elements) or isinstance(answer, Elements):
        return _equal_elements(gold, answer, oracle, same)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return _equal_matrices(gold, answer, oracle, same)
    if evaluated and is_unevaluated(gold, answer):
        return False
    return _equal_values(gold, answer, oracle)


def _unit(form: Form) -> Unit | None:
    return form.unit if isinstance(form, (Number, Expression)) else None


def _equal_values(gold: Form, answer: Form, oracle: Oracle) -> bool | None:
    """Two expressions, or one and a number, in the same unit where both have one."""
    one, other = _unit(gold), _unit(answer)
    if one is None or other is None or one == other:
        return oracle(gold.text, answer.text)
    if one.dimensions != other.dimensions:
        return False
    ratio = other.factor / one.factor
    if isinstance(answer, Number):  # with its unit its text is no mathematics
        value = answer.value * ratio
        return oracle(gold.text, rf"\frac{{{value.numerator}}}{{{value.denominator}}}")
    return oracle(gold.text, rf"\frac{{{ratio.numerator}}}{{{ratio.denominator}}}\left({answer.text}\right)")


def _same_text(gold: str, answer: str) -> bool:
    return squeeze(gold) == squeeze(answer)


def _same_words(gold: str, answer: str) -> bool:
    """Whether texts are the same but for case and punctuation; a time may lack its half of the day on one side.

    Where both may be products of letters, their case counts.
    """
    one, other = fold(gold), fold(answer)
    halves = [bool(_TIME.fullmatch(text)) for text in (one, other)]
    if any(halves) and not all(halves):
        return one.removesuffix("am").removesuffix("pm") == other.removesuffix("am").removesuffix("pm")
    if one != other:
        return False
    return not (may_be_letters(gold) and may_be_letters(answer)) or fold(gold, case=True) == fold(answer, case=True)


def is_unevaluated(gold: Form, answer: Form) -> bool:
    """Whether the gold answer is a plain number and the answer is still to be computed, or holds a variable."""
    if not isinstance(gold, Number) or gold.float_error is not None:
        return False
    return isinstance(answer, Expression) and bool(_OPERATION.search(answer.text))


def all_of(values: Sequence[bool | None]) -> bool | None:
    """Three-valued and."""
    return reduce(
        lambda one, other: False if False in (one, other) else None if None in (one, other) else True, values, True
    )


def _equal_based(gold: Form, answer: Form) -> bool:
    if isinstance(gold, Based) and isinstance(answer, Based):
        return gold.base == answer.base and gold.digits.lstrip("0") == answer.digits.lstrip("0")
    if isinstance(gold, Based):
        written = answer.text.replace(" ", "").replace(",", "").upper()
        return written.lstrip("0") == gold.digits.lstrip("0")
    assert isinstance(answer, Based)
    return isinstance(gold, Number) and gold.value == int(answer.digits, answer.base)


def _equal_residues(gold: Form, answer: Form) -> bool:
    """A class modulo n, or its smallest member where the gold answer is that class."""
    if not isinstance(gold, Residue):
        return False
    if isinstance(answer, Residue):
        return gold.modulus == answer.modulus and (gold.value - answer.value) % gold.modulus == 0
    return isinstance(answer, Number) and not answer.percent and answer.value == gold.value % gold.modulus


def _equal_equations(gold: Form, answer: Form, oracle: Oracle, evaluated: bool) -> bool | None:
    """Named values by their values, other equations as a whole; an unsolved equation is no value."""
    if isinstance(answer, Equation) and not answer.solved and not isinstance(gold, Equation):
        return False
    if isinstance(answer, Equation) and (consistent := _consistent(answer, oracle)) is not True:
        return consistent
    if isinstance(gold, Equation) and isinstance(answer, Equation):
        return _two_equations(gold, answer, oracle, evaluated)
    if isinstance(gold, Equation):
        left = gold.members[0].text
        named = gold.name is not None or (gold.solved and (not symbols(gold.text) or is_combination(left)))
        return equal(gold.members[-1], answer, oracle, evaluated=evaluated) if named else False
    assert isinstance(answer, Equation)
    if answer.name is None and isinstance(gold, Expression) and symbols(gold.text):
        return False
    return equal(gold, answer.members[-1], oracle, evaluated=evaluated)


def _two_equations(gold: Equation, answer: Equation, oracle: Oracle, evaluated: bool) -> bool | None:
    value, found = gold.members[-1], answer.members[-1]
    if gold.name is None or answer.name is None:
        if gold.name is not None and not symbols(value.text):  # 3x = 9 does not say that x = 3
            return False
        return oracle(gold.text, answer.text)
    if same_name(gold.name, answer.name):
        return equal(value, found, oracle, evaluated=evaluated)
    return oracle(gold.text, answer.text) if symbols(value.text) | symbols(found.text) else False


def _consistent(equation: Equation, oracle: Oracle) -> bool | None:
    """Whether the constants in a chain agree with its last member."""
    last = equation.members[-1]
    constants = [item for item in equation.members[:-1] if not symbols(item.text)]
    if not constants or symbols(last.text):
        return True
    return all_of([equal(last, item, oracle, evaluated=False) for item in constants])


def _equal_matrices(gold: Form, answer: Form, oracle: Oracle, same: Callable) -> bool | None:
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        if [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
            return False
        pairs = [
            (one, other)
            for row, others in zip(gold.rows, answer.rows, strict=True)
            for one, other in zip(row, others, strict=True)
        ]
        return all_of([same(one, other) for one, other in pairs])
    if isinstance(gold, Number) or isinstance(answer, Number):
        return False
    return oracle(gold.text, answer.text)


def _equal_elements(gold: Form, answer: Form, oracle: Oracle, same: Callable) -> bool | None:
    """Lists, sets, tuples, intervals, unions, ratios."""
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return _vector(gold, answer, same)
    if not (isinstance(gold, Elements) and isinstance(answer, Elements)):
        return _one_or_several(gold, answer, oracle, same)
    kinds = {gold.kind, answer.kind}
    if kinds == {"list"}:
        if _distinct_names(gold) != _distinct_names(answer):  # the values of x and y in their order
            return _ordered(gold, answer, same)
        return matching(gold.items, answer.items, same)
    if "set" in kinds and kinds <= {"set", "list"}:
        return _covers(gold.items, answer.items, same)
    if kinds <= {"range", "union"} and (one := symbols(gold.text)) and (other := symbols(answer.text)) and one != other:
        return False
    if kinds <= {"tuple", "range"}:
        return gold.brackets == answer.brackets and _ordered(gold, answer, same)
    if kinds == {"tuple", "list"}:
        return _ordered(gold, answer, same)
    if kinds in ({"ratio"}, {"piece"}):
        return _ordered(gold, answer, same)
    if kinds == {"union"} and matching(gold.items, answer.items, same):
        return True
    if "union" in kinds or ("set" in kinds and "[]" in (gold.brackets, answer.brackets)):
        return oracle(_as_set(gold), _as_set(answer))
    return False


def _distinct_names(form: Elements) -> bool:
    """Whether the elements are values of different unknowns: x and y, not two of x."""
    names = [item.name for item in form.items if isinstance(item, Equation) and item.name is not None]
    return len(names) == len(form.items) and len({re.sub(r"_.*", "", name, flags=re.DOTALL) for name in names}) > 1


def _as_set(form: Elements) -> str:
    r"""LaTeX of a set that math-verify reads, since it takes no inequalities for sets."""
    if form.kind == "union":
        return r"\cup ".join(_as_set(item) if isinstance(item, Elements) else item.text for item in form.items)
    if form.kind == "range":
        return f"{form.brackets[0]}{form.items[0].text},{form.items[1].text}{form.brackets[1]}"
    return form.text


def _one_or_several(gold: Form, answer: Form, oracle: Oracle, same: Callable) -> bool | None:
    """A form with elements against one without."""
    several, other = (gold, answer) if isinstance(gold, Elements) else (answer, gold)
    assert isinstance(several, Elements)
    if several.kind == "set" and len(several.items) == 1 and isinstance(other, (Number, Expression)):
        item = several.items[0]
        if isinstance(item, Elements) or "\\emptyset" in item.text:
            return False
        return same(item, answer) if several is gold else same(gold, item)
    if several.kind == "list" and isinstance(other, Number) and re.fullmatch(r"-?\d{1,3}(,\d{3})+", other.text):
        split = read(other.text, thousands=False)
        return same(gold, split) if several is gold else same(split, answer)
    if several.kind == "list" and isinstance(other, Number) and (found := _DECIMAL_COMMA.fullmatch(several.text)):
        decimal = read(f"0.{found[1]}")
        return same(decimal, answer) if several is gold else same(gold, decimal)
    if several.kind == "ratio" and isinstance(other, Number) and len(several.items) == 2:
        one, two = several.items
        if not (isinstance(one, Number) and isinstance(two, Number)) or two.value == 0:
            return False
        return one.value / two.value == other.value
    if isinstance(other, Expression) and _SET_NOTATION.search(other.text):
        texts = [_as_set(form) if isinstance(form, Elements) else form.text for form in (gold, answer)]
        return oracle(texts[0], texts[1])
    return False


def _vector(gold: Form, answer: Form, same: Callable) -> bool | None:
    """A matrix of one row or column against a tuple."""
    matrix, other = (gold, answer) if isinstance(gold, Matrix) else (answer, gold)
    if not isinstance(matrix, Matrix) or not isinstance(other, Elements) or other.brackets != "()":
        return False
    cells = [cell for row in matrix.rows for cell in row]
    if len(cells) != len(other.items) or (len(matrix.rows) > 1 and len(matrix.rows[0]) > 1):
        return False
    if matrix is gold:
        return all_of([same(cell, item) for cell, item in zip(cells, other.items, strict=True)])
    return all_of([same(item, cell) for cell, item in zip(cells, other.items, strict=True)])


def _ordered(gold: Elements, answer: Elements, same: Callable) -> bool | None:
    if len(gold.items) != len(answer.items):
        return False
    return all_of([same(one, other) for one, other in zip(gold.items, answer.items, strict=True)])


def _covers(gold: Sequence[Form], answer: Sequence[Form], same: Callable) -> bool | None:
    """Whether two sets have the same elements, each written once or more."""
    rest, others = _without_equal_texts(_distinct(gold), _distinct(answer))
    if max(len(rest), len(others)) > MAX_ELEMENTS:
        return None
    golds, answers = _distinct(gold), _distinct(answer)

    # Each pair once, since a second time would double at every level of nested sets.
    pairs = cache(lambda row, column: same(golds[row], answers[column]))

    def any_of(values: Iterable[bool | None]) -> bool | None:
        found = list(values)
        return True if True in found else None if None in found else False

    rows = [any_of(pairs(row, column) for column in range(len(answers))) for row in map(golds.index, rest)]
    columns = [any_of(pairs(row, column) for row in range(len(golds))) for column in map(answers.index, others)]
    return all_of(rows + columns)


def matching(gold: Sequence[Form], answer: Sequence[Form], same: Callable) -> bool | None:
    """Whether the elements can be paired off, whatever their order; None also where there are too many to try."""
    if len(gold) != len(answer):
        return False
    rest, others = _without_equal_texts(gold, answer)
    if len(rest) > MAX_ELEMENTS:
        return None
    table = [[same(one, other) for other in others] for one in rest]
    if _pairs_off([[value is True for value in row] for row in table]):
        return True
    return None if _pairs_off([[value is not False for value in row] for row in table]) else False


def _distinct(forms: Sequence[Form]) -> list[Form]:
    return list({squeeze(form.text): form for form in forms}.values())


def _without_equal_texts(gold: Sequence[Form], answer: Sequence[Form]) -> tuple[list[Form], list[Form]]:
    """What is left after pairing off elements that are written alike."""
    common = Counter(form.text for form in gold) & Counter(form.text for form in answer)

    def rest(forms: Sequence[Form]) -> list[Form]:
        paired = common.copy()
        left = []
        for form in forms:
            if paired[form.text] > 0:
                paired[form.text] -= 1
            else:
                left.append(form)
        return left

    return rest(gold), rest(answer)


def _pairs_off(table: list[list[bool]]) -> bool:
    """Whether a bipartite graph has a perfect matching, by augmenting paths.

    scipy has this too, but where cores are many its threads alone take the address space that a worker may use.
    """
    partner: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column, allowed in enumerate(table[row]):
            if allowed and column not in seen:
                seen.add(column)
                if column not in partner or place(partner[column], seen):
                    partner[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(table)))

r"""Properties of the grader that hold for any text.

Most run in this process, with workers that leave everything undecided; the last ones ask real workers.
"""

from fractions import Fraction
from unittest import mock

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from aapo.grading import answers, extract_answer, grade
from aapo.grading.answers import forget_verdicts, grade_many
from aapo.grading.extraction import CONVENTIONS, gold_answer
from aapo.grading.limits import MAX_NESTING, nesting
from aapo.grading.notation import normalize

anything = settings(deadline=None, max_examples=300, derandomize=True)
fewer = settings(deadline=None, max_examples=40, derandomize=True)

OUTCOMES = {"correct", "wrong", "no_answer", "unparseable_gold", "timeout"}


class Undecided:
    """A worker's item that never gets a verdict."""

    def __init__(self, *call):
        pass

    def result(self):
        return None


def alone(gold, completion, **options):
    """The verdict without workers."""
    with mock.patch.object(answers, "Item", Undecided):
        try:
            return grade(gold, completion, **options)
        finally:
            forget_verdicts()


def boxed(answer):
    return rf"\boxed{{{answer}}}"


def outcome(gold, answer):
    return alone(gold, boxed(answer)).outcome


TOKENS = r"""\frac \dfrac \sqrt \pm \mp \cup \cap \in \le \ge \ne \not \infty \emptyset \pi \approx \text \mathbf \left
\right \begin{pmatrix} \end{pmatrix} \begin{cases} \end{cases} \boxed \fbox \overline \hspace \color \pmod \mod \equiv
\cdot \times \{ \} \\ \, \! \; \% \$ \( \) \[ \] { } ( ) [ ] , ; : . ... = < > + - * / ^ _ ! | & $ % ' " ` ** # ####
~ 0 1 2 42 1,234 0.5 1e9 12\,345 x y xy a e i f(x) pi sqrt inf and or cm kg million percent yes A (B) C) <answer>
</answer> </think> answer\ is Answer: &amp; &lt; ½ ² ₂ − √ ∞ ° € × ∪ 4 ٣ Ω α Å \mu \AA \Omega M_\odot
eV T \mathring{A} \text{sec}""".split()  # noqa: SIM905
tokens = st.sampled_from([*TOKENS, " ", "  ", "\n", " and ", " or ", "I hope", "\u200b", "\0", "\ud800"])
soup = st.lists(tokens, max_size=40).map("".join)
any_text = st.one_of(soup, st.text(max_size=60))


@anything
@given(any_text, any_text, st.sampled_from([None, *CONVENTIONS]), st.booleans())
def test_any_text_gets_one_of_the_five_outcomes(gold, text, convention, in_box):
    completion = boxed(text) if in_box else text
    assert alone(gold, completion, convention=convention).outcome in OUTCOMES
    assert alone(text, boxed(gold), convention=convention).outcome in OUTCOMES


@anything
@given(any_text)
@example("50\\\x1f50\\%")
@example("\\" * 40 + "%" + "\\" * 40)
def test_normalizing_twice_changes_nothing(text):
    assume(nesting(text) <= MAX_NESTING)
    assert normalize(normalize(text)) == normalize(text)


HOSTILE = [*TOKENS, r"\boxed{", r"\frac{", r"\text{", r"\mathbf{", r"\sqrt(", "(1,", "{ ", r"\pm 1,", "<answer>1", "1 "]


@pytest.mark.parametrize("token", HOSTILE)
def test_long_hostile_text_is_graded_at_once(token):
    text = token * (300_000 // len(token))
    for convention in (None, *CONVENTIONS):
        extract_answer(text, convention)
    gold_answer(text)
    for completion in (text, boxed(text), boxed(token * (1000 // len(token)))):
        assert alone("42", completion).outcome in OUTCOMES - {"correct"}
    normalize(text[:10_000])


def test_nested_sets_do_not_double_the_work_at_each_level():
    gold, answer = (r"\{1, " * 19 + end + r"\}" * 19 for end in ("2", "3"))
    assert outcome(gold, answer) == "wrong"


# Numbers and their notations.

fractions = st.builds(
    Fraction, st.integers(-9999, 9999), st.sampled_from([1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 20, 25, 100])
)


def decimal(value):
    """The finite decimal, or None."""
    for places in range(7):
        if (scaled := value * 10**places).denominator == 1:
            digits = str(abs(scaled.numerator)).zfill(places + 1)
            whole, decimals = digits[: len(digits) - places], digits[len(digits) - places :]
            return ("-" if value < 0 else "") + whole + ("." + decimals if places else "")
    return None


def repeating(value, start, end):
    r"""0.1\overline{6}, by long division."""
    whole, rest = divmod(abs(value.numerator), value.denominator)
    digits, seen = "", {}
    while rest not in seen:
        seen[rest] = len(digits)
        digit, rest = divmod(rest * 10, value.denominator)
        digits += str(digit)
    first = seen[rest]
    return f"{'-' if value < 0 else ''}{whole}.{digits[:first]}{start}{digits[first:]}{end}"


def other_digits(text, zero):
    return "".join(chr(ord(zero) + int(char)) if char.isdigit() else char for char in text)


def notations(value):
    """Ways to write a rational; those with a percent sign may also mean another number."""
    sign, size = "-" if value < 0 else "", abs(value)
    above, below = size.numerator, size.denominator
    found = [
        rf"{sign}\frac{{{above}}}{{{below}}}",
        rf"\frac{{{sign}{above}}}{{{below}}}",
        rf"{sign}\dfrac{{{3 * above}}}{{{3 * below}}}",
        f"{sign}{above}/{below}",
        repeating(value, r"\overline{", "}"),
        repeating(value, "(", ")"),
    ]
    if size > 1 and below > 1:
        whole, above = divmod(above, below)
        found += [rf"{sign}{whole}\frac{{{above}}}{{{below}}}", f"{sign}{whole} {above}/{below}"]
    if (text := decimal(value)) is not None:
        point = text if "." in text else text + ".0"
        found += [text, point, f"+{text}" if value >= 0 else text, f"{decimal(value / 100)}e2", f"${text}$"]
        found += [rf"{decimal(value / 1000)} \times 10^{{3}}", rf"{decimal(value * 100)} \cdot 10^{{-2}}"]
        found += [other_digits(text, zero) for zero in ("０", "٠", "𝟎")]
        found += [text.replace("-", "−")]
    if below == 1:
        grouped = f"{value.numerator:,}"
        found += [grouped, grouped.replace(",", r"\,"), grouped.replace(",", "{,}"), f"{value}."]
    return found


def rounds(text):
    """Whether a decimal shows six digits or more, so that it may stand for its neighbours."""
    return sum(char.isdigit() for char in text) >= 6


@anything
@given(fractions, st.data())
def test_a_number_equals_itself_in_any_notation_and_no_other(value, data):
    one, same = (data.draw(st.sampled_from(notations(value))) for _ in range(2))
    assert outcome(one, same) == outcome(same, one) == "correct"
    other = data.draw(fractions)
    assume(other != value)
    different = data.draw(st.sampled_from(notations(other)))
    assume(abs(other - value) >= 1 or not (rounds(one) or rounds(different)))
    assert outcome(one, different) == outcome(different, one) == "wrong"


@anything
@given(fractions, st.data())
def test_a_percentage_is_its_share_or_its_number(value, data):
    assume(decimal(value) is not None)
    percent = decimal(value * 100) + r"\%"
    share = data.draw(st.sampled_from(notations(value)))
    assert outcome(share, percent) == outcome(percent, share) == "correct"
    other = data.draw(fractions)
    assume(other not in (value, value * 100) and not rounds(percent) and not rounds(share))
    assert outcome(percent, data.draw(st.sampled_from(notations(other)))) == "wrong"


# Units.

PREFIXES = {"f": -15, "p": -12, "n": -9, r"\mu ": -6, "m": -3, "c": -2, "d": -1, "": 0, "k": 3, "M": 6, "G": 9, "T": 12}
SYMBOLS = ["m", "g", "s", "A", "mol", "Hz", "N", "Pa", "J", "eV", "W", "C", "V", "F", "T", "G", "H", "L", "pc", "yr"]
prefixes = st.sampled_from(list(PREFIXES))


@anything
@given(st.integers(1, 99), st.sampled_from(SYMBOLS), prefixes, prefixes, st.sampled_from(["", r"\,", " "]))
def test_every_prefix_scales_every_unit(value, symbol, one, other, space):
    assume("pm" not in (one + symbol, other + symbol))  # the half of the day
    gold, scaled = rf"{value}{space}\text{{ {one}{symbol}}}", PREFIXES[one] - PREFIXES[other]
    assert outcome(gold, rf"{value} \times 10^{{{scaled}}} \mathrm{{{other}{symbol}}}") == "correct"
    assert outcome(gold, rf"{value} \times 10^{{{scaled + 1}}} \mathrm{{{other}{symbol}}}") == "wrong"
    assert outcome(str(value), gold) == outcome(gold, str(value)) == "correct"
    assert outcome(str(value + 1), gold) == "wrong"


# Structures.

numbers = st.one_of(
    st.integers(-99, 99).map(str),
    st.builds(r"\frac{{{}}}{{{}}}".format, st.integers(-9, 9), st.integers(1, 9)),
    st.builds("{}.{}".format, st.integers(0, 9), st.integers(1, 9)),
)
values = st.one_of(
    numbers,
    st.builds(r"{}\sqrt{{{}}}".format, st.integers(2, 9), st.integers(2, 9)),
    st.builds("{}x^2+{}x-{}".format, st.integers(2, 9), st.integers(2, 9), st.integers(1, 9)),
    st.sampled_from([r"\pi", r"2\pi", "x", r"\sin x", "e^{x}", "3+4i", r"\infty", r"5\text{ cm}"]),
)
several = st.lists(values, min_size=2, max_size=4)
structures = st.one_of(
    values,
    several.map(", ".join),
    several.map(lambda items: r"\{" + ", ".join(items) + r"\}"),
    several.map(lambda items: "(" + ", ".join(items) + ")"),
    st.builds("[{}, {})".format, numbers, numbers),
    several.map(lambda items: r"\begin{pmatrix}" + r"\\".join(items) + r"\end{pmatrix}"),
    values.map("x = {}".format),
    st.sampled_from([r"\text{Evelyn}", "yes", r"x \le 3", r"\mathbb{R}", "101_2", "3:4", r"(0,1)\cup(2,3)", r"\pm 3"]),
)
plain = st.text(alphabet="abc XYZ 0123.,:;!?()+-=*'\n", max_size=40)


@anything
@given(structures)
def test_an_answer_equals_itself(answer):
    assert outcome(answer, answer) == "correct"


WRAPPINGS = [
    "${}$", r"\({}\)", r"\[{}\]", "$${}$$", r"\mathbf{{{}}}", "**{}**", "{}.", "  {} ", "\n{}\n", r"\,{}\,", "`{}`",
    r"\displaystyle {}", "{{{}}}",
]  # fmt: skip
REWRITINGS = [
    ("(", r"\left("), (")", r"\right)"), (r"\{", r"\left\{"), (r"\}", r"\right\}"), (", ", r",\,"), (", ", ","),
    (", ", ",  "), (r"\frac", r"\tfrac"), ("-", "−"), ("+", " + "), ("^2", "²"), (r"\pi", "π"),
]  # fmt: skip


@anything
@given(structures, structures, st.sampled_from(WRAPPINGS), st.lists(st.sampled_from(REWRITINGS), max_size=3))
def test_notation_around_and_in_an_answer_changes_no_verdict(gold, answer, wrapping, rewritings):
    other = answer
    for old, new in rewritings:
        # Without its space, 1, 234 would be one number.
        if (old, new) != (", ", ",") or not any(part[:3].isdigit() for part in answer.split(", ")):
            other = other.replace(old, new)
    if wrapping == r"\mathbf{{{}}}" and "{" in gold + other:
        wrapping = "{}"
    other = wrapping.format(other)
    assert outcome(answer, other) == "correct"
    assert outcome(gold, other) == outcome(gold, answer)
    assert outcome(wrapping.format(gold), answer) == outcome(gold, answer)


@anything
@given(structures, structures, plain, plain, st.booleans())
def test_text_around_the_box_changes_no_verdict(gold, answer, before, after, thinks):
    completion = f"{before}{boxed(answer)}{after}"
    if thinks:
        completion = rf"<think>{after} \boxed{{7}} <answer>8</answer></think>{completion}"
    assert alone(gold, completion) == alone(gold, boxed(answer))
    tagged = f"{before}<answer>{answer}</answer>{after}"
    assert alone(gold, tagged).outcome == outcome(gold, answer)


@anything
@given(several, st.data())
def test_the_order_of_a_list_or_set_is_free_and_that_of_a_tuple_is_not(items, data):
    order = data.draw(st.permutations(items))
    for start, end in (("", ""), (r"\{", r"\}")):
        gold, answer = (start + ", ".join(part) + end for part in (items, order))
        assert outcome(gold, answer) == "correct"
    if len({Fraction(item) for item in items if item.lstrip("-").isdigit()}) == len(items) and order != items:
        assert outcome(f"({', '.join(items)})", f"({', '.join(order)})") == "wrong"


WORDS = [" or ", r" \text{ or } ", " and ", r" \text{ and } ", r" \lor ", "/ or "]
JOINS = [", ", "; ", r",\ ", r"\\", " & ", " | ", *WORDS]
AROUND = [("", ""), (r"\{", r"\}"), ("(", ")"), ("[", "]"), ("x = ", ""), (r"x \in \{", r"\}"), (r"\text{", "}")]


@anything
@given(st.lists(st.integers(-99, 99), min_size=2, max_size=5, unique=True), st.sampled_from(JOINS), st.data())
def test_a_list_of_candidates_is_not_paid_for_one_of_them(candidates, join, data):
    gold = str(data.draw(st.sampled_from(candidates)))
    answer = join.join(map(str, candidates))
    for start, end in AROUND:
        assert outcome(gold, start + answer + end) != "correct"


UNKNOWN = ["3x", "x-1", "x^2", "2^x", r"\sqrt{x}", "|x|", "x(x+1)", r"\frac{x}{2}", "-x", r"\ln x", "n!", "5t+2", "7-y"]
NAMED = [
    "x",
    "a_3",
    "f(2)",
    "|AB|",
    "AB",
    r"\angle A",
    r"\text{Area}",
    "a+b",
    "mn",
    "100m+n",
    r"\sin A",
    "P(A)",
    "f'(1)",
]


@anything
@given(st.integers(-99, 99), st.sampled_from(UNKNOWN), st.sampled_from(NAMED))
def test_an_equation_pays_by_its_right_side_only_where_its_left_side_names_the_value(value, unknown, named):
    assume(value != 0)
    gold = str(value)
    assert outcome(gold, f"{unknown}={gold}") == outcome(gold, f"{unknown} = 0+{gold} = {gold}") == "wrong"
    assert outcome(gold, f"{named}={gold}") == "correct"
    assert outcome(gold, f"{named}={value + 1}") == "wrong"


@pytest.mark.parametrize(
    "text", [r"\begin{pmatrix}1&2\\3\end{pmatrix}^T", r"\begin{pmatrix}\end{pmatrix}^T", "()^T", "^T"]
)
def test_a_transposed_row_of_any_shape_is_graded(text):
    assert outcome("(1,2)", text) in OUTCOMES - {"correct"} and outcome(text, "(1,2)") in OUTCOMES - {"correct"}


# With real workers.

PAIRS = [
    ("R", "r"), (r"\Omega", r"\omega"), ("f'(x)", "f(x)"), ("y''", "y'"), ("A^T", "A"), ("E_1", "e_1"), ("T_A", "T_a"),
    (r"\bar{z}", "z"), ("E", "e"), ("I", "i"), (r"\frac{dV}{dt}", r"\frac{dv}{dt}"), ("x_{12}", "x_1"), ("d", "D"),
]  # fmt: skip
FORMULAS = [
    "{}-2{}",
    r"\frac{{{}}}{{{}+3}}",
    r"{}\cdot {}^2",
    r"\sqrt{{{}}}+5{}",
    "q={}+7{}",
    "({}, {})",
    r"\sin({})+2{}",
]


@fewer
@given(st.sampled_from(PAIRS), st.sampled_from(FORMULAS), st.booleans())
def test_symbols_that_look_alike_are_never_merged_or_exchanged(pair, formula, other_way):
    one, other = pair[::-1] if other_way else pair
    gold = formula.format(one, other)
    assert grade(gold, boxed(gold.replace("+", " + "))).outcome == "correct"
    for wrong in (formula.format(other, one), formula.format(one, one), formula.format(other, other)):
        assert grade(gold, boxed(wrong)).outcome in ("wrong", "unparseable_gold"), (gold, wrong)


@fewer
@given(any_text, any_text)
def test_workers_give_any_text_one_of_the_five_outcomes(gold, text):
    assert grade(gold, boxed(text)).outcome in OUTCOMES


@fewer
@given(st.lists(st.tuples(structures, structures), min_size=8, max_size=8), plain)
def test_workers_decide_whatever_stands_around(pairs, text):
    golds, found = zip(*pairs, strict=True)
    bare = grade_many(golds, [boxed(answer) for answer in found])
    around = grade_many(golds, [rf"{text} $\boxed{{ {answer} }}$ {text}" for answer in found])
    assert [verdict.outcome for verdict in bare] == [verdict.outcome for verdict in around]
    itself = grade_many(found, [boxed(answer) for answer in found])
    assert {verdict.outcome for verdict in itself} == {"correct"}

"""Whether a completion's final answer equals the gold answer."""

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from aapo.errors import InputError, nearest
from aapo.grading.conditions import split_condition
from aapo.grading.equality import equal, is_unevaluated
from aapo.grading.extraction import CONVENTIONS, Convention, choice_letter, extract_answer, gold_answer
from aapo.grading.forms import Elements, Equation, Expression, Form, Matrix, Words
from aapo.grading.limits import MAX_CHARACTERS, MAX_NESTING, is_costly, nesting
from aapo.grading.notation import normalize, squeeze
from aapo.grading.numbers import Number
from aapo.grading.pool import Item
from aapo.grading.reading import read
from aapo.grading.worker import decide, open_r1

Outcome = Literal["correct", "wrong", "no_answer", "unparseable_gold", "timeout"]
Grader = Literal["aapo", "open_r1", "accuracy_lv35"]
GRADERS: tuple[Grader, ...] = ("aapo", "open_r1", "accuracy_lv35")

MAX_KEPT_VERDICTS = 20_000
# Changes when a verdict can.
VERSION = "4"


class Verdict(NamedTuple):
    """What a completion's answer is worth.

    Attributes:
        outcome: `correct`, `wrong`, `no_answer`, `unparseable_gold` or `timeout`.
        extracted: The answer found in the completion, None without one.
        rule: What decided: `extraction` (there is no answer), `text`, `number`, `words`, `choice`, `elements`,
            `unevaluated`, `length`, `gold`, `cost` (refused without trying), `math-verify`, or the name of an upstream
            grader.
    """

    outcome: Outcome
    extracted: str | None
    rule: str


def grade(
    gold: str,
    completion: str,
    *,
    convention: Convention | None = None,
    evaluated: bool = True,
    unfinished_thoughts: bool = False,
    grader: Grader = "aapo",
) -> Verdict:
    """Compare the final answer of `completion` with `gold`.

    Args:
        gold: The gold answer, bare or in a whole solution.
        completion: All that the model wrote.
        convention: Where else an answer may stand: `choice`, `hashes` or `final_answer`.
        evaluated: Where the gold answer is a plain number, unevaluated arithmetic is wrong.
        unfinished_thoughts: Whether an answer inside a <think> that never ends counts.
        grader: `aapo`; or for comparison `open_r1`, the accuracy reward of open-r1, or `accuracy_lv35`, its form for
            bare gold answers. The two others are math-verify alone, in the same workers.

    Raises:
        InputError: An option is unknown.
    """
    return grade_many(
        [gold],
        [completion],
        convention=convention,
        evaluated=evaluated,
        unfinished_thoughts=unfinished_thoughts,
        grader=grader,
    )[0]


def grade_many(
    golds: Sequence[str],
    completions: Sequence[str],
    *,
    convention: Convention | None = None,
    evaluated: bool = True,
    unfinished_thoughts: bool = False,
    grader: Grader = "aapo",
) -> list[Verdict]:
    """The verdicts on many completions, as `grade` gives them one by one; the workers run side by side."""
    check_options(convention, unfinished_thoughts, grader)
    started = [
        _start(gold, completion, convention, evaluated, unfinished_thoughts, grader)
        for gold, completion in zip(golds, completions, strict=True)
    ]
    for item in started:
        if isinstance(item, _Pending):
            item.retry_if_early()
    return [item if isinstance(item, Verdict) else item.verdict() for item in started]


def begin_grading(gold: str, completion: str, **options: Any) -> None:
    """Hand the workers what `grade` with these arguments will ask of them, so that its verdict is there sooner."""
    started = _start(gold, completion, **options)
    if isinstance(started, _Pending):
        started.early = True


def asks_workers(gold: str, grader: Grader = "aapo") -> bool:
    """Whether workers compare most answers with this gold answer, if they are not written alike."""
    return grader != "aapo" or _is_mathematics(gold)


@lru_cache(maxsize=MAX_KEPT_VERDICTS)
def _is_mathematics(gold: str) -> bool:
    text = normalize(gold_answer(gold))
    if choice_letter(text) or len(text) > MAX_CHARACTERS or nesting(text) > MAX_NESTING:
        return False
    return isinstance(read(split_condition(text)[0]), (Elements, Equation, Expression, Matrix))


def check_options(convention: str | None, unfinished_thoughts: bool = False, grader: str = "aapo") -> None:
    """Check options of `grade` before anything is graded.

    Raises:
        InputError: One is unknown, or has no effect.
    """
    if convention is not None and convention not in CONVENTIONS:
        raise InputError(
            f"convention is {convention!r}{nearest(convention, CONVENTIONS)}; it must be {', '.join(CONVENTIONS)} or "
            "null"
        )
    if grader not in GRADERS:
        raise InputError(f"grader is {grader!r}{nearest(grader, GRADERS)}; it must be {', '.join(GRADERS)}")
    for name, given in (("convention", convention is not None), ("unfinished_thoughts", unfinished_thoughts)):
        if grader != "aapo" and given:
            raise InputError(f"{name} has no effect, because grader is {grader}; remove one of them")


class _Pending:
    """A verdict that a worker is deciding, then the verdict; the cache keeps many of them.

    Attributes:
        early: Whether it was begun before it was asked for, while something else kept the machine busy.
    """

    __slots__ = ("_decided", "_extracted", "_item", "_rule", "early")

    def __init__(self, item: Item, extracted: str | None, rule: str) -> None:
        self._item: Item | None = item
        self._extracted = extracted
        self._rule = rule
        self._decided: Verdict | None = None
        self.early = False

    def retry_if_early(self) -> None:
        """Compare once more what hit a limit early, so that no verdict depends on when it was begun."""
        item = self._item  # read once, for another thread may be here too
        if self.early and item is not None and item.result() is None and self._item is item:
            self._item = item.again()
        self.early = False

    def verdict(self) -> Verdict:
        item = self._item  # read once, for another thread may be here too
        if self._decided is not None or item is None:
            assert self._decided is not None
            return self._decided
        result = item.result()
        outcome, extracted = result if isinstance(result, tuple) else (result or "timeout", self._extracted)
        self._decided = Verdict(outcome, extracted, self._rule)
        self._item = None
        return self._decided


def _start(
    gold: str,
    completion: str,
    convention: Convention | None = None,
    evaluated: bool = True,
    unfinished_thoughts: bool = False,
    grader: Grader = "aapo",
) -> Verdict | _Pending:
    if grader != "aapo":
        return _start_upstream(gold, completion, grader)
    wanted = num_answers(gold) if completion.count(r"box") > 1 else 1
    extracted = extract_answer(completion, convention, wanted=wanted, unfinished_thoughts=unfinished_thoughts)
    if extracted is None:
        return Verdict("no_answer", None, "extraction")
    if len(extracted) > MAX_CHARACTERS and len(extracted) > 2 * len(gold_answer(gold)):
        return Verdict("wrong", extracted, "length")
    return _compare(gold, extracted, evaluated)


@lru_cache(maxsize=MAX_KEPT_VERDICTS)
def num_answers(gold: str) -> int:
    """How many answers a gold answer gives: the elements of a list, set or tuple, otherwise one."""
    text = normalize(gold_answer(gold))
    if len(text) > MAX_CHARACTERS or nesting(text) > MAX_NESTING:
        return 1
    form = read(text)
    return len(form.items) if isinstance(form, Elements) and form.kind in ("list", "set", "tuple") else 1


# Verdicts by gold and extracted answer: a group's rollouts agree more often than not, and so do epochs.
@lru_cache(maxsize=MAX_KEPT_VERDICTS)
def _compare(gold: str, extracted: str, evaluated: bool) -> Verdict | _Pending:
    gold_text, answer_text = normalize(gold_answer(gold)), normalize(extracted)
    if not gold_text or len(gold_text) > 4 * MAX_CHARACTERS:
        return Verdict("unparseable_gold", extracted, "gold")
    if squeeze(gold_text) == squeeze(answer_text):
        return Verdict("correct", extracted, "text")
    if not answer_text:
        return Verdict("wrong", extracted, "text")
    if (letter := choice_letter(gold_text)) and (answer_letter := choice_letter(answer_text)):
        return Verdict("correct" if letter == answer_letter else "wrong", extracted, "choice")
    if not _balanced(gold_text):
        return Verdict("unparseable_gold", extracted, "gold")
    if max(nesting(gold_text), nesting(answer_text)) > MAX_NESTING:
        return Verdict("timeout", extracted, "cost")
    (gold_text, condition), (answer_text, other) = split_condition(gold_text), split_condition(answer_text)
    if condition and other and _differ(read(condition), read(other)):
        return Verdict("wrong", extracted, "elements")
    gold_form, answer_form = read(gold_text), read(answer_text)
    if isinstance(gold_form, Words) and not gold_form.folded:
        return Verdict("unparseable_gold", extracted, "gold")
    result = equal(gold_form, answer_form, lambda one, other: None, evaluated=evaluated)
    rule = _rule(gold_form, answer_form, evaluated)
    if result is not None and not (rule == "unevaluated" and is_costly(answer_text)):
        return Verdict("correct" if result else "wrong", extracted, rule)
    if is_costly(answer_text) or is_costly(gold_text):
        return Verdict("timeout", extracted, "cost")
    return _Pending(Item(decide, gold_text, answer_text, evaluated), extracted, "math-verify")


@lru_cache(maxsize=MAX_KEPT_VERDICTS)
def _start_upstream(gold: str, completion: str, grader: Grader) -> _Pending:
    return _Pending(Item(open_r1, gold, completion, grader == "accuracy_lv35"), None, grader)


def _differ(one: Form, other: Form) -> bool:
    """Whether two conditions are inequalities for different ranges."""
    ranges = all(isinstance(form, Elements) and form.kind in ("range", "union") for form in (one, other))
    return ranges and equal(one, other, lambda one, other: None) is not True


def _rule(gold: Form, answer: Form, evaluated: bool) -> str:
    """The rule by which exact comparison decided."""
    if isinstance(gold, Words) or isinstance(answer, Words):
        return "words"
    if isinstance(gold, Number) and isinstance(answer, Number):
        return "number"
    if evaluated and is_unevaluated(gold, answer):
        return "unevaluated"
    return "text" if isinstance(gold, Expression) and isinstance(answer, Expression) else "elements"


def _balanced(text: str) -> bool:
    """Whether every brace is closed, and brackets match in number (intervals mix their kinds)."""
    return text.count("{") == text.count("}") and sum(map(text.count, "([")) == sum(map(text.count, ")]"))


def forget_verdicts() -> None:
    """Empty the cache of verdicts."""
    _compare.cache_clear()
    _start_upstream.cache_clear()


# A forked child cannot wait for the parent's workers.
os.register_at_fork(after_in_child=forget_verdicts)

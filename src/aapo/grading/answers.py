"""Whether a completion's final answer equals the gold answer."""

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple

from aapo.grading.pool import math_verify_verdict

Outcome = Literal["correct", "wrong", "no_answer", "unparseable_gold", "timeout"]

VERSION = "1"
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?([eE][+-]?\d{1,3})?")
_RATIO = re.compile(r"([+-]?\d+)\s*/\s*(\d+)")
MAX_ANSWER_CHARACTERS = 1000


class Verdict(NamedTuple):
    """The outcome, the answer found in the completion (None without one), and the rule that decided."""

    outcome: Outcome
    extracted: str | None
    rule: str


def last_boxed(text: str) -> str | None:
    r"""The contents of the last \boxed{…} whose braces balance, or None."""
    start = text.rfind(r"\boxed{")
    while start >= 0:
        depth = 0
        for position in range(start + len(r"\boxed"), len(text)):
            depth += (text[position] == "{") - (text[position] == "}")
            if depth == 0:
                return text[start + len(r"\boxed{") : position]
        start = text.rfind(r"\boxed{", 0, start)
    return None


def extract_answer(completion: str) -> str | None:
    r"""The final answer of a completion: the last \boxed{}, else the last <answer>…</answer>, else None."""
    boxed = last_boxed(completion)
    if boxed is not None:
        return boxed.strip()
    tagged = _TAGGED.findall(completion)
    return tagged[-1].strip() if tagged else None


def exact_number(text: str) -> Fraction | None:
    """The value of a plain integer, decimal, e-notation or ratio of integers, exactly; None for anything else."""
    text = text.strip().strip("$").strip()
    if ratio := _RATIO.fullmatch(text):
        return Fraction(int(ratio[1]), int(ratio[2])) if int(ratio[2]) else None
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return Fraction(Decimal(text.replace(",", "")))
    except InvalidOperation:
        return None


@lru_cache(maxsize=100_000)
def grade(gold: str, completion: str) -> Verdict:
    """Compare the final answer of `completion` with `gold`.

    Equal text or equal numbers decide exactly; everything else goes to math-verify, in a process that is killed at its
    time limit.
    """
    answer = extract_answer(completion)
    if answer is None or not answer:
        return Verdict("no_answer", answer, "extraction")
    if answer == gold.strip():
        return Verdict("correct", answer, "text")
    gold_number, answer_number = exact_number(gold), exact_number(answer)
    if gold_number is not None and answer_number is not None:
        return Verdict("correct" if gold_number == answer_number else "wrong", answer, "number")
    if len(answer) > MAX_ANSWER_CHARACTERS:
        return Verdict("wrong", answer, "length")
    return Verdict(math_verify_verdict(gold, answer), answer, "math-verify")

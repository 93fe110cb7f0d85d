"""Questions and gold answers as they must be before anything is trained or evaluated on them."""

import math
from datetime import date
from decimal import Decimal
from typing import Any

from datasets import Dataset

from aapo.errors import InputError
from aapo.messages import content_text

NUM_NAMED = 5
# Above it a floating-point number cannot hold every integer.
MAX_EXACT = 2**53


def check_rows(rows: Dataset, question: str, gold: str | None) -> None:
    """Check the columns of questions and gold answers.

    Args:
        rows: Has them.
        question: The one of questions.
        gold: The one of gold answers; None where nothing reads any.

    Raises:
        InputError: Some are missing, are no text, or have lost digits; the message counts and names the rows.
    """
    golds, questions = [] if gold is None else list(rows[gold]), list(rows[question])
    for what, values, is_text in (
        (f"gold answer in column {gold!r}", golds, _is_gold),
        (f"question in column {question!r}", questions, _is_question),
    ):
        refuse_rows([_is_missing(value) for value in values], f"rows have no {what}", "fill them in or remove the rows")
        refuse_rows([not is_text(value) for value in values], f"rows have a {what} that is no text", "write it as text")
    refuse_rows(
        [any(_is_rounded(item) for item in (value if isinstance(value, list) else [value])) for value in golds],
        f"gold answers in column {gold!r} are floating-point numbers over 2^53, which have lost digits",
        "store them as text",
    )


def _is_missing(value: Any) -> bool:
    """Whether a gold answer or question is null, blank or, as messages, without text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    if not isinstance(value, list):
        return not str(value).strip()
    asked = [item for item in value if isinstance(item, dict) and "role" in item]
    if asked:
        return not any(_says(message) for message in asked if message["role"] != "system")
    return not value or any(_is_missing(item) for item in value)


def _says(message: dict[str, Any]) -> bool:
    content = message.get("content")
    return bool(content) and (not isinstance(content, (str, list)) or bool(content_text(content).strip()))


def _is_gold(value: Any) -> bool:
    """Whether a gold answer is text, a number or a date, or a list of such."""
    if isinstance(value, list):
        return all(_is_gold(item) and not isinstance(item, list) for item in value)
    return isinstance(value, (str, int, float, Decimal, date)) and not isinstance(value, bool)


def _is_question(value: Any) -> bool:
    """Whether a question is text or a list of messages, each with a role and text or parts."""
    if isinstance(value, list):
        return all(
            isinstance(item, dict)
            and isinstance(item.get("role"), str)
            and isinstance(item.get("content"), (str, list, type(None)))
            for item in value
        )
    return isinstance(value, str)


def _is_rounded(value: Any) -> bool:
    return isinstance(value, float) and abs(value) >= MAX_EXACT and value.is_integer()


def refuse_rows(marked: list[bool], what: str, fix: str) -> None:
    """Refuse marked rows with one line.

    Raises:
        InputError: Some are marked; the message says how many and which first.
    """
    if any(marked):
        raise InputError(f"{sum(marked)} of {len(marked)} {what} ({_numbered(marked)}); {fix}")


def _numbered(marked: list[bool]) -> str:
    """The numbers of the first marked rows."""
    found = [str(index) for index, is_marked in enumerate(marked) if is_marked]
    return f"rows {', '.join(found[:NUM_NAMED])}" + (", ..." if len(found) > NUM_NAMED else "")

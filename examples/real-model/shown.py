"""A reward function of one's own: a right sum counts before the model knows the form that is asked for."""

import re
from typing import Any

_NUMBER = re.compile(r"\d+")


def shown(completions: list, answer: list[str], **columns: Any) -> list[float]:
    """1.0 where the last number of a completion is the answer, in a box or not, else 0.0."""
    numbers = [_NUMBER.findall(completion[0]["content"]) for completion in completions]
    return [float(found[-1:] == [gold]) for found, gold in zip(numbers, answer, strict=True)]

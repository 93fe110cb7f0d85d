"""Generated problems with their reasoning written out, for the warm-up of a small base model."""

import re
from collections.abc import Callable
from typing import Any

from aapo.errors import InputError

_SUM = re.compile(r"\d+( \+ \d+)*")


def _column_sum(entry: dict[str, Any]) -> str:
    """A sum of whole numbers, column by column from the right: digits, then the carry, equal two digits."""
    expression = entry["metadata"]["expression"]
    if not _SUM.fullmatch(expression):
        raise InputError(
            f"no worked solution for {expression!r}; the base model's warm-up writes out sums of whole numbers only, "
            "so set dataset_settings to operators: ['+']"
        )
    terms = [int(term) for term in expression.split(" + ")]
    lines, carry = [], 0
    for column in range(max(len(str(term)) for term in terms)):
        digits = [term // 10**column % 10 for term in terms]
        total = sum(digits) + carry
        lines.append("+".join(map(str, [*digits, carry])) + f"={total:02d}")
        carry = total // 10
    return "\n".join(lines)


def _halvings(entry: dict[str, Any]) -> str:
    """The bits of a whole number from the right: the number, whether it is odd, then its half."""
    lines, number = [], entry["metadata"]["number"]
    while number:
        lines.append(f"{number} {number % 2}")
        number //= 2
    return "\n".join(lines)


def _remainders(entry: dict[str, Any]) -> str:
    """Euclid's algorithm: two numbers, then the second and the remainder, until that is 0."""
    numbers = entry["metadata"]["numbers"]
    if len(numbers) != 2:
        raise InputError(
            f"no worked solution for the divisor of {numbers}; the base model's warm-up writes out that of two numbers "
            "only, so set dataset_settings to max_numbers: 2"
        )
    first, second = numbers
    lines = [f"{first},{second}"]
    while second:
        first, second = second, first % second
        lines.append(f"{first},{second}")
    return "\n".join(lines)


WORKED: dict[str, Callable[[dict[str, Any]], str]] = {
    "basic_arithmetic": _column_sum,
    "chain_sum": _column_sum,
    "count_bits": _halvings,
    "gcd": _remainders,
}


def worked_solution(task: str, entry: dict[str, Any]) -> str:
    """The completion that a good model would give: reasoning in <think>, the answer in <answer>.

    Args:
        task: Name of a reasoning-gym task; of a `composite` one each entry names its own.
        entry: One of its entries.

    Raises:
        InputError: The task has no worked solutions.
    """
    task = entry["metadata"].get("source_dataset", task)
    if task not in WORKED:
        raise InputError(f"task {task!r} has no worked solutions; a base model can be taught {', '.join(WORKED)}")
    return f"<think>{WORKED[task](entry)}</think><answer>{entry['answer']}</answer>"

"""Worked solutions that small base models are taught."""

import pytest

from aapo.base.worked import worked_solution
from aapo.errors import InputError


@pytest.mark.parametrize(
    ("task", "metadata", "answer", "lines"),
    [
        # 5 + 7 = 12, carry 1; 9 + 1 + 1 = 11, carry 1; 1 + 0 + 1 = 2.
        ("basic_arithmetic", {"expression": "195 + 17"}, "212", ["5+7+0=12", "9+1+1=11", "1+0+1=02"]),
        ("count_bits", {"number": 6}, "2", ["6 0", "3 1", "1 1"]),
        ("gcd", {"numbers": [48, 76]}, "4", ["48,76", "76,48", "48,28", "28,20", "20,8", "8,4", "4,0"]),
    ],
)
def test_a_solution_writes_out_every_step(task, metadata, answer, lines):
    text = f"<think>{chr(10).join(lines)}</think><answer>{answer}</answer>"
    assert worked_solution(task, {"answer": answer, "metadata": metadata}) == text
    # An entry of a mix names its own task.
    mixed = {"answer": answer, "metadata": {**metadata, "source_dataset": task}}
    assert worked_solution("composite", mixed) == text


def test_what_has_no_worked_solution_is_refused():
    with pytest.raises(
        InputError, match=r"task 'maze' has no worked solutions; .* taught basic_arithmetic, chain_sum, c"
    ):
        worked_solution("composite", {"metadata": {"source_dataset": "maze"}})
    with pytest.raises(InputError, match=r"no worked solution for the divisor of \[4, 6, 8\]; .* max_numbers: 2"):
        worked_solution("gcd", {"metadata": {"numbers": [4, 6, 8]}})

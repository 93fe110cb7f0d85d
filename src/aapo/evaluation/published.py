"""Table 1 of the AAPO paper (arXiv 2505.14264v2), with the uncertainty that its single samples imply.

The averages are computed from the rows. Where the printed average is another, `slip` says so.
"""

import csv
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np

from aapo.errors import InputError, nearest
from aapo.evaluation.estimates import single_sample_error

NUM_PROBLEMS = {"aime24": 30, "math_500": 500, "amc23": 40, "minerva": 272, "olympiadbench": 675}
# Printed averages are rounded to a tenth, and so are the scores that they are of.
ROUNDING = 0.0011


class Published(NamedTuple):
    """A row of the paper's table; one sample a problem, zero-shot.

    Attributes:
        group: The table's part: `Llama 1B`, `Llama 3B`, `Qwen 1.5B` or `Qwen 7B`.
        model: As printed.
        scores: Fraction right by benchmark.
        errors: Standard error of each score, sqrt(p (1 - p) / problems).
        average: Mean of the scores.
        average_error: Standard error of the mean.
        printed: The average that the paper prints.
    """

    group: str
    model: str
    scores: dict[str, float]
    errors: dict[str, float]
    average: float
    average_error: float
    printed: float

    @property
    def slip(self) -> bool:
        """Whether the printed average is not that of the row."""
        return abs(self.printed - self.average) > ROUNDING


@cache
def published_table() -> list[Published]:
    """The rows of the paper's table, in its order."""
    text = (files("aapo") / "evaluation" / "paper_table1.csv").read_text(encoding="utf-8")
    return [_published(row) for row in csv.DictReader(text.splitlines())]


def _published(row: dict[str, str]) -> Published:
    scores = {name: float(row[name]) / 100 for name in NUM_PROBLEMS}
    errors = {name: single_sample_error(score, NUM_PROBLEMS[name]) for name, score in scores.items()}
    average = float(np.mean(list(scores.values())))
    average_error = float(np.sqrt(sum(error**2 for error in errors.values())) / len(errors))
    printed = float(row["average_printed"]) / 100
    return Published(row["group"], row["model"], scores, errors, average, average_error, printed)


def published_rows(group: str) -> list[Published]:
    """The rows of one part of the table, or with `all` every row.

    Raises:
        InputError: There is no such part.
    """
    groups = list(dict.fromkeys(row.group for row in published_table()))
    if group == "all":
        return published_table()
    if group not in groups:
        raise InputError(
            f"the paper's table has no part {group!r}{nearest(group, groups)}; it has {', '.join(groups)}, all"
        )
    return [row for row in published_table() if row.group == group]

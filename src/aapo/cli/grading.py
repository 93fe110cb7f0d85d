"""What `aapo grade` does."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from aapo.evaluation import score
from aapo.grading import pool
from aapo.grading.table import GradedFile, grade_file
from aapo.progress import console, told_progress


def grade(source: Path, output: Path, options: dict[str, Any], workers: int | None, time_limit: float) -> None:
    """Grade a file, print the summary and where the rows are."""
    pool.configure(workers=workers, time_limit_seconds=time_limit)
    with told_progress("grading") as tell:
        result = grade_file(source, output, options, tell)
    console.print(_summary(result))
    console.print(f"rows {output}")


def _summary(result: GradedFile) -> Table:
    """Outcomes with shares, and what decided."""
    known = result.num_rows - result.outcomes["unparseable_gold"]
    correct = result.outcomes["correct"]
    accuracy = score(np.repeat([1.0, 0.0], [correct, known - correct]))
    title = f"{result.num_rows} rows"
    if known:
        shown = ", ".join(f"{100 * end:.1f}" for end in (accuracy.low, accuracy.high))
        title += f": {100 * accuracy.estimate:.1f}% correct [{shown}] of those with a readable gold answer"
    table = Table(title=title, title_justify="left")
    for column in ("verdict", "rows", "share"):
        table.add_column(column, justify="left" if column == "verdict" else "right")
    for outcome, count in result.outcomes.most_common():
        table.add_row(outcome, str(count), f"{count / result.num_rows:.1%}")
    rules = ", ".join(f"{rule} {count}" for rule, count in result.rules.most_common())
    table.caption, table.caption_justify = f"decided by {rules}", "left"
    return table

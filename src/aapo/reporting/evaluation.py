"""The section of an evaluation: its verdict, tables, figure and single problems."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

from aapo.evaluation import (
    ScoreTable,
    StoredEvaluation,
    difference_table,
    metric_table,
    published_rows,
    quality_table,
    read_evaluation,
    score_table,
)
from aapo.evaluation.results import AVERAGE, RESULTS, Row, clear_leaders, headline_differences
from aapo.evaluation.tables import difference_sentence, percent
from aapo.reporting.drawing import DrawnFigure
from aapo.reporting.problems import TaskProblems, characters_shown, task_problems
from aapo.reporting.scores import draw_scores

UNCORRECTED_MODELS = 3


class Verdict(NamedTuple):
    """What the numbers say in words: a headline, sentences under it, and `better`, `worse`, `unclear` or `plain`."""

    headline: str
    details: list[str]
    tone: str


class Number(NamedTuple):
    """A number that stands at the top of a section: what it is, its value and a note under it."""

    label: str
    value: str
    note: str


class Cell(NamedTuple):
    """A cell of a table; `strong` where it is better than every other model's outside the noise."""

    text: str
    strong: bool


class PageTable(NamedTuple):
    """A table as the page shows it."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str]


@dataclass(frozen=True)
class EvaluationSection:
    """What the page says about one evaluation folder.

    Attributes:
        name: Title of the section.
        verdict: In words.
        numbers: Both models' scores and their difference, where there is one pair on one task or average.
        scores: The main table, with the note on mixed protocols where they are.
        details: Further tables: differences, pass@k and maj@k, what stands beside each score.
        figure: Scores with intervals.
        problems: Single problems of each task.
        characters: How many characters of a completion are shown.
        protocol: The protocol's settings.
    """

    name: str
    verdict: Verdict
    numbers: list[Number]
    scores: PageTable
    details: list[PageTable]
    figure: DrawnFigure | None
    problems: list[TaskProblems]
    characters: int
    protocol: str


def evaluation_folders(folder: Path) -> list[Path]:
    """The evaluation folders in and right below a folder, itself first."""
    return [path for path in (folder, *sorted(folder.glob("*/"))) if (path / RESULTS).is_file()]


def evaluation_section(folder: Path, name: str) -> EvaluationSection:
    """The section of an evaluation folder.

    Raises:
        InputError: The folder has no results, or no samples.
    """
    stored = read_evaluation(folder)
    against = [row["against"] for row in stored.differences]
    problems = task_problems(stored.evaluations)
    return EvaluationSection(
        name,
        judge(stored.rows, stored.differences),
        _numbers(stored.rows, stored.differences),
        _scores(stored),
        _details(stored),
        draw_scores(stored.rows, against[0] if len(set(against)) == 1 else None),
        problems,
        characters_shown(problems),
        yaml.safe_dump(json.loads(json.dumps(stored.protocol)), sort_keys=False, allow_unicode=True, width=110),
    )


def judge(rows: Sequence[Row], differences: Sequence[Row]) -> Verdict:
    """What an evaluation says: the paired differences where there are any, else the scores themselves."""
    decisive = headline_differences(differences)
    if not decisive:
        return _without_pair(rows)
    sentences = [difference_sentence(row) for row in decisive]
    tones = {row["verdict"] for row in decisive}
    tone = tones.pop() if len(tones) == 1 else "unclear"
    tone = tone if tone in ("better", "worse") else "unclear"
    spread = [difference_sentence(row) for row in differences if row not in decisive and row["difference"] is not None]
    if len(decisive) == 1:
        return Verdict(sentences[0], [_size(decisive[0]), *spread], tone)
    counts = {kind: sum(row["verdict"] == kind for row in decisive) for kind in ("better", "worse", "inside the noise")}
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    return Verdict(f"Of {len(decisive)} comparisons: {said}", sentences, tone)


def _size(row: Row) -> str:
    where = "over all tasks" if row["task"] == AVERAGE else f"of {row['task']}"
    reading = {
        "better": "The interval of the difference lies above zero.",
        "worse": "The interval of the difference lies below zero.",
    }.get(row["verdict"], "The interval holds zero, so this does not show that the two differ.")
    return f"Paired by problem, {row['num_problems']} problems {where}. {reading}"


def _without_pair(rows: Sequence[Row]) -> Verdict:
    heads = [row for row in _headline_scores(rows) if row["estimate"] is not None]
    said = [f"{row['model']}: {percent(row)} on {_where(row)}" for row in heads]
    if len(said) == 1:
        return Verdict(said[0], ["Only one model was evaluated: nothing to compare."], "plain")
    if not said:
        return Verdict("Nothing could be scored", [], "plain")
    return Verdict(f"{len(said)} models were evaluated, none held against another", said, "plain")


def _headline_scores(rows: Sequence[Row]) -> list[Row]:
    """Of each model its average, or its only task."""
    scores = [row for row in rows if row["metric"].startswith("avg")]
    averaged = {row["model"] for row in scores if row["task"] == AVERAGE}
    return [row for row in scores if row["task"] == AVERAGE or row["model"] not in averaged]


def _where(row: Row) -> str:
    if row["task"] == AVERAGE:
        return "average over the tasks"
    return f"{row['task']}, {row['num_problems']} problems x {row['num_samples']}"


def _numbers(rows: Sequence[Row], differences: Sequence[Row]) -> list[Number]:
    decisive = headline_differences(differences)
    if len(decisive) != 1:
        return []
    row = decisive[0]
    sides = {item["model"]: item for item in _headline_scores(rows) if item["task"] == row["task"]}
    numbers = [
        Number(
            name,
            f"{side['estimate']:.1%}",
            f"95% interval {100 * side['low']:.1f} to {100 * side['high']:.1f}",
        )
        for name in (row["against"], row["model"])
        if (side := sides.get(name)) and side["estimate"] is not None
    ]
    low, high = (f"{100 * row[end]:+.1f}" for end in ("low", "high"))
    return [*numbers, Number("Difference", f"{100 * row['difference']:+.1f}", f"points, 95% interval {low} to {high}")]


def _scores(stored: StoredEvaluation) -> PageTable:
    table = score_table(stored.rows, published_rows(stored.published) if stored.published else [], stored.notes)
    tasks = [head.rsplit(" (", 1)[0] for head in table.columns[1:]]
    leaders = clear_leaders(stored.evaluations)
    rows = [
        [Cell(model, False), *(Cell(text, (model, task) in leaders) for task, text in zip(tasks, scores, strict=True))]
        for model, *scores in table.rows
    ]
    notes = table.notes
    if leaders:
        notes = [*notes, "Bold: above every other model in paired differences, outside the noise."]
    return PageTable("Scores", table.columns, rows, notes)


def _details(stored: StoredEvaluation) -> list[PageTable]:
    differences = difference_table(stored.differences) if stored.differences else None
    if differences and len({row["model"] for row in stored.differences}) >= UNCORRECTED_MODELS:
        differences.notes.append("Every interval stands alone; none is corrected for the number of comparisons.")
    tables: list[tuple[str, ScoreTable | None]] = [
        ("Paired differences", differences),
        ("pass@k and maj@k", metric_table(stored.rows)),
        ("Beside each score", quality_table(stored.rows)),
    ]
    return [
        PageTable(title, table.columns, [[Cell(text, False) for text in row] for row in table.rows], table.notes)
        for title, table in tables
        if table is not None
    ]

"""Single problems: what each model answered, those first on which the models differ most."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from aapo.evaluation import Evaluation

MAX_PROBLEMS = 40
SAMPLES_SHOWN = 2
MAX_CHARACTERS, MIN_CHARACTERS = 6000, 400
CHARACTER_BUDGET = 1_200_000
"""Of all completions of a section, so that a page of hundreds of long ones stays under 5 MB."""


class Sample(NamedTuple):
    """A completion and its mark: `right`, `wrong` or `not gradable`.

    `why` is the verdict and the rule behind the mark, empty where the reward function told none.
    """

    text: str
    mark: str
    completion_tokens: int
    truncated: bool
    why: str


class Answers(NamedTuple):
    """What one model answered to a problem: how many of its samples are right, and some of them."""

    model: str
    num_right: int
    num_scored: int
    samples: list[Sample]


class Problem(NamedTuple):
    """A problem with the answers of every model; `ahead` is the model with the highest share right, if it is one."""

    task: str
    prompt: str
    gold: str
    answers: list[Answers]
    ahead: str | None


class TaskProblems(NamedTuple):
    """The problems of one task that the page shows.

    Attributes:
        task: Its name.
        problems: At most 40, by falling difference between the models, those that tie in the order of a hash.
        num_problems: How many the task has.
        outcomes: Of all problems: each model and on how many it alone is ahead; last, `level` for the rest.
    """

    task: str
    problems: list[Problem]
    num_problems: int
    outcomes: list[tuple[str, int]]


def task_problems(evaluations: Sequence[Evaluation]) -> list[TaskProblems]:
    """The problems of each task, in the order of the tasks."""
    tasks = list(dict.fromkeys(item.task for item in evaluations))
    return [_of_task([item for item in evaluations if item.task == task]) for task in tasks]


def characters_shown(sections: Sequence[TaskProblems]) -> int:
    """How many characters of a completion are shown, so that all of them fit the page's budget."""
    lengths = [
        len(sample.text)
        for section in sections
        for problem in section.problems
        for answers in problem.answers
        for sample in answers.samples
    ]
    return shorten_to(lengths, CHARACTER_BUDGET)


def shorten_to(lengths: Sequence[int], budget: int) -> int:
    """To how many characters texts of these lengths are cut so that all of them fit a budget; 400 at least."""
    limit = MAX_CHARACTERS
    while limit > MIN_CHARACTERS and sum(min(length, limit) for length in lengths) > budget:
        limit //= 2
    return max(limit, MIN_CHARACTERS)


def _of_task(evaluations: Sequence[Evaluation]) -> TaskProblems:
    """Models that were not evaluated on a problem have no say about it."""
    shares: dict[str, dict[str, float]] = {}
    for item in evaluations:
        for problem, share in zip(item.problems, item.values_P(f"avg@{item.num_samples}"), strict=True):
            if not np.isnan(share):
                shares.setdefault(problem, {})[item.model] = float(share)
    if len(evaluations) > 1:
        distance = {problem: min(of.values()) - max(of.values()) for problem, of in shares.items()}
    else:  # one model: those first on which its samples differ most
        distance = {problem: abs(share - 0.5) for problem, of in shares.items() for share in of.values()}
    order = sorted(distance, key=lambda problem: (distance[problem], _hash(problem)))
    ahead = {problem: _ahead(of) for problem, of in shares.items()}
    rows = [{problem: place * item.num_samples for place, problem in enumerate(item.problems)} for item in evaluations]
    shown = [
        _problem([(item, of[problem]) for item, of in zip(evaluations, rows, strict=True) if problem in of], name)
        for problem in order[:MAX_PROBLEMS]
        for name in [ahead[problem]]
    ]
    leads = list(ahead.values())
    outcomes = [(item.model, leads.count(item.model)) for item in evaluations]
    return TaskProblems(
        evaluations[0].task,
        shown,
        max(len(item.problems) for item in evaluations),
        [*outcomes, ("level", leads.count(None))] if len(evaluations) > 1 else [],
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _ahead(shares: dict[str, float]) -> str | None:
    best = max(shares.values())
    leaders = [model for model, share in shares.items() if share == best]
    return leaders[0] if len(leaders) == 1 < len(shares) else None


def _problem(places: Sequence[tuple[Evaluation, int]], ahead: str | None) -> Problem:
    """The problem whose samples start at these rows of the models' tables."""
    answers, first = [], {}
    for item, row in places:
        samples = item.table.slice(row, item.num_samples).to_pylist()
        first = first or samples[0]
        scored = [sample["correct"] for sample in samples if sample["correct"] is not None]
        answers.append(Answers(item.model, int(sum(scored)), len(scored), _chosen(samples)))
    return Problem(first["task"], first["prompt"], first["gold"], answers, ahead)


def _chosen(samples: Sequence[dict[str, Any]]) -> list[Sample]:
    """The first sample, and the first that was marked otherwise."""
    marked = [to_sample(row) for row in samples]
    other = next((sample for sample in marked if sample.mark != marked[0].mark), None)
    return [marked[0], *([other] if other else [])][:SAMPLES_SHOWN]


def to_sample(row: dict[str, Any]) -> Sample:
    """The sample in a row of an evaluation's table."""
    mark = "not gradable" if row["correct"] is None else "right" if row["correct"] == 1 else "wrong"
    why = "" if row["verdict"] is None else row["verdict"].replace("_", " ")
    if why and row["rule"]:
        why += f", by {row['rule']}"
    return Sample(row["completion"], mark, row["completion_tokens"], row["finish_reason"] == "length", why)

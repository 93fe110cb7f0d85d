"""What a batch of verl's rollouts teaches: its rows as groups, and the advantages back to the rows.

Shapes: B rows in verl's order, P prompts, G rollouts per prompt, K reference samples per prompt, T tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import nan
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aapo.learning.batch import BatchScores, Lesson, Reference, Teacher
from aapo.records import Notes

ESTIMATOR = "aapo"


class Row(NamedTuple):
    """A rollout as verl hands it over.

    Attributes:
        group: What the rollouts of a prompt share.
        info: The prompt's `extra_info`, as `export` wrote it.
        gold: The gold answer.
        text: The completion.
        tokens: Its tokens.
        truncated: Whether it was cut at the limit.
        rewards: By reward function; None where it could not score.
        notes: What the reward functions logged.
    """

    group: str
    info: dict[str, Any]
    gold: str
    text: str
    tokens: int
    truncated: bool
    rewards: dict[str, float | None]
    notes: dict[str, str | None]


class Taught(NamedTuple):
    """What a batch teaches.

    Attributes:
        advantages_B: Augmented advantages in the order of the rows.
        places: Of each place of the groups, P x G, the row that stands there; None where a rollout failed.
        rows: The rows.
        scores: Of the places.
        notes: Likewise.
        lesson: Likewise.
    """

    advantages_B: Tensor
    places: list[int | None]
    rows: Sequence[Row]
    scores: BatchScores
    notes: Notes
    lesson: Lesson


def teach(teacher: Teacher, rows: Sequence[Row], shift: int) -> Taught:
    """What rows in any order teach.

    A group that lacks rollouts, because some failed, has places without a reward in their stead.

    Args:
        teacher: The objective, with what it needs to know.
        rows: Of whole groups, but for rollouts that failed.
        shift: As in `Teacher.advantages`.
    """
    places = group_places(rows, teacher.num_generations)
    scores, notes = _scores(teacher, rows, places), _notes(rows, places)
    scores = scores._replace(correct_B=torch.tensor(_numbers(teacher.correct(scores.rewards_BF, notes))))
    lesson = teacher.teach(scores, scores.tokens_B, notes, shift)
    augmented_B = lesson.advantages.augmented_PG.flatten()
    advantages_B = torch.zeros(len(rows))
    for place, row in enumerate(places):
        if row is not None:
            advantages_B[row] = augmented_B[place]
    return Taught(advantages_B, places, rows, scores, notes, lesson)


def group_places(rows: Sequence[Row], num_generations: int) -> list[int | None]:
    """Which row stands at each place of the groups, which follow each other as in the data."""
    groups: dict[str, list[int]] = {}
    for place in sorted(range(len(rows)), key=lambda place: rows[place].info["index"]):
        groups.setdefault(rows[place].group, []).append(place)
    return [
        place
        for members in groups.values()
        for place in [*sorted(members), *[None] * (num_generations - len(members))][:num_generations]
    ]


def _scores(teacher: Teacher, rows: Sequence[Row], places: Sequence[int | None]) -> BatchScores:
    at = [None if place is None else rows[place] for place in places]
    rewards = [[None if row is None else row.rewards.get(name) for name in teacher.reward_names] for row in at]
    firsts = [row for row in at[:: teacher.num_generations] if row is not None]
    return BatchScores(
        torch.tensor([_numbers(values) for values in rewards]),
        torch.full((len(at),), nan),
        torch.tensor([0 if row is None else row.tokens for row in at]),
        torch.tensor([row is not None and row.truncated for row in at]),
        _reference(firsts) if teacher.objective.needs_reference else None,
    )


def _reference(firsts: Sequence[Row]) -> Reference:
    columns = ([row.info[name] for row in firsts] for name in ("reference_rewards", "reference_correct"))
    return Reference(*(torch.tensor([_numbers(values) for values in column]) for column in columns))


def _notes(rows: Sequence[Row], places: Sequence[int | None]) -> Notes:
    names = dict.fromkeys(name for row in rows for name in row.notes)
    return {name: [None if place is None else rows[place].notes.get(name) for place in places] for name in names}


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [nan if value is None else float(value) for value in values]


_ADVANTAGES: ContextVar[Tensor] = ContextVar("advantages of the batch")


@contextmanager
def handing_over(advantages_B: Tensor) -> Iterator[None]:
    """The block in which `estimate` has these advantages."""
    token = _ADVANTAGES.set(advantages_B)
    try:
        yield
    finally:
        _ADVANTAGES.reset(token)


def estimate(token_level_rewards: Tensor, response_mask: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    """The estimator `aapo`: the advantages that the trainer has handed over, on every token; twice, as verl asks.

    Args:
        token_level_rewards: verl's, shape (B, T), which carry no reference rewards and are not read.
        response_mask: 1 on completion tokens, shape (B, T).

    Raises:
        RuntimeError: Another trainer than ours calls it.
    """
    advantages_B = _ADVANTAGES.get(None)
    if advantages_B is None:
        raise RuntimeError("the estimator aapo has its bank from its trainer; set trainer.v1.trainer_mode=aapo_sync")
    advantages_BT = advantages_B.to(token_level_rewards).unsqueeze(1) * response_mask
    return advantages_BT, advantages_BT

"""Rollouts that are drawn beyond a batch, in rounds of whole groups that all processes share.

Shapes: P prompts, G rollouts per prompt, B = P * G completions over all processes.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, NamedTuple

from aapo.learning.batch import BatchScores
from aapo.ranks import Ranks

Row = dict[str, Any]


class Rollouts(NamedTuple):
    """Rows with their completions, of this process unless said otherwise, and the scores of those of all processes.

    Attributes:
        rows: The data set's rows, G equal ones a group.
        token_ids: A completion a row.
        logprobs: What the engine gives beside each completion; None where it gives nothing.
        scores: Of all processes.
    """

    rows: list[Row]
    token_ids: list[list[int]]
    logprobs: list[Any] | None
    scores: BatchScores


RollOut = Callable[[list[Row], list[int]], Rollouts]
"""Draws and scores rows, given with their positions, of which a sample is a function."""


class Collected(NamedTuple):
    """A batch after its rounds.

    Attributes:
        rollouts: What is trained on.
        num_rounds: How many there were.
        num_groups: Groups of the batch that took part in one.
    """

    rollouts: Rollouts
    num_rounds: int
    num_groups: int


def draw_round(
    prompts: Sequence[Row], places: Sequence[int], *, num_generations: int, roll_out: RollOut, ranks: Ranks
) -> Rollouts:
    """A group of rollouts for each prompt, all of them on all processes.

    The round is split evenly, by whole groups; where they do not divide, some processes draw the last group once more,
    which is thrown away.

    Args:
        prompts: A row for each group.
        places: Which group of the batch each is; its rollouts' positions follow from it.
        num_generations: G.
        roll_out: Draws a process's part.
        ranks: This process and the others.
    """
    mine = share(len(prompts), ranks)
    rows = [dict(prompts[i]) for i in mine for _ in range(num_generations)]
    drawn = roll_out(rows, [places[i] * num_generations + k for i in mine for k in range(num_generations)])
    end = len(prompts) * num_generations
    return Rollouts(
        [dict(prompt) for prompt in prompts for _ in range(num_generations)],
        ranks.gather(drawn.token_ids)[:end],
        None if drawn.logprobs is None else ranks.gather(drawn.logprobs)[:end],
        drawn.scores.mapped(lambda values: values[:end], lambda values: values[: len(prompts)]),
    )


def share(num_groups: int, ranks: Ranks) -> list[int]:
    """Which groups of a round this process draws, an equal number on each."""
    size = ceil(num_groups / ranks.count)
    return [min(ranks.index * size + i, num_groups - 1) for i in range(size)]

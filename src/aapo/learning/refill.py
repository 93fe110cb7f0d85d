"""Dynamic sampling: before a batch is trained on, its groups without a gradient are drawn again with fresh prompts.

Shapes: P prompts of a generation batch, G rollouts per prompt, K reference samples, F reward functions, B = P * G
completions over all processes, b those of this process.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from aapo.learning.batch import BatchScores, Reference
from aapo.learning.rounds import Collected, RollOut, Rollouts, Row, draw_round
from aapo.ranks import ALONE, Ranks
from aapo.sampling import sample_seed


def refill(
    rollouts: Rollouts,
    *,
    num_generations: int,
    min_live_frac: float,
    max_rounds: int,
    silent: Callable[[BatchScores], Tensor],
    fresh: Callable[[int], Sequence[Row]],
    roll_out: RollOut,
    num_steps: int = 1,
    ranks: Ranks = ALONE,
) -> Collected:
    """The batch with fresh prompts in the place of its silent groups.

    While fewer than `min_live_frac` of a step's groups have a gradient, all of it that have none are drawn again, at
    most `max_rounds` times; a group that is then still silent stays. All processes take the same decisions, because
    they see the same scores.

    Args:
        rollouts: The batch as it was first drawn.
        num_generations: G.
        min_live_frac: Share in [0, 1] of groups that must have a gradient.
        max_rounds: How often groups are drawn again.
        silent: True for each group without a gradient, shape (P,).
        fresh: The next prompts that the batch does not have yet, at most so many; fewer where they run out.
        roll_out: Draws and scores rows, given with their positions in the batch of all processes.
        num_steps: Optimizer steps, of which each learns from an equal part of the batch.
        ranks: This process and the others.
    """
    rows, token_ids = list(rollouts.rows), list(rollouts.token_ids)
    logprobs, scores = None if rollouts.logprobs is None else list(rollouts.logprobs), rollouts.scores
    first = ranks.index * len(rows)
    refilled: set[int] = set()
    num_rounds = 0
    while num_rounds < max_rounds:
        silent_SP = silent(scores).cpu().view(num_steps, -1)
        too_few_S = (~silent_SP).double().mean(1) < min_live_frac
        dead = (silent_SP & too_few_S[:, None]).flatten().nonzero().flatten().tolist()
        if not dead:
            break
        prompts = fresh(len(dead))
        if not prompts:
            break
        num_rounds += 1
        groups = dead[: len(prompts)]
        refilled |= set(groups)
        drawn = draw_round(prompts, groups, num_generations=num_generations, roll_out=roll_out, ranks=ranks)
        positions = [group * num_generations + i for group in groups for i in range(num_generations)]
        scores = _replaced(scores, drawn.scores, positions, groups)
        for i, position in enumerate(positions):
            if first <= position < first + len(rows):
                rows[position - first], token_ids[position - first] = drawn.rows[i], drawn.token_ids[i]
                if logprobs is not None and drawn.logprobs is not None:
                    logprobs[position - first] = drawn.logprobs[i]
    return Collected(Rollouts(rows, token_ids, logprobs, scores), num_rounds, len(refilled))


def _replaced(scores: BatchScores, drawn: BatchScores, positions: list[int], groups: list[int]) -> BatchScores:
    """The scores with those of the groups drawn again."""

    def put(old: Tensor, new: Tensor, index: list[int]) -> Tensor:
        return old.index_copy(0, torch.tensor(index, device=old.device), new)

    reference = None
    if scores.reference is not None and drawn.reference is not None:
        pairs = zip(scores.reference, drawn.reference, strict=True)
        reference = Reference(*(put(old_PK, new_PK, groups) for old_PK, new_PK in pairs))
    return BatchScores(
        put(scores.rewards_BF, drawn.rewards_BF, positions),
        put(scores.correct_B, drawn.correct_B, positions),
        put(scores.tokens_B, drawn.tokens_B, positions),
        put(scores.truncated_B, drawn.truncated_B, positions),
        reference,
    )


class FreshPrompts:
    """Prompts for a batch that has too many dead groups: those that it does not have, each once.

    Their order is a function of (seed, step, the batch's prompts), whatever the number of processes; rounds go on where
    the one before stopped.
    """

    def __init__(
        self,
        dataset: Dataset | Sequence[dict[str, Any]],
        key: Callable[[dict[str, Any]], str],
        batch_keys: Iterable[str],
        seed: int,
        step: int,
        order: Sequence[int] | None = None,
    ) -> None:
        """Take the training data, what tells its rows apart, what the batch has, and the order where one is given."""
        self.dataset = dataset
        self.key = key
        self.taken = set(batch_keys)
        if order is None:
            generator = torch.Generator()
            generator.manual_seed(sample_seed(seed, "refill", step, *sorted(self.taken)))
            order = torch.randperm(len(dataset), generator=generator).tolist()
        self._left = iter(order)

    def take(self, number: int) -> list[dict[str, Any]]:
        """The next rows; fewer than `number` once every prompt is taken."""
        rows = []
        while len(rows) < number:
            index = next(self._left, None)
            if index is None:
                break
            row = dict(self.dataset[index])
            if (key := self.key(row)) not in self.taken:
                self.taken.add(key)
                rows.append(row)
        return rows

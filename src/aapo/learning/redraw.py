"""Adaptive sampling: prompts without enough right and wrong rollouts are drawn again, and a group of all is kept.

Source: Reinforce-Ada, arXiv 2510.04996v1, Algorithm 1. Shapes: P prompts, G rollouts per prompt, D drawn for a prompt,
X of them spare, F reward functions, B = P * G completions over all processes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from aapo.learning.batch import BatchScores, Spare
from aapo.learning.rounds import Collected, RollOut, Rollouts, draw_round
from aapo.ranks import ALONE, Ranks


def redraw(
    rollouts: Rollouts,
    *,
    num_generations: int,
    until: str,
    max_rounds: int,
    roll_out: RollOut,
    ranks: Ranks = ALONE,
) -> Collected:
    """The batch with, for each prompt, the group that is kept of all its rollouts.

    A prompt gets G more rollouts a round while it is not `resolved`, for at most `max_rounds`. All processes take the
    same decisions, because they see the same scores.

    Args:
        rollouts: The batch as it was first drawn.
        num_generations: G.
        until: As in `resolved`.
        max_rounds: How often prompts are drawn again.
        roll_out: Draws and scores rows; the positions of each round are new ones. Reference rewards are not read, since
            a prompt keeps those that it has.
        ranks: This process and the others.
    """
    num_prompts, num_rounds = len(rollouts.scores.correct_B) // num_generations, 0
    pools = [list(range(i * num_generations, (i + 1) * num_generations)) for i in range(num_prompts)]
    drawn = _of_all(rollouts, ranks)
    while num_rounds < max_rounds:
        correct = drawn.scores.correct_B.cpu()
        active = [i for i, pool in enumerate(pools) if not resolved(correct[pool], num_generations, until)]
        if not active:
            break
        num_rounds += 1
        more = draw_round(
            [drawn.rows[i * num_generations] for i in active],
            [num_rounds * num_prompts + i for i in active],
            num_generations=num_generations, roll_out=roll_out, ranks=ranks,
        )  # fmt: skip
        for place, i in enumerate(active):
            start = len(drawn.token_ids) + place * num_generations
            pools[i] += range(start, start + num_generations)
        drawn = _joined(drawn, more)
    picked = _picked(drawn, pools, num_generations)
    first = ranks.index * len(rollouts.rows)
    mine = slice(first, first + len(rollouts.rows))
    logprobs = None if picked.logprobs is None else picked.logprobs[mine]
    return Collected(
        Rollouts(rollouts.rows, picked.token_ids[mine], logprobs, picked.scores),
        num_rounds,
        sum(len(pool) > num_generations for pool in pools),
    )


def resolved(correct_D: Tensor, num_generations: int, until: str) -> bool:
    """Whether a prompt has been drawn often enough.

    Args:
        correct_D: 1 for a right rollout, 0 for a wrong one, NaN for what counts as neither.
        num_generations: G.
        until: `right`, one is right; `balanced`, G // 2 are right and the other half of G are wrong.
    """
    right, wrong = int((correct_D == 1).sum()), int((correct_D == 0).sum())
    half = num_generations // 2
    return right >= 1 if until == "right" else right >= half and wrong >= num_generations - half


def keep(correct_D: Tensor, num_generations: int) -> list[int]:
    """Which G rollouts of a prompt are kept, in the order in which they were drawn.

    The earliest G // 2 right ones and the earliest wrong ones for the rest of G; where one side lacks some, more of the
    other; what is neither comes last.
    """
    right, wrong = (torch.nonzero(correct_D == value).flatten().tolist() for value in (1, 0))
    unknown = torch.nonzero(correct_D.isnan()).flatten().tolist()
    half = num_generations // 2
    rest = num_generations - half
    return sorted([*right[:half], *wrong[:rest], *right[half:], *wrong[rest:], *unknown][:num_generations])


def _of_all(rollouts: Rollouts, ranks: Ranks) -> Rollouts:
    """The rollouts of all processes."""
    logprobs = None if rollouts.logprobs is None else ranks.gather(rollouts.logprobs)
    return Rollouts(ranks.gather(rollouts.rows), ranks.gather(rollouts.token_ids), logprobs, rollouts.scores)


def _joined(drawn: Rollouts, more: Rollouts) -> Rollouts:
    pairs = zip(drawn.scores[:4], more.scores[:4], strict=True)
    logprobs = None if drawn.logprobs is None or more.logprobs is None else drawn.logprobs + more.logprobs
    return Rollouts(
        drawn.rows + more.rows,
        drawn.token_ids + more.token_ids,
        logprobs,
        BatchScores(*(torch.cat(pair) for pair in pairs), reference=drawn.scores.reference),
    )


def _picked(drawn: Rollouts, pools: Sequence[Sequence[int]], num_generations: int) -> Rollouts:
    """The group that each prompt keeps, of its rollouts at the places of its pool, with what the others are worth."""
    correct = drawn.scores.correct_B.cpu()
    kept = [[pool[k] for k in keep(correct[pool], num_generations)] for pool in pools]
    places = [place for group in kept for place in group]
    scores = drawn.scores.mapped(lambda values: values[places], lambda values: values)
    others = [[place for place in pool if place not in group] for pool, group in zip(pools, kept, strict=True)]
    first_correct_PG = drawn.scores.correct_B[: len(places)].view(-1, num_generations)
    return Rollouts(
        [drawn.rows[place] for place in places],
        [drawn.token_ids[place] for place in places],
        None if drawn.logprobs is None else [drawn.logprobs[place] for place in places],
        scores._replace(spare=_spare(drawn.scores, others, first_correct_PG)),
    )


def _spare(drawn: BatchScores, spare: Sequence[Sequence[int]], first_correct_PG: Tensor) -> Spare | None:
    """What the rollouts at these places, some for each prompt, are worth."""
    most = max(map(len, spare))
    if not most:
        return None
    rewards_PXF = drawn.rewards_BF.new_full((len(spare), most, drawn.rewards_BF.shape[1]), torch.nan)
    tokens_PX = drawn.tokens_B.new_zeros((len(spare), most))
    for i, places in enumerate(spare):
        rewards_PXF[i, : len(places)] = drawn.rewards_BF[list(places)]
        tokens_PX[i, : len(places)] = drawn.tokens_B[list(places)]
    return Spare(rewards_PXF, tokens_PX, first_correct_PG)

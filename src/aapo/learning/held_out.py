"""Means of an evaluation during training over its completions, whatever batches they were drawn in.

TRL averages the means of batches, in which a last batch weighs as much as a full one, and those rows twice that are
repeated so that all processes have as many.

Shapes: B completions of a batch over all processes, F reward functions.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class HeldOutBatch(NamedTuple):
    """One batch of all processes, in the order of the data set.

    Attributes:
        correct_B: 1 right, 0 wrong, NaN unscored.
        total_B: The weighted sum of the reward functions; NaN where none could score.
        rewards_BF: What each reward function pays; NaN where it could not score.
        tokens_B: Completion tokens.
        truncated_B: True where the completion was cut at the token limit.
    """

    correct_B: Tensor
    total_B: Tensor
    rewards_BF: Tensor
    tokens_B: Tensor
    truncated_B: Tensor


def held_out_metrics(
    batches: list[HeldOutBatch], num_completions: int | None, num_generations: int, reward_names: list[str]
) -> dict[str, float]:
    """The metrics of an evaluation, each completion counted once; NaN where none has a value, without accuracy then.

    Args:
        batches: All of them, in order.
        num_completions: Completions of the data set; rows beyond them are repeated ones. None: there are no others.
        num_generations: Completions of each prompt.
        reward_names: Names of the reward functions.
    """
    rows = HeldOutBatch(*(torch.cat(values)[:num_completions] for values in zip(*batches, strict=True)))
    lengths, ended = rows.tokens_B.float(), rows.tokens_B[~rows.truncated_B].float()
    if not len(ended):
        ended = torch.zeros(1)  # as TRL has it
    total_PG = rows.total_B.view(-1, num_generations)
    alike_P = torch.isclose(_std(total_PG, 1), torch.zeros(len(total_PG), device=total_PG.device))
    values = {
        "rollout/accuracy": rows.correct_B.nanmean(),
        "reward": rows.total_B.nanmean(),
        "reward_std": _std(rows.total_B, 0),
        "frac_reward_zero_std": alike_P.float().mean(),
        "completions/mean_length": lengths.mean(),
        "completions/min_length": lengths.min(),
        "completions/max_length": lengths.max(),
        "completions/clipped_ratio": rows.truncated_B.float().mean(),
        "completions/mean_terminated_length": ended.mean(),
        "completions/min_terminated_length": ended.min(),
        "completions/max_terminated_length": ended.max(),
    }
    for name, rewards_B in zip(reward_names, rows.rewards_BF.T, strict=True):
        values |= {f"rewards/{name}/mean": rewards_B.nanmean(), f"rewards/{name}/std": _std(rewards_B, 0)}
    if rows.correct_B.isnan().all():
        del values["rollout/accuracy"]
    return {key: value.item() for key, value in values.items()}


def _std(values: Tensor, dim: int) -> Tensor:
    """The sample standard deviation without NaN, as TRL logs it: NaN with fewer than two values, of single ones 0."""
    if values.shape[dim] == 1:
        return torch.zeros_like(values.nanmean(dim))
    squares = (values - values.nanmean(dim, keepdim=True)).square().nansum(dim)
    return (squares / ((~values.isnan()).sum(dim) - 1).clamp(min=0)).sqrt()

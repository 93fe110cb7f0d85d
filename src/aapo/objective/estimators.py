"""Advantages that no baseline and scale can say: functions of `Groups`, for the algorithms that are declared with them.

Each gives shape (P, G), finite where a rollout is scored. NaN rewards take no part in any statistic.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt, F reward functions.
"""

import torch
from torch import Tensor

from aapo.objective.advantages import dead_groups, reward_scale, subtract_baseline
from aapo.objective.space import Groups
from aapo.objective.statistics import EPSILON, best_reward

VALUE_TEMPERATURE = 0.5


def with_virtual_best(groups: Groups) -> Tensor:
    """Group-relative advantages among the rollouts and one virtual sample that gets the highest reward.

        A_i = (r_i - mean(r, r_max)) / (std(r, r_max) + 1e-4)

    The deviation is the sample's (ddof 1). r_max is `best_reward`. A group
    of equal rewards below it is pushed away from; one whose rewards all are r_max has advantage 0.
    Source: NGRPO, arXiv 2509.18851, whose r_max is the 1 of a right answer.
    """
    rewards_PG = groups.rewards_PG
    with_best = torch.cat([rewards_PG, best_reward(rewards_PG).expand(len(rewards_PG), 1)], 1)
    advantage = subtract_baseline(with_best, "group_mean") / reward_scale(with_best, "group")
    return advantage[:, :-1]


def over_the_mean(groups: Groups) -> Tensor:
    """Reward minus the group's mean, in units of that mean.

        A_i = (r_i - mean(r)) / (mean(r) + 1e-4)

    With rewards of 0 and 1 its gradient estimates that of the log of the pass rate, up to an order that grows with G.
    Rewards must not be negative: a group whose mean is not positive has advantage 0.
    Source: MaxRL, arXiv 2602.02710.
    """
    mean_P1 = groups.rewards_PG.nanmean(1, keepdim=True)
    advantage_PG = subtract_baseline(groups.rewards_PG, "group_mean") / (mean_P1.clamp(min=0.0) + EPSILON)
    return advantage_PG.masked_fill(mean_P1 <= 0, 0.0)


def over_the_optimal_value(groups: Groups) -> Tensor:
    """Reward minus the optimal value of the prompt, which the reference's samples estimate.

        A_i = r_i - V,  V = beta log(1/K sum_k exp(r_ref_k / beta)),  beta = 1/2

    It reads nothing of the group. A prompt without a scored reference sample has no value and advantage 0.
    Source: A*-PO, arXiv 2505.20686.
    """
    assert groups.reference_rewards_PK is not None  # the objective reads them
    scaled_PK = groups.reference_rewards_PK / VALUE_TEMPERATURE
    scored_P1 = (~scaled_PK.isnan()).sum(1, keepdim=True)
    sums_P1 = scaled_PK.nan_to_num(-torch.inf).logsumexp(1, keepdim=True)
    value_P1 = VALUE_TEMPERATURE * (sums_P1 - scored_P1.to(sums_P1).log())
    return (groups.rewards_PG - value_P1).masked_fill(scored_P1 == 0, 0.0)


def over_the_length_weighted_mean(groups: Groups) -> Tensor:
    """Reward minus the group's mean weighted by length, the baseline of least variance where scores grow with length.

        A_i = r_i - sum_j T_j r_j / sum_j T_j

    Without lengths all count as equal. A group of equal rewards has advantage exactly 0.
    Source: OPO, arXiv 2505.23585.
    """
    rewards_PG = groups.rewards_PG
    lengths_PG = torch.ones_like(rewards_PG) if groups.lengths_PG is None else groups.lengths_PG.to(rewards_PG)
    weights_PG = lengths_PG.masked_fill(rewards_PG.isnan(), 0.0)
    baseline_P1 = (weights_PG * rewards_PG.nan_to_num(0.0)).sum(1, keepdim=True) / weights_PG.sum(1, keepdim=True)
    return (rewards_PG - baseline_P1.nan_to_num(0.0)).masked_fill(dead_groups(rewards_PG).unsqueeze(1), 0.0)


def over_each_function(groups: Groups) -> Tensor:
    """Group-relative advantages by each reward function alone, their weighted sum in units of its spread in the batch.

        a_i = sum_f w_f (r_if - mean(r_f)) / (std(r_f) + 1e-4),  A_i = a_i / (std_batch(a) + 1e-4)

    Mean and deviation of r_f are the group's; both deviations are the sample's (ddof 1). The mean of a over the batch,
    which the source subtracts, is 0. A group in which each function pays all alike has advantage exactly 0, whatever
    the weights. Without the functions' values the total is the only one.
    Source: GDPO, arXiv 2601.05242.
    """
    values_PGF, weights_F = groups.values_PGF, groups.weights_F
    if values_PGF is None or weights_F is None:
        values_PGF, weights_F = groups.rewards_PG.unsqueeze(2), groups.rewards_PG.new_ones(1)
    relative_FPG = torch.stack(
        [subtract_baseline(of_one_PG, "group_mean") / reward_scale(of_one_PG, "group")
         for of_one_PG in values_PGF.unbind(2)]
    )  # fmt: skip
    sum_PG = (weights_F.to(relative_FPG).view(-1, 1, 1) * relative_FPG).nansum(0)
    sum_PG = sum_PG.masked_fill(groups.rewards_PG.isnan(), torch.nan)
    return sum_PG / reward_scale(sum_PG, "batch")

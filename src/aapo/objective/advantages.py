"""Rewards to augmented advantages.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from aapo.objective.algorithms import Baseline, Objective, Scale

EPSILON = 1e-4
# Below this an augmented advantage is float32 rounding noise of a margin whose differences cancel.
SILENCE = 1e-6


class Advantages(NamedTuple):
    """What `augmented_advantages` returns; every tensor has the dtype and device of the rewards.

    Attributes:
        augmented_PG: What multiplies the log-probabilities: `(advantage + margin) * alpha`.
        advantage_PG: The group-relative advantage before the margin.
        margin_PG: The clipped margin over the reference, in [margin_low, margin_high]; 0 without one.
        clipped_PG: Share in [0, 1] of the differences behind a margin that met a clip bound.
        dead_P: True where the group's scored rewards are all equal, so that the advantage alone says nothing.
        alpha: The dead-group rescale, 1 where the objective has none.
    """

    augmented_PG: Tensor
    advantage_PG: Tensor
    margin_PG: Tensor
    clipped_PG: Tensor
    dead_P: Tensor
    alpha: float


def dead_groups(rewards_PG: Tensor) -> Tensor:
    """True for each group whose rewards are all equal, shape (P,), bool.

    NaN (an unscored sample) is left out; a group with fewer than two scored samples is dead.
    """
    missing_PG = rewards_PG.isnan()
    highest_P = rewards_PG.masked_fill(missing_PG, -torch.inf).amax(1)
    lowest_P = rewards_PG.masked_fill(missing_PG, torch.inf).amin(1)
    return ~(highest_P > lowest_P)


def silent_groups(augmented_PG: Tensor) -> Tensor:
    """True for each group whose augmented advantages are all zero up to 1e-6, shape (P,), bool: it pushes nothing."""
    return (augmented_PG.abs() <= SILENCE).all(1)


def subtract_baseline(rewards_PG: Tensor, baseline: Baseline) -> Tensor:
    """Reward minus baseline, shape (P, G).

    - `group_mean`: r_i - mean_j r_j
    - `leave_one_out`: r_i - mean_{j != i} r_j = n / (n - 1) * (r_i - mean_j r_j), with n scored samples
    - `none`: r_i

    NaN stays NaN and counts in no mean. With one scored sample `leave_one_out` is 0.
    """
    if baseline == "none":
        return rewards_PG
    centred_PG = rewards_PG - rewards_PG.nanmean(1, keepdim=True)
    if baseline == "group_mean":
        return centred_PG
    n_P1 = (~rewards_PG.isnan()).sum(1, keepdim=True)
    return centred_PG * n_P1 / (n_P1 - 1).clamp(min=1)


def reward_scale(rewards_PG: Tensor, scale: Scale) -> Tensor:
    """The divisor of the advantage, shape (P, 1) for `group` and (1, 1) otherwise.

    `group` and `batch` are the sample standard deviation (ddof 1) of the scored rewards plus 1e-4, as in AAPO and TRL;
    with fewer than two scored rewards the deviation is 0. `none` is 1.
    """
    if scale == "none":
        return rewards_PG.new_ones(1, 1)
    pool = rewards_PG if scale == "group" else rewards_PG.reshape(1, -1)
    scored = ~pool.isnan()
    squares = (pool - pool.nanmean(1, keepdim=True)).nan_to_num(0.0).square().sum(1, keepdim=True)
    return (squares / (scored.sum(1, keepdim=True) - 1).clamp(min=1)).sqrt() + EPSILON


def expected_margin(rewards_PG: Tensor, reference_rewards_PK: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Margin over the mean of all reference samples, and its clipped share; both of shape (P, G).

        margin_i = 1/K sum_k clip(r_i - r_ref_k, low, high)

    Where all reference samples are scored it equals the average of `paired_margin` over all shifts, hence the same
    expected gradient with less variance. NaN reference rewards are left out of the mean; without any, or for a NaN
    reward, margin and share are 0.
    Source: arXiv 2505.14264, averaged over K samples.
    """
    difference_PGK = rewards_PG.unsqueeze(2) - reference_rewards_PK.unsqueeze(1)
    margin_PG = difference_PGK.clamp(low, high).nanmean(2).nan_to_num(0.0)
    outside_PGK = ((difference_PGK < low) | (difference_PGK > high)).to(rewards_PG.dtype)
    clipped_PG = outside_PGK.masked_fill(difference_PGK.isnan(), torch.nan).nanmean(2).nan_to_num(0.0)
    return margin_PG, clipped_PG


def paired_margin(
    rewards_PG: Tensor, reference_rewards_PK: Tensor, low: float, high: float, shift: int = 0
) -> tuple[Tensor, Tensor]:
    """Margin over one reference sample each, and whether it was clipped; both of shape (P, G).

        margin_i = clip(r_i - r_ref_k, low, high),  k = (i + shift) mod K

    With K = G and shift 0 this is the published form. NaN on either side gives 0.
    Source: arXiv 2505.14264.
    """
    num_rollouts, num_samples = rewards_PG.shape[1], reference_rewards_PK.shape[1]
    partner_G = (torch.arange(num_rollouts, device=rewards_PG.device) + shift) % num_samples
    difference_PG = rewards_PG - reference_rewards_PK[:, partner_G]
    clipped_PG = ((difference_PG < low) | (difference_PG > high)).to(rewards_PG.dtype)
    return difference_PG.clamp(low, high).nan_to_num(0.0), clipped_PG


def augmented_advantages(
    objective: Objective, rewards_PG: Tensor, reference_rewards_PK: Tensor | None = None, *, shift: int = 0
) -> Advantages:
    """Advantage, margin and their sum for groups of rewards.

        A_i = ((r_i - b_i) / s + margin_i) * alpha

    Args:
        objective: Gives b, s, the margin and alpha.
        rewards_PG: Rewards; NaN marks a sample that no reward function scored.
        reference_rewards_PK: The reference model's rewards on the same prompts; needed when the objective has a margin.
        shift: Which reference sample a `paired` margin starts from; callers advance it from step to step so that all
            pairings are used.

    Degenerate cases: NaN rewards take no part in any statistic and get 0 everywhere. A dead group's advantage is
    exactly 0 (unless the baseline is `none`). Alpha counts as dead the groups that the margin does not revive either;
    with every group dead it is 1.
    """
    low, high = objective.margin_low, objective.margin_high
    if objective.margin == "none":
        margin_PG = clipped_PG = torch.zeros_like(rewards_PG)
    else:
        assert reference_rewards_PK is not None, f"a {objective.margin} margin needs reference rewards"
        if objective.margin == "expected":
            margin_PG, clipped_PG = expected_margin(rewards_PG, reference_rewards_PK, low, high)
        else:
            margin_PG, clipped_PG = paired_margin(rewards_PG, reference_rewards_PK, low, high, shift)

    dead_P = dead_groups(rewards_PG)
    centred_PG = subtract_baseline(rewards_PG, objective.baseline)
    if objective.baseline != "none":
        centred_PG = centred_PG.masked_fill(dead_P.unsqueeze(1), 0.0)
    advantage_PG = (centred_PG / reward_scale(rewards_PG, objective.scale)).masked_fill(rewards_PG.isnan(), 0.0)

    sum_PG = advantage_PG + margin_PG
    alpha, num_pushing = 1.0, int((~silent_groups(sum_PG)).sum())
    if objective.rescale_dead_groups and num_pushing:
        alpha = len(sum_PG) / num_pushing
    return Advantages(sum_PG * alpha, advantage_PG, margin_PG, clipped_PG, dead_P, alpha)

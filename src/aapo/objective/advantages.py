"""Rewards to augmented advantages.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt, F reward functions, X spare rollouts per
prompt, D = G + X drawn ones.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from aapo.named import calling, own_name
from aapo.objective.margins import check_values, margin_of
from aapo.objective.space import AdvantageFunction, Baseline, Groups, Objective, Scale
from aapo.objective.statistics import EPSILON, deviation

# Below this an augmented advantage is float32 rounding noise of a margin whose differences cancel.
SILENCE = 1e-6


class Advantages(NamedTuple):
    """What `augmented_advantages` returns; every tensor has the dtype and device of the rewards.

    Attributes:
        augmented_PG: What multiplies the log-probabilities: `(advantage + margin) * alpha`.
        advantage_PG: The group-relative advantage, or that of the objective's own function, before the margin.
        margin_PG: The clipped margin over the reference; 0 without one.
        clipped_PG: Share in [0, 1] of the differences behind a margin that met a clip bound.
        dead_P: True where the group's scored rewards, the overlong penalty and spare rollouts included, are all equal,
            so that comparing them says nothing.
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
    - `batch_mean`: r_i minus the mean of all groups' rewards
    - `none`: r_i

    NaN stays NaN and counts in no mean. With one scored sample `leave_one_out` is 0. Where all rewards that a mean is
    taken of are equal, the result is exactly 0.
    """
    if baseline == "none":
        return rewards_PG
    if baseline == "batch_mean":
        pool_1B = rewards_PG.reshape(1, -1)
        centred_PG = rewards_PG - pool_1B.nanmean()
        return centred_PG.masked_fill(dead_groups(pool_1B) & ~rewards_PG.isnan(), 0.0)
    centred_PG = rewards_PG - rewards_PG.nanmean(1, keepdim=True)
    centred_PG = centred_PG.masked_fill(dead_groups(rewards_PG).unsqueeze(1) & ~rewards_PG.isnan(), 0.0)
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
    return deviation(pool) + EPSILON


def overlong_penalty(lengths: Tensor, max_completion_length: int, buffer: float) -> Tensor:
    """What a completion's length takes from its reward, in [-1, 0]; the shape stays.

        penalty = -clip((length - (1 - buffer) L) / (buffer L), 0, 1),  L = max_completion_length

    It is 0 up to the last `buffer` share of the limit and falls linearly to -1 at the limit. With buffer 0 it is 0.
    Source: DAPO's soft overlong punishment, arXiv 2503.14476, Eq. 13, with L_cache = buffer * L.

    Args:
        lengths: Completion tokens.
        max_completion_length: The token limit of a completion.
        buffer: Share of the limit, in [0, 1).
    """
    if buffer == 0:
        return torch.zeros_like(lengths, dtype=torch.float32)
    cache = buffer * max_completion_length
    return -((lengths.float() - (max_completion_length - cache)) / cache).clamp(0, 1)


def augmented_advantages(
    objective: Objective,
    rewards_PG: Tensor,
    reference_rewards_PK: Tensor | None = None,
    *,
    shift: int = 0,
    correct_PG: Tensor | None = None,
    lengths_PG: Tensor | None = None,
    truncated_PG: Tensor | None = None,
    max_completion_length: int | None = None,
    values_PGF: Tensor | None = None,
    weights_F: Tensor | None = None,
    spare_PX: Tensor | None = None,
    spare_lengths_PX: Tensor | None = None,
) -> Advantages:
    """Advantage, margin and their sum for groups of rewards.

        A_i = ((r_i + penalty_i - b_i) / s + margin_i) * alpha

    b and s are of all rollouts that were drawn for a prompt, those that are not trained on included. Margins, and an
    advantage function unless it reads them, are of those that are.

    The margin compares rewards as they were paid, without the overlong penalty, because the reference rewards are
    stored without one.

    Args:
        objective: Gives b, s (or the advantage function), the margin, the overlong buffer and alpha.
        rewards_PG: Rewards; NaN marks a sample that no reward function scored.
        reference_rewards_PK: The reference model's rewards on the same prompts; needed when the objective has a margin.
        shift: Given to the margin: which reference sample a `paired` one starts from; callers advance it from step to
            step so that all pairings are used.
        correct_PG: 1, 0 or NaN, for an advantage function that reads it.
        lengths_PG: Completion tokens. Without them there is no overlong penalty.
        truncated_PG: Whether a completion was cut, for an advantage function that reads it.
        max_completion_length: The token limit of a completion; needed with an overlong buffer and lengths.
        values_PGF: What each reward function pays, for an advantage function that reads it; NaN where it could not
            score.
        weights_F: The weights of the functions, of whose values `rewards_PG` is the sum.
        spare_PX: Rewards of the rollouts that were drawn for a prompt and are not trained on; NaN where it has fewer.
        spare_lengths_PX: Their completion tokens; needed with an overlong buffer.

    Raises:
        InputError: The objective's own advantage or margin function returned another shape, or values that are not
            finite.

    Degenerate cases: NaN rewards take no part in any statistic and get 0 everywhere. A dead group's advantage is
    exactly 0 where the baseline is that of the group. Alpha counts as dead the groups that the margin does not revive
    either; with every group dead it is 1.
    """
    if objective.margin == "none":
        margin_PG = clipped_PG = torch.zeros_like(rewards_PG)
    else:
        assert reference_rewards_PK is not None, f"a {objective.margin} margin needs reference rewards"
        bounds = objective.margin_low, objective.margin_high
        margin_PG, clipped_PG = margin_of(objective.margin, rewards_PG, reference_rewards_PK, *bounds, shift)

    shaped_PG = rewards_PG
    if objective.overlong_buffer and lengths_PG is not None:
        assert max_completion_length is not None, "an overlong buffer needs the token limit"
        limits = max_completion_length, objective.overlong_buffer
        penalty_PG = overlong_penalty(lengths_PG, *limits).to(rewards_PG.dtype)
        shaped_PG = rewards_PG + penalty_PG
        if values_PGF is not None and weights_F is not None:
            values_PGF, weights_F = _with_function(
                values_PGF, weights_F, penalty_PG.masked_fill(rewards_PG.isnan(), torch.nan)
            )
        if spare_PX is not None:
            assert spare_lengths_PX is not None, "an overlong buffer needs the lengths of spare rollouts"
            spare_PX = spare_PX + overlong_penalty(spare_lengths_PX, *limits).to(spare_PX.dtype)
    drawn_PD = shaped_PG if spare_PX is None else torch.cat([shaped_PG, spare_PX], 1)
    if objective.advantage is not None:
        groups = Groups(
            shaped_PG, reference_rewards_PK, correct_PG, lengths_PG, truncated_PG, max_completion_length, values_PGF,
            weights_F, spare_PX,
        )  # fmt: skip
        advantage_PG = _own_advantage(objective.advantage, groups)
    else:
        centred_PD = subtract_baseline(drawn_PD, objective.baseline)
        advantage_PG = centred_PD[:, : shaped_PG.shape[1]] / reward_scale(drawn_PD, objective.scale)
    advantage_PG = advantage_PG.masked_fill(rewards_PG.isnan(), 0.0)

    sum_PG = advantage_PG + margin_PG
    alpha, num_pushing = 1.0, int((~silent_groups(sum_PG)).sum())
    if objective.rescale_dead_groups and num_pushing:
        alpha = len(sum_PG) / num_pushing
    return Advantages(sum_PG * alpha, advantage_PG, margin_PG, clipped_PG, dead_groups(drawn_PD), alpha)


def _with_function(values_PGF: Tensor, weights_F: Tensor, paid_PG: Tensor) -> tuple[Tensor, Tensor]:
    """The values and weights of reward functions with one function more, of weight 1."""
    return torch.cat([values_PGF, paid_PG.unsqueeze(2)], 2), torch.cat([weights_F, weights_F.new_ones(1)])


def _own_advantage(function: AdvantageFunction, groups: Groups) -> Tensor:
    """What a user's advantage function makes of the groups, checked: shape (P, G), finite where a reward is."""
    with calling(f"advantage function {own_name(function)}"):
        values = function(groups)
    return check_values("advantage", function, values, groups.rewards_PG)

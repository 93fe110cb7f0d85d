"""How much signal a batch of groups carried, how much of it came from the margin, and on which prompts.

Every function returns metrics that `aapo.metrics` declares. A share whose denominator is 0 is 0; a mean over
completions or prompts of which the batch has none is left out, because 0 would be a value.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from aapo.objective.advantages import SILENCE, Advantages, silent_groups
from aapo.objective.margins import margin_of
from aapo.objective.space import Objective


class ClippedShares(NamedTuple):
    """Share in [0, 1] of the differences behind each margin that met the lower and the upper clip bound."""

    low_PG: Tensor
    high_PG: Tensor


def signal_diagnostics(
    advantages: Advantages, rewards_PG: Tensor, correct_PG: Tensor, reference_PK: Tensor | None = None
) -> dict[str, float]:
    """The `signal/*` metrics of one batch: dead groups by cause, before and after the margin, and the net bias.

    Args:
        advantages: The batch, P groups of G.
        rewards_PG: What they were computed from; NaN marks a completion that no reward function could score.
        correct_PG: 1 for a right completion, 0 for a wrong one, NaN for one that could not be scored.
        reference_PK: Reference rewards; without them the two metrics about the reference are left out.

    Degenerate cases: a dead group is all right (all wrong) when every scored completion of it is right (wrong); a dead
    group of mixed or unscored completions is neither. The reference fails with an all-wrong group, or succeeds with an
    all-right one, when each of its scored rewards is the group's own; without a scored one it does neither.
    """
    dead_P, still_dead_P = advantages.dead_P, silent_groups(advantages.augmented_PG)
    mean_P = correct_PG.nanmean(1)
    right_P, wrong_P = mean_P == 1, mean_P == 0
    scored_PG = ~rewards_PG.isnan()
    values = {
        "signal/dead_group_frac": _share(dead_P),
        "signal/dead_all_right_frac": _share(dead_P & right_P),
        "signal/dead_all_wrong_frac": _share(dead_P & wrong_P),
        "signal/dead_after_margin_frac": _share(still_dead_P),
        "signal/dead_after_margin_all_right_frac": _share(still_dead_P & right_P),
        "signal/dead_after_margin_all_wrong_frac": _share(still_dead_P & wrong_P),
        "signal/revived_group_frac": _share(dead_P & ~still_dead_P),
    }
    if reference_PK is not None:
        same_P = _same_rewards(rewards_PG, reference_PK)
        values["signal/dead_reference_right_frac"] = _share(still_dead_P & right_P & same_P)
        values["signal/dead_reference_failed_frac"] = _share(still_dead_P & wrong_P & same_P)
    return values | _mean("signal/bias", advantages.augmented_PG, scored_PG)


def margin_diagnostics(
    advantages: Advantages, weights_PG: Tensor, clipped: ClippedShares, reference_PK: Tensor | None = None
) -> dict[str, float]:
    """The `margin/*` metrics of one batch: its size, how often it is clipped, and its share of the signal.

    The gradient of the loss on fresh samples is `sum_i u_i (advantage_i + margin_i) s_i`, with u_i what all tokens of
    completion i weigh in the loss and s_i the mean score of its tokens. `margin/gradient_share` is the margin's share
    of the absolute coefficients, `sum u |margin| / sum u (|advantage| + |margin|)`. It is not a share of the gradient's
    norm, which depends on the scores and on how they cancel.

    Args:
        advantages: The batch, P groups of G.
        weights_PG: u, for example `completion_weights` times lengths; only ratios matter.
        clipped: Of `clipped_shares`.
        reference_PK: Reference rewards, if there are any.
    """
    advantage_PG, margin_PG = advantages.advantage_PG.abs(), advantages.margin_PG.abs()
    values = {
        "margin/mean": float(advantages.margin_PG.mean()),
        "margin/clipped_frac": float(advantages.clipped_PG.mean()),
        "margin/clipped_low_frac": float(clipped.low_PG.mean()),
        "margin/clipped_high_frac": float(clipped.high_PG.mean()),
        "margin/advantage_share": _ratio(margin_PG, advantage_PG + margin_PG),
        "margin/gradient_share": _ratio(weights_PG * margin_PG, weights_PG * (advantage_PG + margin_PG)),
    }
    if reference_PK is not None:
        values |= _mean("margin/reference_reward", reference_PK, ~reference_PK.isnan())
    return values


def rollout_diagnostics(
    correct_PG: Tensor, lengths_PG: Tensor, first_correct_PG: Tensor | None = None
) -> dict[str, float]:
    """The `rollout/*` metrics of one batch that compare right and wrong completions.

    Args:
        correct_PG: 1 for a right completion, 0 for a wrong one, NaN for one that could not be scored.
        lengths_PG: Completion tokens.
        first_correct_PG: Of the rollouts that the accuracy is of, where those of the batch were picked by it.
    """
    first_correct_PG = correct_PG if first_correct_PG is None else first_correct_PG
    return (
        _mean("rollout/accuracy", first_correct_PG, ~first_correct_PG.isnan())
        | {"rollout/unscored_frac": _share(correct_PG.isnan())}
        | _mean("rollout/right_length", lengths_PG.float(), correct_PG == 1)
        | _mean("rollout/wrong_length", lengths_PG.float(), correct_PG == 0)
    )


def difficulty_diagnostics(
    advantages: Advantages, rewards_PG: Tensor, correct_PG: Tensor, reference_correct_PK: Tensor
) -> dict[str, float]:
    """Margin and accuracy on hard, medium and easy prompts.

    A prompt is hard when the share of its scored reference samples that are right is below 1/3, easy when it is above
    2/3, else medium. It is in no bin without a scored reference sample.

    Args:
        advantages: The batch, P groups of G.
        rewards_PG: NaN marks a completion without a reward, which has no margin.
        correct_PG: 1 for a right completion, 0 for a wrong one, NaN for one that could not be scored; where those of
            the batch were picked by it, of as many that were not.
        reference_correct_PK: The same of the reference samples.
    """
    num_right_P, num_scored_P = reference_correct_PK.nansum(1), (~reference_correct_PK.isnan()).sum(1)
    known_P = num_scored_P > 0
    hard_P, easy_P = known_P & (3 * num_right_P < num_scored_P), known_P & (3 * num_right_P > 2 * num_scored_P)
    values: dict[str, float] = {}
    for name, bin_P in {"hard": hard_P, "medium": known_P & ~hard_P & ~easy_P, "easy": easy_P}.items():
        bin_P1 = bin_P.unsqueeze(1)
        values |= _mean(f"margin/{name}", advantages.margin_PG, bin_P1 & ~rewards_PG.isnan())
        values |= _mean(f"rollout/{name}_accuracy", correct_PG, bin_P1 & ~correct_PG.isnan())
        values[f"rollout/{name}_frac"] = _share(bin_P)
    return values


def clipped_shares(
    objective: Objective, rewards_PG: Tensor, reference_PK: Tensor | None = None, *, shift: int = 0
) -> ClippedShares:
    """The lower and the upper part of `Advantages.clipped_PG`, which is their sum; 0 without a margin.

    The arguments are those of `augmented_advantages`. Each part is what is clipped when the other bound is open.
    """
    low, high = objective.margin_low, objective.margin_high
    if objective.margin == "none" or reference_PK is None:
        return ClippedShares(torch.zeros_like(rewards_PG), torch.zeros_like(rewards_PG))
    bounds = ((low, torch.inf), (-torch.inf, high))
    margins = (margin_of(objective.margin, rewards_PG, reference_PK, *pair, shift) for pair in bounds)
    return ClippedShares(*(margin.clipped_PG for margin in margins))


def _same_rewards(rewards_PG: Tensor, reference_PK: Tensor) -> Tensor:
    """True for each group with scored reference rewards that all are the rewards of all its completions, shape (P,)."""
    difference_PGK = rewards_PG.unsqueeze(2) - reference_PK.unsqueeze(1)
    missing_PGK = difference_PGK.isnan()
    same_PGK = missing_PGK | (difference_PGK.abs() <= SILENCE)
    return same_PGK.flatten(1).all(1) & ~missing_PGK.flatten(1).all(1)


def _share(chosen: Tensor) -> float:
    return float(chosen.float().mean())


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part.sum() / whole.sum()) if whole.sum() > 0 else 0.0


def _mean(key: str, values: Tensor, chosen: Tensor) -> dict[str, float]:
    """The mean of the chosen values under `key`, or nothing where none is chosen."""
    return {key: float(values[chosen].mean())} if chosen.any() else {}

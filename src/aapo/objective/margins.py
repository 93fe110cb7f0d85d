"""Margins over the reference: functions by name, a user's own among them.

A margin function is called as `function(rewards_PG, reference_rewards_PK, low, high, shift)` and returns a `Margin`. It
must do without a NaN on either side, which is a sample that could not be scored; `low` may be -inf and `high` inf.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from aapo.errors import InputError, nearest
from aapo.named import calling, load_named, own_name
from aapo.objective.statistics import EPSILON, best_reward, deviation

# Rewards that are closer differ by rounding.
SAME = 1e-6
# The strongest surprise that four reference samples can show, log 9, is then 0.27, about the published upper bound.
SURPRISE_SCALE = 1 / 8
SCORED = "scored rollout (rewards_PG is NaN where a rollout has no score)"


class Margin(NamedTuple):
    """What a margin function returns.

    Attributes:
        margin_PG: What is added to the advantage; 0 for a NaN reward.
        clipped_PG: Share in [0, 1] of the differences behind it that met a clip bound.
    """

    margin_PG: Tensor
    clipped_PG: Tensor


MarginFunction = Callable[[Tensor, Tensor, float, float, int], Margin]


def expected_margin(
    rewards_PG: Tensor, reference_rewards_PK: Tensor, low: float, high: float, shift: int = 0
) -> Margin:
    """Margin over the mean of all reference samples, and its clipped share; `shift` does nothing.

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
    return Margin(margin_PG, clipped_PG)


def paired_margin(rewards_PG: Tensor, reference_rewards_PK: Tensor, low: float, high: float, shift: int = 0) -> Margin:
    """Margin over one reference sample each, and whether it was clipped.

        margin_i = clip(r_i - r_ref_k, low, high),  k = (i + shift) mod K

    With K = G and shift 0 this is the published form. NaN on either side gives 0.
    Source: arXiv 2505.14264.
    """
    num_rollouts, num_samples = rewards_PG.shape[1], reference_rewards_PK.shape[1]
    partner_G = (torch.arange(num_rollouts, device=rewards_PG.device) + shift) % num_samples
    difference_PG = rewards_PG - reference_rewards_PK[:, partner_G]
    clipped_PG = ((difference_PG < low) | (difference_PG > high)).to(rewards_PG.dtype)
    return Margin(difference_PG.clamp(low, high).nan_to_num(0.0), clipped_PG)


def scaled_margin(rewards_PG: Tensor, reference_rewards_PK: Tensor, low: float, high: float, shift: int = 0) -> Margin:
    """The expected margin in units of the spread of rollouts and reference samples together; `shift` does nothing.

        margin_i = 1/K sum_k clip(r_i - r_ref_k, low, high) / (std(r, r_ref) + 1e-4)

    The deviation is the sample's (ddof 1). It is not 0 where the margin is not, so a dead group that the reference
    revives has one. The bounds hold before the division.
    """
    margin_PG, clipped_PG = expected_margin(rewards_PG, reference_rewards_PK, low, high)
    spread_P1 = deviation(torch.cat([rewards_PG, reference_rewards_PK], 1)) + EPSILON
    return Margin(margin_PG / spread_P1, clipped_PG)


def centred_margin(rewards_PG: Tensor, reference_rewards_PK: Tensor, low: float, high: float, shift: int = 0) -> Margin:
    """The expected margin minus its mean over the group, which revives no dead group; `shift` does nothing."""
    margin_PG, clipped_PG = expected_margin(rewards_PG, reference_rewards_PK, low, high)
    scored_PG = margin_PG.masked_fill(rewards_PG.isnan(), torch.nan)
    centred_PG = scored_PG - scored_PG.nanmean(1, keepdim=True)
    equal_P1 = deviation(scored_PG) <= SAME
    return Margin(centred_PG.masked_fill(equal_P1, 0.0).nan_to_num(0.0), clipped_PG)


def surprise_margin(
    rewards_PG: Tensor, reference_rewards_PK: Tensor, low: float, high: float, shift: int = 0
) -> Margin:
    """An eighth of the log-odds that a rollout does better than a reference sample; `shift` does nothing.

        u_i = (#{r_ref_k < r_i} + #{r_ref_k = r_i} / 2 + 1/2) / (K + 1)
        margin_i = clip(log(u_i / (1 - u_i)) / 8, low, high)

    Where all reference samples do as the rollout did, or none is scored, u is 1/2 and the margin 0. It depends on the
    order of rewards only, not on their size.
    """
    difference_PGK = rewards_PG.unsqueeze(2) - reference_rewards_PK.unsqueeze(1)
    below_PG, above_PG = ((side * difference_PGK > SAME).sum(2).to(rewards_PG) for side in (1, -1))
    num_scored_PG = (~difference_PGK.isnan()).sum(2)
    rank_PG = (1 + (below_PG - above_PG) / (num_scored_PG + 1)) / 2
    surprise_PG = SURPRISE_SCALE * rank_PG.logit()
    clipped_PG = ((surprise_PG < low) | (surprise_PG > high)).to(rewards_PG.dtype)
    return Margin(surprise_PG.clamp(low, high), clipped_PG)


def demanding_margin(
    rewards_PG: Tensor, reference_rewards_PK: Tensor, low: float, high: float, shift: int = 0
) -> Margin:
    """The expected margin over the reference samples and one perfect answer that nobody drew; `shift` does nothing.

        margin_i = 1/(K+1) (sum_k clip(r_i - r_ref_k, low, high) + clip(r_i - r_max, low, high))

    r_max is `best_reward`. An all-wrong group whose reference failed too has low / (K + 1), where the expected margin
    has 0.
    """
    perfect_P1 = best_reward(rewards_PG).expand(len(rewards_PG), 1)
    return expected_margin(rewards_PG, torch.cat([reference_rewards_PK, perfect_P1], 1), low, high)


# docs/algorithms.md says how to add one, here or from a file of your own.
MARGINS: dict[str, MarginFunction] = {
    "expected": expected_margin,
    "paired": paired_margin,
    "scaled": scaled_margin,
    "centred": centred_margin,
    "surprise": surprise_margin,
    "demanding": demanding_margin,
}


def register_margin(name: str, function: MarginFunction) -> None:
    """Make a margin function available by name.

    Raises:
        InputError: The name is taken.
    """
    if name in MARGINS or name == "none":
        raise InputError(f"margin {name!r} exists already; choose another name")
    MARGINS[name] = function


def margin_function(margin: str | MarginFunction) -> MarginFunction:
    """The margin function that is given, or named: one of `MARGINS`, path/to/file.py:NAME or package.module:NAME.

    Raises:
        InputError: There is none of that name.
    """
    function: Any = margin
    if isinstance(margin, str):
        function = load_named(margin, "margin") if ":" in margin else MARGINS.get(margin)
    if not callable(function):
        near = nearest(margin, MARGINS) if isinstance(margin, str) else ""
        raise InputError(
            f"margin is {margin!r}{near}; it must be none, {', '.join(MARGINS)}, or a function of your own as "
            "path/to/file.py:NAME or package.module:NAME"
        )
    return cast(MarginFunction, function)


def margin_of(
    margin: str | MarginFunction,
    rewards_PG: Tensor,
    reference_rewards_PK: Tensor,
    low: float,
    high: float,
    shift: int = 0,
) -> Margin:
    """What a margin makes of rewards, checked.

    Raises:
        InputError: It is unknown, or returned another shape or values that are not finite.
    """
    function = margin_function(margin)
    with calling(f"margin function {own_name(function)}"):
        found: Any = function(rewards_PG, reference_rewards_PK, low, high, shift)
    if not isinstance(found, tuple) or len(found) != 2:
        raise InputError(
            f"the margin function {own_name(function)} returned a {type(found).__name__}; it must return a Margin of "
            "margins and their clipped shares"
        )
    values_PG, clipped_PG = (check_values("margin", function, values, rewards_PG) for values in found)
    return Margin(values_PG.masked_fill(rewards_PG.isnan(), 0.0), clipped_PG)


def check_values(
    what: str, function: Callable[..., Any], values: Any, like: Tensor, of: str = "rollout", counts: str = SCORED
) -> Tensor:
    """The values of an advantage or margin function, detached and of the type of `like`, after checking them.

    Args:
        what: A value is.
        function: It, for the message.
        values: That it returned.
        like: A tensor of their shape that is NaN where no value counts, as rewards are.
        of: What has a value.
        counts: Which of them must have one.

    Raises:
        InputError: They are no tensor, their shape is not that of `like`, or one is not finite where that is not NaN.
    """
    what_it_is = f"the {what} function {own_name(function)}"
    if not isinstance(values, Tensor):
        raise InputError(f"{what_it_is} returned a {type(values).__name__}; it must return tensors")
    values = values.detach().to(like)
    if values.shape != like.shape:
        raise InputError(
            f"{what_it_is} returned shape {tuple(values.shape)}; it must return one {what} a {of}, {tuple(like.shape)}"
        )
    if not values[~like.isnan()].isfinite().all():
        raise InputError(
            f"{what_it_is} returned values that are not finite; it must return a number for every {counts}"
        )
    return values

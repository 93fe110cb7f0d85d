"""A margin of your own in one file: against the reference's mean reward, not against each of its samples.

    aapo train quickstart --margin examples/my_margin.py:over_the_mean

    margin_i = clip(r_i - mean_k r_ref_k, low, high)

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt.
"""

from torch import Tensor

from aapo.objective import Margin


def over_the_mean(rewards_PG: Tensor, reference_rewards_PK: Tensor, low: float, high: float, shift: int) -> Margin:
    """The clipped difference to the mean of the scored reference samples; 0 where there is none, or no reward."""
    difference_PG = rewards_PG - reference_rewards_PK.nanmean(1, keepdim=True)
    clipped_PG = (difference_PG < low) | (difference_PG > high)
    return Margin(difference_PG.clamp(low, high).nan_to_num(0.0), clipped_PG.to(rewards_PG.dtype))

"""What advantages and margins count in a group of rewards; NaN, an unscored sample, takes no part.

Shapes: P prompts, G rollouts per prompt, N samples of any kind.
"""

from torch import Tensor

EPSILON = 1e-4


def deviation(values_PN: Tensor) -> Tensor:
    """The sample standard deviation (ddof 1) of each row, shape (P, 1); 0 with fewer than two scored samples."""
    scored_PN = ~values_PN.isnan()
    squares_PN = (values_PN - values_PN.nanmean(1, keepdim=True)).nan_to_num(0.0).square()
    return (squares_PN.sum(1, keepdim=True) / (scored_PN.sum(1, keepdim=True) - 1).clamp(min=1)).sqrt()


def best_reward(rewards_PG: Tensor) -> Tensor:
    """The reward of a perfect answer, a scalar: 1, or the highest of the batch where that is higher."""
    return rewards_PG.nan_to_num(1.0).amax().clamp(min=1.0)

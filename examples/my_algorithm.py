"""An algorithm of your own in one file: prompts that the reference finds hard count for more.

    aapo train quickstart --algorithm examples/my_algorithm.py:HARD_FIRST

    A_i = w (r_i - mean_{j != i} r_j) + margin_i,    w = 3/2 - mean_k r_ref_k

A prompt that the reference always solves weighs 1/2, one that it never solves 3/2.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt.
"""

from torch import Tensor

from aapo.objective import Groups, Objective, subtract_baseline


def hard_first(groups: Groups) -> Tensor:
    """Leave-one-out advantages times w, shape (P, G); w is 1 where no reference sample is scored."""
    assert groups.reference_rewards_PK is not None  # there is a margin
    pass_rate_P1 = groups.reference_rewards_PK.nanmean(1, keepdim=True).nan_to_num(0.5)
    return (1.5 - pass_rate_P1) * subtract_baseline(groups.rewards_PG, "leave_one_out")


# Every other axis is free: margin, loss, importance ratio, aggregation, refill and so on.
HARD_FIRST = Objective(advantage=hard_first, margin="expected", aggregation="constant")

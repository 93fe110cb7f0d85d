"""How much signal a batch of groups carried, and how much of it came from the margin."""

import torch
from torch import Tensor

from aapo.objective.advantages import Advantages, silent_groups


def signal_diagnostics(advantages: Advantages, correct_PG: Tensor) -> dict[str, float]:
    """The `signal/*` and `margin/*` metrics of one batch; `aapo.metrics` declares each key.

    Args:
        advantages: The batch, P groups of G.
        correct_PG: 1 for a right completion, 0 for a wrong one, NaN for one that could not be scored.

    Degenerate cases: a share whose denominator is 0 is 0. A dead group is all right (all wrong) when every scored
    completion of it is right (wrong); a dead group of mixed or unscored completions is neither.
    """
    still_dead_P = silent_groups(advantages.augmented_PG).float()
    dead_P = advantages.dead_P.float()
    mean_P = correct_PG.nanmean(1)
    right_P, wrong_P = (mean_P == 1).float(), (mean_P == 0).float()
    total = advantages.advantage_PG.abs().sum() + advantages.margin_PG.abs().sum()
    share = advantages.margin_PG.abs().sum() / total if total > 0 else torch.zeros(())
    values = {
        "signal/dead_group_frac": dead_P.mean(),
        "signal/dead_all_right_frac": (dead_P * right_P).mean(),
        "signal/dead_all_wrong_frac": (dead_P * wrong_P).mean(),
        "signal/dead_after_margin_frac": still_dead_P.mean(),
        "signal/dead_after_margin_all_right_frac": (still_dead_P * right_P).mean(),
        "signal/dead_after_margin_all_wrong_frac": (still_dead_P * wrong_P).mean(),
        "signal/revived_group_frac": (dead_P * (1 - still_dead_P)).mean(),
        "margin/mean": advantages.margin_PG.mean(),
        "margin/clipped_frac": advantages.clipped_PG.mean(),
        "margin/advantage_share": share,
    }
    return {key: float(value) for key, value in values.items()}

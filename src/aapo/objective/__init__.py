"""The equations of AAPO and its relatives: pure functions of tensors, and the algorithms as declarations."""

from aapo.objective.advantages import (
    Advantages,
    augmented_advantages,
    dead_groups,
    expected_margin,
    overlong_penalty,
    paired_margin,
    reward_scale,
    silent_groups,
    subtract_baseline,
)
from aapo.objective.algorithms import (
    ALGORITHMS,
    OBJECTIVE_FIELDS,
    AdvantageFunction,
    Groups,
    Objective,
    objective,
    register,
)
from aapo.objective.diagnostics import (
    ClippedShares,
    clipped_shares,
    difficulty_diagnostics,
    margin_diagnostics,
    rollout_diagnostics,
    signal_diagnostics,
)
from aapo.objective.losses import completion_weights, policy_loss, token_losses

__all__ = [
    "ALGORITHMS",
    "OBJECTIVE_FIELDS",
    "AdvantageFunction",
    "Advantages",
    "ClippedShares",
    "Groups",
    "Objective",
    "augmented_advantages",
    "clipped_shares",
    "completion_weights",
    "dead_groups",
    "difficulty_diagnostics",
    "expected_margin",
    "margin_diagnostics",
    "objective",
    "overlong_penalty",
    "paired_margin",
    "policy_loss",
    "register",
    "reward_scale",
    "rollout_diagnostics",
    "signal_diagnostics",
    "silent_groups",
    "subtract_baseline",
    "token_losses",
]

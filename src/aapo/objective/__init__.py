"""The equations of AAPO and its relatives: pure functions of tensors, and the algorithms as declarations."""

from aapo.objective.advantages import (
    Advantages,
    augmented_advantages,
    dead_groups,
    overlong_penalty,
    reward_scale,
    silent_groups,
    subtract_baseline,
)
from aapo.objective.algorithms import (
    ALGORITHMS,
    AXIS_RULES,
    COLLECTION_FIELDS,
    Algorithm,
    Collection,
    algorithm,
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
from aapo.objective.estimators import (
    over_each_function,
    over_the_length_weighted_mean,
    over_the_mean,
    over_the_optimal_value,
    with_virtual_best,
)
from aapo.objective.losses import completion_weights, importance_ratios, policy_loss, token_losses
from aapo.objective.margins import MARGINS, Margin, MarginFunction, expected_margin, paired_margin, register_margin
from aapo.objective.space import OBJECTIVE_FIELDS, AdvantageFunction, Groups, Objective

__all__ = [
    "ALGORITHMS",
    "AXIS_RULES",
    "COLLECTION_FIELDS",
    "MARGINS",
    "OBJECTIVE_FIELDS",
    "AdvantageFunction",
    "Advantages",
    "Algorithm",
    "ClippedShares",
    "Collection",
    "Groups",
    "Margin",
    "MarginFunction",
    "Objective",
    "algorithm",
    "augmented_advantages",
    "clipped_shares",
    "completion_weights",
    "dead_groups",
    "difficulty_diagnostics",
    "expected_margin",
    "importance_ratios",
    "margin_diagnostics",
    "objective",
    "over_each_function",
    "over_the_length_weighted_mean",
    "over_the_mean",
    "over_the_optimal_value",
    "overlong_penalty",
    "paired_margin",
    "policy_loss",
    "register",
    "register_margin",
    "reward_scale",
    "rollout_diagnostics",
    "signal_diagnostics",
    "silent_groups",
    "subtract_baseline",
    "token_losses",
    "with_virtual_best",
]

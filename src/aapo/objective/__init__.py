"""The equations of AAPO and its relatives: pure functions of tensors, and the algorithms as declarations."""

from aapo.objective.advantages import (
    Advantages,
    augmented_advantages,
    dead_groups,
    expected_margin,
    paired_margin,
    reward_scale,
    silent_groups,
    subtract_baseline,
)
from aapo.objective.algorithms import ALGORITHMS, OBJECTIVE_FIELDS, Objective, objective, register
from aapo.objective.diagnostics import signal_diagnostics
from aapo.objective.losses import completion_weights, policy_loss, token_losses

__all__ = [
    "ALGORITHMS",
    "OBJECTIVE_FIELDS",
    "Advantages",
    "Objective",
    "augmented_advantages",
    "completion_weights",
    "dead_groups",
    "expected_margin",
    "objective",
    "paired_margin",
    "policy_loss",
    "register",
    "reward_scale",
    "signal_diagnostics",
    "silent_groups",
    "subtract_baseline",
    "token_losses",
]

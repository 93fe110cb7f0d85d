"""Completions to numbers: answer equivalence and reward functions."""

from aapo.grading.answers import Verdict, extract_answer, grade
from aapo.grading.rewards import (
    REWARDS,
    RewardFunction,
    accuracy,
    check_reward_names,
    completion_text,
    format,
    reasoning_gym,
    reward_function,
    reward_name,
    reward_version,
)

__all__ = [
    "REWARDS",
    "RewardFunction",
    "Verdict",
    "accuracy",
    "check_reward_names",
    "completion_text",
    "extract_answer",
    "format",
    "grade",
    "reasoning_gym",
    "reward_function",
    "reward_name",
    "reward_version",
]

"""Completions to numbers: answer equivalence and reward functions."""

from aapo.grading.answers import VERSION as GRADER_VERSION
from aapo.grading.answers import Verdict, grade, grade_many
from aapo.grading.extraction import extract_answer
from aapo.grading.judging import BY_VERDICT, VERDICT, Judge
from aapo.grading.registry import (
    GRADED,
    GROUPWISE,
    REWARDS,
    RewardFunction,
    check_isolation,
    check_reward_names,
    grade_ahead,
    reward_function,
    reward_functions,
    reward_name,
    reward_spec,
    reward_version,
    with_convention,
)
from aapo.grading.rewards import accuracy, completion_text, format, reasoning_gym

__all__ = [
    "BY_VERDICT",
    "GRADED",
    "GRADER_VERSION",
    "GROUPWISE",
    "REWARDS",
    "VERDICT",
    "Judge",
    "RewardFunction",
    "Verdict",
    "accuracy",
    "check_isolation",
    "check_reward_names",
    "completion_text",
    "extract_answer",
    "format",
    "grade",
    "grade_ahead",
    "grade_many",
    "reasoning_gym",
    "reward_function",
    "reward_functions",
    "reward_name",
    "reward_spec",
    "reward_version",
    "with_convention",
]

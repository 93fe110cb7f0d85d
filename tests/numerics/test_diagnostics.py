"""Diagnostics counted by hand.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt.
"""

import math

import pytest
import torch

from aapo.metrics import METRICS
from aapo.objective import Objective, augmented_advantages, signal_diagnostics

NAN = math.nan


def f64(rows):
    return torch.tensor(rows, dtype=torch.float64)


def diagnose(rewards, reference, correct=None, **fields):
    point = Objective(**{"scale": "none", "margin": "expected", **fields})
    result = augmented_advantages(point, f64(rewards), None if reference is None else f64(reference))
    return signal_diagnostics(result, f64(rewards if correct is None else correct))


def test_eight_groups_by_hand():
    rewards = [[1, 0], [0, 1], [1, 1], [1, 1], [1, 1], [0, 0], [0, 0], [0, 0]]
    reference = [[1, 0], [0, 0], [1, 1], [1, 0], [0, 0], [0, 0], [0, 1], [0, 0]]
    values = diagnose(rewards, reference)
    # Group    advantages   margins        clipped      dead
    # 0        1/2, -1/2    0.14, -0.1     1/2, 1/2
    # 1        -1/2, 1/2    0, 0.28        0, 1
    # 2        0, 0         0, 0           0, 0         all right, and so is the reference: stays dead
    # 3        0, 0         0.14, 0.14     1/2, 1/2     all right, revived
    # 4        0, 0         0.28, 0.28     1, 1         all right, revived
    # 5        0, 0         0, 0           0, 0         all wrong, and so is the reference: stays dead
    # 6        0, 0         -0.1, -0.1     1/2, 1/2     all wrong, revived
    # 7        0, 0         0, 0           0, 0         as 5
    assert values == pytest.approx(
        {
            "signal/dead_group_frac": 6 / 8,
            "signal/dead_all_right_frac": 3 / 8,
            "signal/dead_all_wrong_frac": 3 / 8,
            "signal/dead_after_margin_frac": 3 / 8,
            "signal/dead_after_margin_all_right_frac": 1 / 8,
            "signal/dead_after_margin_all_wrong_frac": 2 / 8,
            "signal/revived_group_frac": 3 / 8,
            # 0.04 + 0.28 + 0.28 + 0.56 - 0.2 over 16 completions
            "margin/mean": 0.96 / 16,
            # 1 + 1 + 1 + 2 + 1 over 16 completions
            "margin/clipped_frac": 6 / 16,
            # |margins| 0.24 + 0.28 + 0.28 + 0.56 + 0.2 = 1.56; |advantages| 4 * 1/2 = 2
            "margin/advantage_share": 1.56 / 3.56,
        },
        abs=1e-7,
    )


def test_without_a_margin_nothing_is_revived():
    values = diagnose([[1, 0], [1, 1], [0, 0], [0, 0]], None, margin="none")
    assert values == {
        "signal/dead_group_frac": 3 / 4,
        "signal/dead_all_right_frac": 1 / 4,
        "signal/dead_all_wrong_frac": 2 / 4,
        "signal/dead_after_margin_frac": 3 / 4,
        "signal/dead_after_margin_all_right_frac": 1 / 4,
        "signal/dead_after_margin_all_wrong_frac": 2 / 4,
        "signal/revived_group_frac": 0,
        "margin/mean": 0,
        "margin/clipped_frac": 0,
        "margin/advantage_share": 0,
    }


def test_all_groups_dead_has_no_share():
    values = diagnose([[1, 1], [0, 0]], [[1], [0]])
    assert values["signal/dead_after_margin_frac"] == 1
    assert values["margin/advantage_share"] == 0


def test_only_the_margin_left_has_the_whole_share():
    assert diagnose([[1, 1], [0, 0]], [[0], [0]])["margin/advantage_share"] == 1


def test_right_and_wrong_come_from_correctness_not_from_the_reward():
    # Rewards 0.3 and 2 with a format or length part; four dead groups and one live one.
    values = diagnose(
        [[2, 2], [0.3, 0.3], [0.3, 0.3], [0.3, 0.3], [2, 0.3]],
        None,
        correct=[[1, 1], [0, 0], [1, 0], [0, NAN], [1, 1]],
        margin="none",
    )
    assert values["signal/dead_group_frac"] == pytest.approx(4 / 5)
    assert values["signal/dead_all_right_frac"] == pytest.approx(1 / 5)  # the first; the last is right but live
    assert values["signal/dead_all_wrong_frac"] == pytest.approx(2 / 5)  # the second and, of those scored, the fourth


def test_an_unscored_group_is_dead_but_neither_right_nor_wrong():
    values = diagnose([[NAN, NAN], [1, 0]], [[0, 1], [0, 1]])
    assert values["signal/dead_group_frac"] == 1 / 2
    assert values["signal/dead_after_margin_frac"] == 1 / 2
    for key in ("dead_all_right", "dead_all_wrong", "dead_after_margin_all_right", "dead_after_margin_all_wrong"):
        assert values[f"signal/{key}_frac"] == 0
    assert all(math.isfinite(value) for value in values.values())


def test_every_key_is_declared():
    assert set(diagnose([[1, 0]], [[0]])) <= set(METRICS)

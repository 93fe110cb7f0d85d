"""Diagnostics counted by hand.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt.
"""

import math

import pytest
import torch

from aapo.metrics import METRICS
from aapo.objective import (
    Objective,
    augmented_advantages,
    clipped_shares,
    completion_weights,
    difficulty_diagnostics,
    margin_diagnostics,
    rollout_diagnostics,
    signal_diagnostics,
)

NAN = math.nan

REWARDS = [[1, 0], [0, 1], [1, 1], [1, 1], [1, 1], [0, 0], [0, 0], [0, 0]]
REFERENCE = [[1, 0], [0, 0], [1, 1], [1, 0], [0, 0], [0, 0], [0, 1], [0, 0]]
# Group    advantages   margins        clipped      below        above        dead
# 0        1/2, -1/2    0.14, -0.1     1/2, 1/2     0, 1/2       1/2, 0
# 1        -1/2, 1/2    0, 0.28        0, 1         0, 0         0, 1
# 2        0, 0         0, 0           0, 0         0, 0         0, 0         all right, and so is the reference: stays
# 3        0, 0         0.14, 0.14     1/2, 1/2     0, 0         1/2, 1/2     all right, revived
# 4        0, 0         0.28, 0.28     1, 1         0, 0         1, 1         all right, revived
# 5        0, 0         0, 0           0, 0         0, 0         0, 0         all wrong, and so is the reference: stays
# 6        0, 0         -0.1, -0.1     1/2, 1/2     1/2, 1/2     0, 0         all wrong, revived
# 7        0, 0         0, 0           0, 0         0, 0         0, 0         as 5


def f64(rows):
    return torch.tensor(rows, dtype=torch.float64)


def point(**fields):
    return Objective(**{"scale": "none", "margin": "expected", **fields})


def advantages(rewards, reference, **fields):
    return augmented_advantages(point(**fields), f64(rewards), None if reference is None else f64(reference))


def signal(rewards, reference, correct=None, **fields):
    reference_PK = None if reference is None else f64(reference)
    result = advantages(rewards, reference, **fields)
    return signal_diagnostics(result, f64(rewards), f64(rewards if correct is None else correct), reference_PK)


def margin(rewards, reference, weights=None, **fields):
    reference_PK = None if reference is None else f64(reference)
    weights_PG = torch.ones_like(f64(rewards)) if weights is None else f64(weights)
    clipped = clipped_shares(point(**fields), f64(rewards), reference_PK)
    return margin_diagnostics(advantages(rewards, reference, **fields), weights_PG, clipped, reference_PK)


def test_the_signal_of_eight_groups_by_hand():
    assert signal(REWARDS, REFERENCE) == pytest.approx(
        {
            "signal/dead_group_frac": 6 / 8,
            "signal/dead_all_right_frac": 3 / 8,
            "signal/dead_all_wrong_frac": 3 / 8,
            "signal/dead_after_margin_frac": 3 / 8,
            "signal/dead_after_margin_all_right_frac": 1 / 8,
            "signal/dead_after_margin_all_wrong_frac": 2 / 8,
            "signal/dead_reference_right_frac": 1 / 8,
            "signal/dead_reference_failed_frac": 2 / 8,
            "signal/revived_group_frac": 3 / 8,
            # The advantages of a group sum to 0; the margins to 0.04 + 0.28 + 0.28 + 0.56 - 0.2 over 16 completions.
            "signal/bias": 0.96 / 16,
        },
        abs=1e-7,
    )


def test_the_margin_of_eight_groups_by_hand():
    assert margin(REWARDS, REFERENCE) == pytest.approx(
        {
            "margin/mean": 0.96 / 16,
            # 1 + 1 + 1 + 2 + 1 over 16 completions, of which 1/2 + 1 below
            "margin/clipped_frac": 6 / 16,
            "margin/clipped_low_frac": 1.5 / 16,
            "margin/clipped_high_frac": 4.5 / 16,
            # |margins| 0.24 + 0.28 + 0.28 + 0.56 + 0.2 = 1.56; |advantages| 4 * 1/2 = 2
            "margin/advantage_share": 1.56 / 3.56,
            "margin/gradient_share": 1.56 / 3.56,
            # 5 of 16 reference samples are right
            "margin/reference_reward": 5 / 16,
        },
        abs=1e-7,
    )


def test_margin_and_accuracy_by_difficulty_of_eight_prompts_by_hand():
    # The reference passes 1/2 of 0, 3 and 6, none of 1, 4, 5 and 7, and all of 2.
    result = advantages(REWARDS, REFERENCE)
    assert difficulty_diagnostics(result, f64(REWARDS), f64(REWARDS), f64(REFERENCE)) == pytest.approx(
        {
            "margin/hard": (0.28 + 2 * 0.28) / 8,
            "margin/medium": (0.14 - 0.1 + 2 * 0.14 - 2 * 0.1) / 6,
            "margin/easy": 0,
            "rollout/hard_accuracy": 3 / 8,
            "rollout/medium_accuracy": 3 / 6,
            "rollout/easy_accuracy": 1,
            "rollout/hard_frac": 4 / 8,
            "rollout/medium_frac": 3 / 8,
            "rollout/easy_frac": 1 / 8,
        },
        abs=1e-7,
    )


def test_a_third_and_two_thirds_are_medium_and_an_empty_bin_is_absent():
    correct, reference = [[1, NAN], [0, 0], [NAN, NAN], [1, 1]], [[1, 0, 0], [1, 0, 1], [0, NAN, NAN], [NAN, NAN, NAN]]
    rewards = [[1, NAN], [0, 0], [0.3, 0.3], [1, 1]]
    result = advantages(rewards, reference)
    # The first prompt's margin is 0.28 * 2/3, without the unscored completion; the second's -0.2 * 2/3 twice. The third
    # is hard, by the one sample that is scored, and has a reward but no mark; the last has no reference.
    assert difficulty_diagnostics(result, f64(rewards), f64(correct), f64(reference)) == pytest.approx(
        {
            "margin/hard": 0.28,
            "margin/medium": (0.28 - 0.2 - 0.2) * 2 / 9,
            "rollout/medium_accuracy": 1 / 3,
            "rollout/hard_frac": 1 / 4,
            "rollout/medium_frac": 2 / 4,
            "rollout/easy_frac": 0,
        },
        abs=1e-7,
    )


def test_without_a_margin_nothing_is_revived_and_nothing_said_of_a_reference():
    rewards = [[1, 0], [1, 1], [0, 0], [0, 0]]
    assert signal(rewards, None, margin="none") == {
        "signal/dead_group_frac": 3 / 4,
        "signal/dead_all_right_frac": 1 / 4,
        "signal/dead_all_wrong_frac": 2 / 4,
        "signal/dead_after_margin_frac": 3 / 4,
        "signal/dead_after_margin_all_right_frac": 1 / 4,
        "signal/dead_after_margin_all_wrong_frac": 2 / 4,
        "signal/revived_group_frac": 0,
        "signal/bias": 0,
    }
    names = ("mean", "clipped_frac", "clipped_low_frac", "clipped_high_frac", "advantage_share", "gradient_share")
    assert margin(rewards, None, margin="none") == {f"margin/{name}": 0 for name in names}


def test_the_bias_is_the_mean_over_scored_completions():
    # Margins: 0.28 and -0 against a reference that fails; NaN has none and does not count. Baseline none: 1 and 0.
    assert signal([[1, 0, NAN]], [[0]], margin_low=-0.1)["signal/bias"] == pytest.approx(0.28 / 2)
    assert signal([[1, 0, NAN]], None, baseline="none", margin="none")["signal/bias"] == pytest.approx(1 / 2)
    assert "signal/bias" not in signal([[NAN, NAN]], [[0]])


def test_what_stays_dead_for_another_reason_than_the_reference_is_not_counted_so():
    # All wrong with a lower bound of 0: the reference is right, and the group dead all the same. Two all-wrong groups
    # without a scored reference, and with one that is scored and wrong. A graded reference around the rewards, whose
    # differences 0.1 and -0.1 cancel.
    rewards, reference = [[0, 0], [0, 0], [0, 0], [0.3, 0.3]], [[1, 1], [NAN, NAN], [NAN, 0], [0.2, 0.4]]
    values = signal(rewards, reference, correct=[[0, 0]] * 4, margin_low=0.0, margin_high=0.28)
    assert values["signal/dead_after_margin_all_wrong_frac"] == pytest.approx(3 / 4)  # 0.3 - 0.2 is not clipped away
    assert values["signal/dead_reference_failed_frac"] == pytest.approx(1 / 4)
    values = signal(rewards, reference, correct=[[0, 0]] * 4)
    assert values["signal/dead_after_margin_all_wrong_frac"] == pytest.approx(3 / 4)  # the first is revived
    assert values["signal/dead_reference_failed_frac"] == pytest.approx(1 / 4)
    # A wrong group with a format reward, and a reference with the same one: it failed too.
    assert signal([[0.2, 0.2]], [[0.2, 0.2]], correct=[[0, 0]])["signal/dead_reference_failed_frac"] == 1
    assert signal([[1.2, 1.2]], [[1.2, 1.2]], correct=[[1, 1]])["signal/dead_reference_right_frac"] == 1


def test_the_gradient_share_counts_what_tokens_weigh():
    rewards, reference = [[1, 0], [1, 1]], [[0, 0], [0, 0]]
    # advantages 1/2, -1/2, 0, 0; margins 0.28, 0, 0.28, 0.28; tokens 10, 30, 20, 40
    lengths_B = f64([10, 30, 20, 40])

    def share(aggregation):
        weights_PG = (completion_weights(lengths_B, aggregation, 50) * lengths_B).view(2, 2)
        return margin(rewards, reference, weights_PG.tolist())["margin/gradient_share"]

    by_tokens = 0.28 * (10 + 20 + 40) / (0.5 * (10 + 30) + 0.28 * (10 + 20 + 40))
    by_completions = 0.84 / 1.84
    assert share("token_mean") == pytest.approx(by_tokens)
    assert share("constant") == pytest.approx(by_tokens)
    assert share("sequence_mean") == pytest.approx(by_completions)
    assert margin(rewards, reference)["margin/advantage_share"] == pytest.approx(by_completions)


@pytest.mark.parametrize("form", ["expected", "paired"])
@pytest.mark.parametrize("shift", [0, 1])
def test_the_clipped_shares_sum_to_what_is_clipped(form, shift):
    rewards_PG, reference_PK = f64([[1, 0, 0.5, NAN]]), f64([[0.4, 0.6, NAN]])
    low_PG, high_PG = clipped_shares(point(margin=form), rewards_PG, reference_PK, shift=shift)
    whole = augmented_advantages(point(margin=form), rewards_PG, reference_PK, shift=shift)
    torch.testing.assert_close(low_PG + high_PG, whole.clipped_PG)
    # expected: 0.6, 0.4 above; -0.4, -0.6 below; 0.1, -0.1 within. paired: the partners of the first two rollouts are
    # 0.4, 0.6, and with shift 1 0.6, NaN.
    below = 0 if form == "paired" and shift else 1
    assert (low_PG.tolist(), high_PG.tolist()) == ([[0, below, 0, 0]], [[1, 0, 0, 0]])


def test_lengths_of_right_and_wrong_completions():
    correct, lengths = [[1, 0, NAN], [1, 0, 0]], torch.tensor([[10, 40, 7], [20, 50, 90]])
    assert rollout_diagnostics(f64(correct), lengths) == pytest.approx(
        {
            "rollout/accuracy": 2 / 5,
            "rollout/unscored_frac": 1 / 6,
            "rollout/right_length": 15,
            "rollout/wrong_length": 60,
        }
    )
    assert rollout_diagnostics(f64([[1, 1]]), torch.tensor([[3, 4]])) == {
        "rollout/accuracy": 1, "rollout/unscored_frac": 0, "rollout/right_length": 3.5,
    }  # fmt: skip
    assert rollout_diagnostics(f64([[NAN]]), torch.tensor([[3]])) == {"rollout/unscored_frac": 1}


def test_all_groups_dead_has_no_share():
    assert signal([[1, 1], [0, 0]], [[1], [0]])["signal/dead_after_margin_frac"] == 1
    values = margin([[1, 1], [0, 0]], [[1], [0]])
    assert values["margin/advantage_share"] == values["margin/gradient_share"] == 0


def test_only_the_margin_left_has_the_whole_share():
    values = margin([[1, 1], [0, 0]], [[0], [0]])
    assert values["margin/advantage_share"] == values["margin/gradient_share"] == 1


def test_right_and_wrong_come_from_correctness_not_from_the_reward():
    # Rewards 0.3 and 2 with a format or length part; four dead groups and one live one.
    values = signal(
        [[2, 2], [0.3, 0.3], [0.3, 0.3], [0.3, 0.3], [2, 0.3]],
        None,
        correct=[[1, 1], [0, 0], [1, 0], [0, NAN], [1, 1]],
        margin="none",
    )
    assert values["signal/dead_group_frac"] == pytest.approx(4 / 5)
    assert values["signal/dead_all_right_frac"] == pytest.approx(1 / 5)  # the first; the last is right but live
    assert values["signal/dead_all_wrong_frac"] == pytest.approx(2 / 5)  # the second and, of those scored, the fourth


def test_an_unscored_group_is_dead_but_neither_right_nor_wrong():
    values = signal([[NAN, NAN], [1, 0]], [[0, 1], [0, 1]])
    assert values["signal/dead_group_frac"] == 1 / 2
    assert values["signal/dead_after_margin_frac"] == 1 / 2
    for key in ("dead_all_right", "dead_all_wrong", "dead_after_margin_all_right", "dead_after_margin_all_wrong",
                "dead_reference_right", "dead_reference_failed"):  # fmt: skip
        assert values[f"signal/{key}_frac"] == 0
    assert all(math.isfinite(value) for value in values.values())


def test_every_key_is_declared():
    result = advantages([[1, 0], [1, 0], [1, 0]], [[0, 0], [0, 1], [1, 1]])
    reference, rewards = f64([[0, 0], [0, 1], [1, 1]]), f64([[1, 0], [1, 0], [1, 0]])
    clipped = clipped_shares(point(), rewards, reference)
    keys = [
        *signal_diagnostics(result, rewards, rewards, reference),
        *margin_diagnostics(result, torch.ones_like(rewards), clipped, reference),
        *difficulty_diagnostics(result, rewards, rewards, reference),
        *rollout_diagnostics(rewards, rewards),
    ]
    assert len(keys) == len(set(keys)) == 30 and set(keys) <= set(METRICS)

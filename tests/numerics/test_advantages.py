"""Advantages and margins against arithmetic written out here.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt.
"""

import math

import pytest
import torch

from aapo.errors import InputError
from aapo.objective import (
    Objective,
    augmented_advantages,
    dead_groups,
    expected_margin,
    overlong_penalty,
    paired_margin,
    reward_scale,
    subtract_baseline,
)

NAN = math.nan
LOW, HIGH = -0.2, 0.28


def f64(rows):
    return torch.tensor(rows, dtype=torch.float64)


def assert_values(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, f64(expected), rtol=0, atol=atol)


# Group 0 has mean 1/4, squared deviations 9/16 + 3 * 1/16 = 3/4, sample std sqrt(3/4 / 3) = 1/2.
# Group 1 has mean 1, squared deviations 1 + 1 + 9 + 1 = 12, sample std sqrt(12 / 3) = 2.
# All eight have mean 5/8, squares 1 + 16 = 17, squared deviations 17 - 8 * 25/64 = 13.875.
REWARDS_PG = f64([[1, 0, 0, 0], [0, 0, 4, 0]])

CENTRED = {
    "group_mean": [[0.75, -0.25, -0.25, -0.25], [-1, -1, 3, -1]],
    "leave_one_out": [[1 - 0, 0 - 1 / 3, 0 - 1 / 3, 0 - 1 / 3], [0 - 4 / 3, 0 - 4 / 3, 4 - 0, 0 - 4 / 3]],
    "batch_mean": [[3 / 8, -5 / 8, -5 / 8, -5 / 8], [-5 / 8, -5 / 8, 4 - 5 / 8, -5 / 8]],
    "none": [[1, 0, 0, 0], [0, 0, 4, 0]],
}
DIVISORS = {
    "group": [0.5 + 1e-4, 2 + 1e-4],
    "batch": [math.sqrt(13.875 / 7) + 1e-4] * 2,
    "none": [1, 1],
}
# All but the one that `Objective` refuses.
COMBINATIONS = [
    (baseline, scale)
    for baseline in CENTRED
    for scale in DIVISORS
    if (baseline, scale) not in (("none", "group"), ("batch_mean", "group"))
]


@pytest.mark.parametrize(("baseline", "scale"), COMBINATIONS)
def test_every_baseline_with_every_scale(baseline, scale):
    result = augmented_advantages(Objective(baseline=baseline, scale=scale), REWARDS_PG)
    expected = [
        [value / divisor for value in row] for row, divisor in zip(CENTRED[baseline], DIVISORS[scale], strict=True)
    ]
    assert_values(result.advantage_PG, expected)
    assert_values(result.augmented_PG, expected)
    assert_values(result.margin_PG, [[0] * 4] * 2)
    assert_values(result.clipped_PG, [[0] * 4] * 2)
    assert result.dead_P.tolist() == [False, False]
    assert result.alpha == 1


def test_the_group_std_has_one_degree_of_freedom_less_and_epsilon_is_added_after_the_root():
    # [1, 0]: mean 1/2, squared deviations 1/4 + 1/4, / (2 - 1) -> std sqrt(1/2); the population std would be 1/2.
    assert_values(reward_scale(f64([[1, 0]]), "group"), [[math.sqrt(0.5) + 1e-4]])


def test_baseline_and_scale_leave_missing_rewards_out():
    rewards_PG = f64([[1, NAN, 0, NAN], [2, 5, 8, NAN]])
    # Group 0: [1, 0] has mean 1/2; group 1: [2, 5, 8] has mean 5.
    assert_values(subtract_baseline(rewards_PG, "group_mean")[0, [0, 2]], [0.5, -0.5])
    assert_values(subtract_baseline(rewards_PG, "group_mean")[1, :3], [-3, 0, 3])
    # The others' mean: 0 for the 1, 1 for the 0; 13/2, 5 and 7/2 in group 1.
    assert_values(subtract_baseline(rewards_PG, "leave_one_out")[0, [0, 2]], [1, -1])
    assert_values(subtract_baseline(rewards_PG, "leave_one_out")[1, :3], [2 - 6.5, 5 - 5, 8 - 3.5])
    # [1, 0, 2, 5, 8] has mean 16/5.
    assert_values(subtract_baseline(rewards_PG, "batch_mean")[1, :3], [2 - 3.2, 5 - 3.2, 8 - 3.2])
    # Squared deviations 1/4 + 1/4 over 2 - 1, and 9 + 0 + 9 over 3 - 1.
    assert_values(reward_scale(rewards_PG, "group"), [[math.sqrt(0.5) + 1e-4], [3 + 1e-4]])
    # [1, 0, 2, 5, 8]: mean 16/5, squares 94, squared deviations 94 - 256/5 = 42.8 over 5 - 1.
    assert_values(reward_scale(rewards_PG, "batch"), [[math.sqrt(42.8 / 4) + 1e-4]])


# Rewards 1, 0, 1/2 against reference rewards 1, 0, 1/4, 1/2, clipped to [-0.2, 0.28].
ROLLOUTS_PG = f64([[1, 0, 0.5]])
REFERENCE_PK = f64([[1, 0, 0.25, 0.5]])


def test_expected_margin_clips_each_difference_before_the_mean():
    margin_PG, clipped_PG = expected_margin(ROLLOUTS_PG, REFERENCE_PK, LOW, HIGH)
    # 1:   0, 1, 0.75, 0.5     -> 0, 0.28, 0.28, 0.28     three clipped
    # 0:   -1, 0, -0.25, -0.5  -> -0.2, 0, -0.2, -0.2     three clipped
    # 1/2: -0.5, 0.5, 0.25, 0  -> -0.2, 0.28, 0.25, 0     two clipped
    assert_values(margin_PG, [[3 * 0.28 / 4, -3 * 0.2 / 4, (-0.2 + 0.28 + 0.25) / 4]])
    assert_values(clipped_PG, [[3 / 4, 3 / 4, 2 / 4]])


@pytest.mark.parametrize(
    ("shift", "margins", "clipped"),
    [
        (0, [0, 0, 0.25], [0, 0, 0]),  # partners 1, 0, 1/4
        (1, [0.28, -0.2, 0], [1, 1, 0]),  # 0, 1/4, 1/2
        (2, [0.28, -0.2, -0.2], [1, 1, 1]),  # 1/4, 1/2, 1
        (3, [0.28, -0.2, 0.28], [1, 1, 1]),  # 1/2, 1, 0
        (4, [0, 0, 0.25], [0, 0, 0]),  # all the way round
    ],
)
def test_paired_margin_takes_partner_i_plus_shift(shift, margins, clipped):
    margin_PG, clipped_PG = paired_margin(ROLLOUTS_PG, REFERENCE_PK, LOW, HIGH, shift)
    assert_values(margin_PG, [margins])
    assert_values(clipped_PG, [clipped])


def test_paired_margin_with_fewer_reference_samples_than_rollouts_wraps():
    # Partners of 1, 1, 1 among [0, 1] are 0, 1, 0.
    margin_PG, _ = paired_margin(f64([[1, 1, 1]]), f64([[0, 1]]), LOW, HIGH)
    assert_values(margin_PG, [[0.28, 0, 0.28]])


def test_margins_are_taken_within_the_prompt():
    rewards_PG, reference_PK = f64([[1, 0], [1, 0]]), f64([[0, 0, 0, 0], [1, 1, 1, 1]])
    margin_PG, clipped_PG = expected_margin(rewards_PG, reference_PK, LOW, HIGH)
    assert_values(margin_PG, [[0.28, 0], [0, -0.2]])
    assert_values(clipped_PG, [[1, 0], [0, 1]])
    margin_PG, clipped_PG = paired_margin(rewards_PG, reference_PK, LOW, HIGH)
    assert_values(margin_PG, [[0.28, 0], [0, -0.2]])
    assert_values(clipped_PG, [[1, 0], [0, 1]])


def test_a_difference_on_the_bound_is_not_clipped():
    margin_PG, clipped_PG = expected_margin(f64([[0.25, -0.5]]), f64([[0]]), -0.5, 0.25)
    assert_values(margin_PG, [[0.25, -0.5]])
    assert_values(clipped_PG, [[0, 0]])


@pytest.mark.parametrize(("right", "num_samples"), [(0, 4), (1, 4), (3, 4), (4, 4), (5, 8)])
def test_margin_of_right_and_wrong_answers_in_closed_form(right, num_samples):
    reference_PK = f64([[1] * right + [0] * (num_samples - right)])
    margin_PG, _ = expected_margin(f64([[1, 0]]), reference_PK, LOW, HIGH)
    p = right / num_samples
    assert_values(margin_PG, [[0.28 * (1 - p), -0.2 * p]])


def test_missing_reference_rewards_leave_the_mean():
    margin_PG, clipped_PG = expected_margin(f64([[1, 0]]), f64([[0, NAN, 1, 1, NAN]]), LOW, HIGH)
    # 1 against 0, 1, 1: 0.28, 0, 0;  0 against 0, 1, 1: 0, -0.2, -0.2
    assert_values(margin_PG, [[0.28 / 3, -0.4 / 3]])
    assert_values(clipped_PG, [[1 / 3, 2 / 3]])


def test_a_missing_partner_gives_no_margin():
    margin_PG, clipped_PG = paired_margin(f64([[1, 1, NAN]]), f64([[0, NAN, 0]]), LOW, HIGH)
    assert_values(margin_PG, [[0.28, 0, 0]])
    assert_values(clipped_PG, [[1, 0, 0]])


def test_with_a_missing_reference_reward_the_expected_margin_is_not_the_mean_over_shifts():
    # 1 against 0 and a missing one: the mean leaves it out, a rollout that is paired with it gets 0.
    rewards_PG, reference_PK = f64([[1]]), f64([[0, NAN]])
    assert_values(expected_margin(rewards_PG, reference_PK, LOW, HIGH)[0], [[0.28]])
    assert_values(paired_margin(rewards_PG, reference_PK, LOW, HIGH, 0)[0], [[0.28]])
    assert_values(paired_margin(rewards_PG, reference_PK, LOW, HIGH, 1)[0], [[0]])


@pytest.mark.parametrize("margin", ["expected", "paired"])
def test_without_any_reference_reward_the_margin_is_zero(margin):
    rewards_PG, reference_PK = f64([[1, 0, 0, 0], [1, 0, 0, 0]]), f64([[NAN] * 4, [0] * 4])
    result = augmented_advantages(Objective(margin=margin), rewards_PG, reference_PK)
    advantage = [0.75 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001]
    assert_values(result.margin_PG, [[0, 0, 0, 0], [0.28, 0, 0, 0]])
    assert_values(result.clipped_PG, [[0, 0, 0, 0], [1, 0, 0, 0]])
    assert_values(result.augmented_PG, [advantage, [advantage[0] + 0.28, *advantage[1:]]])


@pytest.mark.parametrize("margin", ["expected", "paired"])
def test_a_missing_reward_gets_zero_everywhere_and_moves_no_statistic(margin):
    rewards_PG, reference_PK = f64([[1, NAN, 0]]), f64([[0, 0, 0]])
    result = augmented_advantages(Objective(margin=margin), rewards_PG, reference_PK)
    advantage = 0.5 / (math.sqrt(0.5) + 1e-4)  # [1, 0]: mean 1/2, std sqrt(1/2)
    assert_values(result.advantage_PG, [[advantage, 0, -advantage]])
    assert_values(result.margin_PG, [[0.28, 0, 0]])
    assert_values(result.clipped_PG, [[1, 0, 0]])
    assert_values(result.augmented_PG, [[advantage + 0.28, 0, -advantage]])
    assert result.dead_P.tolist() == [False]


@pytest.mark.parametrize(("baseline", "scale"), COMBINATIONS)
def test_a_group_without_any_reward_gets_zero(baseline, scale):
    point = Objective(baseline=baseline, scale=scale, margin="expected")
    result = augmented_advantages(point, f64([[NAN, NAN], [1, 0]]), f64([[1, 0], [1, 1]]))
    assert result.augmented_PG[0].tolist() == [0, 0]
    assert result.clipped_PG[0].tolist() == [0, 0]
    assert result.dead_P.tolist() == [True, False]
    assert result.augmented_PG.isfinite().all()


def test_a_batch_without_any_reward_gets_zero():
    for scale in ("group", "batch", "none"):
        point = Objective(scale=scale, margin="expected", rescale_dead_groups=True)
        result = augmented_advantages(point, f64([[NAN, NAN]]), f64([[1, 0]]))
        assert result.augmented_PG.tolist() == [[0, 0]]
        assert result.alpha == 1


@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_one_scored_sample_has_no_advantage_but_a_margin(baseline, scale):
    point = Objective(baseline=baseline, scale=scale, margin="expected")
    result = augmented_advantages(point, f64([[NAN, 1, NAN]]), f64([[0, 1]]))
    assert result.dead_P.tolist() == [True]
    assert result.advantage_PG.tolist() == [[0, 0, 0]]
    assert_values(result.augmented_PG, [[0, 0.28 / 2, 0]])


@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_groups_get_exactly_zero(baseline, scale, dtype):
    # The float mean of 0.1, 0.1, 0.1 is not 0.1; divided by a std near 0 plus 1e-4 the remainder would be seen.
    rewards_PG = torch.tensor([[0.1] * 3, [1] * 3, [0.7, 0.7, NAN], [1, 0, 0]], dtype=dtype)
    result = augmented_advantages(Objective(baseline=baseline, scale=scale), rewards_PG)
    assert result.dead_P.tolist() == [True, True, True, False]
    assert result.augmented_PG[:3].tolist() == [[0.0] * 3] * 3
    assert (result.augmented_PG[3] != 0).all()
    assert result.augmented_PG.dtype == dtype


def test_the_mean_of_the_batch_does_not_silence_a_dead_group_but_a_dead_batch():
    point = Objective(baseline="batch_mean", scale="none")
    # Mean 1/2: the dead groups are above and below it.
    assert_values(augmented_advantages(point, f64([[1, 1], [0, 0]])).augmented_PG, [[0.5, 0.5], [-0.5, -0.5]])
    assert augmented_advantages(point, f64([[1, 1], [0, 0]])).dead_P.tolist() == [True, True]
    # The float mean of 0.1, 0.1, 0.1 is not 0.1; divided by 1e-4 the remainder would be seen.
    equal_PG = torch.tensor([[0.1, 0.1], [0.1, NAN]])
    result = augmented_advantages(Objective(baseline="batch_mean", scale="batch"), equal_PG)
    assert result.augmented_PG.tolist() == [[0, 0], [0, 0]]


def test_overlong_penalty():
    # A fifth of 20480 is 4096, so it begins after 16384 tokens: DAPO's numbers.
    lengths = torch.tensor([0, 16384, 16384 + 1024, 20480 - 2048, 20480, 30000])
    assert_values(overlong_penalty(lengths, 20480, 0.2).double(), [0, 0, -0.25, -0.5, -1, -1], atol=1e-6)
    assert overlong_penalty(lengths, 20480, 0.0).tolist() == [0.0] * 6


def test_a_missing_reward_stays_missing_under_a_penalty():
    point = Objective(scale="none", overlong_buffer=0.5)
    lengths_PG = torch.tensor([[10, 10, 5]])
    result = augmented_advantages(point, f64([[1, NAN, 0]]), lengths_PG=lengths_PG, max_completion_length=10)
    # 1 - 1 and 0 are equal.
    assert result.augmented_PG.tolist() == [[0, 0, 0]] and result.dead_P.tolist() == [True]
    result = augmented_advantages(point, f64([[1, NAN, 0.5]]), lengths_PG=lengths_PG, max_completion_length=10)
    assert_values(result.augmented_PG, [[-0.25, 0, 0.25]])


def test_an_advantage_function_takes_the_place_of_baseline_and_scale():
    def own(groups):
        seen.append(groups)
        return groups.rewards_PG - groups.reference_rewards_PK.mean(1, keepdim=True)

    seen = []
    point = Objective(advantage=own, margin="expected", rescale_dead_groups=True, overlong_buffer=0.5)
    result = augmented_advantages(
        point,
        f64([[1, NAN], [0, 0]]),
        f64([[1, 0], [0, 0]]),
        correct_PG=f64([[1, NAN], [0, 0]]),
        lengths_PG=torch.tensor([[5, 10], [1, 1]]),
        truncated_PG=torch.tensor([[False, True], [False, False]]),
        max_completion_length=10,
    )
    # 1 - 1/2 and 0 - 0; the margin of 1 over 1 and 0 is 0.14; alpha 2 / 1. No reward, no advantage.
    assert_values(result.advantage_PG, [[0.5, 0], [0, 0]])
    assert_values(result.augmented_PG, [[2 * 0.64, 0], [0, 0]])
    (groups,) = seen
    assert groups.max_completion_length == 10 and groups.truncated_PG[0].tolist() == [False, True]
    assert groups.lengths_PG[0].tolist() == [5, 10] and groups.correct_PG[1].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda groups: groups.rewards_PG.mean(1), r"returned shape \(2,\); it must return one advantage .*, \(2, 2\)"),
        (lambda groups: groups.rewards_PG / 0, "returned values that are not finite"),
    ],
)
def test_a_wrong_advantage_function_is_refused(function, message):
    with pytest.raises(InputError, match=f"^the advantage function .* {message}"):
        augmented_advantages(Objective(advantage=function), f64([[1, 0], [0, 0]]))


def test_dead_groups():
    rewards_PG = f64([[1, 1, 1], [1, 1, 1 + 1e-12], [NAN, 0, 0], [NAN, 0, 1], [NAN, NAN, 1], [NAN] * 3, [-2, -2, -2]])
    assert dead_groups(rewards_PG).tolist() == [True, False, True, False, True, True, True]


def test_without_a_baseline_a_dead_group_keeps_its_rewards():
    result = augmented_advantages(Objective(baseline="none", scale="none"), f64([[1, 1]]))
    assert result.dead_P.tolist() == [True]
    assert_values(result.augmented_PG, [[1, 1]])


@pytest.mark.parametrize(
    ("reward", "right", "augmented"),
    [
        (1, 0, 0.28),  # all right, reference all wrong
        (1, 3, 0.28 / 4),  # all right, reference right three times of four
        (1, 4, 0),  # all right, as is the reference: stays dead
        (0, 4, -0.2),  # all wrong, reference all right
        (0, 1, -0.2 / 4),  # all wrong, reference right once
        (0, 0, 0),  # all wrong, as is the reference: stays dead
    ],
)
def test_the_margin_revives_dead_groups_unless_the_reference_always_scores_the_same(reward, right, augmented):
    reference_PK = f64([[1] * right + [0] * (4 - right)])
    result = augmented_advantages(Objective(margin="expected"), f64([[reward] * 6]), reference_PK)
    assert result.dead_P.tolist() == [True]
    assert result.advantage_PG.tolist() == [[0] * 6]
    assert_values(result.augmented_PG, [[augmented] * 6])


def test_alpha_takes_revived_groups_for_live_and_multiplies_advantage_and_margin():
    # Live; all right where the reference is wrong; all wrong where it is right half the time; all wrong and all right,
    # as is the reference; all right, with a reference that nobody scored.
    rewards_PG = f64([[1, 0], [1, 1], [0, 0], [0, 0], [1, 1], [1, 1]])
    reference_PK = f64([[0, 0], [0, 0], [1, 0], [0, 0], [1, 1], [NAN, NAN]])
    point = Objective(scale="none", margin="expected", rescale_dead_groups=True)
    result = augmented_advantages(point, rewards_PG, reference_PK)
    assert result.dead_P.tolist() == [False, True, True, True, True, True]
    assert_values(result.advantage_PG, [[0.5, -0.5]] + [[0, 0]] * 5)
    assert_values(result.margin_PG, [[0.28, 0], [0.28, 0.28], [-0.1, -0.1], [0, 0], [0, 0], [0, 0]])
    assert result.alpha == 2  # 6 groups / (1 live + 2 revived); without the margin it would be 6 / 1
    assert_values(
        result.augmented_PG,
        [[2 * (0.5 + 0.28), 2 * -0.5], [2 * 0.28] * 2, [2 * -0.1] * 2, [0, 0], [0, 0], [0, 0]],
    )
    assert augmented_advantages(Objective(scale="none", rescale_dead_groups=True), rewards_PG).alpha == 6


@pytest.mark.parametrize(
    ("reference", "margins", "alpha"),
    [
        ([[0], [1], [1]], [0.28, -0.2, -0.2], 1),  # all three revived: 3 / 3
        ([[0], [0], [1]], [0.28, 0, -0.2], 1.5),  # the first and the third: 3 / 2
        ([[1], [0], [1]], [0, 0, -0.2], 3),  # the third: 3 / 1
        ([[1], [0], [0]], [0, 0, 0], 1),  # none: nothing to rescale
    ],
)
@pytest.mark.parametrize("margin", ["expected", "paired"])
def test_alpha_of_dead_groups_counts_the_revived(reference, margins, alpha, margin):
    point = Objective(margin=margin, rescale_dead_groups=True)
    result = augmented_advantages(point, f64([[1, 1], [0, 0], [0, 0]]), f64(reference))
    assert result.alpha == alpha
    assert_values(result.augmented_PG, [[alpha * value] * 2 for value in margins])


def test_alpha_without_a_baseline_counts_groups_that_keep_a_reward():
    point = Objective(baseline="none", scale="none", rescale_dead_groups=True)
    result = augmented_advantages(point, f64([[1, 1], [0, 0], [0, 1], [NAN, NAN]]))
    assert result.alpha == 2  # 4 / 2: the second has only zeros, the fourth no reward
    assert_values(result.augmented_PG, [[2, 2], [0, 0], [0, 2], [0, 0]])


@pytest.mark.parametrize(
    ("rewards", "alpha"),
    [
        ([[1, 0], [0, 1], [1, 0]], 1),  # 3 / 3
        ([[1, 0], [0, 0], [1, 0]], 1.5),  # 3 / 2
        ([[1, 1], [0, 0], [1, 0]], 3),  # 3 / 1
        ([[1, 1], [0, 0], [1, 1]], 1),  # all dead: nothing to rescale
    ],
)
def test_alpha(rewards, alpha):
    result = augmented_advantages(Objective(scale="none", rescale_dead_groups=True), f64(rewards))
    assert result.alpha == alpha
    expected = [[alpha * (reward - sum(row) / 2) for reward in row] for row in rewards]
    assert_values(result.augmented_PG, expected)
    assert augmented_advantages(Objective(scale="none"), f64(rewards)).alpha == 1


def test_a_paired_objective_hands_its_shift_on():
    # Rewards 1, 0 against 0, 1: shift 0 gives 0.28 and -0.2, shift 1 gives 0 and 0.
    rewards_PG, reference_PK = f64([[1, 0]]), f64([[0, 1]])
    point = Objective(scale="none", margin="paired")
    unshifted = augmented_advantages(point, rewards_PG, reference_PK)
    assert_values(unshifted.augmented_PG, [[0.5 + 0.28, -0.5 - 0.2]])
    assert_values(augmented_advantages(point, rewards_PG, reference_PK, shift=1).augmented_PG, [[0.5, -0.5]])


def test_an_objective_hands_its_clip_bounds_on():
    point = Objective(scale="none", margin="expected", margin_low=-0.5, margin_high=0.125)
    result = augmented_advantages(point, f64([[1, 0]]), f64([[0, 1]]))
    # 1 against 0, 1: 0.125, 0;  0 against 0, 1: 0, -0.5
    assert_values(result.margin_PG, [[0.125 / 2, -0.5 / 2]])


def test_a_margin_without_reference_rewards_is_our_bug():
    with pytest.raises(AssertionError, match="a paired margin needs reference rewards"):
        augmented_advantages(Objective(margin="paired"), f64([[1, 0]]))

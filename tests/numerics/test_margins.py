"""Margins by name and of a user's own.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt.
"""

import math

import pytest
import torch

from aapo.errors import InputError
from aapo.objective import (
    MARGINS,
    Margin,
    Objective,
    augmented_advantages,
    clipped_shares,
    objective,
    register_margin,
)

REWARDS_PG, REFERENCE_PK = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])


def halved(rewards_PG, reference_rewards_PK, low, high, shift):
    difference_PG = (rewards_PG - reference_rewards_PK.nanmean(1, keepdim=True)) / 2
    outside_PG = (difference_PG < low) | (difference_PG > high)
    return Margin(difference_PG.clamp(low, high), outside_PG.to(rewards_PG.dtype))


def test_a_margin_of_ones_own_is_added_and_its_clipped_share_is_known():
    # Half the difference to 1/3: 1/3 for a right answer, above 0.28, and -1/6 for a wrong one.
    point = Objective(scale="none", margin=halved)
    found = augmented_advantages(point, REWARDS_PG, REFERENCE_PK)
    torch.testing.assert_close(found.margin_PG, torch.tensor([[0.28, -1 / 6]]))
    torch.testing.assert_close(found.augmented_PG, torch.tensor([[0.78, -0.5 - 1 / 6]]))
    assert found.clipped_PG.tolist() == [[1.0, 0.0]]
    low_PG, high_PG = clipped_shares(point, REWARDS_PG, REFERENCE_PK)
    assert low_PG.tolist() == [[0.0, 0.0]] and high_PG.tolist() == [[1.0, 0.0]]
    assert point.needs_reference and point.describe()["margin"] == f"{__name__}:halved"


def test_a_registered_margin_is_named_like_ours():
    register_margin("halved", halved)
    try:
        found = augmented_advantages(objective("aapo", margin="halved"), REWARDS_PG, REFERENCE_PK)
        torch.testing.assert_close(found.margin_PG, torch.tensor([[0.28, -1 / 6]]))
        for taken in ("halved", "paired", "none"):
            with pytest.raises(InputError, match=f"^margin '{taken}' exists already; choose another name$"):
                register_margin(taken, halved)
    finally:
        MARGINS.pop("halved")
    with pytest.raises(InputError, match="^margin is 'halved'.*; it must be none, expected, paired, scaled, centred"):
        Objective(margin="halved")


def test_an_unscored_rollout_has_no_margin_whatever_the_function_says():
    rewards_PG = torch.tensor([[1.0, torch.nan]])
    found = augmented_advantages(Objective(margin=halved), rewards_PG, REFERENCE_PK)
    assert found.margin_PG[0, 1] == 0 and found.augmented_PG[0, 1] == 0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda r, ref, *rest: Margin(r[:, :1], r[:, :1]), r"the margin function .* returned shape \(1, 1\); it must"),
        (lambda r, ref, *rest: Margin(r / 0, r), "the margin function .* returned values that are not finite"),
    ],
)
def test_what_a_margin_function_returns_is_checked(function, message):
    with pytest.raises(InputError, match=message):
        augmented_advantages(Objective(margin=function), REWARDS_PG, REFERENCE_PK)


# -- margins by name ---------------------------------------------------------------------------------------------------

BOUNDS = (-0.2, 0.28)


def f64(rows):
    return torch.tensor(rows, dtype=torch.float64)


def margins(name, rewards, reference, bounds=BOUNDS):
    return MARGINS[name](f64(rewards), f64(reference), *bounds, 0)


def test_the_scaled_margin_is_in_units_of_the_spread_of_all():
    # 1, 0, 0 and 0, 0, 1: mean 1/3, squares 2, deviations 2 - 6/9 = 4/3, over 6 - 1. Margins 0.28 * 2/3, -0.2 / 3.
    found = margins("scaled", [[1, 0, 0]], [[0, 0, 1]])
    spread = math.sqrt(4 / 15) + 1e-4
    expected = f64([[0.28 * 2 / 3 / spread, -0.2 / 3 / spread, -0.2 / 3 / spread]])
    torch.testing.assert_close(found.margin_PG, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.clipped_PG, f64([[2 / 3, 1 / 3, 1 / 3]]), rtol=0, atol=1e-12)
    # A dead group that the reference revives: 1, 1 and 1, 0 have mean 3/4, deviations 3/4 over 3, so a spread of 1/2.
    revived = margins("scaled", [[1, 1]], [[1, 0]]).margin_PG
    torch.testing.assert_close(revived, f64([[0.14 / 0.5001] * 2]), rtol=0, atol=1e-12)
    assert margins("scaled", [[1, 1]], [[1, 1]]).margin_PG.tolist() == [[0, 0]]


def test_the_centred_margin_weighs_a_live_group_and_leaves_a_dead_one():
    # 0.28 * 3/4 and three times -0.2 / 4: mean 0.06 / 4.
    found = margins("centred", [[1, 0, 0, 0], [1, 1, 1, 1]], [[0, 1, 0, 0], [0, 0, 0, 1]]).margin_PG
    mean = (0.21 - 3 * 0.05) / 4
    torch.testing.assert_close(found, f64([[0.21 - mean, *[-0.05 - mean] * 3], [0] * 4]), rtol=0, atol=1e-12)
    assert found[1].tolist() == [0] * 4


def test_the_surprise_margin_is_an_eighth_of_log_odds():
    # Better than all of four: u = 4.5 / 5, odds 9. Than two and level with two: 3.5 / 5. Worse than two: 1.5 / 5.
    found = margins("surprise", [[1, 0], [1, 0]], [[0, 0, 0, 0], [1, 1, 0, 0]])
    expected = f64([[math.log(9) / 8, 0], [math.log(3.5 / 1.5) / 8, -math.log(3.5 / 1.5) / 8]])
    torch.testing.assert_close(found.margin_PG, expected, rtol=0, atol=1e-12)
    # The size of a reward does not matter; worse than all of four is -log 9 / 8 = -0.27, which the lower bound cuts.
    found = margins("surprise", [[0.1, 0]], [[0.05, 0.05, 0.05, 0.05]])
    torch.testing.assert_close(found.margin_PG, f64([[math.log(9) / 8, -0.2]]), rtol=0, atol=1e-12)
    assert found.clipped_PG.tolist() == [[0, 1]]


def test_the_demanding_margin_pushes_away_where_the_reference_failed_too():
    found = margins("demanding", [[0, 0], [1, 1], [1, 0]], [[0, 0, 0], [1, 1, 1], [0, 1, 1]]).margin_PG
    # Of four samples one is perfect; in the third group two more are right.
    expected = f64([[-0.2 / 4] * 2, [0, 0], [0.28 / 4, -0.2 * 3 / 4]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in MARGINS if name != "paired"])
def test_missing_rewards_take_no_part_in_a_margin(name):
    rewards, reference = [[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]
    whole = margins(name, rewards, reference)
    missing = margins(name, [[*row, math.nan] for row in rewards], [[*row, math.nan] for row in reference])
    torch.testing.assert_close(missing.margin_PG[:, :3], whole.margin_PG, rtol=0, atol=1e-12)
    torch.testing.assert_close(missing.clipped_PG[:, :3], whole.clipped_PG, rtol=0, atol=1e-12)
    assert missing.margin_PG[:, :3].isfinite().all() and whole.margin_PG.abs().max() > 0.01


@pytest.mark.parametrize("name", [name for name in MARGINS if name != "demanding"])
def test_a_margin_is_zero_where_the_reference_does_the_same_or_is_not_scored(name):
    found = margins(name, [[0.3, 0.3], [1.0, 0.0]], [[0.3, 0.3], [math.nan, math.nan]])
    assert found.margin_PG.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("name", MARGINS)
def test_the_clipped_shares_of_every_margin_add_up(name):
    rewards_PG, reference_PK = torch.rand(6, 4), torch.rand(6, 3)
    whole = augmented_advantages(Objective(margin=name), rewards_PG, reference_PK).clipped_PG
    low_PG, high_PG = clipped_shares(Objective(margin=name), rewards_PG, reference_PK)
    torch.testing.assert_close(low_PG + high_PG, whole)

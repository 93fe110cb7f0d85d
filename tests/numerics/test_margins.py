"""Margins by name and of a user's own."""

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
    with pytest.raises(InputError, match="^margin is 'halved'; it must be none, expected, paired, or a function"):
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

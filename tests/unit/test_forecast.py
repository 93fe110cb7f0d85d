"""The forecast of dead groups, against shares worked out by hand."""

import numpy as np
import pytest

from aapo.learning.forecast import ReferenceSamples, draw_groups, forecast_groups, prior_strength
from aapo.objective import Objective, objective

AAPO, GRPO = objective("aapo"), objective("grpo")


def samples(rewards, correct=None, lengths=None, truncated=None):
    rewards = np.array(rewards, float)
    return ReferenceSamples(
        rewards,
        rewards.copy() if correct is None else np.array(correct, float),
        np.ones(rewards.shape, int) if lengths is None else np.array(lengths),
        np.zeros(rewards.shape, bool) if truncated is None else np.array(truncated),
    )


def test_dead_groups_of_two_with_two_samples_a_prompt(monkeypatch):
    # Pass rate m = 1/2 and strength s = 1. A rollout is right with (s m + c) / (s + K), the next of the same kind with
    # one more in both: for c = 0 of K = 2, both right 0.5/3 * 1.5/4 = 0.0625, both wrong 2.5/3 * 3.5/4 = 0.7292;
    # for c = 1 both right 1.5/3 * 2.5/4 = 0.3125, both wrong the same; c = 2 is c = 0 turned round.
    monkeypatch.setattr("aapo.learning.forecast.prior_strength", lambda rewards_PK: 1.0)
    found = forecast_groups(GRPO, samples([[0, 0], [0, 1], [1, 0], [1, 1]]), 2)
    by_hand = ((0.0625 + 0.7292) + 2 * (0.3125 + 0.3125) + (0.7292 + 0.0625)) / 4
    assert by_hand == pytest.approx(0.7083, abs=1e-4)
    assert found.dead_frac == pytest.approx(by_hand, abs=0.015)  # three standard errors of 10,000 groups
    assert found.dead_after_margin_frac == found.dead_frac  # no margin
    assert found.all_right_frac == pytest.approx((0.0625 + 2 * 0.3125 + 0.7292) / 4, abs=0.015)
    assert found.learnable

    # With the margin a group stays without a gradient where its reward is that of both reference samples: all wrong for
    # c = 0, all right for c = 2. For c = 1 the margin of 0 is (0 - 0.2) / 2, of 1 it is (0.28 + 0) / 2.
    margin = forecast_groups(AAPO, samples([[0, 0], [0, 1], [1, 0], [1, 1]]), 2)
    assert margin.dead_frac == found.dead_frac
    assert margin.dead_after_margin_frac == pytest.approx(2 * 0.7292 / 4, abs=0.015)


def test_rollouts_are_like_the_prompts_own_samples_as_often_as_the_urn_says():
    # One prompt of two has K = 1 right sample. The first rollout is like it with 1 / (1 + s), or drawn from the bank,
    # of which it is half: with s = 3, 1/4 + 3/4 * 1/2.
    rng = np.random.default_rng(0)
    drawn = draw_groups(np.zeros(40_000, int), (2, 1), 1, 3.0, rng)
    assert (drawn == 0).mean() == pytest.approx(0.625, abs=0.01)
    # Without a prior, only the prompt's own samples.
    assert (draw_groups(np.ones(100, int), (2, 2), 4, 0.0, rng) >= 2).all()


def test_the_prior_is_strong_where_prompts_are_alike_and_weak_where_they_are_not():
    rng = np.random.default_rng(0)
    alike = (rng.random((500, 4)) < 0.3).astype(float)
    apart = np.repeat((rng.random((500, 1)) < 0.3).astype(float), 4, axis=1)
    assert prior_strength(alike) > 30 and prior_strength(apart) == pytest.approx(0.1)
    # One sample a prompt, or one reward, says nothing of how alike prompts are.
    assert prior_strength(alike[:, :1]) == prior_strength(np.zeros((9, 4))) == pytest.approx(1.0)
    # Of prompts that are all alike, 0.3^8 + 0.7^8 = 5.8% of groups of eight are dead, whatever two samples say.
    assert forecast_groups(GRPO, samples(alike[:, :2]), 8).dead_frac == pytest.approx(0.058, abs=0.03)


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_one_reward_everywhere_teaches_nothing_with_or_without_a_margin(reward):
    bank = samples(np.full((5, 3), reward))
    for point in (AAPO, GRPO, objective("gpg"), objective("rloo")):
        found = forecast_groups(point, bank, 4)
        assert (found.dead_frac, found.dead_after_margin_frac, found.learnable) == (1.0, 1.0, False)
    assert found.all_right_frac == reward and found.all_wrong_frac == 1 - reward
    assert forecast_groups(objective("rl_zvp", margin="expected"), bank, 4).learnable


def test_one_right_sample_anywhere_can_be_learnt_from():
    rewards = np.zeros((2000, 8))
    rewards[7, 3] = 1
    found = forecast_groups(AAPO, samples(rewards), 8)
    assert found.learnable and found.dead_after_margin_frac > 0.99


def test_what_the_objective_adds_to_a_reward_is_counted():
    # DAPO's overlong penalty tells equal rewards apart by their lengths; an advantage of one's own reads verdicts.
    bank = samples(np.zeros((4, 2)), lengths=[[5, 10]] * 4)
    found = forecast_groups(objective("dapo"), bank, 4, max_completion_length=10)
    assert found.learnable and found.dead_after_margin_frac < 1
    assert not forecast_groups(objective("dapo"), bank._replace(lengths_PK=np.full((4, 2), 5)), 4, 10).learnable

    def by_verdict(groups):
        return groups.correct_PG - 0.5

    assert forecast_groups(Objective(advantage=by_verdict), bank, 4).dead_after_margin_frac == 0


def test_samples_that_no_function_scored_take_no_part():
    nan = float("nan")
    unscored = forecast_groups(AAPO, samples([[nan, nan], [nan, nan]]), 2)
    assert unscored.dead_after_margin_frac == 1 and not unscored.learnable
    nothing = forecast_groups(AAPO, samples(np.zeros((0, 4))), 2)
    assert np.isnan(nothing.dead_frac) and not nothing.learnable


def test_the_forecast_is_the_same_every_time():
    bank = samples([[0, 1, 1], [0, 0, 0], [1, 1, 0]])
    assert forecast_groups(AAPO, bank, 4) == forecast_groups(AAPO, bank, 4)

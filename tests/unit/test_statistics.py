"""Statistics of comparisons: worked values, degenerate cases, and coverage by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from aapo.experiments.statistics import (
    Difference,
    area_under_curve,
    holm,
    interquartile_mean,
    judge,
    over_seeds,
    paired_difference,
    probability_of_improvement,
    seeds_needed,
)


def test_interquartile_mean_leaves_out_a_quarter_on_each_side():
    assert interquartile_mean(np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0])) == pytest.approx(
        (2 + 3 + 4 + 5) / 4
    )
    assert interquartile_mean(np.array([0.1, 0.5, 0.9])) == pytest.approx(0.5)


def test_interval_over_seeds_is_of_the_means_of_strata():
    one, other = np.array([0.2, 0.4, 0.6, 0.3, 0.5]), np.array([0.8, 0.8, 0.8, 0.8, 0.8])
    found = over_seeds([one, other])
    assert found.estimate == pytest.approx((0.4 + 0.8) / 2)
    assert 0.4 < found.low < found.estimate < found.high < 0.8
    alone = over_seeds([one])
    # Only the first stratum varies, so the interval of the average is half as wide.
    assert found.high - found.low == pytest.approx((alone.high - alone.low) / 2, rel=0.05)
    assert math.isnan(over_seeds([one[:1]]).low) and over_seeds([one[:1]]).estimate == 0.2


@pytest.mark.parametrize("size", [5, 10])
def test_interval_over_seeds_covers_what_it_says(size):
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        found = over_seeds([rng.normal(0.5, 0.1, size)])
        hits += found.low <= 0.5 <= found.high
    assert 0.91 <= hits / 300 <= 0.985


def test_difference_by_whole_seeds_is_the_paired_t_test():
    one, other = np.array([0.5, 0.6, 0.8, 0.7]), np.array([0.4, 0.6, 0.5, 0.6])
    found = paired_difference(one[:, None], other[:, None])
    reference = stats.ttest_rel(one, other)
    interval = reference.confidence_interval(0.95)
    assert found.difference == pytest.approx((0.1 + 0 + 0.3 + 0.1) / 4)
    assert (found.low, found.high, found.p_value) == pytest.approx((interval.low, interval.high, reference.pvalue))
    assert found.problem_variance == 0


def test_difference_adds_the_spread_of_problems_to_that_of_seeds():
    # D_sp = a_s + b_p without any rest: a = 0, 0.2; b = -0.3, 0, 0.3.
    difference_SP = np.array([0.0, 0.2])[:, None] + np.array([-0.3, 0.0, 0.3])
    found = paired_difference(difference_SP, np.zeros((2, 3)))
    seeds, problems = 0.02 / 2, 0.09 / 3
    assert found.difference == pytest.approx(0.1)
    assert (found.seed_variance, found.problem_variance) == pytest.approx((seeds, problems))
    freedom = (seeds + problems) ** 2 / (seeds**2 / 1 + problems**2 / 2)
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.1 / math.sqrt(seeds + problems), freedom))


def test_difference_covers_what_it_says_over_seeds_and_problems():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(1000):
        truth = 0.03 + rng.normal(0, 0.02, 5)[:, None] + rng.normal(0, 0.3, 150) + rng.normal(0, 0.3, (5, 150))
        found = paired_difference(truth, np.zeros_like(truth))
        hits += found.low <= 0.03 <= found.high
    assert 0.93 <= hits / 1000 <= 0.98


def test_difference_without_spread_or_seeds_claims_little():
    same = paired_difference(np.ones((3, 4)), np.ones((3, 4)))
    assert (same.difference, same.p_value) == (0.0, 1.0)
    assert same.high == pytest.approx(1 - 0.05 ** (1 / 12)) and same.low == -same.high
    single = paired_difference(np.ones((1, 4)), np.zeros((1, 4)))
    assert (single.low, single.high) == (-1.0, 1.0) and math.isnan(single.p_value)
    assert judge(single, single.p_value) == "cannot tell"
    unscored = paired_difference(np.array([[np.nan, 1.0], [0.0, 1.0]]), np.zeros((2, 2)))
    assert unscored.difference == 1.0  # the problem that one seed has no score on is left out
    assert math.isnan(paired_difference(np.full((2, 2), np.nan), np.zeros((2, 2))).difference)


def test_holm_steps_down():
    # Sorted 0.01, 0.02, 0.04 times 3, 2, 1.
    assert holm([0.04, 0.01, float("nan"), 0.02])[:2] == pytest.approx([0.04, 0.03])
    assert holm([0.04, 0.01, float("nan"), 0.02])[3] == pytest.approx(0.04)
    assert math.isnan(holm([float("nan")])[0])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_probability_of_improvement_counts_pairs():
    found = probability_of_improvement(np.array([0.5, 0.7]), np.array([0.5, 0.6, 0.4]))
    # 0.5: above 0.4, ties 0.5; 0.7: above all three.
    assert found.estimate == pytest.approx((1 + 0.5 + 3) / 6)
    assert 0 < found.low < found.estimate < found.high < 1
    clear = probability_of_improvement(np.ones(5), np.zeros(5))
    assert clear.estimate == clear.high == 1 and 0.5 < clear.low < 0.9
    mirrored = probability_of_improvement(np.zeros(5), np.ones(5))
    assert mirrored.high == pytest.approx(1 - clear.low)
    alone = probability_of_improvement(np.ones(1), np.zeros(1))
    assert alone.low == pytest.approx(1 / (1 + stats.norm.ppf(0.975) ** 2))  # Wilson of one success


def test_verdict_follows_the_corrected_p_value():
    found = Difference(-0.1, -0.15, -0.05, 0.01, 1e-4, 1e-4, 5)
    assert judge(found, 0.03) == "worse"
    assert judge(found._replace(difference=0.1), 0.03) == "better"
    assert judge(found, 0.06) == "cannot tell"


def test_seeds_needed_solves_for_the_spread_of_seeds():
    # d^2 / (1.96 + 0.84)^2 = v_seed * 5 / S + v_problem
    found = Difference(0.02, -0.01, 0.05, 0.1, 1e-4, 2e-5, 5)
    reach = (stats.norm.isf(0.025) + stats.norm.ppf(0.8)) ** 2
    assert seeds_needed(found, 1) == math.ceil(1e-4 * 5 / (0.02**2 / reach - 2e-5))
    assert seeds_needed(found, 10) > seeds_needed(found, 1)
    assert seeds_needed(found._replace(problem_variance=1e-3), 1) is None
    assert seeds_needed(found._replace(difference=0.0), 1) is None
    assert seeds_needed(found._replace(difference=0.5), 1) == 6


def test_area_under_a_curve_is_its_mean_height():
    assert area_under_curve([0, 10, 20], [0.0, 0.5, 0.5], 20) == pytest.approx((0.25 * 10 + 0.5 * 10) / 20)
    assert area_under_curve([0, 10, 20], [0.0, 0.5, 0.5], 10) == pytest.approx(0.25)
    assert area_under_curve([5, 10], [0.2, 0.4], 20) == pytest.approx((0.2 * 5 + 0.3 * 5 + 0.4 * 10) / 20)

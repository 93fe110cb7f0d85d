"""Statistics of comparisons: worked values, degenerate cases, and coverage by simulation."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from aapo.experiments.statistics import (
    Difference,
    area_under_curve,
    holm,
    interquartile_mean,
    judge,
    mean_over_seeds,
    paired_difference,
    probability_of_improvement,
    seeds_needed,
)


def odds_interval(mean, error, quantile):
    reach = quantile * error / (mean * (1 - mean))
    return [1 / (1 + math.exp(-(math.log(mean / (1 - mean)) + sign * reach))) for sign in (-1, 1)]


def test_mean_over_seeds_has_students_interval_on_the_scale_of_log_odds():
    # Standard deviation 0.2, t(0.975, 2) = 4.3027.
    found = mean_over_seeds(np.array([0.5, 0.7, 0.9]))
    assert found == pytest.approx((0.7, *odds_interval(0.7, 0.2 / math.sqrt(3), 4.302653)), abs=1e-6)
    assert found.low < 0.5 and 0.9 < found.high < 1  # it leaves the range of the scores
    for scores in ([0.2], [0.2, 0.2, 0.2], [0.1 + 0.2, 0.3]):
        alone = mean_over_seeds(np.array(scores))
        assert alone.estimate == pytest.approx(scores[-1]) and math.isnan(alone.low) and math.isnan(alone.high)


def test_interquartile_mean_leaves_out_a_quarter_on_each_side():
    scores = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0])
    found = interquartile_mean(scores)
    mean = (0.2 + 0.3 + 0.4 + 0.5) / 4
    # Two on each side take the value of their neighbour inside; over half the scores, with 4 - 1 degrees of freedom.
    spread = np.array([0.2, 0.2, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5]).std(ddof=1)
    assert found == pytest.approx((mean, *odds_interval(mean, spread / (0.5 * math.sqrt(8)), 3.182446)), abs=1e-6)
    three = np.array([0.1, 0.5, 0.9])
    assert interquartile_mean(three) == mean_over_seeds(three)
    assert math.isnan(interquartile_mean(np.array([0.1, 0.5, 0.5, 0.9])).low)


# Scores of seeds: normal; near an end of the scale, where beta distributions are skewed by 1.1 (18, 2) and 1.5 (9, 1).
SCORES = {
    "normal": (lambda rng, size: rng.normal(0.77, 0.02, size), 0.77),
    "wide": (lambda rng, size: rng.normal(0.5, 0.1, size), 0.5),
    "near 1": (lambda rng, size: rng.beta(18, 2, size), 0.9),
    "near 0": (lambda rng, size: rng.beta(2, 18, size), 0.1),
    "nearer 1": (lambda rng, size: rng.beta(9, 1, size), 0.9),
}


@pytest.mark.parametrize("shape", SCORES)
@pytest.mark.parametrize("num_seeds", [3, 4, 5, 10])
def test_intervals_over_seeds_hold_as_often_as_they_say(num_seeds, shape):
    draw, truth = SCORES[shape]
    found = [mean_over_seeds(scores_S) for scores_S in draw(np.random.default_rng(1), (1500, num_seeds))]
    held = np.mean([low <= truth <= high for _, low, high in found])
    assert 0.93 <= held <= 0.97


@pytest.mark.parametrize("num_seeds", [4, 5, 10])
def test_intervals_of_interquartile_means_hold_nearly_as_often_as_they_say(num_seeds):
    rng = np.random.default_rng(1)
    found = [interquartile_mean(scores_S) for scores_S in rng.normal(0.77, 0.02, (1500, num_seeds))]
    assert 0.91 <= np.mean([low <= 0.77 <= high for _, low, high in found]) <= 0.97


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
    reach = math.hypot(12.706205 * math.sqrt(seeds), 4.302653 * math.sqrt(problems))  # t(0.975, 1), t(0.975, 2)
    assert (found.low, found.high) == pytest.approx((max(-1, 0.1 - reach), min(1, 0.1 + reach)))
    at = stats.t.isf(found.p_value / 2, [1, 2])
    assert math.hypot(at[0] * math.sqrt(seeds), at[1] * math.sqrt(problems)) == pytest.approx(0.1)


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("seed_spread", [0.0, 0.03, 0.1])
@pytest.mark.parametrize("skewed", [False, True])
def test_differences_hold_what_they_say_over_seeds_and_problems(num_seeds, seed_spread, skewed):
    rng, trials, num_problems = np.random.default_rng(2), 500, 60
    by_seed = rng.gamma(2, 1 / math.sqrt(2), (2, num_seeds, trials)) - math.sqrt(2)  # spread 1, skewed by 1.4
    if not skewed:
        by_seed = rng.normal(0, 1, (2, num_seeds, trials))
    # Two algorithms with seeds of their own; their difference by problem.
    shift_S = seed_spread * (by_seed[0] - by_seed[1]) / math.sqrt(2)
    hits = 0
    for trial in range(trials):
        problem_P = rng.normal(0, 0.1, num_problems)
        truth = 0.03 + shift_S[:, trial, None] + problem_P + rng.normal(0, 0.1, (num_seeds, num_problems))
        found = paired_difference(truth, np.zeros_like(truth))
        hits += found.low <= 0.03 <= found.high
        assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)
    assert hits / trials >= 0.93


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(2, 1), (3, 1), (5, 1), (3, 40)])
def test_without_spread_interval_and_p_value_agree(shape, gap):
    found = paired_difference(np.full(shape, gap) + 0.1, np.full(shape, 0.1))
    unseen = 1 - 0.05 ** (1 / max(shape[1], shape[0] if shape[1] == 1 else 0))
    assert found.low == pytest.approx(max(-1, gap - unseen)) and found.high == pytest.approx(min(1, gap + unseen))
    assert (found.low > 0) == (found.p_value < 0.05)


def test_difference_without_spread_or_seeds_claims_little():
    same = paired_difference(np.ones((3, 4)), np.ones((3, 4)))
    assert (same.difference, same.p_value) == (0.0, 1.0)
    # Seeds on the same problem are no further problems.
    assert same.high == pytest.approx(1 - 0.05 ** (1 / 4)) and same.low == -same.high
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


def test_holm_is_the_closure_of_bonferronis_test():
    # A hypothesis is rejected where Bonferroni's test rejects every intersection of hypotheses that holds it; Holm's
    # is the shortcut.
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 4, 6):
        for p_values in (rng.random(size) ** 4, np.round(rng.random(size) / 4, 2), np.zeros(size)):
            subsets = [set(chosen) for m in range(1, size + 1) for chosen in combinations(range(size), m)]
            closed = [
                max(min(1.0, len(one) * min(p_values[list(one)])) for one in subsets if place in one)
                for place in range(size)
            ]
            assert holm(p_values.tolist()) == pytest.approx(closed, abs=1e-15)


def test_probability_of_improvement_counts_pairs():
    found = probability_of_improvement(np.array([0.5, 0.7]), np.array([0.5, 0.6, 0.4]))
    # 0.5: above 0.4, ties 0.5; 0.7: above all three.
    assert found.estimate == pytest.approx((1 + 0.5 + 3) / 6)
    assert 0 < found.low < found.estimate < found.high < 1
    clear = probability_of_improvement(np.ones(5), np.zeros(5))
    assert clear.estimate == clear.high == 1 and 0.5 < clear.low < 0.9
    mirrored = probability_of_improvement(np.zeros(5), np.ones(5))
    assert mirrored.high == pytest.approx(1 - clear.low)


@pytest.mark.parametrize(("one", "successes"), [(1.0, 1), (0.0, 0)])
def test_improvement_of_single_runs_has_wilsons_interval(one, successes):
    found = probability_of_improvement(np.array([one]), np.array([0.5]))
    wilson = stats.binomtest(successes, 1).proportion_ci(method="wilson")
    assert found == pytest.approx((successes, wilson.low, wilson.high), abs=1e-8)


def test_probability_of_improvement_is_the_share_of_mann_whitney():
    rng = np.random.default_rng(3)
    one, other = rng.integers(0, 8, 7) / 8, rng.integers(0, 8, 5) / 8  # with ties
    found = probability_of_improvement(one, other)
    assert found.estimate == pytest.approx(stats.mannwhitneyu(one, other).statistic / 35)


def test_verdict_follows_the_corrected_p_value():
    found = Difference(-0.1, -0.15, -0.05, 0.01, 1e-4, 1e-4, 5, 200)
    assert judge(found, 0.03) == "worse"
    assert judge(found._replace(difference=0.1), 0.03) == "better"
    assert judge(found, 0.06) == "cannot tell"


def test_seeds_needed_are_those_whose_interval_would_show_it():
    found = Difference(0.03, -0.01, 0.07, 0.1, 1e-4, 2e-5, 5, 200)

    def room(seeds, level):
        """What is left of the difference beyond the half width and the spread that a power of 0.8 asks for."""
        by_seed = 1e-4 * 5 / seeds
        at_seeds, at_problems = stats.t.isf(level / 2, seeds - 1), stats.t.isf(level / 2, 199)
        reach = math.sqrt(at_seeds**2 * by_seed + at_problems**2 * 2e-5)
        return 0.03 - reach - 0.841621 * math.sqrt(by_seed + 2e-5)

    needed = seeds_needed(found, 1)
    assert needed is not None and room(needed, 0.05) >= 0 > room(needed - 1, 0.05)
    corrected = seeds_needed(found, 10)
    assert corrected is not None and room(corrected, 0.005) >= 0 > room(corrected - 1, 0.005)
    assert seeds_needed(found._replace(problem_variance=1e-3), 1) is None
    assert seeds_needed(found._replace(difference=0.0), 1) is None
    assert seeds_needed(found._replace(difference=-0.5), 1) == 6
    # Whole seeds, whose problems are not known.
    assert seeds_needed(found._replace(problem_variance=0.0, num_problems=1, num_seeds=2), 1) is not None


def test_area_under_a_curve_is_its_mean_height():
    assert area_under_curve([0, 10, 20], [0.0, 0.5, 0.5], 20) == pytest.approx((0.25 * 10 + 0.5 * 10) / 20)
    assert area_under_curve([0, 10, 20], [0.0, 0.5, 0.5], 10) == pytest.approx(0.25)
    assert area_under_curve([5, 10], [0.2, 0.4], 20) == pytest.approx((0.2 * 5 + 0.3 * 5 + 0.4 * 10) / 20)

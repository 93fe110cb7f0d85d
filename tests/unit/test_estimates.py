import math
from functools import cache
from itertools import combinations

import numpy as np
import pytest

from aapo.evaluation.estimates import (
    average_P,
    difference,
    majority_P,
    pass_at_k_P,
    score,
    score_over_tasks,
    single_sample_error,
)
from aapo.evaluation.published import published_rows, published_table

NAN = math.nan


def test_single_samples_give_the_exact_interval():
    found = score(np.array([1.0] * 8 + [0.0] * 2))
    assert found.estimate == pytest.approx(0.8)

    def at_least_8(p):
        return sum(math.comb(10, k) * p**k * (1 - p) ** (10 - k) for k in range(8, 11))

    # At the lower end 8 or more are right with probability 1/40, at the upper one 8 or fewer.
    assert at_least_8(found.low) == pytest.approx(0.025, abs=1e-6)
    assert at_least_8(found.high) - 10 * found.high**9 * (1 - found.high) - found.high**10 == pytest.approx(
        math.comb(10, 8) * found.high**8 * (1 - found.high) ** 2
    )
    assert 1 - 10 * found.high**9 * (1 - found.high) - found.high**10 == pytest.approx(0.025, abs=1e-6)


def test_a_score_has_students_interval_on_the_scale_of_log_odds():
    # Mean 0.7, standard error sqrt(((0.2)^2 + 0 + (0.2)^2) / 2 / 3) = 0.2 / sqrt(3); t(0.975, 2) = 4.3027.
    found = score(np.array([0.5, 0.7, 0.9]))
    reach = 4.302653 * 0.2 / math.sqrt(3) / (0.7 * 0.3)
    ends = [1 / (1 + math.exp(-(math.log(0.7 / 0.3) + sign * reach))) for sign in (-1, 1)]
    assert found == pytest.approx((0.7, *ends), abs=1e-6)
    # It leaves the range of the values, and not the scale.
    assert 0 < found.low < 0.5 and 0.9 < found.high < 1


def test_average_leaves_unscored_samples_out():
    assert average_P(np.array([[1.0, NAN], [0.0, 0.0], [1.0, 0.0]])).tolist() == [1.0, 0.0, 0.5]
    assert math.isnan(average_P(np.array([[NAN, NAN]]))[0])
    assert score(np.array([1.0, NAN, 0.0, 0.5])).estimate == 0.5
    assert all(map(math.isnan, score(np.array([NAN]))))


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample():
    correct_K = np.array([1.0, 0, 0, 1, 0, 0])
    for k in range(1, 7):
        subsets = list(combinations(correct_K, k))
        share = sum(max(subset) for subset in subsets) / len(subsets)
        assert pass_at_k_P(correct_K[None], k)[0] == pytest.approx(share)
    assert math.isnan(pass_at_k_P(np.array([[1.0, NAN]]), 2)[0])
    assert pass_at_k_P(np.array([[1.0, NAN]]), 1)[0] == 1.0


def test_pass_at_k_of_many_samples_does_not_overflow():
    # 1 - C(255, 128) / C(256, 128) = 1 - 128/256
    assert pass_at_k_P(np.array([[1.0] + [0.0] * 255]), 128)[0] == pytest.approx(0.5)


def test_majority_votes():
    classes = np.array([[0, 0, 1, 1, 1], [0, 0, 1, 1, -1], [-1, -1, -1, -1, 0], [-1] * 5])
    correct = np.array([[1.0, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0] * 5])
    # Outvoted; a tie of right and wrong; the only vote is right; nobody votes.
    assert majority_P(classes, correct, 5).tolist() == [0.0, 0.5, 1.0, 0.0]
    assert math.isnan(majority_P(classes[:1], np.array([[1.0, 1, 0, 0, NAN]]), 5)[0])


def test_majority_of_some_samples_is_the_mean_over_subsets():
    classes, correct = np.array([0, 0, 1, 1, 2]), np.array([1.0, 1, 0, 0, 0])

    def vote(chosen):
        counts = {c: sum(classes[i] == c for i in chosen) for c in {classes[i] for i in chosen}}
        best = [c for c, count in counts.items() if count == max(counts.values())]
        return (0 in best) / len(best)

    exact = np.mean([vote(chosen) for chosen in combinations(range(5), 3)])
    assert majority_P(classes[None], correct[None], 3)[0] == pytest.approx(exact, abs=0.06)
    assert majority_P(classes[None], correct[None], 1)[0] == pytest.approx(0.4, abs=0.06)


def test_samples_of_a_problem_are_not_independent():
    # 50 problems always right, 50 always wrong: however many samples, they tell no more than one each.
    values = average_P(np.repeat(np.repeat([[1.0], [0.0]], 50, axis=0), 16, axis=1))
    many = score(values)
    assert many.high - many.low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 100), rel=0.1)


def test_equal_values_still_have_an_interval():
    # A share of 0.025^(1/20) has all of 20 right with probability 1/40.
    unseen = 1 - 0.025 ** (1 / 20)
    assert score(np.ones(20)) == pytest.approx((1.0, 1 - unseen, 1.0))
    assert score(np.zeros(20)) == pytest.approx((0.0, 0.0, unseen))
    half = score(np.full(20, 0.5))
    assert half.estimate == 0.5 and half.low == pytest.approx(1 - half.high) and half.high - half.low > 0.4
    assert score(np.array([0.75]))[0] == 0.75 and score(np.array([0.75])).low < 0.1
    none = difference([np.ones(20)], [np.ones(20)])
    assert none == pytest.approx((0.0, -unseen, unseen))


def test_half_widths_of_tasks_add_as_squares():
    unseen = 1 - 0.025 ** (1 / 20)
    both = score_over_tasks([np.ones(20), np.zeros(20)])
    # The first reaches down, the second up.
    assert both == pytest.approx((0.5, 0.5 - unseen / 2, 0.5 + unseen / 2))
    gaps = np.array([0.5, 0.0, 0.25, -0.25])
    alone = difference([gaps], [np.zeros(4)])
    assert alone.estimate == pytest.approx(0.125)
    assert alone.high - 0.125 == pytest.approx(3.182446 * gaps.std(ddof=1) / 2)  # t(0.975, 3)
    two = difference([gaps, gaps], [np.zeros(4), np.zeros(4)])
    assert two.high - 0.125 == pytest.approx((alone.high - 0.125) / math.sqrt(2))


def test_tasks_weigh_alike_whatever_their_size():
    rng = np.random.default_rng(0)
    small, large = (rng.random(30) < 0.2).astype(float), (rng.random(500) < 0.8).astype(float)
    average = score_over_tasks([small, large])
    assert average.estimate == pytest.approx((small.mean() + large.mean()) / 2)
    error = math.sqrt(small.var(ddof=1) / 30 + large.var(ddof=1) / 500) / 2
    assert average.high - average.low == pytest.approx(2 * 2.0 * error, rel=0.08)


def test_pairing_by_problem_sharpens_a_difference():
    rng = np.random.default_rng(1)
    rates = rng.beta(0.5, 0.5, 200)
    one, other = (rng.binomial(16, np.clip(rates + shift, 0, 1)) / 16 for shift in (0.05, 0.0))
    paired = difference([one], [other])
    assert paired.estimate == pytest.approx(one.mean() - other.mean())
    unpaired = math.sqrt(one.var() / 200 + other.var() / 200) * 2 * 1.96
    assert paired.high - paired.low < unpaired / 3 and paired.low > 0


# Difficulties of problems: beta distributions.
SHAPES = {
    "even": (1.0, 1.0),
    "hard": (0.5, 4.0),
    "easy": (4.0, 0.5),
    "split": (0.3, 0.9),
    "alike": (500.0, 500.0),
    "hard, alike": (50.0, 950.0),
}


@cache
def score_of(values):
    return score(np.array(values))


def coverage(intervals, truth):
    return np.mean([low <= truth <= high for _, low, high in intervals])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_samples", [1, 2, 8, 64])
@pytest.mark.parametrize(("num_problems", "trials"), [(10, 1000), (30, 1000), (500, 500)])
def test_intervals_of_scores_hold_as_often_as_they_say(num_problems, trials, num_samples, shape):
    """Problems of random difficulty, samples of each: the interval holds the mean of the population of problems."""
    a, b = SHAPES[shape]
    rng = np.random.default_rng(0)
    values = rng.binomial(num_samples, rng.beta(a, b, (trials, num_problems))) / num_samples
    held = coverage((score_of(tuple(row)) for row in np.sort(values).tolist()), a / (a + b))
    noise = 2.5 * math.sqrt(0.05 * 0.95 / trials)
    # Counts of few problems are coarse, and exact intervals the wider.
    assert 0.93 - noise <= held <= (0.97 + noise if num_problems == 500 and num_samples > 1 else 1.0)


@pytest.mark.parametrize(("num_problems", "least"), [(10, 0.90), (30, 0.93)])
@pytest.mark.parametrize("num_samples", [1, 4, 8])
@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("shape", ["even", "hard", "easy"])
def test_intervals_of_differences_hold_as_often_as_they_say(shape, shift, num_samples, num_problems, least):
    """One model is ahead of the other by a shift of the log odds on every problem."""
    rng, trials = np.random.default_rng(0), 1000

    def ahead(rates):
        return 1 / (1 + (1 / rates - 1) * math.exp(-shift))

    rates = np.clip(rng.beta(*SHAPES[shape], (trials, num_problems)), 1e-9, 1 - 1e-9)
    one, other = (rng.binomial(num_samples, p) / num_samples for p in (ahead(rates), rates))
    many = np.clip(rng.beta(*SHAPES[shape], 1_000_000), 1e-9, 1 - 1e-9)
    found = (difference([mine], [theirs]) for mine, theirs in zip(one, other, strict=True))
    noise = 2.5 * math.sqrt(0.05 * 0.95 / trials)
    assert coverage(found, float((ahead(many) - many).mean())) >= least - noise


def test_the_interval_of_an_average_holds_as_often_as_it_says():
    rng, trials = np.random.default_rng(0), 400
    tasks = [(10, 1, "hard"), (30, 4, "split"), (200, 1, "even")]
    truth = np.mean([SHAPES[shape][0] / sum(SHAPES[shape]) for *_, shape in tasks])
    found = [
        score_over_tasks([rng.binomial(k, rng.beta(*SHAPES[shape], size)) / k for size, k, shape in tasks])
        for _ in range(trials)
    ]
    assert 0.94 <= coverage(found, truth) <= 0.985


def test_the_papers_table():
    rows = published_table()
    assert len(rows) == 20
    # Printed averages that the rows do not give.
    slips = {row.model: (row.printed, round(row.average, 3)) for row in rows if row.slip}
    assert slips == {"Qwen2.5-Math-7B": (0.396, 0.296), "Oat-Zero-7B": (0.503, 0.509), "+GPG": (0.162, 0.164)}
    grpo = next(row for row in published_rows("Qwen 1.5B") if row.model == "AAPO-1.5B")
    assert grpo.errors["aime24"] == pytest.approx(math.sqrt(0.333 * 0.667 / 30)) == single_sample_error(0.333, 30)
    assert grpo.average_error == pytest.approx(0.023, abs=0.003)
    with pytest.raises(ValueError, match=r"no part 'Qwen 15B' \(did you mean Qwen 1.5B\?\)"):
        published_rows("Qwen 15B")

import math
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


def wilson(right, count):
    z, share = 1.959964, right / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return centre - half, centre + half


def test_single_samples_give_wilsons_interval():
    estimate = score(np.array([1.0] * 8 + [0.0] * 2), single=True)
    assert estimate.estimate == pytest.approx(0.8)
    assert estimate[1:] == pytest.approx(wilson(8, 10), abs=1e-5)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)


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
    assert score(np.ones(20))[1:] == pytest.approx((wilson(20, 20)[0], 1.0), abs=1e-5)
    both = score_over_tasks([np.ones(20), np.zeros(20)])
    # Two independent half widths of 1 - 0.839 each, on an average of two.
    assert both.estimate == 0.5 and both.high == pytest.approx(0.5 + (1 - wilson(20, 20)[0]) / 2, abs=1e-5)
    none = difference([np.ones(20)], [np.ones(20)])
    assert none.estimate == 0 and none.high == pytest.approx(wilson(0, 20)[1], abs=1e-5) == -none.low


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


SHAPES = {"even": (1.0, 1.0), "hard": (0.5, 4.0), "split": (0.3, 0.9), "alike": (500.0, 500.0)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_samples", [1, 8, 64])
@pytest.mark.parametrize("num_problems", [30, 500])
def test_intervals_cover_as_often_as_they_say(num_problems, num_samples, shape, monkeypatch):
    """Problems of random difficulty, samples of each: the interval holds the mean of the population of problems."""
    monkeypatch.setattr("aapo.evaluation.estimates.NUM_RESAMPLES", 1000)
    a, b = SHAPES[shape]
    rng = np.random.default_rng(0)
    trials = 400 if num_problems == 500 else 1000
    covered = []
    for trial in range(trials):
        rates = rng.beta(a, b, num_problems)
        values = rng.binomial(num_samples, rates) / num_samples
        low, high = score(values, single=num_samples == 1, seed=trial)[1:]
        covered.append(low <= a / (a + b) <= high)
    noise = 2.5 * math.sqrt(0.05 * 0.95 / trials)
    wider = 0.03 if (num_problems, num_samples) == (30, 1) else 0.0
    assert 0.93 - noise <= np.mean(covered) <= 0.97 + noise + wider


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

"""The advantage functions of the named algorithms on rewards that baseline and scale cannot tell apart.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt.
"""

import math

import pytest
import torch

from aapo.objective import ALGORITHMS, Groups, augmented_advantages, objective

NAN = math.nan
ESTIMATORS = [name for name, point in ALGORITHMS.items() if point.objective.advantage is not None]


def f64(rows):
    return torch.tensor(rows, dtype=torch.float64)


def advantages(name, rewards, reference=None, **known):
    reference_PK = None if reference is None else f64(reference)
    return augmented_advantages(objective(name), f64(rewards), reference_PK, **known).advantage_PG


def test_ngrpo_pushes_away_from_an_all_wrong_group_and_leaves_an_all_right_one():
    # 0, 0, 0 and 1: mean 1/4, squared deviations 3/4, over 4 - 1: std 1/2.
    found = advantages("ngrpo", [[0, 0, 0], [1, 1, 1]])
    torch.testing.assert_close(found, f64([[-0.25 / 0.5001] * 3, [0] * 3]), rtol=0, atol=1e-12)


def test_the_virtual_best_is_the_batchs_where_that_is_above_one():
    # 0.2, 0.2 and 1.2: mean 8/15, deviations -1/3, -1/3, 2/3; squares 2/3, over 3 - 1: std sqrt(1/3).
    found = advantages("ngrpo", [[0.2, 0.2], [1.2, 1.2]])
    expected = -1 / 3 / (math.sqrt(1 / 3) + 1e-4)
    torch.testing.assert_close(found, f64([[expected] * 2, [0] * 2]), rtol=0, atol=1e-7)


def test_maxrl_weighs_a_prompt_by_one_over_its_pass_rate():
    found = advantages("maxrl", [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(found[0, 0], f64(0.75 / 0.2501), rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1], f64([0.5 / 0.5001] * 2 + [-0.5 / 0.5001] * 2), rtol=0, atol=1e-12)
    assert found[2].tolist() == [0] * 4


def test_maxrl_has_nothing_to_say_where_the_mean_is_not_positive():
    assert advantages("maxrl", [[-1, -2], [1, -1]]).tolist() == [[0, 0], [0, 0]]


def test_a2po_reads_the_reference_and_not_the_group():
    # V is half the log of (1 + e^2) / 2, of the two samples that are scored.
    value = math.log((1 + math.exp(2)) / 2) / 2
    found = advantages("a2po", [[1, 0], [1, 1]], [[0, 1, NAN], [0, NAN, 1]])
    torch.testing.assert_close(found, f64([[1 - value, -value], [1 - value] * 2]), rtol=0, atol=1e-12)
    # A reference that always gets r has value r, and one that is not scored none.
    found = advantages("a2po", [[1, 0], [1, 0]], [[1, 1], [NAN, NAN]])
    torch.testing.assert_close(found, f64([[0, -1], [0, 0]]), rtol=0, atol=1e-12)


def test_opo_weighs_the_mean_by_length():
    # (10 * 1 + 30 * 0 + 60 * 0) / 100 = 0.1, whatever the unscored rollout's length is.
    found = advantages("opo", [[1, 0, 0, NAN]], lengths_PG=torch.tensor([[10, 30, 60, 1000]]))
    torch.testing.assert_close(found, f64([[0.9, -0.1, -0.1, 0]]), rtol=0, atol=1e-12)
    assert advantages("opo", [[0.1, 0.1, 0.1]], lengths_PG=torch.tensor([[1, 2, 3]])).tolist() == [[0, 0, 0]]


# Right answers in an odd form, and a form without an answer: two functions, of weights 2 and 1.
VALUES_PGF = [[[1, 0], [0, 1], [0, 0], [0, 0]], [[1, 1], [1, 1], [1, 1], [1, 1]]]
WEIGHTS_F = [2, 1]


def totals(values, weights=WEIGHTS_F):
    return (f64(values) * f64(weights)).nansum(2).tolist()


def test_gdpo_compares_by_each_function_alone():
    found = advantages("gdpo", totals(VALUES_PGF), values_PGF=f64(VALUES_PGF), weights_F=f64(WEIGHTS_F))
    # By each, 1, 0, 0, 0 has mean 1/4 and deviation 1/2: sums 2 r + w, 2 w + r, 3 w, 3 w. The second group's are 0.
    right, wrong = 0.75 / 0.5001, -0.25 / 0.5001
    sums = [2 * right + wrong, 2 * wrong + right, 3 * wrong, 3 * wrong]
    spread = math.sqrt(sum(value**2 for value in sums) / 7) + 1e-4  # of all eight, whose mean is 0
    expected = f64([[value / spread for value in sums], [0] * 4])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert found[1].tolist() == [0] * 4


def test_gdpo_tells_rollouts_of_one_total_apart():
    values = [[[1, 0], [0, 2], [0, 2]]]
    found = advantages("gdpo", totals(values), values_PGF=f64(values), weights_F=f64(WEIGHTS_F))
    assert totals(values) == [[2, 2, 2]]
    # 1, 0, 0 deviates by 2/3, -1/3, -1/3 with a deviation of sqrt(1/3); 0, 2, 2 by twice as much, the other way round.
    unit = math.sqrt(1 / 3)
    first = 2 * (2 / 3) / (unit + 1e-4) - (4 / 3) / (2 * unit + 1e-4)
    spread = math.sqrt((first**2 + 2 * (first / 2) ** 2) / 2) + 1e-4
    expected = f64([[first / spread, -first / 2 / spread, -first / 2 / spread]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_gdpo_without_the_functions_is_one_function():
    # 1, 0 has deviation sqrt(1/2); the four advantages then have squares 2 a^2 + 0, over 4 - 1.
    a = 0.5 / (math.sqrt(0.5) + 1e-4)
    spread = math.sqrt(2 * a * a / 3) + 1e-4
    found = advantages("gdpo", [[1, 0], [1, 1]])
    torch.testing.assert_close(found, f64([[a / spread, -a / spread], [0, 0]]), rtol=0, atol=1e-12)


def test_gdpo_takes_the_overlong_penalty_as_one_function_more():
    values, lengths_PG = [[[1], [1], [0]]], torch.tensor([[20, 10, 10]])
    point = objective("gdpo", overlong_buffer=0.2)
    found = augmented_advantages(
        point, f64([[1, 1, 0]]), values_PGF=f64(values), weights_F=f64([1]), lengths_PG=lengths_PG,
        max_completion_length=20,
    ).advantage_PG  # fmt: skip
    both = advantages("gdpo", [[0, 1, 0]], values_PGF=f64([[[1, -1], [1, 0], [0, 0]]]), weights_F=f64([1, 1]))
    torch.testing.assert_close(found, both, rtol=0, atol=1e-12)


def test_a_function_that_cannot_score_a_rollout_takes_no_part_in_its_sum():
    values = [[[1, NAN], [0, 1], [0, 0], [NAN, NAN]]]
    found = advantages("gdpo", [[1, 1, 0, NAN]], values_PGF=f64(values), weights_F=f64([1, 1]))
    first, second = math.sqrt(1 / 3) + 1e-4, math.sqrt(1 / 2) + 1e-4  # of 1, 0, 0, and of 1, 0
    sums = [2 / 3 / first, -1 / 3 / first + 1 / 2 / second, -1 / 3 / first - 1 / 2 / second]
    spread = math.sqrt(sum(value**2 for value in sums) / 2) + 1e-4
    torch.testing.assert_close(found, f64([[*[value / spread for value in sums], 0]]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_unscored_rollout_changes_no_other(name):
    reference = [[0, 1, 1], [1, 0, 0]]
    lengths_PG = torch.tensor([[3, 1, 4, 9], [2, 2, 2, 9]])
    whole = advantages(name, [[1, 0, 0.5], [0, 0, 0]], reference, lengths_PG=lengths_PG[:, :3])
    more = advantages(name, [[1, 0, 0.5, NAN], [0, 0, 0, NAN]], reference, lengths_PG=lengths_PG)
    torch.testing.assert_close(more[:, :3], whole, rtol=0, atol=1e-12)
    assert more[:, 3].tolist() == [0, 0]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_groups_without_a_score_are_finite_zeros(name):
    found = advantages(name, [[NAN, NAN], [1, 0]], [[NAN, NAN], [0, 1]], lengths_PG=torch.tensor([[1, 2], [3, 4]]))
    assert found[0].tolist() == [0, 0] and found.isfinite().all() and found[1].abs().max() > 0


def test_every_estimator_takes_groups_alone():
    groups = Groups(f64([[1.0, 0.0]]), f64([[0.0, 1.0]]))
    for name in ESTIMATORS:
        function = ALGORITHMS[name].objective.advantage
        assert function is not None and function(groups).shape == (1, 2)

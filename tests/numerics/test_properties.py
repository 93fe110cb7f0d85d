"""Identities of the objective that hold for any input, in float64.

Rewards are multiples of 1/8, which floating point adds exactly; the default clip bounds are none, so that no difference
lies on a bound.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt, B sequences, T completion tokens,
V vocabulary.
"""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aapo.objective import (
    Objective,
    augmented_advantages,
    completion_weights,
    expected_margin,
    objective,
    paired_margin,
    policy_loss,
)

numerics = settings(deadline=None, max_examples=60, derandomize=True)

LOW, HIGH = -0.2, 0.28
BASELINES, SCALES = ["group_mean", "leave_one_out"], ["group", "batch", "none"]
# What is not centred on its group is not divided by the group's deviation.
COMBINATIONS = [*itertools.product(BASELINES, SCALES), *itertools.product(["none", "batch_mean"], ["batch", "none"])]
AGGREGATIONS, LOSSES = ["token_mean", "sequence_mean", "constant"], ["cross_entropy", "clipped_surrogate"]

eighths = st.integers(-16, 16).map(lambda n: n / 8)
eighths_or_nan = st.one_of(eighths, st.just(math.nan))
sizes = st.integers(1, 5)


def f64(rows):
    return torch.tensor(rows, dtype=torch.float64)


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


def matrix(elements, num_rows, num_columns):
    row = st.lists(elements, min_size=num_columns, max_size=num_columns)
    return st.lists(row, min_size=num_rows, max_size=num_rows).map(f64)


@st.composite
def rewards_and_reference(draw, elements=eighths):
    num_prompts = draw(st.integers(1, 3))
    return draw(matrix(elements, num_prompts, draw(sizes))), draw(matrix(elements, num_prompts, draw(sizes)))


combinations = st.sampled_from(COMBINATIONS)
advantage_objectives = st.builds(
    lambda combination, **fields: Objective(baseline=combination[0], scale=combination[1], **fields),
    combinations,
    margin=st.sampled_from(["expected", "none"]),
    rescale_dead_groups=st.booleans(),
)


@numerics
@given(rewards_and_reference(eighths_or_nan), advantage_objectives, st.data())
def test_outputs_follow_the_order_of_rollouts_and_ignore_that_of_reference_samples(case, point, data):
    rewards_PG, reference_PK = case
    order_G = data.draw(st.permutations(range(rewards_PG.shape[1])))
    order_K = data.draw(st.permutations(range(reference_PK.shape[1])))
    before = augmented_advantages(point, rewards_PG, reference_PK)
    after = augmented_advantages(point, rewards_PG[:, order_G], reference_PK[:, order_K])
    # Without a baseline a batch of equal rewards is divided by 1e-4, hence the relative tolerance.
    torch.testing.assert_close(after.augmented_PG, before.augmented_PG[:, order_G], rtol=1e-9, atol=1e-9)
    assert_same(after.margin_PG, before.margin_PG[:, order_G])
    assert_same(after.clipped_PG, before.clipped_PG[:, order_G])
    assert after.dead_P.tolist() == before.dead_P.tolist()
    assert after.alpha == before.alpha


@numerics
@given(
    rewards_and_reference(eighths_or_nan),
    eighths,
    st.sampled_from([combination for combination in COMBINATIONS if combination[0] != "none"]),
    st.sampled_from(["expected", "paired", "none"]),
)
def test_a_shift_of_all_rewards_changes_nothing(case, shift, combination, margin):
    rewards_PG, reference_PK = case
    point = Objective(baseline=combination[0], scale=combination[1], margin=margin)
    before = augmented_advantages(point, rewards_PG, reference_PK)
    after = augmented_advantages(point, rewards_PG + shift, reference_PK + shift)
    assert_same(after.augmented_PG, before.augmented_PG)
    assert_same(after.margin_PG, before.margin_PG)
    assert after.dead_P.tolist() == before.dead_P.tolist()


@numerics
@given(rewards_and_reference(), eighths)
def test_without_baseline_and_scale_a_shift_of_the_rewards_shifts_the_advantage(case, shift):
    point = Objective(baseline="none", scale="none")
    before = augmented_advantages(point, case[0])
    assert_same(augmented_advantages(point, case[0] + shift).augmented_PG, before.augmented_PG + shift)


@numerics
@given(rewards_and_reference(eighths_or_nan), st.sampled_from(BASELINES), st.sampled_from(SCALES))
def test_the_advantages_of_a_group_sum_to_zero(case, baseline, scale):
    result = augmented_advantages(Objective(baseline=baseline, scale=scale), case[0])
    assert_same(result.advantage_PG.sum(1), torch.zeros(len(case[0]), dtype=torch.float64))


@numerics
@given(
    rewards_and_reference(eighths_or_nan),
    st.floats(-3, 0, exclude_max=True),
    st.floats(0, 3, exclude_min=True),
    st.integers(0, 9),
)
def test_margins_stay_within_the_clip_bounds(case, low, high, shift):
    for margin_PG, clipped_PG in (expected_margin(*case, low, high), paired_margin(*case, low, high, shift)):
        assert margin_PG.isfinite().all()
        assert (margin_PG >= low - 1e-12).all()
        assert (margin_PG <= high + 1e-12).all()
        assert ((clipped_PG >= 0) & (clipped_PG <= 1)).all()


@numerics
@given(rewards_and_reference())
def test_a_higher_reward_never_has_a_lower_margin(case):
    rewards_PG = case[0].sort(1).values
    margin_PG, _ = expected_margin(rewards_PG, case[1], LOW, HIGH)
    assert (margin_PG.diff(dim=1) >= -1e-12).all()


@numerics
@given(rewards_and_reference(eighths_or_nan), combinations)
def test_without_a_margin_the_reference_is_not_read(case, combination):
    point = Objective(baseline=combination[0], scale=combination[1])
    with_reference, without = augmented_advantages(point, *case), augmented_advantages(point, case[0])
    assert with_reference.augmented_PG.tolist() == without.augmented_PG.tolist()


@numerics
@given(rewards_and_reference(eighths_or_nan))
def test_aapo_without_a_margin_has_the_advantages_of_grpo(case):
    grpo_PG = augmented_advantages(objective("grpo"), case[0]).augmented_PG
    assert augmented_advantages(objective("aapo", margin="none"), *case).augmented_PG.tolist() == grpo_PG.tolist()
    # Each rollout paired with a reference sample of its own reward: every difference is zero.
    paired = augmented_advantages(objective("aapo", margin="paired"), case[0], case[0])
    assert paired.augmented_PG.tolist() == grpo_PG.tolist()


@numerics
@given(matrix(eighths, 3, 1), sizes, sizes)
def test_a_group_with_the_one_reward_of_its_reference_has_no_signal(reward_P1, num_rollouts, num_samples):
    result = augmented_advantages(
        objective("aapo"), reward_P1.repeat(1, num_rollouts), reward_P1.repeat(1, num_samples)
    )
    assert result.augmented_PG.tolist() == [[0.0] * num_rollouts] * 3


@numerics
@given(
    rewards_and_reference(eighths_or_nan),
    st.integers(0, 3),
    st.sampled_from([combination for combination in COMBINATIONS if "batch" not in " ".join(combination)]),
    st.sampled_from(["expected", "paired", "none"]),
)
def test_with_alpha_groups_without_a_gradient_do_not_dilute_the_others(case, num_silent, combination, margin):
    baseline, scale = combination
    point = Objective(baseline=baseline, scale=scale, margin=margin, rescale_dead_groups=True)
    before_PG = augmented_advantages(point, *case).augmented_PG
    # All wrong, as is the reference: no advantage, no margin.
    silent = [torch.cat([rows, rows.new_zeros(num_silent, rows.shape[1])]) for rows in case]
    after_PG = augmented_advantages(point, *silent).augmented_PG
    assert_same(after_PG[: len(before_PG)] / len(after_PG), before_PG / len(before_PG))
    assert_same(after_PG[len(before_PG) :], torch.zeros_like(after_PG[len(before_PG) :]))


@numerics
@given(rewards_and_reference())
def test_the_expected_margin_is_the_mean_of_the_paired_over_all_shifts(case):
    num_samples = case[1].shape[1]
    paired = [paired_margin(*case, LOW, HIGH, shift) for shift in range(num_samples)]
    margin_PG, clipped_PG = expected_margin(*case, LOW, HIGH)
    assert_same(margin_PG, torch.stack([margin for margin, _ in paired]).mean(0))
    assert_same(clipped_PG, torch.stack([clipped for _, clipped in paired]).mean(0))


@numerics
@given(st.lists(eighths, min_size=1, max_size=3), st.lists(eighths, min_size=1, max_size=4))
def test_the_expected_margin_is_the_mean_of_the_paired_over_all_pairings(rewards, reference):
    rewards_PG, reference_PK = f64([rewards]), f64([reference])
    # With K = G and shift 0 rollout i meets reference sample i, here the one that the pairing assigns to it.
    pairings = itertools.product(range(len(reference)), repeat=len(rewards))
    paired = [paired_margin(rewards_PG, reference_PK[:, list(pairing)], LOW, HIGH)[0] for pairing in pairings]
    assert_same(expected_margin(rewards_PG, reference_PK, LOW, HIGH)[0], torch.stack(paired).mean(0))


GARBAGE = [0.0, -3.5, 800.0, -800.0, math.inf, -math.inf, math.nan]


@st.composite
def batches(draw):
    """An objective and the keyword arguments of `policy_loss` for a whole step of full rectangles and ragged masks."""
    num_sequences, num_tokens = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(0, num_tokens), min_size=num_sequences, max_size=num_sequences))
    logprobs = matrix(st.floats(-3, 0), num_sequences, num_tokens)
    point = draw(
        st.builds(
            Objective,
            loss=st.sampled_from(LOSSES),
            ratio_level=st.sampled_from(["token", "sequence"]),
            aggregation=st.sampled_from(AGGREGATIONS),
            clip_high=st.just(0.3),
        )
    )
    inputs = {
        "logprobs_BT": draw(logprobs),
        "advantages": f64(draw(st.lists(st.floats(-2, 2), min_size=num_sequences, max_size=num_sequences))),
        "mask_BT": f64([[1] * length + [0] * (num_tokens - length) for length in lengths]),
        "max_completion_length": num_tokens,
        "old_logprobs_BT": draw(st.one_of(st.none(), logprobs)),
    }
    return point, inputs


def loss_and_gradient(point, inputs):
    leaf_BT = inputs["logprobs_BT"].clone().requires_grad_()
    loss = policy_loss(point, **{**inputs, "logprobs_BT": leaf_BT})
    return loss.detach(), torch.autograd.grad(loss, leaf_BT)[0]


@numerics
@given(batches(), st.sampled_from(GARBAGE), st.sampled_from(GARBAGE))
def test_values_outside_the_mask_change_neither_loss_nor_gradient(batch, garbage, old_garbage):
    point, inputs = batch
    loss, gradient_BT = loss_and_gradient(point, inputs)
    padding_BT = inputs["mask_BT"] == 0
    inputs["logprobs_BT"] = inputs["logprobs_BT"].masked_fill(padding_BT, garbage)
    if inputs["old_logprobs_BT"] is not None:
        inputs["old_logprobs_BT"] = inputs["old_logprobs_BT"].masked_fill(padding_BT, old_garbage)
    padded_loss, padded_gradient_BT = loss_and_gradient(point, inputs)
    assert_same(padded_loss, loss)
    assert_same(padded_gradient_BT, gradient_BT)
    assert (padded_gradient_BT[padding_BT] == 0).all()


def padded(values_BT, num_left, num_right, garbage):
    left_BT, right_BT = (values_BT.new_full((len(values_BT), n), garbage) for n in (num_left, num_right))
    return torch.cat([left_BT, values_BT, right_BT], 1)


@numerics
@given(batches(), st.integers(0, 3), st.integers(0, 3), st.sampled_from(GARBAGE), st.sampled_from(GARBAGE))
def test_padding_changes_neither_loss_nor_gradient(batch, num_left, num_right, garbage, old_garbage):
    point, inputs = batch
    loss, gradient_BT = loss_and_gradient(point, inputs)
    inputs["logprobs_BT"] = padded(inputs["logprobs_BT"], num_left, num_right, garbage)
    inputs["mask_BT"] = padded(inputs["mask_BT"], num_left, num_right, 0.0)
    if inputs["old_logprobs_BT"] is not None:
        inputs["old_logprobs_BT"] = padded(inputs["old_logprobs_BT"], num_left, num_right, old_garbage)
    padded_loss, padded_gradient_BT = loss_and_gradient(point, inputs)
    assert_same(padded_loss, loss)
    assert_same(padded_gradient_BT, padded(gradient_BT, num_left, num_right, 0.0))


@numerics
@given(batches(), st.data())
def test_micro_batching_changes_neither_loss_nor_gradient(batch, data):
    point, inputs = batch
    loss, gradient_BT = loss_and_gradient(point, inputs)
    weights_B = completion_weights(inputs["mask_BT"].sum(1), point.aggregation, inputs["max_completion_length"])
    num_sequences = len(weights_B)
    cuts = sorted(data.draw(st.sets(st.integers(1, num_sequences - 1)))) if num_sequences > 1 else []
    losses, gradients = [], []
    for start, stop in itertools.pairwise([0, *cuts, num_sequences]):
        rows = {key: value[start:stop] if isinstance(value, torch.Tensor) else value for key, value in inputs.items()}
        part, part_gradient_BT = loss_and_gradient(point, {**rows, "weights_B": weights_B[start:stop]})
        losses.append(part)
        gradients.append(part_gradient_BT)
    assert_same(torch.stack(losses).sum(), loss)
    assert_same(torch.cat(gradients), gradient_BT)


# A policy and a reference over three one-token completions, with rewards on both sides of the clip bounds. All draws of
# two rollouts and two reference samples are enumerated with their probabilities.
LOGITS_V, REFERENCE_V, REWARDS_V = f64([0.3, -0.4, 0.9]), f64([0.5, 0.3, 0.2]), f64([0, 0.375, 1])


def gradient_moments(point):
    """Mean and covariance of minus the loss's gradient with respect to the logits."""
    logits_V = LOGITS_V.clone().requires_grad_()
    policy_V, logprobs_V = logits_V.softmax(0).detach(), logits_V.log_softmax(0)
    probabilities, gradients = [], []
    for i, j, k, m in itertools.product(range(3), repeat=4):
        rewards_PG, reference_PK = REWARDS_V[[i, j]].unsqueeze(0), REWARDS_V[[k, m]].unsqueeze(0)
        advantages_B = augmented_advantages(point, rewards_PG, reference_PK).augmented_PG[0]
        loss = policy_loss(
            point, logprobs_V[[i, j]].unsqueeze(1), advantages_B, f64([[1], [1]]), max_completion_length=1
        )
        probabilities.append(policy_V[i] * policy_V[j] * REFERENCE_V[k] * REFERENCE_V[m])
        gradients.append(-torch.autograd.grad(loss, logits_V, retain_graph=True)[0])
    weights_N1, gradients_NV = torch.stack(probabilities).unsqueeze(1), torch.stack(gradients)
    assert weights_N1.sum().item() == pytest.approx(1)
    mean_V = (weights_N1 * gradients_NV).sum(0)
    return mean_V, (gradients_NV - mean_V).T @ (weights_N1 * (gradients_NV - mean_V))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("margin", ["expected", "paired"])
@pytest.mark.parametrize(("baseline", "share"), [("group_mean", 1 - 1 / 2), ("leave_one_out", 1)])
def test_the_expected_gradient_is_that_of_reward_plus_clipped_improvement(baseline, share, margin, loss):
    point = Objective(baseline=baseline, scale="none", margin=margin, loss=loss)
    logits_V = LOGITS_V.clone().requires_grad_()
    differences_VV = REWARDS_V.unsqueeze(1) - REWARDS_V.unsqueeze(0)
    improvement = logits_V.softmax(0) @ differences_VV.clamp(LOW, HIGH) @ REFERENCE_V
    (expected_V,) = torch.autograd.grad(share * logits_V.softmax(0) @ REWARDS_V + improvement, logits_V)
    assert_same(gradient_moments(point)[0], expected_V)


@pytest.mark.parametrize("scale", SCALES)
def test_the_expected_margin_keeps_the_mean_gradient_and_lowers_its_covariance(scale):
    point = Objective(scale=scale, margin="expected")
    mean_V, covariance_VV = gradient_moments(point)
    paired_mean_V, paired_covariance_VV = gradient_moments(replace(point, margin="paired"))
    assert_same(mean_V, paired_mean_V)
    eigenvalues_V = torch.linalg.eigvalsh(paired_covariance_VV - covariance_VV)
    assert eigenvalues_V.min() > -1e-12
    assert eigenvalues_V.max() > 1e-3

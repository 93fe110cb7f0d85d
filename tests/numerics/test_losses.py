"""Losses and their gradients against a plain loop over tokens, and against arithmetic written out here.

The loop works on a table of logits: the token before chooses the row, the row's softmax gives the next token.

Shapes: B sequences, T completion tokens, S states (rows), V vocabulary.
"""

import itertools
import math
from typing import NamedTuple

import pytest
import torch

from aapo.objective import Objective, completion_weights, policy_loss, token_losses

MAX_LENGTH = 7
LENGTHS = [7, 3, 0, 1, 5, 6]
ADVANTAGES = [1.5, -0.7, 2.0, 0.9, -1.3, 0.0]
AGGREGATIONS = ["token_mean", "sequence_mean", "constant"]


def f64(rows):
    return torch.tensor(rows, dtype=torch.float64)


class Batch(NamedTuple):
    states_BT: torch.Tensor
    tokens_BT: torch.Tensor
    mask_BT: torch.Tensor


def logprobs(table_SV, batch):
    rows_BTV = table_SV.log_softmax(1)[batch.states_BT]
    return rows_BTV.gather(2, batch.tokens_BT.unsqueeze(2)).squeeze(2)


def sample(table_SV, generator):
    """Completions of `LENGTHS`, sampled token by token from the softmax of the table."""
    probabilities_SV = table_SV.softmax(1)
    states, tokens = [], []
    for _ in LENGTHS:
        state, row = 0, []
        for _ in range(MAX_LENGTH):
            token = int(torch.multinomial(probabilities_SV[state], 1, generator=generator))
            row.append((state, token))
            state = token
        states.append([state for state, _ in row])
        tokens.append([token for _, token in row])
    mask_BT = f64([[1] * length + [0] * (MAX_LENGTH - length) for length in LENGTHS])
    return Batch(torch.tensor(states), torch.tensor(tokens), mask_BT)


def make_case():
    """The current table, the table at rollout time, and a batch sampled from the latter."""
    generator = torch.Generator().manual_seed(14)
    old_SV = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    table_SV = old_SV + 0.6 * torch.randn(4, 4, generator=generator, dtype=torch.float64)
    return table_SV.requires_grad_(), old_SV, sample(old_SV, generator)


def softmax(row):
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def weight(aggregation, length):
    if aggregation == "token_mean":
        return 1 / 22  # 7 + 3 + 0 + 1 + 5 + 6
    if aggregation == "sequence_mean":
        return 1 / (6 * length)  # 6 completions
    return 1 / (6 * 7)  # of at most 7 tokens


def cross_entropy(p, ratio, advantage, point):
    """The loss of a token, its derivative by log p, and which case it is."""
    truncated = min(ratio, point.max_importance_weight)
    case = "truncated" if truncated < ratio else "weighted"
    return -truncated * advantage * math.log(p), -truncated * advantage, case


def clipped_surrogate(p, ratio, advantage, point):
    """The loss of a token, its derivative by log p, and which case it is.

    With the ratio of a sequence of T tokens each of the T losses depends on log p with a T-th of the derivative.
    """
    if advantage > 0 and ratio > 1 + point.clip_high:
        return -(1 + point.clip_high) * advantage, 0.0, "clipped above"
    if advantage < 0 and ratio < 1 - point.clip_low:
        return -(1 - point.clip_low) * advantage, 0.0, "clipped below"
    return -ratio * advantage, -ratio * advantage, "free"


def loop(token_loss, point, table, old_table, batch):
    """Loss, gradient with respect to the table, and the cases met, by a loop over tokens."""
    loss, gradient, cases = 0.0, [[0.0] * 4 for _ in range(4)], set()
    for i, length in enumerate(LENGTHS):
        steps = [(int(batch.states_BT[i, t]), int(batch.tokens_BT[i, t])) for t in range(length)]
        ratios = [softmax(table[state])[token] / softmax(old_table[state])[token] for state, token in steps]
        if point.ratio_level == "sequence":
            ratios = [math.prod(ratios) ** (1 / length)] * length if length else []
        for (state, token), ratio in zip(steps, ratios, strict=True):
            p = softmax(table[state])
            value, slope, case = token_loss(p[token], ratio, ADVANTAGES[i], point)
            cases.add(case)
            loss += weight(point.aggregation, length) * value
            for v in range(4):  # d log p(token) / d logit(v) = [v == token] - p(v)
                gradient[state][v] += weight(point.aggregation, length) * slope * ((v == token) - p[v])
    return loss, gradient, cases


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(
    ("token_loss", "stale", "expected_cases"),
    [
        (cross_entropy, False, {"weighted"}),
        (cross_entropy, True, {"weighted", "truncated"}),
        (clipped_surrogate, False, {"free"}),
        (clipped_surrogate, True, {"free", "clipped above", "clipped below"}),
    ],
)
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_value_and_gradient_equal_a_loop_over_tokens(token_loss, stale, expected_cases, aggregation, level):
    table_SV, old_SV, batch = make_case()
    point = Objective(
        loss=token_loss.__name__,
        ratio_level=level,
        aggregation=aggregation,
        clip_low=0.1,
        clip_high=0.3,
        max_importance_weight=1.25 if level == "token" else 1.1,
    )
    old_logprobs_BT = logprobs(old_SV, batch) if stale else None
    result = policy_loss(
        point,
        logprobs(table_SV, batch),
        f64(ADVANTAGES),
        batch.mask_BT,
        max_completion_length=MAX_LENGTH,
        old_logprobs_BT=old_logprobs_BT,
    )
    (gradient_SV,) = torch.autograd.grad(result, table_SV)
    old_table = old_SV.tolist() if stale else table_SV.tolist()
    loss, gradient, cases = loop(token_loss, point, table_SV.tolist(), old_table, batch)
    assert cases == expected_cases
    assert result.item() == pytest.approx(loss, abs=1e-12)
    torch.testing.assert_close(gradient_SV, f64(gradient), rtol=0, atol=1e-12)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_both_losses_have_the_policy_gradient_on_samples_of_the_current_policy(aggregation):
    table_SV, _, batch = make_case()
    gradients = []
    for loss, level in itertools.product(("cross_entropy", "clipped_surrogate"), ("token", "sequence")):
        point = Objective(loss=loss, ratio_level=level, aggregation=aggregation)
        value = policy_loss(
            point, logprobs(table_SV, batch), f64(ADVANTAGES), batch.mask_BT, max_completion_length=MAX_LENGTH
        )
        gradients += torch.autograd.grad(value, table_SV)
    for other in gradients[1:]:
        torch.testing.assert_close(gradients[0], other, rtol=0, atol=1e-12)
    assert gradients[0].abs().max() > 0.01


def test_a_token_mean_by_hand():
    # Completion 0: probabilities 1/2, 1/4, advantage 2. Completion 1: probability 4/5, advantage -1.
    logprobs_BT = f64([[0.5, 0.25], [0.8, 0.1]]).log().requires_grad_()
    mask_BT = f64([[1, 1], [1, 0]])
    loss = policy_loss(Objective(), logprobs_BT, f64([2, -1]), mask_BT, max_completion_length=2)
    expected = -(2 * math.log(0.5) + 2 * math.log(0.25) - math.log(0.8)) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    (gradient_BT,) = torch.autograd.grad(loss, logprobs_BT)
    torch.testing.assert_close(gradient_BT, f64([[-2 / 3, -2 / 3], [1 / 3, 0]]), rtol=0, atol=1e-12)


# log pi is log 0.6 throughout; ratios 3, 2, 1.5, 1, 0.5 by the choice of pi_old.
OLD = [0.2, 0.3, 0.4, 0.6, 1.2]


def slopes(point, advantage):
    logprobs_BT = f64([[0.6] * 5]).log().requires_grad_()
    losses_BT = token_losses(point, logprobs_BT, f64([advantage]), f64([OLD]).log())
    (gradient_BT,) = torch.autograd.grad(losses_BT.sum(), logprobs_BT)
    return losses_BT.detach(), gradient_BT


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_the_importance_weight_is_truncated_and_has_no_gradient(advantage):
    losses_BT, gradient_BT = slopes(Objective(max_importance_weight=1.75), advantage)
    weights = [1.75, 1.75, 1.5, 1, 0.5]
    expected = [-w * advantage * math.log(0.6) for w in weights]
    torch.testing.assert_close(losses_BT, f64([expected]), rtol=0, atol=1e-12)
    # With a gradient through the weight it would be -w A (1 + log 0.6) wherever the weight is not truncated.
    torch.testing.assert_close(gradient_BT, f64([[-w * advantage for w in weights]]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("advantage", "losses", "gradient"),
    [
        # -rho A, but at most the gain at 1.4: nothing is gained above it.
        (2.0, [-2.8, -2.8, -2.8, -2, -1], [0, 0, 0, -2, -1]),
        # -rho A, but at least the loss at 0.7: nothing is gained below it.
        (-2.0, [6, 4, 3, 2, 1.4], [6, 4, 3, 2, 0]),
    ],
)
def test_the_clipped_surrogate_stops_at_its_bounds(advantage, losses, gradient):
    point = Objective(loss="clipped_surrogate", clip_low=0.3, clip_high=0.4)
    losses_BT, gradient_BT = slopes(point, advantage)
    torch.testing.assert_close(losses_BT, f64([losses]), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient_BT, f64([gradient]), rtol=0, atol=1e-12)


def test_all_tokens_of_a_completion_share_the_geometric_mean_of_their_ratios():
    # Ratios 3, 2, 1.5, 1, 0.5: their product is 4.5, of the first three 9.
    logprobs_BT = f64([[0.6] * 5]).log().requires_grad_()
    point = Objective(loss="clipped_surrogate", ratio_level="sequence", clip_low=0.3, clip_high=0.4)
    losses_BT = token_losses(point, logprobs_BT, f64([1.0]), f64([OLD]).log())
    torch.testing.assert_close(losses_BT, f64([[-(4.5 ** (1 / 5))] * 5]), rtol=0, atol=1e-12)
    (gradient_BT,) = torch.autograd.grad(losses_BT.sum(), logprobs_BT)
    torch.testing.assert_close(gradient_BT, f64([[-(4.5 ** (1 / 5))] * 5]), rtol=0, atol=1e-12)
    mask_BT = f64([[1, 1, 1, 0, 0]])
    masked_BT = token_losses(point, logprobs_BT, f64([-1.0]), f64([OLD]).log(), mask_BT)
    torch.testing.assert_close(masked_BT, f64([[9 ** (1 / 3)] * 5]), rtol=0, atol=1e-12)
    # Without a token there is no ratio, which is then 1.
    empty_BT = token_losses(point, logprobs_BT, f64([2.0]), f64([OLD]).log(), 0 * mask_BT)
    assert empty_BT.tolist() == [[-2.0] * 5]


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token_mean", [1 / 8, 1 / 8, 1 / 8]),  # 3 + 1 + 4 tokens
        ("sequence_mean", [1 / (4 * 3), 1 / (4 * 1), 1 / (4 * 4)]),  # 4 completions, the empty one among them
        ("constant", [1 / (4 * 10)] * 3),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_completion_weights(aggregation, expected, dtype):
    weights_B = completion_weights(torch.tensor([3, 1, 0, 4], dtype=dtype), aggregation, 10)
    torch.testing.assert_close(weights_B[[0, 1, 3]].double(), f64(expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_batch_without_a_token_has_loss_and_gradient_zero(aggregation):
    logprobs_BT = f64([[-1, -2], [-3, -4]]).requires_grad_()
    point = Objective(aggregation=aggregation)
    loss = policy_loss(point, logprobs_BT, f64([1, -1]), f64([[0, 0], [0, 0]]), max_completion_length=2)
    (gradient_BT,) = torch.autograd.grad(loss, logprobs_BT)
    assert loss.item() == 0
    assert gradient_BT.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_the_mask_may_have_any_dtype(dtype):
    # -(1 * -1 + 1 * -3) / 2: the middle token is masked.
    mask_BT = torch.tensor([[1, 0, 1]], dtype=dtype)
    loss = policy_loss(Objective(), f64([[-1, -2, -3]]), f64([1]), mask_BT, max_completion_length=3)
    assert loss.item() == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize(
    ("dtype", "num_tokens"),
    [
        (torch.bfloat16, 1001),  # counts to 1000
        (torch.float16, 2049),  # counts to 2048
        (torch.int8, 1001),
    ],
)
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_a_mask_of_low_precision_gives_the_exact_mean(dtype, num_tokens, aggregation):
    # The advantage is 2 and log pi -1 on every token: num_tokens * 2 / num_tokens. The first one is masked.
    logprobs_BT = torch.full((1, num_tokens + 1), -1.0, dtype=torch.float64, requires_grad=True)
    mask_BT = torch.ones(1, num_tokens + 1, dtype=dtype)
    mask_BT[0, 0] = 0
    point = Objective(aggregation=aggregation)
    loss = policy_loss(point, logprobs_BT, f64([2]), mask_BT, max_completion_length=num_tokens + 1)
    (gradient_BT,) = torch.autograd.grad(loss, logprobs_BT)
    assert loss.item() == pytest.approx(2, abs=1e-12)
    torch.testing.assert_close(gradient_BT, f64([[0] + [-2 / num_tokens] * num_tokens]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("loss", ["cross_entropy", "clipped_surrogate"])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize(("garbage", "old_garbage"), [(800.0, 0.0), (0.0, -800.0), (-math.inf, math.nan)])
def test_what_stands_at_padding_has_no_gradient(loss, advantage, garbage, old_garbage):
    # One token with ratio 1: the gradient is -A. At the padding the ratio would be inf, inf or nan.
    logprobs_BT = f64([[-1, garbage]]).requires_grad_()
    value = policy_loss(
        Objective(loss=loss),
        logprobs_BT,
        f64([advantage]),
        f64([[1, 0]]),
        max_completion_length=2,
        old_logprobs_BT=f64([[-1, old_garbage]]),
    )
    (gradient_BT,) = torch.autograd.grad(value, logprobs_BT)
    assert value.item() == {"cross_entropy": advantage, "clipped_surrogate": -advantage}[loss]
    assert gradient_BT.tolist() == [[-advantage, 0]]


def test_given_weights_replace_those_of_the_batch():
    # Two completions of a larger step: 0.1 * (1 + 2) * 2 - 0.05 * 3 * 1
    loss = policy_loss(
        Objective(),
        f64([[-1, -2], [-3, -9]]),
        f64([2, -1]),
        f64([[1, 1], [1, 0]]),
        max_completion_length=2,
        weights_B=f64([0.1, 0.05]),
    )
    assert loss.item() == pytest.approx(0.1 * 3 * 2 - 0.05 * 3, abs=1e-12)

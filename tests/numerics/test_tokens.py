"""Advantages of single tokens, worked out by hand, and what a function of one's own may return.

Shapes: B completions, T completion tokens; P prompts, G rollouts per prompt.
"""

import math

import pytest
import torch

from aapo.errors import InputError
from aapo.objective import Objective, Tokens, objective, policy_loss, token_advantages, verdicts

NAN = math.nan


def f64(rows):
    return torch.tensor(rows, dtype=torch.float64)


# The last token of completion 1 does not count, and has the highest entropy of all.
ENTROPIES_BT, MASK_BT = f64([[2, 0.5, 1], [0.5, 1.5, 9], [3, 0, 1]]), f64([[1, 1, 1], [1, 1, 0], [1, 1, 1]])


def tokens(advantages, verdict):
    return Tokens(f64(advantages), ENTROPIES_BT, MASK_BT, f64(verdict))


def counted(name, *given):
    return token_advantages(objective(name), tokens(*given)).where(MASK_BT == 1, f64(0)).tolist()


def test_rl_zvp_pushes_by_entropy_where_a_group_has_no_contrast():
    found = counted("rl_zvp", [0, 0, 1.5], [1, -1, 0])
    # 0.1 H; 0.1 (H - max H), whose maximum is 1.5; the advantage.
    expected = [[0.2, 0.05, 0.1], [-0.1, 0, 0], [1.5, 1.5, 1.5]]
    for row, values in zip(found, expected, strict=True):
        assert row == pytest.approx(values, abs=1e-12)


def test_rl_zvp_keeps_a_margin():
    found = counted("rl_zvp", [0.07, -0.05, 1.5], [1, -1, 0])
    assert found[0] == pytest.approx([0.27, 0.12, 0.17]) and found[1] == pytest.approx([-0.15, -0.05, 0])


def test_entropy_adds_at_most_half_of_the_advantage_and_never_turns_it():
    found = counted("grpo-entropy", [1, -0.4, 0], [0, 0, 1])
    # 0.4 H is 0.8, 0.2, 0.4, of which 0.5 is the most; 0.2, 0.6, of which 0.2 is.
    expected = [[1.5, 1.2, 1.4], [-0.2, -0.2, 0], [0, 0, 0]]
    for row, values in zip(found, expected, strict=True):
        assert row == pytest.approx(values, abs=1e-12)


def test_verdicts_are_of_dead_groups_whose_scored_rollouts_agree():
    dead_P = torch.tensor([True, True, False, True, True, True])
    correct_PG = f64([[1, 1], [0, 0], [1, 1], [1, 0], [NAN, 1], [NAN, NAN]])
    assert verdicts(dead_P, correct_PG).tolist() == [[1, 1], [-1, -1], [0, 0], [0, 0], [0, 1], [0, 0]]


def test_without_a_function_all_tokens_have_the_completions():
    assert token_advantages(Objective(), tokens([1, -1, 0], [0, 0, 1])).tolist() == [[1], [-1], [0]]


@pytest.mark.parametrize("loss", ["cross_entropy", "clipped_surrogate"])
def test_the_loss_weighs_each_token_by_its_own(loss):
    logprobs_BT = f64([[-1, -2, -0.5]]).requires_grad_()
    own_BT, mask_BT = f64([[0.5, -1, 7]]), f64([[1, 1, 0]])
    policy_loss(Objective(loss=loss), logprobs_BT, own_BT, mask_BT, max_completion_length=3).backward()
    assert logprobs_BT.grad.tolist() == [[-0.25, 0.5, 0]]  # two tokens


def test_advantages_of_tokens_have_no_gradient():
    entropies_BT = ENTROPIES_BT.clone().requires_grad_()
    given = Tokens(f64([0, 0, 1]), entropies_BT, MASK_BT, f64([1, -1, 0]))
    assert not token_advantages(objective("rl_zvp"), given).requires_grad


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda given: given.advantages_B, "returned shape (3,); it must return one token advantage a token, (3, 3)"),
        (
            lambda given: given.entropies_BT / given.entropies_BT,
            "values that are not finite; it must return a number for every token where mask_BT is 1",
        ),
        (lambda given: 1.0, "returned a float; it must return tensors"),
    ],
)
def test_what_a_function_of_ones_own_returns_is_checked(function, message):
    with pytest.raises(InputError) as refused:
        token_advantages(Objective(token_advantage=function), tokens([1, -1, 0], [0, 0, 1]))
    assert message in str(refused.value)


def test_what_stands_at_padding_may_be_anything():
    found = token_advantages(
        Objective(token_advantage=lambda given: given.mask_BT / given.mask_BT), tokens([1, 1, 1], [0, 0, 0])
    )
    assert found.isnan().tolist() == (MASK_BT == 0).tolist()

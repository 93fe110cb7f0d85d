"""Samples of an older policy: without the importance ratio the published loss is biased, with it it is not.

A softmax policy over three answers with rewards r. The gradient of the expected reward J = sum_a pi_a r_a by the logits
is pi_a (r_a - J). All answers are enumerated with their probability under the old policy, so nothing is sampled.
"""

import pytest
import torch

OLD = torch.tensor([0.0, 0.0, 0.0], dtype=torch.float64)
NEW = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
REWARDS = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)


def gradient(bound: float | None) -> torch.Tensor:
    """Of the cross-entropy loss with the ratio truncated at `bound`, detached as in TRL's cispo; None has no ratio."""
    logits = NEW.clone().requires_grad_(True)
    old, new = OLD.softmax(0), logits.log_softmax(0)
    advantages = REWARDS - (old * REWARDS).sum()
    ratio = torch.ones(3, dtype=torch.float64)
    if bound is not None:
        ratio = (new.detach().exp() / old).clamp(max=bound)
    loss = -(old * ratio * advantages * new).sum()
    loss.backward()
    assert logits.grad is not None
    return -logits.grad


def exact() -> torch.Tensor:
    policy = NEW.softmax(0)
    return policy * (REWARDS - (policy * REWARDS).sum())


def test_the_ratio_gives_the_gradient_of_the_new_policy():
    torch.testing.assert_close(gradient(bound=100.0), exact(), rtol=0, atol=1e-12)


def test_without_the_ratio_the_gradient_is_biased():
    # The answers have 1/3 each, so the advantages are -1/3, 2/3, -1/3 and sum to zero: what is left of
    # sum_a 1/3 A_a (e_a - pi) is (-1/9, 2/9, -1/9), whatever the new policy.
    biased = torch.tensor([-1 / 9, 2 / 9, -1 / 9], dtype=torch.float64)
    torch.testing.assert_close(gradient(bound=None), biased, rtol=0, atol=1e-12)
    # The exact one: pi = (e, 1, 1/e) / (e + 1 + 1/e) = (0.66524, 0.24473, 0.09003), J = 0.24473.
    right = torch.tensor([-0.162804, 0.184837, -0.022033], dtype=torch.float64)
    torch.testing.assert_close(exact(), right, rtol=0, atol=1e-6)
    # (0.051693, 0.037385, -0.089078) has length 0.10957, the exact gradient 0.24730.
    assert (biased - right).norm() / right.norm() == pytest.approx(0.4431, abs=1e-4), "44% off"


def test_truncation_bounds_a_weight():
    # Ratios are 1.99572, 0.73419, 0.27009: a bound of 1.5 changes the first answer alone, whose term is
    # 1/3 * ratio * (-1/3) * (e_1 - pi).
    policy = NEW.softmax(0)
    change = 1 / 3 * (1.5 - 3 * policy[0]) * (-1 / 3) * (torch.eye(3, dtype=torch.float64)[0] - policy)
    torch.testing.assert_close(gradient(1.5) - gradient(100.0), change, rtol=0, atol=1e-12)

"""Advantages of single tokens, by which those of a completion differ: functions of `Tokens`.

Each gives shape (B, T); what stands where `mask_BT` is 0 does not count.

Shapes: B completions, T completion tokens; P prompts, G rollouts per prompt.
"""

import torch
from torch import Tensor

from aapo.named import calling, own_name
from aapo.objective.margins import check_values
from aapo.objective.space import Objective, Tokens

WITHOUT_CONTRAST = 0.1
EXPLORING, EXPLORING_SHARE = 0.4, 1 / 2


def verdicts(dead_P: Tensor, correct_PG: Tensor) -> Tensor:
    """`Tokens.verdicts_B` of groups, shape (P, G): 1 or -1 where a dead group's scored rollouts all are right or wrong.

    A rollout of unknown correctness (NaN) has 0 itself, and does not count among its group's.
    """
    mean_P = correct_PG.nanmean(1)
    verdict_P = ((mean_P == 1).to(correct_PG) - (mean_P == 0).to(correct_PG)) * dead_P
    return verdict_P.unsqueeze(1) * ~correct_PG.isnan()


def token_advantages(objective: Objective, tokens: Tokens) -> Tensor:
    """What each token is pushed by, shape (B, T), or (B, 1) where those of a completion do not differ.

    Raises:
        InputError: The objective's own function returned another shape, or values that are not finite.
    """
    function = objective.token_advantage
    if function is None:
        return tokens.advantages_B.unsqueeze(1)
    with calling(f"token advantage function {own_name(function)}"):
        values = function(tokens)
    counted_BT = tokens.entropies_BT.masked_fill(tokens.mask_BT == 0, torch.nan)
    return check_values("token advantage", function, values, counted_BT, "token", "token where mask_BT is 1")


def by_entropy_without_contrast(tokens: Tokens) -> Tensor:
    """The completion's advantage, and in groups whose completions are all right or all wrong one by entropies.

        all right: A_t = A + 0.1 H_t        all wrong: A_t = A - 0.1 (max_s H_s - H_t)

    Right completions are learnt most where the policy hesitated, wrong ones unlearnt most where it was sure.
    Source: RL-ZVP, arXiv 2509.21880, Eq. 5, where A is 0 in such groups; a margin's stays here.
    """
    entropies_BT = tokens.entropies_BT.masked_fill(tokens.mask_BT == 0, 0.0)
    surest_BT = entropies_BT.amax(1, keepdim=True) - entropies_BT
    assert tokens.verdicts_B is not None  # the objective reads them
    verdict_B1 = tokens.verdicts_B.unsqueeze(1)
    shaped_BT = verdict_B1.clamp(min=0) * entropies_BT + verdict_B1.clamp(max=0) * surest_BT
    return tokens.advantages_B.unsqueeze(1) + WITHOUT_CONTRAST * shaped_BT


def with_entropy(tokens: Tokens) -> Tensor:
    """The completion's advantage, raised where the policy hesitated.

        A_t = A + min(0.4 H_t, |A| / 2)

    The bound keeps the advantage's sign, and a completion without one at 0.
    Source: Reasoning with Exploration, arXiv 2506.14758.
    """
    advantages_B1 = tokens.advantages_B.unsqueeze(1)
    return advantages_B1 + torch.minimum(EXPLORING * tokens.entropies_BT, EXPLORING_SHARE * advantages_B1.abs())

"""Augmented advantages and log-probabilities to one number.

Shapes: B sequences, T completion tokens. `mask_BT` is 1 on completion tokens and 0 on padding.
"""

import torch
from torch import Tensor

from aapo.objective.space import Aggregation, Objective


def completion_weights(lengths_B: Tensor, aggregation: Aggregation, max_completion_length: int) -> Tensor:
    """What each token of a completion weighs in the loss of an optimizer step, shape (B,).

    - `token_mean`: 1 / sum_j length_j
    - `sequence_mean`: 1 / (B * length_i)
    - `constant`: 1 / (B * max_completion_length)

    All three are constant within a completion, so a step's loss is `sum_i w_i sum_t loss_it` and does not depend on how
    the step is cut into micro-batches. `lengths_B` are those of the whole optimizer step, over all processes. Empty
    completions have no token that could weigh, and count in B.
    """
    lengths_B = lengths_B.float() if not lengths_B.is_floating_point() else lengths_B
    if aggregation == "token_mean":
        return torch.ones_like(lengths_B) / lengths_B.sum().clamp(min=1)
    if aggregation == "sequence_mean":
        return (lengths_B > 0) / (len(lengths_B) * lengths_B.clamp(min=1))
    return torch.full_like(lengths_B, 1 / (len(lengths_B) * max_completion_length))


def importance_ratios(
    objective: Objective, logprobs_BT: Tensor, old_logprobs_BT: Tensor, mask_BT: Tensor | None = None
) -> Tensor:
    """Rho of `token_losses`, shape (B, T), with its arguments."""
    log_ratio_BT = logprobs_BT - old_logprobs_BT
    if objective.ratio_level == "sequence":
        counted_BT = torch.ones_like(logprobs_BT, dtype=torch.bool) if mask_BT is None else mask_BT != 0
        sums_B1 = log_ratio_BT.masked_fill(~counted_BT, 0.0).sum(1, keepdim=True)
        log_ratio_BT = (sums_B1 / counted_BT.sum(1, keepdim=True).clamp(min=1)).expand_as(log_ratio_BT)
    return log_ratio_BT.exp()


def token_losses(
    objective: Objective,
    logprobs_BT: Tensor,
    advantages: Tensor,
    old_logprobs_BT: Tensor | None = None,
    mask_BT: Tensor | None = None,
) -> Tensor:
    """The loss of each completion token, shape (B, T).

    With ratio rho = pi / pi_old, which is 1 when the samples come from the current policy:

    - `cross_entropy`: -min(rho, max_importance_weight) A log pi, no gradient through the weight
    - `clipped_surrogate`: -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)

    At the ratio level `sequence` all tokens of a completion share the geometric mean of their ratios,
    rho_i = exp(1/T_i sum_t log(pi / pi_old)), or 1 in an empty completion (GSPO, arXiv 2507.18071, Eq. 7). Each token
    of the surrogate then stands for the whole completion: with weights that are equal within it, their sum has the
    gradient -rho_i A 1/T_i sum_t grad log pi_t, times the number of tokens.

    On samples of the current policy a completion's tokens together have the same gradient in every case,
    -A sum_t grad log pi_t.

    Args:
        objective: Gives the loss and its bounds.
        logprobs_BT: log pi of the sampled tokens under the policy being trained.
        advantages: Augmented advantages, shape (B,), or (B, T) where tokens have their own (`token_advantages`).
        old_logprobs_BT: log pi of the same tokens at rollout time; None when that is the current policy.
        mask_BT: 1 on completion tokens, whose ratios a sequence's ratio is of; None when all are.
    """
    old_BT = logprobs_BT.detach() if old_logprobs_BT is None else old_logprobs_BT
    ratio_BT = importance_ratios(objective, logprobs_BT, old_BT, mask_BT)
    advantages_BT = advantages.unsqueeze(1) if advantages.dim() == 1 else advantages
    if objective.loss == "cross_entropy":
        weight_BT = ratio_BT.detach().clamp(max=objective.max_importance_weight)
        return -weight_BT * advantages_BT * logprobs_BT
    clipped_BT = ratio_BT.clamp(1 - objective.clip_low, 1 + objective.clip_high)
    return -torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)


def policy_loss(
    objective: Objective,
    logprobs_BT: Tensor,
    advantages: Tensor,
    mask_BT: Tensor,
    *,
    max_completion_length: int,
    weights_B: Tensor | None = None,
    old_logprobs_BT: Tensor | None = None,
) -> Tensor:
    """The loss of a batch, a scalar: `sum_i w_i sum_t mask_it loss_it`.

    Args:
        objective: Gives loss and aggregation.
        logprobs_BT: log pi of the sampled tokens; values outside the mask are ignored.
        advantages: As in `token_losses`.
        mask_BT: 1 on completion tokens, 0 elsewhere.
        max_completion_length: Token limit of a completion, used by the `constant` aggregation.
        weights_B: `completion_weights` of these rows when they are only a part of the optimizer step; None when they
            are the whole.
        old_logprobs_BT: log pi at rollout time, None when the samples are the current policy's.
    """
    if weights_B is None:
        # Never in half precision, which cannot count tokens.
        lengths_B = (mask_BT != 0).sum(1).to(torch.promote_types(logprobs_BT.dtype, torch.float32))
        weights_B = completion_weights(lengths_B, objective.aggregation, max_completion_length)
    # Masked before the loss: what stands at padding may overflow the ratio, and 0 * inf is no gradient.
    padding_BT = mask_BT == 0
    logprobs_BT = logprobs_BT.masked_fill(padding_BT, 0.0)
    if old_logprobs_BT is not None:
        old_logprobs_BT = old_logprobs_BT.masked_fill(padding_BT, 0.0)
    losses_BT = token_losses(objective, logprobs_BT, advantages, old_logprobs_BT, mask_BT)
    losses_BT = losses_BT.masked_fill(padding_BT, 0.0)
    return (weights_B.to(losses_BT.dtype) * losses_BT.sum(1)).sum()

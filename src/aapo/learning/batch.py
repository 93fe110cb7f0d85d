"""What a batch of scored rollouts teaches by an objective, whatever framework drew it and will train on it.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt, F reward functions, B = P * G completions of
all processes, X spare rollouts per prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from aapo.grading import Judge
from aapo.objective import (
    Advantages,
    Objective,
    augmented_advantages,
    clipped_shares,
    completion_weights,
    difficulty_diagnostics,
    margin_diagnostics,
    overlong_penalty,
    rollout_diagnostics,
    signal_diagnostics,
    silent_groups,
    verdicts,
)
from aapo.records import Notes
from aapo.scoring import grading_shares


class Reference(NamedTuple):
    """What the reference model's samples of prompts are worth.

    Attributes:
        rewards_PK: Weighted sums over the reward functions; NaN where none could score.
        correct_PK: 1 for a right sample, 0 for a wrong one, NaN where nothing says.
    """

    rewards_PK: Tensor
    correct_PK: Tensor


class Spare(NamedTuple):
    """What the rollouts are worth that were drawn for prompts and are not trained on.

    Attributes:
        rewards_PXF: Each reward function's values; NaN where it could not score, and where a prompt has fewer than X.
        tokens_PX: Completion tokens; 0 where a prompt has fewer.
        first_correct_PG: `correct_B` of the rollouts that prompts were first drawn with: a fair sample of the policy,
            where those that are trained on are picked.
    """

    rewards_PXF: Tensor
    tokens_PX: Tensor
    first_correct_PG: Tensor


class BatchScores(NamedTuple):
    """What rollouts are worth, of all processes in their order.

    Attributes:
        rewards_BF: Each reward function's values; NaN where it could not score.
        correct_B: 1 for a right completion, 0 for a wrong one, NaN where nothing says.
        tokens_B: Completion tokens.
        truncated_B: Whether the completion was cut at the token limit.
        reference: Of the prompts; None where the objective reads none.
        spare: Of the prompts; None where all that was drawn is here.
    """

    rewards_BF: Tensor
    correct_B: Tensor
    tokens_B: Tensor
    truncated_B: Tensor
    reference: Reference | None = None
    spare: Spare | None = None

    @property
    def first_correct_B(self) -> Tensor:
        """`correct_B` of as many rollouts that nothing was picked by."""
        return self.correct_B if self.spare is None else self.spare.first_correct_PG.flatten()

    def part(self, index: int, count: int) -> "BatchScores":
        """One of `count` equal parts, of whole groups."""

        def of(values: Tensor) -> Tensor:
            return values.chunk(count)[index]

        return self.mapped(of, of)

    def mapped(self, completions: Callable[[Tensor], Tensor], groups: Callable[[Tensor], Tensor]) -> "BatchScores":
        """The scores after a function of what each completion has, and one of what each group has."""
        reference = None if self.reference is None else Reference(*map(groups, self.reference))
        spare = None if self.spare is None else Spare(*map(groups, self.spare))
        rewards_BF, correct_B, tokens_B, truncated_B = map(completions, self[:4])
        return BatchScores(rewards_BF, correct_B, tokens_B, truncated_B, reference, spare)


class Lesson(NamedTuple):
    """What a batch teaches.

    Attributes:
        advantages: Of the objective.
        total_B: The weighted sum of the reward functions; NaN where none could score.
        columns: What the loss reads of each completion, shape (B,). `advantages` multiplies the log-probability of each
            of its tokens where the loss is a mean over the tokens of all; the objective's aggregation is in it. Where
            tokens have advantages of their own, `augmented` is that without the aggregation, `weights` the aggregation
            and `verdicts` what `Tokens` has where the objective reads it.
        metrics: As `aapo.metrics` declares them.
        is_silent: Whether no completion has a gradient, as far as is known before the tokens' own advantages.
    """

    advantages: Advantages
    total_B: Tensor
    columns: dict[str, Tensor]
    metrics: dict[str, float]
    is_silent: bool


@dataclass(frozen=True)
class Teacher:
    """An objective with what it needs to know of the rewards and the rollouts.

    Attributes:
        objective: Says what is learnt.
        reward_names: Of the reward functions, in their order.
        reward_weights_F: Their weights.
        judge: Says which completions are right.
        num_generations: G.
        max_completion_length: The token limit of a completion.
    """

    objective: Objective
    reward_names: list[str]
    reward_weights_F: Tensor
    judge: Judge
    num_generations: int
    max_completion_length: int

    def correct(self, rewards_BF: Tensor, notes: Notes) -> list[float | None]:
        """1 for a right completion, 0 for a wrong one, None where nothing says."""
        rewards = dict(zip(self.reward_names, rewards_BF.T.tolist(), strict=True))
        return self.judge.correct(rewards, notes)

    def total(self, rewards_BF: Tensor) -> Tensor:
        """Weighted sum over the reward functions, the last dimension; NaN where no function could score."""
        total_B = (rewards_BF * self.reward_weights_F.to(rewards_BF.device)).nansum(-1)
        return total_B.masked_fill(rewards_BF.isnan().all(-1), torch.nan)

    def advantages(self, scores: BatchScores, shift: int) -> Advantages:
        """What the objective makes of the scores; `shift` advances a paired margin from step to step."""
        groups = (-1, self.num_generations)
        return augmented_advantages(
            self.objective,
            self.total(scores.rewards_BF).view(groups),
            None if scores.reference is None else scores.reference.rewards_PK,
            shift=shift,
            correct_PG=scores.correct_B.view(groups),
            lengths_PG=scores.tokens_B.view(groups),
            truncated_PG=scores.truncated_B.view(groups),
            max_completion_length=self.max_completion_length,
            values_PGF=scores.rewards_BF.view(-1, self.num_generations, len(self.reward_names)),
            weights_F=self.reward_weights_F.to(scores.rewards_BF),
            spare_PX=None if scores.spare is None else self.total(scores.spare.rewards_PXF),
            spare_lengths_PX=None if scores.spare is None else scores.spare.tokens_PX,
        )

    def silent(self, scores: BatchScores, shift: int, num_steps: int = 1) -> Tensor:
        """True for each group without a gradient, shape (P,), where each step is taught its part of the batch."""
        parts = (scores.part(i, num_steps) for i in range(num_steps))
        return torch.cat([silent_groups(self.advantages(part, shift + i).augmented_PG) for i, part in enumerate(parts)])

    def teach(self, scores: BatchScores, loss_tokens_B: Tensor, notes: Notes, shift: int) -> Lesson:
        """The lesson of a batch.

        Args:
            scores: Of its rollouts.
            loss_tokens_B: Completion tokens that the loss counts.
            notes: What the reward functions logged, one value a completion.
            shift: As in `advantages`.
        """
        result, total_B = self.advantages(scores, shift), self.total(scores.rewards_BF)
        shares_B = completion_weights(loss_tokens_B, self.objective.aggregation, self.max_completion_length)
        # The loss divides by the tokens of the step, which is the token mean; other aggregations are relative to it.
        weights_B = shares_B * loss_tokens_B.sum().clamp(min=1)
        augmented_B = result.augmented_PG.flatten()
        columns, is_silent = {"advantages": augmented_B * weights_B}, bool(silent_groups(result.augmented_PG).all())
        if self.objective.token_advantage is not None:
            columns |= {"augmented": augmented_B, "weights": weights_B}
        if self.objective.reads_verdicts:
            columns["verdicts"] = verdicts(result.dead_P, scores.correct_B.view(-1, self.num_generations)).flatten()
            is_silent = is_silent and not columns["verdicts"].any()
        metrics = self._metrics(scores, result, total_B, shares_B * loss_tokens_B, notes, shift)
        return Lesson(result, total_B, columns, {**metrics, "signal/zero_gradient": float(is_silent)}, is_silent)

    def _metrics(
        self, scores: BatchScores, result: Advantages, total_B: Tensor, weights_B: Tensor, notes: Notes, shift: int
    ) -> dict[str, float]:
        rewards_PG = total_B.view(-1, self.num_generations)
        groups, reference = rewards_PG.shape, scores.reference
        reference_PK, correct_PG = None if reference is None else reference.rewards_PK, scores.correct_B.view(groups)
        first_PG = scores.first_correct_B.view(groups)
        clipped = clipped_shares(self.objective, rewards_PG, reference_PK, shift=shift)
        shares = grading_shares(self.judge, self.reward_names, notes)
        values = {
            **rollout_diagnostics(correct_PG, scores.tokens_B.view(groups), first_PG),
            "rollout/truncated_frac": scores.truncated_B.float().mean().item(),
            **{f"grading/{name}": share for name, share in (shares._asdict() if shares else {}).items()},
            **signal_diagnostics(result, rewards_PG, correct_PG, reference_PK),
            **margin_diagnostics(result, weights_B.view(groups), clipped, reference_PK),
        }
        if reference is not None and not reference.correct_PK.isnan().all():
            values |= difficulty_diagnostics(result, rewards_PG, first_PG, reference.correct_PK)
        if buffer := self.objective.overlong_buffer:
            penalty_B = overlong_penalty(scores.tokens_B, self.max_completion_length, buffer)
            values["rollout/overlong_penalty"] = penalty_B.mean().item()
        return values

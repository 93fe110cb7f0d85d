"""TRL's trainer with what a batch is worth kept, checked and counted, in training and in evaluations during it."""

from typing import Any

import numpy as np
import torch
from accelerate.utils import gather, gather_object
from torch import Tensor
from transformers.trainer_utils import has_length
from trl.data_utils import is_conversational

from aapo.backends.trl.guards import check_finite, check_finite_weights
from aapo.backends.trl.rollouts import RolloutTrainer
from aapo.errors import InputError, nearest
from aapo.learning.batch import BatchScores, Teacher
from aapo.learning.held_out import HeldOutBatch, held_out_metrics
from aapo.records import Notes
from aapo.scoring import as_notes, check_finite_rewards

# A token of less weight, given what the trainer and the sampler say of it, teaches less than half of what it should.
LOST = 0.5


class ScoringTrainer(RolloutTrainer):
    """Keeps the scores of the batch that TRL scores, and ends a run whose numbers are none."""

    num_generations_eval: int
    teacher: Teacher
    _scored: tuple[BatchScores, Notes] | None
    _held_out: list[HeldOutBatch]

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        """TRL's rewards of all processes; what they say is kept until TRL's pass over the batch is done."""
        rewards_BF = self._finite_rewards(inputs, prompts, completions, completion_ids_list)
        notes = self._notes(len(prompts))
        self._scored = (
            BatchScores(rewards_BF, self._correct(rewards_BF, notes), *self._lengths(completion_ids_list)),
            notes,
        )
        return rewards_BF

    def _take_scored(self) -> tuple[BatchScores, Notes]:
        """What `_calculate_rewards` has kept of the batch that TRL has just scored."""
        scored, self._scored = self._scored, None
        assert scored is not None
        return scored

    def _keep_held_out(self) -> None:
        """Keep what the batch of an evaluation is worth, until all have come."""
        rewards_BF, correct_B, tokens_B, truncated_B = self._take_scored()[0][:4]
        self._held_out.append(
            HeldOutBatch(correct_B, self.teacher.total(rewards_BF), rewards_BF, tokens_B, truncated_B)
        )

    def _finite_rewards(self, rows: Any, prompts: Any, completions: Any, token_ids: Any) -> Tensor:
        """TRL's rewards of all processes, shape (B, F); NaN where a function could not score."""
        rows = [self._with_opening(row) for row in rows]
        rewards_BF = super()._calculate_rewards(rows, prompts, completions, token_ids)
        for name, rewards_B in zip(self.reward_func_names, rewards_BF.T, strict=True):
            check_finite_rewards(name, rewards_B.tolist())
        return rewards_BF

    def _score(self, rows: list[dict[str, Any]], token_ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Rewards (B, F) of completions of these rows, of all processes, and which are right (B,).

        Nothing that reward functions log of them is kept.
        """
        prompts = [row["prompt"] for row in rows]
        texts = self._tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        chat = is_conversational({"prompt": prompts[0]})
        completions = [[{"role": "assistant", "content": text}] if chat else text for text in texts]
        rewards_BF = self._finite_rewards(rows, prompts, completions, token_ids)
        correct_B = self._correct(rewards_BF, self._notes(len(rows)))
        # What reward functions log is about the completions that are trained on, which are scored later.
        self._pending_extra_logs.clear()
        self._pending_metrics.clear()
        return rewards_BF, correct_B

    def _correct(self, rewards_BF: Tensor, notes: Notes) -> Tensor:
        """1 for a right completion, 0 for a wrong one, NaN where nothing says; shape (B,)."""
        return self._with_nan(self.teacher.correct(rewards_BF, notes))

    def _lengths(self, token_ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Completion tokens, and whether the limit cut them, of all processes; shape (B,)."""
        device, ends = self.accelerator.device, (*self.eos_token_ids, self._tokenizer.pad_token_id)
        tokens_b = torch.tensor([len(ids) for ids in token_ids], device=device)
        truncated_b = torch.tensor([ids[-1] not in ends for ids in token_ids], device=device)
        return gathered(tokens_b), gathered(truncated_b)

    def _notes(self, size: int) -> Notes:
        """What the reward functions have just logged of the completions of all processes, by column."""
        mine = as_notes(self._pending_extra_logs, size, "a reward function")
        rows = gather_object([{column: values[i] for column, values in mine.items()} for i in range(size)])
        # Not every process need log every column, so the columns are those of all, in one order.
        return {column: [row.get(column) for row in rows] for column in sorted({name for row in rows for name in row})}

    def _log_lost_tokens(self, weights: Tensor, mask_bT: Tensor) -> None:
        """Log the share of tokens that weigh next to nothing against the sampler; weights are (b, T), or (b, 1)."""
        lost_bT = (weights < LOST) * mask_bT
        num_lost, num_tokens = gathered(torch.stack([lost_bT.sum(), mask_bT.sum()])[None]).sum(0).tolist()
        self._metrics["train"]["sampling/lost_token_frac"].append(num_lost / max(num_tokens, 1))

    def _with_nan(self, values: list) -> Tensor:
        """The values as a tensor, None as NaN."""
        return torch.tensor(np.array(values, dtype=np.float32), device=self.accelerator.device)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's loss, before its gradient is taken; one that is not finite ends the run."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        check_finite("loss", (loss[0] if isinstance(loss, tuple) else loss).item(), self.state.global_step + 1)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The norm of the gradient, just before the optimizer's step; one that is not finite ends the run."""
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and not self.args.fp16:  # whose scaler skips such steps
            check_finite("gradient's norm", float(norm), self.state.global_step + 1)
        return norm

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Transformers' saving, of a checkpoint or of the model; weights that are not finite end the run instead."""
        check_finite_weights(self.model, self.state.global_step)
        super().save_model(output_dir, _internal_call)

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's evaluation; means over completions are over all of them, not over the means of batches."""
        self._held_out = []
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        count = len(dataloader.dataset) * self.num_generations_eval if has_length(dataloader.dataset) else None
        values = held_out_metrics(self._held_out, count, self.num_generations_eval, self.reward_func_names)
        self._metrics["eval"].update({key: [value] for key, value in values.items()})
        return output

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """TRL's evaluation; what comes back has all that was logged, by which the best model is chosen."""
        metrics = super().evaluate(*args, **kwargs)
        logged = self.state.log_history[-1] if self.state.log_history else {}
        return {**{key: value for key, value in logged.items() if key.startswith("eval_")}, **metrics}

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        name = "eval_" + (self.args.metric_for_best_model or "").removeprefix("eval_")
        if self.args.metric_for_best_model is not None and name not in metrics:
            known = [key for key in metrics if key.startswith("eval_")]
            raise InputError(
                f"metric_for_best_model is {name}{nearest(name, known)}, which the evaluation does not have; it has "
                f"{', '.join(sorted(known))}"
            )
        return super()._determine_best_metric(metrics, trial)


def gathered(tensor: Tensor) -> Tensor:
    """The rows of all processes, in their order."""
    found = gather(tensor)
    assert isinstance(found, Tensor)
    return found

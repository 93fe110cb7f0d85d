"""The update loop: one call of `training_step` is one optimizer step, whatever it is cut into.

TRL's trainer sees a step as one batch. Inside, the rows of all processes are cut into micro-batches under a token
budget, as many on each process and of about equal work; only the last one synchronizes gradients, and the loss of each
divides by the tokens of the step.
"""

import gc
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from aapo.backends.trl.forward import sizes_of
from aapo.backends.trl.loss import LossTrainer, MicroBatch, Tally
from aapo.backends.trl.packed import Row
from aapo.errors import AapoError, InputError
from aapo.learning.micro_batches import Cut
from aapo.learning.window import Window

logger = logging.getLogger(__name__)

Step = dict[str, list[Tensor]]
# The columns of a step that the loss reads beside the tokens: one number a row, and one a token.
ROW_COLUMNS = ("advantages", "augmented", "weights", "verdicts")
LOSS_COLUMNS = (
    "old_per_token_logps", "ref_per_token_logps", "sampling_per_token_logps", "importance_sampling_ratio",
)  # fmt: skip


class ShortOfMemoryError(Exception):
    """A micro-batch did not fit, and the step can be taken again with smaller ones."""


class UpdateTrainer(LossTrainer):
    """GRPOTrainer whose steps are exact: what a step is and what it is cut into are two things."""

    _window: Window | None = None

    def _draw_window(self, generation_batch: Any) -> Window:
        """The rollouts that the next steps learn from, of all processes."""
        raise NotImplementedError

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """The rows of the step in training; a micro-batch as it is; TRL's in evaluations."""
        if isinstance(generation_batch, MicroBatch):
            return generation_batch
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        if self._place == 0:
            self._window = self._draw_window(generation_batch)
        if self._window is None:
            raise InputError(
                f"the checkpoint of step {self.state.global_step} is between steps that learn from the same rollouts, "
                "and does not have them; resume from another one"
            )
        return self._window.step(self._place % self.window_steps)

    @property
    def window_steps(self) -> int:
        """Steps that learn from rollouts drawn at once, each from its own."""
        return self.args.window_steps

    @property
    def _place(self) -> int:
        """Which step it is of those that learn from the same rollouts."""
        return self.state.global_step % (self.window_steps * self.num_iterations)

    def _checkpoint(self, trial: Any) -> Path:
        """Where the checkpoint of this step is."""
        return Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """TRL's checkpoint, with the rollouts beside it where the next step learns from them, too."""
        super()._save_checkpoint(model, trial)
        if self._window is not None and self._place and self.args.should_save:
            self._window.save(self._checkpoint(trial))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """What TRL loads, and the rollouts of the window that the checkpoint is in."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._window = Window.load(Path(checkpoint))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Gradients of one optimizer step, and its loss."""
        started = time.perf_counter()
        model.train()
        step = self._prepare_inputs(inputs)
        self._log_once()
        loss = self._gradients(model, step)
        self._metrics["train"]["step_time"].append(time.perf_counter() - started)
        return loss

    def _log_once(self) -> None:
        """Log what a step's rollouts teach when they are first learnt from."""
        assert self._window is not None
        if self._place < self.window_steps:
            for name, value in self._window.metrics[self._place].items():
                self._metrics["train"][name].append(value)

    def _gradients(self, model: Any, step: Step) -> Tensor:
        """Gradients of a step's rows, with smaller micro-batches where memory is short."""
        learnt = self._with_gradient(step)
        rows = _rows(learnt)
        sizes = sizes_of(rows)
        self._compare_layouts(model, rows)
        while True:
            plan, self._tally = self._cut(sizes, self.rows_per_pass, self.accelerator.num_processes), Tally()
            try:
                with self._segments(self._causal(model)):
                    loss = self._passes(model, learnt, plan, sum(int(mask.sum()) for mask in step["tool_mask"]))
            except ShortOfMemoryError:
                self._shrink(sizes)
            else:
                self._log_tally()
                self._metrics["train"]["update/micro_batches"].append(len(plan.passes))
                self._metrics["train"]["update/skipped_frac"].append(1 - len(sizes) / len(step["advantages"]))
                return loss
            model.zero_grad()
            gc.collect()
            torch.cuda.empty_cache()

    def _with_gradient(self, step: Step) -> Step:
        """The rows that change the gradient, at least one; all where more than their advantages does."""
        if not self.args.skip_zero_advantages or self._learns_beside_advantages:
            return step
        pairs = zip(step["advantages"], step["tool_mask"], strict=True)
        kept = [i for i, (advantage, mask) in enumerate(pairs) if advantage != 0 and mask.any()]
        if not kept:
            lengths = [
                len(ids) + len(more) for ids, more in zip(step["prompt_ids"], step["completion_ids"], strict=True)
            ]
            kept = [lengths.index(min(lengths))]
        return {name: [rows[i] for i in kept] for name, rows in step.items()}

    def _passes(self, model: Any, step: Step, plan: Cut, step_tokens: int) -> Tensor:
        """Gradients of this process's micro-batches.

        Raises:
            ShortOfMemoryError: One of any process did not fit; gradients are then only a part.
        """
        loss, short = torch.zeros((), device=self.accelerator.device), False
        mine = plan.of_process(self.accelerator.process_index)
        for i, (places, repeated) in enumerate(mine):
            last = i == len(mine) - 1
            if last and any(gather_object([short])):
                raise ShortOfMemoryError
            if short:
                continue
            try:
                with self._synchronizing(model, last):
                    batch = self._micro_batch(step, places, step_tokens, repeated=repeated)
                    loss += Trainer.training_step(self, model, batch)
            except torch.OutOfMemoryError as error:
                if self._is_spread or (last and self.accelerator.num_processes > 1):
                    tokens = sum(len(step["prompt_ids"][i]) + len(step["completion_ids"][i]) for i in places)
                    raise AapoError(
                        f"out of memory in a micro-batch of {tokens} tokens; set max_tokens_per_microbatch below that"
                    ) from error
                short = True
        if short:
            raise ShortOfMemoryError
        return loss

    @property
    def _is_spread(self) -> bool:
        """Whether a pass of one process needs the others: for their weights, or to rank the entropies of all tokens."""
        ranks = self.top_entropy_quantile < 1.0 and self.accelerator.num_processes > 1
        return self.is_deepspeed_enabled or self.is_fsdp_enabled or ranks

    def _synchronizing(self, model: Any, last: bool) -> AbstractContextManager[Any]:
        """Gradients are added up, and with the last micro-batch synchronized; DeepSpeed does that itself.

        Accelerate's `sync_each_batch` asks for it with every one, which under FSDP2 takes more time and less memory.
        """
        state = self.accelerator.gradient_state
        state._set_sync_gradients(last)
        now = last or state.plugin_kwargs.get("sync_each_batch", False)
        if now or self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            return nullcontext()
        return self.accelerator.no_sync(model)

    def _shrink(self, sizes: Sequence[Any]) -> None:
        """Halve what a micro-batch holds from now on.

        Raises:
            AapoError: A single row did not fit.
        """
        budget, longest = self._budget(sizes, self.rows_per_pass), max(size.tokens for size in sizes)
        if budget <= longest:
            raise AapoError(
                f"out of memory with a single row of {longest} tokens; lower max_completion_length, or train with "
                "adapters, activation checkpointing or more processes (aapo launchers)"
            )
        self._most_tokens = budget // 2
        if self.accelerator.is_main_process:
            logger.warning("out of memory; from now on micro-batches have at most %d tokens", self._most_tokens)

    def _micro_batch(self, step: Step, places: Sequence[int], step_tokens: int, *, repeated: bool) -> MicroBatch:
        """Rows of a step, padded to the longest of them; repeated ones count nothing."""

        def padded(column: Sequence[Tensor], side: str = "right", *, there: bool = False) -> Tensor:
            rows = [torch.ones_like(column[place]) if there else column[place] for place in places]
            return pad_sequence(rows, batch_first=True, padding_side=side)

        batch = {
            "prompt_ids": padded(step["prompt_ids"], "left"),
            "prompt_mask": padded(step["prompt_ids"], "left", there=True),
            "completion_ids": padded(step["completion_ids"]),
            "completion_mask": padded(step["completion_ids"], there=True),
            "tool_mask": padded(step["tool_mask"]) * (0 if repeated else 1),
            **{name: torch.stack([step[name][place] for place in places]) for name in ROW_COLUMNS if name in step},
            **{name: padded(step[name]) for name in LOSS_COLUMNS if name in step},
        }
        on_device = {name: value.to(self.accelerator.device) for name, value in batch.items()}
        return MicroBatch(on_device, step_tokens=step_tokens)


def window_rows(output: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    """What TRL has made of this process's rollouts, row by row and without padding.

    Args:
        output: Its padded batch, in which `tool_mask` has the tokens that the loss counts and `lengths` says how many
            there are of each completion.
    """
    batch = {name: value.cpu() for name, value in output.items() if isinstance(value, Tensor)}
    width = batch["completion_ids"].shape[1]
    rows = []
    for i, length in enumerate(batch["lengths"].tolist()):
        row = {
            "prompt_ids": batch["prompt_ids"][i][batch["prompt_mask"][i].bool()],
            **{name: batch[name][i] for name in ROW_COLUMNS if name in batch},
        }
        for name in ("completion_ids", "tool_mask", *(name for name in LOSS_COLUMNS if name in batch)):
            values = batch[name][i]
            row[name] = values[:length].clone() if len(values) == width else values.clone()
        rows.append(row)
    return rows


def _rows(step: Step) -> list[Row]:
    return [Row(*ids) for ids in zip(step["prompt_ids"], step["completion_ids"], strict=True)]

"""What a run leaves behind while it trains: metrics, whole checkpoints, visible progress, a clean stop."""

import time
from pathlib import Path
from typing import Any, NamedTuple

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from aapo.checkpoints import mark_whole, rotate
from aapo.progress import Update, progress_note
from aapo.ranks import launched
from aapo.runs import RunDirectory
from aapo.stopping import Stop

GENERATED_TOKENS = "rollout/generated_tokens"
BANK_TOKENS, BANK_SECONDS = "bank/generated_tokens", "bank/seconds"


class Budget(NamedTuple):
    """Where training ends early.

    Attributes:
        tokens: Generated tokens; None for no limit.
        seconds: Of training; None for no limit.
        bank_share: Share of what the reference samples cost that counts.
    """

    tokens: float | None = None
    seconds: float | None = None
    bank_share: float = 1.0


NO_BUDGET = Budget()


class Spent(NamedTuple):
    """Completion tokens generated for training, and its seconds."""

    tokens: float
    seconds: float

    def reaches(self, budget: Budget) -> bool:
        """Whether one of the two is at its limit."""
        return any(limit is not None and spent >= limit for spent, limit in zip(self, budget[:2], strict=True))


class NothingLeft(Exception):  # noqa: N818  it is no error
    """The checkpoint is that of the last step, after which the trainer would go on by one more."""


class Recorder(TrainerCallback):
    """Appends metrics to the run directory, shows progress, and ends training after the step in which a stop is asked.

    Seconds and generated tokens are those of the whole training, also of one that goes on from a checkpoint; at a
    budget of either, training ends.
    """

    def __init__(
        self,
        run: RunDirectory,
        update: Update,
        stop: Stop,
        budget: Budget = NO_BUDGET,
        save_total_limit: int | None = None,
    ) -> None:
        """Take the run directory, what shows progress and notes a signal, where training ends, how many are kept."""
        self.run = run
        self.update = update
        self.interrupted = False
        self._stop = stop
        self._budget = budget
        self._limit = save_total_limit
        self._before = self._spent = Spent(0, 0.0)
        self._began = time.monotonic()
        self._last = self._began
        self._tokens: float | None = None
        self._note = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock where an earlier part of the run stopped.

        Raises:
            NothingLeft: It was the whole of it.
        """
        self._began = self._last = time.monotonic()
        earlier = [row for row in self.run.metrics() if row["step"] <= state.global_step]
        tokens, seconds = (
            max((row[key] for row in earlier if row.get(key) is not None), default=0)
            for key in (GENERATED_TOKENS, "seconds")
        )
        self._before = Spent(int(tokens), float(seconds))
        self._spent = self._with_bank(self._before, earlier[-1] if earlier else {})
        self._tokens = float(state.num_input_tokens_seen)
        if state.global_step >= state.max_steps or (state.global_step and self._spent.reaches(self._budget)):
            raise NothingLeft

    def _with_bank(self, spent: Spent, row: dict[str, Any]) -> Spent:
        """What is spent with the share of the reference samples that counts, of which the row says the cost."""
        tokens, seconds = (self._budget.bank_share * float(row.get(key) or 0) for key in (BANK_TOKENS, BANK_SECONDS))
        return Spent(spent.tokens + tokens, spent.seconds + seconds)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop when asked to."""
        self._stop_together(control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop when asked to while evaluating, which comes after the step's end; before the first, go on."""
        if state.global_step:
            self._stop_together(control)

    def _stop_together(self, control: TrainerControl) -> None:
        # Every process must stop at the same step, and a signal need not reach all of them between the same two.
        if any(gather_object([self._stop.asked is not None])):
            self.interrupted = True
            control.should_save = True
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Mark the checkpoint as whole, and only then remove older ones."""
        launched().wait()  # until every process has written its part
        if state.is_world_process_zero:
            folder = Path(args.output_dir or "")
            mark_whole(folder / f"checkpoint-{state.global_step}")
            rotate(folder, self._limit, [state.best_model_checkpoint])

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line of metrics, update the progress, and stop where the budget is spent."""
        if not logs or "train_runtime" in logs:
            return
        now = time.monotonic()
        row = {"step": state.global_step, "seconds": round(self._before.seconds + now - self._began, 3), **logs}
        if GENERATED_TOKENS in logs:
            row[GENERATED_TOKENS] = int(self._before.tokens) + int(logs[GENERATED_TOKENS])
            self._spent = self._with_bank(Spent(row[GENERATED_TOKENS], row["seconds"]), row)
            # The clocks of the processes differ.
            if self._budget != NO_BUDGET and any(gather_object([self._spent.reaches(self._budget)])):
                control.should_training_stop = True
        if not state.is_world_process_zero:
            return
        if "num_tokens" in logs:
            new = logs["num_tokens"] - self._tokens if self._tokens is not None else None
            row["rollout/tokens_per_second"] = None if new is None else new / max(now - self._last, 1e-9)
            self._tokens, self._last = logs["num_tokens"], now
            self._note = progress_note(row)
        self.run.append_metrics(row)
        self.update(state.global_step, self._note)

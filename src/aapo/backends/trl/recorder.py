"""What a run leaves behind while it trains: metrics, whole checkpoints, visible progress, a clean stop."""

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from aapo.checkpoints import mark_whole, rotate
from aapo.progress import Update, console, progress_note
from aapo.ranks import launched
from aapo.runs import RunDirectory

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


class Recorder(TrainerCallback):
    """Appends metrics to the run directory, shows progress, and ends training at the next step on Ctrl-C.

    Seconds and generated tokens are those of the whole training, also of one that goes on from a checkpoint; at a
    budget of either, training ends.
    """

    def __init__(
        self, run: RunDirectory, update: Update, budget: Budget = NO_BUDGET, save_total_limit: int | None = None
    ) -> None:
        """Take the run directory, what shows progress, where training ends early, and how many checkpoints are kept."""
        self.run = run
        self.update = update
        self.interrupted = False
        self._budget = budget
        self._limit = save_total_limit
        self._before = self._spent = Spent(0, 0.0)
        self._began = time.monotonic()
        self._last = self._began
        self._tokens: float | None = None
        self._note = ""
        self._previous_handler: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock where an earlier part of the run stopped, and listen for Ctrl-C."""
        self._began = self._last = time.monotonic()
        earlier = [row for row in self.run.metrics() if row["step"] <= state.global_step]
        tokens, seconds = (
            max((row[key] for row in earlier if row.get(key) is not None), default=0)
            for key in (GENERATED_TOKENS, "seconds")
        )
        self._before = self._spent = Spent(int(tokens), float(seconds))
        self._tokens = float(state.num_input_tokens_seen)
        self._previous_handler = signal.signal(signal.SIGINT, self._on_interrupt)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give Ctrl-C back."""
        signal.signal(signal.SIGINT, self._previous_handler)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        console.print("Stopping after this step and saving a checkpoint; Ctrl-C again stops at once.")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop when asked to."""
        # Every process must stop at the same step, and a signal need not reach all of them between the same two.
        if any(gather_object([self.interrupted])):
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
            share, bank = self._budget.bank_share, [float(row.get(key) or 0) for key in (BANK_TOKENS, BANK_SECONDS)]
            self._spent = Spent(row[GENERATED_TOKENS] + share * bank[0], row["seconds"] + share * bank[1])
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

"""What a run leaves behind while it trains: metrics, whole checkpoints, visible progress, a clean stop."""

import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from aapo.progress import Update, console
from aapo.runs import RunDirectory

# Written last into a checkpoint: a folder without it is the leftover of a run that was killed while saving.
WHOLE = "whole"


class Recorder(TrainerCallback):
    """Appends metrics to the run directory, shows progress, and ends training at the next step on Ctrl-C."""

    def __init__(self, run: RunDirectory, update: Update) -> None:
        """Take the run directory and what shows progress."""
        self.run = run
        self.update = update
        self.interrupted = False
        self._began = time.monotonic()
        self._tokens = 0.0
        self._last = self._began
        self._previous_handler: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock and listen for Ctrl-C."""
        self._began = self._last = time.monotonic()
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
        if self.interrupted:
            control.should_save = True
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Mark the checkpoint as whole."""
        if state.is_world_process_zero:
            (Path(args.output_dir or "") / f"checkpoint-{state.global_step}" / WHOLE).touch()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line of metrics and update the progress."""
        if not state.is_world_process_zero or not logs or "reward" not in logs:
            return
        now = time.monotonic()
        tokens = logs.get("completions/mean_length", 0.0) * getattr(args, "generation_batch_size", 0)
        logs["rollout/tokens_per_second"] = tokens / max(now - self._last, 1e-9)
        self._last = now
        self.run.append_metrics({"step": state.global_step, "seconds": round(now - self._began, 3), **logs})
        self.update(state.global_step, progress_note(logs))


def progress_note(logs: dict[str, Any]) -> str:
    """The live line: reward, accuracy, dead groups before and after the margin, margin, length, speed."""
    dead, after = logs["signal/dead_group_frac"], logs["signal/dead_after_margin_frac"]
    return (
        f"reward {logs['reward']:.2f}  accuracy {logs['rollout/accuracy']:.2f}  dead {dead:.2f}"
        + (f"→{after:.2f}" if after != dead else "")
        + f"  margin {logs['margin/mean']:+.3f}  length {logs['completions/mean_length']:.0f}"
        f"  {logs['rollout/tokens_per_second']:.0f} tok/s"
    )


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, or None; leftovers of saves that were killed are removed."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        if (path / WHOLE).exists():
            whole.append(path)
        else:
            shutil.rmtree(path)
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)

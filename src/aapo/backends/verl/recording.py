"""What a run on verl leaves in the run directory while it trains: our metrics, verl's beside them, and rollouts."""

import time
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from aapo.backends.verl.costs import read_costs
from aapo.backends.verl.teaching import Taught
from aapo.bank.rows import read_row
from aapo.learning.bank_cost import BankCost
from aapo.learning.batch import Teacher
from aapo.learning.held_out import HeldOutBatch, held_out_metrics
from aapo.learning.rollouts import Rollout, RolloutWriter
from aapo.runs import RunDirectory

GENERATED = "rollout/generated_tokens"
# verl's metrics that have a name here; the others are stored as `verl/NAME`.
OUR_NAMES = {
    "actor/pg_loss": "loss", "actor/kl_loss": "kl", "actor/grad_norm": "grad_norm", "actor/lr": "learning_rate",
    "actor/entropy": "entropy", "timing_s/step": "step_time", "perf/total_num_tokens": "num_tokens_of_step",
}  # fmt: skip


class Recorder:
    """Writes the metrics and the rollouts of a run.

    Attributes:
        run: The run directory.
        teacher: The objective, with what it needs to know.
        updates: Optimizer steps of one of verl's.
    """

    def __init__(self, run: RunDirectory, teacher: Teacher, updates: int) -> None:
        """Take where a run that is resumed was."""
        self.run, self.teacher, self.updates = run, teacher, updates
        self._writer = RolloutWriter(run.samples, teacher)
        self._bank = read_costs(run)
        self._cost = BankCost(self._bank.before_training if self._bank else ())
        self._totals: dict[str, float] = {}
        self._taught: Taught | None = None
        self._began = time.monotonic()

    def begin(self, step: int) -> None:
        """Start the clock after this step of verl's, 0 for a run that begins."""
        earlier = [row for row in self.run.metrics() if row["step"] <= step * self.updates]
        keys = (GENERATED, "num_tokens", "seconds")
        self._totals = {key: max((row.get(key) or 0 for row in earlier), default=0) for key in keys}
        self._began = time.monotonic() - self._totals["seconds"]
        if self._bank is not None:
            self._cost.meet(self._bank, self._writer.keys_until(step * self.updates))

    def discard(self, tokens: int) -> None:
        """Count completion tokens that were generated for training and thrown away."""
        self._totals[GENERATED] += tokens

    def keep(self, taught: Taught, step: int) -> None:
        """Write the rollouts of a step, counted from 1, and keep what they teach for its metrics."""
        rollouts = []
        for place, row_index in enumerate(taught.places):
            first = place - place % self.teacher.num_generations
            row = taught.rows[next(index for index in taught.places[first:] if index is not None)]
            text = row.text if row_index is None else taught.rows[row_index].text
            prompt = read_row(row.info["row"])["prompt"]
            rollouts.append(Rollout(prompt, "" if row_index is None else text, row.gold, row.info["prompt_key"]))
        number = (step - 1) * self.updates + 1
        self._writer.write(number, rollouts, taught.scores, taught.lesson, taught.scores.tokens_B, taught.notes)
        self._taught = taught

    def record(self, metrics: Mapping[str, Any], step: int) -> dict[str, Any]:
        """Add a line of metrics for a step, counted from 1; the line."""
        assert self._taught is not None
        theirs = {key: float(value) for key, value in metrics.items() if _is_number(value)}
        row: dict[str, Any] = {"step": step * self.updates, "seconds": round(time.monotonic() - self._began, 3)}
        row |= {OUR_NAMES.get(key, f"verl/{key}"): value for key, value in theirs.items()}
        row |= self._lesson_metrics(self._taught, row.pop("num_tokens_of_step", 0.0))
        if row.get("step_time"):
            row["rollout/tokens_per_second"] = theirs.get("perf/total_num_tokens", 0.0) / row["step_time"]
        self.run.append_metrics(row)
        return row

    def record_held_out(self, batch: HeldOutBatch, num_generations: int, step: int) -> None:
        """Add a line for an evaluation after a step."""
        found = held_out_metrics([batch], None, num_generations, self.teacher.reward_names)
        values = {f"eval_{key}": value for key, value in found.items() if isfinite(value)}
        self.run.append_metrics({"step": step * self.updates, **values})

    def _lesson_metrics(self, taught: Taught, num_tokens: float) -> dict[str, Any]:
        batch = HeldOutBatch(
            taught.scores.correct_B, taught.lesson.total_B, taught.scores.rewards_BF, taught.scores.tokens_B,
            taught.scores.truncated_B,
        )  # fmt: skip
        values: dict[str, Any] = held_out_metrics(
            [batch], None, self.teacher.num_generations, self.teacher.reward_names
        )
        self._totals[GENERATED] += int(taught.scores.tokens_B.sum())
        self._totals["num_tokens"] += num_tokens
        values |= {
            **taught.lesson.metrics,
            GENERATED: self._totals[GENERATED],
            "num_tokens": self._totals["num_tokens"],
        }
        if self._bank is None:
            return values
        self._cost.meet(self._bank, [row.info["prompt_key"] for row in taught.rows])
        return {**values, **self._cost.metrics(self._bank)}


def count_discarded(buffer: Any, tell: Callable[[int], None]) -> None:
    """Tell the completion tokens of the groups that verl's replay buffer throws away, as dynamic sampling does."""
    clear = buffer._clear_groups

    def counted(partition: str, uids: set[str]) -> None:
        tags = {key: tag for key, tag in buffer.partitions[partition].items() if key.split("_")[0] in uids}
        if partition == "train":
            tell(sum(tag["response_len"] for tag in tags.values()))
        clear(partition, uids)

    buffer._clear_groups = counted


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, (str, bool))

"""A model on problems: the bank's pipeline on a benchmark, and what its samples say.

Shapes: P problems, K samples per problem.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from aapo.bank import STORED, BankIdentity, SampleStore, digest, sample_identity
from aapo.errors import AapoError
from aapo.evaluation.estimates import Estimate, average_P, majority_P, pass_at_k_P, score
from aapo.evaluation.votes import answer_classes
from aapo.files import write_parquet
from aapo.grading import BY_VERDICT, GRADED, VERDICT, Judge, RewardFunction, reward_name
from aapo.messages import last_question
from aapo.ranks import ALONE, Ranks
from aapo.records import Engine
from aapo.scoring import as_prompt
from aapo.tasks import PROBLEM_KEY, prompt_key

SAMPLE_COLUMNS = {
    "model": pa.string(), "task": pa.string(), "protocol": pa.string(), "problem": pa.string(),
    "prompt_key": pa.string(), "sample": pa.int32(), "prompt": pa.string(), "gold": pa.string(),
    "completion": pa.string(), "completion_tokens": pa.int32(), "finish_reason": pa.string(),
    "correct": pa.float64(), "extracted": pa.string(), "verdict": pa.string(), "rule": pa.string(),
    "answer_class": pa.int32(),
}  # fmt: skip


class EvaluationStore(SampleStore):
    """The samples of one model on one task."""

    purpose: ClassVar[str] = "evaluation"


@dataclass(frozen=True)
class Evaluation:
    """One model on one task.

    Attributes:
        table: One row a sample, problem by problem, with the columns of `SAMPLE_COLUMNS` (`correct` is 1 right, 0
            wrong, null unscored; `answer_class` is the same for equal answers to a problem), reward/NAME for each
            reward function, and what they logged.
    """

    table: pa.Table

    @property
    def model(self) -> str:
        """What the model is called."""
        return self.table["model"][0].as_py()

    @property
    def task(self) -> str:
        """What the problems are called."""
        return self.table["task"][0].as_py()

    @property
    def protocol(self) -> str:
        """Name and hash of the protocol."""
        return self.table["protocol"][0].as_py()

    @cached_property
    def problems(self) -> list[str]:
        """P problem keys, in order; the same for all models."""
        return list(dict.fromkeys(self.table["problem"].to_pylist()))

    @property
    def num_samples(self) -> int:
        """K."""
        return len(self.table) // len(self.problems)

    def _values_PK(self, column: str, dtype: type, missing: float) -> np.ndarray:
        values = [missing if value is None else value for value in self.table[column].to_pylist()]
        return np.array(values, dtype).reshape(len(self.problems), self.num_samples)

    @cached_property
    def correct_PK(self) -> np.ndarray:
        """1 right, 0 wrong, NaN unscored."""
        return self._values_PK("correct", float, np.nan)

    @cached_property
    def classes_PK(self) -> np.ndarray:
        """Class of each answer within its problem, -1 without one."""
        return self._values_PK("answer_class", int, -1)

    def values_P(self, metric: str) -> np.ndarray:
        """One value a problem of `avg@n`, `pass@k` or `maj@k`."""
        kind, _, k = metric.partition("@")
        if kind == "avg":
            return average_P(self.correct_PK)
        if kind == "pass":
            return pass_at_k_P(self.correct_PK, int(k))
        return majority_P(self.classes_PK, self.correct_PK, int(k))

    def estimate(self, metric: str | None = None) -> Estimate:
        """A metric, avg@K by default, with its 95% interval."""
        return score(self.values_P(metric or f"avg@{self.num_samples}"))

    def summary(self, metric: str | None = None) -> dict[str, Any]:
        """The row of `results.json`."""
        metric = metric or f"avg@{self.num_samples}"
        verdicts = self.table["verdict"].to_pylist()
        known = any(verdict is not None for verdict in verdicts)
        reasons, tokens = self.table["finish_reason"].to_pylist(), self.table["completion_tokens"].to_pylist()
        unread = {
            problem
            for problem, verdict in zip(self.table["problem"].to_pylist(), verdicts, strict=True)
            if verdict == "unparseable_gold"
        }
        numbers = {key: None if np.isnan(value) else value for key, value in self.estimate(metric)._asdict().items()}
        return {
            "model": self.model,
            "task": self.task,
            "protocol": self.protocol,
            "metric": metric,
            **numbers,
            "num_problems": len(self.problems),
            "num_samples": self.num_samples,
            "truncated_frac": reasons.count("length") / len(reasons),
            "no_answer_frac": verdicts.count("no_answer") / len(verdicts) if known else None,
            "timeout_frac": verdicts.count("timeout") / len(verdicts) if known else None,
            "unparseable_gold": len(unread) if known else None,
            "mean_tokens": sum(tokens) / len(tokens),
        }

    def save(self, folder: Path) -> Path:
        """Write the samples into a folder; the file."""
        name = f"{self.model}--{self.task}".replace("/", "_").replace(":", "_")
        write_parquet(folder / f"{name}.parquet", self.table)
        return folder / f"{name}.parquet"

    @classmethod
    def read(cls, file: Path) -> "Evaluation":
        """The evaluation that `save` wrote."""
        return cls(pq.read_table(file))


@dataclass(frozen=True)
class EvaluationJob:
    """One model on one task, to be sampled and graded; what an earlier call did of it is found again.

    Attributes:
        model: What the model is called in the results.
        task: What the problems are called in the results.
        protocol: Name and hash of the protocol.
        prompts: Columns `prompt` and `answer`, and what the reward functions read.
        engine: Samples, with the settings of the protocol.
        reward_funcs: All are recorded.
        identity: Of model, sampling and reward functions; its `num_samples` is K.
        folder: Holds the samples of all evaluations, each in a folder named by its identity.
        judge: Says which completions are right.
        template_options: Passed to the chat template.
    """

    model: str
    task: str
    protocol: str
    prompts: Dataset
    engine: Engine
    reward_funcs: Sequence[RewardFunction]
    identity: BankIdentity
    folder: Path
    judge: Judge = BY_VERDICT
    template_options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _keys(self) -> list[str]:
        prompts = (as_prompt(dict(row), self.engine.tokenizer, **self.template_options) for row in self.prompts)
        return list(dict.fromkeys(prompt.key for prompt in prompts))

    @property
    def path(self) -> Path:
        """Where the samples are: named by problems, weights, tokenizer and sampling, not by paths or rewards."""
        return self.folder / digest({"prompts": sorted(self._keys), **sample_identity(self.identity)})

    def sample(
        self,
        on_batch: Callable[[int, int], None] = lambda done, total: None,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        """Sample and grade what is not there yet, this process its share.

        Args:
            on_batch: Called with the number of completions done and to do.
            ranks: This process and the others.
        """
        EvaluationStore.build(
            self.path,
            self.prompts,
            self.engine,
            self.reward_funcs,
            self.identity,
            template_options=dict(self.template_options),
            on_batch=on_batch,
            prompts_per_file=max(1, self.engine.batch_size // self.identity["num_samples"]),
            ranks=ranks,
        )

    def collect(self) -> Evaluation:
        """The evaluation, once everything is sampled.

        Raises:
            AapoError: Some is not.
        """
        store = EvaluationStore.open(self.path, self.identity["rewards"])
        if missing := [key for key in self._keys if key not in store]:
            raise AapoError(
                f"{len(missing)} of {len(self._keys)} problems of {self.task} are not sampled yet; run the other shares"
            )
        return Evaluation(self._table(store))

    def _table(self, store: EvaluationStore) -> pa.Table:
        """One row a sample."""
        rows = {row["key"]: row for row in store.rows()}
        names = [reward_name(function) for function in self.reward_funcs]
        verdicts = self.judge.verdicts(names, store.columns())
        name = None if verdicts is None else verdicts.removeprefix(VERDICT)
        own = {f"{kind}/{name}": kind for kind in ("verdict", "extracted", "rule")}
        logged = set(store.columns()) - {*STORED, *own, *(f"reward/{name}" for name in names)}
        notes = {name: f"note/{name}" if name in SAMPLE_COLUMNS else name for name in sorted(logged)}
        flat = [
            {"model": self.model, "task": self.task, "protocol": self.protocol, **sample}
            for key in self._keys
            for sample in _samples(
                rows[key], names, own, notes, store.correct(key, self.judge), mathematical=name in GRADED
            )
        ]
        kinds = [*SAMPLE_COLUMNS.items(), *((f"reward/{name}", pa.float64()) for name in names)]
        return pa.Table.from_pylist(flat, pa.schema([*kinds, *((name, pa.string()) for name in notes.values())]))


def _samples(
    row: dict[str, Any],
    names: Sequence[str],
    own: Mapping[str, str],
    notes: Mapping[str, str],
    correct: list[float | None],
    *,
    mathematical: bool,
) -> list[dict[str, Any]]:
    """The K samples of a stored prompt, by column."""
    source, size = json.loads(row["row"]), len(row["completions"])
    columns = {
        "problem": [source.get(PROBLEM_KEY) or prompt_key(str(source["prompt"]), row["gold"])] * size,
        "prompt_key": [row["key"]] * size,
        "sample": range(size),
        "prompt": [last_question(source["prompt"])] * size,
        "gold": [row["gold"]] * size,
        "completion": row["completions"],
        "completion_tokens": row["num_tokens"],
        "finish_reason": row["finish_reasons"],
        "correct": correct,
        **{short: row.get(name) or [None] * size for name, short in own.items()},
        **{f"reward/{name}": row[f"reward/{name}"] for name in names},
        **{stored: row[name] or [None] * size for name, stored in notes.items()},
    }
    columns["answer_class"] = answer_classes(columns["extracted"], correct, mathematical=mathematical)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

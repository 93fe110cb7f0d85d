"""What one model's samples on one task say.

Shapes: P problems, K samples per problem.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from aapo.evaluation.estimates import Estimate, average_P, majority_P, pass_at_k_P, score
from aapo.files import write_parquet
from aapo.stored import read_parquet

EVALUATED_ANEW = "evaluate again; samples that the cache has are not drawn anew"
SAMPLE_COLUMNS = {
    "model": pa.string(), "task": pa.string(), "protocol": pa.string(), "problem": pa.string(),
    "prompt_key": pa.string(), "sample": pa.int32(), "prompt": pa.string(), "gold": pa.string(),
    "completion": pa.string(), "completion_tokens": pa.int32(), "finish_reason": pa.string(),
    "correct": pa.float64(), "extracted": pa.string(), "verdict": pa.string(), "rule": pa.string(),
    "answer_class": pa.int32(),
}  # fmt: skip


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
        """The evaluation that `save` wrote.

        Raises:
            InputError: The file is damaged or of another version.
        """
        return cls(read_parquet(file, EVALUATED_ANEW, SAMPLE_COLUMNS))

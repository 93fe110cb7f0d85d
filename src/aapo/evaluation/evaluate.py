"""A model on held-out prompts: samples, accuracy with its interval, files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from aapo.evaluation.estimates import Estimate, average_accuracy
from aapo.files import write_json, write_parquet
from aapo.grading import RewardFunction, reward_name
from aapo.sampling import Engine
from aapo.scoring import SUCCESS_THRESHOLD, ScoredPrompt, as_prompt, sample_and_score

PURPOSE = "evaluation"


@dataclass(frozen=True)
class Evaluation:
    """One model on one task.

    Attributes:
        model: What the model is called, such as `base` or `trained`.
        task: What the prompts are.
        success: Name of the reward function that says what is right.
        scored: Every prompt with its samples.
        num_samples: Samples per prompt.
    """

    model: str
    task: str
    success: str
    scored: list[ScoredPrompt]
    num_samples: int

    @property
    def correct_PK(self) -> np.ndarray:
        """1 right, 0 wrong, NaN unscored; P problems by K samples."""
        values = np.array([item.rewards[self.success] for item in self.scored], dtype=float)
        return np.where(np.isnan(values), np.nan, (values >= SUCCESS_THRESHOLD).astype(float))

    @property
    def estimate(self) -> Estimate:
        """avg@K with its 95% interval."""
        return average_accuracy(self.correct_PK)

    @property
    def truncated_frac(self) -> float:
        """Share of samples cut at the token limit."""
        return float(np.mean([c.finish_reason == "length" for item in self.scored for c in item.completions]))

    @property
    def mean_tokens(self) -> float:
        """Mean completion length in tokens."""
        return float(np.mean([len(c.token_ids) for item in self.scored for c in item.completions]))

    def summary(self) -> dict[str, Any]:
        """The row of `summary.json`."""
        return {
            "model": self.model,
            "task": self.task,
            "metric": f"avg@{self.num_samples}",
            **self.estimate._asdict(),
            "num_problems": len(self.scored),
            "num_samples": self.num_samples,
            "truncated_frac": self.truncated_frac,
            "mean_tokens": self.mean_tokens,
        }


def evaluate(
    model: str,
    task: str,
    prompts: Dataset,
    engine: Engine,
    success: RewardFunction,
    *,
    num_samples: int,
    seed: int = 0,
    template_options: dict[str, Any] | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Sample and grade `num_samples` completions of every prompt.

    Args:
        model: What the model is called in the results.
        task: What the prompts are called in the results.
        prompts: Columns `prompt` and `answer`, and what `success` reads.
        engine: Samples, with the settings of the evaluation.
        success: A completion is right when this reward function pays at least 0.5.
        num_samples: K.
        seed: Seed of the samples.
        template_options: Passed to the chat template.
        on_batch: Called with the number of completions in each finished batch.
    """
    rows = [as_prompt(dict(row), engine.tokenizer, **(template_options or {})) for row in prompts]
    scored = sample_and_score(
        rows, engine, [success], num_samples=num_samples, seed=seed, purpose=PURPOSE, on_batch=on_batch
    )
    return Evaluation(model, task, reward_name(success), scored, num_samples)


def save_evaluations(folder: Path, evaluations: Sequence[Evaluation]) -> None:
    """Write `MODEL.parquet` with every completion of each evaluation, then `summary.json`."""
    for evaluation in evaluations:
        write_parquet(folder / f"{evaluation.model}.parquet", _table(evaluation))
    write_json(folder / "summary.json", [evaluation.summary() for evaluation in evaluations])


def _table(evaluation: Evaluation) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "task": evaluation.task,
                "prompt_key": item.prompt.key,
                "sample": sample,
                "prompt": item.prompt.question,
                "gold": item.prompt.gold,
                "completion": completion.text,
                "completion_tokens": len(completion.token_ids),
                "truncated": completion.finish_reason == "length",
                "correct": None if np.isnan(right) else float(right),
            }
            for item, rights in zip(evaluation.scored, evaluation.correct_PK, strict=True)
            for sample, (completion, right) in enumerate(zip(item.completions, rights, strict=True))
        ]
    )

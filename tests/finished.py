"""Runs that are finished without training."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from aapo.evaluation import Evaluation, result_rows, save_results
from aapo.evaluation.evaluation import SAMPLE_COLUMNS


def finish(path: Path, shares: np.ndarray, *, num_samples: int = 4) -> None:
    """A run's results and metrics: of each problem this share of samples is right."""
    rows = [
        {
            "model": "trained", "task": "sums", "protocol": "recipe@1", "problem": str(place), "prompt_key": str(place),
            "sample": sample, "prompt": "1 + 1?", "gold": "2", "completion": "<b>2</b>", "completion_tokens": 3,
            "finish_reason": "stop", "correct": float(sample < round(share * num_samples)), "extracted": "2",
            "verdict": "correct", "rule": "number", "answer_class": 0,
        }
        for place, share in enumerate(shares)
        for sample in range(num_samples)
    ]  # fmt: skip
    item = Evaluation(pa.Table.from_pylist(rows, pa.schema(list(SAMPLE_COLUMNS.items()))))
    path.mkdir(parents=True)
    (path / "recipe.yaml").write_text("fields:\n  algorithm: <i>x</i>\n")
    lines = [{"step": 0, "seconds": 0.1, "eval_rollout/accuracy": 0.0}]
    for step in range(1, 11):
        row = {"step": step, "seconds": 2.0 * step, "rollout/generated_tokens": 100 * step, "signal/bias": 0.1 * step}
        lines.append({**row, "signal/dead_group_frac": 0.5})
        lines.append({"step": step, "seconds": 2.0 * step, "eval_rollout/accuracy": float(shares.mean()) * step / 10})
    (path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    save_results(path / "evaluation", [item], result_rows([item]), [], {})

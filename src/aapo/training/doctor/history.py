"""A run's logged metrics: what went wrong while it trained."""

from collections.abc import Iterator
from math import ceil
from typing import Any

import numpy as np

from aapo.runs import RunDirectory
from aapo.training.findings import Finding, percent

# The end of a run is its last quarter, the start its first tenth.
START, END = 0.1, 0.25
PAGE = "docs/doctor.md"


def history_findings(run: RunDirectory) -> list[Finding]:
    """What the run's metrics say; steps that do not log a metric are left out of it.

    Raises:
        InputError: They, or the manifest, are damaged.
    """
    if run.manifest_file.exists():
        run.manifest()
    rows = [row for row in run.metrics() if "signal/zero_gradient" in row or "grad_norm" in row]
    if not rows:
        return [Finding("note", "run", "no step is logged yet")]
    found = [*_gradient(rows), *_shares(rows), *_drift(rows)]
    first, last = (_mean(part, "rollout/accuracy") for part in (_start(rows), _end(rows)))
    shown = "" if first is None or last is None else f", accuracy of the rollouts {percent(first)} -> {percent(last)}"
    return [*found, Finding("note" if found else "ok", "run", f"{len(rows)} steps{shown}")]


def _gradient(rows: list[dict[str, Any]]) -> Iterator[Finding]:
    silent = [row.get("signal/zero_gradient") == 1 or row.get("grad_norm") == 0 for row in rows]
    if (share := float(np.mean(silent))) >= 0.1:
        text = f"{percent(share)} of the steps had no gradient: every group was dead, the margin counted"
        advice = "look at the bank's findings: too hard, too easy, cut off or wrongly graded"
        yield Finding("error" if share == 1 else "warning", "zero gradient", text, advice, PAGE)
    moved = [row["weights/moved_frac"] for row in rows if row.get("weights/moved_frac") is not None]
    if moved and moved[-1] < 0.1:
        text = f"only {percent(moved[-1])} of the weights moved in the first steps"
        yield Finding(
            "warning", "weights", text, "train from float32 weights, or raise learning_rate", "docs/memory.md"
        )


def _shares(rows: list[dict[str, Any]]) -> Iterator[Finding]:
    """Shares of groups and completions that are large at the end."""
    for key, name, limit, text, advice, page in (
        ("signal/dead_after_margin_frac", "dead groups", 0.5, "of the groups had no gradient",
         "refill (min_live_frac), draw again (redraw), weigh or filter prompts, or raise num_generations",
         "docs/curriculum.md"),
        ("rollout/truncated_frac", "truncated", 0.25, "of the completions were cut at max_completion_length",
         "raise it, or add an overlong_buffer", "docs/algorithms.md"),
        ("grading/no_answer_frac", "no answer", 0.25, "of the completions had no answer that the grader reads",
         "ask for a form of answer that it reads, or set answer_convention", "docs/grading.md"),
        ("grading/timeout_frac", "timeout", 0.02, "of the comparisons with the gold answer hit their limits",
         "look at the gold answers", "docs/grading.md"),
        ("sampling/lost_token_frac", "lost tokens", 0.1, "of the tokens weighed less than 1/2 against the sampler",
         "set vllm_importance_sampling_mode to token_truncate, sample in the precision that is trained in",
         "docs/launch.md"),
        ("rollout/unscored_frac", "unscored", 0.05, "of the completions were not judged",
         "check answer_column and the reward functions", "docs/grading.md"),
    ):  # fmt: skip
        share = _mean(_end(rows), key)
        if share is not None and share >= limit:
            yield Finding("warning", name, f"{percent(share)} {text} at the end", advice, page)


def _drift(rows: list[dict[str, Any]]) -> Iterator[Finding]:
    first, last = (_mean(part, "entropy") for part in (_start(rows), _end(rows)))
    if first and last is not None and last < 0.1 * first:
        text = f"the entropy of the policy fell from {first:.3g} to {last:.3g} nats a token"
        yield Finding("warning", "entropy", text, "lower learning_rate, or raise epsilon_high or temperature", PAGE)
    gap = _mean(_end(rows), "sampling/sampling_logp_difference/mean")
    if gap is not None and gap > 0.05:
        text = f"sampler and trainer differ by {gap:.3g} nats in the log-probability of a token"
        advice = "sample in the precision that is trained in, and with the same weights"
        yield Finding("warning", "sampler", text, advice, "docs/launch.md")


def _start(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[: ceil(len(rows) * START)]


def _end(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[-ceil(len(rows) * END) :]


def _mean(rows: list[dict[str, Any]], key: str) -> float | None:
    """The mean of a metric over the rows that have it; None where none does."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return float(np.mean(values)) if values else None

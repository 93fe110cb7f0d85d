"""Rollouts of a run to browse: a few groups of a few steps, whole, chosen by the hash of their prompts."""

from typing import Any, NamedTuple

from aapo.reporting.problems import Sample, shorten_to, to_sample
from aapo.runs import RunDirectory

NUM_STEPS = 8
GROUPS_A_STEP = 2
MAX_ROLLOUTS_A_GROUP = 8
CHARACTER_BUDGET = 800_000


class Rollout(NamedTuple):
    """A completion with what it was paid and how it was weighed."""

    step: int
    prompt: str
    gold: str
    sample: Sample
    reward: float | None
    advantage: float
    margin: float
    augmented: float

    @property
    def paid(self) -> str:
        """The reward as text; rewards that print alike are one choice of the filter."""
        return "none" if self.reward is None else f"{self.reward:.2f}"

    @property
    def verdict(self) -> str:
        """The grader's verdict, else the mark."""
        return self.sample.why.split(", by ")[0] or self.sample.mark


class Browser(NamedTuple):
    """Rollouts, the choices of their filters, and how many characters of a completion are shown."""

    rollouts: list[Rollout]
    steps: list[int]
    verdicts: list[str]
    rewards: list[str]
    characters: int


def read_browser(run: RunDirectory) -> Browser | None:
    """Two groups of each of eight evenly spaced steps, the first and the last among them; None without rollouts."""
    steps = run.rollout_steps()
    if not steps:
        return None
    last = len(steps) - 1
    chosen = sorted({steps[round(place * last / (NUM_STEPS - 1))] for place in range(NUM_STEPS)})
    rollouts = [rollout for step in chosen for rollout in _of_step(run, step)]
    return Browser(
        rollouts,
        chosen,
        sorted({rollout.verdict for rollout in rollouts}),
        sorted({rollout.paid for rollout in rollouts}),
        shorten_to([len(rollout.sample.text) for rollout in rollouts], CHARACTER_BUDGET),
    )


def _of_step(run: RunDirectory, step: int) -> list[Rollout]:
    """The groups with the smallest prompt keys, which are hashes, so that the choice looks at no completion."""
    rows = run.rollouts(step)
    keys = sorted({row["prompt_key"] for row in rows})[:GROUPS_A_STEP]
    groups = ([row for row in rows if row["prompt_key"] == key] for key in keys)
    return [_rollout(row) for group in groups for row in group[:MAX_ROLLOUTS_A_GROUP]]


def _rollout(row: dict[str, Any]) -> Rollout:
    verdict = next((row[name] for name in row if name.startswith("verdict/")), None)
    rule = next((row[name] for name in row if name.startswith("rule/")), None)
    reason = "length" if row["truncated"] else "stop"
    sample = to_sample({**row, "verdict": verdict, "rule": rule, "finish_reason": reason})
    numbers = (row["reward"], row["advantage"], row["margin"], row["augmented"])
    return Rollout(row["step"], row["prompt"], row["gold"], sample, *numbers)

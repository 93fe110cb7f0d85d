"""Rollouts of runs to browse: a few groups of a few steps, whole, chosen by the hash of their prompts."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from aapo.grading import VERDICT, Judge
from aapo.reporting.problems import Sample, shorten_to, to_sample
from aapo.runs import RunDirectory

NUM_STEPS = 8
GROUPS_A_STEP = 2
MAX_ROLLOUTS_A_GROUP = 8
CHARACTER_BUDGET = 800_000


class Rollout(NamedTuple):
    """A completion with what it was paid and how it was weighed."""

    run: str
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
    runs: list[str]
    steps: list[int]
    verdicts: list[str]
    rewards: list[str]
    characters: int


def read_browser(
    runs: Mapping[str, RunDirectory], num_steps: int = NUM_STEPS, groups_a_step: int = GROUPS_A_STEP
) -> Browser | None:
    """Groups of evenly spaced steps of each run, the first and the last among them; None without rollouts.

    The choice is by the prompt's hash, so runs that saw the same prompts at a step show the same ones side by side.

    Args:
        runs: By the name that the page gives them.
        num_steps: Steps of each run, at least 2.
        groups_a_step: Groups of each of these steps.
    """
    rollouts = [
        rollout
        for name, run in runs.items()
        for step in _spaced(run.rollout_steps(), num_steps)
        for rollout in _of_step(run, name, step, groups_a_step)
    ]
    if not rollouts:
        return None
    places = {name: place for place, name in enumerate(runs)}
    rollouts.sort(key=lambda rollout: (rollout.step, rollout.prompt, places[rollout.run]))
    return Browser(
        rollouts,
        list(runs),
        sorted({rollout.step for rollout in rollouts}),
        sorted({rollout.verdict for rollout in rollouts}),
        sorted({rollout.paid for rollout in rollouts}),
        shorten_to([len(rollout.sample.text) for rollout in rollouts], CHARACTER_BUDGET),
    )


def _spaced(steps: list[int], number: int) -> list[int]:
    """At most `number` of the steps, evenly spaced, with both ends."""
    if not steps:
        return []
    return sorted({steps[round(place * (len(steps) - 1) / (number - 1))] for place in range(number)})


def _of_step(run: RunDirectory, name: str, step: int, number: int) -> list[Rollout]:
    """The groups with the smallest prompt keys, which are hashes, so that the choice looks at no completion."""
    rows, judge = run.rollouts(step), Judge(run.recipe()["fields"].get("judge"))
    keys = sorted({row["prompt_key"] for row in rows})[:number]
    groups = ([row for row in rows if row["prompt_key"] == key] for key in keys)
    return [_rollout(name, row, judge) for group in groups for row in group[:MAX_ROLLOUTS_A_GROUP]]


def _rollout(name: str, row: dict[str, Any], judge: Judge) -> Rollout:
    names = [name.removeprefix("reward/") for name in row if name.startswith("reward/")]
    column = judge.verdicts(names, row) or ""
    verdict, rule = row.get(column), row.get(f"rule/{column.removeprefix(VERDICT)}")
    reason = "length" if row["truncated"] else "stop"
    sample = to_sample({**row, "verdict": verdict, "rule": rule, "finish_reason": reason})
    numbers = (row["reward"], row["advantage"], row["margin"], row["augmented"])
    return Rollout(name, row["step"], row["prompt"], row["gold"], sample, *numbers)

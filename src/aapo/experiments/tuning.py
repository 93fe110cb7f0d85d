"""The settings that each algorithm of a comparison gets, chosen on seeds that the comparison does not have."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aapo.errors import AapoError
from aapo.experiments.plan import Plan, Variant
from aapo.experiments.registration import Registered, add_to_record, read_record
from aapo.experiments.summary import FinishedRun

RULE = "the highest mean final score over the tuning seeds; of equals the first of the grid"


class Choice(NamedTuple):
    """What was chosen for an algorithm.

    Attributes:
        asked: The algorithm as the plan names it.
        chosen: With what was chosen.
        scores: Mean final score over the tuning seeds, by label; without what has a run that failed.
    """

    asked: Variant
    chosen: Variant
    scores: dict[str, float]


def choose(plan: Plan, asked: Sequence[Variant], grid: Mapping[str, Any]) -> list[Choice]:
    """The best combination of the grid for each algorithm, by `RULE`; what was chosen in an earlier call stays.

    Raises:
        AapoError: All combinations of an algorithm have a run that is not done.
    """
    rows = _recorded(plan.folder.parent)
    return [
        Choice(variant, Variant.stored(rows[variant.label]), rows[variant.label]["scores"])
        if variant.label in rows
        else _best(plan, variant, [found for found in plan.variants if _is_of(found, variant, grid)])
        for variant in asked
    ]


def _best(plan: Plan, asked: Variant, tried: Sequence[Variant]) -> Choice:
    scores = {}
    for variant in tried:
        runs = [run for run in plan.runs if run.variant == variant]
        if all(run.done for run in runs):
            scores[variant.label] = float(np.mean([FinishedRun.read(run.path).final for run in runs]))
    if not scores:
        raise AapoError(f"no setting of the grid ran through for {asked.label}, so none can be chosen")
    label = max(scores, key=lambda label: scores[label])  # the first of equals
    best = next(variant for variant in tried if variant.label == label)
    tuned = {key: value for key, value in best.settings.items() if key not in asked.settings}
    return Choice(asked, replace(asked, tuned=tuned), scores)


def _is_of(found: Variant, asked: Variant, grid: Mapping[str, Any]) -> bool:
    """Whether a variant is the asked one with settings of the grid."""
    rest = {key: value for key, value in found.settings.items() if key not in grid or key in asked.settings}
    return found.algorithm == asked.algorithm and rest == dict(asked.settings)


def record_choices(folder: Path, registered: Registered, plan: Plan, choices: Sequence[Choice]) -> None:
    """Record what was tried and chosen, which from then on holds for the comparison."""
    add_to_record(
        folder,
        "tuning",
        {
            "grid": registered.plan.grid,
            "seeds": registered.plan.tuning_seeds,
            "rule": RULE,
            "configurations": len(plan.variants),
            "runs": len(plan.runs),
            "choices": [
                {"label": choice.asked.label, **asdict(choice.chosen), "scores": choice.scores} for choice in choices
            ],
        },
    )


def recorded_choices(folder: Path, asked: Sequence[Variant]) -> list[Variant] | None:
    """The variants with the settings that were chosen in an earlier call; None unless all have one."""
    rows = _recorded(folder)
    if not {variant.label for variant in asked} <= rows.keys():
        return None
    return [Variant.stored(rows[variant.label]) for variant in asked]


def _recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """The choices in the record of a comparison, by the label that the plan gives the algorithm."""
    return {row["label"]: row for row in read_record(folder).get("tuning", {}).get("choices", [])}

"""What the runs of a comparison say: scores of each variant, paired differences, verdicts; `summary.json`.

Shapes: S seeds, P problems.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from aapo.errors import InputError
from aapo.evaluation import Estimate, Evaluation, read_evaluations
from aapo.experiments.plan import RUNS, Match, Variant, stored_plan
from aapo.experiments.registration import plan_summary, read_record
from aapo.experiments.statistics import (
    Difference,
    area_under_curve,
    holm,
    interquartile_mean,
    judge,
    mean_over_seeds,
    paired_difference,
    probability_of_improvement,
    seeds_needed,
)
from aapo.files import write_json
from aapo.runs import RunDirectory

SUMMARY = "summary.json"
CURVE_METRIC = "eval_rollout/accuracy"
POSITION = {"steps": "step", "tokens": "rollout/generated_tokens", "seconds": "seconds"}
# What the reference samples cost, beside them.
BANK = {"tokens": "bank/generated_tokens", "seconds": "bank/seconds"}
# With more variants every one is held against the first only.
MAX_ALL_PAIRS = 8
CORRECTION = "Holm, over all pairs of final scores"
# A run that ends below this share of the budget was not matched: something else ended it, such as `max_steps`.
WHOLE = 0.99


@dataclass(frozen=True)
class FinishedRun:
    """A run that is trained and evaluated.

    Attributes:
        path: Its run directory.
        seed: Its seed.
        trained: The final model on the held-out problems.
        rows: Its metrics, one dictionary a step.
        bank_share: Share of what its reference samples cost that counts.
    """

    path: Path
    seed: int
    trained: Evaluation
    rows: list[dict[str, Any]]
    bank_share: float = 0.0

    @classmethod
    def read(cls, path: Path, bank_share: float = 0.0) -> "FinishedRun":
        """The run in a run directory.

        Raises:
            InputError: Its evaluation is damaged, or of another model.
        """
        run = RunDirectory(path)
        found = {item.model: item for item in read_evaluations(run.evaluation)}
        if "trained" not in found:
            raise InputError(
                f"{run.evaluation} says nothing of the trained model; delete it, and the same `aapo compare` evaluates "
                "the run again"
            )
        return cls(path, int(path.name.removeprefix("seed-")), found["trained"], run.metrics(), bank_share)

    @cached_property
    def scores(self) -> dict[str, float]:
        """Share of right samples by problem."""
        values = self.trained.values_P(f"avg@{self.trained.num_samples}")
        return dict(zip(self.trained.problems, values.tolist(), strict=True))

    @property
    def final(self) -> float:
        """The held-out score."""
        return self.trained.estimate().estimate

    def curve(self, match: Match) -> tuple[list[float], list[float]]:
        """Held-out scores while training, and where: at steps, generated tokens or seconds."""
        points = [row for row in self.rows if row.get(CURVE_METRIC) is not None]
        positions = [self._position(row["step"], match) for row in points]
        return positions, [row[CURVE_METRIC] for row in points]

    def _position(self, step: int, match: Match) -> float:
        """Where a step is; its metrics may be split over lines, and the start has none."""
        bank = self.bank_share * self._at(step, BANK[match]) if match in BANK else 0.0
        return self._at(step, POSITION[match]) + bank

    def _at(self, step: int, key: str) -> float:
        known = [row[key] for row in self.rows if row["step"] <= step and row.get(key) is not None]
        return float(known[-1]) if known and step else 0.0

    @property
    def whole_bank_tokens(self) -> float:
        """The tokens of all reference samples of the prompts that it came to, whatever its share of them is."""
        return self._at(self.rows[-1]["step"], BANK["tokens"])

    @property
    def bank_tokens(self) -> float:
        """Of the tokens at its end those that are its share of the reference samples'."""
        return self.bank_share * self.whole_bank_tokens

    def end(self, match: Match) -> float:
        """Where the run ends."""
        return self._position(self.rows[-1]["step"], match)


@dataclass(frozen=True)
class Group:
    """The finished runs of one variant, by seed."""

    variant: Variant
    runs: list[FinishedRun]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the finished runs, ascending."""
        return [run.seed for run in self.runs]

    @property
    def finals_S(self) -> np.ndarray:
        """Final scores."""
        return np.array([run.final for run in self.runs])

    def only(self, seeds: Sequence[int]) -> "Group":
        """The runs with these seeds."""
        return Group(self.variant, [run for run in self.runs if run.seed in seeds])

    def scores_SP(self, problems: Sequence[str]) -> np.ndarray:
        """Final scores by problem; NaN where one could not be scored."""
        return np.array([[run.scores.get(problem, np.nan) for problem in problems] for run in self.runs])

    def areas_S(self, match: Match, end: float) -> np.ndarray | None:
        """Areas under the curves up to `end`; None where a run has no curve."""
        curves = [run.curve(match) for run in self.runs]
        if not all(positions for positions, _ in curves):
            return None
        return np.array([area_under_curve(positions, values, end) for positions, values in curves])


def write_summary(folder: Path) -> dict[str, Any]:
    """Read the runs of a comparison that are finished, write its `summary.json` and return it.

    Raises:
        InputError: The folder holds no comparison, or no finished run.
    """
    plan = stored_plan(folder)
    if not plan:
        raise InputError(f"{folder} holds no comparison; name a folder that `aapo compare` wrote")
    record = read_record(folder)
    share = float(plan.get("bank_share", 0.0))
    groups, unfinished = [], []
    for row in plan["variants"]:
        variant = Variant.stored(row)
        runs = sorted((folder / RUNS / variant.folder).glob("seed-*.yaml"), key=lambda path: int(path.stem[5:]))
        done = [run for path in runs if ((run := path.with_suffix("")) / "evaluation" / "results.json").is_file()]
        groups.append(Group(variant, [FinishedRun.read(run, share) for run in done]))
        unfinished += [run for path in runs if (run := path.with_suffix("")) not in done]
    finished = [group for group in groups if group.runs]
    if not finished:
        raise InputError(f"{folder} has no finished run yet; go on with the same `aapo compare`")
    summary = summarise(finished, plan["match"], plan["budget"])
    for row, group in zip(summary["variants"], finished, strict=True):
        row["runs"] = [str(run.path.relative_to(folder)) for run in group.runs]
    failed = {run: run.parent / f"{run.name}.failed" for run in unfinished}
    summary = {
        "recipe": plan["recipe"],
        **summary,
        "bank_share": share,
        "plan": plan_summary(record),
        "tuning": record.get("tuning"),
        "failures": [
            {"run": str(run.relative_to(folder)), "reason": file.read_text(encoding="utf-8").strip()}
            for run, file in failed.items()
            if file.exists()
        ],
        "missing": [
            {
                "run": str(run.relative_to(folder)),
                "step": rows[-1]["step"] if (rows := RunDirectory(run).metrics()) else 0,
            }
            for run, file in failed.items()
            if not file.exists()
        ],
        "short": [
            {"run": str(run.path.relative_to(folder)), "end": end}
            for group in finished
            for run in group.runs
            if (end := run.end(plan["match"])) < WHOLE * plan["budget"]
        ],
    }
    write_json(folder / SUMMARY, summary)
    return summary


def summarise(groups: Sequence[Group], match: Match, budget: float) -> dict[str, Any]:
    """Everything that the finished runs of each variant say.

    Curves end where the shortest run ends, and at the budget at the latest.
    """
    end = min([budget, *(run.end(match) for group in groups for run in group.runs)])
    pairs = _pairs(groups, match, end)
    first = groups[0].runs[0]
    return {
        "task": first.trained.task,
        "protocol": first.trained.protocol,
        "num_problems": len(first.trained.problems),
        "num_samples": first.trained.num_samples,
        "match": match,
        "budget": budget,
        "correction": CORRECTION,
        "variants": [_variant_row(group, match, end) for group in groups],
        "pairs": pairs,
    }


def _variant_row(group: Group, match: Match, end: float) -> dict[str, Any]:
    finals_S, areas_S = group.finals_S, group.areas_S(match, end)
    curves = [run.curve(match) for run in group.runs]
    return {
        "label": group.variant.label,
        "algorithm": group.variant.algorithm,
        "settings": dict(group.variant.settings),
        "tuned": dict(group.variant.tuned),
        "seeds": group.seeds,
        "final": _scores(finals_S),
        "area": None if areas_S is None else _scores(areas_S),
        "curves": [
            {
                "seed": run.seed,
                "positions": positions,
                "scores": scores,
                "tokens": run.curve("tokens")[0],
                "end_tokens": run.end("tokens"),
            }
            for run, (positions, scores) in zip(group.runs, curves, strict=True)
        ],
        "cost": {
            **{name: float(np.mean([run.end(name) for run in group.runs])) for name in get_args(Match)},
            "bank_tokens": float(np.mean([run.bank_tokens for run in group.runs])),
            "whole_bank_tokens": float(np.mean([run.whole_bank_tokens for run in group.runs])),
        },
    }


def _scores(values_S: np.ndarray) -> dict[str, Any]:
    return {
        "scores": values_S.tolist(),
        "mean": _numbers(mean_over_seeds(values_S)),
        "interquartile_mean": _numbers(interquartile_mean(values_S)),
    }


def _numbers(estimate: Estimate) -> dict[str, float | None]:
    return {key: None if np.isnan(value) else value for key, value in estimate._asdict().items()}


class Pair(NamedTuple):
    """Two variants on the seeds that both have: the difference of their final scores, and the row of the summary."""

    difference: Difference
    row: dict[str, Any]


def _pairs(groups: Sequence[Group], match: Match, end: float) -> list[dict[str, Any]]:
    """Every pair of variants, or each with the first where they are many; Holm's correction over all of them."""
    if len(groups) <= MAX_ALL_PAIRS:
        chosen = itertools.combinations(groups, 2)
    else:
        chosen = ((groups[0], other) for other in groups[1:])
    pairs = [pair for one, other in chosen if (pair := _pair(one, other, match, end))]
    corrected = holm([pair.difference.p_value for pair in pairs])
    rows = []
    for (difference, row), p_value in zip(pairs, corrected, strict=True):
        verdict = judge(difference, p_value)
        needed = seeds_needed(difference, len(pairs)) if verdict == "cannot tell" else None
        known = {"p_value": difference.p_value, "p_corrected": p_value}
        p_values = {key: None if np.isnan(value) else value for key, value in known.items()}
        rows.append({**row, **p_values, "verdict": verdict, "seeds_needed": needed})
    return rows


def _pair(one: Group, other: Group, match: Match, end: float) -> Pair | None:
    """Paired by seed and problem for final scores, by seed for areas; None where no seed is shared."""
    seeds = [seed for seed in one.seeds if seed in other.seeds]
    if not seeds:
        return None
    mine, theirs = one.only(seeds), other.only(seeds)
    problems = mine.runs[0].trained.problems
    difference = paired_difference(mine.scores_SP(problems), theirs.scores_SP(problems))
    areas = [group.areas_S(match, end) for group in (mine, theirs)]
    area = None if areas[0] is None or areas[1] is None else paired_difference(areas[0][:, None], areas[1][:, None])
    row = {
        "one": one.variant.label,
        "other": other.variant.label,
        "seeds": seeds,
        "final": _ends(difference),
        "area": area and _ends(area),
        "probability_of_improvement": _numbers(probability_of_improvement(one.finals_S, other.finals_S)),
    }
    return Pair(difference, row)


def _ends(difference: Difference) -> Mapping[str, float]:
    return {"difference": difference.difference, "low": difference.low, "high": difference.high}

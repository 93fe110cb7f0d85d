"""What a reference bank says about a training run before its first step: numbers, findings, and three samples.

Shapes: P prompts, K reference samples per prompt, G rollouts per prompt.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import Any, NamedTuple

import numpy as np

from aapo.bank import ReferenceBank
from aapo.evaluation.estimates import Estimate, average_P, score
from aapo.grading import VERDICT, Judge
from aapo.learning.forecast import GroupForecast, ReferenceSamples, forecast_groups
from aapo.objective import Objective
from aapo.runs import finite
from aapo.scoring import GradingShares, grading_shares

# Among so many prompts three samples are looked for.
NUM_LOOKED_AT = 64


class Setting(NamedTuple):
    """What of a run decides what a bank says about it.

    Attributes:
        objective: Advantage and margin.
        num_generations: G.
        max_completion_length: Most tokens of a completion.
        weights: Of the reward functions, by name.
        judge: Says what is right.
        asks: What the prompts say about the form of the answer, such as the system prompt; empty where it is not known.
        same_model: Whether the reference is the model that training starts from, so that its samples say what rollouts
            will be.
    """

    objective: Objective
    num_generations: int
    max_completion_length: int
    weights: dict[str, float]
    judge: Judge
    asks: str = ""
    same_model: bool = True


class Sample(NamedTuple):
    """A reference sample, to be shown."""

    prompt: str
    gold: str
    completion: str
    num_tokens: int
    truncated: bool
    verdict: str
    extracted: str | None


@dataclass(frozen=True)
class BankReport:
    """A bank in the light of a run.

    Attributes:
        num_prompts: P, of the run's prompts those that the bank has.
        num_samples: K.
        num_generations: G.
        max_completion_length: Most tokens of a completion.
        pass_rate: Mean over prompts of the share of right samples, with its 95% interval over prompts.
        groups: What the run's first groups will be like.
        has_margin: Whether the objective has a margin.
        truncated_frac: Share of samples cut at the limit.
        mean_tokens: Mean completion tokens.
        max_tokens: Longest completion, in tokens.
        unscored_frac: Share of samples that no reward function scored.
        grading: Shares of samples with no answer, a timeout or an unparseable gold; None without verdicts.
        unread_frac: Of the samples that are not cut, the share without an answer; NaN without verdicts or such samples.
        judge: The reward function that says what is right; None where none does.
        spread: By reward function, the standard deviation of its weighted reward within a prompt, root mean square over
            prompts: how much it moves the advantage.
        constant: What the functions paid that paid all samples the same.
        samples: Up to three, of different verdicts.
    """

    num_prompts: int
    num_samples: int
    num_generations: int
    max_completion_length: int
    pass_rate: Estimate
    groups: GroupForecast
    has_margin: bool
    truncated_frac: float
    mean_tokens: float
    max_tokens: int
    unscored_frac: float
    grading: GradingShares | None
    unread_frac: float
    judge: str | None
    spread: dict[str, float]
    constant: dict[str, float]
    samples: tuple[Sample, ...]

    def describe(self) -> dict[str, Any]:
        """The numbers, for a manifest or JSON; null for those that are unknown."""
        values = {key: value for key, value in vars(self).items() if key != "samples"}
        parts = {"pass_rate": self.pass_rate, "groups": self.groups, "grading": self.grading}
        values |= {key: part and finite(part._asdict()) for key, part in parts.items()}
        return finite(values | {"spread": finite(self.spread)})


def report_bank(bank: ReferenceBank, setting: Setting, keys: Collection[str] | None = None) -> BankReport:
    """What the bank says about the run.

    Args:
        bank: Samples and scores.
        setting: The run's.
        keys: Keys of the run's prompts; by default all of the bank. One that the bank lacks is left out.
    """
    names = list(setting.weights)
    verdicts = [name for name in bank.columns() if name.startswith(VERDICT)]
    rows = [row for row in bank.rows(["num_tokens", "finish_reasons", *verdicts]) if keys is None or row["key"] in keys]
    num_samples = bank.num_samples
    shape = (len(rows), num_samples)
    rewards = {name: np.array([bank.rewards(row["key"])[name] for row in rows], float).reshape(shape) for name in names}
    found = ReferenceSamples(
        np.array([bank.totals(row["key"], setting.weights) for row in rows], float).reshape(shape),
        np.array([bank.correct(row["key"], setting.judge) for row in rows], float).reshape(shape),
        np.array([row["num_tokens"] for row in rows], int).reshape(shape),
        np.array([row["finish_reasons"] for row in rows], dtype=object).reshape(shape) == "length",
    )
    notes = {name: [note for row in rows for note in row[name] or [None] * num_samples] for name in verdicts}
    column = setting.judge.verdicts(names, notes)
    unread_PK = np.array(notes[column] if column else [], dtype=object) == "no_answer"
    whole_PK = ~found.truncated_PK.reshape(-1)
    return BankReport(
        num_prompts=len(rows),
        num_samples=num_samples,
        num_generations=setting.num_generations,
        max_completion_length=setting.max_completion_length,
        pass_rate=score(average_P(found.correct_PK)),
        groups=forecast_groups(setting.objective, found, setting.num_generations, setting.max_completion_length),
        has_margin=setting.objective.margin != "none",
        truncated_frac=_mean(found.truncated_PK),
        mean_tokens=_mean(found.lengths_PK),
        max_tokens=int(found.lengths_PK.max(initial=0)),
        unscored_frac=_mean(np.isnan(found.rewards_PK)),
        grading=grading_shares(setting.judge, names, notes),
        unread_frac=_mean(unread_PK[whole_PK]) if column else float("nan"),
        judge=column.removeprefix(VERDICT) if column else setting.judge.name,
        spread={name: _spread(setting.weights[name] * rewards[name]) for name in names},
        constant={
            name: float(paid[0])
            for name, values_PK in rewards.items()
            if len(paid := np.unique(values_PK[~np.isnan(values_PK)])) == 1
        },
        samples=_samples(bank, setting.judge, keys),
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _spread(values_PK: np.ndarray) -> float:
    """Root mean square over prompts of the standard deviation of their scored samples, the population's (ddof 0)."""
    scored_PK = ~np.isnan(values_PK)
    count_P = np.maximum(scored_PK.sum(1), 1)
    mean_P = np.nansum(values_PK, 1) / count_P
    variance_P = np.nansum((values_PK - mean_P[:, None]) ** 2, 1) / count_P
    return float(np.sqrt(variance_P[scored_PK.any(1)].mean())) if scored_PK.any() else float("nan")


def _samples(bank: ReferenceBank, judge: Judge, keys: Collection[str] | None) -> tuple[Sample, ...]:
    """Up to three samples, of as many kinds as there are: verdicts, cut or not."""
    kinds: dict[tuple[str, bool], list[Sample]] = {}
    for sample in _stored(bank, judge, keys):
        kinds.setdefault((sample.verdict, sample.truncated), []).append(sample)
    in_turn = chain.from_iterable(zip_longest(*kinds.values()))
    return tuple(islice(filter(None, in_turn), 3))


def _stored(bank: ReferenceBank, judge: Judge, keys: Collection[str] | None) -> Iterator[Sample]:
    """The samples of the run's first prompts."""
    column = judge.verdicts(list(bank.identity["rewards"]), bank.columns())
    extracted = column and column.replace(VERDICT, "extracted/", 1)
    wanted = ["prompt", "gold", "completions", "num_tokens", "finish_reasons", *filter(None, (column, extracted))]
    for row in islice((row for row in bank.rows(wanted) if keys is None or row["key"] in keys), NUM_LOOKED_AT):
        for k, completion in enumerate(row["completions"]):
            yield Sample(
                row["prompt"],
                row["gold"],
                completion,
                row["num_tokens"][k],
                row["finish_reasons"][k] == "length",
                str(_at(row, column, k)).replace("_", " ") if column else _marked(bank.correct(row["key"], judge)[k]),
                _at(row, extracted, k),
            )


def _at(row: dict[str, Any], column: str | None, place: int) -> Any:
    """The note of a sample; a function does not always log one."""
    values = row.get(column) if column else None
    return values[place] if values else None


def _marked(correct: float | None) -> str:
    return "not judged" if correct is None else "correct" if correct else "wrong"

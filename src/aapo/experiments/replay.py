"""What every algorithm would have done with a run's rollouts: their advantages, from stored rewards, without a model.

Shapes: P prompts of a generation batch, G rollouts per prompt, K reference samples per prompt, S steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from aapo.errors import InputError
from aapo.evaluation import Estimate
from aapo.experiments.quantities import Pushes, Quantities, batch_sums, over_run, quantities
from aapo.experiments.stored import (
    StoredBatch,
    manifest_bank,
    read_references,
    read_step,
    sampling_of,
    stored_steps,
)
from aapo.objective import ALGORITHMS, Objective, augmented_advantages, objective
from aapo.runs import RunDirectory

NO_ENTROPIES = "it reads the entropies of tokens, which a run does not store"
NO_REFERENCE = "reference rewards are missing: the run stored none, so name a bank of its prompts with --bank"

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class AlgorithmReplay:
    """One algorithm on the run's rollouts.

    Attributes:
        name: As it was asked for.
        objective: Its fields.
        whole: The quantities over the whole run, with intervals.
        steps: The quantities of each step, arrays of shape (S,); NaN where one is not defined.
    """

    name: str
    objective: dict[str, Any]
    whole: Quantities[Estimate]
    steps: Quantities[np.ndarray]


@dataclass(frozen=True)
class Replay:
    """Algorithms on the stored rollouts of one run.

    Attributes:
        run: The run directory.
        steps_S: The steps that have rollouts, ascending.
        num_batches: Generation batches.
        num_groups: Groups.
        num_samples: Rollouts.
        num_unscored: Rollouts without a reward.
        num_reference_samples: K; 0 where no reference rewards are known.
        bank: Where the reference rewards come from; None where they are those stored with the rollouts, or unknown.
        own: What the run itself made of its rollouts, as it stored it; named after its algorithm.
        algorithms: What was replayed, in the order asked for.
        refused: Why each algorithm was not replayed that could not be.
    """

    run: Path
    steps_S: np.ndarray
    num_batches: int
    num_groups: int
    num_samples: int
    num_unscored: int
    num_reference_samples: int
    bank: Path | None
    own: AlgorithmReplay
    algorithms: tuple[AlgorithmReplay, ...]
    refused: dict[str, str]

    def describe(self) -> dict[str, Any]:
        """Everything as JSON; what is not defined is null."""
        return {
            "run": str(self.run),
            "steps": self.steps_S.tolist(),
            "num_batches": self.num_batches,
            "num_groups": self.num_groups,
            "num_samples": self.num_samples,
            "num_unscored": self.num_unscored,
            "num_reference_samples": self.num_reference_samples,
            "bank": None if self.bank is None else str(self.bank),
            "own": _described(self.own),
            "algorithms": [_described(item) for item in self.algorithms],
            "refused": self.refused,
        }


def replay_run(
    run: RunDirectory,
    names: Sequence[str] | None = None,
    bank: Path | None = None,
    *,
    tell: Tell = lambda done, total: None,
) -> Replay:
    """Replay algorithms on a run's rollouts.

    Each generation batch goes through `augmented_advantages` as in training. Groups, rewards and reference rewards are
    the run's, so what an algorithm would have sampled is not replayed: other rollouts of another policy, the groups
    that one draws in place of dead ones, or further rollouts of a prompt.

    Args:
        run: With stored rollouts.
        names: Algorithms, as a recipe's `algorithm`; by default all named ones that can be replayed.
        bank: Reference rewards by prompt; by default those stored with the rollouts, else of the manifest's bank.
        tell: Called with the number of steps done, 0 at first, and of all.

    Raises:
        InputError: An algorithm is unknown, there are no rollouts, the bank does not match, or nothing can be replayed.
    """
    points = {name: objective(name) for name in (names or ALGORITHMS)}
    steps = stored_steps(run)
    first = next(read_step(run, steps[0]))
    if bank is None and first.reference_PK is None:
        bank = manifest_bank(run)
    references = None if bank is None else read_references(run, bank)
    refused = {name: NO_ENTROPIES for name, point in points.items() if point.token_advantage is not None}
    if references is None and first.reference_PK is None:
        refused |= {name: NO_REFERENCE for name, point in points.items() if point.needs_reference}
    if refused.keys() == points.keys():
        raise InputError(
            f"{', '.join(points)} cannot be replayed, because {'; '.join(dict.fromkeys(refused.values()))}"
        )
    replayed = {name: point for name, point in points.items() if name not in refused}
    known = next(read_step(run, steps[0], references)).reference_PK
    stored = run.recipe("objective")["objective"]
    limit = sampling_of(run).max_completion_length
    counts, sums = [], []
    tell(0, len(steps))
    for done, step in enumerate(steps, 1):
        batches = list(read_step(run, step, references))
        counts += [_counts(batch) for batch in batches]
        sums.append(sum(_batch_sums(batch, replayed, stored["aggregation"], limit) for batch in batches))
        tell(done, len(steps))
    sums_SA = np.stack(sums)  # the run's own first, then the algorithms
    num_groups, num_samples, num_unscored = np.sum(counts, 0).tolist()
    return Replay(
        run=run.path,
        steps_S=np.array(steps),
        num_batches=len(counts),
        num_groups=num_groups,
        num_samples=num_samples,
        num_unscored=num_unscored,
        num_reference_samples=0 if known is None else known.shape[1],
        bank=bank,
        own=_collected(stored["algorithm"], stored, sums_SA[:, 0]),
        algorithms=tuple(
            _collected(name, point.describe(), sums_SA[:, i]) for i, (name, point) in enumerate(replayed.items(), 1)
        ),
        refused=refused,
    )


def pushes(point: Objective, batch: StoredBatch, max_completion_length: int) -> Pushes:
    """What an objective makes of a generation batch, as in training."""
    result = augmented_advantages(
        point,
        batch.rewards_PG,
        batch.reference_PK if point.needs_reference else None,
        shift=batch.step - 1,
        correct_PG=batch.correct_PG,
        lengths_PG=batch.tokens_PG,
        truncated_PG=batch.truncated_PG,
        max_completion_length=max_completion_length,
        values_PGF=batch.values_PGF,
        weights_F=batch.weights_F,
        spare_PX=batch.spare_PX,
        spare_lengths_PX=batch.spare_tokens_PX,
    )
    return Pushes(result.advantage_PG, result.augmented_PG, point.aggregation)


def _batch_sums(batch: StoredBatch, points: Mapping[str, Objective], aggregation: Any, limit: int) -> np.ndarray:
    """The sums of the run's own advantages and of each algorithm's, shape (1 + algorithms, number of sums)."""
    own = Pushes(batch.advantage_PG, batch.augmented_PG, aggregation)
    scored_PG = ~batch.rewards_PG.isnan()
    every = [own, *(pushes(point, batch, limit) for point in points.values())]
    return np.stack([batch_sums(item, own, scored_PG, batch.loss_tokens_PG, limit) for item in every])


def _counts(batch: StoredBatch) -> tuple[int, int, int]:
    missing_PG = batch.rewards_PG.isnan()
    return len(missing_PG), missing_PG.numel(), int(missing_PG.sum())


def _collected(name: str, fields: dict[str, Any], sums_S: np.ndarray) -> AlgorithmReplay:
    return AlgorithmReplay(name, fields, over_run(sums_S), quantities(sums_S))


def _described(item: AlgorithmReplay) -> dict[str, Any]:
    return {
        "name": item.name,
        "objective": item.objective,
        "whole": {
            name: {end: _number(value) for end, value in estimate._asdict().items()}
            for name, estimate in item.whole._asdict().items()
        },
        "steps": {name: [_number(value) for value in values] for name, values in item.steps._asdict().items()},
    }


def _number(value: float) -> float | None:
    return float(value) if isfinite(value) else None

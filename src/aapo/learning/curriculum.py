"""Which prompts a batch has: drawn by what they have paid so far, or from easy to hard, not in the order of the data.

Choices are functions of (seed, number of the batch, what was observed), and every process observes the rewards of all,
so that they do not depend on the number of processes, and a resumed run goes on with those of an uninterrupted one.
"""

import logging
from collections.abc import Iterable, Sequence
from math import ceil, isnan
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from aapo.errors import InputError
from aapo.files import write_json
from aapo.sampling import sample_seed
from aapo.stored import read_json

logger = logging.getLogger(__name__)

STRATEGIES = ("uniform", "hard", "soft", "medium")
CURRICULA = ("easy_to_hard",)
# A curriculum begins with this share of the prompts, the easiest, and has all of them at this share of the training.
FIRST_SHARE, ALL_AT = 0.25, 0.5
STATE_FILE = "prompts.json"


class Record(NamedTuple):
    """What a prompt has paid: right answers and all, rollouts and reference samples alike."""

    right: float = 0.0
    samples: float = 0.0


def check_strategy(weighted: bool, strategy: str | None, prior: str | None, curriculum: str | None) -> None:
    """Check the settings.

    Raises:
        InputError: One is unknown or missing.
    """
    if strategy is not None and strategy not in STRATEGIES:
        raise InputError(f"sample_strategy is {strategy!r}; it must be one of {', '.join(STRATEGIES)}")
    if weighted and strategy is None:
        raise InputError(f"weighted_sample needs a sample_strategy; set it to one of {', '.join(STRATEGIES)}")
    if prior not in (None, "bank"):
        raise InputError(f"sample_prior is {prior!r}; it must be bank, or null")
    if curriculum is not None and curriculum not in CURRICULA:
        raise InputError(f"curriculum is {curriculum!r}; it must be {' or '.join(CURRICULA)}, or null")


def strategy_weight(strategy: str, mean: float | None) -> float:
    """Weight of a prompt by its running mean m in [0, 1]; 1 of one that is not known yet.

    hard 1 - m; soft 1 - m, and 0 where m is 0 or 1; medium 1 where 0 < m < 1, else 0; uniform 1. Source: the code of
    GPG (arXiv 2504.02546).
    """
    if mean is None or strategy == "uniform":
        return 1.0
    mixed = 0.0 < mean < 1.0
    if strategy == "medium":
        return float(mixed)
    return 1.0 - mean if strategy == "hard" or mixed else 0.0


class PromptChoice:
    """Draws the prompts of each batch, and keeps what they have paid.

    A prompt's running mean is over its reference samples, if the run has a bank, and all its rollouts so far. Prompts
    are drawn without replacement within a batch, each with a probability by its weight (Efraimidis and Spirakis 2006,
    by Gumbel noise); when fewer have a weight than a batch takes, those without fill it.
    """

    def __init__(
        self,
        keys: Sequence[str],
        known: Sequence[Record],
        *,
        strategy: str = "uniform",
        curriculum: str | None = None,
        seed: int = 0,
    ) -> None:
        """Take the prompts.

        Args:
            keys: Each prompt's, in the order of the data.
            known: What each has paid the reference model; a curriculum takes one of which nothing is known for hard.
            strategy: One of `STRATEGIES`.
            curriculum: One of `CURRICULA`, or None.
            seed: Of the draws.

        Raises:
            InputError: A curriculum has nothing to go by.
        """
        if curriculum is not None and not any(record.samples for record in known):
            raise InputError("curriculum goes by the reference bank's pass rates, and this run has no bank")
        self.keys = list(keys)
        self.strategy = strategy
        self.seed = seed
        self.num_batches = 0
        self._first = dict(zip(keys, known, strict=True))
        self._records: dict[str, Record] = {}
        rates = [record.right / record.samples if record.samples else 0.0 for record in known]
        self._easiest = sorted(range(len(keys)), key=lambda i: (-rates[i], self.keys[i])) if curriculum else None
        self._warned = False

    def mean(self, key: str) -> float | None:
        """M of a prompt; None before anything is known of it."""
        first, seen = self._first[key], self._records.get(key, Record())
        samples = first.samples + seen.samples
        return (first.right + seen.right) / samples if samples else None

    def draw(self, number: int, progress: float) -> list[int]:
        """Places of the prompts of the next batch.

        Args:
            number: How many, at most all.
            progress: Share of the training that is done, for a curriculum.
        """
        self.num_batches += 1
        return self.order("batch", progress, at_least=number)[:number]

    def order(self, purpose: str, progress: float, *, at_least: int = 1) -> list[int]:
        """All places, those drawn first at the front: what a batch or its refill takes from, at the same progress."""
        size = len(self.keys)
        generator = torch.Generator().manual_seed(sample_seed(self.seed, "prompts", purpose, self.num_batches))
        uniform = torch.rand(size, generator=generator, dtype=torch.float64).clamp(min=1e-300)
        gumbel = -(-uniform.log()).log()
        weights = torch.tensor([strategy_weight(self.strategy, self.mean(key)) for key in self.keys])
        if self._easiest is not None:
            share = min(1.0, FIRST_SHARE + (1 - FIRST_SHARE) * progress / ALL_AT)
            weights[self._easiest[max(at_least, ceil(share * size)) :]] = 0.0
        if not self._warned and int((weights > 0).sum()) < at_least:
            self._warned = True
            logger.warning(
                "only %d of %d prompts have a weight and a batch takes %d; the others fill it",
                int((weights > 0).sum()), size, at_least,
            )  # fmt: skip
        # Those without a weight come last, in an order of their own.
        keyed = torch.where(weights > 0, weights.double().log() + gumbel, gumbel - 1e6)
        return keyed.argsort(descending=True).tolist()

    def observe(self, keys: Sequence[str], correct_B: Tensor) -> None:
        """Take what rollouts of all processes were worth: 1 right, 0 wrong, NaN not scored."""
        for key, value in zip(keys, correct_B.tolist(), strict=True):
            if not isnan(value) and key in self._first:
                record = self._records.get(key, Record())
                self._records[key] = Record(record.right + value, record.samples + 1)

    def metrics(self, drawn: Sequence[str]) -> dict[str, float]:
        """What is logged of a batch with these prompts, before their rollouts are observed."""
        weights = torch.tensor([strategy_weight(self.strategy, self.mean(key)) for key in self.keys])
        means = [mean for key in dict.fromkeys(drawn) if (mean := self.mean(key)) is not None]
        values = {
            "prompts/effective_number": (weights.sum() ** 2 / weights.square().sum().clamp(min=1e-12)).item(),
            "prompts/seen_frac": len(self._records) / len(self.keys),
        }
        return values | ({"prompts/mean_accuracy": sum(means) / len(means)} if means else {})

    def save(self, checkpoint: Path) -> None:
        """Write what was observed into a checkpoint."""
        write_json(checkpoint / STATE_FILE, {"num_batches": self.num_batches, "records": self._records})

    def load(self, checkpoint: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: It has no such state, for its run drew prompts in another way.
        """
        path = checkpoint / STATE_FILE
        if not path.exists():
            raise InputError(f"{checkpoint} has no {STATE_FILE}, so its run did not draw prompts by weight; start anew")
        fix = f"delete {checkpoint}, and the checkpoint before it is taken"
        state = read_json(path, fix, ("num_batches", "records"))
        self.num_batches = state["num_batches"]
        self._records = {key: Record(*record) for key, record in state["records"].items()}


def known_records(correct_PK: Iterable[Sequence[float | None]]) -> list[Record]:
    """What prompts paid the reference model: of each, its samples 1 right, 0 wrong, None where nothing says."""
    scored = ([value for value in correct_K if value is not None] for correct_K in correct_PK)
    return [Record(sum(values), float(len(values))) for values in scored]


def within(records: Sequence[Record], low: float | None, high: float | None) -> list[int]:
    """Places of the prompts whose pass rate is in [low, high]; one that is not known is not."""
    bounds = (0.0 if low is None else low, 1.0 if high is None else high)
    return [i for i, (right, of) in enumerate(records) if of and bounds[0] <= right / of <= bounds[1]]

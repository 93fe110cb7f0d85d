"""The order of training prompts: functions of the seed, so that a resumed run draws what an uninterrupted one draws."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.utils import RepeatSampler

from aapo.sampling import sample_seed


class EpochOrder(TrainerCallback):
    """Tells the sampler which epoch begins.

    Accelerate's own `set_epoch` does not reach a sampler behind the wrappers of several processes or of a resume.
    """

    def __init__(self) -> None:
        """Wait for the sampler, which the data loader makes."""
        self.sampler: EpochSampler | None = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Choose the epoch's order."""
        if self.sampler is not None:
            self.sampler.set_epoch(int((state.epoch or 0) + 1e-6))


class EpochSampler(RepeatSampler):
    """TRL's sampler with an order that is a function of (seed, epoch): a resumed run does not replay epoch 0."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of `epoch`."""
        if self.shuffle:
            self.generator.manual_seed(sample_seed(self.seed or 0, "order", epoch))


class FreshPrompts:
    """Prompts for a batch that has too many dead groups: those that it does not have, each once.

    Their order is a function of (seed, step, the batch's prompts), whatever the number of processes; rounds go on where
    the one before stopped.
    """

    def __init__(
        self,
        dataset: Dataset | Sequence[dict[str, Any]],
        key: Callable[[dict[str, Any]], str],
        batch_keys: Iterable[str],
        seed: int,
        step: int,
        order: Sequence[int] | None = None,
    ) -> None:
        """Take the training data, what tells its rows apart, what the batch has, and the order where one is given."""
        self.dataset = dataset
        self.key = key
        self.taken = set(batch_keys)
        if order is None:
            generator = torch.Generator()
            generator.manual_seed(sample_seed(seed, "refill", step, *sorted(self.taken)))
            order = torch.randperm(len(dataset), generator=generator).tolist()
        self._left = iter(order)

    def take(self, number: int) -> list[dict[str, Any]]:
        """The next rows; fewer than `number` once every prompt is taken."""
        rows = []
        while len(rows) < number:
            index = next(self._left, None)
            if index is None:
                break
            row = dict(self.dataset[index])
            if (key := self.key(row)) not in self.taken:
                self.taken.add(key)
                rows.append(row)
        return rows

"""The order of training prompts: functions of the seed, so that a resumed run draws what an uninterrupted one draws."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.utils import RepeatSampler

from aapo.learning.order import epoch_seed


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
        """Choose the permutation of `epoch`, that of `aapo.learning.order.epoch_order`."""
        if self.shuffle:
            self.generator.manual_seed(epoch_seed(self.seed or 0, epoch))

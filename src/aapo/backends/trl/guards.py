"""What is seen to while a run trains: that its numbers are finite and its weights move."""

import logging
from math import isfinite
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from aapo.engines.loading import not_finite
from aapo.errors import AapoError, InputError

logger = logging.getLogger(__name__)

MOVED = "weights/moved_frac"
# Weights are looked at for so many steps, so many of each tensor.
NUM_STEPS, SAMPLES_PER_TENSOR = 10, 4096
MIN_MOVED_FRAC = 0.5


def check_trainable(model: Any) -> None:
    """Check that there is something to train.

    Raises:
        InputError: Every parameter is frozen.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            "the model has no weights to train: all are frozen; set requires_grad, for an adapter load it with "
            "is_trainable=True"
        )


def check_finite(what: str, value: float, step: int) -> None:
    """Check a loss or a gradient's norm before the weights change by it.

    Raises:
        AapoError: It is infinite or NaN.
    """
    if not isfinite(value):
        raise AapoError(
            f"the {what} of step {step} is {value}; training stops before the weights change by it, and checkpoints "
            "are as they were; lower learning_rate, or look at the rewards of the step"
        )


def check_finite_weights(model: Any, step: int) -> None:
    """Check the weights that this process holds, before they are saved.

    Raises:
        AapoError: One is infinite or NaN; the message names its tensor.
    """
    if (name := not_finite(model)) is not None:
        raise AapoError(
            f"the weights {name} are not finite after step {step}; they are not saved, and earlier checkpoints are as "
            "they were; lower learning_rate, or look at the rewards of the last steps"
        )


class MovedWeights(TrainerCallback):
    """Logs in the first steps which share of the trained weights has moved, and warns of a small one.

    An update that is smaller than the spacing of a weight's number format leaves the weight as it is.
    """

    def __init__(self, metrics: dict[str, list[float]]) -> None:
        """Take what is logged of the next step."""
        self.metrics = metrics
        self._first_step = 0
        self._before: list[tuple[Tensor, Tensor]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember some of every tensor. DeepSpeed updates float32 weights of its own, which cannot be seen here."""
        if args.learning_rate == 0 or args.deepspeed_plugin is not None:
            return
        self._first_step = state.global_step
        trained = (parameter for parameter in kwargs["model"].parameters() if parameter.requires_grad)
        self._before = [(parameter, _some(parameter).clone()) for parameter in trained]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the share, and judge it once."""
        if not self._before:
            return
        num_weights = sum(parameter.numel() for parameter, _ in self._before)
        moved = sum(
            (_some(parameter) != before).float().mean().item() * parameter.numel()
            for parameter, before in self._before
            if len(before)  # a process may hold nothing of a tensor that is spread
        )
        self.metrics[MOVED].append(moved / num_weights)
        if state.global_step - self._first_step < NUM_STEPS:
            return
        if moved / num_weights < MIN_MOVED_FRAC and state.is_world_process_zero:
            dtypes = ", ".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter, _ in self._before}))
            logger.warning(
                "only %.1f%% of the trained weights have moved in %d steps: updates of learning_rate %g are lost in "
                "%s, or the gradient is zero on most of them; docs/memory.md says which runs train float32 weights",
                100 * moved / num_weights, NUM_STEPS, args.learning_rate, dtypes,
            )  # fmt: skip
        self._before = []


def _some(parameter: Any) -> Tensor:
    """Evenly spaced weights of what this process holds of a tensor, at most about 4,096."""
    held = parameter.detach()
    flat = (held.to_local() if isinstance(held, DTensor) else held).flatten()
    return flat[:: max(1, flat.numel() // SAMPLES_PER_TENSOR)]

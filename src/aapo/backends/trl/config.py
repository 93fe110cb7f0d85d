"""The trainer's configuration: TRL's GRPOConfig and the axes of the objective."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from torch.accelerator import is_available as accelerator_available
from trl import GRPOConfig

from aapo.errors import InputError
from aapo.fields import inert
from aapo.ranges import check_all
from aapo.recipe import Recipe
from aapo.recipe.effects import TRAINING_RULES, changed, refuse
from aapo.recipe.training import TrainingSettings

# Where a recipe's defaults differ from TRL's: every step is logged, progress is ours, old checkpoints go.
DEFAULTS = {
    "output_dir": "runs", "report_to": "none", "logging_steps": 1, "disable_tqdm": True, "save_total_limit": 2,
    "ddp_find_unused_parameters": False,
}  # fmt: skip


@dataclass
class AAPOConfig(TrainingSettings, GRPOConfig):  # pyright: ignore[reportIncompatibleVariableOverride]
    r"""TRL's GRPOConfig with the objective as named algorithm and orthogonal axes: `TrainingSettings`.

    TRL's `loss_type` is not set: the objective decides it. TRL's own `vllm_importance_sampling_mode` weighs whole
    completions, which for long ones leaves next to nothing of most (docs/launch.md); here the weight is a token's.
    """

    vllm_importance_sampling_mode: str = field(
        default="token_truncate", metadata={"help": "token_truncate, token_mask, sequence_truncate or sequence_mask."}
    )

    def __post_init__(self, processes: int | None) -> None:
        """Check ranges, the objective and the batch, then TRL's own checks.

        Args:
            processes: As in `TrainingSettings`.

        Raises:
            InputError: A value is invalid or has no effect.
        """
        check_all({item.name: getattr(self, item.name) for item in fields(self) if item.init})
        values = {item.name: getattr(self, item.name) for item in fields(TrainingSettings)}
        refuse(inert(TRAINING_RULES, self, changed(TrainingSettings, values)), values)
        self.check(processes)
        GRPOConfig.__post_init__(self)
        self.window_steps  # noqa: B018  raises where steps and rollouts do not divide


def by_step(args: AAPOConfig) -> AAPOConfig:
    """The same configuration as a trainer reads it that sees one batch an optimizer step."""
    stepwise = copy.copy(args)
    stepwise.per_device_train_batch_size *= args.gradient_accumulation_steps
    stepwise.gradient_accumulation_steps = 1
    stepwise.steps_per_generation = args.window_steps
    stepwise.generation_batch_size = args.step_size * args.window_steps
    return stepwise


def trainer_config(recipe: Recipe, **changes: Any) -> AAPOConfig:
    """The configuration of a recipe's trainer, with other values where `changes` says so.

    Raises:
        InputError: TRL or Transformers refuse a setting; the message is theirs.
    """
    settings = {key: recipe.given[key] for key in recipe.given if key in _NAMES and recipe.given[key] is not None}
    with refusals():
        return AAPOConfig(**{**DEFAULTS, "use_cpu": not accelerator_available(), **settings, **changes})


@contextmanager
def refusals() -> Iterator[None]:
    """A block in which TRL, Transformers or PEFT read settings; what they refuse is the user's, in their words.

    Raises:
        InputError: They refuse one.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, OSError, ImportError) as error:
        if getattr(error, "errno", None):  # the disk's, not theirs
            raise
        raise InputError(" ".join(str(error).split())) from error


_NAMES = {item.name for item in fields(AAPOConfig) if item.init}

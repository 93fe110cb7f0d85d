"""The trainer's configuration: TRL's GRPOConfig and the axes of the objective."""

from dataclasses import dataclass, field, fields
from typing import Any

from trl import GRPOConfig

from aapo.errors import InputError
from aapo.objective import Objective, objective
from aapo.sampling import SamplingSettings

# TRL's names for axes of the objective.
TRL_NAMES = {"scale_rewards": "scale", "epsilon": "clip_low", "epsilon_high": "clip_high"}
OWN_NAMES = (
    "baseline", "margin", "margin_low", "margin_high", "rescale_dead_groups", "loss", "aggregation",
    "max_importance_weight",
)  # fmt: skip
# What TRL would read, but the objective decides.
REPLACED = {
    "loss_type": "choose an algorithm, or loss and aggregation",
    "importance_sampling_level": "choose an algorithm",
    "multi_objective_aggregation": "set reward_weights",
    "delta": "choose an algorithm",
}


@dataclass
class AAPOConfig(GRPOConfig):
    r"""TRL's GRPOConfig with the objective as named algorithm and orthogonal axes.

    An axis that is None is the algorithm's; `objective` is the resulting point. TRL's `loss_type` is not set: the
    objective decides it.

    Attributes:
        algorithm: A key of `aapo.objective.ALGORITHMS`.
        baseline: group_mean, leave_one_out or none.
        scale_rewards: group, batch or none, as in TRL.
        margin: expected, paired or none.
        margin_low: Lower clip bound of the margin, <= 0.
        margin_high: Upper clip bound of the margin, >= 0.
        rescale_dead_groups: GPG's alpha.
        loss: cross_entropy or clipped_surrogate.
        aggregation: token_mean, sequence_mean or constant.
        epsilon: Lower clip range of the surrogate, as in TRL.
        epsilon_high: Upper clip range of the surrogate, as in TRL.
        max_importance_weight: Truncation of the cross-entropy's importance weight on stale samples.
        reference: Where reference rewards come from: `bank`, data sampled once; or `live`, a frozen model sampled at
            every step, at twice the rollout cost, as the published code means to.
        rollouts_dir: Folder that every step's rollouts are written to as Parquet; None writes none.
    """

    algorithm: str = field(default="aapo", metadata={"help": "Named algorithm."})
    baseline: str | None = field(default=None, metadata={"help": "group_mean, leave_one_out or none."})
    margin: str | None = field(default=None, metadata={"help": "expected, paired or none."})
    margin_low: float | None = field(default=None, metadata={"help": "Lower clip bound of the margin."})
    margin_high: float | None = field(default=None, metadata={"help": "Upper clip bound of the margin."})
    rescale_dead_groups: bool | None = field(default=None, metadata={"help": "GPG's alpha."})
    loss: str | None = field(default=None, metadata={"help": "cross_entropy or clipped_surrogate."})
    aggregation: str | None = field(default=None, metadata={"help": "token_mean, sequence_mean or constant."})
    max_importance_weight: float | None = field(default=None, metadata={"help": "Truncation of stale weights."})
    reference: str = field(default="bank", metadata={"help": "bank or live."})
    rollouts_dir: str | None = field(default=None, metadata={"help": "Folder for rollouts as Parquet."})
    scale_rewards: str | bool | None = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None, metadata={"help": "group, batch or none."}
    )
    epsilon: float | None = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None, metadata={"help": "Lower clip range."}
    )
    epsilon_high: float | None = field(default=None, metadata={"help": "Upper clip range."})

    def __post_init__(self) -> None:
        """Check the objective and the batch, then TRL's own checks.

        Raises:
            InputError: A value is invalid or has no effect.
        """
        self.objective  # noqa: B018  raises on an invalid point
        self.sampling  # noqa: B018  raises on an invalid setting
        defaults = {item.name: item.default for item in fields(GRPOConfig)}
        for name, instead in REPLACED.items():
            if getattr(self, name) != defaults[name]:
                raise InputError(f"{name} has no effect, because the objective decides it; {instead}")
        if self.reference not in ("bank", "live"):
            raise InputError(f"reference is {self.reference!r}; it must be bank or live")
        if self.reference == "live" and not self.objective.needs_reference:
            raise InputError(
                f"reference is live but has no effect, because {self.algorithm} has no margin here; remove it"
            )
        if self.generation_batch_size is None and self.steps_per_generation is None:
            self._check_batch()
        super().__post_init__()

    def _check_batch(self) -> None:
        per_step = self.per_device_train_batch_size * self.gradient_accumulation_steps * _world_size()
        if self.num_generations is not None and per_step % self.num_generations:
            raise InputError(
                f"the batch of {per_step} completions (per_device_train_batch_size {self.per_device_train_batch_size} "
                f"x gradient_accumulation_steps {self.gradient_accumulation_steps} x {_world_size()} processes) is not "
                f"divisible by num_generations {self.num_generations}; change one of them"
            )

    @property
    def objective(self) -> Objective:
        """The point in the space of objectives that the fields name."""
        axes = {own: getattr(self, trl) for trl, own in TRL_NAMES.items()}
        if isinstance(self.scale_rewards, bool):
            axes["scale"] = "group" if self.scale_rewards else "none"
        try:
            return objective(self.algorithm, **axes, **{name: getattr(self, name) for name in OWN_NAMES})
        except InputError as error:
            raise InputError(_in_trl_names(str(error))) from error

    @property
    def sampling(self) -> SamplingSettings:
        """The sampling settings of rollouts, which a bank must share."""
        return SamplingSettings(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            max_completion_length=self.max_completion_length or 256,
            generation_kwargs=self.generation_kwargs if isinstance(self.generation_kwargs, dict) else None,
        )

    @property
    def template_options(self) -> dict[str, Any]:
        """Arguments of the chat template."""
        return self.chat_template_kwargs if isinstance(self.chat_template_kwargs, dict) else {}


def _in_trl_names(message: str) -> str:
    """An objective's error with the names that the user wrote."""
    for trl, own in TRL_NAMES.items():
        if message.startswith(f"{own} "):
            return trl + message.removeprefix(own)
    return message


def _world_size() -> int:
    """Processes of this launch, before accelerate's state exists."""
    import os

    return int(os.environ.get("WORLD_SIZE", "1"))

"""The trainer's configuration: TRL's GRPOConfig and the axes of the objective."""

from dataclasses import dataclass, field, fields
from typing import Any

from trl import GRPOConfig

from aapo.errors import InputError
from aapo.grading import Judge
from aapo.learning.curriculum import check_strategy
from aapo.objective import Objective, objective
from aapo.sampling import SamplingSettings

# TRL's names for axes of the objective.
TRL_NAMES = {
    "scale_rewards": "scale", "epsilon": "clip_low", "epsilon_high": "clip_high",
    "importance_sampling_level": "ratio_level",
}  # fmt: skip
OWN_NAMES = (
    "baseline", "margin", "margin_low", "margin_high", "rescale_dead_groups", "loss", "aggregation",
    "max_importance_weight", "overlong_buffer", "min_live_frac", "generations_factor",
)  # fmt: skip
# What TRL would read, but the objective decides.
REPLACED = {
    "loss_type": "choose an algorithm, or loss and aggregation",
    "multi_objective_aggregation": "set reward_weights",
    "delta": "choose an algorithm",
}
# What only a refill reads, and what only a reference that follows the policy does, with TRL's defaults.
MAX_REFILL_ROUNDS = 3
# Held-out accuracy, by which the best model is chosen unless `metric_for_best_model` says otherwise.
BEST_BY = "eval_rollout/accuracy"
SYNC_FIELDS = ("ref_model_sync_steps", "ref_model_mixup_alpha")


@dataclass
class AAPOConfig(GRPOConfig):
    r"""TRL's GRPOConfig with the objective as named algorithm and orthogonal axes.

    An axis that is None is the algorithm's; `objective` is the resulting point. TRL's `loss_type` is not set: the
    objective decides it. With `load_best_model_at_end` the best model is the one with the highest held-out accuracy,
    unless `metric_for_best_model` names another metric of the evaluation.

    Where the objective multiplies the rollouts per prompt (`generations_factor`),
    `num_generations`, `gradient_accumulation_steps` and, where given, `generation_batch_size` or
    `steps_per_generation` are multiplied here, once; evaluation during training keeps its number.

    Attributes:
        algorithm: A key of `aapo.objective.ALGORITHMS`, or your own as path/to/file.py:NAME or package.module:NAME.
        baseline: group_mean, leave_one_out, batch_mean or none.
        scale_rewards: group, batch or none, as in TRL.
        margin: expected, paired or none.
        margin_low: Lower clip bound of the margin, <= 0.
        margin_high: Upper clip bound of the margin, >= 0.
        rescale_dead_groups: GPG's alpha.
        loss: cross_entropy or clipped_surrogate.
        importance_sampling_level: token or sequence, as in TRL.
        aggregation: token_mean, sequence_mean or constant.
        epsilon: Lower clip range of the surrogate, as in TRL.
        epsilon_high: Upper clip range of the surrogate, as in TRL.
        max_importance_weight: Truncation of the cross-entropy's importance weight on stale samples.
        overlong_buffer: Share of max_completion_length over which a reward falls by up to 1.
        min_live_frac: Share of groups that must have a gradient; the others are drawn again with fresh prompts.
        max_refill_rounds: How often at most, for one batch; by default 3 where min_live_frac is above 0.
        generations_factor: What num_generations and the batch are multiplied by.
        weighted_sample: Draw each batch's prompts by weight, not in the order of the data.
        sample_strategy: The weight by a prompt's running mean of right answers m: `hard` 1 - m, `soft` the same but 0
            at 0 and 1, `medium` 1 in between and 0 at 0 and 1, `uniform` 1.
        curriculum: `easy_to_hard` begins with the prompts that the reference model solves most often.
        reference: Where reference rewards come from: `bank`, data sampled once; or `live`, a frozen model sampled at
            every step, at twice the rollout cost, as the published code means to. With `sync_ref_model` the live
            reference follows the policy: every `ref_model_sync_steps` optimizer steps it becomes
            `ref_model_mixup_alpha` times the policy plus the rest of itself, as TRL's reference model does.
        judge: The reward function whose verdicts say what is right; by default the first that logs verdicts.
        judge_threshold: Of a judge that logs none: a completion is right where its reward is at least this.
        rollouts_dir: Folder that every step's rollouts are written to as Parquet; None writes none.
    """

    algorithm: str = field(default="aapo", metadata={"help": "Named algorithm."})
    baseline: str | None = field(default=None, metadata={"help": "group_mean, leave_one_out, batch_mean or none."})
    margin: str | None = field(default=None, metadata={"help": "expected, paired or none."})
    margin_low: float | None = field(default=None, metadata={"help": "Lower clip bound of the margin."})
    margin_high: float | None = field(default=None, metadata={"help": "Upper clip bound of the margin."})
    rescale_dead_groups: bool | None = field(default=None, metadata={"help": "GPG's alpha."})
    loss: str | None = field(default=None, metadata={"help": "cross_entropy or clipped_surrogate."})
    aggregation: str | None = field(default=None, metadata={"help": "token_mean, sequence_mean or constant."})
    max_importance_weight: float | None = field(default=None, metadata={"help": "Truncation of stale weights."})
    overlong_buffer: float | None = field(default=None, metadata={"help": "Share of the token limit that is punished."})
    min_live_frac: float | None = field(default=None, metadata={"help": "Share of groups that must have a gradient."})
    max_refill_rounds: int | None = field(default=None, metadata={"help": "Rounds of drawing dead groups again."})
    generations_factor: int | None = field(default=None, metadata={"help": "Multiplies num_generations."})
    weighted_sample: bool = field(default=False, metadata={"help": "Draw prompts by weight."})
    sample_strategy: str | None = field(default=None, metadata={"help": "uniform, hard, soft or medium."})
    curriculum: str | None = field(default=None, metadata={"help": "easy_to_hard."})
    reference: str = field(default="bank", metadata={"help": "bank or live."})
    judge: str | None = field(default=None, metadata={"help": "Reward function that says what is right."})
    judge_threshold: float | None = field(default=None, metadata={"help": "Least reward of a right completion."})
    rollouts_dir: str | None = field(default=None, metadata={"help": "Folder for rollouts as Parquet."})
    scale_rewards: str | bool | None = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None, metadata={"help": "group, batch or none."}
    )
    epsilon: float | None = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None, metadata={"help": "Lower clip range."}
    )
    epsilon_high: float | None = field(default=None, metadata={"help": "Upper clip range."})
    importance_sampling_level: str | None = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None, metadata={"help": "token or sequence."}
    )

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
        check_strategy(self.weighted_sample, self.sample_strategy, self.curriculum)
        self._check_sync(defaults)
        self._check_refill()
        if self.generation_batch_size is None and self.steps_per_generation is None:
            self._check_batch()
        self._multiply(self.objective.generations_factor)
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            # Transformers' own choice is the loss, which says nothing about a policy.
            self.metric_for_best_model, self.greater_is_better = BEST_BY, True
        super().__post_init__()

    def _check_sync(self, defaults: dict[str, Any]) -> None:
        if self.sync_ref_model and self.reference != "live" and not self.beta:
            raise InputError(
                "sync_ref_model has no effect, because there is no reference model in memory to follow the policy; set "
                "reference to live, or remove it"
            )
        for name in SYNC_FIELDS:
            if not self.sync_ref_model and getattr(self, name) != defaults[name]:
                raise InputError(f"{name} has no effect, because sync_ref_model is false; set it to true")
        if self.ref_model_sync_steps < 1:
            raise InputError(f"ref_model_sync_steps is {self.ref_model_sync_steps}; it must be >= 1")
        if not 0 < self.ref_model_mixup_alpha <= 1:
            raise InputError(
                f"ref_model_mixup_alpha is {self.ref_model_mixup_alpha}; it must be above 0 and at most 1, a "
                "copy of the policy"
            )

    def _check_refill(self) -> None:
        if self.objective.min_live_frac == 0:
            if self.max_refill_rounds is not None:
                raise InputError(
                    "max_refill_rounds has no effect, because min_live_frac is 0; set min_live_frac, or remove it"
                )
        elif self.max_refill_rounds is None:
            self.max_refill_rounds = MAX_REFILL_ROUNDS
        elif self.max_refill_rounds < 1:
            raise InputError(
                f"max_refill_rounds is {self.max_refill_rounds}; it must be >= 1 (for no refill set min_live_frac to 0)"
            )

    def _multiply(self, factor: int) -> None:
        """Multiply the rollouts per prompt and, so that a step sees as many prompts, the batch."""
        if factor == 1 or self.num_generations is None:
            return
        self.num_generations_eval = self.num_generations_eval or self.num_generations
        self.num_generations *= factor
        self.gradient_accumulation_steps *= factor
        if self.generation_batch_size is not None:
            self.generation_batch_size *= factor
        if self.steps_per_generation is not None:
            self.steps_per_generation *= factor

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
    def judgement(self) -> Judge:
        """What says which completions are right."""
        return Judge(self.judge, self.judge_threshold)

    @property
    def chooses_prompts(self) -> bool:
        """Whether prompts are drawn by weight or curriculum, which a bank's pass rates start."""
        return self.weighted_sample or self.curriculum is not None

    @property
    def template_options(self) -> dict[str, Any]:
        """Arguments of the chat template."""
        return self.chat_template_kwargs if isinstance(self.chat_template_kwargs, dict) else {}


def unread_fields(point: Objective, *, beta: float = 0.0) -> set[str]:
    """Fields of `AAPOConfig` beside the axes that nothing reads with this objective, so that they would be refused.

    Args:
        point: The objective.
        beta: Weight of TRL's KL term, whose reference model may follow the policy, too.
    """
    unread = set() if point.min_live_frac else {"max_refill_rounds"}
    if not point.needs_reference:
        unread |= {"reference"} if beta else {"reference", "sync_ref_model", *SYNC_FIELDS}
    return unread


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

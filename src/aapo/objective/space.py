"""The space of objectives: a choice along independent axes, each of which changes what one equation says.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt, F reward functions, X spare rollouts per
prompt; B completions, T tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

from aapo.errors import InputError
from aapo.objective.margins import MarginFunction, margin_function
from aapo.ranges import check

Baseline = Literal["group_mean", "leave_one_out", "batch_mean", "none"]
Scale = Literal["group", "batch", "none"]
Loss = Literal["cross_entropy", "clipped_surrogate"]
RatioLevel = Literal["token", "sequence"]
Aggregation = Literal["token_mean", "sequence_mean", "constant"]


class Groups(NamedTuple):
    """What an advantage function gets: the scored rollouts of a step, over all processes.

    In training all fields are set but `reference_rewards_PK`, which needs a margin or `reads_reference`, and
    `spare_PX`. Where advantages are computed from rewards alone, the others are None.

    Attributes:
        rewards_PG: The weighted sum of the reward functions, the overlong penalty included; NaN where none could score.
        reference_rewards_PK: The reference model's rewards on the same prompts, without a penalty; NaN likewise.
        correct_PG: 1 for a right completion, 0 for a wrong one, NaN where nothing says.
        lengths_PG: Completion tokens.
        truncated_PG: True where the completion was cut at the token limit.
        max_completion_length: The token limit of a completion.
        values_PGF: What each reward function pays, the overlong penalty as the last of them where there is one; NaN
            where it could not score.
        weights_F: Their weights; `rewards_PG` is the weighted sum.
        spare_PX: Rewards, as `rewards_PG`, of the rollouts that were drawn for a prompt and are not trained on; NaN
            where it has fewer than X. None where all that was drawn is trained on.
    """

    rewards_PG: Tensor
    reference_rewards_PK: Tensor | None = None
    correct_PG: Tensor | None = None
    lengths_PG: Tensor | None = None
    truncated_PG: Tensor | None = None
    max_completion_length: int | None = None
    values_PGF: Tensor | None = None
    weights_F: Tensor | None = None
    spare_PX: Tensor | None = None


AdvantageFunction = Callable[[Groups], Tensor]


class Tokens(NamedTuple):
    """What a token advantage function gets: completions in a forward pass of the policy, all without a gradient.

    Attributes:
        advantages_B: Augmented advantages of the completions, before the aggregation weighs them.
        entropies_BT: Entropy of the distribution that each token was drawn from, in nats, under the policy in training.
        mask_BT: 1 on the tokens that the loss counts, 0 elsewhere.
        verdicts_B: 1 for a completion of a dead group whose scored completions all are right, -1 of one whose all are
            wrong, 0 else; None unless the objective `reads_verdicts`.
    """

    advantages_B: Tensor
    entropies_BT: Tensor
    mask_BT: Tensor
    verdicts_B: Tensor | None = None


TokenAdvantageFunction = Callable[[Tokens], Tensor]


@dataclass(frozen=True)
class Objective:
    """One point in the space of objectives.

    Attributes:
        baseline: What is subtracted from a reward: the mean of its group, the mean of the others in its group, the mean
            of the whole batch, nothing. Spare rollouts count in means and deviations.
        scale: What the difference is divided by: sample standard deviation of the group or of the batch, nothing.
        advantage: A function from `Groups` to advantages of shape (P, G) that takes the place of baseline and scale.
        token_advantage: A function from `Tokens` to advantages of shape (B, T), by which the tokens of a completion
            differ; without one all have the completion's.
        reads_reference: Whether `advantage` reads reference rewards where there is no margin.
        reads_verdicts: Whether `token_advantage` reads which dead groups are right.
        margin: How the clipped difference to the reference rewards is added: averaged over all K reference samples
            (`expected`), against one of them (`paired`, the published form), not at all (`none`), by another name of
            `MARGINS` or a function of your own, given or named by path/to/file.py:NAME or package.module:NAME.
        margin_low: Lower clip bound of the margin, <= 0.
        margin_high: Upper clip bound of the margin, >= 0.
        rescale_dead_groups: Multiply by alpha = P / (groups with a gradient), as GPG does (arXiv 2504.02546), so that
            groups without one do not dilute the others; a dead group that the margin revives has one.
        loss: Cross-entropy `-A log pi`, with a truncated importance weight once samples are stale, or PPO's clipped
            surrogate.
        ratio_level: Whether each token has its own importance ratio, or all tokens of a completion its geometric mean
            (GSPO, arXiv 2507.18071).
        aggregation: How token losses become one number; see `completion_weights`.
        clip_low: The surrogate's ratio is clipped at `1 - clip_low`.
        clip_high: The surrogate's ratio is clipped at `1 + clip_high`.
        max_importance_weight: The cross-entropy's importance weight is truncated here.
        overlong_buffer: Share in [0, 1) of the token limit over which a reward falls by up to 1 (DAPO's soft overlong
            punishment, arXiv 2503.14476); see `overlong_penalty`. 0 is no penalty.
    """

    baseline: Baseline = "group_mean"
    scale: Scale = "group"
    advantage: AdvantageFunction | None = None
    token_advantage: TokenAdvantageFunction | None = None
    reads_reference: bool = False
    reads_verdicts: bool = False
    margin: str | MarginFunction = "none"
    margin_low: float = -0.2
    margin_high: float = 0.28
    rescale_dead_groups: bool = False
    loss: Loss = "cross_entropy"
    ratio_level: RatioLevel = "token"
    aggregation: Aggregation = "token_mean"
    clip_low: float = 0.2
    clip_high: float = 0.2
    max_importance_weight: float = 2.0
    overlong_buffer: float = 0.0

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            InputError: A name is not one of its axis, a number is not finite or out of range, or scale and baseline do
                not go together.
        """
        for name, axis in _AXES.items():
            if getattr(self, name) not in get_args(axis):
                allowed = ", ".join(get_args(axis))
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be one of {allowed}")
        for name in _RANGED:
            check(name, getattr(self, name))
        if self.margin != "none":
            margin_function(self.margin)
        if self.advantage is not None and not callable(self.advantage):
            raise InputError(f"advantage is {self.advantage!r}; it must be a function of Groups, or None")
        if self.token_advantage is not None and not callable(self.token_advantage):
            raise InputError(f"token_advantage is {self.token_advantage!r}; it must be a function of Tokens, or None")
        if self.reads_reference and self.advantage is None:
            raise InputError("reads_reference is true but there is no advantage function to read them; remove it")
        if self.reads_verdicts and self.token_advantage is None:
            raise InputError("reads_verdicts is true but there is no token_advantage to read them; remove it")
        self._check_together()

    def _check_together(self) -> None:
        if self.scale == "group" and self.baseline in ("none", "batch_mean"):
            raise InputError(
                f"scale is group and baseline {self.baseline}; rewards that are not centred on their group cannot be "
                "divided by its spread, so choose another baseline, or batch or none as the scale"
            )
        if not self.margin_low < self.margin_high:
            raise InputError(
                f"margin_low is {self.margin_low} and margin_high {self.margin_high}; margin_low must be below "
                "margin_high (for no margin set margin to none)"
            )

    @property
    def needs_reference(self) -> bool:
        """Whether the objective reads reference rewards."""
        return self.margin != "none" or self.reads_reference

    def describe(self) -> dict[str, Any]:
        """The fields by name, for YAML and JSON; functions are named by `module:function`."""
        values = {name: getattr(self, name) for name in OBJECTIVE_FIELDS}
        for name in ("advantage", "token_advantage", "margin"):
            if callable(function := values[name]):
                place = getattr(function, "__qualname__", type(function).__qualname__)
                values[name] = f"{function.__module__}:{place}"
        return values


_RANGED = (
    "margin_low", "margin_high", "clip_low", "clip_high", "max_importance_weight", "overlong_buffer",
    "rescale_dead_groups", "reads_reference", "reads_verdicts",
)  # fmt: skip
_AXES = {
    "baseline": Baseline, "scale": Scale, "loss": Loss, "ratio_level": RatioLevel, "aggregation": Aggregation,
}  # fmt: skip
OBJECTIVE_FIELDS = tuple(field.name for field in fields(Objective))

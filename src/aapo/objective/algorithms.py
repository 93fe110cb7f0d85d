"""The space of objectives, and the named algorithms as points in it.

An objective is a choice along independent axes; a named algorithm is one `Objective`. A new algorithm is one more
declaration passed to `register`.
"""

from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any, Literal, get_args

from aapo.errors import InputError, nearest

Baseline = Literal["group_mean", "leave_one_out", "none"]
Scale = Literal["group", "batch", "none"]
Margin = Literal["expected", "paired", "none"]
Loss = Literal["cross_entropy", "clipped_surrogate"]
Aggregation = Literal["token_mean", "sequence_mean", "constant"]


@dataclass(frozen=True)
class Objective:
    """One point in the space of objectives.

    Attributes:
        baseline: What is subtracted from a reward: the mean of its group, the mean of the others in its group, nothing.
        scale: What the difference is divided by: sample standard deviation of the group or of the batch, nothing.
        margin: How the clipped difference to the reference rewards is added: averaged over all K reference samples
            (`expected`), against one of them (`paired`, the published form), not at all.
        margin_low: Lower clip bound of the margin, <= 0.
        margin_high: Upper clip bound of the margin, >= 0.
        rescale_dead_groups: Multiply by alpha = P / (groups with a gradient), as GPG does (arXiv 2504.02546), so that
            groups without one do not dilute the others; a dead group that the margin revives has one.
        loss: Cross-entropy `-A log pi`, with a truncated importance weight once samples are stale, or PPO's clipped
            surrogate.
        aggregation: How token losses become one number; see `completion_weights`.
        clip_low: The surrogate's ratio is clipped at `1 - clip_low`.
        clip_high: The surrogate's ratio is clipped at `1 + clip_high`.
        max_importance_weight: The cross-entropy's importance weight is truncated here.
    """

    baseline: Baseline = "group_mean"
    scale: Scale = "group"
    margin: Margin = "none"
    margin_low: float = -0.2
    margin_high: float = 0.28
    rescale_dead_groups: bool = False
    loss: Loss = "cross_entropy"
    aggregation: Aggregation = "token_mean"
    clip_low: float = 0.2
    clip_high: float = 0.2
    max_importance_weight: float = 2.0

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            InputError: A name is not one of its axis, a number is not finite or has the wrong sign, or scale and
                baseline do not go together.
        """
        for name, axis in _AXES.items():
            if getattr(self, name) not in get_args(axis):
                allowed = ", ".join(get_args(axis))
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be one of {allowed}")
        for name in _NUMBERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
                raise InputError(f"{name} is {value!r}; it must be a finite number")
        if not isinstance(self.rescale_dead_groups, bool):
            raise InputError(f"rescale_dead_groups is {self.rescale_dead_groups!r}; it must be true or false")
        if self.baseline == "none" and self.scale == "group":
            raise InputError(
                "scale is group and baseline none; rewards that are not centred cannot be divided by their group's "
                "spread, so choose a baseline or no scale"
            )
        if self.margin_low > 0:
            raise InputError(f"margin_low is {self.margin_low}; it must be <= 0 (AAPO uses -0.2)")
        if self.margin_high < 0:
            raise InputError(f"margin_high is {self.margin_high}; it must be >= 0 (AAPO uses 0.28)")
        if not self.margin_low < self.margin_high:
            raise InputError(
                f"margin_low is {self.margin_low} and margin_high {self.margin_high}; margin_low must be below "
                "margin_high (for no margin set margin to none)"
            )
        for name in ("clip_low", "clip_high", "max_importance_weight"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be > 0")

    @property
    def needs_reference(self) -> bool:
        """Whether the objective reads reference rewards."""
        return self.margin != "none"

    def ineffective(self, name: str) -> str | None:
        """Why the field `name` does nothing in this combination, or None where it does something."""
        if name in ("margin_low", "margin_high") and self.margin == "none":
            return "margin is none"
        if name in ("clip_low", "clip_high") and self.loss != "clipped_surrogate":
            return "the loss is cross_entropy, which does not clip a ratio"
        if name == "max_importance_weight" and self.loss != "cross_entropy":
            return "the loss is clipped_surrogate, which clips the ratio itself"
        return None


_NUMBERS = ("margin_low", "margin_high", "clip_low", "clip_high", "max_importance_weight")
_AXES = {"baseline": Baseline, "scale": Scale, "margin": Margin, "loss": Loss, "aggregation": Aggregation}

ALGORITHMS: dict[str, Objective] = {
    # arXiv 2505.14264
    "aapo": Objective(margin="expected"),
    # DeepSeekMath, arXiv 2402.03300, Eq. 3, without its KL term
    "grpo": Objective(loss="clipped_surrogate", aggregation="sequence_mean"),
    # arXiv 2503.20783: neither the group's std nor the length of the completion in a denominator
    "dr_grpo": Objective(scale="none", loss="clipped_surrogate", aggregation="constant"),
    # arXiv 2503.14476: clip-higher and the token mean
    "dapo": Objective(loss="clipped_surrogate", clip_high=0.28),
    # arXiv 2504.02546
    "gpg": Objective(scale="none", rescale_dead_groups=True),
    # arXiv 2402.14740; the whole completion is one action, so its length must not divide the loss
    "rloo": Objective(baseline="leave_one_out", scale="none", aggregation="constant"),
}


def objective(name: str, **changes: Any) -> Objective:
    """The named algorithm, with the fields in `changes` replaced.

    Args:
        name: A key of `ALGORITHMS`.
        **changes: Fields of `Objective`; None leaves the algorithm's value.

    Raises:
        InputError: The name is unknown, or a change is invalid or has no effect in the combination.
    """
    if name not in ALGORITHMS:
        raise InputError(f"algorithm is {name!r}; it must be one of {', '.join(ALGORITHMS)}{nearest(name, ALGORITHMS)}")
    for key in changes:
        if key not in OBJECTIVE_FIELDS:
            raise InputError(f"an objective has no field {key!r}{nearest(key, OBJECTIVE_FIELDS)}")
    given = {key: value for key, value in changes.items() if value is not None}
    result = replace(ALGORITHMS[name], **given)
    for key, value in given.items():
        if reason := result.ineffective(key):
            raise InputError(f"{key} is set to {value} but has no effect, because {reason}; remove it")
    return result


def register(name: str, point: Objective) -> None:
    """Make `point` available as algorithm `name`.

    Raises:
        InputError: The name is taken.
    """
    if name in ALGORITHMS:
        raise InputError(f"algorithm {name!r} exists already; choose another name")
    ALGORITHMS[name] = point


OBJECTIVE_FIELDS = tuple(field.name for field in fields(Objective))

"""The named algorithms: points in the space of objectives, and how each collects its rollouts.

A new algorithm is one more declaration: passed to `register`, or named in a recipe by the file that it stands in.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from aapo.errors import InputError, nearest
from aapo.fields import Rule, inert
from aapo.named import load_named
from aapo.objective.estimators import (
    over_each_function,
    over_the_length_weighted_mean,
    over_the_mean,
    over_the_optimal_value,
    with_virtual_best,
)
from aapo.objective.space import OBJECTIVE_FIELDS, Objective
from aapo.objective.tokens import by_entropy_without_contrast, with_entropy
from aapo.ranges import check


@dataclass(frozen=True)
class Collection:
    """How an algorithm collects the rollouts of a batch.

    Attributes:
        min_live_frac: Share in [0, 1] of the groups of a batch that must have a gradient, the margin counted; while
            fewer have, the others are drawn again with fresh prompts, for a bounded number of rounds. 0 is never.
        redraw: Until when a prompt is drawn again, for as many rounds at most: until a rollout is right (`right`), or
            half of its group could be right and half wrong (`balanced`); `none` is never. Of all that was drawn for it
            a group is kept, half right and half wrong where there are as many; means and deviations are of all.
        generations_factor: The recipe's rollouts per prompt are multiplied by this, and the batch with them, so that a
            step sees as many prompts.
    """

    min_live_frac: float = 0.0
    redraw: str = "none"
    generations_factor: int = 1

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: One is not allowed, or prompts would be both drawn again and replaced.
        """
        for name, value in vars(self).items():
            check(name, value)
        if self.redraws and self.min_live_frac:
            raise InputError(
                f"redraw is {self.redraw} and min_live_frac {self.min_live_frac}; a prompt is drawn again or gives way "
                "to a fresh one, so set redraw to none or min_live_frac to 0"
            )

    @property
    def redraws(self) -> bool:
        """Whether prompts are drawn again."""
        return self.redraw != "none"

    @property
    def draws_rounds(self) -> bool:
        """Whether rollouts are drawn beyond the batch, in rounds."""
        return self.redraws or self.min_live_frac > 0


COLLECTION_FIELDS = tuple(item.name for item in fields(Collection))


@dataclass(frozen=True)
class Algorithm:
    """What a name stands for: an objective, and how its rollouts are collected."""

    objective: Objective
    collection: Collection = field(default_factory=Collection)

    def changed(self, changes: Mapping[str, Any]) -> "Algorithm":
        """The algorithm with other values of the fields of its two parts; None leaves the algorithm's.

        Raises:
            InputError: A field is unknown, or a value is invalid.
        """
        known = (*OBJECTIVE_FIELDS, *COLLECTION_FIELDS)
        for key in changes:
            if key not in known:
                raise InputError(f"an objective has no field {key!r}{nearest(key, known)}")
        given = {key: value for key, value in changes.items() if value is not None}
        parts = [{key: given[key] for key in names if key in given} for names in (OBJECTIVE_FIELDS, COLLECTION_FIELDS)]
        return Algorithm(replace(self.objective, **parts[0]), replace(self.collection, **parts[1]))

    def describe(self) -> dict[str, Any]:
        """All fields by name, for YAML and JSON."""
        return {**self.objective.describe(), **asdict(self.collection)}


# Which axes do nothing, by the objective.
AXIS_RULES = (
    Rule(
        ("baseline", "scale"),
        lambda point: "the advantage is a function of its own" if point.advantage is not None else None,
    ),
    Rule(("margin_low", "margin_high"), lambda point: "margin is none" if point.margin == "none" else None),
    Rule(
        ("clip_low", "clip_high"),
        lambda point: (
            None if point.loss == "clipped_surrogate" else "the loss is cross_entropy, which does not clip a ratio"
        ),
    ),
    Rule(
        ("max_importance_weight",),
        lambda point: (
            None if point.loss == "cross_entropy" else "the loss is clipped_surrogate, which clips the ratio itself"
        ),
    ),
)

# docs/algorithms.md gives each equation, its source and what differs from it.
ALGORITHMS: dict[str, Algorithm] = {
    # arXiv 2505.14264, its margin averaged over the reference samples
    "aapo": Algorithm(Objective(margin="expected")),
    # arXiv 2505.14264 as published: each rollout against one reference sample
    "aapo-paired": Algorithm(Objective(margin="paired")),
    # DeepSeekMath, arXiv 2402.03300, Eq. 3, without its KL term
    "grpo": Algorithm(Objective(loss="clipped_surrogate", aggregation="sequence_mean")),
    # GRPO at the rollout cost of AAPO with a live reference
    "grpo-2g": Algorithm(
        Objective(loss="clipped_surrogate", aggregation="sequence_mean"), Collection(generations_factor=2)
    ),
    # arXiv 2503.20783: neither the group's std nor the length of the completion in a denominator
    "dr_grpo": Algorithm(Objective(scale="none", loss="clipped_surrogate", aggregation="constant")),
    # arXiv 2503.14476: clip-higher, token mean, soft overlong punishment (Eq. 13), dynamic sampling (Eq. 11)
    "dapo": Algorithm(
        Objective(loss="clipped_surrogate", clip_high=0.28, overlong_buffer=0.2), Collection(min_live_frac=1.0)
    ),
    # arXiv 2504.02546
    "gpg": Algorithm(Objective(scale="none", rescale_dead_groups=True), Collection(min_live_frac=0.5)),
    # arXiv 2402.14740; the whole completion is one action, so its length must not divide the loss
    "rloo": Algorithm(Objective(baseline="leave_one_out", scale="none", aggregation="constant")),
    # arXiv 2501.03262
    "reinforce++": Algorithm(Objective(baseline="batch_mean", scale="batch", loss="clipped_surrogate")),
    # arXiv 2507.18071, Eq. 5 to 7, with the clip range of its section 5.1
    "gspo": Algorithm(
        Objective(
            loss="clipped_surrogate", ratio_level="sequence", aggregation="sequence_mean", clip_low=3e-4, clip_high=4e-4
        )
    ),
    # MiniMax-M1, arXiv 2506.13585, Eq. 4; the bound is ScaleRL's, arXiv 2510.13786
    "cispo": Algorithm(Objective(max_importance_weight=5.0)),
    # arXiv 2509.18851: one virtual sample with the highest reward in each group, and a tighter clip
    "ngrpo": Algorithm(Objective(advantage=with_virtual_best, loss="clipped_surrogate", clip_low=0.16, clip_high=0.24)),
    # arXiv 2602.02710
    "maxrl": Algorithm(Objective(advantage=over_the_mean, loss="clipped_surrogate")),
    # A*-PO, arXiv 2505.20686, without its regression's term in the policy; a completion is one action
    "a2po": Algorithm(Objective(advantage=over_the_optimal_value, reads_reference=True, aggregation="constant")),
    # arXiv 2505.23585; a completion is one action
    "opo": Algorithm(Objective(advantage=over_the_length_weighted_mean, aggregation="constant")),
    # arXiv 2601.05242
    "gdpo": Algorithm(Objective(advantage=over_each_function, loss="clipped_surrogate")),
    # arXiv 2509.21880
    "rl_zvp": Algorithm(
        Objective(token_advantage=by_entropy_without_contrast, reads_verdicts=True, loss="clipped_surrogate")
    ),
    # arXiv 2506.14758
    "grpo-entropy": Algorithm(Objective(token_advantage=with_entropy, loss="clipped_surrogate")),
    # arXiv 2510.04996, Algorithm 1 with its balanced exit, and Eq. 3
    "reinforce-ada": Algorithm(
        Objective(scale="none", loss="clipped_surrogate", clip_high=0.28), Collection(redraw="balanced")
    ),
}


def algorithm(name: str) -> Algorithm:
    """The algorithm of a name.

    Args:
        name: A key of `ALGORITHMS`, or `path/to/file.py:NAME` or `package.module:NAME` of an `Algorithm` or an
            `Objective`.

    Raises:
        InputError: The name is unknown.
    """
    if ":" in name:
        return _own(name)
    if name not in ALGORITHMS:
        raise InputError(
            f"algorithm is {name!r}; it must be one of {', '.join(ALGORITHMS)}{nearest(name, ALGORITHMS)}, or your own "
            "as path/to/file.py:NAME or package.module:NAME"
        )
    return ALGORITHMS[name]


def objective(name: str, **changes: Any) -> Objective:
    """The objective of a named algorithm, with the fields in `changes` replaced.

    Args:
        name: As in `algorithm`.
        **changes: Fields of `Objective`; None leaves the algorithm's value.

    Raises:
        InputError: The name is unknown, or a change is invalid or has no effect in the combination.
    """
    point = algorithm(name).changed(changes).objective
    for key, reason in inert(AXIS_RULES, point, [key for key, value in changes.items() if value is not None]).items():
        raise InputError(f"{key} is {changes[key]!r} but has no effect, because {reason}; remove it")
    return point


def _own(name: str) -> Algorithm:
    """The declaration that a user's own file or module has under this name."""
    point = load_named(name, "algorithm")
    if isinstance(point, Objective):
        return Algorithm(point)
    if not isinstance(point, Algorithm):
        hint = f"; declare one with Objective(advantage={name.rpartition(':')[2]})" if callable(point) else ""
        raise InputError(
            f"algorithm {name!r} is a {type(point).__name__}; it must be an aapo.objective.Objective{hint}"
        )
    return point


def register(name: str, point: Objective | Algorithm) -> None:
    """Make `point` available as algorithm `name`.

    Raises:
        InputError: The name is taken.
    """
    if name in ALGORITHMS:
        raise InputError(f"algorithm {name!r} exists already; choose another name")
    ALGORITHMS[name] = point if isinstance(point, Algorithm) else Algorithm(point)

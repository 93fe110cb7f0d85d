"""What advantages do, counted: dead groups, samples that push, size, bias, and agreement with other advantages.

Every quantity is a function of sums over samples. A step's sums give its value, the sum of all steps' the value of the
run, and the sums without each of the steps the interval.

Shapes: P prompts of a generation batch, G rollouts per prompt, S steps.
"""

from typing import Generic, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from aapo.evaluation import Estimate, share_interval, student_reach
from aapo.objective import completion_weights, silent_groups
from aapo.objective.advantages import SILENCE
from aapo.objective.space import Aggregation

CORRELATIONS = ("correlation", "correlation_within_steps", "token_cosine")
_CONSTANT = 1e-12

Value = TypeVar("Value")


class Quantities(NamedTuple, Generic[Value]):
    """What some augmented advantages A do, and how they agree with the run's own, A'.

    A sample pushes where |A| > 1e-6; samples without a reward never do, and are left out of every mean.

    Attributes:
        dead_frac: Share of groups in which no sample pushes before the margin.
        dead_after_margin_frac: The same of the augmented advantages.
        pushing_group_frac: Share of groups with a sample that pushes, 1 - dead_after_margin_frac.
        pushing_frac: Share of samples that push.
        mean_size: Mean of |A|.
        bias: Mean of A.
        both_push_frac: Share of samples that push by A and by A'.
        same_sign_frac: Of those, the share that A and A' push the same way.
        correlation: Pearson's, over samples, zeros included.
        correlation_within_steps: The mean of the steps' own correlations, which differences between steps do not raise.
        token_cosine: Cosine of the two vectors of token weights, one entry a token of the step: A times what the
            aggregation makes of it. It is the cosine of the two gradients if tokens' scores were orthogonal and alike.
    """

    dead_frac: Value
    dead_after_margin_frac: Value
    pushing_group_frac: Value
    pushing_frac: Value
    mean_size: Value
    bias: Value
    both_push_frac: Value
    same_sign_frac: Value
    correlation: Value
    correlation_within_steps: Value
    token_cosine: Value


class Pushes(NamedTuple):
    """The advantages of a generation batch before and after the margin, and how the loss weighs tokens."""

    advantage_PG: Tensor
    augmented_PG: Tensor
    aggregation: Aggregation


class Sums(NamedTuple, Generic[Value]):
    """Sums over the samples of a generation batch or a step; x is A and y is A'."""

    groups: Value
    dead: Value
    dead_after: Value
    samples: Value
    pushing: Value
    both: Value
    same: Value
    scored: Value
    size: Value
    x: Value
    y: Value
    xx: Value
    yy: Value
    xy: Value
    token_xx: Value
    token_yy: Value
    token_xy: Value


def batch_sums(
    pushes: Pushes, own: Pushes, scored_PG: Tensor, loss_tokens_PG: Tensor, max_completion_length: int
) -> np.ndarray:
    """The `Sums` of a generation batch as an array.

    Args:
        pushes: What an algorithm makes of the batch.
        own: What the run made of it.
        scored_PG: True for samples with a reward.
        loss_tokens_PG: Tokens that the loss counts.
        max_completion_length: Token limit, for the `constant` aggregation.
    """
    x_PG, y_PG = pushes.augmented_PG.double(), own.augmented_PG.double()
    push_PG, both_PG = x_PG.abs() > SILENCE, (x_PG.abs() > SILENCE) & (y_PG.abs() > SILENCE)
    x, y = x_PG[scored_PG], y_PG[scored_PG]
    tokens = loss_tokens_PG.double().flatten()
    token_x, token_y = (
        values_PG.flatten() * completion_weights(tokens, item.aggregation, max_completion_length) * tokens.sum()
        for values_PG, item in ((x_PG, pushes), (y_PG, own))
    )
    sums = Sums(
        groups=len(x_PG),
        dead=silent_groups(pushes.advantage_PG).sum().item(),
        dead_after=silent_groups(pushes.augmented_PG).sum().item(),
        samples=x_PG.numel(),
        pushing=push_PG.sum().item(),
        both=both_PG.sum().item(),
        same=(both_PG & (x_PG.sign() == y_PG.sign())).sum().item(),
        scored=len(x),
        size=x.abs().sum().item(),
        x=x.sum().item(),
        y=y.sum().item(),
        xx=(x @ x).item(),
        yy=(y @ y).item(),
        xy=(x @ y).item(),
        token_xx=(tokens @ token_x.square()).item(),
        token_yy=(tokens @ token_y.square()).item(),
        token_xy=(tokens @ (token_x * token_y)).item(),
    )
    return np.array(sums)


def quantities(sums: np.ndarray) -> Quantities[np.ndarray]:
    """The quantities of `Sums` along the last axis; NaN where one is not defined.

    `correlation_within_steps` is that of the sums as one step. A correlation is not defined where one side is constant.
    """
    s: Sums[np.ndarray] = Sums(*np.moveaxis(sums, -1, 0))
    spread = _spread(s.scored, s.x, s.xx) * _spread(s.scored, s.y, s.yy)
    correlation = _divided(s.scored * s.xy - s.x * s.y, np.sqrt(spread))
    dead_after = _divided(s.dead_after, s.groups)
    return Quantities(
        dead_frac=_divided(s.dead, s.groups),
        dead_after_margin_frac=dead_after,
        pushing_group_frac=1 - dead_after,
        pushing_frac=_divided(s.pushing, s.samples),
        mean_size=_divided(s.size, s.scored),
        bias=_divided(s.x, s.scored),
        both_push_frac=_divided(s.both, s.samples),
        same_sign_frac=_divided(s.same, s.both),
        correlation=correlation,
        correlation_within_steps=correlation,
        token_cosine=_divided(s.token_xy, np.sqrt(s.token_xx * s.token_yy)),
    )


def over_run(sums_S: np.ndarray) -> Quantities[Estimate]:
    """The quantities of the whole run, from the sums of its steps, with 95% intervals.

    The intervals are Student's with the standard error of the jackknife, which leaves out a step at a time (Efron and
    Stein 1981), on the scale of log odds for shares and of Fisher's z for correlations and the cosine. They say how
    much a quantity would vary with other steps like these; they know nothing of the policy's moving on from step to
    step. Both ends are NaN where there is no interval: with fewer than two steps, where all steps agree, and where a
    quantity is not defined without one of them.
    """
    steps, size = quantities(sums_S), len(sums_S)
    known_S = np.isfinite(steps.correlation)
    correlation_S = np.where(known_S, steps.correlation, 0)

    def whole(times: np.ndarray) -> Quantities[np.ndarray]:
        """The quantities where each step counts so many times; steps are the last axis."""
        within = _divided(times @ correlation_S, times @ known_S)
        return quantities(times @ sums_S)._replace(correlation_within_steps=within)

    values, without = whole(np.ones(size)), whole(1 - np.eye(size))
    found = {}
    for name, value in values._asdict().items():
        low = high = np.nan
        if _varies(getattr(steps, name)):
            error = np.sqrt((size - 1) * getattr(without, name).var())
            low, high = _ends(name, float(value), float(error), size - 1)
        found[name] = Estimate(float(value), float(low), float(high))
    return Quantities(**found)


def _ends(name: str, value: float, error: float, freedom: int) -> tuple[float, float]:
    """Student's interval of a quantity on its own scale."""
    if name.endswith("_frac"):
        low, high = share_interval(value, error, freedom)
        return float(low), float(high)
    if name in CORRELATIONS:
        # Fisher's z of r is half the log odds of (1 + r) / 2.
        low, high = share_interval((1 + value) / 2, error / 2, freedom)
        return float(2 * low - 1), float(2 * high - 1)
    reach = float(student_reach(error, freedom))
    return value - reach, value + reach


def _spread(count: np.ndarray, total: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """count^2 times the variance; 0 where that is rounding noise of equal values."""
    spread = count * squares - total**2
    return np.where(spread > _CONSTANT * count * squares, spread, 0.0)


def _varies(values_S: np.ndarray) -> bool:
    known = values_S[np.isfinite(values_S)]
    return len(known) > 1 and float(np.ptp(known)) > SILENCE


def _divided(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The quotient, NaN where the divisor is not positive."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)

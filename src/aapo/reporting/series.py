"""The logged values of one metric over the steps, and their smoothing."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple


class Series(NamedTuple):
    """A metric at the steps that logged a finite value of it, in order; both lists have the same length."""

    steps: list[int]
    values: list[float]


class Smoothed(NamedTuple):
    """A moving average and the number of logged steps in its window; `window` is 1 where nothing was smoothed."""

    values: list[float]
    window: int


def read_series(rows: Sequence[dict[str, Any]], key: str) -> Series:
    """The finite values of `key`; steps that log none, null or NaN are left out."""
    points = [(row["step"], float(row[key])) for row in rows if row.get(key) is not None and math.isfinite(row[key])]
    return Series([step for step, _ in points], [value for _, value in points])


def smooth(values: Sequence[float]) -> Smoothed:
    """The centred moving average over about an eighth of the values.

    A trailing average would show every improvement later than it came. The window is odd, shrinks at both ends, and
    is 1 below 16 values.
    """
    window = len(values) // 8 | 1
    half = window // 2
    around = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return Smoothed([sum(near) / len(near) for near in around], window)


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; `values` is not empty."""
    return sum(values) / len(values)

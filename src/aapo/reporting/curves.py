"""The figures of a run: what it logged, over its steps."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from aapo.reporting.drawing import (
    BLUE,
    ORANGE,
    SKY,
    STYLE,
    DrawnFigure,
    format_share,
    format_steps,
)
from aapo.reporting.series import Series, mean, read_series, smooth

SINGLE_INCHES = (5.8, 3.4)
OVERVIEW_INCHES = (9.6, 6.2)


class Panel(NamedTuple):
    """One metric over the steps: its key, file name, title, axis label and what the caption calls it."""

    key: str
    name: str
    title: str
    label: str
    subject: str
    share: bool


REWARD = Panel("reward", "reward", "Reward", "mean reward", "Mean total reward of a step's completions", False)
ACCURACY = Panel(
    "rollout/accuracy",
    "accuracy",
    "Accuracy in training",
    "completions that are right",
    "Share of a step's training completions that are right",
    True,
)
LENGTH = Panel(
    "completions/mean_length",
    "completion_length",
    "Completion length",
    "tokens a completion",
    "Mean number of tokens in a step's completions",
    False,
)


def draw_curves(rows: Sequence[dict[str, Any]]) -> list[DrawnFigure]:
    """The figures that the metrics have data for: a curve needs two steps.

    Their names, in order: reward, accuracy, completion_length, dead_groups, overview.
    """
    with rc_context(STYLE):
        drawn = [
            *(draw_curve(rows, panel) for panel in (REWARD, ACCURACY, LENGTH)),
            draw_dead_groups(rows),
            draw_overview(rows),
        ]
    return [figure for figure in drawn if figure]


def draw_curve(rows: Sequence[dict[str, Any]], panel: Panel) -> DrawnFigure | None:
    """One metric over the steps: each step thin, the moving average thick."""
    series = read_series(rows, panel.key)
    if len(series.steps) < 2:
        return None
    figure = Figure(figsize=SINGLE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    _plot_panel(axes, series, panel)
    if smooth(series.values).window > 1:
        axes.legend()
    caption = f"{panel.subject}: {_smoothing(series)}."
    return DrawnFigure(panel.name, caption, _curve_alt(series, panel), figure)


def draw_overview(rows: Sequence[dict[str, Any]]) -> DrawnFigure | None:
    """Format reward, accuracy, total reward and completion length in one figure, as in arXiv 2505.14264, Figure 2.

    Metrics that were not logged are left out, and so is a figure of fewer than two.
    """
    panels = [panel for panel in (_format_panel(rows), ACCURACY, REWARD, LENGTH) if panel]
    curves = [(panel, read_series(rows, panel.key)) for panel in panels]
    curves = [(panel, series) for panel, series in curves if len(series.steps) > 1]
    if len(curves) < 2:
        return None
    figure = Figure(figsize=OVERVIEW_INCHES, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    for place, (panel, series) in enumerate(curves):
        axes = figure.add_subplot(2, 2, place + 1)
        _plot_panel(axes, series, panel._replace(title=f"({'abcd'[place]}) {panel.title}"))
    if len(lines := figure.axes[0].get_lines()) > 1:
        figure.legend(lines, ["each step", "moving average"], loc="outside lower center", ncols=2)
    caption = f"The course of training: {_smoothing(*(series for _, series in curves))}."
    alt = " ".join(_curve_alt(series, panel) for panel, series in curves)
    return DrawnFigure("overview", caption, alt, figure)


def _format_panel(rows: Sequence[dict[str, Any]]) -> Panel | None:
    keys = {key for row in rows for key in row if re.fullmatch(r"rewards/.*format.*/mean", key, re.IGNORECASE)}
    if not keys:
        return None
    return Panel(min(keys), "format", "Format reward", "mean format reward", "Mean format reward", False)


def _plot_panel(axes: Axes, series: Series, panel: Panel) -> None:
    _plot_curve(axes, series, BLUE, f"mean over {smooth(series.values).window} steps", "each step")
    axes.set(title=panel.title, ylabel=panel.label)
    format_steps(axes)
    if panel.share:
        format_share(axes)


def _plot_curve(axes: Axes, series: Series, colour: str, label: str, raw_label: str = "_") -> None:
    """Add the thin and the thick line, or one line where nothing is smoothed; a legend skips the label `_`."""
    smoothed = smooth(series.values)
    if smoothed.window == 1:
        axes.plot(series.steps, series.values, color=colour, linewidth=1.8, marker="o", markersize=3, label=label)
        return
    axes.plot(series.steps, series.values, color=colour, linewidth=0.8, alpha=0.55, label=raw_label)
    axes.plot(series.steps, smoothed.values, color=colour, linewidth=2.4, label=label)


def _smoothing(*curves: Series) -> str:
    windows = sorted({smooth(series.values).window for series in curves})
    if windows == [1]:
        return "each step"
    steps = " or ".join(map(str, windows))
    return f"each step (thin) and the centred moving average over {steps} steps (thick)"


def _curve_alt(series: Series, panel: Panel) -> str:
    smoothed = smooth(series.values)
    first, last = (
        f"{value:.1%}" if panel.share else f"{value:.3g}" for value in (smoothed.values[0], smoothed.values[-1])
    )
    average = "moving average" if smoothed.window > 1 else "value"
    return (
        f"Line chart of {panel.title.lower()} over steps {series.steps[0]} to {series.steps[-1]}: "
        f"the {average} goes from {first} to {last}."
    )


def draw_dead_groups(rows: Sequence[dict[str, Any]]) -> DrawnFigure | None:
    """Dead groups before and after the margin, and between the two those that the margin revived."""
    before, after = "signal/dead_group_frac", "signal/dead_after_margin_frac"
    both = [row for row in rows if all(read_series([row], key).values for key in (before, after))]
    dead, still_dead = read_series(both, before), read_series(both, after)
    if len(dead.steps) < 2:
        return None
    figure = Figure(figsize=SINGLE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    revived = max(0.0, mean(dead.values) - mean(still_dead.values))
    lower, upper = smooth(still_dead.values).values, smooth(dead.values).values
    _plot_curve(axes, dead, ORANGE, "before the margin (GRPO)")
    axes.fill_between(dead.steps, lower, upper, color=SKY, alpha=0.35, linewidth=0, label="revived by the margin")
    _plot_curve(axes, still_dead, BLUE, "after the margin (AAPO)")
    axes.set(title="Dead groups", ylabel="groups without gradient")
    format_steps(axes)
    format_share(axes)
    axes.legend()
    caption = (
        f"Share of groups whose rewards are all equal, before and after the margin, and between them those it revived, "
        f"{revived:.1%} of all groups on average: {_smoothing(dead)}."
    )
    alt = (
        f"Line chart over steps {dead.steps[0]} to {dead.steps[-1]}: on average {mean(dead.values):.1%} of groups are "
        f"dead before the margin and {mean(still_dead.values):.1%} after it."
    )
    return DrawnFigure("dead_groups", caption, alt, figure)

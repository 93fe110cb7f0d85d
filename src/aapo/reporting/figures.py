"""The figures of a run, drawn with matplotlib's object interface: no pyplot, no global state."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.typing import RcKeyType

from aapo.files import write_folder
from aapo.reporting.comparison import Comparison, Estimate
from aapo.reporting.series import Series, mean, read_series, smooth
from aapo.runs import RunDirectory

INK, GRID, GREY, BLUE, ORANGE, SKY = "#1f2328", "#d8dee4", "#8c959f", "#0072b2", "#d55e00", "#56b4e9"
"""Okabe and Ito's colour-blind-safe blue, vermilion and sky blue; each hue also differs in lightness."""

CSS_NAMES = {INK: "ink", GRID: "grid", GREY: "grey", BLUE: "blue", ORANGE: "orange", SKY: "sky"}

STYLE: dict[RcKeyType, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    # Task and reward names come from the user, and a lone "$" in one is no formula.
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "aapo",
}
DPI = 150
SINGLE_INCHES = (5.8, 3.4)
OVERVIEW_INCHES = (9.6, 6.2)


@dataclass(frozen=True)
class RunFigure:
    """A drawn figure, the sentence under it and the text that stands for it where it cannot be seen."""

    name: str
    caption: str
    alt: str
    figure: Figure

    def svg(self, prefix: str) -> str:
        """An `<svg>` element to put into a page; its ids start with `prefix`, its colours are `--figure-*` variables.

        Text stays text and is escaped by matplotlib.
        """
        buffer = io.StringIO()
        with rc_context(STYLE):
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            self.figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
        markup = buffer.getvalue()
        markup = markup[markup.index("<svg") :]
        markup = re.sub(r'^<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', markup)
        markup = re.sub(r'\bid="', f'id="{prefix}-', markup)
        markup = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", markup).replace("xlink:href=", "href=")
        for colour, name in CSS_NAMES.items():
            markup = markup.replace(colour, f"var(--figure-{name})")
        return markup


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


def write_figures(run: RunDirectory, figures: Sequence[RunFigure]) -> None:
    """Make `run.figures` out of the figures, one PNG each; an older folder is replaced whole."""

    def fill(folder: Path) -> None:
        for drawn in figures:
            with rc_context(STYLE):
                drawn.figure.savefig(folder / f"{drawn.name}.png", dpi=DPI, facecolor="white")

    write_folder(run.figures, fill, replace=True)


def draw_figures(rows: Sequence[dict[str, Any]], comparisons: Sequence[Comparison]) -> list[RunFigure]:
    """The figures that the metrics and the evaluation have data for: a curve needs two steps.

    Their names, in order: evaluation, reward, accuracy, completion_length, dead_groups, overview.
    """
    with rc_context(STYLE):
        drawn = [
            draw_evaluation(comparisons),
            *(draw_curve(rows, panel) for panel in (REWARD, ACCURACY, LENGTH)),
            draw_dead_groups(rows),
            draw_overview(rows),
        ]
    return [figure for figure in drawn if figure]


def draw_curve(rows: Sequence[dict[str, Any]], panel: Panel) -> RunFigure | None:
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
    return RunFigure(panel.name, caption, _curve_alt(series, panel), figure)


def draw_overview(rows: Sequence[dict[str, Any]]) -> RunFigure | None:
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
    return RunFigure("overview", caption, alt, figure)


def _format_panel(rows: Sequence[dict[str, Any]]) -> Panel | None:
    keys = {key for row in rows for key in row if re.fullmatch(r"rewards/.*format.*/mean", key, re.IGNORECASE)}
    if not keys:
        return None
    return Panel(min(keys), "format", "Format reward", "mean format reward", "Mean format reward", False)


def _plot_panel(axes: Axes, series: Series, panel: Panel) -> None:
    _plot_curve(axes, series, BLUE, f"mean over {smooth(series.values).window} steps", "each step")
    axes.set(title=panel.title, ylabel=panel.label)
    _format_steps(axes)
    if panel.share:
        _format_share(axes)


def _plot_curve(axes: Axes, series: Series, colour: str, label: str, raw_label: str = "_") -> None:
    """Add the thin and the thick line, or one line where nothing is smoothed; a legend skips the label `_`."""
    smoothed = smooth(series.values)
    if smoothed.window == 1:
        axes.plot(series.steps, series.values, color=colour, linewidth=1.8, marker="o", markersize=3, label=label)
        return
    axes.plot(series.steps, series.values, color=colour, linewidth=0.8, alpha=0.55, label=raw_label)
    axes.plot(series.steps, smoothed.values, color=colour, linewidth=2.4, label=label)


def _format_steps(axes: Axes) -> None:
    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10]))
    axes.margins(x=0.02)


def _format_share(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
    axes.set_ylim(0, min(1.03, max(0.05, axes.get_ylim()[1])))


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


def draw_dead_groups(rows: Sequence[dict[str, Any]]) -> RunFigure | None:
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
    _format_steps(axes)
    _format_share(axes)
    axes.legend()
    caption = (
        f"Share of groups whose rewards are all equal, before and after the margin, and between them those it revived, "
        f"{revived:.1%} of all groups on average: {_smoothing(dead)}."
    )
    alt = (
        f"Line chart over steps {dead.steps[0]} to {dead.steps[-1]}: on average {mean(dead.values):.1%} of groups are "
        f"dead before the margin and {mean(still_dead.values):.1%} after it."
    )
    return RunFigure("dead_groups", caption, alt, figure)


def draw_evaluation(comparisons: Sequence[Comparison]) -> RunFigure | None:
    """The accuracy of base and trained model with 95% intervals, a pair of bars a task and metric."""
    if not comparisons:
        return None
    figure = Figure(figsize=(SINGLE_INCHES[0], 1.3 + 0.85 * len(comparisons)), layout="constrained")
    axes = figure.add_subplot()
    _plot_bars(axes, comparisons, "base", -0.19, GREY, lambda row: row.base)
    _plot_bars(axes, comparisons, "trained", 0.19, BLUE, lambda row: row.trained)
    axes.set_yticks(range(len(comparisons)), [f"{row.task}\n{row.metric}" for row in comparisons])
    axes.set_ylim(len(comparisons) - 0.45, -0.55)
    axes.set(title="Held-out accuracy, base against trained model", xlabel="accuracy with 95% interval")
    axes.set_xlim(0, 1.14)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.spines.bottom.set_bounds(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=2)
    caption = "Accuracy on held-out problems with 95% intervals: a change is outside the noise where they are disjoint."
    rows = (f"{row.task}, {row.metric}: base {row.base}, trained {row.trained}." for row in comparisons)
    return RunFigure("evaluation", caption, "Bar chart of accuracy. " + " ".join(rows), figure)


def _plot_bars(
    axes: Axes,
    comparisons: Sequence[Comparison],
    label: str,
    offset: float,
    colour: str,
    pick: Callable[[Comparison], Estimate | None],
) -> None:
    found = [(place + offset, estimate) for place, row in enumerate(comparisons) if (estimate := pick(row))]
    places, estimates = [place for place, _ in found], [estimate for _, estimate in found]
    # An interval at 0% or 100% can miss its estimate by a rounding error, and matplotlib refuses negative lengths.
    spread = [[max(0.0, e.value - e.low) for e in estimates], [max(0.0, e.high - e.value) for e in estimates]]
    axes.barh(places, [e.value for e in estimates], height=0.34, color=colour, label=label)
    axes.errorbar([e.value for e in estimates], places, xerr=spread, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
    for place, estimate in found:
        axes.text(estimate.high + 0.015, place, f"{estimate.value:.1%}", va="center")

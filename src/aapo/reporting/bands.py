"""The figures of a comparison: final scores, curves with bands over seeds, signals, heat maps."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aapo.evaluation import share_interval, student_reach
from aapo.reporting.drawing import PALETTE, STYLE, DrawnFigure, format_share, format_steps
from aapo.reporting.series import read_series, smooth

COLUMNS = 3
PANEL_INCHES = (3.3, 2.5)


class Signal(NamedTuple):
    """A panel of logged values: the metric, its title, and whether it is a share."""

    key: str
    title: str
    share: bool


SIGNALS = (
    Signal("rollout/accuracy", "Accuracy in training", True),
    Signal("signal/dead_group_frac", "Dead groups before the margin", True),
    Signal("signal/dead_after_margin_frac", "Dead groups after the margin", True),
    Signal("signal/dead_all_right_frac", "Dead before it, all right", True),
    Signal("signal/dead_after_margin_all_right_frac", "Dead after it, all right", True),
    Signal("signal/dead_all_wrong_frac", "Dead before it, all wrong", True),
    Signal("signal/dead_after_margin_all_wrong_frac", "Dead after it, all wrong", True),
    Signal("signal/dead_reference_failed_frac", "Dead, the reference failed too", True),
    Signal("signal/revived_group_frac", "Revived by the margin", True),
    Signal("margin/gradient_share", "Share of the margin", True),
    Signal("margin/clipped_frac", "Differences clipped", True),
    Signal("margin/hard", "Margin on hard prompts", False),
    Signal("margin/medium", "Margin on medium prompts", False),
    Signal("margin/easy", "Margin on easy prompts", False),
    Signal("signal/bias", "Bias of the advantage", False),
    Signal("entropy", "Entropy", False),
    Signal("rollout/right_length", "Length of right answers", False),
    Signal("rollout/wrong_length", "Length of wrong answers", False),
    Signal("rollout/truncated_frac", "Truncated", True),
)


class Band(NamedTuple):
    """A mean over runs with its 95% interval at each position; the ends are NaN where fewer than two runs are there."""

    positions: np.ndarray
    means: np.ndarray
    lows: np.ndarray
    highs: np.ndarray


def band(curves: Sequence[tuple[Sequence[float], Sequence[float]]], *, share: bool) -> Band:
    """The mean over curves and Student's interval over them, at the positions that any has, where all are known.

    Curves are interpolated linearly and not prolonged. The interval of shares is on the scale of log odds, as that of
    final scores.
    """
    low = max(min(positions) for positions, _ in curves)
    high = min(max(positions) for positions, _ in curves)
    grid = np.array(sorted({p for positions, _ in curves for p in positions if low <= p <= high}))
    values = np.array([np.interp(grid, positions, scores) for positions, scores in curves])
    means, count = values.mean(0), len(curves)
    if count < 2:
        nothing = np.full_like(means, np.nan)
        return Band(grid, means, nothing, nothing)
    errors = values.std(0, ddof=1) / np.sqrt(count)
    if share:
        return Band(grid, means, *share_interval(means, errors, count - 1))
    reach = student_reach(errors, count - 1)
    return Band(grid, means, means - reach, means + reach)


def draw_finals(summary: Mapping[str, Any]) -> DrawnFigure:
    """Final scores: each seed a small dot, the mean with its interval."""
    variants = summary["variants"]
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.9 + 0.34 * len(variants)), layout="constrained")
        axes = figure.add_subplot()
        for place, variant in enumerate(variants):
            mean = variant["final"]["mean"]
            colour = PALETTE[place % len(PALETTE)]
            scores = [100 * score for score in variant["final"]["scores"]]
            axes.plot(scores, [place] * len(scores), "o", color=colour, alpha=0.35, markersize=4, markeredgewidth=0)
            if mean["low"] is not None:
                axes.plot([100 * mean["low"], 100 * mean["high"]], [place, place], color=colour, linewidth=1.6)
            axes.plot(100 * mean["estimate"], place, "D", color=colour, markersize=6)
        axes.set_yticks(range(len(variants)), [variant["label"] for variant in variants])
        axes.set_ylim(len(variants) - 0.5, -0.5)
        axes.set(title=f"Final score on {summary['task']}", xlabel="percent right")
        axes.grid(visible=False, axis="y")
    said = [f"{variant['label']}: {100 * variant['final']['mean']['estimate']:.1f}%." for variant in variants]
    caption = "Final held-out score: each seed a dot, the mean a diamond with its 95% interval over seeds (Student's)."
    return DrawnFigure("final_scores", caption, "Dot chart of final scores. " + " ".join(said), figure)


def draw_score_curves(summary: Mapping[str, Any], unit: str, limit: int) -> DrawnFigure | None:
    """Held-out scores during training; None where no variant has a curve."""
    variants = [
        (place, variant)
        for place, variant in enumerate(summary["variants"][:limit])
        if all(len(curve["positions"]) > 1 for curve in variant["curves"])
    ]
    if not variants:
        return None
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for place, variant in variants:
            curves = [(curve["positions"], curve["scores"]) for curve in variant["curves"]]
            plot_band(axes, band(curves, share=True), PALETTE[place % len(PALETTE)], variant["label"], marker="o")
        axes.set(title=f"Held-out score on {summary['task']} during training", xlabel=unit, ylabel="right")
        format_share(axes)
        axes.legend(loc="lower right")
    ends = [
        f"{variant['label']} ends at {100 * np.mean([curve['scores'][-1] for curve in variant['curves']]):.1f}%."
        for _, variant in variants
    ]
    caption = "Held-out score during training, one sample a problem: mean over seeds, with its 95% interval as a band."
    return DrawnFigure("score_curves", caption, "Line chart of held-out scores. " + " ".join(ends), figure)


def draw_signals(runs: Mapping[str, Sequence[Sequence[dict[str, Any]]]]) -> DrawnFigure | None:
    """What the runs logged, a panel a metric; None where nothing was logged twice.

    Args:
        runs: Metrics of each run, by variant.
    """
    panels = []
    for signal in SIGNALS:
        curves = {label: _smoothed(metrics, signal.key) for label, metrics in runs.items()}
        found = {label: of for label, of in curves.items() if of}
        if any(values != 0 for of in found.values() for _, scores in of for values in scores):
            panels.append((signal, found))
    if not panels:
        return None
    lines = -(-len(panels) // COLUMNS)
    colours = {label: PALETTE[place % len(PALETTE)] for place, label in enumerate(runs)}
    with rc_context(STYLE):
        figure = Figure(figsize=(COLUMNS * PANEL_INCHES[0], lines * PANEL_INCHES[1] + 0.4), layout="constrained")
        handles: dict[str, Any] = {}
        for place, (signal, curves) in enumerate(panels):
            axes = figure.add_subplot(lines, COLUMNS, place + 1)
            for label, of in curves.items():
                handles[label] = plot_band(axes, band(of, share=signal.share), colours[label], label)
            axes.set_title(signal.title)
            format_steps(axes)
            if signal.share:
                format_share(axes)
        labels = [label for label in runs if label in handles]
        if len(labels) > 1:
            figure.legend(
                [handles[label] for label in labels], labels, loc="outside lower center", ncols=min(len(labels), 6)
            )
    names = ", ".join(signal.title.lower() for signal, _ in panels)
    caption = "What training logged, as moving averages"
    caption += ": the mean over seeds, with its 95% interval as a band." if any(map(_several, runs.values())) else "."
    return DrawnFigure("signals", caption, f"Line charts over steps: {names}.", figure)


def draw_heat_map(summary: Mapping[str, Any], algorithm: str) -> DrawnFigure:
    """Mean final scores over one or two swept settings of an algorithm."""
    variants = [variant for variant in summary["variants"] if variant["algorithm"] == algorithm and variant["settings"]]
    fields = list(variants[0]["settings"])
    across = list(dict.fromkeys(variant["settings"][fields[0]] for variant in variants))
    down = list(dict.fromkeys(variant["settings"][fields[1]] for variant in variants)) if len(fields) > 1 else [None]
    cells = np.full((len(down), len(across)), np.nan)
    for variant in variants:
        row = down.index(variant["settings"][fields[1]]) if len(fields) > 1 else 0
        cells[row, across.index(variant["settings"][fields[0]])] = 100 * variant["final"]["mean"]["estimate"]
    name = algorithm.rsplit(":", 1)[-1]
    with rc_context(STYLE):
        figure = Figure(figsize=(1.8 + 1.0 * len(across), 1.4 + 0.6 * len(down)), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(cells, cmap="cividis", aspect="auto")
        middle = np.nanmean([np.nanmin(cells), np.nanmax(cells)])
        for row, column in np.ndindex(cells.shape):
            if not np.isnan(cells[row, column]):
                dark = cells[row, column] < middle
                axes.text(column, row, f"{cells[row, column]:.1f}", ha="center", va="center",
                          color="#ffffff" if dark else "#000000")  # fmt: skip
        axes.set_xticks(range(len(across)), [str(value) for value in across])
        axes.set_yticks(range(len(down)), ["" if value is None else str(value) for value in down])
        axes.set(title=f"{name}: final score", xlabel=fields[0], ylabel=fields[1] if len(fields) > 1 else "")
        axes.grid(visible=False)
    said = [f"{variant['label']}: {100 * variant['final']['mean']['estimate']:.1f}%." for variant in variants]
    caption = f"Mean final score of {name} in percent; intervals are in the table, and neighbours may be level."
    return DrawnFigure(f"heat_map_{name}", caption, "Heat map. " + " ".join(said), figure)


def _several(runs: Sequence[Any]) -> bool:
    return len(runs) > 1


def _smoothed(metrics: Sequence[Sequence[dict[str, Any]]], key: str) -> list[tuple[list[int], list[float]]]:
    series = [read_series(rows, key) for rows in metrics]
    return [(item.steps, smooth(item.values).values) for item in series if len(item.steps) > 1]


def plot_band(axes: Axes, values: Band, colour: str, label: str, marker: str = "") -> Any:
    """Add a mean and its band; the line."""
    (line,) = axes.plot(
        values.positions, values.means, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=label
    )
    axes.fill_between(values.positions, values.lows, values.highs, color=colour, alpha=0.16, linewidth=0)
    return line

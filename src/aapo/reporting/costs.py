"""The figure of a comparison that a paper prints: held-out accuracy over all tokens that it cost."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aapo.reporting.bands import band, plot_band
from aapo.reporting.drawing import GREY, PALETTE, STYLE, DrawnFigure, format_amount, format_share

# More variants than that are drawn in a panel each, beside the first.
MAX_TOGETHER = 4
COLUMNS, TITLE_LETTERS = 4, 20
WIDTH = 7.2
Curve = tuple[list[float], list[float]]


def draw_over_tokens(summary: Mapping[str, Any]) -> DrawnFigure | None:
    """Held-out accuracy over all completion tokens; None where a run was not evaluated while it trained.

    Every curve ends with the final evaluation. More than four variants stand in panels of their own, each with the
    first in grey.
    """
    variants = summary["variants"]
    if not all(len(curve.get("tokens", ())) > 1 for variant in variants for curve in variant["curves"]):
        return None
    curves = {variant["label"]: _curves(variant) for variant in variants}
    label = "completion tokens" + (", reference samples included" if summary["bank_share"] else "")
    with rc_context(STYLE):
        figure = _together(curves, label) if len(curves) <= MAX_TOGETHER else _apart(curves, label)
    ends = [f"{variant['label']} ends at {100 * variant['final']['mean']['estimate']:.1f}%." for variant in variants]
    caption = (
        f"Held-out accuracy on {summary['task']} over all {label}: mean over seeds, with its 95% interval as a band; "
        "the last point is the final evaluation."
    )
    alt = "Line chart of held-out accuracy over tokens. " + " ".join(ends)
    return DrawnFigure("accuracy_over_tokens", caption, alt, figure, for_paper=True)


def _curves(variant: Mapping[str, Any]) -> list[Curve]:
    """The curve of each seed, the final evaluation last."""
    found = []
    for curve, final in zip(variant["curves"], variant["final"]["scores"], strict=True):
        points = dict(zip(curve["tokens"], curve["scores"], strict=True)) | {curve["end_tokens"]: final}
        found.append((list(points), list(points.values())))
    return found


def _together(curves: Mapping[str, Sequence[Curve]], label: str) -> Figure:
    figure = Figure(figsize=(0.7 * WIDTH, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for (name, of), colour in zip(curves.items(), PALETTE, strict=False):
        plot_band(axes, band(of, share=True), colour, name)
    _finish(axes, label)
    axes.set_ylabel("held-out accuracy")
    axes.legend(loc="lower right")
    return figure


def _apart(curves: Mapping[str, Sequence[Curve]], label: str) -> Figure:
    (first, baseline), *others = curves.items()
    lines = -(-len(others) // COLUMNS)
    figure = Figure(figsize=(WIDTH, 0.4 + 1.75 * lines), layout="constrained")
    panels = list(figure.subplots(lines, COLUMNS, sharex=True, sharey=True, squeeze=False).flat)
    for place, (axes, (name, of)) in enumerate(zip(panels, others, strict=False)):
        plot_band(axes, band(baseline, share=True), GREY, first)
        plot_band(axes, band(of, share=True), PALETTE[place % (len(PALETTE) - 1)], name)
        axes.set_title(fill(name, TITLE_LETTERS), fontsize=8.5)
    for axes in panels[len(others) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(others) - COLUMNS) : len(others)]:
        axes.tick_params(labelbottom=True)  # also where the panel below is empty
    _finish(panels[0], "")
    figure.supylabel("held-out accuracy", fontsize=9)
    figure.supxlabel(f"{label}; grey: {first}", fontsize=9)
    return figure


def _finish(axes: Axes, label: str) -> None:
    """Scales and label, of all axes that share them."""
    format_amount(axes, label)
    format_share(axes)

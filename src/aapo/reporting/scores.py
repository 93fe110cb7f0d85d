"""The figure of an evaluation: every model's score on every task as a dot with its interval."""

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aapo.evaluation.results import AVERAGE, Row
from aapo.reporting.drawing import BLUE, GREY, INK, STYLE, DrawnFigure

COLUMNS = 3
PANEL_INCHES = (3.2, 0.75)
ROW_INCHES = 0.23


def draw_scores(rows: Sequence[Row], reference: str | None = None) -> DrawnFigure | None:
    """One panel a task, its models from top to bottom; None where nothing could be scored.

    Args:
        rows: Of results.json; only avg@n is drawn.
        reference: The model that the others are held against, drawn in grey with a line through all rows.
    """
    scores = [row for row in rows if row["metric"].startswith("avg") and row["estimate"] is not None]
    if not scores:
        return None
    tasks = sorted(dict.fromkeys(row["task"] for row in scores), key=lambda task: task == AVERAGE)
    models = list(dict.fromkeys(row["model"] for row in scores))
    columns = min(COLUMNS, len(tasks))
    lines = -(-len(tasks) // columns)
    width = PANEL_INCHES[0] * columns + 1.2
    with rc_context(STYLE):
        figure = Figure(figsize=(max(width, 5.2), lines * (PANEL_INCHES[1] + ROW_INCHES * len(models)) + 0.2),
                        layout="constrained")  # fmt: skip
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
        for axes, task in zip(panels, tasks, strict=False):
            found = {row["model"]: row for row in scores if row["task"] == task}
            for place, model in enumerate(models):
                if model not in found:
                    continue
                row = found[model]
                low, high = max(0.0, row["estimate"] - row["low"]), max(0.0, row["high"] - row["estimate"])
                axes.errorbar(100 * row["estimate"], place, xerr=[[100 * low], [100 * high]], fmt="o", markersize=5,
                              color=GREY if model == reference else BLUE, ecolor=INK, elinewidth=1.1,
                              capsize=2.5)  # fmt: skip
            if reference in found:
                axes.axvline(100 * found[reference]["estimate"], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.set_title(task, fontsize=9.5)
            axes.set_yticks(range(len(models)), models)
            axes.set_ylim(len(models) - 0.5, -0.5)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
            axes.margins(x=0.12)
            axes.grid(visible=False, axis="y")
        for axes in panels[len(tasks) :]:
            axes.set_visible(False)
        figure.supxlabel("percent right, with 95% interval", fontsize=9)
    said = [
        f"{row['task']}: {row['model']} {100 * row['estimate']:.1f}% [{100 * row['low']:.1f}, {100 * row['high']:.1f}]."
        for row in scores
    ]
    caption = "Percent right with 95% interval, a panel a task; each panel has its own scale."
    if reference is not None and len(models) > 1:
        caption += f" The dashed line marks {reference}. Overlapping intervals do not say that two models are level: "
        caption += "the paired differences below do."
    return DrawnFigure("evaluation", caption, "Dot chart of scores. " + " ".join(said), figure)

"""How every figure of a report is drawn, stored and put into a page: matplotlib's object interface, no global state."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from matplotlib.typing import RcKeyType

from aapo.files import write_folder

INK, GRID, GREY, BLUE, ORANGE, SKY = "#1f2328", "#d8dee4", "#8c959f", "#0072b2", "#d55e00", "#56b4e9"
"""Okabe and Ito's colour-blind-safe blue, vermilion and sky blue; each hue also differs in lightness."""

GREEN, PURPLE, YELLOW, BROWN = "#009e73", "#cc79a7", "#e69f00", "#8c6d31"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, BROWN, GREY)
CSS_NAMES = {
    INK: "ink", GRID: "grid", GREY: "grey", BLUE: "blue", ORANGE: "orange", SKY: "sky", GREEN: "green",
    PURPLE: "purple", YELLOW: "yellow", BROWN: "brown",
}  # fmt: skip

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
    "pdf.fonttype": 42,  # letters as text, which journals ask for
}
DPI = 150
MAX_POINTS = 500
WIDEST_SCALE = 115  # pixels an inch; above it letters would be larger than the page's
THIN = 1.0


@dataclass(frozen=True)
class DrawnFigure:
    """A drawn figure, the sentence under it and the text that stands for it where it cannot be seen.

    One that is `for_paper` is written as PDF, too.
    """

    name: str
    caption: str
    alt: str
    figure: Figure
    for_paper: bool = False

    def panels(self) -> list[dict[str, Any]]:
        """What a reader's pointer finds: of each panel with lines its place in the page's drawing, its scale and lines.

        `box` is left, top, width and height in the units of the SVG's viewBox (points); `x` and `y` are the ends of the
        axes; a line has a label, a colour's name and its points, at most 500.
        """
        with rc_context(STYLE):
            self.figure.canvas.draw()
        scale, height = 72 / self.figure.dpi, 72 * self.figure.get_figheight()
        panels = []
        for place, axes in enumerate(self.figure.axes):
            lines = [line for line in axes.get_lines() if len(_points(line)) > 1 and line.get_linewidth() > THIN]
            if not lines or not axes.get_visible():
                continue
            box = axes.get_window_extent()
            panels.append(
                {
                    "id": f"axes_{place + 1}",
                    "box": [box.x0 * scale, height - box.y1 * scale, box.width * scale, box.height * scale],
                    "x": list(axes.get_xlim()),
                    "y": list(axes.get_ylim()),
                    "lines": [{"label": _label(line), "points": _points(line)} for line in lines],
                }
            )
        return panels

    def renamed(self, name: str) -> "DrawnFigure":
        """The same figure for another file."""
        return replace(self, name=name)

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
        width = f"max-width:{WIDEST_SCALE * self.figure.get_figwidth():.0f}px"
        head = rf'<svg viewBox="\1" style="{width}" aria-hidden="true">'
        markup = re.sub(r'^<svg [^>]*viewBox="([^"]*)"[^>]*>', head, markup)
        markup = re.sub(r'\bid="', f'id="{prefix}-', markup)
        markup = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", markup).replace("xlink:href=", "href=")
        for colour, name in CSS_NAMES.items():
            markup = markup.replace(colour, f"var(--figure-{name})")
        return markup


def _points(line: Line2D) -> list[list[float]]:
    """The finite points of a line, thinned to at most 500."""
    found = np.asarray(line.get_xydata(), float)
    found = found[np.isfinite(found).all(1)]
    return found[:: max(1, -(-len(found) // MAX_POINTS))].tolist()


def _label(line: Line2D) -> str:
    label = str(line.get_label())
    return "" if label.startswith("_") else label


def write_figures(folder: Path, figures: Sequence[DrawnFigure]) -> None:
    """Make the folder out of the figures, each as PNG and SVG, some as PDF; an older folder is replaced whole."""

    def fill(target: Path) -> None:
        for drawn in figures:
            with rc_context(STYLE):
                drawn.figure.savefig(target / f"{drawn.name}.png", dpi=DPI, facecolor="white")
                drawn.figure.savefig(target / f"{drawn.name}.svg", facecolor="white", metadata={"Date": None})
                if drawn.for_paper:
                    drawn.figure.savefig(target / f"{drawn.name}.pdf", metadata={"CreationDate": None})

    write_folder(folder, fill, replace=True)


def format_steps(axes: Axes) -> None:
    """Whole optimizer steps on the horizontal axis."""
    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10]))
    axes.margins(x=0.02)


def format_amount(axes: Axes, label: str) -> None:
    """A large amount on the horizontal axis, such as 200k or 1.5M."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.02)


def format_share(axes: Axes) -> None:
    """Percent from zero on the vertical axis."""
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
    axes.set_ylim(0, min(1.03, max(0.05, axes.get_ylim()[1])))

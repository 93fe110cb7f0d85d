"""The HTML report: one file without scripts or links that says first whether training helped, then shows why."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from aapo.errors import InputError
from aapo.files import write_text
from aapo.metrics import METRICS
from aapo.reporting.comparison import Change, Comparison, Verdict, headline_changes, judge, read_comparisons
from aapo.reporting.completions import SideBySide, read_side_by_side
from aapo.reporting.figures import ACCURACY, LENGTH, REWARD, RunFigure, draw_figures, write_figures
from aapo.reporting.series import mean, read_series, smooth
from aapo.runs import RunDirectory

TEMPLATE = "report.html.jinja"
DIAGNOSTIC_AREAS = ("signal/", "margin/", "rollout/")
FACTS = ("algorithm", "base_model", "dataset", "seed", "started")
MAX_TEXT_CHARACTERS = 6000


class Number(NamedTuple):
    """A number that stands at the top of a run: what it is, its value and a note under it."""

    label: str
    value: str
    note: str


class Diagnostic(NamedTuple):
    """A row of the signal table: the mean over the logged steps and the last value, formatted."""

    key: str
    unit: str
    meaning: str
    mean: str
    last: str


class EmbeddedFigure(NamedTuple):
    """A figure as the page shows it; `svg` is markup, the rest is text."""

    name: str
    svg: Markup
    caption: str
    alt: str


@dataclass(frozen=True)
class RunSection:
    """What the page says about one run."""

    anchor: str
    name: str
    facts: list[tuple[str, str]]
    verdict: Verdict
    numbers: list[Number]
    comparisons: list[Comparison]
    changes: list[Change]
    figures: dict[str, EmbeddedFigure]
    diagnostics: list[Diagnostic]
    side_by_side: SideBySide | None
    recipe: str
    manifest: str


def write_report(runs: list[RunDirectory], output: Path | None = None) -> Path:
    """Where the report was written; the figures are in each run's `figures/`.

    Args:
        runs: The runs, each with a section of the page in this order; several get a summary table on top.
        output: The HTML file; by default `report.html` in the run's directory.

    Raises:
        InputError: Several runs and no `output`.
    """
    if output is None and len(runs) != 1:
        raise InputError(
            f"a report of {len(runs)} runs has no place of its own; give --output FILE, such as --output report.html"
        )
    names = _names(runs)
    sections = [
        _section(run, name, f"run-{place + 1}") for place, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    target = output or runs[0].report
    write_text(target, _render(sections))
    return target


def _render(sections: Sequence[RunSection]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shorten": _shorten, "keep_estimates_whole": _keep_estimates_whole}
    return environment.get_template(TEMPLATE).render(runs=sections)


def _names(runs: Sequence[RunDirectory]) -> list[str]:
    """The folders' names, or their paths as given where two share a name."""
    names = [run.path.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _section(run: RunDirectory, name: str, anchor: str) -> RunSection:
    rows, comparisons = run.metrics(), read_comparisons(run)
    manifest = run.manifest() if run.manifest_file.exists() else {}
    changes = headline_changes(comparisons)
    drawn = draw_figures(rows, comparisons)
    write_figures(run, drawn)
    return RunSection(
        anchor=anchor,
        name=name,
        facts=_facts({**run.recipe(), **manifest}, rows),
        verdict=judge(comparisons),
        numbers=[*_evaluation_numbers(changes), *_training_numbers(rows)],
        comparisons=comparisons,
        changes=changes,
        figures={figure.name: _embed(figure, anchor) for figure in drawn},
        diagnostics=_diagnostics(rows),
        side_by_side=read_side_by_side(run),
        recipe=run.recipe_file.read_text(encoding="utf-8"),
        manifest=yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=110) if manifest else "",
    )


def _embed(figure: RunFigure, anchor: str) -> EmbeddedFigure:
    return EmbeddedFigure(figure.name, Markup(figure.svg(f"{anchor}-{figure.name}")), figure.caption, figure.alt)


def _facts(settings: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """What the run is, as label and text; identities that are more than one value stand with the settings below."""
    found = ((key, settings.get(key)) for key in FACTS)
    facts = [(key.replace("_", " "), str(value)) for key, value in found if isinstance(value, str | int | float)]
    return [*facts, ("optimizer steps", str(rows[-1]["step"] if rows else 0))]


def _evaluation_numbers(changes: Sequence[Change]) -> list[Number]:
    """Base, trained and change of the one measurement that the headline is about; none for several."""
    if len(changes) != 1:
        return []
    change = changes[0]
    sides = [("Base model", change.base), ("Trained model", change.trained)]
    numbers = [
        Number(label, f"{side.value:.1%}", f"95% interval {100 * side.low:.1f} to {100 * side.high:.1f}")
        for label, side in sides
    ]
    return [*numbers, Number("Change", f"{change.points:+.1f}", f"percentage points, {change.noise}")]


def _training_numbers(rows: Sequence[dict[str, Any]]) -> list[Number]:
    numbers = []
    for label, panel in (("Reward", REWARD), ("Training accuracy", ACCURACY), ("Completion length", LENGTH)):
        series = read_series(rows, panel.key)
        if series.values:
            smoothed = smooth(series.values)
            first, last = (_format(value, panel.share) for value in (smoothed.values[0], smoothed.values[-1]))
            note = "first → last step" + (", smoothed" if smoothed.window > 1 else "")
            numbers.append(Number(label, f"{first} → {last}", f"tokens, {note}" if panel is LENGTH else note))
    revived = read_series(rows, "signal/revived_group_frac").values
    if revived:
        numbers.append(Number("Revived groups", f"{mean(revived):.1%}", "of groups, dead without the margin"))
    return numbers


def _diagnostics(rows: Sequence[dict[str, Any]]) -> list[Diagnostic]:
    """One row a logged `signal/`, `margin/` or `rollout/` metric: the declared ones first, in their order."""
    logged = {key for row in rows for key in row if key.startswith(DIAGNOSTIC_AREAS)}
    keys = [key for key in METRICS if key in logged] + sorted(logged - METRICS.keys())
    table = []
    for key in keys:
        values = read_series(rows, key).values
        if values:
            unit, meaning = METRICS.get(key, ("", ""))
            share = unit.startswith("share")
            table.append(Diagnostic(key, unit, meaning, _format(mean(values), share), _format(values[-1], share)))
    return table


def _format(value: float, share: bool) -> str:
    """A share as a percentage, any other number with three significant digits, or whole from 100 on."""
    if share:
        return f"{value:.1%}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def _shorten(text: str) -> str:
    """The text, or its beginning and how much is missing."""
    missing = len(text) - MAX_TEXT_CHARACTERS
    return text if missing <= 0 else f"{text[:MAX_TEXT_CHARACTERS]}\n… ({missing} more characters)"


def _keep_estimates_whole(text: str) -> Markup:
    """The escaped text, with each `31.2% [28.0, 34.5]` in a span that no line break splits."""
    return Markup(re.sub(r"[\d.]+% \[[\d.]+, [\d.]+\]", r'<span class="estimate">\g<0></span>', str(escape(text))))

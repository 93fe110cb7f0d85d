"""The section of a run: verdict, curves, learning signal, its evaluations, settings and identities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml

from aapo.metrics import METRICS
from aapo.reporting.bands import draw_signals
from aapo.reporting.curves import ACCURACY, LENGTH, REWARD, draw_curves
from aapo.reporting.drawing import DrawnFigure
from aapo.reporting.evaluation import EvaluationSection, Number, Verdict, evaluation_folders, evaluation_section
from aapo.reporting.rollouts import Browser, read_browser
from aapo.reporting.series import mean, read_series, smooth
from aapo.runs import RunDirectory

DIAGNOSTIC_AREAS = ("signal/", "margin/", "rollout/")
FACTS = ("algorithm", "base_model", "dataset", "seed", "started")
NOT_EVALUATED = Verdict(
    "Not evaluated yet",
    [
        "Base and trained model have not been compared on held-out problems, so this page cannot say whether training "
        "helped; the numbers below come from training itself."
    ],
    "plain",
)


class Diagnostic(NamedTuple):
    """A row of the signal table: the mean over the logged steps and the last value, formatted."""

    key: str
    unit: str
    meaning: str
    mean: str
    last: str


@dataclass(frozen=True)
class RunSection:
    """What the page says about one run.

    Attributes:
        name: Title of the section.
        verdict: Of the run's own evaluation.
        facts: What the run is, label and text.
        numbers: The most important ones.
        figures: Curves.
        diagnostics: One row a metric.
        browser: Some of its rollouts.
        evaluations: The run's own, base against trained model, then those that were made of it later.
        recipe: The resolved recipe.
        manifest: Versions, hardware and identities.
    """

    name: str
    verdict: Verdict
    facts: list[tuple[str, str]]
    numbers: list[Number]
    figures: list[DrawnFigure]
    diagnostics: list[Diagnostic]
    browser: Browser | None
    evaluations: list[EvaluationSection]
    recipe: str
    manifest: str


def run_section(run: RunDirectory, name: str) -> RunSection:
    """The section of a run directory."""
    rows = run.metrics()
    manifest = run.manifest() if run.manifest_file.exists() else {}
    evaluations = [
        evaluation_section(folder, "Held-out problems" if folder == run.evaluation else folder.name)
        for folder in evaluation_folders(run.evaluation)
    ]
    own = next((item for item in evaluations if item.name == "Held-out problems"), None)
    return RunSection(
        name,
        own.verdict if own else NOT_EVALUATED,
        _facts({**run.recipe(), **manifest}, rows),
        [*(own.numbers if own else []), *_training_numbers(rows)],
        [*draw_curves(rows), *([signals] if (signals := draw_signals({name: [rows]})) else [])],
        _diagnostics(rows),
        read_browser({name: run}),
        evaluations,
        run.recipe_text(),
        yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=110) if manifest else "",
    )


def _facts(settings: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """What the run is, as label and text; identities that are more than one value stand with the settings below."""
    found = ((key, settings.get(key)) for key in FACTS)
    facts = [(key.replace("_", " "), str(value)) for key, value in found if isinstance(value, str | int | float)]
    return [*facts, ("optimizer steps", str(rows[-1]["step"] if rows else 0))]


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

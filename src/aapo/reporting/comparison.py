"""The section of a comparison: verdicts, scores over seeds, curves with bands, signals, heat maps of sweeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aapo.evaluation import ScoreTable
from aapo.reporting.bands import draw_finals, draw_heat_map, draw_score_curves, draw_signals
from aapo.reporting.costs import draw_over_tokens
from aapo.reporting.drawing import DrawnFigure
from aapo.reporting.evaluation import Cell, PageTable, Verdict
from aapo.reporting.registered import registered_words
from aapo.reporting.rollouts import Browser, read_browser
from aapo.runs import RunDirectory
from aapo.stored import read_json

MAX_CURVES = 8
# A variant's share of the rollouts to browse.
BROWSED_STEPS, BROWSED_GROUPS = 4, 1
MAX_SENTENCES = 12
UNITS = {"steps": "steps", "tokens": "generated tokens", "seconds": "seconds of training"}
OPPOSITE = {"better": "worse", "worse": "better", "cannot tell": "cannot tell"}
Summary = dict[str, Any]


@dataclass(frozen=True)
class ComparisonSection:
    """What the page says about one comparison.

    Attributes:
        name: Title of the section.
        verdict: In words.
        tables: Scores of each variant, then differences of pairs, then failures where there are any.
        figures: Final scores, curves, signals, heat maps.
        reading: How the numbers came about.
        recipe: The recipe that the runs share, and what each changes.
        browser: Some rollouts of each variant's first run.
    """

    name: str
    verdict: Verdict
    tables: list[PageTable]
    figures: list[DrawnFigure]
    reading: list[str]
    recipe: str
    browser: Browser | None


def comparison_section(folder: Path, name: str) -> ComparisonSection:
    """The section of a folder with a `summary.json`."""
    fix = "delete it, and the same `aapo compare` writes it again"
    summary = read_json(folder / "summary.json", fix, ("variants", "pairs", "match", "failures"))
    runs = {
        variant["label"]: [RunDirectory(path).metrics() for path in variant_runs(folder, variant)]
        for variant in summary["variants"][:MAX_CURVES]
    }
    figures = [
        draw_finals(summary),
        draw_over_tokens(summary),
        draw_score_curves(summary, UNITS[summary["match"]], MAX_CURVES),
        draw_signals(runs),
        *(draw_heat_map(summary, algorithm) for algorithm in _swept_algorithms(summary)),
    ]
    first_runs = {
        variant["label"]: RunDirectory(variant_runs(folder, variant)[0]) for variant in summary["variants"][:MAX_CURVES]
    }
    return ComparisonSection(
        name,
        judge(summary),
        [_page_table("Scores", variant_table(summary)), _page_table("Pairs", pair_table(summary)), *_failures(summary)],
        [figure for figure in figures if figure],
        _reading(summary),
        next(iter(first_runs.values())).recipe_text(),
        read_browser(first_runs, BROWSED_STEPS, BROWSED_GROUPS),
    )


def variant_runs(folder: Path, variant: dict[str, Any]) -> list[Path]:
    """The run directories of a variant's finished runs."""
    return [folder / run for run in variant["runs"]]


def judge(summary: Summary) -> Verdict:
    """What the first variant is to the others, and every pair in words."""
    first = summary["variants"][0]["label"]
    pairs = [pair for pair in summary["pairs"] if first in (pair["one"], pair["other"])]
    groups: dict[str, list[str]] = {"better": [], "worse": [], "cannot tell": []}
    for pair in pairs:
        if pair["one"] == first:
            groups[pair["verdict"]].append(pair["other"])
        else:
            groups[OPPOSITE[pair["verdict"]]].append(pair["one"])
    said = [
        f"{words} {_listed(names)}"
        for words, names in (
            ("better than", groups["better"]),
            ("worse than", groups["worse"]),
            ("not told apart from", groups["cannot tell"]),
        )
        if names
    ]
    if not said:
        return Verdict(f"Only {first} has finished runs: nothing to compare", [], "plain")
    kinds = {kind for kind, names in groups.items() if names}
    tone = kinds.pop() if len(kinds) == 1 else "unclear"
    sentences = verdict_sentences(summary)
    more = len(sentences) - MAX_SENTENCES
    shown = [*sentences[:MAX_SENTENCES], *([f"… and {more} more pairs, in the table below."] if more > 0 else [])]
    return Verdict(f"{first} is {', '.join(said)}", shown, tone if tone in ("better", "worse") else "unclear")


def verdict_sentences(summary: Summary) -> list[str]:
    """One sentence a pair."""
    return [_sentence(pair) for pair in summary["pairs"]]


def _sentence(pair: dict[str, Any]) -> str:
    points, low, high = (100 * pair["final"][key] for key in ("difference", "low", "high"))
    size = f"{points:+.1f} points [{low:+.1f}, {high:+.1f}]"
    if pair["verdict"] != "cannot tell":
        return f"{pair['one']} is {pair['verdict']} than {pair['other']}: {size}, corrected p {pair['p_corrected']:.2g}"
    seeds = len(pair["seeds"])
    if seeds < 2:
        need = "one seed says nothing about others; add seeds"
    elif pair["seeds_needed"] is None:
        need = "the difference is too small for these problems: no number of seeds under 1000 would show it"
    else:
        need = f"needs about {pair['seeds_needed'] - seeds} more seeds"
    return f"{pair['one']} against {pair['other']}: cannot tell, {size}; {need}"


def variant_table(summary: Summary) -> ScoreTable:
    """Scores of each variant over its seeds, in percent."""
    has_area = all(variant["area"] for variant in summary["variants"])
    columns = [
        "variant",
        "seeds",
        "mean",
        "IQ mean",
        *(["area"] if has_area else []),
        "steps",
        "tokens",
        "of bank",
        "seconds",
    ]
    rows = [
        [
            variant["label"],
            str(len(variant["seeds"])),
            _percent(variant["final"]["mean"]),
            _percent(variant["final"]["interquartile_mean"]),
            *([_percent(variant["area"]["mean"])] if has_area else []),
            *(f"{variant['cost'].get(key, 0):,.0f}" for key in ("steps", "tokens", "bank_tokens", "seconds")),
        ]
        for variant in summary["variants"]
    ]
    notes = [
        f"Percent right on {summary['task']}, {summary['num_problems']} held-out problems x {summary['num_samples']}; "
        f"95% intervals over seeds, for these problems (Student's, on log odds). Protocol {summary['protocol']}.",
        f"Matched by {summary['match']} ({summary['budget']:,.0f}); tokens are all completion tokens, means over "
        f"seeds, with {_share_words(summary)} of what the reference samples of a run's prompts cost (of bank).",
    ]
    notes += registered_words(summary)
    if short := summary.get("short"):
        names = ", ".join(f"{item['run'].removeprefix('runs/')} at {item['end']:,.0f}" for item in short)
        notes.append(
            f"NOT MATCHED: {len(short)} runs ended before {summary['budget']:,.0f} {summary['match']} ({names}); "
            "compare again in another folder, with a higher max_steps or a lower budget."
        )
    if missing := summary.get("missing"):
        names = ", ".join(_unfinished(item) for item in missing)
        notes.append(f"Incomplete: {len(missing)} planned runs are missing ({names}).")
    if has_area:
        notes.append("Area: the mean height of the curve of held-out scores during training.")
    return ScoreTable(columns, rows, notes)


def pair_table(summary: Summary) -> ScoreTable:
    """Differences of pairs, in points."""
    rows = [
        [
            f"{pair['one']} - {pair['other']}",
            _points(pair["final"]),
            _points(pair["area"]) if pair["area"] else "",
            _share(pair["probability_of_improvement"]),
            "" if pair["p_corrected"] is None else f"{pair['p_corrected']:.2g}",
            pair["verdict"],
        ]
        for pair in summary["pairs"]
    ]
    notes = [
        "Points, paired by seed and problem, with 95% intervals that stand alone; p is corrected "
        f"({summary['correction']}) and decides the verdict. P(better): probability that a run of the first scores "
        "above one of the second."
    ]
    return ScoreTable(["pair", "final", "area", "P(better)", "p", "verdict"], rows, notes)


def _share_words(summary: Summary) -> str:
    share = summary.get("bank_share", 0.0)
    return "all" if share == 1 else "nothing" if share == 0 else f"{100 * share:.3g}%"


def _unfinished(item: dict[str, Any]) -> str:
    return f"{item['run'].removeprefix('runs/')}, {'at step ' + str(item['step']) if item['step'] else 'not begun'}"


def _percent(numbers: dict[str, float | None]) -> str:
    estimate, low, high = (numbers[key] for key in ("estimate", "low", "high"))
    assert estimate is not None
    return f"{100 * estimate:.1f}" + ("" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]")


def _points(ends: dict[str, float]) -> str:
    difference, low, high = (100 * ends[key] for key in ("difference", "low", "high"))
    return f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]"


def _share(numbers: dict[str, float]) -> str:
    return f"{numbers['estimate']:.2f} [{numbers['low']:.2f}, {numbers['high']:.2f}]"


def _page_table(title: str, table: ScoreTable) -> PageTable:
    return PageTable(title, table.columns, [[Cell(text, False) for text in row] for row in table.rows], table.notes)


def _failures(summary: Summary) -> list[PageTable]:
    if not summary["failures"]:
        return []
    rows = [[Cell(item["run"], False), Cell(item["reason"], False)] for item in summary["failures"]]
    return [PageTable("Runs that failed", ["run", "reason"], rows, ["They are in no number above."])]


def _swept_algorithms(summary: Summary) -> list[str]:
    """Algorithms with two or more variants that all differ in the same one or two settings."""
    swept: dict[str, list[tuple[str, ...]]] = {}
    for variant in summary["variants"]:
        if variant["settings"]:
            swept.setdefault(variant["algorithm"], []).append(tuple(variant["settings"]))
    return [algorithm for algorithm, of in swept.items() if len(of) > 1 and len(set(of)) == 1 and len(of[0]) <= 2]


def _reading(summary: Summary) -> list[str]:
    return [
        "All runs of a seed share base model, order of prompts, reference bank and evaluation.",
        "Intervals of single variants are about further seeds on the same problems. Differences are paired by seed and "
        "problem, both of which count as drawn from more of their kind; interval and p-value are Student's for both, "
        f"the p-value corrected by {summary['correction']}. Below 0.05 the verdict is better or worse, else it cannot "
        "be told; the seeds needed assume that the difference seen is the true one and ask for 80% power.",
    ]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

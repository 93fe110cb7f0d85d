"""The report: one HTML file that loads nothing and says first what came out, then shows why."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from aapo.errors import InputError
from aapo.evaluation.results import RESULTS
from aapo.files import check_file, write_text
from aapo.messages import visible
from aapo.reporting.comparison import ComparisonSection, comparison_section
from aapo.reporting.drawing import DrawnFigure, write_figures
from aapo.reporting.evaluation import EvaluationSection, evaluation_section
from aapo.reporting.run import RunSection, run_section
from aapo.runs import RunDirectory

PAGE = Path(__file__).parent / "page"
MAX_TEXT_CHARACTERS, MAX_LINE_CHARACTERS = 6000, 140
Section = RunSection | EvaluationSection | ComparisonSection


class Kind(NamedTuple):
    """A kind of folder that a section can be made of.

    Attributes:
        name: The template's, and what the page calls it.
        file: The file by which a folder is known to be of this kind.
        section: Makes the section from folder and title.
    """

    name: str
    file: str
    section: Callable[[Path, str], Section]


KINDS = (
    Kind("comparison", "summary.json", comparison_section),
    Kind("run", "recipe.yaml", lambda folder, name: run_section(RunDirectory(folder), name)),
    Kind("evaluation", RESULTS, evaluation_section),
)


def write_report(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Where the report was written; the figures are in each folder's `figures/`.

    Args:
        folders: Run directories, evaluation folders and comparisons, each with a section of the page in this order;
            several get a summary on top.
        output: The HTML file; by default `report.html` in the folder.

    Raises:
        InputError: A folder is of no known kind, or there are several and no `output`.
    """
    if output is None and len(folders) != 1:
        raise InputError(
            f"a report of {len(folders)} folders has no place of its own; give --output FILE, such as --output "
            "report.html"
        )
    kinds = [_kind(folder) for folder in folders]
    target = output or folders[0] / "report.html"
    check_file(target, "--output")
    sections = [kind.section(folder, name) for kind, folder, name in zip(kinds, folders, _names(folders), strict=True)]
    for folder, section in zip(folders, sections, strict=True):
        write_figures(folder / "figures", list(_figures(section)))
    write_text(target, visible(_render(kinds, sections)))
    return target


def _kind(folder: Path) -> Kind:
    for kind in KINDS:
        if (folder / kind.file).is_file():
            return kind
    known = ", ".join(f"{kind.file} ({kind.name})" for kind in KINDS)
    raise InputError(
        f"{folder} is nothing to report on: it has none of {known}; name a folder that `aapo train`, `aapo "
        "eval` or `aapo compare` wrote"
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, or their paths as given where two share a name."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _figures(section: Section) -> Iterator[DrawnFigure]:
    """Every figure of a section; those of a run's further evaluations carry their names."""
    if isinstance(section, EvaluationSection):
        yield from [section.figure] if section.figure else []
        return
    yield from section.figures
    if isinstance(section, ComparisonSection):
        return
    for place, part in enumerate(section.evaluations):
        if part.figure:
            yield part.figure if place == 0 else part.figure.renamed(f"evaluation-{part.name}")


def _render(kinds: Sequence[Kind], sections: Sequence[Section]) -> str:
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "shorten": _shorten,
        "keep_estimates_whole": _keep_estimates_whole,
        "svg": _svg,
        "first_line": _first_line,
        "compact": _compact,
    }
    script = (PAGE / "report.js").read_text(encoding="utf-8")
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.jinja").render(
        sections=[(kind.name, f"part-{place + 1}", section) for place, (kind, section) in
                  enumerate(zip(kinds, sections, strict=True))],
        script=Markup(script),
        script_hash=f"sha256-{script_hash}",
    )  # fmt: skip


def _svg(figure: DrawnFigure, prefix: str) -> Markup:
    """The figure as markup; matplotlib has escaped its texts."""
    return Markup(figure.svg(prefix))


def _shorten(text: str, limit: int = MAX_TEXT_CHARACTERS) -> str:
    """The text, or its beginning and how much is missing."""
    missing = len(text) - limit
    return text if missing <= 0 else f"{text[:limit]}\n… ({missing} more characters)"


def _compact(value: object) -> str:
    """JSON with four significant digits."""
    rounded = json.loads(json.dumps(value), parse_float=lambda text: float(f"{float(text):.4g}"))
    return json.dumps(rounded, separators=(",", ":"))


def _first_line(text: str) -> str:
    """The beginning of the first line that says something."""
    line = next(filter(None, map(str.strip, text.splitlines())), "")
    return line if len(line) <= MAX_LINE_CHARACTERS else f"{line[:MAX_LINE_CHARACTERS]}…"


def _keep_estimates_whole(text: str) -> Markup:
    """The escaped text, with each `31.2% [28.0, 34.5]` in a span that no line break splits."""
    estimate = r"[\d.]+%? \[[+-]?[\d.]+, [+-]?[\d.]+\]"
    return Markup(re.sub(estimate, r'<span class="estimate">\g<0></span>', str(escape(text))))

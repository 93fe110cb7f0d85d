"""Results as tables in the shape of the paper's Table 1: a row a model, a column a task, a score with its interval."""

from collections.abc import Sequence
from typing import NamedTuple

from aapo.errors import InputError
from aapo.evaluation.published import NUM_PROBLEMS, Published
from aapo.evaluation.results import AVERAGE, Row
from aapo.messages import visible

_LATEX = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}


class ScoreTable(NamedTuple):
    """A table of texts.

    Attributes:
        columns: Headings; the first is the models'.
        rows: One a model; an empty cell where it was not evaluated.
        notes: What must stand under the table.
    """

    columns: list[str]
    rows: list[list[str]]
    notes: list[str]


def score_table(rows: Sequence[Row], published: Sequence[Published] = (), notes: Sequence[str] = ()) -> ScoreTable:
    """The avg@n scores in percent with 95% intervals; published ones with +- their standard error.

    Args:
        rows: Of results.json.
        published: Rows of the paper to stand under them.
        notes: Further notes.

    Raises:
        InputError: None of the tasks is in the paper's table.
    """
    scores = [row for row in rows if row["metric"].startswith("avg")]
    tasks = list(dict.fromkeys(row["task"] for row in scores if row["task"] != AVERAGE))
    if any(row["task"] == AVERAGE for row in scores):
        tasks.append(AVERAGE)
    found = {(row["model"], row["task"]): row for row in scores}
    models = list(dict.fromkeys(row["model"] for row in scores))
    body = [[model, *(_cell(found.get((model, task))) for task in tasks)] for model in models]
    if published and not set(tasks) & set(NUM_PROBLEMS):
        raise InputError(
            f"--published has no effect, because none of the tasks {', '.join(tasks)} is in the paper's table; it has "
            f"{', '.join(NUM_PROBLEMS)}"
        )
    same = set(tasks) - {AVERAGE} == set(NUM_PROBLEMS)  # else the averages are of other tasks
    body += [
        [
            f"{item.model} (paper)",
            *("" if task == AVERAGE and not same else _published_cell(item, task) for task in tasks),
        ]
        for item in published
    ]
    sizes = {row["task"]: f"{row['num_problems']} x {row['num_samples']}" for row in scores if row["task"] != AVERAGE}
    heads = [f"{task} ({sizes[task]})" if task in sizes else task for task in tasks]
    said = list(notes)
    labels = list(dict.fromkeys(row["protocol"] for row in scores if row["task"] != AVERAGE))
    said.append(f"Percent right with 95% interval; problems x samples. Protocol {', '.join(labels)}.")
    if len(labels) > 1:
        said.append("PROTOCOLS ARE MIXED: scores of different protocols cannot be compared.")
    if published:
        said.append(
            "Rows of the paper: one sample a problem, +- the standard error that this implies" + _slips(published)
        )
    return ScoreTable(["model", *heads], body, said)


def _cell(row: Row | None) -> str:
    return "" if row is None or row["estimate"] is None else percent(row, sign="")


def percent(row: Row, sign: str = "%") -> str:
    """A score such as `31.2% [28.0, 34.5]`."""
    estimate, low, high = (100 * row[key] for key in ("estimate", "low", "high"))
    return f"{estimate:.1f}{sign} [{low:.1f}, {high:.1f}]"


def difference_sentence(row: Row) -> str:
    """A row of differences.json in words; its difference is known."""
    points = 100 * row["difference"]
    where = "on average" if row["task"] == AVERAGE else f"on {row['task']}"
    low, high = (f"{100 * row[end]:+.1f}" for end in ("low", "high"))
    noise = "inside the noise" if row["verdict"] == "inside the noise" else "outside the noise"
    return (
        f"{row['model']} is {abs(points):.1f} points {'above' if points >= 0 else 'below'} {row['against']} {where}, "
        f"95% interval [{low}, {high}]: {noise}"
    )


def _published_cell(item: Published, task: str) -> str:
    if task == AVERAGE:
        return f"{100 * item.average:.1f} +- {100 * item.average_error:.1f}" + ("*" if item.slip else "")
    return f"{100 * item.scores[task]:.1f} +- {100 * item.errors[task]:.1f}" if task in item.scores else ""


def _slips(published: Sequence[Published]) -> str:
    slips = [f"{item.model} {100 * item.printed:.1f}" for item in published if item.slip]
    return f"; * where the paper prints another average: {', '.join(slips)}." if slips else "."


def quality_table(rows: Sequence[Row]) -> ScoreTable:
    """What stands beside each avg@n score: truncated, unanswered, timed out, unparseable (bad) golds, mean tokens."""
    columns = ["model", "task", "truncated", "no answer", "timeouts", "bad golds", "mean tokens"]
    body = [
        [
            row["model"],
            row["task"],
            *(_share(row[key]) for key in ("truncated_frac", "no_answer_frac", "timeout_frac")),
            "" if row["unparseable_gold"] is None else str(row["unparseable_gold"]),
            f"{row['mean_tokens']:.0f}",
        ]
        for row in rows
        if row["metric"].startswith("avg") and row["task"] != AVERAGE
    ]
    return ScoreTable(columns, body, [])


def metric_table(rows: Sequence[Row]) -> ScoreTable | None:
    """The pass@k and maj@k scores; None without any."""
    others = [row for row in rows if not row["metric"].startswith("avg")]
    if not others:
        return None
    metrics = list(dict.fromkeys(row["metric"] for row in others))
    found = {(row["model"], row["task"], row["metric"]): row for row in others}
    pairs = list(dict.fromkeys((row["model"], row["task"]) for row in others))
    body = [[*pair, *(_cell(found.get((*pair, metric))) for metric in metrics)] for pair in pairs]
    return ScoreTable(["model", "task", *metrics], body, [])


def difference_table(rows: Sequence[Row]) -> ScoreTable:
    """Paired differences in percentage points."""
    body = [
        [
            f"{row['model']} - {row['against']}",
            row["task"],
            "" if row["difference"] is None else _points(row),
            str(row["num_problems"]),
            row["verdict"],
        ]
        for row in rows
    ]
    return ScoreTable(["models", "task", "points", "problems", "verdict"], body, [])


def _points(row: Row) -> str:
    difference, low, high = (100 * row[key] for key in ("difference", "low", "high"))
    return f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def markdown(table: ScoreTable) -> str:
    """The table in Markdown."""
    lines = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.rows]
    text = "\n".join("| " + " | ".join(_one_line(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)
    return text + "\n" + "".join(f"\n{_one_line(note)}\n" for note in table.notes)


def latex(table: ScoreTable) -> str:
    """The table in LaTeX, for booktabs."""
    lines = [" & ".join(map(_escape, line)) + r" \\" for line in (table.columns, *table.rows)]
    body = ["\\begin{tabular}{l" + "r" * (len(table.columns) - 1) + "}", "\\toprule", lines[0], "\\midrule", *lines[1:]]
    notes = [f"% {_one_line(note)}" for note in table.notes]
    return "\n".join([*notes, *body, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))


def _escape(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in _one_line(text).replace("\\", ""))
    return escaped.replace("+-", r"$\pm$")

"""What evaluations say together: rows of scores, averages over tasks, paired differences, the choice of a checkpoint.

An evaluation folder holds `results.json`, `differences.json`, `protocol.json`, `table.json` (what the table shows
besides) and `samples/`, one Parquet file a model and task.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aapo.errors import InputError
from aapo.evaluation.estimates import Estimate, difference, score_over_tasks
from aapo.evaluation.evaluation import EVALUATED_ANEW, Evaluation
from aapo.files import remove_leftovers, write_folder, write_json
from aapo.stored import read_json, with_keys

AVERAGE = "average"
RESULTS, DIFFERENCES, PROTOCOL = "results.json", "differences.json", "protocol.json"
TABLE, SAMPLES = "table.json", "samples"
# What every row of results.json says.
ROW_KEYS = ("model", "task", "protocol", "metric", "estimate", "low", "high", "num_problems", "num_samples")
DIFFERENCE_KEYS = ("model", "against", "task", "difference", "low", "high", "num_problems", "verdict")
Row = dict[str, Any]


class StoredEvaluation(NamedTuple):
    """What an evaluation folder holds.

    Attributes:
        rows: Of results.json.
        differences: Of differences.json; empty where nothing was held against anything.
        protocol: The settings it was measured by.
        notes: What must stand under its table.
        published: The rows of the paper's table that stand in it, as `published_rows` names them.
        evaluations: The samples.
    """

    rows: list[Row]
    differences: list[Row]
    protocol: Any
    notes: list[str]
    published: str | None
    evaluations: list[Evaluation]


class Selection(NamedTuple):
    """The checkpoint of a sweep with the highest average.

    Attributes:
        model: Its name.
        tasks: What it was chosen on.
        on_test: Whether these are the tasks that are reported, which makes the reported scores too high.
    """

    model: str
    tasks: list[str]
    on_test: bool

    @property
    def sentence(self) -> str:
        """What a reader must know of it."""
        if self.on_test:
            return (
                f"{self.model} was selected on the test: it has the best average over the tasks that are reported, so "
                "its scores are biased upwards; choose on other problems with --dev-tasks"
            )
        return f"{self.model} was selected on the development tasks {', '.join(self.tasks)}, not on the tasks reported"


def metrics_of(evaluation: Evaluation, ks: Sequence[int] | None) -> list[str]:
    """The metrics of one evaluation: avg@n, and pass@k and maj@k for the given k, by default n.

    Raises:
        InputError: A k is over the number of samples.
    """
    n = evaluation.num_samples
    check_ks(evaluation.task, n, ks or ())
    wanted = ([n] if n > 1 else []) if ks is None else list(ks)
    return [f"avg@{n}", *(f"{kind}@{k}" for kind in ("pass", "maj") for k in wanted)]


def check_ks(task: str, num_samples: int, ks: Sequence[int]) -> None:
    """Check that the k of pass@k and maj@k are known from the samples of a task.

    Raises:
        InputError: One is not.
    """
    for k in ks:
        if not 1 <= k <= num_samples:
            raise InputError(
                f"k is {k} and {task} has {num_samples} samples a problem; k must be from 1 to {num_samples}"
            )


def result_rows(evaluations: Sequence[Evaluation], ks: Sequence[int] | None = None) -> list[Row]:
    """The rows of `results.json`: of each model its tasks, then their average where there are several."""
    rows = []
    for part in _by_model(evaluations):
        rows += [evaluation.summary(metric) for evaluation in part for metric in metrics_of(evaluation, ks)]
        if len(part) > 1:
            rows += _average_rows(part, ks)
    return rows


def _average_rows(part: Sequence[Evaluation], ks: Sequence[int] | None) -> list[Row]:
    """A model's averages over tasks, by metric; avg@n is averaged whatever each task's n is."""
    listed = [metrics_of(evaluation, ks) for evaluation in part]
    common = [metric for metric in listed[0][1:] if all(metric in metrics for metrics in listed)]
    sizes = {evaluation.num_samples for evaluation in part}
    one_size = sizes.pop() if len(sizes) == 1 else None
    rows = []
    for metric in ["avg", *common]:
        summaries = [item.summary(metrics[0]) for item, metrics in zip(part, listed, strict=True)]
        values = [
            item.values_P(metrics[0] if metric == "avg" else metric) for item, metrics in zip(part, listed, strict=True)
        ]
        estimate = score_over_tasks(values)
        shares = {key: _mean(row[key] for row in summaries) for key in _SHARES}
        unread = [row["unparseable_gold"] for row in summaries]
        rows.append(
            {
                "model": part[0].model,
                "task": AVERAGE,
                "protocol": ", ".join(dict.fromkeys(item.protocol for item in part)),
                "metric": (f"avg@{one_size}" if one_size else "avg@n") if metric == "avg" else metric,
                **_numbers(estimate),
                "num_problems": sum(len(item.problems) for item in part),
                "num_samples": one_size,
                **shares,
                "unparseable_gold": None if None in unread else sum(unread),
            }
        )
    return rows


_SHARES = ("truncated_frac", "no_answer_frac", "timeout_frac", "mean_tokens")


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else float(np.mean(known))  # type: ignore[arg-type]


def _numbers(estimate: Estimate) -> dict[str, float | None]:
    return {key: None if np.isnan(value) else value for key, value in estimate._asdict().items()}


def _by_model(evaluations: Sequence[Evaluation]) -> list[list[Evaluation]]:
    names = dict.fromkeys(evaluation.model for evaluation in evaluations)
    return [[evaluation for evaluation in evaluations if evaluation.model == name] for name in names]


def difference_rows(evaluations: Sequence[Evaluation], against: Sequence[Evaluation]) -> list[Row]:
    """The rows of `differences.json`: each model minus the one it is held against, paired by problem.

    Raises:
        InputError: The two have no task in common, or not the same problems of one.
    """
    rows = []
    for part in _by_model(evaluations):
        for other in _by_model(against):
            if part[0].model != other[0].model:
                rows += _differences(part, other)
    return rows


def _differences(part: Sequence[Evaluation], other: Sequence[Evaluation]) -> list[Row]:
    theirs = {evaluation.task: evaluation for evaluation in other}
    shared = [evaluation for evaluation in part if evaluation.task in theirs]
    if not shared:
        raise InputError(
            f"{part[0].model} and {other[0].model} share no task: {', '.join(item.task for item in part)} against "
            f"{', '.join(theirs)}; evaluate both on the same tasks"
        )
    pairs = [_paired(mine, theirs[mine.task]) for mine in shared]
    sides = list(zip(*pairs, strict=True))
    rows = [
        _difference_row(mine, other[0], mine.task, [pair[0]], [pair[1]])
        for mine, pair in zip(shared, pairs, strict=True)
    ]
    if len(shared) > 1:
        rows.append(_difference_row(shared[0], other[0], AVERAGE, sides[0], sides[1]))
    return rows


def _paired(one: Evaluation, other: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Both models' shares of right samples, of the same problems in the same order."""
    place = {problem: index for index, problem in enumerate(other.problems)}
    if set(place) != set(one.problems):
        raise InputError(
            f"{one.model} and {other.model} were evaluated on different problems of {one.task} ({len(one.problems)} "
            f"and {len(place)}, {len(set(place) & set(one.problems))} in common); evaluate both on the same problems"
        )
    order = [place[problem] for problem in one.problems]
    return one.values_P(f"avg@{one.num_samples}"), other.values_P(f"avg@{other.num_samples}")[order]


def _difference_row(
    one: Evaluation, other: Evaluation, task: str, mine: Sequence[np.ndarray], theirs: Sequence[np.ndarray]
) -> Row:
    found = difference(mine, theirs)
    verdict = "better" if found.low > 0 else "worse" if found.high < 0 else "inside the noise"
    return {
        "model": one.model,
        "against": other.model,
        "task": task,
        "metric": "avg",
        "difference": None if np.isnan(found.estimate) else found.estimate,
        "low": None if np.isnan(found.low) else found.low,
        "high": None if np.isnan(found.high) else found.high,
        "num_problems": sum(map(len, mine)),
        "verdict": verdict,
    }


def select(models: Sequence[str], development: Sequence[Evaluation], reported: Sequence[Evaluation]) -> Selection:
    """The model with the best average over the development tasks, or without any, over the reported ones."""
    judged = list(development or reported)
    means = {}
    for name in models:
        means[name] = float(np.mean([item.estimate().estimate for item in judged if item.model == name]))
    tasks = list(dict.fromkeys(item.task for item in judged))
    return Selection(max(means, key=lambda name: means[name]), tasks, not development)


def check_protocols(rows: Sequence[Row], *, mix: bool) -> list[str]:
    """The protocols of the rows.

    Raises:
        InputError: They are several, and `mix` is off.
    """
    labels = list(dict.fromkeys(row["protocol"] for row in rows if row["task"] != AVERAGE))
    if len(labels) > 1 and not mix:
        raise InputError(
            f"the results are of {len(labels)} protocols, {', '.join(labels)}, whose scores cannot be compared; "
            "evaluate all models by one, or put them side by side all the same with --mix-protocols"
        )
    return labels


def headline_differences(differences: Sequence[Row]) -> list[Row]:
    """Of each pair of models the known difference of their averages, or of the only task."""
    differences = [row for row in differences if row["difference"] is not None]
    pairs = {(row["model"], row["against"]) for row in differences if row["task"] == AVERAGE}
    return [row for row in differences if row["task"] == AVERAGE or (row["model"], row["against"]) not in pairs]


class Shown(NamedTuple):
    """Rows with names as they are printed, and a note that says what those are short for, if anything."""

    rows: list[Row]
    differences: list[Row]
    names: dict[str, str]
    notes: list[str]


def with_short_names(rows: Sequence[Row], differences: Sequence[Row] = ()) -> Shown:
    """The rows with short names where all models are of one run.

    Its models are called by its name, `NAME@base` and `NAME@40`, which become trained, base and step 40. Rows of
    several runs, or of none, stay as they are.
    """
    keys = ("model", "against")
    names = {row[key] for row in (*rows, *differences) for key in keys if key in row}
    runs = {name.partition("@")[0] for name in names}
    if len(runs) != 1 or runs == names:
        return Shown(list(rows), list(differences), {name: name for name in names}, [])
    marks = {name: name.partition("@")[2] for name in names}
    short = {name: f"step {mark}" if mark.isdecimal() else mark or "trained" for name, mark in marks.items()}

    def renamed(part: Sequence[Row]) -> list[Row]:
        return [{**row, **{key: short[row[key]] for key in keys if key in row}} for row in part]

    return Shown(renamed(rows), renamed(differences), short, [f"Models of the run {runs.pop()}."])


def clear_leaders(evaluations: Sequence[Evaluation]) -> set[tuple[str, str]]:
    """Model and task of each model that is above every other on it, in paired differences outside the noise.

    `average` counts as a task where all models were evaluated on the same tasks, and on more than one.
    """
    models = {part[0].model: {item.task: item for item in part} for part in _by_model(evaluations)}
    tasks = list(dict.fromkeys(item.task for item in evaluations))
    groups = [(task, [task]) for task in tasks]
    if len(tasks) > 1 and all(set(of) == set(tasks) for of in models.values()):
        groups.append((AVERAGE, tasks))
    leaders = set()
    for name, members in groups:
        able = [model for model, of in models.items() if set(members) <= set(of)]
        if len(able) < 2:
            continue
        means = {model: np.mean([models[model][task].estimate().estimate for task in members]) for model in able}
        best = max(able, key=lambda model: means[model])
        if all(_above(models[best], models[other], members) for other in able if other != best):
            leaders.add((best, name))
    return leaders


def _above(one: Mapping[str, Evaluation], other: Mapping[str, Evaluation], tasks: Sequence[str]) -> bool:
    """Whether one model's mean over the tasks is above the other's, outside the noise."""
    pairs = [_paired(one[task], other[task]) for task in tasks]
    return difference([mine for mine, _ in pairs], [theirs for _, theirs in pairs]).low > 0


def save_results(
    folder: Path,
    evaluations: Sequence[Evaluation],
    rows: Sequence[Row],
    differences: Sequence[Row],
    protocols: Any,
    *,
    notes: Sequence[str] = (),
    published: str | None = None,
) -> None:
    """Write an evaluation folder; `results.json` comes last."""

    def fill(samples: Path) -> None:
        for evaluation in evaluations:
            evaluation.save(samples)

    remove_leftovers(folder)
    write_folder(folder / SAMPLES, fill, replace=True)
    write_json(folder / PROTOCOL, protocols)
    write_json(folder / DIFFERENCES, list(differences))
    write_json(folder / TABLE, {"notes": list(notes), "published": published})
    write_json(folder / RESULTS, list(rows))


def read_results(path: Path) -> list[Row]:
    """The rows in a results.json or an evaluation folder.

    Raises:
        InputError: There is none.
    """
    file = path / RESULTS if path.is_dir() else path
    if file.name != RESULTS or not file.is_file():
        raise InputError(f"{path} is not a result; name a folder that `aapo eval` wrote, or the results.json in it")
    if not (rows := _read_rows(file, ROW_KEYS)):
        raise InputError(f"{file} has no rows; {EVALUATED_ANEW}")
    return rows


def _read_rows(file: Path, needs: Sequence[str]) -> list[Row]:
    rows = read_json(file, EVALUATED_ANEW)
    for row in rows if isinstance(rows, list) else [None]:
        with_keys(file, row, needs, EVALUATED_ANEW)
    return rows


def read_evaluations(path: Path) -> list[Evaluation]:
    """The evaluations of a results.json or an evaluation folder, with their samples.

    Raises:
        InputError: There is none, or its samples are gone.
    """
    rows = read_results(path)
    folder = path if path.is_dir() else path.parent
    found = [Evaluation.read(file) for file in sorted((folder / SAMPLES).glob("*.parquet"))]
    if not found:
        raise InputError(f"{folder} has no samples beside its results; {EVALUATED_ANEW}")
    there = {(item.model, item.task) for item in found}
    lost = [f"{row['model']} on {row['task']}" for row in rows if row["task"] != AVERAGE and _whose(row) not in there]
    if lost:
        raise InputError(f"{folder / SAMPLES} has no samples of {lost[0]}; {EVALUATED_ANEW}")
    return found


def _whose(row: Row) -> tuple[str, str]:
    return row["model"], row["task"]


def read_evaluation(folder: Path) -> StoredEvaluation:
    """Everything in an evaluation folder.

    Raises:
        InputError: It holds no results, or no samples.
    """
    rows, evaluations = read_results(folder), read_evaluations(folder)
    differences = _read_rows(folder / DIFFERENCES, DIFFERENCE_KEYS)
    protocol = read_json(folder / PROTOCOL, EVALUATED_ANEW)
    table = read_json(folder / TABLE, EVALUATED_ANEW, ("notes", "published"))
    places = {(row["model"], row["task"]): place for place, row in reversed(list(enumerate(rows)))}
    evaluations.sort(key=lambda item: places.get((item.model, item.task), len(rows)))
    return StoredEvaluation(rows, differences, protocol, table["notes"], table["published"], evaluations)

"""Completions of the base and the trained model to the same held-out problems, side by side."""

from collections import defaultdict
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from aapo.runs import RunDirectory

NUM_PROBLEMS = 5
NUM_LOSSES = 2

Key = tuple[str, str, int]


class Answer(NamedTuple):
    """A model's completion and its mark: `right` for 1, `wrong` for less and `not gradable` for null.

    `why` is the verdict and the rule behind the mark, where the reward function told them, otherwise empty.
    """

    text: str
    mark: str
    completion_tokens: int
    truncated: bool
    why: str


class Pair(NamedTuple):
    """The same held-out problem answered by both models."""

    task: str
    prompt: str
    gold: str
    base: Answer
    trained: Answer


class Outcomes(NamedTuple):
    """On how many problems the trained model scores better than the base model, worse and the same."""

    num_better: int
    num_worse: int
    num_same: int


class SideBySide(NamedTuple):
    """Pairs to read, pairs that only the base model answered right, and the outcomes over all shared problems."""

    pairs: list[Pair]
    losses: list[Pair]
    outcomes: Outcomes


def read_side_by_side(run: RunDirectory) -> SideBySide | None:
    """Pairs of the problems with the smallest prompt keys, and of problems that only the base model answered right.

    Keys are hashes, so the first choice looks at neither answer and is the same in every report on the same benchmark.
    `None` where one of the two models has no stored completions, or they share no problem.
    """
    samples = run.evaluation / "samples"
    files = [sorted(samples.glob(f"{model}--*.parquet")) for model in ("base", "trained")]
    if not all(files):
        return None
    base, trained = (pa.concat_tables(map(pq.read_table, each), promote_options="default") for each in files)
    base_rows, trained_rows = _row_of(base), _row_of(trained)
    shared = sorted(base_rows.keys() & trained_rows.keys(), key=lambda key: (key[1], key[0], key[2]))
    if not shared:
        return None
    first: dict[tuple[str, str], Key] = {}
    for key in shared:
        first.setdefault(key[:2], key)
    chosen, rest = list(first.values())[:NUM_PROBLEMS], list(first.values())[NUM_PROBLEMS:]
    base_correct, trained_correct = base["correct"].to_pylist(), trained["correct"].to_pylist()
    lost = [
        key
        for key in rest
        if _mark(base_correct[base_rows[key]]) == "right" and _mark(trained_correct[trained_rows[key]]) == "wrong"
    ]

    def pair(key: Key) -> Pair:
        return _pair(_row(base, base_rows[key]), _row(trained, trained_rows[key]))

    return SideBySide(
        [pair(key) for key in chosen],
        [pair(key) for key in lost[:NUM_LOSSES]],
        _outcomes(_score_of_problems(base), _score_of_problems(trained)),
    )


def _row_of(table: pa.Table) -> dict[Key, int]:
    tasks, prompt_keys, samples = (table[name].to_pylist() for name in ("task", "prompt_key", "sample"))
    return {key: row for row, key in enumerate(zip(tasks, prompt_keys, samples, strict=True))}


def _row(table: pa.Table, row: int) -> dict[str, Any]:
    return table.slice(row, 1).to_pylist()[0]


def _pair(base: dict[str, Any], trained: dict[str, Any]) -> Pair:
    return Pair(base["task"], base["prompt"], base["gold"], _answer(base), _answer(trained))


def _answer(row: dict[str, Any]) -> Answer:
    truncated = row["finish_reason"] == "length"
    return Answer(row["completion"], _mark(row["correct"]), row["completion_tokens"], truncated, _why(row))


def _why(row: dict[str, Any]) -> str:
    if row["verdict"] is None:
        return ""
    return row["verdict"].replace("_", " ") + (f", by {row['rule']}" if row["rule"] else "")


def _mark(correct: float | None) -> str:
    if correct is None:
        return "not gradable"
    return "right" if correct == 1 else "wrong"


def _score_of_problems(table: pa.Table) -> dict[tuple[str, str], float]:
    """The mean of `correct` over the gradable samples of each problem; problems without any are left out."""
    scores = defaultdict(list)
    tasks, prompt_keys, corrects = (table[name].to_pylist() for name in ("task", "prompt_key", "correct"))
    for task, prompt_key, correct in zip(tasks, prompt_keys, corrects, strict=True):
        if correct is not None:
            scores[task, prompt_key].append(correct)
    return {problem: sum(values) / len(values) for problem, values in scores.items()}


def _outcomes(base: dict[tuple[str, str], float], trained: dict[tuple[str, str], float]) -> Outcomes:
    differences = [trained[problem] - base[problem] for problem in base.keys() & trained.keys()]
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return Outcomes(better, worse, len(differences) - better - worse)

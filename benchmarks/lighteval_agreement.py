"""Where our verdicts differ from those of lighteval's metrics, as the exported tasks use them, on shared completions.

The completions are those of the table of grading cases and of `model_completions.py`. lighteval grades in its own
environment (docs/lighteval.md), whose interpreter is the argument; run from the repository's root:

    python benchmarks/lighteval_agreement.py PYTHON

It writes benchmarks/results/lighteval_differences.jsonl, one line a difference, a .json file beside it with what was
compared and the causes, and docs/lighteval_differences.md. It fails if a difference has no cause.
"""

import argparse
import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from aapo.evaluation import load_protocol
from aapo.evaluation.lighteval import write_lighteval_tasks
from aapo.grading import GRADER_VERSION, grade
from aapo.tasks import shipped_benchmarks
from differences import kind_of, table, write
from lighteval_causes import CAUSES, find_cause
from model_completions import CHOICES, FORMS, KIND, UNBOXED, Row, model_completions

CASES = Path("tests/unit/grading_cases.json")
VERDICTS = Path(__file__).with_name("lighteval_verdicts.py")
NAME = "lighteval_differences"
TABLE = "cases of the table"
LETTERS = "ABCDEFGHIJ"
# Whether we pay and whether lighteval does.
OUTCOMES = {
    (True, True): "both_pay",
    (False, False): "neither_pays",
    (False, True): "lighteval_alone",
    (True, False): "we_alone",
}
COUNTS = (*OUTCOMES.values(), "left_out", "ours_not_right", "lighteval_not_right", "unboxed")
PAGE = """# Where our verdicts differ from lighteval's

lighteval {lighteval} with latex2sympy2_extended {latex2sympy2_extended} grades by the metrics of the
[exported tasks](lighteval.md), `pass_at_k_math` and `gpqa_instruct_pass_at_k`; our grader is version {grader}. Both
graded the same completions: the cases of [`grading_cases.json`](../tests/unit/grading_cases.json), and
[completions as models write them](../benchmarks/model_completions.py) for {forms} forms of gold answers, those of the
benchmarks.

| completions | both pay | neither pays | lighteval alone | we alone | agree |
|---|---|---|---|---|---|
{rows}

lighteval's tasks leave out {left_out} cases more, whose gold answer is empty or no mathematics.

## In whose favour

That the completions as models write them are right or wrong was written down with them. Our verdict is not the right
one on {ours_not_right} of them, lighteval's on {lighteval_not_right}, both on {both_wrong}; {unboxed} of lighteval's
are right values without the box that the prompt asks for, and that they are not paid is our decision. Each case of the
table says which verdict is right, and our grader is tested to give it, so the differences there are in our favour by
construction. The cases were chosen to be hard: their rate is none to expect on a benchmark. Our decisions are in
[grading.md](grading.md).

## Paid by lighteval, not by us ({theirs})

{table_theirs}
## Paid by us, not by lighteval ({ours})

{table_ours}
## The data

[One line a difference](../benchmarks/results/{name}.jsonl): kind, topic and cause, gold answer and completion, our
verdict with its rule and the answer found, what lighteval read and whether it pays, which verdict is right and why.
Each of the {causes} causes is [explained and counted](../benchmarks/results/{name}.json). Files and page are made anew,
in two minutes, with the interpreter of [lighteval's environment](lighteval.md#its-environment):

```sh
.venv/bin/python benchmarks/lighteval_agreement.py .venv-lighteval/bin/python
```
"""


class Read(NamedTuple):
    """lighteval's verdict, and what it read of gold answer and completion; no verdict where it leaves the row out."""

    pays: bool | None
    gold: str
    answer: str


def table_cases() -> Iterator[Row]:
    """The cases of the table, as rows of the benchmark whose gold answers are of the kind."""
    for case in json.loads(CASES.read_text(encoding="utf-8")):
        task, line = "aapo_math_500", {"problem": "?", "answer": case["gold"]}
        if case.get("convention") == "choice":
            letters = LETTERS[:4] if case["gold"] in LETTERS[:4] else LETTERS
            task, line = "aapo_gpqa_diamond", {"letter": case["gold"], "letters": letters}
        elif case.get("convention") == "hashes":
            task, line = "aapo_gsm8k", {"question": "?", "answer": case["gold"]}
        yield Row(
            task, line, case["gold"], case["completion"], case["verdict"] == "correct", case["why"], case["topic"],
            kind_of(case["topic"]), case.get("convention"),
        )  # fmt: skip


def lighteval_reads(rows: list[Row], python: str) -> tuple[dict[str, str], list[Read]]:
    """The versions that grade in lighteval's environment, and their verdicts by the exported tasks."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = Path(folder) / "tasks.py"
        write_lighteval_tasks(tasks, list(shipped_benchmarks().values()), load_protocol("paper"))
        done = subprocess.run(
            [python, VERDICTS, tasks],
            input=json.dumps([{"task": row.task, "line": row.line, "completion": row.completion} for row in rows]),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    graded = json.loads(done.stdout)
    return graded["versions"], [Read(*item) for item in graded["verdicts"]]


def compare(rows: list[Row], reads: list[Read]) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """How often both agree (COUNTS), and the completions where they differ or neither is right."""
    counts, differences = Counter(), []
    for row, read in zip(rows, reads, strict=True):
        if read.pays is None:
            counts["left_out"] += 1
            continue
        verdict = grade(row.gold, row.completion, convention=row.convention)  # type: ignore[arg-type]
        ours = verdict.outcome == "correct"
        counts[OUTCOMES[ours, read.pays]] += 1
        counts["ours_not_right"] += ours != row.right
        counts["lighteval_not_right"] += read.pays != row.right
        counts["unboxed"] += read.pays and row.kind == KIND and row.why in UNBOXED
        if ours == read.pays == row.right:
            continue
        difference = {
            "kind": row.kind,
            "topic": row.topic,
            "task": row.task,
            "gold": row.gold,
            "completion": row.completion,
            **({"convention": row.convention} if row.convention else {}),
            "ours": {"verdict": verdict.outcome, "rule": verdict.rule, "answer": verdict.extracted},
            "lighteval": read._asdict(),
            "right": "ours" if ours == row.right else "lighteval" if read.pays == row.right else "neither",
            "why": row.why,
        }
        differences.append({**difference, "cause": find_cause(difference)} if ours != read.pays else difference)
    return {key: counts[key] for key in COUNTS}, differences


def causes(differences: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each cause of the differences, the most frequent first, with who pays, its explanation and its numbers."""
    number = Counter((one.get("cause"), one["kind"] == KIND) for one in differences)
    found = Counter(one["cause"] for one in differences if "cause" in one)
    return {
        cause: {**CAUSES[cause]._asdict(), TABLE: number[cause, False], KIND: number[cause, True]}
        for cause, _ in found.most_common()
    }


def page(report: dict[str, Any], differences: list[dict[str, Any]]) -> str:
    """The Markdown page."""
    lines = []
    for name, counts in report["sets"].items():
        numbers = [counts[key] for key in OUTCOMES.values()]
        share = 100 * (numbers[0] + numbers[1]) / sum(numbers)
        lines.append(f"| {name} ({sum(numbers)}) | {' | '.join(map(str, numbers))} | {share:.1f}% |")
    differing = [one for one in differences if "cause" in one]
    sides = {pays: [one for one in differing if one["lighteval"]["pays"] == pays] for pays in (True, False)}
    return PAGE.format(
        name=NAME,
        rows="\n".join(lines),
        forms=report["forms"],
        left_out=sum(counts["left_out"] for counts in report["sets"].values()),
        theirs=len(sides[True]),
        ours=len(sides[False]),
        table_theirs=table(sides[True], "lighteval"),
        table_ours=table(sides[False], "lighteval"),
        causes=len(report["causes"]),
        both_wrong=len(differences) - len(differing),
        **report["versions"],
        **{key: report["sets"][KIND][key] for key in ("ours_not_right", "lighteval_not_right", "unboxed")},
    )


def main() -> None:
    """Grade by both, compare, and write data and page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("python", help="interpreter of lighteval's environment")
    python = parser.parse_args().python
    sets, versions, differences = {}, {}, []
    for name, rows in {TABLE: list(table_cases()), KIND: list(model_completions())}.items():
        versions, reads = lighteval_reads(rows, python)
        sets[name], found = compare(rows, reads)
        differences += found
        print(f"{name}: {sets[name]}")
    report = {
        "command": "python benchmarks/lighteval_agreement.py PYTHON",
        "versions": {"grader": GRADER_VERSION, **versions},
        "forms": len(FORMS) + bool(CHOICES),
        "sets": sets,
        "causes": causes(differences),
    }
    write(NAME, report, differences, page(report, differences))


if __name__ == "__main__":
    main()

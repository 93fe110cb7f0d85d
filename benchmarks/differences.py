"""Verdicts in which two graders differ: their kinds, the files that keep them, and examples of them for a page.

A difference is an object of one JSON line:

- `kind` (KINDS), `topic` of the case or form of the gold answer; `cause`, where causes are told apart;
- `gold` and `completion`, with the `convention` and the exported `task` where there is one;
- `ours`: our `verdict`, the `rule` that decided and the `answer` that we found;
- the other grader's name: whether it `pays`, and what it read of `gold` and `answer`;
- `right`: whose verdict is right, `ours`, the other's name or `neither`, and `why`.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aapo.files import write_json, write_text

RESULTS, DOCS = Path("benchmarks/results"), Path("docs")
WIDTH = 60
NUM_EXAMPLES = 3
# The kinds of differences, and the topics of `tests/unit/grading_cases.json` that belong to each.
KINDS = {
    "where the answer is": [
        "where the answer is", "multiple choice", "choice forms", "only the last of several boxes",
        "final_answer does not read Answer:", "unfinished thought paid", "gold extraction, silently unmatchable",
    ],
    "equations and chains": [
        "assignments and chains", "equations", "unsolved equation paid by its right side", "named gold",
    ],
    "units, money and words behind a number": [
        "units", "money, degrees", "words that change the number", "compound units", "currency", "percent",
        "dollar with LaTeX thousands",
    ],
    "symbols and words": [
        "symbols", "capital and small letter merged", "primes dropped", "transpose dropped", "letters and words",
        "letters with an index unreadable", "letters taken for words, case folded", "words",
    ],
    "numbers": [
        "numbers", "thousands", "leading zero read as thousands", "number bases", "rounded decimals", "exact values",
    ],
    "lists, sets, intervals and points": [
        "lists", "sets", "set builder with two bounds", "intervals", "intervals and inequalities", "plus-minus",
        "tuples and points", "points and vectors", "matrices",
    ],
    "expressions and conditions": ["expressions, equations, inequalities", "qualifiers"],
    "notation": ["notation", "wrappers", "plain notation", "plain notation golds"],
    "arithmetic left to do, and what is no answer": ["unevaluated arithmetic", "never paid", "unparseable gold"],
    "further forms of real data": ["further forms"],
}  # fmt: skip


def kind_of(topic: str) -> str:
    """The kind of a case of the table.

    Raises:
        LookupError: No kind has the topic, so that one of KINDS is to have it.
    """
    for kind, topics in KINDS.items():
        if topic in topics:
            return kind
    raise LookupError(f"no kind has the topic {topic!r}; add it to one of KINDS in {__file__}")


def write(name: str, report: dict[str, Any], differences: list[dict[str, Any]], page: str) -> None:
    """Write what was compared, the differences and the page about them."""
    write_json(RESULTS / f"{name}.json", report)
    lines = (json.dumps(difference, allow_nan=False) + "\n" for difference in differences)
    write_text(RESULTS / f"{name}.jsonl", "".join(lines))
    write_text(DOCS / f"{name}.md", page)


def read(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What was compared, and the differences, as `write` has written them."""
    report = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    lines = (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return report, [json.loads(line) for line in lines]


def cell(text: str) -> str:
    """A text as part of a cell of a Markdown table, its end where it is long."""
    shown = " ".join(text.split())
    shown = shown if len(shown) <= WIDTH else "…" + shown[-WIDTH:]
    visible = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown)
    return "`" + visible.replace("|", "\\|").replace("`", "'") + "`" if visible else "nothing"


def table(differences: Iterable[dict[str, Any]], grader: str) -> str:
    """A Markdown table of the kinds, the most frequent first, each with its number and examples."""
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for difference in differences:
        kinds[difference["kind"]].append(difference)
    name = grader.replace("_", "-")
    text = f"| kind | number | for instance: gold answer, answer or completion (as {name} reads it) |\n|---|---|---|\n"
    for kind, found in sorted(kinds.items(), key=lambda item: -len(item[1])):
        shown = (
            f"{cell(one['gold'])}, {cell(shown_answer(one))} ({cell(one[grader]['answer'])})" for one in examples(found)
        )
        text += f"| {kind} | {len(found)} | {'; '.join(shown)} |\n"
    return text


def shown_answer(difference: dict[str, Any]) -> str:
    """The answer that our grader found; the completion where there is none, or where it is the gold answer itself."""
    found = difference["ours"]["answer"]
    return difference["completion"] if found in (None, difference["gold"]) else found


def examples(differences: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The shortest differences, in turn, of the most frequent causes (topics, where no cause is told) and rules."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for difference in sorted(differences, key=lambda one: len(one["gold"] + shown_answer(one))):
        groups[difference.get("cause", difference["topic"]), difference["ours"]["rule"]].append(difference)
    frequent = sorted(groups.values(), key=len, reverse=True)
    turns = [group[turn] for turn in range(NUM_EXAMPLES) for group in frequent if turn < len(group)]
    return turns[:NUM_EXAMPLES]

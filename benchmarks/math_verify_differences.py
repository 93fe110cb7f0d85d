"""Where our verdicts differ from plain math-verify on the table of grading cases.

Plain math-verify is `verify(parse(gold), parse(completion))` with its defaults, a bare gold answer in dollars, without
which it could not read LaTeX. Run from the repository's root:

    python benchmarks/math_verify_differences.py

It writes benchmarks/results/math_verify_differences.jsonl, one line a difference, a .json file beside it that counts
what was compared, and docs/math_verify_differences.md.
"""

import json
import logging
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from math_verify import parse, verify

from aapo.grading import GRADER_VERSION, grade
from differences import kind_of, table, write

CASES = Path("tests/unit/grading_cases.json")
NAME = "math_verify_differences"
PAGE = """# Where our verdicts differ from plain math-verify

On the {cases} cases of [`grading_cases.json`](../tests/unit/grading_cases.json) our grader, version {grader}, was
compared with `verify(parse(gold), parse(completion))` of math-verify {math_verify} with its defaults, a bare gold
answer in dollars:

| | math-verify pays | math-verify does not |
|---|---|---|
| **we pay** | {both} | {ours} |
| **we do not** | {theirs} | {neither} |

**In whose favour.** Each case says which verdict is right, and our grader is tested to give it, so the differences are
in our favour ({right} of {differing}) by construction: they show what the two mean by an equal answer, not how often
either errs. Of the {theirs} answers that math-verify alone pays, {no_answer} stand in no place that we read and
{unevaluated} are still to be worked out; most of these have the right value, and that we do not pay them is a decision.
The cases were chosen to be hard, so the rate is none to expect on a benchmark;
[completions as models write them](lighteval_differences.md#in-whose-favour) come nearer to one. Our decisions are in
[grading.md](grading.md).

## Paid by math-verify, not by us ({theirs})

{table_theirs}
## Paid by us, not by math-verify ({ours})

{table_ours}
## The data

[One line a difference](../benchmarks/results/{name}.jsonl): kind and topic, gold answer and completion, our verdict
with its rule and the answer found, what math-verify read and whether it pays, which verdict is right and why. File and
page are made anew, in about a minute, by

```sh
.venv/bin/python benchmarks/math_verify_differences.py
```
"""


class Read(NamedTuple):
    """Math-verify's verdict, and what it read of gold answer and completion."""

    pays: bool
    gold: str
    answer: str


def plain_math_verify(gold: str, completion: str) -> Read:
    """What math-verify, with its defaults, makes of the completion."""
    bare = "$" not in gold and "boxed" not in gold and "####" not in gold
    golds, answers = parse(f"${gold}$" if bare else gold), parse(completion)
    return Read(verify(golds, answers), *(str(found[0]) if found else "" for found in (golds, answers)))


def page(report: dict[str, Any], differences: list[dict[str, Any]]) -> str:
    """The Markdown page."""
    sides = {pays: [one for one in differences if one["math_verify"]["pays"] == pays] for pays in (True, False)}
    outcomes = Counter(one["ours"]["verdict"] for one in sides[True])
    rules = Counter(one["ours"]["rule"] for one in sides[True])
    return PAGE.format(
        name=NAME,
        cases=report["cases"],
        both=report["both_pay"],
        neither=report["neither_pays"],
        differing=len(differences),
        theirs=len(sides[True]),
        ours=len(sides[False]),
        no_answer=outcomes["no_answer"],
        unevaluated=rules["unevaluated"],
        right=sum(one["right"] == "ours" for one in differences),
        grader=report["versions"]["grader"],
        math_verify=report["versions"]["math-verify"],
        table_theirs=table(sides[True], "math_verify"),
        table_ours=table(sides[False], "math_verify"),
    )


def main() -> None:
    """Compare, and write data and page."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    cases = json.loads(CASES.read_text(encoding="utf-8"))
    differences, agree = [], Counter()
    for case in cases:
        verdict = grade(case["gold"], case["completion"], convention=case.get("convention"))
        theirs = plain_math_verify(case["gold"], case["completion"])
        ours = verdict.outcome == "correct"
        if ours == theirs.pays:
            agree[ours] += 1
            continue
        differences.append(
            {
                "kind": kind_of(case["topic"]),
                **{key: case[key] for key in ("topic", "gold", "completion", "convention") if key in case},
                "ours": {"verdict": verdict.outcome, "rule": verdict.rule, "answer": verdict.extracted},
                "math_verify": theirs._asdict(),
                "right": "ours" if (case["verdict"] == "correct") == ours else "math_verify",
                "why": case["why"],
            }
        )
    report = {
        "command": f"python benchmarks/{NAME}.py",
        "versions": {"grader": GRADER_VERSION, "math-verify": version("math-verify")},
        "cases": len(cases),
        "both_pay": agree[True],
        "neither_pays": agree[False],
    }
    write(NAME, report, differences, page(report, differences))
    print(f"{len(cases)} cases, {len(differences)} differ")


if __name__ == "__main__":
    main()

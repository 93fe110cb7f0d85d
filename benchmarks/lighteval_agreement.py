r"""Where our verdicts differ from those of lighteval's metrics, as the exported tasks use them, on shared completions.

The completions are those of the table of grading cases and realistic ones for each benchmark's gold answers, below.
lighteval grades in its own environment, whose interpreter is the argument; run from the repository's root:

    python benchmarks/lighteval_agreement.py PYTHON

It writes docs/lighteval_differences.md, with every difference under its cause, and fails if one has none.
"""

import argparse
import json
import logging
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

CASES = Path("tests/unit/grading_cases.json")
OUTPUT = Path("docs/lighteval_differences.md")
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Row:
    """A completion that both grade.

    Attributes:
        task: The exported task.
        line: The row of its data set.
        gold: Its gold answer as `Benchmark.load` gives it.
        completion: What a model wrote.
        why: Its reason for being here; of realistic completions, how they end.
        topic: Of the table of cases; of realistic completions, the form of the gold answer.
        convention: For our grader.
        right: Whether the completion is right, of realistic ones.
    """

    task: str
    line: dict[str, Any]
    gold: str
    completion: str
    why: str
    topic: str
    convention: str | None = None
    right: bool | None = None


class Read(NamedTuple):
    """lighteval's verdict, and what it read of answer and gold answer; no verdict where it leaves the row out."""

    paid: bool | None
    answer: str = ""
    gold: str = ""


@dataclass
class Difference:
    """What both make of a row."""

    row: Row
    read: Read
    outcome: str
    rule: str
    answer: str | None


@dataclass
class Tally:
    """Agreement on a set of rows.

    Attributes:
        counts: Rows by (ours pays, lighteval pays).
        left_out: Rows that an exported task leaves out.
        ours_missed: Realistic rows where our verdict is not right.
        theirs_missed: The same of lighteval's.
        unboxed: Those of lighteval's where it pays a right value without the box that the prompt asks for.
        both_missed: Realistic rows where both agree on a verdict that is not right.
    """

    counts: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    left_out: int = 0
    ours_missed: int = 0
    theirs_missed: int = 0
    unboxed: int = 0
    both_missed: list[Difference] = field(default_factory=list)


# --- Realistic completions -------------------------------------------------------------------------------------------

BODY = (
    "Let me restate what is given. Writing the relation as $x^2 - 5x + 6 = 0$ we get $(x-2)(x-3)=0$, so the candidates "
    "are $x = 2$ and $x = 3$, and there are $12$ pairs to check. Substituting into the formula and simplifying step by "
    "step, the intermediate value is $\\frac{7}{9}$, which I then carry through the last computation."
)
ENDINGS = {
    "the line that the prompt asks for": (
        BODY + "\n\nTherefore, the final answer is: $\\boxed{ANSWER}$. I hope it is correct."
    ),
    "thinking, then a box": (
        "<think>\nOkay, so I need to find this. First try: maybe \\boxed{17}? No, that misses a case.\n" + BODY + "\n"
        "</think>\n\n" + BODY + "\n\n**Final Answer**\n\\boxed{ANSWER}"
    ),
    "displayed": BODY + "\n\nThus we conclude that\n\n\\[\n\\boxed{ANSWER}\n\\]",
}
SOLUTION = "The sign of \\boxed{E} follows: \\boxed{-1.6}.\nNote that it is negative: \\boxed{-1.6}"
LUMINOSITY = "Hence $L = \\boxed{4.5e33}$ erg/s."
SALES = "Each day she sells 9 - 2 = <<9-2=7>>7.\nIn a year that is 1,080.\n#### 1,080"
# Form of the gold answer: the task, the row's value, the gold answer, right answers, wrong answers.
FORMS: dict[str, tuple[str, Any, str, list[str], list[str]]] = {
    "padded integer": (
        "aapo_aime24", "025", "025",
        ["25", "025", "25.0", "\\textbf{25}", "n = 25"],
        ["250", "24", "-25", "25\\sqrt{2}", "2.5", "52"],
    ),
    "integer": (
        "aapo_aime25", "588", "588",
        ["588", "m+n = 588", "588.", "\\mathbf{588}", "\\text{588}"],
        ["589", "5.88", "1588", "58", "588\\pi"],
    ),
    "LaTeX": (
        "aapo_math_500", "\\left( 3, \\frac{\\pi}{2} \\right)", "\\left( 3, \\frac{\\pi}{2} \\right)",
        ["(3, \\pi/2)", "\\left(3, \\dfrac{\\pi}{2}\\right)", "\\left(3,\\frac{1}{2}\\pi\\right)", "(3, 0.5\\pi)"],
        ["(\\frac{\\pi}{2}, 3)", "(3, \\frac{\\pi}{3})", "3", "(3, \\pi)", "(3, -\\frac{\\pi}{2})"],
    ),
    "LaTeX with a root": (
        "aapo_math_500", "3\\sqrt{13}", "3\\sqrt{13}",
        ["3\\sqrt{13}", "\\sqrt{117}", "3 \\sqrt {13}", "3\\cdot\\sqrt{13}", "\\sqrt{9 \\cdot 13}"],
        ["3", "\\sqrt{13}", "9\\sqrt{13}", "10.8", "3+\\sqrt{13}", "13\\sqrt{3}"],
    ),
    "LaTeX of words": (
        "aapo_math_500", "\\text{Evelyn}", "\\text{Evelyn}",
        ["\\text{Evelyn}", "Evelyn", "\\mathrm{Evelyn}"],
        ["\\text{Angela}", "\\text{Briana}", "5"],
    ),
    "float": (
        "aapo_amc23", 27.0, "27.0",
        ["27", "27.0", "x = 27", "27\\text{ cm}", "\\frac{54}{2}"],
        ["27.5", "270", "72", "\\frac{27}{2}", "-27"],
    ),
    "a solution's box": (
        "aapo_minerva", SOLUTION, SOLUTION,
        ["-1.6", "-1.60", "-\\frac{8}{5}", "E = -1.6", "-1.6 \\, \\text{m/s}", "-1.6 \\text{ eV}", "-1.6 \\text{ T}",
         "-1.6 \\text{ pc}", "-1.6 \\text{ cm}^{-3}", "-1.6~\\mathrm{cm}^{-3}", "-1.6~\\mathrm{km~s^{-1}}",
         "-1.6 \\text{ GHz}", "-1.6 \\, \\AA", "-1.6 \\, \\mu\\text{m}", "-1.6 \\text{ yr}"],
        ["1.6", "-1.5", "-16", "-1.65", "-1.6 \\times 10^{-19}"],
    ),
    "a solution's box in e-notation": (
        "aapo_minerva", LUMINOSITY, LUMINOSITY,
        ["4.5 \\times 10^{33}", "4.5e33", "4.5\\cdot 10^{33}", "45 \\times 10^{32}",
         "4.5 \\times 10^{33} \\text{ erg/s}",
         "4.5 \\times 10^{33} \\text{ erg s}^{-1}", "4.5 \\times 10^{33}~\\mathrm{erg~s^{-1}}"],
        ["4.5 \\times 10^{32}", "4.5", "4.6 \\times 10^{33}", "4.5 \\times 10^{-33}"],
    ),
    "a list of one text": (
        "aapo_olympiadbench", ["$\\frac{1}{2 n+2}$"], "$\\frac{1}{2 n+2}$",
        ["\\frac{1}{2n+2}", "\\frac{1}{2(n+1)}", "1/(2n+2)", "\\frac{1/2}{n+1}", "\\dfrac{1}{2n + 2}"],
        ["\\frac{1}{2n+1}", "\\frac{1}{n+1}", "2n+2", "\\frac{1}{2}"],
    ),
    "a list of one text with several answers": (
        "aapo_olympiadbench", ["4,-1"], "4,-1",
        ["4, -1", "-1, 4", "x = 4, x = -1", "4 \\text{ and } -1", "\\{-1, 4\\}", "x = -1 \\text{ or } x = 4"],
        ["4", "-1", "4, 1", "4, -1, 0", "3"],
    ),
    "after ####": (
        "aapo_gsm8k", SALES, SALES,
        ["1080", "1,080", "\\$1080", "1{,}080", "1080 \\text{ dollars}", "1080.00"],
        ["108", "1081", "1,008", "80", "10.80"],
    ),
}  # fmt: skip
# The end of an answer to a multiple-choice question whose gold answer is C, and whether it is right.
CHOICES = [
    ("Answer: C", True),
    ("Answer: $C$", True),
    ("**Answer: C**", True),
    ("Answer: (C)", True),
    ("Answer: C) 42 m/s", True),
    ("Answer: **C**", True),
    ("Answer: \\boxed{C}", True),
    ("The correct answer is C.", True),
    ("So the answer is (C).", True),
    ("\\boxed{\\text{C}}", True),
    ("Therefore, the final answer is: $\\boxed{C}$.", True),
    ("Answer: B", False),
    ("Answer: $D$", False),
    ("**Answer:** A", False),
    ("The correct answer is B, not C.", False),
    ("Answer: B\n\nA note: option C looked tempting at first.", False),
    ("\\boxed{A}", False),
    ("I cannot decide between A and C.", False),
    ("Answer: None of these", False),
]
OPTIONS = (
    "Option A ignores the spin, and B has the wrong units. Comparing C with D, the momentum is conserved only in one "
    "of them. A quick estimate follows.\n\n"
)


def realistic() -> Iterator[Row]:
    """Completions as models write them, for each form of gold answer."""
    for form, (task, value, gold, right, wrong) in FORMS.items():
        line = {"problem": "?", "question": "?", **dict.fromkeys(("answer", "solution", "final_answer"), value)}
        for ending, text in ENDINGS.items():
            for answer in (*right, *wrong):
                yield Row(task, line, gold, text.replace("ANSWER", answer), ending, form, right=answer in right)
        ends = {
            "no box": (BODY + f"\n\nThe answer is ${right[0]}$.", False),
            "cut off": (BODY + f"\n\nSo it seems to be {right[0]}, but let me check once more, since", False),
            "corrected": (f"It is \\boxed{{{wrong[0]}}}. Wait, that is off. It is \\boxed{{{right[0]}}}.", True),
            "corrected for the worse": (f"It is \\boxed{{{right[0]}}}. No, it is \\boxed{{{wrong[0]}}}.", False),
        }
        for ending, (text, is_right) in ends.items():
            yield Row(task, line, gold, text, ending, form, right=is_right)
    for text, is_right in CHOICES:
        for ending, body in (("plain", OPTIONS), ("thinking", f"<think>\nA? Or C?\n{OPTIONS}</think>\n\n")):
            yield Row("aapo_gpqa_diamond", {"letter": "C", "letters": "ABCD"}, "C", body + text, ending, "a letter",
                      convention="choice", right=is_right)  # fmt: skip


def table() -> Iterator[Row]:
    """The cases of the table, as rows of the benchmark whose gold answers are of the kind."""
    for case in json.loads(CASES.read_text(encoding="utf-8")):
        task, line = "aapo_math_500", {"problem": "?", "answer": case["gold"]}
        if case.get("convention") == "choice":
            letters = LETTERS[:4] if case["gold"] in LETTERS[:4] else LETTERS
            task, line = "aapo_gpqa_diamond", {"letter": case["gold"], "letters": letters}
        elif case.get("convention") == "hashes":
            task, line = "aapo_gsm8k", {"question": "?", "answer": case["gold"]}
        yield Row(task, line, case["gold"], case["completion"], case["why"], case["topic"], case.get("convention"))


# --- In lighteval's environment --------------------------------------------------------------------------------------


def grade_by_lighteval(tasks: Path) -> None:
    """Read rows from standard input, write lighteval's verdicts to standard output, both as JSON."""
    import importlib.util

    from lighteval.metrics.utils.extractive_match_utils import (  # pyright: ignore[reportMissingImports]
        extract_target_from_pred,
        get_extraction_regexes,
    )
    from lighteval.models.model_output import ModelResponse  # pyright: ignore[reportMissingImports]
    from lighteval.tasks.requests import Doc  # pyright: ignore[reportMissingImports]
    from lighteval.utils.utils import remove_reasoning_tags  # pyright: ignore[reportMissingImports]

    logging.disable(logging.CRITICAL)
    spec = importlib.util.spec_from_file_location("exported", tasks)
    assert spec is not None and spec.loader is not None
    exported = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(exported)
    configs = {config.name: config for config in exported.TASKS_TABLE}

    def verdict(row: dict[str, Any]) -> tuple[bool | None, str, str]:
        config, line = configs[row["task"]], row["line"]
        if "letter" in line:
            letters = list(line["letters"])
            doc = Doc(query="", choices=letters, gold_index=letters.index(line["letter"]))
        else:
            try:
                doc = config.prompt_function({**line, "__index": 0}, config.name)
            except ValueError:
                doc = None
        if doc is None:
            return None, "", ""
        metric = config.metrics[0]
        text = remove_reasoning_tags(row["completion"], [("<think>", "</think>")])  # as its pipeline does by default
        response = ModelResponse(text=[row["completion"]], text_post_processed=[text])
        (score,) = metric.compute_sample(doc=doc, model_response=response).values()
        match = metric.sample_level_fn.compute_score.__self__

        def read(text: str, target: Any) -> str:
            regexes = get_extraction_regexes(doc, target, match.language)
            found = extract_target_from_pred(text, regexes, match.fallback_mode, match.extraction_mode, 5)
            return str(found[0]) if found else ""

        answer = read(metric.sample_level_fn.preprocess(text), match.pred_extraction_target)
        return bool(score == 1), answer, read(doc.get_golds()[0], match.gold_extraction_target)

    json.dump([verdict(row) for row in json.load(sys.stdin)], sys.stdout)


def lighteval_reads(rows: list[Row], python: str) -> list[Read]:
    """The verdicts of lighteval, by the tasks that are exported for them."""
    from aapo.evaluation import load_protocol
    from aapo.evaluation.lighteval import write_lighteval_tasks
    from aapo.tasks import shipped_benchmarks

    with tempfile.TemporaryDirectory() as folder:
        tasks = Path(folder) / "tasks.py"
        write_lighteval_tasks(tasks, list(shipped_benchmarks().values()), load_protocol("paper"))
        done = subprocess.run(
            [python, __file__, "--grade", str(tasks)],
            input=json.dumps([{"task": row.task, "line": row.line, "completion": row.completion} for row in rows]),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return [Read(*item) for item in json.loads(done.stdout)]


# --- Causes ----------------------------------------------------------------------------------------------------------

# Paragraphs: the cause, who pays, and the explanation.
CAUSES = r"""
a physical unit that we do not know / lighteval
The gold answer has no unit and the answer has one. lighteval drops what stands in `\text{}`; our table of units does
not have this one. **Our verdict is wrong.**

a right answer that we do not pay / lighteval
**Our verdict is wrong.**

a wrong answer that we pay / us
**Our verdict is wrong.**

a unit outside of text / us
lighteval cannot read `\mathrm{cm}^{-3}` and goes on to earlier formulas; we leave out a unit that the gold answer does
not have.

any letter that stands somewhere / lighteval
Without an answer in a form that it knows, lighteval takes a letter from the text; we want it after "Answer:" or
"answer is", in a box or in a tag.

any number or formula that stands in the text / lighteval
lighteval falls back to the last number or formula, also of a completion that was cut off; we want a box, a tag, or
the task's convention.

a gold answer that cannot be read / lighteval
lighteval reads a part of it and pays for that; we leave the sample out, because nobody can tell.

another place / lighteval
lighteval takes boxes that are joined by commas or `and` as one set, and an "answer is" before a box; of an "answer
is" it takes the first number or letter. We take the last box, and all that the phrase holds.

one side of a relation / lighteval
lighteval takes the right-hand side of a chain whatever the rest says, and drops relation signs that it cannot read;
with us the members of a chain must agree.

arithmetic that is still to be done / lighteval
lighteval evaluates it; where the gold answer is a plain number we want a number, for the rest may only repeat the
question.

words behind a number / lighteval
lighteval drops all that stands in `\text{}`; words that change the number or name another answer count with us.

another unit or scale / lighteval
lighteval drops units and `million`; where gold and answer both have a unit it counts with us, and scales multiply.

another base / lighteval
lighteval drops the subscript of a numeral; with us the bases must be the same.

plus-minus and modulus / lighteval
lighteval drops `\pm` and evaluates `\mod`; `\pm 3` is two numbers with us, and `2 \mod 5` is none.

a mixed number / lighteval
lighteval multiplies `1\frac{1}{2}` out to 1/2; it is 3/2.

six decimals / lighteval
lighteval rounds to six decimals or to floating point; we compare exactly, or to the digits shown if they are six
significant ones or more.

an answer given twice / lighteval
The sets of lighteval merge equal members, so that `42, 42` is 42; it is two answers with us.

sets, points and intervals / lighteval
lighteval takes `\{1,2\}`, `(1,2)` and `(2,1)` for one another and unwraps sets in sets; brackets count with us.

words, dates and times as arithmetic / lighteval
lighteval multiplies the letters of a word and computes dates and times; they are text with us.

a part of a function by cases / lighteval
lighteval cannot read `cases` and compares a piece of it; we compare all of them.

Euler's number / lighteval
lighteval takes the variable `E` for Euler's number; capitals are other symbols with us.

a letter in dollars, a box or before its option / us
lighteval finds a letter behind a space or the beginning of a line, followed by space, stop, comma or colon; such a
letter elsewhere in the text comes before `$C$`, `\boxed{C}` and `C) 42`. Without the options of a question it has no
letters at all and reads the 42.

an answer in a tag / us
lighteval does not know `<answer>`: it reads the last number or formula in dollars of the whole text, or nothing. It
is the second place where we look.

a place that lighteval does not read / us
`\fbox`, a box before an empty one, a box in the thinking (its pipeline removes that), a box after "the final answer
is" something else, `\(` and `\)` within a gold answer's own: we take the last box that holds an answer.

a full stop in the box / us
lighteval cannot read `588.` and goes on to earlier formulas, if there are any; we drop the full stop.

e-notation in the answer / us
lighteval reads `4.5e33` as 4.5 times Euler's number times 33. (The export rewrites such gold answers.)

signs that lighteval does not know / us
Unicode digits, fractions, roots, signs and invisible characters, `\varnothing`, `\textcolor`, `\underline`: lighteval
reads nothing or a part; we bring them to one notation first.

a mixed number in plain text / us
lighteval reads the 1 of `1 1/2`; it is 3/2.

repeating decimals / us
lighteval cannot read `\overline{3}`, `0.(9)` or `0.333...`; they are exact numbers with us.

decimals of an irrational constant / us
lighteval compares decimals with fractions only; six significant digits or more may stand for a constant with us.

percent on one side / us
lighteval divides by 100 or, of the word, does not; 50% is 50 or 0.5 with us, as the gold answer needs it.

units converted, scales and attached words / us
lighteval drops units without converting them and multiplies the letters of words outside `\text{}`; we convert units,
multiply scales, and leave out words that name what is counted.

an inequality for an interval / us
lighteval compares them only where the gold answer is the inequality.

plus-minus as two numbers / us
lighteval drops `\pm` or cannot read it; with us it is the list of both.

the value of a numeral with a base / us
lighteval drops the subscript; we compare values, or digits where the gold answer has a base.

thousands / us
lighteval adds up `12 345` and takes `2,100` for one number only; spaces group thousands with us, and such a gold
answer may be either.

vectors / us
lighteval does not compare rows and columns with tuples and cannot read angle brackets or `\\[2mm]`; a vector is the
tuple of its members with us.

a name on the right / us
lighteval takes the right-hand side, which is the name; it may stand on either side with us.

text compared as text / us
lighteval keeps case, hyphens and points within `\text{}` and multiplies letters outside it; words are equal whatever
their case and final stop with us.

equations in a cases environment / us
lighteval cannot read it; it is the list of its equations with us.

functions in other words / us
lighteval takes `sin(x)` for a product, does not know `\operatorname` and reads the 2 of `\lg 2`; they are the
functions with us.

equal after more algebra / us
Complex numbers in another form, and the same line by a scaled equation: lighteval's comparison does not find it.
"""
# The first pattern that is found in `described` decides.
BY_LIGHTEVAL = {
    r"right=True topic=a solution's box": "a physical unit that we do not know",
    r"right=True": "a right answer that we do not pay",
    r"topic=a letter": "any letter that stands somewhere",
    r"outcome=no_answer": "any number or formula that stands in the text",
    r"outcome=unparseable": "a gold answer that cannot be read",
    r"topic=where the answer is.*math-verify": "six decimals",
    r"topic=where the answer is": "another place",
    r"topic=assignments|implies": "one side of a relation",
    r"topic=(unevaluated|never|matrices|numbers).*rule=unevaluated": "arithmetic that is still to be done",
    r"(topic=units|topic=never).*rule=(words|unevaluated)": "words behind a number",
    r"topic=units": "another unit or scale",
    r"topic=number bases": "another base",
    r"topic=plus-minus": "plus-minus and modulus",
    r"topic=numbers": "a mixed number",
    r"topic=rounded|10\^\{-20\}": "six decimals",
    r"topic=lists": "an answer given twice",
    r"topic=sets": "sets, points and intervals",
    r"topic=words": "words, dates and times as arithmetic",
    r"begin\{cases\}": "a part of a function by cases",
    r"topic=expressions.*rule=text": "Euler's number",
}
BY_US = {
    r"right=False": "a wrong answer that we pay",
    r"topic=a letter": "a letter in dollars, a box or before its option",
    r"<answer>.*</answer>": "an answer in a tag",
    r"topic=where": "a place that lighteval does not read",
    r"topic=(notation|integer|multiple).*answer=\w+\.\n": "a full stop in the box",
    r"topic=multiple": "a letter in dollars, a box or before its option",
    r"topic=a solution's box in e": "e-notation in the answer",
    r"answer=[^\n]*([^\x00-\x7f]|color|underline|varnothing)": "signs that lighteval does not know",
    r"answer=1 1/2": "a mixed number in plain text",
    r"answer=3\.14159\.": "decimals of an irrational constant",
    r"topic=numbers|topic=unevaluated": "repeating decimals",
    r"topic=a solution's box": "a unit outside of text",
    r"topic=rounded": "decimals of an irrational constant",
    r"topic=percent": "percent on one side",
    r"topic=units|topic=money": "units converted, scales and attached words",
    r"topic=intervals": "an inequality for an interval",
    r"topic=plus-minus|topic=sets": "plus-minus as two numbers",
    r"topic=number bases": "the value of a numeral with a base",
    r"topic=thousands": "thousands",
    r"topic=matrices|topic=tuples": "vectors",
    r"topic=assignments": "a name on the right",
    r"topic=words": "text compared as text",
    r"begin\{cases\}": "equations in a cases environment",
    r"topic=expressions.*answer=[^\n]*(sin|exp|cos|log)": "functions in other words",
    r"topic=expressions": "equal after more algebra",
}


def find_cause(difference: Difference) -> str:
    """The cause of a difference.

    Raises:
        LookupError: None fits, so that one is to be written.
    """
    row = difference.row
    described = f"right={row.right} topic={row.topic} outcome={difference.outcome} rule={difference.rule} "
    described += f"answer={difference.answer}\n{row.completion}"
    for pattern, cause in (BY_LIGHTEVAL if difference.read.paid else BY_US).items():
        if re.search(pattern, described, re.DOTALL):
            return cause
    raise LookupError(f"no cause for {difference}")


def explanations() -> dict[str, str]:
    """The explanation of each cause."""
    paragraphs = (paragraph.partition("\n") for paragraph in CAUSES.strip().split("\n\n"))
    return {title.partition(" / ")[0]: text for title, _, text in paragraphs}


# --- Comparison ------------------------------------------------------------------------------------------------------


def compare(rows: list[Row], reads: list[Read]) -> tuple[Tally, list[Difference]]:
    """How often both agree, and where not."""
    from aapo.grading import grade

    tally, differences = Tally(), []
    for row, read in zip(rows, reads, strict=True):
        if read.paid is None:
            tally.left_out += 1
            continue
        verdict = grade(row.gold, row.completion, convention=row.convention)  # type: ignore[arg-type]
        ours = verdict.outcome == "correct"
        tally.counts[ours, read.paid] += 1
        if row.right is not None:
            tally.ours_missed += ours != row.right
            tally.theirs_missed += read.paid != row.right
            tally.unboxed += read.paid and row.why in ("no box", "cut off")
        item = Difference(row, read, verdict.outcome, verdict.rule, verdict.extracted)
        if ours != read.paid:
            differences.append(item)
        elif row.right is not None and ours != row.right:
            tally.both_missed.append(item)
    return tally, differences


HEAD = """# Where our verdicts differ from lighteval's

lighteval 0.13 with latex2sympy2_extended 1.0.6 grades by the metrics of the [exported tasks](lighteval.md),
`pass_at_k_math` and `gpqa_instruct_pass_at_k`; our grader is version {version}. Both graded the same completions:

| completions | both pay | neither pays | lighteval alone | we alone | agree |
|---|---|---|---|---|---|
{rows}

The cases of `tests/unit/grading_cases.json` were chosen to be hard, so their rate is none to expect on a benchmark;
{left_out} of them are left out by lighteval's tasks, since their gold answer is empty. The realistic completions are
for {forms} forms of gold answers, those of the benchmarks, and end as models end theirs; that they are right or wrong
was written down with them. Our verdict is not the right one on {ours_missed} of them, lighteval's on {theirs_missed};
{unboxed} of these are right values without the box that the prompt asks for: that they are not paid is our decision.

Every difference stands below under its cause. Written by `python benchmarks/lighteval_agreement.py PYTHON` with the
interpreter of lighteval's environment; our decisions are in [grading.md](grading.md).
"""
COLUMNS = "| gold | answer | ours | rule | lighteval reads | why it is here |\n|---|---|---|---|---|---|\n"


def document(tallies: dict[str, Tally], differences: list[Difference]) -> str:
    """The Markdown page."""
    from aapo.grading import GRADER_VERSION

    lines = []
    for name, tally in tallies.items():
        both, neither = tally.counts[True, True], tally.counts[False, False]
        theirs, ours = tally.counts[False, True], tally.counts[True, False]
        total = tally.counts.total()
        lines.append(
            f"| {name} ({total}) | {both} | {neither} | {theirs} | {ours} | {100 * (both + neither) / total:.1f}% |"
        )
    last = list(tallies.values())[-1]
    text = HEAD.format(
        version=GRADER_VERSION, rows="\n".join(lines), left_out=sum(tally.left_out for tally in tallies.values()),
        forms=len(FORMS) + 1, ours_missed=last.ours_missed, theirs_missed=last.theirs_missed,
        unboxed=last.unboxed,
    )  # fmt: skip
    grouped: dict[tuple[bool, str], list[Difference]] = {}
    for difference in differences:
        grouped.setdefault((bool(difference.read.paid), find_cause(difference)), []).append(difference)
    ordered = sorted(grouped.items(), key=lambda item: (not item[0][0], -len(item[1]), item[0][1]))
    text += "\n## Causes\n\n| cause | paid by | cases | realistic |\n|---|---|---|---|\n"
    for (theirs, cause), found in ordered:
        drawn = sum(item.row.right is not None for item in found)
        text += f"| {cause} | {'lighteval' if theirs else 'us'} | {len(found) - drawn} | {drawn} |\n"
    texts = explanations()
    for (theirs, cause), found in ordered:
        payer = "lighteval" if theirs else "us"
        title = f"{cause[0].upper()}{cause[1:]}: paid by {payer} ({len(found)})"
        text += f"\n## {title}\n\n{texts[cause]}\n\n{COLUMNS}"
        text += table_lines(found)
    if last.both_missed:
        text += f"\n## Neither verdict is right ({len(last.both_missed)})\n\n{COLUMNS}{table_lines(last.both_missed)}"
    return text


def table_lines(items: list[Difference]) -> str:
    """Lines of a Markdown table."""
    from math_verify_differences import cell

    lines = ""
    for item in items:
        shown = item.answer is not None and item.row.topic != "a letter"
        answer = cell(item.answer if shown else item.row.completion)
        why = item.row.why if item.row.right is None else f"{item.row.topic}; {item.row.why}"
        cells = [cell(item.row.gold), answer, item.outcome, item.rule, cell(item.read.answer), why]
        lines += f"| {' | '.join(cells)} |\n"
    return lines


def main() -> None:
    """Grade by both, compare and write the page."""
    from aapo.files import write_text

    parser = argparse.ArgumentParser()
    parser.add_argument("python", help="interpreter of lighteval's environment")
    python = parser.parse_args().python
    sets = {"cases of the table": list(table()), "realistic": list(realistic())}
    tallies, differences = {}, []
    for name, rows in sets.items():
        tallies[name], found = compare(rows, lighteval_reads(rows, python))
        differences += found
    write_text(OUTPUT, document(tallies, differences))
    for name, tally in tallies.items():
        missed = f"{tally.ours_missed} of our verdicts are not right, {tally.theirs_missed} of lighteval's"
        print(f"{name}: {dict(tally.counts)}, {tally.left_out} left out, {missed}")
    print(f"{len(differences)} differences; {OUTPUT}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--grade"]:
        grade_by_lighteval(Path(sys.argv[2]))
    else:
        main()

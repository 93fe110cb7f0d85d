r"""Completions as models write them, for the gold answers of each benchmark, and whether they are right."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A completion that two graders grade.

    Attributes:
        task: The exported task.
        line: The row of its data set.
        gold: Its gold answer as `Benchmark.load` gives it.
        completion: What a model wrote.
        right: Whether it is right.
        why: Its reason for being here; of the completions of this file, how they end.
        topic: The topic of a case of the table; of the completions of this file, the form of the gold answer.
        kind: The kind of a difference on it (`differences.KINDS`).
        convention: For our grader.
    """

    task: str
    line: dict[str, Any]
    gold: str
    completion: str
    right: bool
    why: str
    topic: str
    kind: str
    convention: str | None = None


KIND = "completions as models write them"
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
UNBOXED = ("no box", "cut off")  # a right value without the box that the prompt asks for
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


def model_completions() -> Iterator[Row]:
    """Completions as models write them, for each form of gold answer."""
    for form, (task, value, gold, right, wrong) in FORMS.items():
        line = {"problem": "?", "question": "?", **dict.fromkeys(("answer", "solution", "final_answer"), value)}
        for ending, text in ENDINGS.items():
            for answer in (*right, *wrong):
                yield Row(task, line, gold, text.replace("ANSWER", answer), answer in right, ending, form, KIND)
        ends = {
            UNBOXED[0]: (BODY + f"\n\nThe answer is ${right[0]}$.", False),
            UNBOXED[1]: (BODY + f"\n\nSo it seems to be {right[0]}, but let me check once more, since", False),
            "corrected": (f"It is \\boxed{{{wrong[0]}}}. Wait, that is off. It is \\boxed{{{right[0]}}}.", True),
            "corrected for the worse": (f"It is \\boxed{{{right[0]}}}. No, it is \\boxed{{{wrong[0]}}}.", False),
        }
        for ending, (text, is_right) in ends.items():
            yield Row(task, line, gold, text, is_right, ending, form, KIND)
    for text, is_right in CHOICES:
        for ending, body in (("plain", OPTIONS), ("thinking", f"<think>\nA? Or C?\n{OPTIONS}</think>\n\n")):
            yield Row("aapo_gpqa_diamond", {"letter": "C", "letters": "ABCD"}, "C", body + text, is_right, ending,
                      "a letter", KIND, convention="choice")  # fmt: skip

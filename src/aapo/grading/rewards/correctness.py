"""Rewards for a right final answer."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aapo.grading.answers import Grader, Verdict, check_options, grade_many
from aapo.grading.extraction import Convention, extract_answer
from aapo.grading.rewards.completions import whole_turns
from aapo.grading.scorers import Question, score_answers

LogExtra = Callable[[str, list], None]


def judge(
    name: str,
    completions: Sequence,
    answer: Sequence[str],
    log_extra: LogExtra | None,
    prompt_opening: Sequence[str] | None = None,
    **options: Any,
) -> list[Verdict]:
    """The verdict on each completion, recorded for the reward function `name`.

    Training and banks keep what `log_extra` gets beside the rewards, as columns `verdict/NAME`, `extracted/NAME` and
    `rule/NAME`. A thought that the prompt opens belongs to the completion, which may leave it unfinished. The options
    are those of `grade_many`.
    """
    verdicts = grade_many(answer, whole_turns(completions, prompt_opening), **options)
    if log_extra is not None:
        log_extra(f"verdict/{name}", [verdict.outcome for verdict in verdicts])
        log_extra(f"extracted/{name}", [verdict.extracted for verdict in verdicts])
        log_extra(f"rule/{name}", [verdict.rule for verdict in verdicts])
    return verdicts


def accuracy(
    completions: list,
    answer: list[str],
    log_extra: LogExtra | None = None,
    *,
    convention: Convention | None = None,
    evaluated: bool = True,
    unfinished_thoughts: bool = False,
    grader: Grader = "aapo",
    unparseable_gold: float | None = None,
    **columns: Any,
) -> list[float | None]:
    r"""1.0 where the final answer equals the gold answer, 0.0 where not, None where the gold does not parse.

    The final answer is the last \boxed{}, or those of one sentence where the gold answer has so many, else the last
    <answer>…</answer>, else what the convention says; without one the reward is 0.0. A comparison that hits its limits
    pays 0.0. How answers are compared: docs/grading.md.

    Args:
        completions: Texts or lists of messages.
        answer: Gold answers, bare or in whole solutions.
        log_extra: Gets the verdicts.
        convention: Where else an answer may stand: `choice`, `hashes` or `final_answer`.
        evaluated: Where the gold answer is a plain number, unevaluated arithmetic (3+5 for 8) is wrong.
        unfinished_thoughts: Whether an answer inside a <think> that never ends counts.
        grader: `aapo`; to reproduce published runs `open_r1`, the accuracy reward of open-r1, or `accuracy_lv35`, that
            of the published AAPO and GPG scripts for bare gold answers: the same after putting the gold into a box.
        unparseable_gold: What a gold answer that cannot be read pays; None leaves the sample out, open-r1 pays 1.0.
        **columns: The data set's other columns.

    Raises:
        InputError: An option is unknown.
    """
    options: dict[str, Any] = {
        "convention": convention, "evaluated": evaluated, "unfinished_thoughts": unfinished_thoughts, "grader": grader,
    }  # fmt: skip
    paid = {"correct": 1.0, "unparseable_gold": unparseable_gold}
    verdicts = judge("accuracy", completions, answer, log_extra, columns.get("prompt_opening"), **options)
    return [paid.get(verdict.outcome, 0.0) for verdict in verdicts]


def reasoning_gym(
    completions: list,
    task: list[str],
    entry: list[str],
    log_extra: LogExtra | None = None,
    *,
    convention: Convention | None = None,
    unfinished_thoughts: bool = False,
    **columns: Any,
) -> list[float]:
    """The reasoning-gym task's own score of the final answer, in [0, 1]; 0.0 without an answer.

    Needs the columns `task` and `entry` that `aapo.tasks` adds for generated prompts. A score of 1 is recorded as the
    verdict `correct`, a lower one as `wrong`; an answer on which the scorer hits its limits pays 0.0 as `timeout`, one
    on which it raises 0.0 as `wrong`. A scorer that could run an answer does so in an isolated process
    (`aapo.grading.scorers`).

    Args:
        completions: Texts or lists of messages.
        task: Their tasks.
        entry: Their problems, as the tasks' scorers read them.
        log_extra: Gets the verdicts.
        convention: Where else an answer may stand: `choice`, `hashes` or `final_answer`.
        unfinished_thoughts: Whether an answer inside a <think> that never ends counts.
        **columns: The data set's other columns.

    Raises:
        InputError: An option or a task is unknown, or its scorer cannot be isolated on this machine.
    """
    check_options(convention)
    answers = [
        extract_answer(text, convention, unfinished_thoughts=unfinished_thoughts)
        for text in whole_turns(completions, columns.get("prompt_opening"))
    ]
    asked = [
        Question(name, answer, raw)
        for answer, name, raw in zip(answers, task, entry, strict=True)
        if answer is not None
    ]
    scored = iter(score_answers(asked))
    judged = [
        _Scored(0.0, "no_answer", f"{name}, score 0") if answer is None else _of_score(name, next(scored))
        for answer, name in zip(answers, task, strict=True)
    ]
    if log_extra is not None:
        log_extra("verdict/reasoning_gym", [verdict.outcome for verdict in judged])
        log_extra("extracted/reasoning_gym", answers)
        log_extra("rule/reasoning_gym", [verdict.rule for verdict in judged])
    return [verdict.reward for verdict in judged]


class _Scored(NamedTuple):
    """What a task's own score pays, and what is logged beside it."""

    reward: float
    outcome: str
    rule: str


def _of_score(task: str, score: float | None) -> _Scored:
    if score is None:
        return _Scored(0.0, "timeout", f"{task}, over the limits")
    if math.isnan(score):
        return _Scored(0.0, "wrong", f"{task}, unreadable")
    score = min(max(score, 0.0), 1.0)  # where the answer is code, it is what the code says
    return _Scored(score, "correct" if score >= 1 else "wrong", f"{task}, score {score:g}")

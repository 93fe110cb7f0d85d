"""Rewards for a right final answer."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from aapo.grading.answers import Grader, Verdict, grade_many
from aapo.grading.extraction import Convention, extract_answer
from aapo.grading.rewards.completions import completion_text

LogExtra = Callable[[str, list], None]


def judge(
    name: str, completions: Sequence, answer: Sequence[str], log_extra: LogExtra | None, **options: Any
) -> list[Verdict]:
    """The verdict on each completion, recorded for the reward function `name`.

    Training and banks keep what `log_extra` gets beside the rewards, as columns `verdict/NAME`, `extracted/NAME` and
    `rule/NAME`. The options are those of `grade_many`.
    """
    verdicts = grade_many(answer, [completion_text(completion) for completion in completions], **options)
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
    verdicts = judge("accuracy", completions, answer, log_extra, **options)
    return [paid.get(verdict.outcome, 0.0) for verdict in verdicts]


def reasoning_gym(
    completions: list, task: list[str], entry: list[str], log_extra: LogExtra | None = None, **columns: Any
) -> list[float]:
    """The reasoning-gym task's own score of the final answer, in [0, 1]; 0.0 without an answer.

    Needs the columns `task` and `entry` that `aapo.tasks` adds for generated prompts. A score of 1 is recorded as the
    verdict `correct`, a lower one as `wrong`.
    """
    answers = [extract_answer(completion_text(completion)) for completion in completions]
    scores = [
        0.0 if answer is None else float(_scorer(name).score_answer(answer, json.loads(raw)))
        for answer, name, raw in zip(answers, task, entry, strict=True)
    ]
    if log_extra is not None:
        verdicts = [
            "no_answer" if answer is None else "correct" if score >= 1 else "wrong"
            for answer, score in zip(answers, scores, strict=True)
        ]
        log_extra("verdict/reasoning_gym", verdicts)
        log_extra("extracted/reasoning_gym", answers)
        log_extra("rule/reasoning_gym", [f"{name}, score {score:g}" for name, score in zip(task, scores, strict=True)])
    return scores


@cache
def _scorer(task: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(task, size=1, seed=0)

"""What is right is the verdict, and a reward only where a threshold was declared for it."""

import math

import pytest

from aapo.errors import InputError
from aapo.grading import REWARDS, Judge, accuracy, format
from aapo.grading.judging import VERDICT_REWARDS
from aapo.records import Completion
from aapo.scoring import score

RIGHT, WRONG = "The sum is \\boxed{2}.", "The sum is \\boxed{3}."
ROW = {"prompt": "1 + 1?", "answer": "2", "task": "chain_sum", "entry": '{"answer": "2"}'}


def scored(*functions, texts=(RIGHT, WRONG, "no answer"), gold="2"):
    completions = [Completion(text, list(range(10 + 90 * i)), "stop") for i, text in enumerate(texts)]
    return score(functions, [{**ROW, "answer": gold}] * len(texts), completions)


def test_the_verdict_counts_wherever_its_function_stands():
    tagged = "<think>\nsum\n</think>\n<answer>\n3\n</answer>"
    rewards, notes = scored(format, accuracy, texts=(tagged, RIGHT))
    assert rewards["format"] == [1.0, 0.0], "a wrong answer in the right form, and a right one in none"
    assert Judge().correct(rewards, notes) == [0.0, 1.0]
    rewards, notes = scored(accuracy, format, texts=(tagged, RIGHT))
    assert Judge().correct(rewards, notes) == [0.0, 1.0]


@pytest.mark.parametrize("name", ["len", "cosine"])
def test_a_right_answer_that_is_paid_little_is_right(name):
    rewards, notes = scored(REWARDS[name], texts=(RIGHT, RIGHT, RIGHT, WRONG))
    assert min(rewards[name][:3]) < 0.5 or name == "cosine"
    assert Judge().correct(rewards, notes) == [1.0, 1.0, 1.0, 0.0]


def test_a_program_that_passes_some_tests_is_wrong():
    notes = {"verdict/code": ["wrong", "correct", "timeout"]}
    assert Judge().correct({"code": [0.6, 1.0, 0.8]}, notes) == [0.0, 1.0, 0.0]


def test_a_gold_that_cannot_be_read_says_nothing_whatever_it_pays():
    function = REWARDS["accuracy"]
    completions = [Completion(RIGHT, [1], "stop")]
    rewards = {"accuracy": function([RIGHT], ["]("], unparseable_gold=1.0)}
    notes = score([function], [{**ROW, "answer": "]("}], completions).notes
    assert rewards == {"accuracy": [1.0]} and Judge().correct(rewards, notes) == [None]


def test_the_judge_is_the_named_one_else_the_first_that_logs_verdicts():
    rewards = {"one": [0.0, 0.0], "two": [9.0, 9.0]}
    notes = {"verdict/one": ["correct", "wrong"], "verdict/two": ["no_answer", "correct"], "said/one": ["a", "b"]}
    assert Judge().correct(rewards, notes) == [1.0, 0.0]
    assert Judge("two").correct(rewards, notes) == [0.0, 1.0]
    assert Judge().correct({"two": [9.0, 9.0], "one": [0.0, 0.0]}, notes) == [0.0, 1.0]
    # A function that calls another logs the other's verdicts.
    assert Judge().correct({"mine": [0.2, 0.2]}, {"verdict/accuracy": ["correct", None]}) == [1.0, None]


def test_a_reward_says_what_is_right_only_by_a_declared_threshold():
    rewards = {"mine": [1.0, 0.7, None, math.nan], "other": [0.0, 1.0, 0.0, 1.0]}
    assert Judge().correct(rewards, {}) == [None] * 4
    assert Judge("mine", 0.8).correct(rewards, {}) == [1.0, 0.0, None, None]
    assert Judge("other", 1.0).correct(rewards, {"verdict/accuracy": ["correct"] * 4}) == [0.0, 1.0, 0.0, 1.0]
    assert Judge(threshold=0.7).correct({"mine": [1.0, 0.7, None]}, {}) == [1.0, 1.0, None]


def test_a_judge_that_does_not_judge_is_named():
    with pytest.raises(InputError, match="^judge is mine, which logs no verdicts; set judge_threshold, "):
        Judge("mine").correct({"mine": [1.0]}, {"verdict/accuracy": ["correct"]})
    with pytest.raises(InputError, match="^judge_threshold has no effect, because mine logs verdicts; remove it$"):
        Judge("mine", 1.0).correct({"mine": [1.0]}, {"verdict/mine": ["correct"]})


@pytest.mark.parametrize(
    ("judge", "names", "message"),
    [
        (Judge("acuracy"), ["format", "accuracy"], "'acuracy' .did you mean accuracy.*; it must be one of"),
        (Judge("format"), ["format", "accuracy"], "judge is format, which logs no verdicts; set judge_threshold"),
        (Judge("accuracy", 0.5), ["accuracy"], "judge_threshold has no effect, because accuracy logs verdicts"),
        (Judge(None, 0.5), ["cosine"], "judge_threshold has no effect, because cosine logs verdicts"),
        (Judge(None, 0.5), ["a", "b"], "judge_threshold is 0.5, and which of a, b it is for is not said; set judge"),
        (Judge("a", math.nan), ["a"], "judge_threshold is nan; it must be a finite number"),
    ],
)
def test_what_cannot_judge_is_refused_before_anything_is_scored(judge, names, message):
    with pytest.raises(InputError, match=message):
        judge.check(names)


def test_what_may_judge_is_let_through():
    for judge, names in [(Judge(), ["mine"]), (Judge("mine"), ["mine"]), (Judge("format", 1.0), ["format", "code"])]:
        judge.check(names)
    assert [Judge().known(names) for names in (["mine"], ["mine", "len"])] == [False, True]
    assert Judge().describe(["format", "cosine", "accuracy"]) == "by the verdicts of cosine"
    assert Judge("mine").describe(["cosine", "mine"]) == "by the verdicts of mine"
    assert Judge(None, 0.5).describe(["mine"]) == "where mine pays at least 0.5"
    assert Judge().describe(["mine"]).startswith("not known, unless a reward function logs verdicts")
    assert Judge("mine").known(["mine"]) and Judge(threshold=1.0).known(["mine"])


def test_the_shipped_functions_with_verdicts_are_those_that_log_them():
    logged = set()
    for name, function in REWARDS.items():
        if name == "code":  # which needs a sandbox for a program; its empty answers tell as much
            continue
        _, notes = scored(function)
        logged |= {column.removeprefix("verdict/") for column in notes if column.startswith("verdict/")}
    assert logged | {"code"} == set(VERDICT_REWARDS)

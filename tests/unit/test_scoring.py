from functools import partial

import pytest

from aapo.errors import InputError
from aapo.grading import BY_VERDICT, Judge, accuracy, completion_text, reasoning_gym, reward_function
from aapo.messages import last_question
from aapo.records import Completion, Scores
from aapo.scoring import as_notes, beside, check_columns, grading_shares, score, score_groups

ROWS = [{"prompt": "1 + 1", "answer": "2"}, {"prompt": "2 + 2", "answer": "4"}]
COMPLETIONS = [Completion("<answer>2</answer>", [1, 2], "stop"), Completion("four", [3], "length")]


def test_rewards_and_notes_of_every_function():
    def mine(completions, completion_ids, log_extra, **columns):
        log_extra("tokens", [len(ids) for ids in completion_ids[:1]])
        log_extra("tokens", [len(ids) for ids in completion_ids[1:]])  # TRL appends, too
        log_extra("said", [None, completions[1]])
        return [float("nan"), 0.5]

    async def later(completions, **columns):
        return [1, None]

    scores = score([accuracy, mine, later], ROWS, COMPLETIONS)
    assert scores.rewards == {"accuracy": [1.0, 0.0], "mine": [None, 0.5], "later": [1.0, None]}
    assert scores.notes["verdict/accuracy"] == ["correct", "no_answer"]
    assert scores.notes["extracted/accuracy"] == ["2", None]
    assert scores.notes["tokens"] == ["2", "1"] and scores.notes["said"] == [None, "four"]
    assert scores.part(1, 2).rewards == {"accuracy": [0.0], "mine": [0.5], "later": [None]}


def test_groups_are_scored_in_one_call_and_taken_apart():
    sizes = []

    def counted(completions, prompts, **columns):
        sizes.append(len(completions))
        return [float(i) for i in range(len(completions))]

    first, second = score_groups([counted], ROWS, [[COMPLETIONS[0]] * 3, [COMPLETIONS[1]] * 3])
    assert sizes == [6]
    assert first == Scores({"counted": [0.0, 1.0, 2.0]}, {}) and second.rewards == {"counted": [3.0, 4.0, 5.0]}
    assert score([counted], [], []) == Scores({"counted": []}, {})


def test_what_a_function_gets_wrong_is_named():
    def short(completions, log_extra, **columns):
        log_extra("notes", ["one"])
        return [0.0, 0.0]

    def few(completions, **columns):
        return [0.0]

    def echo(completions, log_extra, **columns):
        log_extra("rule/accuracy", ["a", "b"])
        return [0.0, 0.0]

    with pytest.raises(InputError, match=r"reward function short logged 1 values in column 'notes' for 2 completions"):
        score([short], ROWS, COMPLETIONS)
    with pytest.raises(InputError, match="reward function few returned 1 rewards for 2 completions"):
        score([few], ROWS, COMPLETIONS)
    with pytest.raises(InputError, match="reward function echo logs the column 'rule/accuracy', as another one does"):
        score([accuracy, echo], ROWS, COMPLETIONS)


def test_grading_shares_are_of_the_function_that_judges():
    notes = {
        "verdict/mine": ["no_answer", "timeout", "timeout", "unparseable_gold", "correct", None, "wrong", "wrong"],
        "verdict/accuracy": ["correct"] * 8,
        "said": ["no_answer"] * 8,
    }
    assert grading_shares(BY_VERDICT, ["format", "mine", "accuracy"], notes) == (1 / 8, 2 / 8, 1 / 8)
    assert grading_shares(BY_VERDICT, ["accuracy", "mine"], notes) == (0, 0, 0)
    assert grading_shares(Judge("mine"), ["accuracy", "mine"], notes) == (1 / 8, 2 / 8, 1 / 8)
    # By a function that calls another.
    assert grading_shares(BY_VERDICT, ["wrapped"], {"verdict/accuracy": ["timeout"]}) == (0, 1, 0)
    assert grading_shares(BY_VERDICT, ["format"], {"said": ["timeout"]}) is None
    assert grading_shares(BY_VERDICT, ["mine"], {"verdict/mine": [None, None]}) is None


def test_notes_make_way_for_a_tables_own_columns():
    assert beside({"gold": [1], "said": [2]}, {"gold": [3]}) == {"note/gold": [1], "said": [2]}


def test_columns_that_reward_functions_need(tmp_path):
    def mine(
        prompts, completions, completion_ids, trainer_state, log_extra, log_metric, answer, level, hint="", **rest
    ):
        return [0.0]

    class Judge:
        __name__ = "judge"

        def __call__(self, completions, *, level, **columns):
            return [0.0]

    check_columns([mine, Judge(), accuracy], ["prompt", "answer", "level"])
    with pytest.raises(
        InputError,
        match="reward function mine needs the column 'level', which the data set does not have; it has answer, task;",
    ):
        check_columns([mine], ["prompt", "answer", "task"])
    with pytest.raises(InputError, match="reward function judge needs the column 'level'"):
        check_columns([Judge()], ["prompt", "answer"])
    with pytest.raises(InputError, match="reward function reasoning_gym needs the column 'task'"):
        check_columns([reasoning_gym], ["prompt", "answer"])
    with pytest.raises(InputError, match="needs the column 'prompt'.* it has none"):  # functions get `prompts`
        check_columns([lambda completions, prompt: [0.0]], ["prompt"])
    check_columns([partial(mine, level=1)], ["prompt", "answer"])
    file = tmp_path / "own.py"
    file.write_text("def own(completions, level, scale=1.0):\n    return [scale for _ in completions]\n")
    wrapped = reward_function(f"{file}:own", {"scale": 2.0})
    check_columns([wrapped], ["level"])
    with pytest.raises(InputError, match="reward function own needs the column 'level'"):
        check_columns([wrapped], ["answer"])


def test_the_question_of_a_prompt_whose_message_has_parts():
    image, text = {"type": "image"}, {"type": "text", "text": "What is 1+1?"}
    prompt = [{"role": "user", "content": [image, text]}, {"role": "assistant", "content": "It is"}]
    assert last_question(prompt) == "What is 1+1?"
    assert score([accuracy], [{"prompt": prompt, "answer": "2"}], COMPLETIONS[:1]).rewards == {"accuracy": [1.0]}


def test_a_message_without_content_asks_and_answers_nothing():
    assert last_question([{"role": "user"}]) == ""
    assert completion_text([{"role": "assistant", "tool_calls": []}]) == completion_text([]) == ""


def test_a_lone_surrogate_that_a_reward_function_logs_can_be_stored():
    assert as_notes({"said": ["a\ud83d", None]}, 2, "a function") == {"said": ["a\N{REPLACEMENT CHARACTER}", None]}

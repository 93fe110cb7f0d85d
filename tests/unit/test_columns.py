"""The columns that data bring beside prompts and gold answers, and messages that no chat template takes."""

import json

import pytest
from datasets import Dataset

from aapo.engines import load_tokenizer
from aapo.errors import InputError
from aapo.evaluation import Task
from aapo.grading import BY_VERDICT, accuracy
from aapo.recipe import resolve
from aapo.records import Completion
from aapo.sampling import SamplingSettings
from aapo.scoring import score
from aapo.tasks import DataConfig, load_prompts, render_prompt
from aapo.training.models import check_room
from aapo.training.prompts import checked_prompts, loaded_prompts


def loaded(tmp_path, rows, **fields):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_prompts(DataConfig(dataset_name=str(path), num_eval_prompts=0, **fields), "train")


def recipe(tmp_path, rows, **fields):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        "model_name_or_path": "model", "dataset_name": str(path), "num_eval_prompts": 0, "algorithm": "grpo",
        "num_generations": 2, "per_device_train_batch_size": 2, "max_completion_length": 8, **fields,
    }  # fmt: skip
    return resolve("mine", given)


def test_the_datas_own_columns_stay_beside_prompt_and_answer(tmp_path):
    (row,) = loaded(tmp_path, [{"problem": "1+1?", "solution": " 2 ", "level": 3}], prompt_template="Q: {question}")
    assert row == {
        "problem": "1+1?", "solution": " 2 ", "level": 3, "prompt": [{"role": "user", "content": "Q: 1+1?"}],
        "answer": "2",
    }  # fmt: skip
    (row,) = loaded(tmp_path, [{"prompt": "1+1?", "answer": 2}], conversational=False)
    assert row == {"prompt": "1+1?", "answer": "2"}, "columns of these names are ours"


@pytest.mark.parametrize(
    "name",
    ["prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments",
     "prompt_opening"],
)  # fmt: skip
def test_a_column_with_the_name_of_an_argument_of_reward_functions_is_refused(tmp_path, name):
    rows = [{"question": "1+1?", "answer": "2", name: "x"}]
    message = rf"^the data set has the column '{name}', a name under which reward functions are given something else;"
    with pytest.raises(InputError, match=message):
        loaded_prompts(recipe(tmp_path, rows), "train")
    with pytest.raises(InputError, match=message):
        Task("mine", Dataset.from_list([{"prompt": "1+1?", "answer": "2", name: "x"}]), [accuracy], BY_VERDICT, 1)


@pytest.mark.parametrize("name", ["prompt_key", "reference_rewards", "reference_correct"])
def test_a_recipe_refuses_columns_that_it_takes_from_its_bank(tmp_path, name):
    rows = [{"question": "1+1?", "answer": "2", name: "x"}]
    with pytest.raises(InputError, match=f"^the data set has the column '{name}', a name under which"):
        loaded_prompts(recipe(tmp_path, rows), "train")


def test_a_role_that_the_template_does_not_know_is_refused(tiny_folder):
    tokenizer = load_tokenizer(str(tiny_folder))
    with pytest.raises(
        InputError, match="^a message has the role 'human', of which the chat template says nothing; ro"
    ):
        render_prompt([{"role": "human", "content": "Hi"}], tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{% if m.role == 'human' %}{{ m.content }}{% endif %}{% endfor %}"
    assert render_prompt([{"role": "human", "content": "Hi"}], tokenizer) == "Hi"


def test_what_a_template_refuses_is_one_line(tiny_folder):
    tokenizer = load_tokenizer(str(tiny_folder))
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(InputError, match="^the chat template of .* refuses messages of the roles system, user: System"):
        render_prompt([{"role": "system", "content": "Think."}, {"role": "user", "content": "Hi"}], tokenizer)


def test_prompts_that_leave_no_room_in_the_context_are_counted_and_refused(tmp_path, tiny_folder):
    words = [1, 200, 3, 150]
    rows = [{"question": "1 " * count, "answer": "2"} for count in words]
    made = recipe(tmp_path, rows, model_name_or_path=str(tiny_folder))
    tokenizer = load_tokenizer(str(tiny_folder))
    prompts = checked_prompts(made, tokenizer).prompts
    longest = max(len(prompt.ids) for prompt in prompts)
    assert longest > 128, "the tiny model's context"
    with pytest.raises(
        InputError, match=f"^2 of 4 prompts, the longest of {longest} tokens, and max_completion_length 8 exceed the "
        "model's context of 128 tokens; in a recipe set max_prompt_length to 120 and drop_long_prompts to true$"
    ):  # fmt: skip
        check_room(made, prompts)
    check_room(made, [prompts[0], prompts[2]])
    few = len(prompts[0].ids) + 8
    narrow = recipe(tmp_path, rows, model_name_or_path=str(tiny_folder), use_vllm=True, vllm_max_model_length=few)
    check_room(narrow, prompts[:1])
    with pytest.raises(InputError, match=f"^1 of 2 prompts, .* exceed the model's context of {few} tokens; set"):
        check_room(narrow, [prompts[0], prompts[2]])
    shorter = recipe(tmp_path, rows, model_name_or_path=str(tiny_folder), max_prompt_length=120, drop_long_prompts=True)
    kept = checked_prompts(shorter, tokenizer)
    check_room(shorter, kept.prompts)
    assert kept.num_long == 2 and SamplingSettings(max_completion_length=8) == shorter.training.sampling


def test_a_function_reads_the_column_that_the_gold_answer_came_from(tmp_path):
    def graded(completions, solution, answer, **columns):
        return [float(gold == " 2 " and text == "2") for gold, text in zip(solution, answer, strict=True)]

    rows = [dict(row) for row in loaded(tmp_path, [{"problem": "1+1?", "solution": " 2 "}])]
    assert score([graded], rows, [Completion("x", [1], "stop")]).rewards == {"graded": [1.0]}

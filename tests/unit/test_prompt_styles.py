"""Prompt styles by name, in recipes and in evaluation protocols."""

import pytest

from aapo.errors import InputError
from aapo.evaluation import load_protocol
from aapo.recipe import load_recipe, resolve
from aapo.tasks import prompt_styles

GIVEN = {"model_name_or_path": "model", "dataset_name": "rows.jsonl", "num_eval_prompts": 0}


@pytest.mark.parametrize("name", prompt_styles())
def test_a_recipe_and_a_protocol_take_the_same_from_a_style(name):
    style, data = prompt_styles()[name], resolve("mine", {**GIVEN, "prompt_style": name}).data
    protocol = load_protocol("paper").changed({"prompt_style": name})
    assert protocol.choice_template is None and protocol.name == "paper+prompt_style"
    for field in ("system_prompt", "prompt_template", "conversational"):
        assert getattr(data, field) == getattr(protocol, field) == getattr(style, field)


def test_what_is_set_beside_a_style_wins():
    data = resolve("mine", {**GIVEN, "prompt_style": "qwen-boxed", "system_prompt": "Be brief."}).data
    assert data.system_prompt == "Be brief."
    assert data.prompt_template == (
        "{question}\nPlease reason step by step, and put your final answer within \\boxed{}."
    )


def test_the_style_of_a_recipe_is_kept_with_what_it_stands_for():
    resolved = resolve("mine", {**GIVEN, "prompt_style": "abel"}).resolved()
    assert resolved["fields"]["prompt_style"] == "abel"
    assert resolved["with_defaults"]["prompt_template"].startswith("Question:\n{question}\nAnswer:")


def test_shipped_protocols_keep_their_identity():
    assert load_protocol("abel").label == "abel@8a67a466" and load_protocol("qwen-boxed").label == "qwen-boxed@58211976"


def test_an_unknown_style_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown prompt_style 'qwen-box' \(did you mean qwen-boxed\?\)"):
        resolve("mine", {**GIVEN, "prompt_style": "qwen-box"})


def test_recipes_without_a_style_are_as_before():
    data = load_recipe("quickstart").data
    assert data.system_prompt == "Think in <think></think>, then answer in <answer></answer>."
    assert (data.prompt_template, data.conversational) == ("{question}", True)

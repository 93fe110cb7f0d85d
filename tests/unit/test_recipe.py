import pytest

from aapo.errors import InputError
from aapo.fields import parse_flags
from aapo.grading import reward_version
from aapo.recipe import load_recipe, resolve, shipped_recipes

BASICS = {"model_name_or_path": "some/model", "dataset_name": "data.jsonl", "bf16": False}


def test_flags_are_yaml_values_and_reach_mapping_entries():
    assert parse_flags(["--learning_rate", "1e-4", "--margin-low=-0.1", "--reward_funcs", "[accuracy]"]) == {
        "learning_rate": "1e-4", "margin_low": -0.1, "reward_funcs": ["accuracy"],
    }  # fmt: skip
    texts = {"system_prompt": "Answer:", "run_name": "2025-13-01", "hub_model_id": "", "reward_kwargs": "{len: {}}"}
    read = parse_flags([word for name, text in texts.items() for word in (f"--{name}", text)])
    assert read == texts | {"reward_kwargs": {"len": {}}}
    recipe = load_recipe("quickstart", ["--learning_rate", "1e-4", "--base_model.hidden_size", "64"])
    assert recipe.trainer["learning_rate"] == 1e-4
    assert recipe.base_model is not None and recipe.base_model.hidden_size == 64
    assert recipe.base_model.num_hidden_layers == 2
    for wrong in (["learning_rate", "1"], ["--learning_rate"]):
        with pytest.raises(InputError, match="settings are given as --field value"):
            parse_flags(wrong)


def test_reward_functions_get_their_parameters(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "def own(completions, scale=1.0, **columns):\n    return [scale / len(text) for text in completions]\n"
    )
    name = f"{file}:own"
    recipe = resolve("r", BASICS | {"reward_funcs": ["accuracy", name], "reward_kwargs": {name: {"scale": 6.0}}})
    accuracy, own = recipe.reward_funcs
    assert own(completions=["ab", "abc"]) == [3.0, 2.0]
    plain = resolve("r", BASICS | {"reward_funcs": [name, "accuracy"]}).reward_funcs
    assert reward_version(plain[0]) != reward_version(own) and reward_version(plain[1]) == reward_version(accuracy)
    flags = ["--reward_funcs", f"[{name}]", f"--reward_kwargs.{name}", "{scale: 2}", "--reward_failure", "skip"]
    flags += ["--reward_weights", "[1]"]
    (scaled,) = load_recipe("quickstart", flags).reward_funcs
    assert scaled(completions=["ab", ""], log_metric=lambda name, value: None) == [1.0, None]


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_resolves_and_has_its_header(name):
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.reward_funcs
    header = shipped_recipes()[name]
    for part in ("# Command", "# Hardware", "# Time", "# Expect"):
        assert part in header


def test_a_run_directory_is_a_recipe(tmp_path):
    from aapo.runs import RunDirectory

    recipe = load_recipe("quickstart", ["--seed", "7"])
    RunDirectory(tmp_path / "run").write_recipe(recipe.resolved())
    again = load_recipe(str(tmp_path / "run"))
    assert (
        again.given == {**recipe.given, "num_processes": 1} and again.training.seed == 7 and again.name == "quickstart"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rat": 1}, r"unknown field 'learning_rat' \(did you mean learning_rate\?\)"),
        ({"margin_low": 0.3}, r"margin_low is 0.3; it must be a finite number <= 0 \(AAPO uses -0.2\)"),
        ({"margin_low": -0.1, "margin_high": -0.2}, "margin_high is -0.2; it must be a finite number >= 0"),
        ({"algorithm": "ppo"}, "algorithm is 'ppo'; it must be one of aapo, aapo-paired, grpo"),
        (
            {"algorithm": "grpo", "margin_low": -0.1},
            "margin_low is -0.1 but has no effect, because margin is none",
        ),
        ({"algorithm": "grpo", "reference": "live"}, "reference is 'live' but has no effect"),
        (
            {"algorithm": "grpo", "num_reference_samples": 5},
            "num_reference_samples is 5 but has no effect, because the objective",
        ),
        (
            {"reference": "live", "reference_bank": "x"},
            "reference_bank is 'x' but has no effect, because reference is live",
        ),
        ({"epsilon": 0.1}, "epsilon is 0.1 but has no effect"),
        (
            {"loss_type": "grpo"},
            "loss_type is 'grpo' but has no effect, because the objective decides it; choose an algorithm",
        ),
        ({"vespo_k_pos": 3.0}, "vespo_k_pos is 3.0 but has no effect, because no loss here reads it; remove it"),
        ({"num_generations": 3}, "the batch of 8 completions .* is not divisible by num_generations 3"),
        (
            {"reward_kwargs": {"accurcy": {"evaluated": False}}},
            r"reward_kwargs has parameters for 'accurcy' \(did you mean accuracy\?\); reward_funcs are accuracy",
        ),
        ({"reward_kwargs": {"accuracy": 3}}, "reward_kwargs.accuracy is 3; it must be a mapping of parameters"),
        ({"reward_kwargs": {"accuracy": {"evaluate": 1}}}, "has no parameter 'evaluate' .did you mean evaluated"),
        ({"reward_failure": "retry"}, "reward_failure is 'retry'; it must be fail or skip"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; it must be a number"),
        ({"max_steps": "many"}, "max_steps is 'many'; it must be a whole number"),
        ({"conversational": 3}, "conversational is 3; it must be true or false"),
        ({"reward_weights": [1.0, 2.0]}, "reward_weights has 2 entries and reward_funcs 1"),
        ({"reward_funcs": ["acuracy"]}, r"'acuracy' is unknown \(did you mean accuracy\?\)"),
        ({"base_model": {}}, "model_name_or_path and base_model are both set"),
        ({"model_name_or_path": None}, "model_name_or_path is missing"),
        (
            {"model_name_or_path": None, "base_model": {"hiden_size": 3}},
            r"unknown field 'base_model.hiden_size' \(did you",
        ),
        ({"model_name_or_path": None, "base_model": {}}, "base_model needs a generated task"),
        ({"num_eval_prompts": 0, "eval_seed": 3}, "eval_seed is 3 but has no effect, because num_eval_prompts is 0"),
        ({"rollouts_dir": "x"}, "rollouts_dir is 'x' but has no effect, because rollouts are always written"),
        ({"max_steps": True}, "max_steps is True; it must be a whole number"),
        ({"reward_funcs": ["format", "format"]}, "two reward functions are named 'format'"),
        (
            {"num_eval_prompts": 0, "eval_strategy": "steps", "eval_steps": 1},
            "eval_strategy has no prompts to evaluate on",
        ),
        ({"scale_rewards": "batches"}, "scale_rewards is 'batches'; it must be one of group, batch, none"),
    ],
)
def test_bad_recipes_say_what_is_allowed(changes, message):
    with pytest.raises(InputError, match=message):
        resolve("bad", {**BASICS, **changes})


def test_a_bare_no_is_the_word():
    assert resolve("r", {**BASICS, "save_strategy": False}).training.save_strategy == "no"


def test_null_takes_a_field_back():
    recipe = resolve("r", {**BASICS, "algorithm": "grpo", "num_reference_samples": None})
    assert recipe.run.num_reference_samples == 4


def test_trl_names_set_the_objective():
    recipe = resolve("r", {**BASICS, "algorithm": "dapo", "epsilon": 0.1, "scale_rewards": False})
    point = recipe.training.objective
    assert (point.clip_low, point.clip_high, point.scale) == (0.1, 0.28, "none")


def test_files_that_are_no_recipe(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_recipe(str(tmp_path / "absent.yaml"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match="is not a mapping of fields"):
        load_recipe(str(tmp_path / "list.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(InputError, match="is not valid YAML"):
        load_recipe(str(tmp_path / "broken.yaml"))

"""Algorithms in recipes and on their page: what a recipe makes of them, what it refuses, and that the page is true."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from aapo import objective
from aapo.backends.trl import AAPOConfig
from aapo.errors import InputError
from aapo.experiments.plan import make_plan
from aapo.objective import (
    ALGORITHMS,
    COLLECTION_FIELDS,
    OBJECTIVE_FIELDS,
    Algorithm,
    Collection,
    Groups,
    Objective,
    Tokens,
)
from aapo.recipe import load_recipe, resolve
from aapo.recipe.training import AXIS_FIELDS, TrainingSettings
from aapo.runs import RunDirectory

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
BASICS = {"model_name_or_path": "some/model", "dataset_name": "data.jsonl", "bf16": False}


def section(name):
    return re.search(rf"^## `{re.escape(name)}`\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)[1]


def fences(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_page_declares_each_algorithm_as_the_code_does(name):
    (declaration,) = fences(section(name), "python")
    declared = eval(declaration, vars(objective))
    assert (Algorithm(declared) if isinstance(declared, Objective) else declared) == ALGORITHMS[name]
    (recipe,) = fences(section(name), "yaml")
    assert resolve("r", BASICS | yaml.safe_load(recipe)).training.named == ALGORITHMS[name]


def test_the_page_has_a_section_and_a_row_for_every_algorithm_and_no_other():
    assert re.findall(r"^## `(.*)`$", PAGE, re.MULTILINE) == list(ALGORITHMS)
    table = PAGE[PAGE.index("| name | source |") : PAGE.index("Symbols as in")]
    assert re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE) == list(ALGORITHMS)


def test_the_pages_own_algorithm_is_the_example():
    example = (ROOT / "examples" / "my_algorithm.py").read_text(encoding="utf-8")
    assert example in fences(PAGE, "python")
    of_groups, of_tokens = PAGE[PAGE.index("| field of `Groups` |") :].split("| field of `Tokens` |")
    for table, known in ((of_groups, Groups), (of_tokens, Tokens)):
        assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(known._fields)


def test_gspo_takes_the_margin_in_one_line():
    (composed,) = (yaml.safe_load(text) for text in fences(PAGE, "yaml") if "margin: expected" in text)
    recipe = resolve("r", BASICS | composed)
    assert recipe.training.objective == replace(ALGORITHMS["gspo"].objective, margin="expected") and recipe.uses_bank


def test_what_reads_verdicts_needs_a_judge():
    settings = BASICS | {"algorithm": "rl_zvp", "reward_funcs": ["format"]}
    with pytest.raises(
        InputError, match="^the algorithm reads what is right, and none of the reward functions, format"
    ):
        resolve("r", settings)
    resolve("r", settings | {"judge_threshold": 0.5})
    resolve("r", settings | {"algorithm": "grpo-entropy"})


def test_every_axis_can_be_set_in_a_recipe_or_is_a_declarations_own():
    assert set(AXIS_FIELDS) == set(OBJECTIVE_FIELDS) - {
        "advantage",
        "token_advantage",
        "reads_reference",
        "reads_verdicts",
    }
    assert {*AXIS_FIELDS.values(), *COLLECTION_FIELDS} <= {item.name for item in fields(TrainingSettings)}
    changes = {
        "algorithm": "grpo", "importance_sampling_level": "sequence", "overlong_buffer": 0.1, "min_live_frac": 0.75,
        "max_refill_rounds": 2, "baseline": "batch_mean", "scale_rewards": "batch",
    }  # fmt: skip
    recipe = resolve("r", BASICS | changes)
    assert recipe.training.objective == replace(
        ALGORITHMS["grpo"].objective, ratio_level="sequence", overlong_buffer=0.1, baseline="batch_mean", scale="batch",
    )  # fmt: skip
    assert recipe.training.collection == Collection(min_live_frac=0.75)
    assert recipe.training.max_refill_rounds == 2


NUMBERS = ("num_generations", "gradient_accumulation_steps", "generation_batch_size", "steps_per_generation")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (8, 4, 64, 4)),
        ({"generation_batch_size": 64}, (8, 4, 128, 8)),
        ({"steps_per_generation": 1}, (8, 4, 32, 2)),
    ],
)
def test_generations_factor_multiplies_rollouts_and_batch_once(given, expected):
    given = {
        **BASICS, "algorithm": "grpo-2g", "num_generations": 4, "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 2, **given,
    }  # fmt: skip
    recipe = resolve("r", given)
    once = resolve("r", {**given, "algorithm": "grpo"}).training
    args = recipe.training
    assert tuple(getattr(args, name) for name in NUMBERS) == expected
    # As many prompts in a generation batch and in a step as without, and an evaluation of the same size.
    assert args.generation_batch_size // 8 == once.generation_batch_size // 4
    assert 16 * args.gradient_accumulation_steps // 8 == 16 * once.gradient_accumulation_steps // 4
    assert args.num_generations_eval == 4
    again = resolve("r", recipe.given)
    assert tuple(getattr(again.training, name) for name in NUMBERS) == expected
    assert recipe.resolved() == again.resolved()
    assert recipe.resolved()["batch"] == {
        "num_generations": 8, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 4,
        "generation_batch_size": expected[2], "max_refill_rounds": None,
    }  # fmt: skip
    # A configuration that is complete cannot be made again, so nothing is multiplied twice.
    with pytest.raises(InputError, match="are both set"):
        replace(args, seed=1)


def test_an_own_algorithm_resolves_and_its_run_directory_is_a_recipe(tmp_path):
    name = f"{ROOT / 'examples' / 'my_algorithm.py'}:HARD_FIRST"
    recipe = resolve("r", {**BASICS, "algorithm": name, "margin_high": 0.5})
    assert recipe.uses_bank and recipe.training.objective.margin_high == 0.5
    RunDirectory(tmp_path / "run").write_recipe(recipe.resolved())
    stored = RunDirectory(tmp_path / "run").recipe()["objective"]
    assert stored["algorithm"] == name and stored["advantage"] == "aapo_user_my_algorithm:hard_first"
    assert load_recipe(str(tmp_path / "run")).training.objective == recipe.training.objective


def test_refill_has_a_bound_where_there_is_a_refill():
    for name in ALGORITHMS:
        rounds = AAPOConfig(output_dir="x", algorithm=name, bf16=False).max_refill_rounds
        assert rounds == (3 if name in ("dapo", "gpg", "reinforce-ada") else None)
    assert AAPOConfig(output_dir="x", algorithm="dapo", min_live_frac=0.0, bf16=False).max_refill_rounds is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"min_live_frac": 2},
            "min_live_frac is 2.0; it must be a number from 0 to 1 (a share of the groups; DAPO uses 1, GPG 0.5)",
        ),
        (
            {"max_refill_rounds": 5},
            "max_refill_rounds is 5 but has no effect, because min_live_frac is 0 and redraw none; set one of them, or "
            "remove it",
        ),
        (
            {"algorithm": "dapo", "max_refill_rounds": 0},
            "max_refill_rounds is 0; it must be a whole number from 1 to 1,000 (for no refill set min_live_frac to 0 "
            "and redraw to none)",
        ),
        (
            {"redraw": "balance"},
            "redraw is 'balance' (did you mean balanced?); it must be one of none, right, balanced",
        ),
        (
            {"algorithm": "reinforce-ada", "min_live_frac": 1.0},
            "redraw is balanced and min_live_frac 1.0; a prompt is drawn again or gives way to a fresh one, so set "
            "redraw to none or min_live_frac to 0",
        ),
        (
            {"algorithm": "reinforce-ada", "reward_funcs": "accuracy,len"},
            "redraw is balanced, and reward function 'len' compares completions that are drawn together",
        ),
        (
            {"overlong_buffer": 1.0},
            "overlong_buffer is 1.0; it must be a number in [0, 1) (a share of max_completion_length; DAPO uses 0.2)",
        ),
        ({"generations_factor": 0}, "generations_factor is 0; it must be a whole number from 1 to 64"),
        (
            {"importance_sampling_level": "sentence"},
            "importance_sampling_level is 'sentence'; it must be one of token, sequence",
        ),
        (
            {"baseline": "batch_mean"},
            "scale_rewards is group and baseline batch_mean; rewards that are not centred on their group cannot be "
            "divided by its spread, so choose another baseline, or batch or none as the scale",
        ),
        (
            {"sync_ref_model": True},
            "sync_ref_model is True but has no effect, because there is no reference model in memory to follow the "
            "policy; set reference to live, or remove it",
        ),
        (
            {"reference": "live", "ref_model_sync_steps": 10},
            "ref_model_sync_steps is 10 but has no effect, because sync_ref_model is false; set it to true",
        ),
        (
            {"reference": "live", "ref_model_mixup_alpha": 1.0},
            "ref_model_mixup_alpha is 1.0 but has no effect, because sync_ref_model is false; set it to true",
        ),
        (
            {"reference": "live", "sync_ref_model": True, "ref_model_sync_steps": 0},
            "ref_model_sync_steps is 0; it must be a whole number from 1 to 1,000,000,000",
        ),
        (
            {"reference": "live", "sync_ref_model": True, "ref_model_mixup_alpha": 1.5},
            "ref_model_mixup_alpha is 1.5; it must be a number in (0, 1] (1 makes it a copy of the policy)",
        ),
        (
            {"reference": "live", "sync_ref_model": True, "use_peft": True},
            "sync_ref_model does not go with use_peft, whose reference is the model without its adapters; remove one",
        ),
        ({"algorithm": "nowhere.py:A"}, "cannot load algorithm 'nowhere.py:A': [Errno 2] No such file or directory: "),
        (
            {"algorithm": "aapo.objective:objective"},
            "algorithm 'aapo.objective:objective' is a function; it must be an aapo.objective.Objective; declare one "
            "with Objective(advantage=objective)",
        ),
    ],
)
def test_bad_recipes_say_what_is_allowed_in_one_line(changes, message):
    with pytest.raises(InputError) as error:
        resolve("bad", {**BASICS, **changes})
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_reference_with_a_kl_term_may_follow_as_in_trl():
    assert resolve("r", {**BASICS, "beta": 0.1, "sync_ref_model": True}).training.sync_ref_model


def test_a_live_aapo_is_compared_with_its_rival_of_equal_cost(tmp_path):
    flags = ["--reference", "live", "--sync_ref_model", "true", "--max_refill_rounds", "2"]
    plan = make_plan("quickstart", ["aapo", "grpo-2g", "dapo"], [0], tmp_path / "comparison", flags=flags)
    live, twice, dapo = (run.recipe.training for run in plan.runs)
    assert live.reference == "live" and live.sync_ref_model and not twice.sync_ref_model
    assert (live.max_refill_rounds, twice.max_refill_rounds, dapo.max_refill_rounds) == (None, None, 2)
    # A live reference samples as many completions as there are rollouts; the rival samples twice as many rollouts.
    assert twice.generation_batch_size == 2 * live.generation_batch_size
    assert twice.generation_batch_size // twice.num_generations == live.generation_batch_size // live.num_generations
    kept = make_plan("quickstart", ["grpo"], [0], tmp_path / "kl", flags=["--beta", "0.1", "--sync_ref_model", "true"])
    assert kept.runs[0].recipe.training.sync_ref_model

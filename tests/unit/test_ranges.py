"""Every setting is declared in the table, and a value that it does not allow is one line with the setting's name."""

import json
import math
from dataclasses import fields

import pytest

from aapo.allowed import Elsewhere, Entries, Flag, Items, Names, Number, Object, Steps, Text
from aapo.backends.trl.config import AAPOConfig
from aapo.base.config import BaseModelConfig
from aapo.errors import InputError
from aapo.evaluation import Protocol
from aapo.experiments.registration import PlanFile
from aapo.fields import field_types, make
from aapo.objective import COLLECTION_FIELDS, OBJECTIVE_FIELDS
from aapo.ranges import RANGES, check
from aapo.recipe import load_recipe, resolve, set_field
from aapo.recipe.cluster import ClusterSettings
from aapo.recipe.recipe import known_fields
from aapo.sampling import SamplingSettings
from aapo.tasks import Benchmark

BASICS = {"model_name_or_path": "some/model", "dataset_name": "data.jsonl", "bf16": False}
GENERATED = {"dataset_name": "reasoning_gym:chain_sum", "num_train_prompts": 8, "bf16": False}
HUGE = 10**20
# Which of what is declared elsewhere are names of a registry that a recipe is checked by.
REGISTERED = (
    "prompt_style", "reward_failure", "algorithm", "baseline", "margin", "loss", "aggregation",
    "sample_strategy", "sample_prior", "curriculum", "reference", "judge", "scale_rewards", "importance_sampling_level",
    "loss_type", "multi_objective_aggregation",
)  # fmt: skip


def wrong(allowed):
    """Values that a declaration does not allow, as YAML can give them."""
    match allowed:
        case Number():
            below = allowed.low if allowed.above else allowed.low - 1
            above = allowed.high if allowed.below else allowed.high + 1
            bounds = [bound for bound in (below, above) if abs(bound) < 1e300 and bound not in allowed.also]
            counted = [allowed.low + 0.5, HUGE, "12"] if allowed.whole else []
            return ["many", True, [1, 2], {"a": 1}, math.nan, math.inf, -math.inf, 10**400, *bounds, *counted]
        case Steps():
            zero = [] if allowed.zero else [0]
            return ["many", True, {"a": 1}, math.nan, math.inf, -math.inf, -1, 1.5, HUGE, *zero]
        case Names():
            listed = [["no such name"]] if allowed.several else []
            blank = [] if allowed.blanks else [""]
            return ["no such name", {"a": 1}, *listed, *blank, *([] if allowed.pattern else [7])]
        case Flag():
            return ["maybe", 3, math.nan, [True], {"a": 1}]
        case Text():
            return [{"a": 1}, ["a"], *(["", " "] if allowed.pattern != Text().pattern else [])]
        case Items():
            items = [math.nan, math.inf, "x", True] if isinstance(allowed.of, Number) else ["", {"a": 1}]
            return [{"a": 1}, [None], *([item] for item in items), *([[]] if allowed.least else [])]
        case Entries():
            return ["text", 3, ["a"], True, {"a": math.nan}, {"a": {"b": [1.0, math.inf]}}]
        case Object():
            return ["text", 3, {"a": 1}]
        case Elsewhere():
            return [{"a": 1}]


def refusal(call):
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_setting_is_declared():
    functions_and_renamed = {"scale", "ratio_level", "advantage", "token_advantage"}
    settings = {*known_fields(), *OBJECTIVE_FIELDS, *COLLECTION_FIELDS} - functions_and_renamed
    for config in (Benchmark, Protocol, BaseModelConfig, ClusterSettings, SamplingSettings, PlanFile):
        settings |= {*field_types(config)}
    assert settings == {*RANGES}
    assert {item.name for item in fields(AAPOConfig) if item.init} <= {*RANGES}


@pytest.mark.parametrize("name", known_fields())
def test_a_recipe_refuses_what_is_not_allowed(name):
    for value in (*wrong(RANGES[name]), *(["no such name"] if name in REGISTERED else [])):
        assert name in refusal(lambda value=value: resolve("bad", {**BASICS, name: value}))


@pytest.mark.parametrize("name", field_types(BaseModelConfig))
def test_a_base_model_refuses_what_is_not_allowed(name):
    for value in wrong(RANGES[name]):
        message = refusal(lambda value=value: resolve("bad", {**GENERATED, "base_model": {name: value}}))
        assert message.startswith(f"base_model.{name} is ")


@pytest.mark.parametrize("name", [name for name in field_types(Protocol) if name not in ("name", "grader")])
def test_a_protocol_refuses_what_is_not_allowed(name):
    for value in wrong(RANGES[name]) if not isinstance(RANGES[name], Elsewhere) else ():
        assert name in refusal(lambda value=value: Protocol().changed({name: value}))


@pytest.mark.parametrize("name", field_types(Benchmark))
def test_a_task_refuses_what_is_not_allowed(name):
    given = {"name": "mine", "dataset_name": "reasoning_gym:chain_sum"}
    for value in wrong(RANGES[name]):
        assert name in refusal(lambda value=value: make(Benchmark, {**given, name: value}))


@pytest.mark.parametrize("name", field_types(PlanFile))
def test_a_plan_refuses_what_is_not_allowed(name):
    given = {"recipe": "quickstart", "algorithms": ["grpo"], "seeds": [0]}
    for value in wrong(RANGES[name]) if name != "algorithms" else ():
        assert name in refusal(lambda value=value: make(PlanFile, {**given, name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", math.nan), ("learning_rate", -1.0), ("max_steps", -5), ("max_steps", 0), ("save_steps", 0),
        ("beta", math.nan), ("max_grad_norm", -1.0), ("num_generations", 2.5), ("num_generations", "8"),
        ("seed", -1), ("temperature", 0.0), ("temperature", math.inf), ("reward_weights", [math.nan]),
        ("optim", "adam"), ("report_to", ["wandb", "wndb"]), ("lr_scheduler_kwargs", {"num_cycles": math.nan}),
        ("use_vllm", "yes"), ("num_iterations", 0), ("per_device_train_batch_size", 0),
    ],
)  # fmt: skip
def test_the_trainers_configuration_in_python_refuses_the_same(name, value):
    given = {"output_dir": "x", "bf16": False, "use_cpu": True, name: value}
    assert refusal(lambda: AAPOConfig(**given)).startswith(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0), ("max_steps", -1), ("max_steps", 1), ("eval_temperature", 0.0), ("temperature", 1e-3),
        ("save_total_limit", 0), ("warmup_steps", 0), ("warmup_steps", 0.1), ("warmup_steps", 5.0),
        ("logging_steps", 0.5), ("top_p", 1.0), ("top_k", 0), ("min_p", 0.0), ("pad_to_multiple_of", "auto"),
        ("seed", 2**32 - 1), ("num_reference_samples", 1024), ("lora_dropout", 0.0), ("margin_low", 0.0),
        ("attn_implementation", "kernels-community/flash-attn2"), ("attn_implementation", "paged|sdpa"),
        ("fsdp", "full_shard auto_wrap"), ("fsdp", True), ("fsdp", ["offload"]), ("debug", ""), ("report_to", "none"),
        ("report_to", ["tensorboard", "wandb"]), ("include_num_input_tokens_seen", False),
        ("trackio_static_space_id", False), ("optim_args", "betas=0.9, eps=1e-8"), ("stop", ["\n\n"]),
        ("lr_scheduler_kwargs", {"min_lr": 1e-7, "decay_type": "cosine"}),
        ("accelerator_config", '{"even_batches": true}'),
    ],
)  # fmt: skip
def test_what_is_at_a_bound_or_has_another_form_is_allowed(name, value):
    check(name, value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": math.nan}, "learning_rate is nan; it must be a finite number >= 0"),
        ({"num_generations": 1}, "num_generations is 1; it must be a whole number from 2 to 4,096 (the completions of "
         "a prompt are compared with one another)"),
        ({"top_p": 0}, "top_p is 0.0; it must be a number in (0, 1]"),
        ({"max_steps": -5}, "max_steps is -5; it must be -1 or a whole number from 1 to 1,000,000,000 (-1 trains "
         "num_train_epochs)"),
        ({"num_reference_samples": HUGE}, f"num_reference_samples is {HUGE}; it must be a whole number from 1 to"),
        ({"save_steps": 0}, "save_steps is 0.0; it must be a whole number of steps from 1 to 1,000,000,000 or a "
         "share of all in (0, 1)"),
        ({"dtype": "float8"}, "dtype is 'float8' (did you mean float32?); it must be one of auto, float32, bfloat16, "
         "float16"),
        ({"report_to": ["wandb", "tensorbord"]}, "report_to is ['wandb', 'tensorbord'] (did you mean tensorboard?); it "
         "must be some of all, none, "),
        ({"output_dir": ""}, "output_dir is ''; it must be text that is not empty"),
        ({"reward_funcs": []}, "reward_funcs is []; it must be a list of at least 1, each item text that is not empty"),
        ({"reward_weights": [1, math.inf]}, "reward_weights is [1.0, inf]; it must be a list, each item a finite"),
        ({"reward_weights": [1, None]}, "reward_weights has an item without a value; write one, or remove it"),
        ({"model_init_kwargs": {"a": [{"b": math.nan}]}}, "model_init_kwargs.a[0].b is nan; it must be a finite"),
        ({"lr_scheduler_kwargs": {"min_lr": "1e-7"}}, "lr_scheduler_kwargs is {'min_lr': '1e-7'}; it must be a mapping "
         "whose numbers are written as YAML reads them, such as 1.0e-7"),
        ({"deepspeed": "gone.json"}, "deepspeed is 'gone.json'; it must be a mapping or an existing file"),
        ({"temperature": 0}, "temperature is 0; it must be > 0 in training, since greedy rollouts"),
        ({"eval_temperature": 0}, "eval_num_samples is 4 and eval_temperature 0, so that all samples of a prompt"),
        ({"optim_args": "betas"}, "optim_args is 'betas'; it must be pairs with commas, such as betas=0.9"),
    ],
)  # fmt: skip
def test_messages_say_what_it_was_and_what_is_allowed(changes, message):
    assert refusal(lambda: resolve("bad", {**BASICS, **changes})).startswith(message)


def test_files_flags_and_what_is_extended_are_checked_alike(tmp_path):
    (tmp_path / "parent.yaml").write_text("extends: quickstart\nbeta: .nan\n")
    (tmp_path / "child.yaml").write_text("extends: parent.yaml\nseed: 3\n")
    beta = "beta is nan; it must be a finite number >= 0"
    assert refusal(lambda: load_recipe(str(tmp_path / "child.yaml"))) == beta
    assert refusal(lambda: load_recipe("quickstart", ["--beta", "nan"])) == beta
    assert load_recipe(str(tmp_path / "child.yaml"), ["--beta", "null"]).training.beta == 0


def test_heads_that_cannot_share_keys():
    message = refusal(lambda: BaseModelConfig(num_attention_heads=6, num_key_value_heads=4))
    assert message.startswith("base_model.num_attention_heads is 6; it must be a multiple of num_key_value_heads")


def test_benchmark_samples_are_numbers_of_samples():
    message = refusal(lambda: Protocol(benchmark_samples={"aime24": 0}))
    assert message == "benchmark_samples.aime24.num_samples is 0; it must be a whole number from 1 to 10,000"


def test_an_entry_of_what_is_no_mapping():
    message = refusal(lambda: set_field({"learning_rate": 0.1}, "learning_rate.peak", 3))
    assert (
        message
        == "learning_rate.peak is an entry of learning_rate, which is 0.1 and has none; set learning_rate itself"
    )


def test_a_resolved_recipe_stays_within_the_table():
    recipe = load_recipe("quickstart")
    again = resolve("again", json.loads(json.dumps(recipe.given)))
    assert again.given == recipe.given

"""The recipes of the published models: the paper's settings, their twins, and recipes that extend others."""

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from aapo.backends.trl.config import trainer_config
from aapo.errors import InputError
from aapo.grading import reward_name
from aapo.recipe import load_recipe, shipped_recipes
from aapo.recipe.recipe import SHIPPED

PUBLISHED = [name for name in shipped_recipes() if name != "quickstart"]
FULL = [name for name in PUBLISHED if not name.endswith("-lora")]
# What the paper, its files and its scripts set, beside 1e-6, six rollouts a prompt and seed 42 for all.
SETTINGS = {
    "deepseek-r1-distill-qwen-1.5b-open-rs": {
        "lr_scheduler_type": "cosine_with_min_lr", "warmup_steps": 0.1, "max_completion_length": 3584,
        "temperature": 0.7, "max_steps": 100, "save_steps": 50, "reward_weights": [1.0, 2.0],
    },
    "qwen2.5-math-7b-simplelr": {
        "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0.03, "max_completion_length": 3072,
        "temperature": 1.0, "top_p": 1.0, "num_train_epochs": 1, "save_steps": 25, "gradient_accumulation_steps": 4,
    },
}  # fmt: skip
SETTINGS |= {f"llama-3.2-{size}-simplelr": SETTINGS["qwen2.5-math-7b-simplelr"] for size in ("1b", "3b")}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_papers_settings(name):
    recipe = load_recipe(name)
    args = trainer_config(recipe)
    for field, value in SETTINGS[name].items():
        assert getattr(args, field) == value, field
    assert (args.learning_rate, args.num_generations, args.per_device_train_batch_size, args.seed) == (1e-6, 6, 6, 42)
    assert args.bf16 and args.activation_checkpointing and args.beta == 0
    assert recipe.data.max_prompt_length == (512 if name.startswith("deepseek") else 1024)
    point = args.objective
    assert (point.margin, point.margin_low, point.margin_high, point.scale) == ("expected", -0.2, 0.28, "group")


@pytest.mark.parametrize("name", shipped_recipes())
def test_right_answers_are_known_by_a_verdict_wherever_the_function_stands(name):
    recipe = load_recipe(name)
    names = [reward_name(function) for function in recipe.reward_funcs]
    said = recipe.training.judgement.describe(names)
    assert said in ("by the verdicts of accuracy", "by the verdicts of cosine")


@pytest.mark.parametrize("name", FULL)
def test_twins_by_one_field(name):
    for algorithm in ("grpo", "gpg"):
        twin = load_recipe(name, ["--algorithm", algorithm])
        assert twin.training.algorithm == algorithm and not twin.uses_bank
        same = load_recipe(name)
        assert twin.training.max_steps == same.training.max_steps and twin.data == same.data


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.endswith("-lora")])
def test_lora_recipes_take_the_same_batch_on_one_gpu(name):
    full = load_recipe(name.removesuffix("-lora"))
    lora = load_recipe(name)
    assert lora.model.use_peft and lora.data == full.data

    def completions(recipe, gpus):
        return recipe.training.per_device_train_batch_size * recipe.training.gradient_accumulation_steps * gpus

    assert completions(lora, 1) == completions(full, 4)


def test_open_rs_recipes_differ_in_data_and_reward():
    first, second, third = (load_recipe(f"open-rs{number}") for number in (1, 2, 3))
    assert {recipe.training.algorithm for recipe in (first, second, third)} == {"grpo"}
    assert [recipe.data.dataset_name for recipe in (first, second, third)] == ["open-s1", "open-rs", "open-rs"]
    assert [recipe.run.reward_funcs[1] for recipe in (first, second, third)] == ["accuracy", "accuracy", "cosine"]
    assert second.run.reward_kwargs is None
    cosine = third.reward_funcs[1]
    wrong = cosine(completions=[r"\boxed{4}"] * 2, answer=["5"] * 2, completion_ids=[[], [0] * 3584])
    right = cosine(completions=[r"\boxed{5}"] * 2, answer=["5"] * 2, completion_ids=[[], [0] * 3584])
    assert (wrong, right) == ([0.0, -0.5], [1.0, 0.5]), "short and at the limit"


def test_a_recipe_extends_one_beside_it_or_a_shipped_one(tmp_path):
    (tmp_path / "parent.yaml").write_text("extends: quickstart\nmax_steps: 7\nseed: 3\n")
    (tmp_path / "child.yaml").write_text("extends: parent.yaml\nseed: null\nmax_completion_length: 32\n")
    recipe = load_recipe(str(tmp_path / "child.yaml"), ["--max_steps", "9"])
    args = recipe.training
    assert (recipe.name, args.max_steps, args.max_completion_length) == ("child", 9, 32)
    assert args.num_generations == 8 and args.seed == 42, "quickstart's, and TRL's default in the place of null"
    assert "extends" not in recipe.given


def test_a_recipe_that_extends_itself_or_nothing_known_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(InputError, match="extends itself: a -> b -> a"):
        load_recipe(str(tmp_path / "a.yaml"))
    (tmp_path / "c.yaml").write_text("extends: quikstart\n")
    with pytest.raises(InputError, match=r"unknown recipe 'quikstart' \(did you mean quickstart\?\)"):
        load_recipe(str(tmp_path / "c.yaml"))
    (tmp_path / "d.yaml").write_text("extends: [quickstart]\n")
    with pytest.raises(InputError, match="must be the name or path of one recipe"):
        load_recipe(str(tmp_path / "d.yaml"))


def test_accelerate_reads_every_launcher():
    folder = SHIPPED.parent / "launchers"
    stages = {}
    for entry in folder.iterdir():
        config = load_config_from_file(str(entry))
        stages[entry.name] = (str(config.distributed_type), (config.deepspeed_config or {}).get("zero_stage"))
        assert config.num_processes == 4 and config.mixed_precision == "bf16"
    assert {name: stage for name, (_, stage) in stages.items()} == {
        "ddp.yaml": None, "fsdp2.yaml": None, "zero2.yaml": 2, "zero2-offload.yaml": 2, "zero3.yaml": 3,
    }  # fmt: skip

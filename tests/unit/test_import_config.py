"""Published configurations as recipes: every key taken over, explained or refused."""

from pathlib import Path

import pytest
import yaml

from aapo.backends.trl.config import trainer_config
from aapo.errors import InputError
from aapo.recipe import load_recipe
from aapo.recipe.importing import import_config, read_sources, recognise

COMMON = """
model_revision: main
torch_dtype: bfloat16
attn_implementation: flash_attention_2
bf16: true
use_vllm: false
vllm_device: auto
vllm_gpu_memory_utilization: 0.7
gradient_accumulation_steps: 1
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: false}
hub_model_id: mine
hub_strategy: every_save
learning_rate: 1.0e-06
log_completions: true
log_level: info
logging_first_step: true
logging_steps: 1
logging_strategy: steps
num_generations: 6
overwrite_output_dir: true
per_device_eval_batch_size: 6
per_device_train_batch_size: 6
push_to_hub: false
report_to: [wandb]
save_strategy: steps
save_steps: 50
seed: 42
"""
COMMON_FIELDS = {
    "model_revision": "main", "dtype": "bfloat16", "attn_implementation": "flash_attention_2", "bf16": True,
    "use_vllm": False, "vllm_gpu_memory_utilization": 0.7, "gradient_accumulation_steps": 1,
    "activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False},
    "learning_rate": 1e-6, "logging_steps": 1, "num_generations": 6, "per_device_train_batch_size": 6,
    "report_to": ["wandb"], "save_strategy": "steps", "save_steps": 50, "seed": 42, "num_eval_prompts": 0,
}  # fmt: skip
RS = (
    COMMON
    + """
model_name_or_path: deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B
dataset_name: knoveleng/open-rs
system_prompt: Think, then answer.
padding_free: true
bf16_full_eval: true
vllm_enforce_eager: true
vllm_max_model_len: 4608
do_eval: false
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr_rate: 0.1}
max_prompt_length: 512
max_completion_length: 3584
max_steps: 100
num_train_epochs: 1
reward_funcs: [format, cosine]
reward_weights: [1.0, 2.0]
temperature: 0.7
warmup_ratio: 0.1
"""
)
RS_FIELDS = COMMON_FIELDS | {
    "model_name_or_path": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "dataset_name": "open-rs",
    "system_prompt": "Think, then answer.", "vllm_max_model_length": 4608, "drop_long_prompts": True,
    "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}, "max_prompt_length": 512,
    "max_completion_length": 3584, "max_steps": 100, "num_train_epochs": 1, "reward_funcs": ["format", "cosine"],
    "reward_weights": [1.0, 2.0], "temperature": 0.7, "warmup_steps": 0.1,
}  # fmt: skip
COSINE = {"min_value_wrong": 0.0, "max_value_wrong": -0.5, "min_value_correct": 0.5, "max_value_correct": 1.0}


def sources(folder: Path, *texts: str, suffixes: tuple[str, ...] = ()):
    paths = []
    for place, text in enumerate(texts):
        suffix = suffixes[place] if suffixes else ".yaml"
        paths.append(folder / f"file{place}{suffix}")
        paths[-1].write_text(text)
    return read_sources(paths)


def fates(found) -> dict[str, str]:
    return {fate.key: fate.kind for fate in found.fates}


def test_the_1_5b_file_of_aapo(tmp_path):
    given = sources(tmp_path, RS + "output_dir: output/AAPO-1.5B\nbeta: 0.1\n")
    found = import_config(given)
    assert found.format == "aapo"
    cosine = {"cosine": {**COSINE, "max_len": 3584}}
    assert found.fields == RS_FIELDS | {"output_dir": "output/AAPO-1.5B", "algorithm": "aapo", "reward_kwargs": cosine}
    kinds = fates(found)
    assert kinds["beta"] == kinds["vllm_device"] == kinds["padding_free"] == kinds["hub_model_id"] == "explained"
    assert kinds["warmup_ratio"] == kinds["torch_dtype"] == "renamed"
    assert set(given[0].settings) == set(kinds), "every key has its fate"


def test_the_published_bugs_by_name(tmp_path):
    found = import_config(sources(tmp_path, RS + "output_dir: output/AAPO-1.5B\nbeta: 0.1\n"), exact=True)
    assert found.fields["algorithm"] == "aapo-paired"
    assert found.fields["reward_kwargs"] == {
        "cosine": {
            "max_len": 1000, **COSINE, "grader": "open_r1", "unparseable_gold": 1.0, "length_unit": "characters",
            "clamp": False,
        }
    }  # fmt: skip


SIMPLERL = (
    COMMON
    + """
model_name_or_path: Qwen/Qwen2.5-Math-7B
dataset_name: SimpleRL-Zoo-Data/simplelr_qwen_level3to5
dataset_config: train.parquet
system_prompt: Think inside tags.
do_eval: true
eval_strategy: steps
eval_steps: 33
lr_scheduler_type: constant_with_warmup
max_prompt_length: 1024
max_completion_length: 3072
max_steps: -1
num_train_epochs: 3
output_dir: output/AAPO-7B
reward_funcs: [accuracy_lv35]
reward_weights: [1.0]
warmup_ratio: 0.03
temperature: 1.0
top_p: 1.0
beta: 0.1
"""
)
SCRIPT = r"""#!/bin/bash
export A=1
ACCELERATE_LOG_LEVEL=info accelerate launch --config_file zero2.yaml \
   --num_processes=4 --main_process_port 25001 \
   AAPO.py --config configs/AAPO.yaml --output_dir output/x \
   --num_train_epochs 1 --gradient_accumulation_steps 4 --weighted_sample --sample_strategy medium \
   --scale_rewards True --adjust_gd --adjust_lr --scale_batch --eval_strategy no
"""


def test_the_7b_file_and_script_of_aapo(tmp_path):
    found = import_config(sources(tmp_path, SCRIPT, SIMPLERL, suffixes=(".sh", ".yaml")))
    assert found.format == "aapo"
    assert found.fields == COMMON_FIELDS | {
        "model_name_or_path": "Qwen/Qwen2.5-Math-7B", "dataset_name": "simplelr-qwen-level3to5", "algorithm": "aapo",
        "prompt_style": "qwen-boxed", "lr_scheduler_type": "constant_with_warmup", "max_prompt_length": 1024,
        "max_completion_length": 3072, "max_steps": -1, "num_train_epochs": 1, "gradient_accumulation_steps": 4,
        "output_dir": "output/x", "reward_funcs": ["accuracy"], "reward_weights": [1.0], "warmup_steps": 0.03,
        "temperature": 1.0, "top_p": 1.0, "scale_rewards": "group", "drop_long_prompts": True,
    }  # fmt: skip
    kinds = fates(found)
    dead = {"beta", "weighted_sample", "sample_strategy", "adjust_gd", "adjust_lr", "scale_batch", "system_prompt"}
    others = {"dataset_config", "eval_strategy", "eval_steps", "config", "num_processes", "main_process_port"}
    for key in dead | others:
        assert kinds[key] == "explained", key


def test_llama_data_take_the_plain_style(tmp_path):
    text = SIMPLERL.replace("simplelr_qwen_level3to5", "simplelr_abel_level3to5")
    found = import_config(sources(tmp_path, text))
    assert (found.fields["dataset_name"], found.fields["prompt_style"]) == ("simplelr-abel-level3to5", "abel")


def test_gpg_uses_what_aapo_ignores(tmp_path):
    text = SIMPLERL.replace("output/AAPO-7B", "output/GPG-7B").replace("beta: 0.1", "") + (
        "adjust_gd: true\nmin_inverse_alpha: 0.5\nweighted_sample: true\nsample_strategy: medium\n"
        "scale_rewards: false\n"
    )
    found = import_config(sources(tmp_path, text))
    assert found.format == "gpg"
    expected = {
        "algorithm": "gpg", "rescale_dead_groups": True, "min_live_frac": 0.5, "max_refill_rounds": 20,
        "weighted_sample": True, "sample_strategy": "medium", "scale_rewards": "none",
    }  # fmt: skip
    assert {key: found.fields[key] for key in expected} == expected
    plain = text.replace("adjust_gd: true\nmin_inverse_alpha: 0.5\n", "scale_batch: true\n")
    fields = import_config(sources(tmp_path, plain)).fields
    assert (fields["rescale_dead_groups"], fields["min_live_frac"], fields["scale_rewards"]) == (False, 0.0, "batch")


def test_open_rs_is_grpo(tmp_path):
    text = (
        RS.replace("hub_model_id: mine", "hub_model_id: OpenRS-GRPO")
        + "output_dir: data/OpenRS\ncosine_max_len: 3584\n"
    )
    found = import_config(sources(tmp_path, text))
    assert found.format == "open-rs" and found.fields["algorithm"] == "grpo"
    assert found.fields["reward_kwargs"] == {"cosine": {**COSINE, "max_len": 3584}}


OPEN_R1 = """
model_name_or_path: Qwen/Qwen2.5-1.5B-Instruct
dataset_name: some/maths
dataset_prompt_column: problem
system_prompt: Think.
reward_funcs: [accuracy, format, tag_count, repetition_penalty, length, reasoning_steps]
repetition_n_grams: 4
repetition_max_penalty: -0.5
cosine_max_len: 900
code_language: python
max_completion_length: 2048
num_generations: 8
per_device_train_batch_size: 8
loss_type: dr_grpo
beta: 0.04
callbacks: [push_to_hub_revision]
benchmarks: [math_500]
wandb_entity: me
wandb_project: mine
hub_model_revision: v1
overwrite_hub_revision: true
push_to_hub_revision: true
do_eval: false
max_steps: 10
"""


def test_open_r1(tmp_path):
    found = import_config(sources(tmp_path, OPEN_R1))
    assert found.format == "open-r1"
    assert found.fields == {
        "algorithm": "dr_grpo", "num_eval_prompts": 0, "model_name_or_path": "Qwen/Qwen2.5-1.5B-Instruct",
        "dataset_name": "some/maths", "prompt_column": "problem", "system_prompt": "Think.", "beta": 0.04,
        "reward_funcs": ["accuracy", "format", "tag_count", "repetition_penalty", "len", "reasoning_steps"],
        "reward_kwargs": {"repetition_penalty": {"ngram_size": 4, "max_penalty": -0.5}}, "max_steps": 10,
        "max_completion_length": 2048, "num_generations": 8, "per_device_train_batch_size": 8,
    }  # fmt: skip
    assert fates(found)["cosine_max_len"] == "explained", "cosine is not among the rewards"


@pytest.mark.parametrize(
    ("loss", "fields"),
    [
        ("grpo", {"algorithm": "grpo"}),
        ("dapo", {"algorithm": "grpo", "aggregation": "token_mean"}),
        ("bnpo", {"algorithm": "grpo", "aggregation": "token_mean"}),
        ("cispo", {"algorithm": "cispo"}),
        ("luspo", {"algorithm": "grpo", "aggregation": "constant"}),
    ],
)
def test_trls_losses(tmp_path, loss, fields):
    text = f"model_name_or_path: m\ndataset_name: rows.jsonl\nloss_type: {loss}\nscale_rewards: batch\n"
    found = import_config(sources(tmp_path, text), format="trl")
    assert {key: found.fields[key] for key in ("algorithm", "aggregation") if key in found.fields} == fields
    assert found.fields["scale_rewards"] == "batch"


def test_launcher_files_are_recognised(tmp_path):
    launcher = "compute_environment: LOCAL_MACHINE\ndistributed_type: DEEPSPEED\nnum_processes: 4\n" + (
        "deepspeed_config: {zero_stage: 2, offload_optimizer_device: cpu}\n"
    )
    found = import_config(sources(tmp_path, OPEN_R1, launcher))
    notes = {fate.key: fate.note for fate in found.fates}
    assert notes["deepspeed_config"] == "launch with `aapo launchers zero2-offload`"


def test_everything_that_cannot_be_taken_is_named_at_once(tmp_path):
    text = OPEN_R1 + "chat_template: x\nloss_tipe: y\ndataset_mixture: {}\n"
    with pytest.raises(InputError) as error:
        import_config(sources(tmp_path, text))
    message = str(error.value)
    assert "chat_template: a recipe uses the model's own" in message and "dataset_mixture: a recipe has one" in message
    assert "loss_tipe: unknown" in message
    with pytest.raises(InputError, match="reward_funcs: ioi_code not known; known are accuracy"):
        import_config(sources(tmp_path, OPEN_R1.replace("[accuracy,", "[ioi_code,")))
    near = (
        "loss_type: 'sapo' has no counterpart; with one update a batch its gradient is that of loss_type grpo, so set"
    )
    with pytest.raises(InputError, match=near):
        import_config(sources(tmp_path, OPEN_R1.replace("dr_grpo", "sapo")))
    with pytest.raises(InputError, match="loss_type: 'ppo' has no counterpart; choose an algorithm"):
        import_config(sources(tmp_path, OPEN_R1.replace("dr_grpo", "ppo")))


def test_a_file_without_a_model_asks_for_one(tmp_path):
    text = SIMPLERL.replace("model_name_or_path: Qwen/Qwen2.5-Math-7B", "model_name_or_path:")
    with pytest.raises(InputError, match="model_name_or_path is empty in the files; add --model_name_or_path NAME"):
        import_config(sources(tmp_path, text))
    found = import_config(sources(tmp_path, text), given={"model_name_or_path": "mine"})
    assert found.fields["model_name_or_path"] == "mine"


def test_the_text_is_a_recipe_that_says_where_it_comes_from(tmp_path):
    found = import_config(sources(tmp_path, SCRIPT, SIMPLERL, suffixes=(".sh", ".yaml")))
    text = found.text(["train.sh", "AAPO.yaml"])
    (tmp_path / "recipe.yaml").write_text(text)
    assert yaml.safe_load(text) == found.fields
    recipe = load_recipe(str(tmp_path / "recipe.yaml"))
    shipped = load_recipe("qwen2.5-math-7b-simplelr")
    assert text.startswith("# From train.sh, AAPO.yaml (aapo).\n") and "# beta: only loads a reference model" in text
    assert recipe.training.objective == shipped.training.objective and recipe.data == shipped.data
    args, theirs = trainer_config(recipe), trainer_config(shipped)
    for name in ("learning_rate", "num_train_epochs", "gradient_accumulation_steps", "warmup_steps", "seed"):
        assert getattr(args, name) == getattr(theirs, name)


def test_formats_are_recognised(tmp_path):
    def of(text: str) -> str:
        return recognise(sources(tmp_path, text))

    assert of("output_dir: x/GPG-RS1\n") == "gpg" and of("dataset_name: knoveleng/open-rs\n") == "open-rs"
    assert of("reward_funcs: [accuracy]\n") == "open-r1" and of("learning_rate: 1.0\n") == "trl"


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.sh").write_text("echo hello\n")
    with pytest.raises(InputError, match="is neither a .yaml configuration nor a .sh script"):
        read_sources([tmp_path / "a.json"])
    with pytest.raises(InputError, match="launches no Python program"):
        read_sources([tmp_path / "b.sh"])
    with pytest.raises(InputError, match="does not exist"):
        read_sources([tmp_path / "c.yaml"])

"""What each field of a recipe becomes in verl, and what has no equivalent there."""

from dataclasses import fields

import pytest

from aapo.backends.trl.config import DEFAULTS as OURS
from aapo.backends.trl.config import AAPOConfig
from aapo.backends.verl.mapping import arguments, check_mapped, mapped
from aapo.backends.verl.refusals import REFUSED
from aapo.backends.verl.table import ACTOR, MODEL, ROLLOUT, TABLE
from aapo.backends.verl.values import DEFAULTS, Facts
from aapo.errors import InputError
from aapo.objective import ALGORITHMS
from aapo.recipe import load_recipe, shipped_recipes
from aapo.recipe.recipe import known_fields
from aapo.runs import RunDirectory

FACTS = Facts("/models/base", "/runs/a", 80, 96)
LORA = "lora_dropout is 0.05, and verl's adapters have none; set it to 0"
# What the shipped recipes that do not map are refused for.
REFUSALS = {
    "deepseek-r1-distill-qwen-1.5b-open-rs-lora": LORA,
    "gpg-7b": "min_live_frac is 0.5, and verl draws all dead groups of a batch again or none",
    **{f"{name}-simplelr-lora": LORA for name in ("llama-3.2-1b", "llama-3.2-3b", "qwen2.5-math-7b")},
}


def recipe(*flags, source="quickstart"):
    return load_recipe(source, ["--backend", "verl", *flags])


def settings(*flags, source="quickstart", facts=FACTS):
    return {
        name.lstrip("+"): value for item in mapped(recipe(*flags, source=source), facts)
        for name, value in item.settings.items()
    }  # fmt: skip


def refusal(*flags, source="quickstart"):
    with pytest.raises(InputError) as error:
        check_mapped(recipe(*flags, source=source))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_maps_or_is_refused_by_name(name):
    if name in REFUSALS:
        assert refusal(source=name).startswith(REFUSALS[name])
    else:
        assert settings(source=name)["algorithm.adv_estimator"] == "aapo"


def test_a_recipe_for_four_gpus_is_what_the_paper_trains():
    found = settings("--cluster.gpus_per_node", "4", source="qwen2.5-math-7b-simplelr")
    expected = {
        "data.train_batch_size": 16,  # 6 x 4 GPUs x 4 = 96 completions, 6 a prompt
        f"{ACTOR}.ppo_mini_batch_size": 16, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 6, f"{ROLLOUT}.n": 6,
        f"{ACTOR}.optim.lr": 1e-6, f"{ACTOR}.optim.lr_scheduler_type": "constant",
        f"{ACTOR}.optim.lr_warmup_steps_ratio": 0.03, f"{ACTOR}.optim.weight_decay": 0.0, f"{ACTOR}.grad_clip": 1.0,
        "data.max_response_length": 3072, f"{ROLLOUT}.temperature": 1.0, f"{ROLLOUT}.top_k": -1,
        "trainer.save_freq": 25, "trainer.nnodes": 1, "trainer.n_gpus_per_node": 4, "data.seed": 42,
        f"{ACTOR}.fsdp_config.model_dtype": "fp32", f"{ROLLOUT}.dtype": "bfloat16",
        f"{MODEL}.enable_gradient_checkpointing": True, f"{MODEL}.path": "/models/base",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert not any("mixed_precision" in name for name in found), "verl's own is bfloat16"


def test_a_cosine_that_ends_above_zero():
    found = settings("--cluster.gpus_per_node", "4", source="deepseek-r1-distill-qwen-1.5b-open-rs")
    assert (found[f"{ACTOR}.optim.lr_scheduler_type"], found[f"{ACTOR}.optim.min_lr_ratio"]) == ("cosine", 0.1)
    assert found[f"{ACTOR}.optim.lr_warmup_steps_ratio"] == 0.1 and found["trainer.save_freq"] == 50


def test_the_batch_is_that_of_all_gpus():
    cluster = ("--cluster.num_nodes", "2", "--cluster.gpus_per_node", "2")
    found = settings(*cluster, "--per_device_train_batch_size", "16", "--steps_per_generation", "4")
    # 16 x 4 GPUs x 4 = 256 completions are drawn, 8 a prompt; 2 x 16 x 4 = 128 make a step
    assert (found["data.train_batch_size"], found[f"{ACTOR}.ppo_mini_batch_size"]) == (32, 16)
    assert found["trainer.save_freq"] == 20, "of the 40 optimizer steps, two a batch"


def test_the_kl_term_has_the_gradient_that_it_has_under_trl():
    # verl's `+` is k3 with the gradient of (log pi - log pi_ref)^2 / 2, which is that of TRL's rho k3 where rho is 1
    flags = ("--algorithm", "grpo", "--beta", "0.04")
    assert settings(*flags)[f"{ACTOR}.kl_loss_type"] == "low_var_kl+"
    assert settings(*flags, "--use_bias_correction_kl", "false")[f"{ACTOR}.kl_loss_type"] == "low_var_kl"
    assert f"{ACTOR}.kl_loss_type" not in settings("--algorithm", "grpo")


def test_a_runs_own_recipe_maps_and_keeps_its_batch_on_other_gpus(tmp_path):
    batch = ("--per_device_train_batch_size", "32", "--gradient_accumulation_steps", "1")
    flags = (*batch, "--cluster.gpus_per_node", "4")
    RunDirectory(tmp_path).write_recipe(recipe(*flags).resolved())
    assert settings(source=str(tmp_path)) == settings(*flags)
    fewer = settings("--cluster.gpus_per_node", "2", source=str(tmp_path))
    # 32 x 4 GPUs = 128 completions, 8 a prompt, now in two passes of 32 on each of two
    assert fewer[f"{ACTOR}.ppo_mini_batch_size"] == fewer["data.train_batch_size"] == 16


def test_a_step_that_trl_draws_in_turns_is_drawn_at_once():
    batch = ("--per_device_train_batch_size", "32", "--gradient_accumulation_steps", "4")
    cluster = (*batch, "--cluster.gpus_per_node", "2")
    whole, turns = settings(*cluster), settings(*cluster, "--steps_per_generation", "1")
    # 32 x 2 GPUs x 4 = 256 completions make a step, 8 a prompt
    assert turns["data.train_batch_size"] == turns[f"{ACTOR}.ppo_mini_batch_size"] == 32
    assert turns == whole


def test_a_cosine_of_several_waves():
    flags = ("--lr_scheduler_type", "cosine", "--lr_scheduler_kwargs", "{num_cycles: 1.5}")
    assert settings(*flags)[f"{ACTOR}.optim.num_cycles"] == 1.5
    assert f"{ACTOR}.optim.num_cycles" not in settings("--lr_scheduler_type", "cosine")


@pytest.mark.parametrize(
    ("algorithm", "loss", "aggregation", "clip"),
    [
        ("aapo", "cispo", "token-mean", (1.0, 1.0)),
        ("aapo-paired", "cispo", "token-mean", (1.0, 1.0)),
        ("grpo", "vanilla", "seq-mean-token-mean", (0.2, 0.2)),
        ("grpo-2g", "vanilla", "seq-mean-token-mean", (0.2, 0.2)),
        ("dr_grpo", "vanilla", "seq-mean-token-sum-norm", (0.2, 0.2)),
        ("dapo", "vanilla", "token-mean", (0.2, 0.28)),
        ("rloo", "cispo", "seq-mean-token-sum-norm", (1.0, 1.0)),
        ("reinforce++", "vanilla", "token-mean", (0.2, 0.2)),
        ("gspo", "gspo", "seq-mean-token-mean", (3e-4, 4e-4)),
        ("cispo", "cispo", "token-mean", (1.0, 4.0)),
    ],
)
def test_the_loss_of_each_algorithm(algorithm, loss, aggregation, clip):
    found = settings("--algorithm", algorithm)
    assert found[f"{ACTOR}.policy_loss.loss_mode"] == loss and found[f"{ACTOR}.loss_agg_mode"] == aggregation
    assert (found[f"{ACTOR}.clip_ratio_low"], found[f"{ACTOR}.clip_ratio_high"]) == clip
    assert found.get(f"{ACTOR}.loss_scale_factor") == (64 if aggregation.endswith("norm") else None)
    assert found["algorithm.filter_groups.enable"] == (algorithm == "dapo")
    assert found[f"{ROLLOUT}.n"] == (16 if algorithm == "grpo-2g" else 8)


def test_all_algorithms_are_mapped_but_what_verl_cannot_do():
    assert refusal("--algorithm", "gpg").startswith("min_live_frac is 0.5, and verl draws all dead groups")
    assert settings("--algorithm", "gpg", "--min_live_frac", "0")[f"{ACTOR}.policy_loss.loss_mode"] == "cispo"
    assert refusal("--algorithm", "reinforce-ada").startswith("redraw is 'balanced', and verl draws a prompt once")
    assert settings("--algorithm", "reinforce-ada", "--redraw", "none")[f"{ACTOR}.clip_ratio_high"] == 0.28
    by_entropy = {name for name, point in ALGORITHMS.items() if point.objective.token_advantage is not None}
    for name in by_entropy:
        assert refusal("--algorithm", name).startswith(f"algorithm is '{name}', and it reads the entropies of tokens")
    for name in {*ALGORITHMS} - {"gpg", "reinforce-ada"} - by_entropy:
        assert settings("--algorithm", name)["trainer.v1.trainer_mode"] == "aapo_sync"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--min_live_frac", "1"), "min_live_frac is 1.0, and verl throws groups away whose rewards are all equal"),
        (
            ("--min_live_frac", "1", "--algorithm", "ngrpo"),
            "min_live_frac is 1.0, and verl throws groups away whose rewards are all equal, which teach something here",
        ),
        (
            ("--min_live_frac", "1", "--algorithm", "reinforce++"),
            "min_live_frac is 1.0, and verl throws groups away whose rewards are all equal, which teach something here",
        ),
        (("--reference", "live"), "reference is 'live', and verl has no frozen model that is sampled"),
        (("--weighted_sample", "true", "--sample_strategy", "hard"), "weighted_sample is True, and verl draws prompts"),
        (("--curriculum", "easy_to_hard"), "curriculum is 'easy_to_hard', and verl draws prompts in the order"),
        (("--importance_sampling_level", "sequence"), "importance_sampling_level is 'sequence', and verl has a"),
        (("--reward_funcs", "accuracy,len"), "reward_funcs is ['accuracy', 'len'], and len compares the completions"),
        (("--optim", "adafactor"), "optim is 'adafactor', and verl trains with AdamW here"),
        (("--lr_scheduler_type", "linear"), "lr_scheduler_type is 'linear', and verl's fsdp2 has no such schedule"),
        (
            ("--lr_scheduler_type", "cosine", "--lr_scheduler_kwargs", "{min_lr_rate: 0.1}"),
            "lr_scheduler_kwargs is {'min_lr_rate': 0.1}, and the schedule cosine of verl's fsdp2 takes num_cycles",
        ),
        (
            ("--lr_scheduler_kwargs", "{num_cycles: 2}"),
            "lr_scheduler_kwargs is {'num_cycles': 2}, and the schedule constant of verl's fsdp2 takes no settings",
        ),
        (("--min_p", "0.1"), "min_p is 0.1 and has no equivalent in verl; remove it"),
        (("--repetition_penalty", "1.1"), "repetition_penalty is 1.1 and has no equivalent in verl; remove it"),
        (("--max_generated_tokens", "1000"), "max_generated_tokens is 1000 and has no equivalent in verl; remove it"),
        (("--mask_truncated_completions", "true"), "mask_truncated_completions is True and has no equivalent"),
        (("--save_strategy", "epoch"), "save_strategy is 'epoch', and verl saves every so many steps"),
        (("--report_to", "neptune"), "report_to is 'neptune', and verl logs to wandb"),
        (("--cluster.strategy", "megatron"), "bf16 is False, and megatron trains in bfloat16 here; set bf16 to true"),
    ],
)  # fmt: skip
def test_what_has_no_equivalent_is_refused_by_name(flags, message):
    assert refusal(*flags).startswith(message)


def test_megatron_has_names_of_its_own():
    flags = ("--cluster.strategy", "megatron", "--cluster.tensor_parallel_size", "4", "--bf16", "true")
    found = settings(*flags, "--lr_scheduler_type", "linear", "--cluster.rollout", "sglang")
    assert (found["model_engine"], found[f"{ACTOR}.megatron.tensor_model_parallel_size"]) == ("megatron", 4)
    assert (found[f"{ACTOR}.optim.lr_decay_style"], found[f"{ROLLOUT}.name"]) == ("linear", "sglang")
    assert not any("fsdp" in name for name in found)


def test_overrides_come_last_and_win():
    lines = arguments(mapped(recipe("--cluster.overrides", f"{{{ROLLOUT}.n: 4, trainer.x: [a, 1]}}"), FACTS))
    assert lines[-2:] == [f"++{ROLLOUT}.n=4", "++trainer.x=[a,1]"]


def test_values_are_written_as_hydra_reads_them():
    lines = arguments(mapped(recipe("--run_name", "it's a run, really"), FACTS))
    assert r"trainer.experiment_name='it\'s a run, really'" in lines
    assert f"{MODEL}.custom_chat_template='{{{{ messages[0].content }}}}'" in lines
    assert f"{ACTOR}.optim.betas=[0.9,0.999]" in lines and "data.shuffle=False" in lines
    assert "data.train_files=/runs/a/data/train.parquet" in lines


def test_defaults_are_trls():
    known = {item.name: item.default for item in fields(AAPOConfig)}
    args = AAPOConfig(use_cpu=True, bf16=False, **OURS)
    for name, value in DEFAULTS.items():
        theirs = OURS.get(name, known[name])
        theirs = getattr(theirs, "value", theirs)
        assert value == theirs or value == getattr(args, name) or (name == "report_to" and value == "none"), name


def test_every_field_of_the_table_is_a_recipes():
    names = {name for row in TABLE for name in row.names} | {name for rule in REFUSED for name in rule.names}
    assert {name for name in names if "." not in name} <= {*known_fields()}


def test_the_clusters_processes_decide_the_batch_and_a_cluster_needs_verl():
    assert recipe("--cluster.gpus_per_node", "1").training.generation_batch_size == 256
    assert recipe("--cluster.gpus_per_node", "2").training.generation_batch_size == 512
    with pytest.raises(InputError, match="cluster is .* but has no effect, because backend is trl"):
        load_recipe("quickstart", ["--cluster.gpus_per_node", "2"])
    with pytest.raises(InputError, match=r"cluster.tensor_parallel_size is 2 and cluster.strategy fsdp2"):
        recipe("--cluster.tensor_parallel_size", "2")
    with pytest.raises(InputError, match=r"8 GPUs .* are no multiple of the 3"):
        recipe("--cluster.strategy", "megatron", "--cluster.tensor_parallel_size", "3")

"""What each field of a recipe becomes in verl: one table.

The names on the right are those of verl 0.9's `ppo_trainer` configuration, dotted; a `+` adds one that is not there.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import NamedTuple

from aapo.backends.verl import values as v
from aapo.backends.verl.launch import EXTERNAL, external_modules
from aapo.backends.verl.values import Value, fixed, if_held_out, if_lora, of, of_cluster
from aapo.tasks import DataConfig

ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"
REF, MIXED = "actor_rollout_ref.ref", f"{ACTOR}.fsdp_config.mixed_precision"
# A prompt is handed over as the text that the bank's model has read, so the template adds nothing to it.
AS_IT_IS = "{{ messages[0].content }}"
NO_DUAL_CLIP = 1e9


class Row(NamedTuple):
    """Fields of a recipe and what they become.

    Attributes:
        names: The fields.
        settings: By verl's name, the value; None leaves verl's own.
        note: What reads the fields where verl does not, or what is special.
        strategy: Of the cluster, where the row is for one alone.
    """

    names: tuple[str, ...]
    settings: Mapping[str, Value] = {}
    note: str = ""
    strategy: str | None = None


TABLE: tuple[Row, ...] = (
    # what aapo does before and after
    Row(
        (
            "backend",
            "output_dir",
            "base_model",
            "reference_bank",
            "num_reference_samples",
            "reference_seed",
            "reference_model_name_or_path",
            "reference_model_revision",
            "preflight",
            "min_reference_pass_rate",
            "max_reference_pass_rate",
            "generation_batch_limit",
            "use_vllm",
        ),
        {"hydra.run.dir": lambda _, facts: f"{facts.run}/hydra"},
        "base model, bank and preflight: aapo, before the launch",
    ),
    Row(("eval_num_samples", "eval_seed", "eval_temperature"), note="the evaluation: aapo, after the last step"),
    Row(
        (*(item.name for item in fields(DataConfig)), "prompt_style", "chat_template_kwargs"),
        {
            "data.train_files": lambda _, facts: f"{facts.run}/data/train.parquet",
            "data.prompt_key": fixed("prompt"),
            f"{MODEL}.custom_chat_template": fixed(AS_IT_IS),
            "data.max_prompt_length": lambda _, facts: facts.prompt_tokens,
            "data.truncation": fixed("error"),
            "data.filter_overlong_prompts": fixed(False),
        },
        "prompts as the bank has read them, with the bank's rewards, in the order of their use",
    ),
    Row(
        ("seed", "shuffle_dataset"),
        {
            "data.shuffle": fixed(False),
            "data.seed": of("seed"),
            f"{ROLLOUT}.seed": of("seed"),
            f"{ACTOR}.data_loader_seed": of("seed"),
        },
        "the order of the prompts is aapo's: a function of (seed, epoch)",
    ),
    Row(
        ("reward_funcs", "reward_kwargs", "reward_failure", "reward_weights", "judge", "judge_threshold"),
        {
            "reward.reward_manager.source": fixed("importlib"),
            "reward.reward_manager.name": fixed("Grader"),
            "reward.reward_manager.module.path": fixed("pkg://aapo.backends.verl.plugin"),
            "reward.custom_reward_function.path": fixed("pkg://aapo.backends.verl.grading"),
            "reward.custom_reward_function.name": fixed("compute_score"),
            "reward.num_workers": of_cluster("reward_workers"),
        },
        "aapo's grader in verl's reward workers",
    ),
    # the objective
    Row(
        (
            "algorithm",
            "baseline",
            "scale_rewards",
            "margin",
            "margin_low",
            "margin_high",
            "rescale_dead_groups",
            "overlong_buffer",
            "generations_factor",
        ),
        {
            "algorithm.adv_estimator": fixed("aapo"),
            "trainer.v1.trainer_mode": fixed("aapo_sync"),
            "+aapo.run": lambda _, facts: facts.run,
            "algorithm.use_kl_in_reward": fixed(False),
        },
        "advantages by aapo.objective, in the plugin",
    ),
    Row(
        ("loss", "importance_sampling_level", "epsilon", "epsilon_high", "max_importance_weight"),
        {
            f"{ACTOR}.policy_loss.loss_mode": v.loss_mode,
            f"{ACTOR}.clip_ratio_low": v.clip_low,
            f"{ACTOR}.clip_ratio_high": v.clip_high,
            f"{ACTOR}.clip_ratio_c": fixed(NO_DUAL_CLIP),
            f"{ACTOR}.entropy_coeff": fixed(0),
        },
        "the dual clip, which no objective here has, is set out of reach",
    ),
    Row(
        ("aggregation",),
        {
            f"{ACTOR}.loss_agg_mode": lambda recipe, _: v.AGGREGATIONS[recipe.training.objective.aggregation],
            f"{ACTOR}.loss_scale_factor": v.loss_scale,
        },
    ),
    Row(
        ("min_live_frac",),
        {
            "algorithm.filter_groups.enable": lambda recipe, _: recipe.training.collection.min_live_frac == 1,
            "algorithm.filter_groups.metric": fixed("shaped"),
        },
        "dynamic sampling; off where a margin could revive what it would throw away",
    ),
    Row(
        ("beta", "use_bias_correction_kl"),
        {
            f"{ACTOR}.use_kl_loss": lambda recipe, _: recipe.training.beta > 0,
            f"{ACTOR}.kl_loss_coef": lambda recipe, _: recipe.training.beta or None,
            f"{ACTOR}.kl_loss_type": v.kl_estimate,
            f"{REF}.log_prob_micro_batch_size_per_gpu": of("per_device_train_batch_size"),
        },
        "its mean is the loss's, under TRL one over tokens",
    ),
    # the batch
    Row(("num_generations",), {f"{ROLLOUT}.n": of("num_generations")}),
    Row(
        ("generation_batch_size", "steps_per_generation"),
        {"data.train_batch_size": lambda recipe, _: v.batch_prompts(recipe)},
        "in prompts, of all GPUs; below a step's they bound TRL's memory alone, and verl draws the step at once",
    ),
    Row(
        ("gradient_accumulation_steps",),
        {f"{ACTOR}.ppo_mini_batch_size": lambda recipe, _: v.step_prompts(recipe)},
        "an optimizer step, in prompts, of all GPUs",
    ),
    Row(
        ("per_device_train_batch_size", "num_processes"),
        {
            f"{ACTOR}.ppo_micro_batch_size_per_gpu": of("per_device_train_batch_size"),
            f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": of("per_device_train_batch_size"),
        },
    ),
    Row(("num_iterations",), {f"{ACTOR}.ppo_epochs": of("num_iterations")}),
    Row(
        ("max_steps", "num_train_epochs"),
        {
            "trainer.total_training_steps": lambda _, facts: facts.num_batches,
            "trainer.total_epochs": fixed(10**6),
        },
        "generation batches; the file holds all epochs",
    ),
    # the model
    Row(("model_name_or_path", "model_revision"), {f"{MODEL}.path": lambda _, facts: facts.model}),
    Row(("trust_remote_code",), {f"{MODEL}.trust_remote_code": of("trust_remote_code")}),
    Row(
        ("attn_implementation",),
        {
            f"+{MODEL}.override_config.attn_implementation": of("attn_implementation"),
            f"{MODEL}.use_remove_padding": v.is_flash,
        },
        "flash attention alone takes sequences without padding",
    ),
    Row(
        ("activation_checkpointing", "gradient_checkpointing", "activation_checkpointing_kwargs"),
        {f"{MODEL}.enable_gradient_checkpointing": of("activation_checkpointing")},
    ),
    Row(("use_peft", "lora_r"), {f"{MODEL}.lora_rank": if_lora(of("lora_r"))}),
    Row(("lora_alpha",), {f"{MODEL}.lora_alpha": if_lora(of("lora_alpha"))}),
    Row(
        ("lora_target_modules",),
        {f"{MODEL}.target_modules": if_lora(lambda recipe, _: recipe.model.lora_target_modules or "all-linear")},
    ),
    Row(
        ("dtype", "bf16", "fp16"),
        {
            f"{ACTOR}.fsdp_config.model_dtype": v.kept_in,
            f"+{MIXED}.param_dtype": v.parameters_in,
            f"+{MIXED}.reduce_dtype": v.reduced_in,
            f"+{MIXED}.buffer_dtype": v.reduced_in,
        },
        "weights, and what is computed with",
        "fsdp2",
    ),
    Row(
        ("dtype", "bf16", "fp16"),
        {f"{ACTOR}.megatron.dtype": v.samples_in},
        "float32 masters by the distributed optimizer",
        "megatron",
    ),
    # the optimizer
    Row(("learning_rate",), {f"{ACTOR}.optim.lr": of("learning_rate")}),
    Row(
        ("lr_scheduler_type", "lr_scheduler_kwargs"),
        {
            f"{ACTOR}.optim.lr_scheduler_type": v.schedule,
            f"{ACTOR}.optim.min_lr_ratio": v.min_lr_ratio,
            f"{ACTOR}.optim.num_cycles": v.num_cycles,
        },
        strategy="fsdp2",
    ),
    Row(
        ("lr_scheduler_type", "lr_scheduler_kwargs"),
        {f"{ACTOR}.optim.lr_decay_style": v.schedule, f"{ACTOR}.optim.min_lr": v.min_lr},
        strategy="megatron",
    ),
    Row(
        ("warmup_steps",),
        {f"{ACTOR}.optim.lr_warmup_steps_ratio": v.warmup_share, f"{ACTOR}.optim.lr_warmup_steps": v.warmup_steps},
    ),
    Row(("weight_decay",), {f"{ACTOR}.optim.weight_decay": of("weight_decay")}),
    Row(
        ("adam_beta1", "adam_beta2"),
        {f"{ACTOR}.optim.betas": lambda recipe, _: [v.value_of(recipe, name) for name in ("adam_beta1", "adam_beta2")]},
    ),
    Row(
        ("adam_epsilon",),
        {f"+{ACTOR}.optim.override_optimizer_config.eps": of("adam_epsilon")},
        strategy="fsdp2",
    ),
    Row(("max_grad_norm",), {f"{ACTOR}.grad_clip": of("max_grad_norm")}, strategy="fsdp2"),
    Row(("max_grad_norm",), {f"{ACTOR}.optim.clip_grad": of("max_grad_norm")}, strategy="megatron"),
    Row(("optim",), {f"{ACTOR}.optim.optimizer": fixed("AdamW")}, strategy="fsdp2"),
    Row(("optim",), {f"{ACTOR}.optim.optimizer": fixed("adam")}, strategy="megatron"),
    # sampling
    Row(("max_completion_length",), {"data.max_response_length": of("max_completion_length")}),
    Row(("temperature",), {f"{ROLLOUT}.temperature": of("temperature")}),
    Row(("top_p",), {f"{ROLLOUT}.top_p": of("top_p")}),
    Row(("top_k",), {f"{ROLLOUT}.top_k": lambda recipe, _: recipe.training.top_k or -1}),
    Row(("vllm_gpu_memory_utilization",), {f"{ROLLOUT}.gpu_memory_utilization": of("vllm_gpu_memory_utilization")}),
    Row(("vllm_tensor_parallel_size",), {f"{ROLLOUT}.tensor_model_parallel_size": of("vllm_tensor_parallel_size")}),
    Row(("vllm_max_model_length",), {f"{ROLLOUT}.max_model_len": of("vllm_max_model_length")}),
    Row(("bf16", "fp16"), {f"{ROLLOUT}.dtype": v.samples_in}),
    # evaluating, saving, logging
    Row(
        ("eval_strategy", "eval_steps", "eval_on_start"),
        {
            "data.val_files": lambda _, facts: f"{facts.run}/data/{'held_out' if facts.held_out else 'train'}.parquet",
            "trainer.test_freq": if_held_out(v.eval_freq, -1),
            "trainer.val_before_train": if_held_out(of("eval_on_start"), False),
        },
    ),
    Row(
        ("num_generations_eval",),
        {
            f"{ROLLOUT}.val_kwargs.n": if_held_out(v.eval_generations),
            f"{ROLLOUT}.val_kwargs.do_sample": if_held_out(fixed(True)),
            f"{ROLLOUT}.val_kwargs.temperature": if_held_out(of("temperature")),
            f"{ROLLOUT}.val_kwargs.top_p": if_held_out(of("top_p")),
            f"{ROLLOUT}.val_kwargs.top_k": if_held_out(lambda recipe, _: recipe.training.top_k or -1),
        },
    ),
    Row(
        ("save_steps", "save_strategy"),
        {
            "trainer.save_freq": v.save_freq,
            "trainer.default_local_dir": lambda _, facts: f"{facts.run}/checkpoints",
            "trainer.resume_mode": fixed("auto"),
            f"{ACTOR}.checkpoint.save_contents": fixed(["model", "optimizer", "extra", "hf_model"]),
            f"{ACTOR}.checkpoint.load_contents": fixed(["model", "optimizer", "extra"]),
        },
        "each checkpoint holds the model as Transformers reads it, too",
    ),
    Row(("save_total_limit",), {"trainer.max_actor_ckpt_to_keep": v.kept_checkpoints}),
    Row(("report_to", "logging_steps"), {"trainer.logger": v.loggers}),
    Row(("project",), {"trainer.project_name": lambda recipe, _: recipe.trainer.get("project") or "aapo"}),
    Row(("run_name",), {"trainer.experiment_name": lambda recipe, _: recipe.trainer.get("run_name") or recipe.name}),
    # the cluster
    Row(("cluster.num_nodes",), {"trainer.nnodes": of_cluster("num_nodes")}),
    Row(
        ("cluster.gpus_per_node", "use_cpu"),
        {
            "trainer.n_gpus_per_node": of_cluster("gpus_per_node"),
            "trainer.device": lambda recipe, _: "cpu" if v.value_of(recipe, "use_cpu") else "cuda",
        },
    ),
    Row(
        ("cluster.strategy",),
        {f"{ACTOR}.strategy": fixed("fsdp2"), f"{REF}.strategy": fixed("fsdp2")},
        strategy="fsdp2",
    ),
    Row(("cluster.strategy",), {"model_engine": fixed("megatron")}, strategy="megatron"),
    *(
        Row(
            (f"cluster.{name}",),
            {f"{part}.megatron.{theirs}": of_cluster(name) for part in (ACTOR, REF)},
            strategy="megatron",
        )
        for name, theirs in (
            ("tensor_parallel_size", "tensor_model_parallel_size"),
            ("pipeline_parallel_size", "pipeline_model_parallel_size"),
        )
    ),
    Row(("cluster.rollout",), {f"{ROLLOUT}.name": of_cluster("rollout")}),
    Row(
        ("cluster.address", "cluster.python"),
        {
            "+ray_kwargs.ray_init.address": of_cluster("address"),
            f"+ray_kwargs.ray_init.runtime_env.env_vars.{EXTERNAL}": lambda *_: external_modules(),
        },
        "the plugin, in each of verl's processes",
    ),
)

"""Which values a setting may have: one table, for recipes, protocols, tasks and the trainer's configuration.

`fields.typed` checks a value's type as YAML reads it; what is declared here also holds for values given in Python.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from aapo.allowed import (
    MANY,
    Allowed,
    Elsewhere,
    Entries,
    Flag,
    Items,
    Names,
    Number,
    Object,
    Steps,
    Text,
    whole,
)
from aapo.errors import InputError


def check(name: str, value: Any, prefix: str = "") -> None:
    """Check a setting's value.

    Args:
        name: A key of `RANGES`.
        value: Its value.
        prefix: Put before the name in the message, such as `base_model.`.

    Raises:
        InputError: It is not allowed, or a number in a list or mapping is not finite.
    """
    allowed = RANGES[name]
    if not allowed.admits(value):
        near = allowed.near(value) if isinstance(allowed, Names) else ""
        raise InputError(f"{prefix}{name} is {value!r}{near}; it must be {allowed.words()}")
    for path, number in _numbers(prefix + name, value):
        if not Number().admits(number):
            raise InputError(f"{path} is {number!r}; it must be {Number().words()}")


def check_all(values: Mapping[str, Any]) -> None:
    """Check settings by name; None leaves a default.

    Raises:
        InputError: The value of one is not allowed.
    """
    for name, value in values.items():
        if value is not None:
            check(name, value)


def _numbers(path: str, value: Any) -> Iterator[tuple[str, float]]:
    """The numbers of a list or mapping, each with where it is."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(f"{path}.{key}", inner)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _numbers(f"{path}[{index}]", inner)
    elif isinstance(value, float):
        yield path, value


def _each(names: str, allowed: Allowed) -> dict[str, Allowed]:
    return dict.fromkeys(names.split(), allowed)


COUNT, OR_NONE, TOKENS, FEW = whole(1, MANY), whole(0, MANY), whole(1, 10**7), whole(1, 1024)
BATCH = whole(1, 10**6)
SEED = whole(0, 2**32 - 1)
SHARE, POSITIVE, NOT_NEGATIVE = Number(0, 1), Number(0, above=True), Number(0)
TEXT, NAME = Text(), Text(r"(?s:.*\S.*)", "text that is not empty")
SEVERAL, MOMENTUM = Items(NAME), Number(0, 1, below=True)
PORT = whole(1, 65535)
INTERVALS = Names(("no", "steps", "epoch"))
LOG_LEVELS = Names(("passive", "detail", "debug", "info", "warning", "error", "critical"))
DTYPES = Names(("auto", "float32", "bfloat16", "float16"))

# What is allowed of every setting, by name; a name means the same wherever it is a setting.
RANGES: dict[str, Allowed] = {
    # our own: what a run is made of
    **_each(
        "backend prompt_style reward_failure algorithm baseline margin loss aggregation "
        "sample_strategy sample_prior curriculum reference judge scale_rewards importance_sampling_level loss_type "
        "multi_objective_aggregation grader",
        Elsewhere(),
    ),
    "answer_convention": Names(("choice", "hashes", "final_answer")),
    "reward_funcs": Items(NAME, least=1),
    **_each("base_model cluster overrides", Entries()),
    **_each("reward_kwargs generation_kwargs chat_template_kwargs dataset_settings", Entries()),
    **_each("num_reference_samples eval_num_samples", FEW),
    "num_samples": whole(1, 10_000),
    **_each("reference_seed eval_seed dataset_seed seed data_seed", SEED),
    **_each("min_reference_pass_rate max_reference_pass_rate bank_cost_share", SHARE),
    "generation_batch_limit": BATCH,
    "max_generated_tokens": whole(1, 10**15),
    "max_training_seconds": POSITIVE,
    "judge_threshold": Number(),
    "preflight": Names(("stop", "warn", "off"), pattern="no"),  # YAML reads a bare `off` as false
    # prompts, and problems of a task
    **_each(
        "dataset_path dataset_config dataset_data_dir dataset_revision dataset_train_split dataset_test_split "
        "dataset_split prompt_column answer_column",
        NAME,
    ),
    **_each("name dataset_name system_prompt prompt_template choice_template", TEXT),
    "choice_columns": SEVERAL,
    **_each("num_train_prompts num_problems", COUNT),
    "num_eval_prompts": OR_NONE,
    "max_prompt_length": TOKENS,
    "benchmark_samples": Entries(),
    **_each("unique_prompts conversational drop_long_prompts drop_unparseable_gold", Flag()),
    # a cluster
    **_each("num_nodes gpus_per_node reward_workers", whole(1, 100_000)),
    **_each("tensor_parallel_size pipeline_parallel_size", FEW),
    "strategy": Names(("fsdp2", "megatron")),
    "rollout": Names(("vllm", "sglang")),
    **_each("address python", NAME),
    # the model, and adapters
    **_each("model_name_or_path", TEXT),
    **_each("model_revision reference_model_name_or_path reference_model_revision reference_bank", NAME),
    "dtype": DTYPES,
    "attn_implementation": Names(
        ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention"),
        pattern=r"(paged\|)?([\w.-]+/\S+|eager|sdpa|flash_attention_\d)",
        note="a kernel on the Hub as owner/name",
    ),
    **_each("use_peft use_rslora use_dora load_in_8bit load_in_4bit use_bnb_nested_quant trust_remote_code", Flag()),
    **_each("lora_r lora_alpha", whole(1, 65536)),
    "lora_dropout": Number(0, 1, below=True),
    **_each("lora_target_modules lora_target_parameters lora_modules_to_save", SEVERAL),
    "lora_task_type": Names(
        ("CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
    ),
    "bnb_4bit_quant_type": Names(("nf4", "fp4")),
    "bnb_4bit_quant_storage": Names(("uint8", "int8", "float16", "float32", "float64", "bfloat16")),
    "model_init_kwargs": Entries(),
    # a base model that is made here
    **_each("hidden_size intermediate_size", whole(1, 65536)),
    **_each("num_hidden_layers num_attention_heads num_key_value_heads", FEW),
    "vocab_size": whole(259, 10**6, note="256 bytes and three marks"),
    "max_position_embeddings": TOKENS,
    "warmup_learning_rate": POSITIVE,
    "warmup_batch_size": BATCH,
    **_each("warmup_max_steps warmup_eval_steps warmup_num_problems", COUNT),
    "warmup_accuracy": Number(0, 1, above=True, below=True),
    # the objective, and how rollouts are collected
    "margin_low": Number(high=0, note="AAPO uses -0.2"),
    "margin_high": Number(low=0, note="AAPO uses 0.28"),
    **_each("epsilon epsilon_high clip_low clip_high max_importance_weight delta", POSITIVE),
    "overlong_buffer": Number(0, 1, below=True, note="a share of max_completion_length; DAPO uses 0.2"),
    "min_live_frac": Number(0, 1, note="a share of the groups; DAPO uses 1, GPG 0.5"),
    "redraw": Names(("none", "right", "balanced")),
    "generations_factor": whole(1, 64),
    "max_refill_rounds": whole(1, 1000, note="for no refill set min_live_frac to 0 and redraw to none"),
    **_each("rescale_dead_groups reads_reference reads_verdicts weighted_sample sync_ref_model", Flag()),
    "ref_model_sync_steps": COUNT,
    "ref_model_mixup_alpha": Number(0, 1, above=True, note="1 makes it a copy of the policy"),
    "beta": NOT_NEGATIVE,
    "reward_weights": Items(Number()),
    **_each("rollouts_dir output_dir", NAME),
    # sampling
    **_each("temperature eval_temperature", Number(0, 100, note="0 is greedy decoding")),
    "top_p": Number(0, 1, above=True),
    "top_k": whole(0, 10**7, note="0 keeps all tokens"),
    "min_p": SHARE,
    "repetition_penalty": Number(0, 100, above=True),
    "max_completion_length": TOKENS,
    "stop": Items(Text(r"(?s:.+)", "text that is not empty")),
    # the batch
    "num_generations": whole(2, 4096, note="the completions of a prompt are compared with one another"),
    "num_generations_eval": whole(1, 4096),
    **_each("per_device_train_batch_size per_device_eval_batch_size generation_batch_size", BATCH),
    "num_processes": whole(1, 65536),
    **_each("gradient_accumulation_steps steps_per_generation eval_accumulation_steps", BATCH),
    "engine": Names(("auto", "places", "shedding", "static")),
    "max_tokens_per_microbatch": TOKENS,
    **_each("padding_free share_prompts skip_zero_advantages", Flag()),
    "num_iterations": whole(1, 10_000),
    "num_train_epochs": Number(0, 10**6, above=True),
    "max_steps": whole(1, MANY, also=(-1,), note="-1 trains num_train_epochs"),
    # the optimizer
    "optim": Names((
        "adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adafactor",
        "adamw_anyprecision", "adamw_torch_4bit", "adamw_torch_8bit", "ademamix", "sgd", "adagrad", "adamw_bnb_8bit",
        "adamw_8bit", "ademamix_8bit", "lion_8bit", "lion_32bit", "paged_adamw_32bit", "paged_adamw_8bit",
        "paged_ademamix_32bit", "paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit", "rmsprop", "rmsprop_bnb",
        "rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "galore_adamw", "galore_adamw_8bit", "galore_adafactor",
        "galore_adamw_layerwise", "galore_adamw_8bit_layerwise", "galore_adafactor_layerwise", "lomo", "adalomo",
        "grokadamw", "schedule_free_radam", "schedule_free_adamw", "schedule_free_sgd", "apollo_adamw",
        "apollo_adamw_layerwise", "stable_adamw",
    )),
    "optim_args": Text(r"\s*\w+=[^,=]+(,\s*\w+=[^,=]+)*", "pairs with commas, such as betas=0.9"),
    "optim_target_modules": Elsewhere(),
    "learning_rate": NOT_NEGATIVE,
    "lr_scheduler_type": Names((
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
        "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy",
    )),
    "lr_scheduler_kwargs": Entries(numbers=True),
    "warmup_steps": Steps(zero=True),
    **_each("weight_decay adam_epsilon max_grad_norm router_aux_loss_coef", NOT_NEGATIVE),
    **_each("adam_beta1 adam_beta2", MOMENTUM),
    "label_smoothing_factor": MOMENTUM,
    "neftune_noise_alpha": NOT_NEGATIVE,
    # evaluating, saving, logging
    **_each("eval_strategy logging_strategy", INTERVALS),
    "save_strategy": Names(("no", "steps", "epoch", "best")),
    **_each("eval_steps save_steps logging_steps", Steps()),
    "eval_delay": NOT_NEGATIVE,
    "save_total_limit": whole(0, MANY, note="0 keeps all"),
    **_each("log_level log_level_replica", LOG_LEVELS),
    "report_to": Names(
        (
            "all", "none", "azure_ml", "comet_ml", "mlflow", "neptune", "tensorboard", "trackio", "wandb", "codecarbon",
            "clearml", "dagshub", "flyte", "dvclive", "swanlab", "kubeflow",
        ),
        several=True,
    ),
    "hub_strategy": Names(("end", "every_save", "checkpoint", "all_checkpoints")),
    **_each("include_num_input_tokens_seen", Names(("all", "non_padding", "no", True, False))),
    **_each("label_names include_for_metrics", SEVERAL),
    "num_completions_to_print": OR_NONE,
    **_each(
        "metric_for_best_model run_name project trackio_space_id trackio_bucket_id hub_token hub_model_id hub_revision "
        "resume_from_checkpoint length_column_name log_completions_hub_repo",
        TEXT,
    ),
    "trackio_static_space_id": Names((False,), pattern=r"\S+", note="the name of a Space"),
    # precision, devices and processes
    "torch_compile_backend": Names((
        "no", "eager", "aot_eager", "inductor", "aot_ts_nvfuser", "nvprims_nvfuser", "cudagraphs", "ofi", "fx2trt",
        "onnxrt", "tensorrt", "aot_torchxla_trace_once", "torchxla_trace_once", "tvm", "hpu_backend", "neuron",
    )),
    "torch_compile_mode": Names(("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")),
    "cache_implementation": Names((
        "dynamic", "offloaded", "quantized", "static", "offloaded_static", "sliding_window", "hybrid", "hybrid_chunked",
        "offloaded_hybrid", "offloaded_hybrid_chunked", "paged",
    )),
    "debug": Names(("underflow_overflow", "tpu_metrics_debug"), several=True, blanks=True),
    "fsdp": Names(
        (
            "full_shard", "shard_grad_op", "no_shard", "hybrid_shard", "hybrid_shard_zero2", "offload", "auto_wrap",
            True, False,
        ),
        several=True,
        blanks=True,
    ),
    **_each(
        "activation_checkpointing_kwargs gradient_checkpointing_kwargs liger_kernel_config "
        "transformers_continuous_batching_config",
        Entries(),
    ),
    **_each("accelerator_config deepspeed fsdp_config", Entries(file=True)),
    "parallelism_config": Object("an accelerate ParallelismConfig"),
    **_each("torch_empty_cache_steps ddp_bucket_cap_mb ddp_timeout", COUNT),
    "dataloader_num_workers": whole(0, 1024),
    "dataloader_prefetch_factor": FEW,
    "dataloader_multiprocessing_context": Names(("fork", "spawn", "forkserver")),
    "train_sampling_strategy": Names(("random", "sequential", "group_by_length")),
    "ddp_backend": Names(("nccl", "mpi", "xccl", "gloo", "hccl")),
    "local_rank": whole(0, 10**6, also=(-1,)),
    "pad_to_multiple_of": whole(1, 10**6, also=("auto",)),
    # vLLM
    "vllm_mode": Names(("colocate", "server")),
    "vllm_model_impl": Names(("vllm", "transformers", "auto")),
    "vllm_gpu_memory_utilization": Number(0, 1, above=True),
    "vllm_structured_outputs_regex": TEXT,
    "vllm_server_base_url": Text(r"https?://\S+", "an address such as http://localhost:8000"),
    "vllm_server_host": NAME,
    **_each("vllm_server_port vllm_group_port", PORT),
    "vllm_server_timeout": POSITIVE,
    "vllm_max_model_length": TOKENS,
    "vllm_tensor_parallel_size": FEW,
    "vllm_importance_sampling_mode": Names(("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")),
    **_each("vllm_importance_sampling_clip_max vllm_importance_sampling_cap", POSITIVE),
    "vllm_importance_sampling_clip_min": NOT_NEGATIVE,
    # TRL's further losses
    **_each("sapo_temperature_neg sapo_temperature_pos off_policy_mask_threshold", POSITIVE),
    **_each("vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg", NOT_NEGATIVE),
    "top_entropy_quantile": SHARE,
    **_each("entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target", NOT_NEGATIVE),
    "entropy_coef": Number(),
    "max_tool_calling_iterations": OR_NONE,
    # what is on or off
    **_each(
        "bf16 fp16 bf16_full_eval fp16_full_eval tf32 activation_checkpointing gradient_checkpointing torch_compile "
        "use_vllm use_liger_kernel use_cache use_cpu average_tokens_across_devices auto_find_batch_size "
        "logging_first_step log_on_each_node logging_nan_inf_filter disable_tqdm prediction_loss_only eval_on_start "
        "eval_do_concat_batches eval_use_gather_object batch_eval_metrics save_only_model save_on_each_node "
        "load_best_model_at_end greater_is_better enable_jit_checkpoint push_to_hub hub_private_repo hub_always_push "
        "ignore_data_skip restore_callback_states_from_checkpoint full_determinism dataloader_drop_last "
        "dataloader_pin_memory dataloader_persistent_workers dataloader_in_order remove_unused_columns "
        "ddp_find_unused_parameters ddp_broadcast_buffers ddp_static_graph skip_memory_metrics do_train do_eval "
        "do_predict disable_dropout cast_lm_head_to_fp32 ds3_gather_for_generation shuffle_dataset "
        "vllm_enable_sleep_mode mask_truncated_completions use_adaptive_entropy vllm_importance_sampling_correction "
        "use_bias_correction_kl log_completions log_multimodal log_unique_prompts use_transformers_continuous_batching "
        "use_transformers_paged",
        Flag(),
    ),
    # what a plan of a comparison fixes
    "recipe": NAME,
    **_each("question primary stopping", TEXT),
    "algorithms": Elsewhere(),
    **_each("seeds tuning_seeds", Items(SEED, least=1)),
    "match": Names(("steps", "tokens", "seconds")),
    "budget": POSITIVE,
    "bank_cost": Names(("run", "amortised", "free")),
    "curve_points": OR_NONE,
    **_each("settings grid", Entries()),
}  # fmt: skip

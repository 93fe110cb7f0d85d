"""What becomes of the keys of published configurations: renamed, explained or refused.

A key that is in none of these tables and is a recipe's field is taken over as it is.
"""

# Another name here for the same thing.
RENAMED = {
    "torch_dtype": "dtype",
    "warmup_ratio": "warmup_steps",
    "vllm_max_model_len": "vllm_max_model_length",
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    "dataset_prompt_column": "prompt_column",
    "min_inverse_alpha": "min_live_frac",
}

# Nothing to set, and why.
EXPLAINED = {
    "overwrite_output_dir": "a run never overwrites another; choose an output_dir",
    "do_train": "aapo train trains",
    "do_eval": "evaluate with aapo eval",
    "do_predict": "evaluate with aapo eval",
    "eval_strategy": "evaluate with aapo eval, or set num_eval_prompts and eval_strategy",
    "eval_steps": "evaluate with aapo eval, or set num_eval_prompts and eval_strategy",
    "evaluation_strategy": "evaluate with aapo eval, or set num_eval_prompts and eval_strategy",
    "eval_on_start": "evaluate with aapo eval",
    "per_device_eval_batch_size": "evaluate with aapo eval",
    "dataset_test_split": "evaluate with aapo eval",
    "bf16_full_eval": "an evaluation takes the weights as they are",
    "benchmarks": "evaluate with aapo eval --tasks",
    "callbacks": "progress, checkpoints and metrics are built in",
    "push_to_hub": "publish with aapo publish RUN --push",
    "push_to_hub_revision": "publish with aapo publish RUN --push",
    "hub_model_id": "publish with aapo publish RUN --push NAME",
    "hub_model_revision": "publish with aapo publish RUN --push",
    "hub_strategy": "publish with aapo publish RUN --push",
    "overwrite_hub_revision": "publish with aapo publish RUN --push",
    "hub_private_repo": "publish with aapo publish RUN --push",
    "log_completions": "every rollout is stored in the run directory",
    "num_completions_to_print": "every rollout is stored in the run directory",
    "log_level": "progress is always shown; --debug shows tracebacks",
    "log_level_replica": "progress is always shown; --debug shows tracebacks",
    "logging_strategy": "every step is logged",
    "logging_first_step": "every step is logged",
    "wandb_entity": "set WANDB_ENTITY in the environment",
    "wandb_project": "set WANDB_PROJECT in the environment",
    "wandb_run_group": "set WANDB_RUN_GROUP in the environment",
    "vllm_device": "colocated vLLM shares the GPUs; a server has its own: vllm_mode, docs/launch.md",
    "vllm_enforce_eager": "TRL starts vLLM itself",
    "vllm_dtype": "vLLM takes the model's",
    "padding_free": "read by nothing in the published trainers",
    "resume_from_checkpoint": "go on with aapo train RUN --resume",
    "code_language": "the code reward runs Python",
    "code_eval_test_batch_size": "the code reward runs its cases in a sandbox of its own",
    "config": "the file beside it",
    "local_rank": "set by the launcher",
    "ddp_timeout": "set by the launcher",
}

# Cannot be taken over, and what to do.
REFUSED = {
    "chat_template": "a recipe uses the model's own; save the template with the model's tokenizer",
    "dataset_mixture": "a recipe has one data set; write the mixture to a file and name that",
    "reward_model_path": "rewards here are functions; name one as path/to/file.py:function",
    "ioi_provider": "the IOI reward needs a service that is not part of this project",
    "e2b_router_url": "the code reward runs in a local sandbox; remove it",
    "morph_router_url": "the code reward runs in a local sandbox; remove it",
    "code_provider": "the code reward runs in a local sandbox; remove it",
    "ref_model": "set reference_model_name_or_path",
    "environment_factory": "tools and environments are not trained here",
    "tools": "tools and environments are not trained here",
}

# Read by nothing in the published AAPO trainer, and what does it here.
DEAD_IN_AAPO = {
    "beta": "only loads a reference model there, and its loss has no KL term",
    "weighted_sample": "parsed and ignored there; works here (docs/curriculum.md)",
    "sample_strategy": "parsed and ignored there; works here with weighted_sample (docs/curriculum.md)",
    "adjust_gd": "parsed and ignored there; here rescale_dead_groups: true",
    "adjust_lr": "parsed and ignored there; here rescale_dead_groups: true scales the loss instead",
    "scale_batch": "parsed and ignored there; here scale_rewards: batch",
}

REWARDS = {
    "accuracy": "accuracy", "accuracy_lv35": "accuracy", "format": "format", "cosine": "cosine",
    "tag_count": "tag_count", "reasoning_steps": "reasoning_steps", "length": "len",
    "repetition_penalty": "repetition_penalty", "code": "code",
}  # fmt: skip
# open-r1's defaults, where ours differ.
COSINE = {"min_value_wrong": 0.0, "max_value_wrong": -0.5, "min_value_correct": 0.5, "max_value_correct": 1.0}
REWARD_PREFIXES = {"cosine_": "cosine", "repetition_": "repetition_penalty"}
REWARD_PARAMETERS = {"n_grams": "ngram_size"}

DATASETS = {"knoveleng/open-rs": "open-rs", "knoveleng/open-s1": "open-s1"}

LOSSES = {
    "grpo": {"algorithm": "grpo"},
    "dr_grpo": {"algorithm": "dr_grpo"},
    "bnpo": {"algorithm": "grpo", "aggregation": "token_mean"},
    "dapo": {"algorithm": "grpo", "aggregation": "token_mean"},
    "cispo": {"algorithm": "cispo"},
    "luspo": {"algorithm": "grpo", "aggregation": "constant"},  # up to a constant, the token limit
}
# TRL's further losses, and what comes nearest: on fresh samples both have the gradient of that one.
OTHER_LOSSES = {"sapo": "grpo", "vespo": "dapo"}

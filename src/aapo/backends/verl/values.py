"""What the fields of a recipe come to in verl's settings.

Names are those of verl 0.9's `ppo_trainer` configuration.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from aapo.recipe import Recipe

# TRL's defaults of the fields that only a trainer reads, for what verl has other defaults.
DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-6, "lr_scheduler_type": "linear", "lr_scheduler_kwargs": None, "warmup_steps": 0,
    "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "max_grad_norm": 1.0,
    "save_steps": 500, "eval_steps": None, "eval_on_start": False, "shuffle_dataset": True, "report_to": "none",
    "run_name": None, "project": "huggingface", "use_cpu": False, "activation_checkpointing_kwargs": None,
    "vllm_tensor_parallel_size": 1, "vllm_max_model_length": None, "logging_steps": 1, "use_bias_correction_kl": True,
}  # fmt: skip
# By loss and ratio level.
LOSSES = {
    ("cross_entropy", "token"): "cispo",
    ("clipped_surrogate", "token"): "vanilla",
    ("clipped_surrogate", "sequence"): "gspo",
}
AGGREGATIONS = {
    "token_mean": "token-mean", "sequence_mean": "seq-mean-token-mean", "constant": "seq-mean-token-sum-norm",
}  # fmt: skip
# By the strategy, the names of the schedules that it has.
SCHEDULES = {
    "fsdp2": {
        "constant": "constant", "constant_with_warmup": "constant", "cosine": "cosine", "cosine_with_min_lr": "cosine",
    },
    "megatron": {
        "constant": "constant", "constant_with_warmup": "constant", "linear": "linear", "cosine": "cosine",
        "cosine_with_min_lr": "cosine",
    },
}  # fmt: skip
# What the schedules that have settings take of them.
SCHEDULE_KWARGS = {
    "cosine": ("num_cycles",), "cosine_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate"),
}  # fmt: skip
LOGGERS = ("wandb", "tensorboard", "mlflow", "swanlab", "clearml", "trackio")
NUMBER_FORMATS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


class Facts(NamedTuple):
    """What a run adds to its recipe.

    Attributes:
        model: Folder or Hub name of the model that training starts from.
        run: The run directory.
        num_batches: Generation batches of the whole training, verl's steps; a text where the data are not here.
        prompt_tokens: Tokens of the longest prompt.
        held_out: Whether it is evaluated while it trains.
    """

    model: str
    run: str
    num_batches: int | str
    prompt_tokens: int
    held_out: bool = False


def value_of(recipe: Recipe, name: str) -> Any:
    """What a field of the recipe is: given, the algorithm's, or by default."""
    training = recipe.training
    for part in (recipe.run, recipe.data, recipe.model, training, training.collection, recipe.trainer):
        value = part.get(name) if isinstance(part, dict) else getattr(part, name, None)
        if value is not None:
            return value
    return DEFAULTS.get(name)


def updates_of_a_batch(recipe: Recipe) -> int:
    """Optimizer steps that the rollouts drawn at once make in all: one of verl's steps."""
    return recipe.training.window_steps * recipe.training.num_iterations


def batch_prompts(recipe: Recipe) -> int:
    """Prompts of the rollouts drawn at once, which are those of whole optimizer steps."""
    return step_prompts(recipe) * recipe.training.window_steps


def step_prompts(recipe: Recipe) -> int:
    """Prompts whose rollouts make an optimizer step."""
    return recipe.training.step_size // recipe.training.num_generations


Value = Callable[[Recipe, Facts], Any]
"""What a setting of verl's is; None leaves verl's own."""


def of(name: str) -> Value:
    """A field's own value."""
    return lambda recipe, _: value_of(recipe, name)


def of_cluster(name: str) -> Value:
    """The value of a field of `cluster`."""
    return lambda recipe, _: getattr(recipe.cluster, name)


def fixed(value: Any) -> Value:
    """The same value, whatever the recipe says."""
    return lambda *_: value


def steps(name: str) -> Value:
    """A number of optimizer steps, or a share of all, in verl's steps; at least 1."""

    def value(recipe: Recipe, facts: Facts) -> int:
        given = value_of(recipe, name)
        if given < 1 and isinstance(facts.num_batches, int):
            return max(round(given * facts.num_batches), 1)
        return max(round(given / updates_of_a_batch(recipe)), 1)

    return value


def if_lora(value: Value) -> Value:
    """A value where adapters are trained."""
    return lambda recipe, facts: value(recipe, facts) if recipe.model.use_peft else None


def if_held_out(value: Value, otherwise: Any = None) -> Value:
    """A value where the run is evaluated while it trains."""
    return lambda recipe, facts: value(recipe, facts) if facts.held_out else otherwise


def loss_mode(recipe: Recipe, _: Facts) -> str:
    """The loss."""
    point = recipe.training.objective
    return LOSSES[point.loss, point.ratio_level]


def clip_low(recipe: Recipe, _: Facts) -> float:
    """The lower bound of the ratio, as 1 - it; cispo, too, bounds its weight below, which 1 - 1 does not."""
    point = recipe.training.objective
    return 1.0 if point.loss == "cross_entropy" else point.clip_low


def clip_high(recipe: Recipe, _: Facts) -> float:
    """The upper bound of the ratio, or of the cross-entropy's importance weight, as 1 + it."""
    point = recipe.training.objective
    return point.max_importance_weight - 1 if point.loss == "cross_entropy" else point.clip_high


def loss_scale(recipe: Recipe, _: Facts) -> int | None:
    """What divides the sum over a completion's tokens where that is a constant."""
    constant = recipe.training.objective.aggregation == "constant"
    return recipe.training.sampling.max_completion_length if constant else None


def kl_estimate(recipe: Recipe, _: Facts) -> str | None:
    """The estimate of the KL term; with a `+` its gradient is the one that TRL's ratio, which is 1, gives it."""
    if not recipe.training.beta:
        return None
    return "low_var_kl+" if value_of(recipe, "use_bias_correction_kl") else "low_var_kl"


def schedule(recipe: Recipe, _: Facts) -> str:
    """The schedule of the learning rate, by the strategy's name."""
    assert recipe.cluster
    return SCHEDULES[recipe.cluster.strategy][value_of(recipe, "lr_scheduler_type")]


def min_lr_ratio(recipe: Recipe, _: Facts) -> float:
    """The last learning rate as a share of the first."""
    given = value_of(recipe, "lr_scheduler_kwargs") or {}
    if "min_lr" in given:
        return given["min_lr"] / value_of(recipe, "learning_rate")
    return given.get("min_lr_rate", 0.0)


def num_cycles(recipe: Recipe, _: Facts) -> float | None:
    """Waves of a cosine."""
    return (value_of(recipe, "lr_scheduler_kwargs") or {}).get("num_cycles")


def min_lr(recipe: Recipe, facts: Facts) -> float:
    """The last learning rate."""
    return min_lr_ratio(recipe, facts) * value_of(recipe, "learning_rate")


def warmup_share(recipe: Recipe, _: Facts) -> float | None:
    """The warm-up as a share of all steps; TRL's `constant` has none."""
    given = value_of(recipe, "warmup_steps")
    return 0.0 if value_of(recipe, "lr_scheduler_type") == "constant" else given if given < 1 else None


def warmup_steps(recipe: Recipe, facts: Facts) -> int | None:
    """The warm-up in steps, where it is not given as a share."""
    return steps("warmup_steps")(recipe, facts) if warmup_share(recipe, facts) is None else None


def computes_in(recipe: Recipe) -> str:
    """The number format of the forward and backward pass, by verl's short name."""
    return "bf16" if recipe.training.bf16 else "fp16" if recipe.training.fp16 else "fp32"


def samples_in(recipe: Recipe, _: Facts) -> str:
    """The number format of the rollouts' model."""
    return NUMBER_FORMATS[computes_in(recipe)]


def kept_in(recipe: Recipe, _: Facts) -> str:
    """The number format of the weights: float32 where they are trained, the model's beneath adapters."""
    frozen = recipe.model.use_peft and recipe.model.dtype == "bfloat16"
    return "bf16" if frozen else "fp32"


def parameters_in(recipe: Recipe, _: Facts) -> str | None:
    """The number format that parameters are gathered in, where it is not verl's own, bfloat16."""
    return None if recipe.training.bf16 else computes_in(recipe)


def reduced_in(recipe: Recipe, _: Facts) -> str | None:
    """Likewise gradients and buffers."""
    return None if recipe.training.bf16 else "fp32"


def is_flash(recipe: Recipe, _: Facts) -> bool:
    """Whether attention is by flash attention, which alone takes sequences without padding."""
    return "flash" in (recipe.model.attn_implementation or "flash")


def named_loggers(recipe: Recipe) -> list[str]:
    """What `report_to` names."""
    asked = value_of(recipe, "report_to")
    return [asked] if isinstance(asked, str) else list(asked)


def loggers(recipe: Recipe, _: Facts) -> list[str]:
    """Where verl itself writes its metrics."""
    return ["console", *(name for name in named_loggers(recipe) if name in LOGGERS)]


def eval_freq(recipe: Recipe, facts: Facts) -> int:
    """Steps between two evaluations; TRL's default is that of the log."""
    return steps("eval_steps" if value_of(recipe, "eval_steps") else "logging_steps")(recipe, facts)


def eval_generations(recipe: Recipe, _: Facts) -> int:
    """Completions of a held-out prompt."""
    return recipe.training.num_generations_eval or recipe.training.num_generations


def save_freq(recipe: Recipe, facts: Facts) -> Any:
    """Steps between two checkpoints; the last step is always saved, since the final model is made of it."""
    return facts.num_batches if recipe.training.save_strategy == "no" else steps("save_steps")(recipe, facts)


def kept_checkpoints(recipe: Recipe, _: Facts) -> int | None:
    """How many checkpoints stay, two by default as under TRL; None for all."""
    limit = recipe.training.save_total_limit
    return 2 if limit is None else limit or None

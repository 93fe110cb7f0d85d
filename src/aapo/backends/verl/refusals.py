"""What has no equivalent in verl, with the reason."""

from collections.abc import Callable

from aapo.backends.verl.values import (
    DEFAULTS,
    LOGGERS,
    LOSSES,
    SCHEDULE_KWARGS,
    SCHEDULES,
    named_loggers,
    value_of,
)
from aapo.fields import Rule
from aapo.grading import GROUPWISE
from aapo.recipe import Recipe


def _unless(holds: Callable[[Recipe], object], reason: str) -> Callable[[Recipe], str | None]:
    return lambda recipe: None if holds(recipe) else reason


def _strategy(recipe: Recipe) -> str:
    assert recipe.cluster is not None
    return recipe.cluster.strategy


def _schedule(recipe: Recipe) -> str | None:
    known = SCHEDULES[_strategy(recipe)]
    if value_of(recipe, "lr_scheduler_type") in known:
        return None
    return f"verl's {_strategy(recipe)} has no such schedule; set it to {', '.join(known)}"


def _schedule_kwargs(recipe: Recipe) -> str | None:
    name, given = value_of(recipe, "lr_scheduler_type"), value_of(recipe, "lr_scheduler_kwargs") or {}
    known = [key for key in SCHEDULE_KWARGS.get(name, ()) if key != "num_cycles" or _strategy(recipe) == "fsdp2"]
    if set(given) <= set(known):
        return None
    takes = ", ".join(known) or "no settings"
    return f"the schedule {name} of verl's {_strategy(recipe)} takes {takes}; remove the others"


def _refill(recipe: Recipe) -> str | None:
    share, point = recipe.training.collection.min_live_frac, recipe.training.objective
    if share not in (0, 1):
        return "verl draws all dead groups of a batch again or none; set min_live_frac to 0 or 1"
    compares = point.advantage is None and point.baseline in ("group_mean", "leave_one_out")
    if share and (point.needs_reference or not compares):
        return "verl throws groups away whose rewards are all equal, which teach something here; set it to 0"
    return None


REFUSED: tuple[Rule, ...] = (
    Rule(
        ("reference",),
        _unless(
            lambda recipe: recipe.training.reference == "bank",
            "verl has no frozen model that is sampled at every step; use a bank",
        ),
    ),
    Rule(
        ("weighted_sample", "curriculum"),
        _unless(
            lambda recipe: not recipe.training.chooses_prompts,
            "verl draws prompts in the order of the data; remove it",
        ),
    ),
    Rule(("min_live_frac",), _refill),
    Rule(
        ("algorithm",),
        _unless(
            lambda recipe: recipe.training.objective.token_advantage is None,
            "it reads the entropies of tokens, which verl gives no estimator; choose another",
        ),
    ),
    Rule(
        ("redraw",),
        _unless(
            lambda recipe: not recipe.training.collection.redraws,
            "verl draws a prompt once a step; set it to none",
        ),
    ),
    Rule(
        ("importance_sampling_level",),
        _unless(
            lambda recipe: (recipe.training.objective.loss, recipe.training.objective.ratio_level) in LOSSES,
            "verl has a sequence's ratio in the clipped surrogate only; set loss to clipped_surrogate, or it to token",
        ),
    ),
    Rule(
        ("reward_funcs",),
        _unless(
            lambda recipe: not GROUPWISE.intersection(recipe.run.reward_funcs),
            f"{', '.join(sorted(GROUPWISE))} compares the completions of a group, while verl grades one at a time; "
            "remove it",
        ),
    ),
    Rule(
        ("optim",),
        _unless(
            lambda recipe: str(recipe.training.optim) in ("adamw_torch", "adamw_torch_fused"),
            "verl trains with AdamW here; set it to adamw_torch",
        ),
    ),
    Rule(("lr_scheduler_type",), _schedule),
    Rule(("lr_scheduler_kwargs",), _schedule_kwargs),
    Rule(
        ("adam_epsilon",),
        _unless(
            lambda recipe: _strategy(recipe) == "fsdp2" or value_of(recipe, "adam_epsilon") == DEFAULTS["adam_epsilon"],
            "megatron's is fixed; remove it",
        ),
    ),
    Rule(
        ("activation_checkpointing_kwargs",),
        _unless(
            lambda recipe: value_of(recipe, "activation_checkpointing_kwargs") in (None, {"use_reentrant": False}),
            "verl's checkpointing is not reentrant and takes no settings; set {use_reentrant: false}",
        ),
    ),
    Rule(
        ("model_revision",),
        _unless(
            lambda recipe: recipe.model.model_revision == "main",
            "verl loads the newest; download the revision, and name its folder",
        ),
    ),
    Rule(
        ("lora_dropout",),
        _unless(
            lambda recipe: not recipe.model.use_peft or recipe.model.lora_dropout == 0,
            "verl's adapters have none; set it to 0",
        ),
    ),
    Rule(
        ("use_peft",),
        _unless(
            lambda recipe: not recipe.model.use_peft or _strategy(recipe) == "fsdp2",
            "adapters are trained by fsdp2 here; set cluster.strategy to fsdp2",
        ),
    ),
    Rule(
        ("fp16", "bf16"),
        _unless(
            lambda recipe: recipe.training.bf16 or _strategy(recipe) == "fsdp2",
            "megatron trains in bfloat16 here; set bf16 to true",
        ),
    ),
    Rule(
        ("save_strategy",),
        _unless(
            lambda recipe: recipe.training.save_strategy in ("steps", "no"),
            "verl saves every so many steps; set it to steps",
        ),
    ),
    Rule(
        ("eval_strategy",),
        _unless(
            lambda recipe: recipe.training.eval_strategy in ("steps", "no"),
            "verl evaluates every so many steps; set it to steps",
        ),
    ),
    Rule(
        ("report_to",),
        _unless(
            lambda recipe: {*named_loggers(recipe)} <= {"none", *LOGGERS},
            f"verl logs to {', '.join(LOGGERS)}; choose among them, or none",
        ),
    ),
    Rule(
        ("logging_steps",),
        _unless(lambda recipe: value_of(recipe, "logging_steps") == 1, "verl logs every step; remove it"),
    ),
)

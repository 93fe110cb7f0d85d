"""Which fields do something with the others as they are: one table, for recipes, their import, and comparisons."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from aapo.errors import InputError
from aapo.fields import Rule, inert
from aapo.objective import AXIS_RULES
from aapo.recipe.training import AXIS_FIELDS, TrainingSettings

if TYPE_CHECKING:
    from aapo.recipe.recipe import Recipe

SYNC_FIELDS = ("ref_model_sync_steps", "ref_model_mixup_alpha")
# What only a bank reads.
BANK_FIELDS = (
    "reference_bank", "num_reference_samples", "reference_seed", "reference_model_name_or_path",
    "reference_model_revision", "preflight",
)  # fmt: skip
# What chooses prompts by the reference model's pass rates, with or without a margin.
CHOICE_FIELDS = ("weighted_sample", "curriculum", "min_reference_pass_rate", "max_reference_pass_rate")
# What only new adapters read.
LORA_FIELDS = (
    "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters", "lora_modules_to_save",
    "lora_task_type", "use_rslora", "use_dora",
)  # fmt: skip
# Of TRL's losses that are not here.
OTHER_LOSS_FIELDS = (
    "sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg",
    "vespo_lambda_neg",
)  # fmt: skip
EVAL_FIELDS = ("eval_num_samples", "eval_seed", "eval_temperature")


def _follows_nothing(training: TrainingSettings) -> str | None:
    there = training.reference == "live" and training.objective.needs_reference
    return None if there or training.beta else "there is no reference model in memory to follow the policy"


def _unless(condition: bool, reason: str) -> str | None:
    return None if condition else reason


TRAINING_RULES = (
    *(
        Rule(
            tuple(AXIS_FIELDS[name] for name in rule.names), lambda training, rule=rule: rule.reason(training.objective)
        )
        for rule in AXIS_RULES
    ),
    Rule(("loss_type",), lambda _: "the objective decides it", "choose an algorithm, or loss and aggregation"),
    Rule(
        ("multi_objective_aggregation",),
        lambda _: "the objective decides it",
        "set algorithm to gdpo, which normalises each reward function by itself, or reward_weights",
    ),
    Rule(("delta",), lambda _: "the objective decides it", "choose an algorithm"),
    Rule(("use_liger_kernel",), lambda _: "the losses here have no such kernel"),
    Rule(OTHER_LOSS_FIELDS, lambda _: "no loss here reads it"),
    Rule(
        ("reference",),
        lambda training: _unless(training.objective.needs_reference, f"{training.algorithm} has no margin here"),
    ),
    Rule(
        ("max_refill_rounds",),
        lambda training: _unless(training.collection.draws_rounds, "min_live_frac is 0 and redraw none"),
        "set one of them, or remove it",
    ),
    Rule(
        ("sample_strategy", "sample_prior"),
        lambda training: _unless(training.weighted_sample, "weighted_sample is false"),
        "set it to true",
    ),
    Rule(
        ("share_prompts",),
        lambda training: _unless(training.padding_free, "padding_free is false"),
        "set it to true, or remove it",
    ),
    Rule(("engine",), lambda training: _unless(not training.use_vllm, "use_vllm is true and vLLM draws rollouts")),
    Rule(("sync_ref_model",), _follows_nothing, "set reference to live, or remove it"),
    Rule(SYNC_FIELDS, lambda training: _unless(training.sync_ref_model, "sync_ref_model is false"), "set it to true"),
)
RECIPE_RULES = (
    Rule(
        ("cluster",),
        lambda recipe: _unless(recipe.cluster is not None, f"backend is {recipe.run.backend}"),
        "set backend to verl, or use `aapo cluster`",
    ),
    Rule(("rollouts_dir",), lambda _: "rollouts are always written to the run directory"),
    Rule(
        BANK_FIELDS,
        lambda recipe: _unless(
            recipe.uses_bank,
            "reference is live" if recipe.training.objective.needs_reference else "the objective has no margin",
        ),
    ),
    Rule(
        ("bank_cost_share",),
        lambda recipe: _unless(
            recipe.uses_bank and (recipe.run.max_generated_tokens or recipe.run.max_training_seconds) is not None,
            "nothing is held against the cost of a bank",
        ),
        "set max_generated_tokens or max_training_seconds, or remove it",
    ),
    Rule(
        LORA_FIELDS,
        lambda recipe: _unless(recipe.model.use_peft, "use_peft is false and no new adapters are made"),
        "set use_peft to true, or remove it",
    ),
    Rule(EVAL_FIELDS, lambda recipe: _unless(recipe.data.num_eval_prompts > 0, "num_eval_prompts is 0")),
)


def without_effect(recipe: "Recipe") -> dict[str, str]:
    """The fields that a recipe sets, to other values than their defaults, and that do nothing; each with the reason."""
    names = [name for part in (recipe.training, recipe.run, recipe.model) for name in changed(part, recipe.given)]
    names += [name for name, value in recipe.trainer.items() if value is not None]
    return inert(TRAINING_RULES, recipe.training, names) | inert(RECIPE_RULES, recipe, names)


def changed(settings: Any, given: Mapping[str, Any]) -> list[str]:
    """Those of the given values that are other ones than the defaults of a dataclass's fields."""
    defaults = {
        item.name: item.default_factory() if item.default_factory is not MISSING else item.default
        for item in fields(settings)
    }
    return [name for name, value in given.items() if name in defaults and value is not None and value != defaults[name]]


def refuse(found: Mapping[str, str], values: Mapping[str, Any]) -> None:
    """Refuse fields that do nothing.

    Args:
        found: The fields and the reasons.
        values: What they are set to.

    Raises:
        InputError: There is one.
    """
    for name, reason in found.items():
        raise InputError(f"{name} is {values[name]!r} but has no effect, because {reason}; {_fix(name)}")


def _fix(name: str) -> str:
    rules: Iterable[Rule] = (*TRAINING_RULES, *RECIPE_RULES)
    return next(rule.fix for rule in rules if name in rule.names)

"""A recipe's held-out prompts as a task, and the protocol by which they are put."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aapo.errors import InputError
from aapo.evaluation import Protocol, Task
from aapo.grading import Judge, reward_functions, with_convention
from aapo.recipe import Recipe
from aapo.tasks import pinned
from aapo.tasks.prompts import FILE_TYPES, GENERATED
from aapo.training.prompts import loaded_prompts

GRADING_FIELDS = ("reward_funcs", "reward_kwargs", "judge", "judge_threshold")


def recipe_protocol(recipe: Recipe) -> Protocol:
    """How the recipe puts, samples and grades its held-out prompts."""
    data, sampling = recipe.data, recipe.eval_sampling
    return Protocol(
        name="recipe",
        system_prompt=data.system_prompt,
        prompt_template=data.prompt_template,
        conversational=data.conversational,
        chat_template_kwargs=recipe.training.template_options,
        num_samples=recipe.run.eval_num_samples,
        **{**vars(sampling), "stop": list(sampling.stop)},
    )


def task_name(recipe: Recipe) -> str:
    """What the recipe's held-out prompts are called in results."""
    name = recipe.data.dataset_name or ""
    return Path(name).stem if Path(name).suffix in FILE_TYPES else name.removeprefix(GENERATED)


def held_out_task(recipe: Recipe, protocol: Protocol | None = None, changes: Mapping[str, Any] | None = None) -> Task:
    """The recipe's held-out prompts.

    Args:
        recipe: Says which they are, and how they are graded.
        protocol: How they are put; the recipe's own by default.
        changes: Other values of `reward_funcs`, `reward_kwargs`, `judge` and `judge_threshold`, which then are all
            that is known of the grading; and `num_problems`, the first so many.

    Raises:
        InputError: The recipe holds none out, or they cannot be graded so.
    """
    if not recipe.data.num_eval_prompts:
        raise InputError("the run holds no prompts out (num_eval_prompts is 0), so there is no task of them")
    protocol, changes = protocol or recipe_protocol(recipe), changes or {}
    asked = {key: value for key, value in changes.items() if key in GRADING_FIELDS}
    names, kwargs, failure = recipe.run.reward_funcs, recipe.run.reward_kwargs, recipe.run.reward_failure
    judge = recipe.training.judgement
    if asked:
        names, kwargs, failure = asked.get("reward_funcs", names), asked.get("reward_kwargs"), "fail"
        judge = Judge(asked.get("judge"), asked.get("judge_threshold"))
    convention = protocol.answer_convention or pinned(recipe.data).answer_convention
    rewards = reward_functions(names, with_convention(names, kwargs, convention), failure)
    style = protocol.style
    data = replace(
        recipe.data,
        system_prompt=style.system_prompt,
        prompt_template=style.prompt_template,
        conversational=style.conversational,
    )
    prompts = loaded_prompts(replace(recipe, data=data), "test")
    limit = changes.get("num_problems")
    prompts = prompts.select(range(min(limit, len(prompts)))) if limit else prompts
    return Task(task_name(recipe), prompts, rewards, judge, protocol.num_samples)

"""What a training will do: its steps, its rollouts, and the prompts that it comes to."""

from math import ceil

from aapo.learning.order import visited
from aapo.recipe import Recipe


def planned_steps(recipe: Recipe, num_prompts: int) -> int:
    """Optimizer steps of the whole training, as Transformers counts them: the last step of an epoch may be a part."""
    args = recipe.training
    if args.max_steps > 0:
        return args.max_steps
    steps = ceil(_batches_an_epoch(recipe, num_prompts) * _uses_of_a_batch(recipe) / args.gradient_accumulation_steps)
    return ceil(max(steps, 1) * args.num_train_epochs)


def planned_rollouts(recipe: Recipe, num_prompts: int | None) -> int:
    """Completions that the whole training draws, as TRL does: whole generation batches; without those of a refill.

    The arguments are those of `planned_batches`.
    """
    assert recipe.training.generation_batch_size
    return planned_batches(recipe, num_prompts) * recipe.training.generation_batch_size


def planned_batches(recipe: Recipe, num_prompts: int | None) -> int:
    """Generation batches that the whole training draws.

    Args:
        recipe: Says how many steps, and what a batch is.
        num_prompts: None where it is not known, and the steps are given; all of them are then taken for whole.
    """
    args = recipe.training
    uses, accumulation = _uses_of_a_batch(recipe), args.gradient_accumulation_steps
    steps, batches = planned_steps(recipe, num_prompts or 0), 0
    if num_prompts is not None:  # the last step of an epoch may take fewer micro-batches
        an_epoch = _batches_an_epoch(recipe, num_prompts)
        epochs, steps = divmod(steps, max(ceil(an_epoch * uses / accumulation), 1))
        batches = epochs * an_epoch
    return batches + ceil(steps * accumulation / uses)


def planned_prompts(recipe: Recipe, num_prompts: int) -> list[int]:
    """Places of the training prompts whose reference rewards are known to be needed, in the order of their use.

    Those that the planned steps come to, or all where the reference's pass rates choose the prompts. None where prompts
    are drawn by what their rollouts pay, since nobody knows which these are, and where they are not needed.
    """
    args = recipe.training
    if not recipe.uses_bank:
        return []
    if recipe.reads_whole_bank:
        return list(range(num_prompts))
    if args.weighted_sample:
        return []
    shuffle = recipe.trainer.get("shuffle_dataset") is not False
    return visited(
        args.seed, num_prompts, prompts_of_a_batch(recipe), planned_batches(recipe, num_prompts), shuffle=shuffle
    )


def prompts_of_a_batch(recipe: Recipe) -> int:
    """Prompts of a generation batch."""
    args = recipe.training
    assert args.num_generations and args.generation_batch_size
    return args.generation_batch_size // args.num_generations


def _batches_an_epoch(recipe: Recipe, num_prompts: int) -> int:
    """Generation batches of an epoch; an incomplete one is not drawn."""
    return num_prompts // prompts_of_a_batch(recipe)


def _uses_of_a_batch(recipe: Recipe) -> int:
    """Micro-batches of a process that one generation batch makes."""
    args = recipe.training
    assert args.steps_per_generation
    return args.steps_per_generation * args.num_iterations

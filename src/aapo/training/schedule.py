"""What a training will do: its steps, its rollouts, and the prompts that it comes to."""

from math import ceil

from aapo.learning.order import visited
from aapo.recipe import Recipe


def planned_steps(recipe: Recipe, num_prompts: int) -> int:
    """Optimizer steps of the whole training, as Transformers counts them."""
    args = recipe.training
    if args.max_steps > 0:
        return args.max_steps
    return ceil(max(_batches_an_epoch(recipe, num_prompts) * _uses_of_a_batch(recipe), 1) * args.num_train_epochs)


def planned_rollouts(recipe: Recipe, num_prompts: int | None) -> int:
    """Completions that the whole training draws, in whole windows of steps; without those of a refill.

    The arguments are those of `planned_batches`.
    """
    return planned_batches(recipe, num_prompts) * _size(recipe)


def planned_batches(recipe: Recipe, num_prompts: int | None) -> int:
    """Windows of steps, each with its own rollouts, that the whole training has.

    Args:
        recipe: Says how many steps, and what a batch is.
        num_prompts: None where it is not known, and the steps are given; all of them are then taken for whole.
    """
    return ceil(planned_steps(recipe, num_prompts or 0) / _uses_of_a_batch(recipe))


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
    """Prompts of a window."""
    return _size(recipe) // recipe.training.num_generations


def _size(recipe: Recipe) -> int:
    """Completions of a window."""
    return recipe.training.step_size * recipe.training.window_steps


def _batches_an_epoch(recipe: Recipe, num_prompts: int) -> int:
    """Windows of an epoch; an incomplete one is not drawn."""
    return num_prompts // prompts_of_a_batch(recipe)


def _uses_of_a_batch(recipe: Recipe) -> int:
    """Steps that learn from the rollouts of one window."""
    return recipe.training.window_steps * recipe.training.num_iterations

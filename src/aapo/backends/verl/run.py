"""Training a recipe's policy with verl."""

from math import ceil

from aapo.backends import TrainingJob
from aapo.backends.verl.checkpoints import newest_step, save_model
from aapo.backends.verl.export import export_training, job_prompts, write_prompts
from aapo.backends.verl.launch import check_python, command, run_verl
from aapo.backends.verl.mapping import arguments, check_mapped, mapped
from aapo.backends.verl.values import Facts, updates_of_a_batch
from aapo.errors import InputError
from aapo.progress import console, progress, progress_note
from aapo.ranks import num_launched
from aapo.recipe import Recipe


def check_recipe(recipe: Recipe) -> None:
    """Check that verl is there and can do all that the recipe says.

    Raises:
        InputError: A field has no equivalent, verl is not installed, or several processes were launched.
    """
    if num_launched() > 1:
        raise InputError("backend is verl, which starts its own processes; run `aapo cluster` once, without a launcher")
    check_mapped(recipe)
    check_python(recipe)


def train_policy(job: TrainingJob) -> bool:
    """Train, from verl's newest checkpoint, and save the model; whether Ctrl-C ended it early."""
    recipe, run = job.recipe, job.run
    data, batches = run.path.absolute() / "data", num_batches(recipe, job.num_steps)
    prompts = export_training(job, data / "train.parquet", batches)
    longest = max(len(prompt.ids) for prompt in prompts)
    if job.held_out is not None:
        held_out = job_prompts(job, job.held_out)
        write_prompts(data / "held_out.parquet", job, held_out)
        longest = max(longest, *(len(prompt.ids) for prompt in held_out))
    facts = Facts(job.model, str(run.path.absolute()), batches, longest, job.held_out is not None)
    line = command(recipe, arguments(mapped(recipe, facts)))
    done = newest_step(run.checkpoints)
    if done:
        console.print(f"going on from step {done}")
    with progress(f"{recipe.training.algorithm} training on verl", batches, start=done) as update:

        def tell() -> None:
            rows = run.metrics()
            if rows and "reward" in rows[-1]:
                update(rows[-1]["step"] // updates_of_a_batch(recipe), progress_note(rows[-1]))

        if run_verl(line, run.path / "verl.log", tell):
            return True
    save_model(run.checkpoints, run.model, recipe.model, job.model, job.tokenizer)
    return False


def num_batches(recipe: Recipe, num_steps: int) -> int:
    """Generation batches, verl's steps, that make so many optimizer steps at least."""
    return ceil(num_steps / updates_of_a_batch(recipe))

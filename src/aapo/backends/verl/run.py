"""Training a recipe's policy with verl."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open

from aapo.backends import TrainingJob
from aapo.backends.verl.export import export_training, job_prompts, write_prompts
from aapo.backends.verl.launch import check_python, command, run_verl
from aapo.backends.verl.mapping import arguments, check_mapped, mapped
from aapo.backends.verl.values import Facts, updates_of_a_batch
from aapo.errors import AapoError, InputError
from aapo.files import write_json
from aapo.progress import console, progress, progress_note
from aapo.ranks import num_launched
from aapo.recipe import Recipe
from aapo.runs import RunDirectory

# Names in a checkpoint of verl's, and in a folder of its checkpoints.
NEWEST, TRANSFORMERS_MODEL = "latest_checkpointed_iteration.txt", "actor/huggingface"


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
    save_model(run, job.tokenizer)
    return False


def num_batches(recipe: Recipe, num_steps: int) -> int:
    """Generation batches, verl's steps, that make so many optimizer steps."""
    return max(round(num_steps / updates_of_a_batch(recipe)), 1)


def newest_step(checkpoints: Path) -> int:
    """The step, in verl's count, of the newest whole checkpoint; 0 without any. It is written last."""
    file = checkpoints / NEWEST
    return int(file.read_text(encoding="utf-8")) if file.exists() else 0


def save_model(run: RunDirectory, tokenizer: Any) -> None:
    """Make the run's model out of the newest checkpoint.

    Raises:
        AapoError: There is none.
    """
    saved = run.checkpoints / f"global_step_{newest_step(run.checkpoints)}" / TRANSFORMERS_MODEL
    if not saved.exists():
        raise AapoError(f"verl has saved no model in {saved}; its output is in {run.path / 'verl.log'}")
    partial = run.path / ".model.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(saved, partial)
    _say_precision(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(run.model, ignore_errors=True)
    partial.replace(run.model)


def _say_precision(folder: Path) -> None:
    """Let the configuration say in which precision the weights are, where verl writes that of the model it loaded."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with safe_open(sorted(folder.glob("*.safetensors"))[0], framework="pt") as weights:
        dtype = weights.get_tensor(next(iter(weights.keys()))).dtype
    write_json(folder / "config.json", {**config, "dtype": str(dtype).removeprefix("torch.")})

"""What the subcommands do; heavy imports live here, so that `--help` is instant."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers.utils import logging as transformers_logging

from aapo.cli.evaluation import print_table
from aapo.errors import AapoError, InputError
from aapo.evaluation import result_rows, score_table
from aapo.fields import parse_flags
from aapo.progress import console
from aapo.reporting import write_report
from aapo.runs import RunDirectory
from aapo.training import Recipe, load_recipe
from aapo.training import train as train_recipe
from aapo.training.banks import bank_plan
from aapo.training.models import load_recipe_tokenizer, model_path, prepare_model
from aapo.training.prompts import check_number, checked_prompts, loaded_prompts
from aapo.training.run import check_output, default_output, planned_steps

transformers_logging.disable_progress_bar()
datasets.disable_progress_bars()


def _main_process() -> bool:
    return PartialState().is_main_process


def train(source: str, flags: Sequence[str], *, dry_run: bool, resume: bool) -> None:
    """Train, evaluate, report; or with `dry_run` print the plan."""
    recipe = load_recipe(source, flags)
    output = _output(recipe, source, flags, resume=resume)
    if dry_run:
        _print_plan(recipe, output, resume=resume)
        return
    if _main_process():
        console.print(f"run directory {output}")
    result = train_recipe(recipe, output, resume=resume)
    if result.interrupted:
        raise AapoError(f"interrupted; a checkpoint is saved, go on with `aapo train {output} --resume`")
    if _main_process():
        if result.evaluations:
            print_table(score_table(result_rows(result.evaluations)))
        page = write_report([result.run.path])
        console.print(f"report {page}")
        console.print(f"run directory {output}")


def _output(recipe: Recipe, source: str, flags: Sequence[str], *, resume: bool) -> Path:
    """The run directory: the one that is the recipe, the one named, or a new one; the same on all processes."""
    if (Path(source) / "recipe.yaml").exists() and "output_dir" not in parse_flags(flags):
        return Path(source)
    if "output_dir" in recipe.given:
        return Path(recipe.given["output_dir"])
    if resume:
        runs = sorted(path for path in Path("runs").glob(f"{recipe.name}-*") if (path / "recipe.yaml").exists())
        if not runs:
            raise InputError(f"there is no run of {recipe.name} in runs/ to resume; name its folder with --output_dir")
        return runs[-1]
    return broadcast_object_list([default_output(recipe)])[0]


def _print_plan(recipe: Recipe, output: Path, *, resume: bool) -> None:
    """What a recipe resolves to, and what is built, reused and written."""
    console.print(yaml.safe_dump(recipe.resolved(), sort_keys=False), end="", markup=False)
    path = model_path(recipe)
    exists = recipe.base_model is None or Path(path).exists()
    lines = {"model": f"{path} ({'reused' if exists else 'will be built'})"}
    if exists:
        tokenizer = load_recipe_tokenizer(recipe, path, recipe.model.model_revision)
        checked = checked_prompts(recipe, tokenizer)
        prompts = checked.rows
        if checked.notes():
            lines["prompts"] = "; ".join(checked.notes())
        if recipe.uses_bank:
            lines["bank"] = bank_plan(recipe, prompts, tokenizer)
    else:
        prompts = loaded_prompts(recipe, "train")
        check_number(recipe, len(prompts))
        if recipe.uses_bank:
            samples = len(prompts) * recipe.run.num_reference_samples
            lines["bank"] = f"will be built after the model: {samples} samples"
    steps = planned_steps(recipe, len(prompts))
    rollouts = steps * (recipe.training.generation_batch_size or 0)
    lines["training"] = f"{len(prompts)} prompts, {steps} steps, {rollouts} rollouts"
    if recipe.data.num_eval_prompts:
        held_out = len(loaded_prompts(recipe, "test"))
        lines["evaluation"] = f"{held_out} held-out prompts x {recipe.run.eval_num_samples} samples, before and after"
    check_output(RunDirectory(output), recipe, resume=resume)
    lines["writes"] = f"{output} ({'resumes the run there' if resume else 'new'})"
    console.print("plan:")
    for key, value in lines.items():
        console.print(f"  {key}: {value}", markup=False)


def base_build(source: str, flags: Sequence[str]) -> None:
    """Make the recipe's base model and print its folder."""
    recipe = load_recipe(source, flags)
    if recipe.base_model is None:
        raise InputError(f"recipe {source} has no base_model; it starts from {recipe.model.model_name_or_path}")
    console.print(f"base model {prepare_model(recipe)}")


def report(paths: Sequence[Path], output: Path | None) -> None:
    """Write the report of runs and evaluations and print where it is."""
    console.print(f"report {write_report(paths, output)}", markup=False)

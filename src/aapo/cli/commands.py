"""What the subcommands do; heavy imports live here, so that `--help` is instant."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from transformers.utils import logging as transformers_logging

from aapo.cli.interrupting import interrupted
from aapo.cli.plan import print_plan
from aapo.cli.tables import print_table
from aapo.errors import AapoError, InputError
from aapo.evaluation import result_rows, score_table
from aapo.progress import console
from aapo.ranks import launched
from aapo.recipe import load_recipe, read_recipe, recipe_flags, resolve
from aapo.runs import RunDirectory
from aapo.training import train as train_recipe
from aapo.training.models import prepare_model
from aapo.training.run import TrainingResult, default_output, newest_run

transformers_logging.disable_progress_bar()
datasets.disable_progress_bars()


def _main_process() -> bool:
    return launched().is_main


def train(source: str, flags: Sequence[str], *, dry_run: bool, resume: bool, show_samples: bool) -> None:
    """Train, evaluate, report; or with `dry_run` print the plan."""
    name, given = read_recipe(source, flags)
    if resume:
        given = {**_begun(_output(name, given, source, flags, resume=True)), **given}
    recipe = resolve(name, given)
    if show_samples and (not recipe.uses_bank or recipe.run.preflight == "off"):
        reason = "preflight is off" if recipe.uses_bank else "the run has no reference bank"
        raise InputError(f"--show-samples has no effect, because {reason}; leave it out")
    output = _output(name, given, source, flags, resume=resume)
    if dry_run:
        print_plan(recipe, output, resume=resume)
        return
    if _main_process():
        console.print(f"run directory {output}")
    how = "train" if recipe.cluster is None else "cluster"
    resumed = f"go on with `aapo {how} {output} --resume`"
    try:
        result = train_recipe(recipe, output, resume=resume, show_samples=show_samples)
        if result.interrupted:
            raise AapoError(f"interrupted; a checkpoint is saved, {resumed}")
        if _main_process():
            _report(result, output)
    except KeyboardInterrupt as error:
        begun = RunDirectory(output).recipe_file.exists()
        raise interrupted(
            error, f"what is done so far is kept, {resumed if begun else 'the same command goes on'}"
        ) from error


def _report(result: TrainingResult, output: Path) -> None:
    from aapo.reporting import write_report

    if result.evaluations:
        print_table(score_table(result_rows(result.evaluations)))
    page = write_report([result.run.path])
    console.print(f"report {page}")
    console.print(f"run directory {output}")


def _begun(output: Path) -> dict[str, Any]:
    """The number of processes that a run's batch is meant for, those that it was begun on."""
    run = RunDirectory(output)
    stored = run.recipe()["fields"] if run.recipe_file.exists() else {}
    return {key: value for key, value in stored.items() if key == "num_processes"}


def _output(name: str, given: dict[str, Any], source: str, flags: Sequence[str], *, resume: bool) -> Path:
    """The run directory: the one that is the recipe, the one named, or a new one; the same on all processes."""
    if (Path(source) / "recipe.yaml").exists() and "output_dir" not in recipe_flags(flags):
        return Path(source)
    if given.get("output_dir") is not None:
        return Path(str(given["output_dir"]))
    if resume:
        return newest_run(name)
    return launched().gather([default_output(name)])[0]


def base_build(source: str, flags: Sequence[str]) -> None:
    """Make the recipe's base model and print its folder."""
    recipe = load_recipe(source, flags)
    if recipe.base_model is None:
        raise InputError(f"recipe {source} has no base_model; it starts from {recipe.model.model_name_or_path}")
    console.print(f"base model {prepare_model(recipe)}")

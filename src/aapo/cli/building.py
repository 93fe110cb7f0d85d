"""Subcommands that build base models, banks and trained models."""

from typing import Annotated

import typer

from aapo.cli.declaring import FLAGS, BankArgument, OutputOption, RecipeArgument, app, bank_app, base_app
from aapo.errors import InputError

ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")]
SamplesOption = Annotated[
    bool, typer.Option("--show-samples", help="Print three reference samples with their verdicts.")
]


@app.command(context_settings=FLAGS)
def train(
    context: typer.Context,
    recipe: RecipeArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be run, built, reused, written.")
    ] = False,
    resume: ResumeOption = False,
    show_samples: SamplesOption = False,
) -> None:
    """Train a model by a recipe, evaluate it and write its report.

    Every field of the recipe can be set as `--field value`, and entries of a mapping as `--field.entry value`.
    `--output_dir` names the run directory.
    """
    from aapo.cli import commands

    commands.train(recipe, context.args, dry_run=dry_run, resume=resume, show_samples=show_samples)


@app.command(context_settings=FLAGS)
def cluster(
    context: typer.Context,
    recipe: RecipeArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print verl's command, and what each field of the recipe becomes.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from verl's newest checkpoint.")] = False,
    show_samples: SamplesOption = False,
) -> None:
    """Train a model by a recipe on verl, on one machine or many, evaluate it and write its report.

    As `aapo train` with `--backend verl`. `--cluster.num_nodes`, `--cluster.gpus_per_node` and the like say what it is
    spread over; docs/cluster.md shows a job on Slurm and one on Kubernetes.
    """
    from aapo.cli import commands

    if any(word.partition("=")[0] == "--backend" for word in context.args):
        raise InputError("--backend has no place here, because `aapo cluster` trains on verl; leave it out")
    flags = ["--backend", "verl", *context.args]
    commands.train(recipe, flags, dry_run=dry_run, resume=resume, show_samples=show_samples)


@base_app.command("build", context_settings=FLAGS)
def base_build(context: typer.Context, recipe: RecipeArgument) -> None:
    """Make the recipe's base model, unless the cache has it, and print its folder."""
    from aapo.cli import commands

    commands.base_build(recipe, context.args)


@bank_app.command("build", context_settings=FLAGS)
def bank_build(
    context: typer.Context,
    recipe: RecipeArgument,
    engine: Annotated[
        str | None, typer.Option(help="transformers or vllm; by default what draws the recipe's rollouts.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All training prompts, not only those that the planned steps come to.")
    ] = False,
    output: OutputOption = None,
) -> None:
    """Sample and score the reference model on the training prompts that the recipe's planned steps come to.

    Training does it by itself. A build that was stopped goes on where it was, and what is there is left as it is. With
    other reward functions the samples are kept and scored anew.
    """
    from aapo.cli import banks

    banks.build(recipe, context.args, output, engine, everything=everything)


@bank_app.command("show")
def bank_show(
    bank: BankArgument,
    judge: Annotated[
        str | None, typer.Option(help="Reward function that says what is right; by default the first with verdicts.")
    ] = None,
    judge_threshold: Annotated[
        float | None, typer.Option("--judge_threshold", help="Where it logs no verdicts: least reward of a right one.")
    ] = None,
) -> None:
    """Print a bank's pass rates, dead share, lengths, score sets and identity."""
    from aapo.cli import banks
    from aapo.grading import Judge

    banks.show(bank, Judge(judge, judge_threshold))


@bank_app.command("rescore")
def bank_rescore(
    bank: BankArgument,
    reward_funcs: Annotated[
        str | None, typer.Option("--reward_funcs", help="Comma-separated; by default those of the newest scores.")
    ] = None,
    reward_kwargs: Annotated[
        str | None, typer.Option("--reward_kwargs", help="Their parameters, as '{NAME: {PARAMETER: VALUE}}'.")
    ] = None,
    reward_failure: Annotated[
        str, typer.Option("--reward_failure", help="When one raises: fail, or skip the sample.")
    ] = "fail",
) -> None:
    """Score a bank's samples anew, without sampling, and print what changes.

    The scores are kept beside the earlier ones. A rescoring that was stopped goes on where it was.
    """
    from aapo.cli import banks

    banks.rescore(bank, reward_funcs, reward_kwargs, reward_failure)

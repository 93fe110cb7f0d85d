"""Subcommands that compare algorithms, and those for what is there: runs, recipes, models."""

from pathlib import Path
from typing import Annotated

import typer

from aapo.cli.declaring import FLAGS, RECIPE_HELP, OutputOption, app, listed, shipped, whole
from aapo.errors import InputError


@app.command(context_settings=FLAGS)
def compare(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|PLAN", help=f"{RECIPE_HELP} Or a plan file.")],
    algorithms: Annotated[str | None, typer.Option(help="Comma-separated, as a recipe names them.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated; by default 0,1,2,3,4.")] = None,
    sweep: Annotated[list[str] | None, typer.Option(help="FIELD=V1,V2,...; every combination is run.")] = None,
    match: Annotated[
        str | None, typer.Option(help="What runs have the same amount of: steps (default), tokens or seconds.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, help="Tokens or seconds of each run, its reference samples counted.")
    ] = None,
    bank_cost: Annotated[
        str | None,
        typer.Option("--bank-cost", help="Of its reference samples a run pays: run (all, default), amortised, free."),
    ] = None,
    curve_points: Annotated[
        int | None, typer.Option("--curve-points", min=0, help="Held-out evaluations of a run while it trains, 5.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at the same time; by default one a device.")] = None,
    devices: Annotated[
        str | None, typer.Option(help="GPUs of each job: 0,1,2 (one each) or 0+1,2+3 (two each).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs, start none.")] = False,
    output: OutputOption = None,
) -> None:
    """Train algorithms by one recipe over seeds and say which is better, or that it cannot be told.

    Same base model, prompts in the same order, bank and evaluation for all. Every field of the recipe can be set as
    `--field value`. A comparison that was interrupted goes on where it was; further seeds and algorithms add to it. A
    plan file fixes all of it beforehand, and can have settings tuned on seeds of their own.
    """
    from aapo.cli import comparing

    options = comparing.CompareOptions(
        algorithms=listed(algorithms) if algorithms is not None else None,
        seeds=[whole("--seeds", part) for part in listed(seeds)] if seeds is not None else None,
        sweep=sweep,
        match=match,
        budget=budget,
        bank_cost=bank_cost,
        curve_points=curve_points,
        jobs=jobs,
        devices=[part.replace("+", ",") for part in listed(devices or "")],
        dry_run=dry_run,
        output=output,
    )
    comparing.compare(recipe, options, context.args)


@app.command("replay")
def replay_run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    algorithms: Annotated[
        str, typer.Option(help="Comma-separated, as a recipe names them; all that can be replayed by default.")
    ] = "",
    bank: Annotated[
        Path | None, typer.Option("--bank", help="Reference rewards; by default those stored with the rollouts.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="JSON file to write, with every step.")] = None,
) -> None:
    """Recompute what other algorithms would have made of a run's rollouts: no model, no GPU."""
    from aapo.cli import experiments

    experiments.replay(run, listed(algorithms), bank, output)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Runs, evaluations, comparisons.")],
    output: Annotated[Path | None, typer.Option("--output", help="HTML file to write.")] = None,
) -> None:
    """Write the report of a run, an evaluation or a comparison, or of several on one page."""
    from aapo.progress import console
    from aapo.reporting import write_report

    console.print(f"report {write_report(folders, output)}")


@app.command(context_settings=FLAGS)
def doctor(
    context: typer.Context,
    target: Annotated[
        str | None, typer.Argument(metavar="RECIPE|RUN|BANK", help="By default the environment alone.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Draw a recipe's first rollouts in every way, and time it.")
    ] = False,
) -> int:
    """Say what is wrong with a recipe, a run or a bank and with the environment, the most severe first, and what to do.

    Nothing is built, nor sampled without --measure. Fields of a recipe can be set as `--field value`. Exits with 1
    where a finding is an error, with which training cannot work; with 0 otherwise.
    """
    from aapo.cli import doctor as examining

    words = [word for word in (target, *context.args) if word is not None]
    named = words[0] if words and not words[0].startswith("--") else None
    return examining.doctor(named, words[named is not None :], as_json=as_json, measure=measure)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A recipe to print.")] = None,
) -> None:
    """List the shipped recipes, or print one."""
    shipped("recipes", name)


@app.command()
def merge(
    source: Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or an adapter's folder.")],
    output: OutputOption = None,
) -> None:
    """Merge a LoRA run's adapter into its base: a whole model folder."""
    from aapo.cli import publishing

    publishing.merge(source, output)


@app.command()
def publish(
    run_directory: Annotated[str, typer.Argument(metavar="RUN", help="A finished run directory.")],
    push: Annotated[str | None, typer.Option("--push", help="Hub repository, owner/name, to upload it to.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    adapter: Annotated[bool, typer.Option("--adapter", help="Leave a LoRA adapter unmerged.")] = False,
    output: OutputOption = None,
) -> None:
    """Write a model folder ready for the Hub, with its model card; upload it only if asked."""
    from aapo.cli import publishing

    if private and push is None:
        raise InputError("--private has no effect without --push; name the repository")
    publishing.publish_run(run_directory, output, push, private=private, adapter=adapter)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a model folder, a LoRA adapter or a Hub name.")],
    temperature: Annotated[float | None, typer.Option(min=0, help="Of the sampling; a run's own by default.")] = None,
    max_completion_length: Annotated[
        int | None, typer.Option("--max_completion_length", min=1, help="Most tokens of an answer.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same questions with the same seed get the same answers.")] = 0,
) -> None:
    """Try a model in the terminal, streaming; with a question from a pipe, print the answer."""
    from aapo.cli import chat as talking

    talking.chat(model, temperature, max_completion_length, seed)


@app.command("import-config", context_settings=FLAGS)
def import_config(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="YAML configurations and .sh scripts.")],
    output: Annotated[Path, typer.Option("--output", help="Recipe to write, .yaml.")],
    source_format: Annotated[
        str | None, typer.Option("--format", help="aapo, gpg, open-rs, open-r1 or trl; recognised by default.")
    ] = None,
    upstream: Annotated[
        str, typer.Option(help="corrected, or exact: with the published bugs that have a name here.")
    ] = "corrected",
) -> None:
    """Turn a configuration of the published AAPO, GPG, open-rs, open-r1 or TRL GRPO code into a recipe.

    Every key is taken over, explained or refused. Fields can be set as `--field value`.
    """
    from aapo.cli import importing

    if upstream not in ("corrected", "exact"):
        raise InputError(f"--upstream is {upstream!r}; it must be corrected or exact")
    # Fields stand among the files, which take all words that are left.
    words = [*map(str, files), *context.args]
    begin = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    paths = [Path(word) for word in words[:begin]]
    importing.import_files(paths, output, words[begin:], source_format=source_format, exact=upstream == "exact")


@app.command()
def launchers(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A configuration to print.")] = None,
) -> None:
    """List the shipped configurations of `accelerate launch`, or print one, to be saved as a file."""
    shipped("launchers", name)

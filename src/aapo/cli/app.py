"""The `aapo` command: its subcommands, and the one place that turns errors into messages.

Exit codes: 0 done; 2 the input is wrong; 1 it failed while running, or was interrupted.
"""

import logging
import os
import socket
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from aapo import stopping, watching
from aapo.cli.interrupting import Commands
from aapo.errors import AapoError, InputError, nearest
from aapo.messages import visible
from aapo.processes import end_with_parent
from aapo.ranks import finish

FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True}
# Commands that may look for models and data on the Hub.
REACHING = ("train", "cluster", "eval", "bank", "base", "compare", "chat", "doctor", "publish")
RECIPE_HELP = "A shipped recipe's name, a .yaml file, or a run directory."

app = typer.Typer(
    cls=Commands,
    help="Teach language models to reason with AAPO and verifiable rewards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
bank_app = typer.Typer(help="Build, inspect and rescore reference banks.", no_args_is_help=True)
base_app = typer.Typer(help="Build small base models from scratch.", no_args_is_help=True)
app.add_typer(bank_app, name="bank")
app.add_typer(base_app, name="base")
export_app = typer.Typer(help="Write our tasks for other tools.", no_args_is_help=True)
app.add_typer(export_app, name="export")

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help=RECIPE_HELP)]
BankArgument = Annotated[Path, typer.Argument(metavar="BANK", help="A bank's folder.")]
OutputOption = Annotated[Path | None, typer.Option("--output", help="Folder to write to.")]


@app.command(context_settings=FLAGS)
def train(
    context: typer.Context,
    recipe: RecipeArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be run, built, reused, written.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")] = False,
    show_samples: Annotated[
        bool, typer.Option("--show-samples", help="Print three reference samples with their verdicts.")
    ] = False,
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
    show_samples: Annotated[
        bool, typer.Option("--show-samples", help="Print three reference samples with their verdicts.")
    ] = False,
) -> None:
    """Train a model by a recipe on verl, on one machine or many, evaluate it and write its report.

    As `aapo train` with `--backend verl`. `--cluster.num_nodes`, `--cluster.gpus_per_node` and the like say what it is
    spread over; docs/cluster.md shows a job on Slurm and one on Kubernetes.
    """
    from aapo.cli import commands

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


@app.command("eval", context_settings=FLAGS)
def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, a LoRA adapter, a Hub name or a run.")],
    tasks: Annotated[str, typer.Option(help="Comma-separated benchmarks, reasoning_gym:TASK, data or .yaml files.")],
    also: Annotated[str | None, typer.Option("--models", help="Further models, comma-separated.")] = None,
    protocol: Annotated[str | None, typer.Option(help="A shipped protocol or a .yaml file; `aapo protocols`.")] = None,
    num_samples: Annotated[int | None, typer.Option("--num-samples", min=1, help="Samples per problem.")] = None,
    k: Annotated[str | None, typer.Option("--k", help="Comma-separated k of pass@k and maj@k; by default n.")] = None,
    checkpoints: Annotated[
        str | None, typer.Option(help="Of a run: all, or comma-separated steps, base, final.")
    ] = None,
    dev_tasks: Annotated[str, typer.Option("--dev-tasks", help="Tasks that choose among checkpoints.")] = "",
    against: Annotated[str | None, typer.Option(help="A model, a result, or of a run: base.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a Hub model.")] = None,
    engine: Annotated[str, typer.Option(help="transformers, vllm, or your own as file.py:NAME.")] = "transformers",
    dtype: Annotated[
        str | None, typer.Option(help="Precision of the weights; by default a run's own, else the model's.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Sequences sampled at once.")] = None,
    tensor_parallel_size: Annotated[int, typer.Option("--tensor-parallel-size", min=1, help="GPUs a model.")] = 1,
    share: Annotated[
        str | None, typer.Option(help="I/N: sample only that share (0/4 ... 3/4), for N jobs with one cache.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples.")] = 0,
    published: Annotated[str | None, typer.Option(help="Rows of the paper's Table 1: 'Qwen 1.5B', ... or all.")] = None,
    mix_protocols: Annotated[bool, typer.Option("--mix-protocols", help="Compare across protocols.")] = False,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own code.")] = False,
    output: OutputOption = None,
) -> None:
    """Evaluate a model on benchmarks, every score with its 95% interval.

    Settings of the protocol and of tasks can be set as `--setting value`. An evaluation that was interrupted goes on
    where it was; a finished one is found again by the model's weights.
    """
    from aapo.cli import evaluation

    options = evaluation.Options(
        tasks=_named("--tasks", tasks),
        dev_tasks=_listed(dev_tasks),
        protocol=protocol,
        num_samples=num_samples,
        ks=None if k is None else [_whole("--k", part) for part in _named("--k", k)],
        checkpoints=checkpoints if checkpoints is None else ",".join(_named("--checkpoints", checkpoints)),
        against=against,
        revision=revision,
        engine=engine,
        dtype=dtype,
        batch_size=batch_size,
        tensor_parallel_size=tensor_parallel_size,
        share=_share(share),
        seed=seed,
        published=published,
        mix_protocols=mix_protocols,
        trust_remote_code=trust_remote_code,
        output=output,
    )
    evaluation.evaluate_models([model, *_listed(also or "")], options, context.args)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _named(option: str, text: str) -> list[str]:
    if not (names := _listed(text)):
        raise InputError(f"{option} is empty; name at least one, with commas between several")
    return names


def _whole(option: str, text: str) -> int:
    if not text.isdecimal():
        raise InputError(f"{option} is {text!r}; it must be whole numbers with commas")
    return int(text)


def _share(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise InputError(f"--share is {text!r}; it must be I/N with I from 0 to N - 1, such as 0/4")
    return int(index), int(count)


@app.command()
def table(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Folders that `aapo eval` wrote.")],
    form: Annotated[str, typer.Option("--format", help="terminal, markdown, latex or json.")] = "terminal",
    published: Annotated[str | None, typer.Option(help="Rows of the paper's Table 1: 'Qwen 1.5B', ... or all.")] = None,
    mix_protocols: Annotated[
        bool, typer.Option("--mix-protocols", help="Show several protocols in one table.")
    ] = False,
) -> None:
    """Print results of several evaluations as one table, beside the paper's."""
    from aapo.cli import evaluation

    evaluation.show_tables(results, form, published, mix_protocols=mix_protocols)


@export_app.command("lighteval")
def export_lighteval(
    output: Annotated[Path, typer.Argument(metavar="FILE", help="Python file to write.")],
    tasks: Annotated[str | None, typer.Option(help="Comma-separated benchmarks; all shipped ones by default.")] = None,
    protocol: Annotated[str, typer.Option(help="A shipped protocol or a .yaml file.")] = "aapo",
) -> None:
    """Write benchmarks as a file of custom tasks for lighteval 0.13, with prefixed names."""
    from aapo.evaluation import load_protocol
    from aapo.evaluation.lighteval import write_lighteval_tasks
    from aapo.tasks import find_benchmark, shipped_benchmarks

    chosen = [find_benchmark(name) for name in _listed(tasks)] if tasks else list(shipped_benchmarks().values())
    write_lighteval_tasks(output, chosen, load_protocol(protocol))
    print(f"lighteval tasks {output}")


@app.command()
def protocols(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A protocol to print.")] = None,
) -> None:
    """List the shipped evaluation protocols, or print one."""
    _shipped("protocols", name)


@app.command()
def grade(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL or Parquet with columns gold and completion.")],
    output: Annotated[Path, typer.Option("--output", help="File to write, JSONL or Parquet.")],
    convention: Annotated[
        str | None, typer.Option(help="Where else an answer may stand: choice, hashes or final_answer.")
    ] = None,
    evaluated: Annotated[
        bool, typer.Option("--evaluated/--no-evaluated", help="Whether 3+5 is wrong where the gold answer is 8.")
    ] = True,
    unfinished_thoughts: Annotated[
        bool,
        typer.Option(
            "--unfinished-thoughts/--no-unfinished-thoughts",
            help="Whether an answer inside a <think> that never ends counts.",
        ),
    ] = False,
    grader: Annotated[str, typer.Option(help="aapo, or to compare open_r1 or accuracy_lv35.")] = "aapo",
    workers: Annotated[int | None, typer.Option(help="Worker processes; two by default.")] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for one comparison.")] = 3.0,
) -> None:
    """Grade completions against gold answers; each row gets verdict, extracted and rule.

    A call that was interrupted goes on where it was.
    """
    from aapo.cli import grading

    options = {
        "convention": convention, "evaluated": evaluated, "unfinished_thoughts": unfinished_thoughts, "grader": grader,
    }  # fmt: skip
    grading.grade(source, output, options, workers, time_limit)


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
        algorithms=_listed(algorithms) if algorithms is not None else None,
        seeds=[_whole("--seeds", part) for part in _listed(seeds)] if seeds is not None else None,
        sweep=sweep,
        match=match,
        budget=budget,
        bank_cost=bank_cost,
        curve_points=curve_points,
        jobs=jobs,
        devices=[part.replace("+", ",") for part in _listed(devices or "")],
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

    experiments.replay(run, _listed(algorithms), bank, output)


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
    _shipped("recipes", name)


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
    _shipped("launchers", name)


def _shipped(folder: str, name: str | None) -> None:
    """List the YAML files of a folder of the package with their first lines, or print one."""
    from importlib.resources import files

    texts = {
        Path(entry.name).stem: entry.read_text(encoding="utf-8")
        for entry in (files("aapo") / folder).iterdir()
        if entry.name.endswith(".yaml")
    }
    if name is None:
        for key in sorted(texts):
            print(f"{key:46} {texts[key].splitlines()[0].lstrip('# ')}")
    elif name in texts:
        print(texts[name], end="")
    else:
        what = folder.removesuffix("s")
        raise InputError(f"unknown {what} {name!r}{nearest(name, texts)}; shipped are {', '.join(sorted(texts))}")


def main() -> None:
    """Run the command line and exit."""
    stopping.listen()
    end_with_parent()
    watching.want_watch()
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if not debug:
        _quiet()
    code = run(arguments, debug=debug)
    stopping.leave()
    if code == 0:  # a process that failed does not wait for the others
        finish()
    sys.exit(code)


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Run the command line; the exit code. Errors become one line on standard error, with `debug` a traceback."""
    try:
        if arguments[:1] and arguments[0] in REACHING:
            _offline()
        return int(app(arguments, standalone_mode=False) or 0)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        with stopping.ignored():
            if debug:
                traceback.print_exc()
            message, code = _explain(error)
            said = visible(" ".join(message.split()))
            watching.say(said, interrupted=isinstance(error.__cause__ or error, KeyboardInterrupt))
        return code


def _explain(error: BaseException) -> tuple[str, int]:
    """One line for the user, and the exit code."""
    from typer.exceptions import TyperException

    from aapo.files import is_full

    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, AapoError):
        return str(error), 1
    if isinstance(error, TyperException):
        return error.format_message(), 2
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return "interrupted before anything was begun", 1
    if isinstance(error, SystemExit):
        return f"the program was ended from inside, by exit({error.code}) (--debug shows where)", 1
    if watching.is_lost_connection(error):
        return "another process of this launch has ended, so this one stops; what is on disk is whole", 1
    if is_full(error):
        return "no disk space left; nothing was half-written, free some and go on with --resume", 1
    return f"{type(error).__name__}: {' '.join(str(error).split())} (--debug shows where)", 1


def _offline() -> None:
    """Tell the Hub's libraries, before they are imported, that there is no way to it; they would try for minutes."""
    if any(os.environ.get(name) for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"


def _quiet() -> None:
    """Keep libraries' chatter off the terminal; their errors stay."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    for name in ("transformers", "trl", "accelerate", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)

"""Subcommands that evaluate models and grade completions."""

from pathlib import Path
from typing import Annotated

import typer

from aapo.cli.declaring import FLAGS, OutputOption, app, export_app, listed, named, shipped, whole
from aapo.errors import InputError


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
        tasks=named("--tasks", tasks),
        dev_tasks=listed(dev_tasks),
        protocol=protocol,
        num_samples=num_samples,
        ks=None if k is None else [whole("--k", part) for part in named("--k", k)],
        checkpoints=checkpoints if checkpoints is None else ",".join(named("--checkpoints", checkpoints)),
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
    evaluation.evaluate_models([model, *listed(also or "")], options, context.args)


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

    chosen = [find_benchmark(name) for name in listed(tasks)] if tasks else list(shipped_benchmarks().values())
    write_lighteval_tasks(output, chosen, load_protocol(protocol))
    print(f"lighteval tasks {output}")


@app.command()
def protocols(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A protocol to print.")] = None,
) -> None:
    """List the shipped evaluation protocols, or print one."""
    shipped("protocols", name)


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

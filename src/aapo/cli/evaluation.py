"""What `aapo eval` and `aapo table` do."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import datasets
from transformers.utils import logging as transformers_logging

from aapo.bank import digest
from aapo.cli.tables import print_table
from aapo.engines.spec import ModelSpec
from aapo.errors import InputError, nearest
from aapo.evaluation import (
    DEFAULT,
    Evaluation,
    EvaluationJob,
    Protocol,
    Task,
    benchmark_task,
    check_protocols,
    difference_rows,
    difference_table,
    latex,
    load_protocol,
    markdown,
    metric_table,
    model_sources,
    published_rows,
    quality_table,
    read_evaluations,
    read_results,
    result_rows,
    sample_evaluations,
    save_results,
    score_table,
    select,
)
from aapo.evaluation.published import Published
from aapo.evaluation.results import RESULTS, Row, Selection, check_ks, headline_differences, with_short_names
from aapo.evaluation.tables import difference_sentence
from aapo.fields import checked, field_types, parse_flags
from aapo.files import check_folder, write_text
from aapo.progress import console
from aapo.ranges import check
from aapo.ranks import Ranks, launched
from aapo.recipe import Recipe, load_recipe
from aapo.reporting import write_report
from aapo.runs import RunDirectory
from aapo.tasks import STYLE_FIELD, Benchmark
from aapo.training.held_out import held_out_task, recipe_protocol
from aapo.training.models import model_spec

transformers_logging.disable_progress_bar()
datasets.disable_progress_bars()

HELD_OUT = "held_out"
FORMATS = ("terminal", "markdown", "latex", "json")


@dataclass(frozen=True)
class Options:
    """The options of `aapo eval`, as the command line gives them."""

    tasks: list[str]
    dev_tasks: list[str]
    protocol: str | None
    num_samples: int | None
    ks: list[int] | None
    checkpoints: str | None
    against: str | None
    revision: str | None
    engine: str
    dtype: str | None
    batch_size: int | None
    tensor_parallel_size: int
    share: tuple[int, int] | None
    seed: int
    published: str | None
    mix_protocols: bool
    trust_remote_code: bool
    output: Path | None


def evaluate_models(models: Sequence[str], options: Options, flags: Sequence[str]) -> None:
    """Evaluate models on tasks, print the tables and write the evaluation folder."""
    if options.dtype is not None:
        check("dtype", options.dtype, "--")
    if options.output is not None:
        check_folder(options.output, "--output")
    recipe = _recipe(models[0])
    protocol, changes = _protocol(recipe, options, parse_flags(flags, _settings()))
    sources = [
        _as_loaded(source, _recipe(model), options)
        for model in models
        for source in model_sources(model, options.revision, options.checkpoints)
    ]
    published = published_rows(options.published) if options.published else []
    others = _against(options, models[0], protocol)
    if twice := set(options.tasks) & set(options.dev_tasks):
        raise InputError(f"{twice.pop()} is among --tasks and --dev-tasks; choose checkpoints on other problems")
    tasks = [_task(name, recipe, protocol, changes) for name in options.tasks]
    dev_tasks = [_task(name, recipe, protocol, changes) for name in options.dev_tasks]
    for task in (*tasks, *dev_tasks):
        check_ks(task.name, task.num_samples, options.ks or ())
    candidates = [*sources, *([others] if isinstance(others, ModelSpec) and others not in sources else [])]
    ranks = launched() if options.share is None else Ranks(*options.share)
    jobs = sample_evaluations(
        candidates,
        [*tasks, *dev_tasks],
        protocol,
        ranks=ranks,
        engine=options.engine,
        seed=options.seed,
        batch_size=options.batch_size,
        engine_options={"tensor_parallel_size": options.tensor_parallel_size} if options.engine == "vllm" else {},
    )
    if not launched().is_main:
        return
    if options.share is not None:
        console.print("this share is sampled; when all are, the same command without --share collects them")
        return
    collected = [job.collect() for job in jobs]
    # A model that is evaluated only to be held against stands in the table too.
    everything = [item for item in collected if item.task in {task.name for task in tasks}]
    development = [item for item in collected if item.task in {task.name for task in dev_tasks}]
    names = {source.name for source in sources}
    evaluations = [item for item in everything if item.model in names]
    if isinstance(others, list):
        held_against = others
        everything += [item for item in others if item.model not in names]
    else:
        held_against = [item for item in everything if others is not None and item.model == others.name]
    rows, differences = result_rows(everything, options.ks), difference_rows(evaluations, held_against)
    check_protocols(rows, mix=options.mix_protocols)
    selected = None
    if len(sources) > 1 and options.checkpoints is not None:
        selected = select([source.name for source in sources], development, evaluations)
    notes = [] if selected is None else [selected.sentence]
    output = options.output or _default_output(models[0], protocol, jobs, options)
    protocols = protocol.describe()
    save_results(output, everything, rows, differences, protocols, notes=notes, published=options.published)
    main = score_table(rows, published, notes)
    write_text(output / "table.md", markdown(main))
    write_text(output / "table.tex", latex(main))
    _print_results(rows, differences, published, selected)
    console.print(f"results {output / RESULTS}")
    console.print(f"report {write_report([output])}")


def _recipe(model: str) -> Recipe | None:
    """The recipe of a run directory; None for another model."""
    return load_recipe(model) if RunDirectory(model).recipe_file.exists() else None


def _protocol(recipe: Recipe | None, options: Options, given: dict[str, Any]) -> tuple[Protocol, dict[str, Any]]:
    """The protocol with the settings asked for, and what was asked for of the tasks.

    A run directory is evaluated by its recipe's protocol unless another is named.
    """
    changes = {key: value for key, value in given.items() if key in _task_fields()}
    settings = {key: value for key, value in given.items() if key not in changes}
    for key in settings:
        if key not in _settings():
            raise InputError(
                f"unknown option --{key}{nearest(key, _settings())}; settings are those of a protocol or a task"
            )
    if options.protocol is None and recipe is not None:
        protocol = recipe_protocol(recipe)
    else:
        protocol = load_protocol(options.protocol or DEFAULT)
    if options.num_samples is not None:
        if "num_samples" in settings:
            raise InputError("--num-samples and --num_samples are the same, and both are given; leave one out")
        settings["num_samples"] = options.num_samples
    return protocol.changed(settings), changes


def _settings() -> dict[str, Any]:
    """Types of what flags can set."""
    kinds = field_types(Benchmark)
    return {**field_types(Protocol), STYLE_FIELD: str, **{name: kinds[name] for name in _task_fields()}}


def _task_fields() -> list[str]:
    """Fields of a task that flags can set; the protocol says how many samples."""
    return [item.name for item in fields(Benchmark) if item.name not in ("name", "dataset_name", "num_samples")]


def _against(options: Options, model: str, protocol: Protocol) -> list[Evaluation] | ModelSpec | None:
    """What the models are held against: stored evaluations, or a model yet to evaluate.

    Raises:
        InputError: Stored results are of another protocol.
    """
    if options.against is None:
        return None
    path = Path(options.against)
    if path.name == RESULTS or (path / RESULTS).exists():
        found = read_evaluations(path)
        labels = {item.protocol for item in found} - {protocol.label}
        if labels and not options.mix_protocols:
            raise InputError(
                f"{path} was evaluated by {', '.join(sorted(labels))} and this evaluation is by {protocol.label}; "
                "choose the same --protocol and settings, or compare all the same with --mix-protocols"
            )
        return found
    if options.against == "base":
        return _as_loaded(model_sources(model, None, "base")[0], _recipe(model), options)
    return _as_loaded(model_sources(options.against)[0], _recipe(options.against), options)


def _task(name: str, recipe: Recipe | None, protocol: Protocol, changes: dict[str, Any]) -> Task:
    """The problems that a name on the command line stands for.

    `held_out`, and the data set that a run was trained on, are the run's held-out prompts.
    """
    kinds = field_types(Benchmark)
    changes = {key: checked(key, value, kinds[key]) for key, value in changes.items()}
    if recipe is not None and name in (HELD_OUT, recipe.data.dataset_name):
        return held_out_task(recipe, protocol, changes)
    if name == HELD_OUT:
        raise InputError(
            "held_out is the held-out side of a run's data, and the model is not a run directory; name a task"
        )
    return benchmark_task(name, protocol, changes)


def _as_loaded(spec: ModelSpec, recipe: Recipe | None, options: Options) -> ModelSpec:
    """The model with its weights read as the command line says, else as its run does."""
    if recipe is not None and options.dtype is None:
        return model_spec(recipe, spec.path, spec.revision, spec.name)
    return replace(spec, dtype=options.dtype or "auto", trust_remote_code=options.trust_remote_code)


def _default_output(model: str, protocol: Protocol, jobs: Sequence[EvaluationJob], options: Options) -> Path:
    """In a run directory a folder of this evaluation and no other, else `evaluations/NAME-DATE-TIME`."""
    run = RunDirectory(model)
    if run.recipe_file.exists():
        what = [[job.model, job.task, job.path.name, job.identity["rewards"], vars(job.judge)] for job in jobs]
        asked = [options.against, options.published, options.ks, options.dev_tasks]
        return run.evaluation / f"{protocol.label.replace('@', '-')}-{digest([what, asked])[:6]}"
    name = f"{Path(model).resolve().name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return launched().gather([Path("evaluations") / name])[0]


def show_tables(paths: Sequence[Path], form: str, published: str | None, *, mix_protocols: bool) -> None:
    """Print the results of several evaluations as one table."""
    if form not in FORMATS:
        raise InputError(f"--format is {form!r}{nearest(form, FORMATS)}; it must be {', '.join(FORMATS)}")
    rows = [row for path in paths for row in read_results(path)]
    check_protocols(rows, mix=mix_protocols)
    beside = published_rows(published) if published else []
    if form == "terminal":
        shown = with_short_names(rows)
        print_table(score_table(shown.rows, beside, shown.notes))
    elif form == "json":
        print(json.dumps(rows, indent=2))
    else:
        table = score_table(rows, beside)
        print(markdown(table) if form == "markdown" else latex(table), end="")


def _print_results(
    rows: Sequence[Row], differences: Sequence[Row], published: Sequence[Published], selected: Selection | None
) -> None:
    """Print the tables, and one sentence for each pair of models, about the average, or the only task."""
    shown = with_short_names(rows, differences)
    notes = [] if selected is None else [selected._replace(model=shown.names[selected.model]).sentence]
    tables = [score_table(shown.rows, published, [*shown.notes, *notes])]
    tables += [metric_table(shown.rows), quality_table(shown.rows)]
    tables += [difference_table(shown.differences) if differences else None]
    for table in tables:
        if table is not None:
            print_table(table)
    for row in headline_differences(shown.differences):
        console.print(difference_sentence(row))

"""What `aapo eval` and `aapo table` do."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from rich import box
from rich.table import Table
from transformers.utils import logging as transformers_logging

from aapo.bank import bank_identity, digest
from aapo.engines import LazyEngine, TransformersEngine, load_model, load_tokenizer, model_identity, tokenizer_identity
from aapo.errors import InputError, nearest
from aapo.evaluation import (
    DEFAULT,
    Evaluation,
    EvaluationJob,
    ModelSource,
    Protocol,
    ScoreTable,
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
    save_results,
    score_table,
    select,
)
from aapo.evaluation.published import Published
from aapo.evaluation.results import RESULTS, Row, Selection, headline_differences, with_short_names
from aapo.evaluation.tables import difference_sentence
from aapo.fields import field_types, parse_flags, typed
from aapo.files import write_text
from aapo.grading import Judge, RewardFunction, check_isolation, reward_name, with_convention
from aapo.progress import console, told_progress
from aapo.ranks import Ranks, launched
from aapo.recipe import Recipe, load_recipe, reward_functions
from aapo.records import Engine
from aapo.reporting import write_report
from aapo.runs import RunDirectory, cache_folder
from aapo.scoring import check_columns
from aapo.tasks import Benchmark, find_benchmark, pinned, tasks_of
from aapo.training.prompts import loaded_prompts
from aapo.training.run import held_out_task, recipe_protocol

transformers_logging.disable_progress_bar()
datasets.disable_progress_bars()

HELD_OUT = "held_out"
GRADING_FIELDS = ("reward_funcs", "reward_kwargs", "judge", "judge_threshold")
WIDE_COLUMNS = 4
NAME_COLUMNS, WORD_COLUMNS = ("model", "task"), ("task", "verdict")
VLLM_BATCH, TRANSFORMERS_BATCH = 1024, 256
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
    dtype: str
    batch_size: int | None
    tensor_parallel_size: int
    share: tuple[int, int] | None
    seed: int
    published: str | None
    mix_protocols: bool
    trust_remote_code: bool
    output: Path | None


@dataclass(frozen=True)
class Task:
    """Problems ready to be put to a model, and how their completions are graded."""

    name: str
    prompts: Dataset
    rewards: list[RewardFunction]
    judge: Judge
    num_samples: int


def evaluate_models(models: Sequence[str], options: Options, flags: Sequence[str]) -> None:
    """Evaluate models on tasks, print the tables and write the evaluation folder."""
    recipe = _recipe(models[0])
    protocol, changes = _protocol(recipe, options, parse_flags(flags))
    sources = [source for model in models for source in model_sources(model, options.revision, options.checkpoints)]
    _check_names(sources)
    published = published_rows(options.published) if options.published else []
    others = _against(options, models[0], protocol)
    if twice := set(options.tasks) & set(options.dev_tasks):
        raise InputError(f"{twice.pop()} is among --tasks and --dev-tasks; choose checkpoints on other problems")
    tasks = [_task(name, recipe, protocol, changes) for name in options.tasks]
    dev_tasks = [_task(name, recipe, protocol, changes) for name in options.dev_tasks]
    candidates = [*sources, *([others] if isinstance(others, ModelSource) and others not in sources else [])]
    jobs = [job for source in candidates for job in Candidate(source, protocol, options).sample([*tasks, *dev_tasks])]
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
    console.print(f"results {output / RESULTS}", markup=False)
    console.print(f"report {write_report([output])}", markup=False)


def _recipe(model: str) -> Recipe | None:
    """The recipe of a run directory; None for another model."""
    return load_recipe(model) if RunDirectory(model).recipe_file.exists() else None


def _protocol(recipe: Recipe | None, options: Options, given: dict[str, Any]) -> tuple[Protocol, dict[str, Any]]:
    """The protocol with the settings asked for, and what was asked for of the tasks.

    A run directory is evaluated by its recipe's protocol unless another is named.
    """
    changes = {key: value for key, value in given.items() if key in _task_fields()}
    settings = {key: value for key, value in given.items() if key not in changes}
    allowed = [*field_types(Protocol), *_task_fields()]
    for key in settings:
        if key not in field_types(Protocol):
            raise InputError(
                f"unknown option --{key}{nearest(key, allowed)}; settings are those of a protocol or a task"
            )
    if options.protocol is None and recipe is not None:
        protocol = recipe_protocol(recipe)
    else:
        protocol = load_protocol(options.protocol or DEFAULT)
    if options.num_samples is not None:
        settings["num_samples"] = options.num_samples
    return protocol.changed(settings), changes


def _task_fields() -> list[str]:
    """Fields of a task that flags can set; the protocol says how many samples."""
    return [item.name for item in fields(Benchmark) if item.name not in ("name", "dataset_name", "num_samples")]


def _check_names(sources: Sequence[ModelSource]) -> None:
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two models are called {name}; rename a folder, since results are stored by name")


def _against(options: Options, model: str, protocol: Protocol) -> list[Evaluation] | ModelSource | None:
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
        return model_sources(model, None, "base")[0]
    return model_sources(options.against)[0]


def _task(name: str, recipe: Recipe | None, protocol: Protocol, changes: dict[str, Any]) -> Task:
    """The problems that a name on the command line stands for.

    `held_out`, and the data set that a run was trained on, are the run's held-out prompts.
    """
    if recipe is not None and name in (HELD_OUT, recipe.data.dataset_name):
        if not recipe.data.num_eval_prompts:
            raise InputError(f"the run holds no prompts out (num_eval_prompts is 0), so there is no task {name}")
        asked = {key: value for key, value in _typed(changes).items() if key in GRADING_FIELDS}
        names, kwargs, failure = recipe.run.reward_funcs, recipe.run.reward_kwargs, recipe.run.reward_failure
        judge = recipe.training.judgement
        if asked:
            names, kwargs, failure = asked.get("reward_funcs", names), asked.get("reward_kwargs"), "fail"
            judge = Judge(asked.get("judge"), asked.get("judge_threshold"))
        convention = protocol.answer_convention or pinned(recipe.data).answer_convention
        rewards = reward_functions(names, with_convention(names, kwargs, convention), failure)
        judge.check([reward_name(function) for function in rewards])
        prompts = loaded_prompts(replace_style(recipe, protocol), "test")
        check_columns(rewards, prompts.column_names)
        check_isolation(rewards, tasks_of(prompts))
        limit = _typed(changes).get("num_problems")
        prompts = prompts.select(range(min(limit, len(prompts)))) if limit else prompts
        return Task(held_out_task(recipe), prompts, rewards, judge, protocol.num_samples)
    if name == HELD_OUT:
        raise InputError(
            "held_out is the held-out side of a run's data, and the model is not a run directory; name a task"
        )
    benchmark = replace(find_benchmark(name), **_typed(changes))
    names, kwargs = benchmark.rewards
    rewards = reward_functions(names, with_convention(names, kwargs, protocol.answer_convention), "fail")
    judge = Judge(benchmark.judge, benchmark.judge_threshold)
    judge.check([reward_name(function) for function in rewards])
    prompts = benchmark.load(protocol.style)
    check_columns(rewards, prompts.column_names)
    check_isolation(rewards, tasks_of(prompts))
    return Task(benchmark.name, prompts, rewards, judge, protocol.samples(benchmark.name, benchmark.num_samples))


def replace_style(recipe: Recipe, protocol: Protocol) -> Recipe:
    """The recipe with its prompts put as the protocol says."""
    style = protocol.style
    data = replace(
        recipe.data,
        system_prompt=style.system_prompt,
        prompt_template=style.prompt_template,
        conversational=style.conversational,
    )
    return replace(recipe, data=data)


def _typed(changes: dict[str, Any]) -> dict[str, Any]:
    kinds = field_types(Benchmark)
    return {key: typed(key, value, kinds[key]) for key, value in changes.items()}


class Candidate:
    """A model with its tokenizer, identity and engine, each made once, when it is needed."""

    def __init__(self, source: ModelSource, protocol: Protocol, options: Options) -> None:
        self.source = source
        self.protocol = protocol
        self.options = options
        batch_size = options.batch_size or (VLLM_BATCH if options.engine == "vllm" else TRANSFORMERS_BATCH)
        self.tokenizer = load_tokenizer(source.path, source.revision, trust_remote_code=options.trust_remote_code)
        self.engine = LazyEngine(self.tokenizer, lambda: self._load(batch_size), batch_size)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What is sampled from: the weights, their precision and the engine."""
        engine = {} if self.options.engine == "transformers" else {"engine": self.options.engine}
        return {
            **model_identity(self.source.path, self.source.revision), "precision": self.options.dtype, **engine,
        }  # fmt: skip

    def job(self, task: Task) -> EvaluationJob:
        """The model on a task."""
        identity = bank_identity(
            model=self.identity,
            tokenizer=tokenizer_identity(self.tokenizer),
            sampling=self.protocol.sampling.describe(),
            reward_funcs=task.rewards,
            num_samples=task.num_samples,
            seed=self.options.seed,
        )
        return EvaluationJob(
            self.source.name,
            task.name,
            self.protocol.label,
            task.prompts,
            self.engine,
            task.rewards,
            identity,
            cache_folder() / "evaluations",
            task.judge,
            self.protocol.chat_template_kwargs,
        )

    def sample(self, tasks: Sequence[Task]) -> list[EvaluationJob]:
        """The jobs of the tasks, after sampling what is missing; each process, or this call's share, does its part."""
        jobs = [self.job(task) for task in tasks]
        ranks = launched() if self.options.share is None else Ranks(*self.options.share)
        for job in jobs:
            with told_progress(f"{job.model} on {job.task}", visible=ranks.is_main) as tell:
                job.sample(tell, ranks=ranks)
        return jobs

    def _load(self, batch_size: int) -> Engine:
        source, options = self.source, self.options
        if options.engine == "vllm":
            from aapo.engines.vllm import VLLMEngine

            return VLLMEngine(
                source.path,
                self.tokenizer,
                self.protocol.sampling,
                revision=source.revision,
                dtype=options.dtype,
                tensor_parallel_size=options.tensor_parallel_size,
                trust_remote_code=options.trust_remote_code,
            )
        model: Any = load_model(
            source.path, source.revision, dtype=options.dtype, trust_remote_code=options.trust_remote_code
        )
        return TransformersEngine(model.to(PartialState().device), self.tokenizer, self.protocol.sampling, batch_size)


def _default_output(model: str, protocol: Protocol, jobs: Sequence[EvaluationJob], options: Options) -> Path:
    """In a run directory a folder of this evaluation and no other, else `evaluations/NAME-DATE-TIME`."""
    run = RunDirectory(model)
    if run.recipe_file.exists():
        what = [[job.model, job.task, job.path.name, job.identity["rewards"], vars(job.judge)] for job in jobs]
        asked = [options.against, options.published, options.ks, options.dev_tasks]
        return run.evaluation / f"{protocol.label.replace('@', '-')}-{digest([what, asked])[:6]}"
    name = f"{Path(model).resolve().name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Path(broadcast_object_list([str(Path("evaluations") / name)])[0])


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
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        table = score_table(rows, beside)
        print(markdown(table) if form == "markdown" else latex(table), end="")


def print_table(table: ScoreTable) -> None:
    """Print a table to the terminal."""
    shown = Table(caption="\n".join(table.notes) or None, caption_justify="left", box=box.SIMPLE_HEAD)
    narrow = len(table.columns) > WIDE_COLUMNS
    for index, column in enumerate(table.columns):
        words = index == 0 or column in WORD_COLUMNS
        head = column if words or not narrow else column.replace(" x ", "x").replace(" ", "\n")
        shown.add_column(head, justify="left" if words else "right", overflow="fold", no_wrap=column in NAME_COLUMNS)
    for row in table.rows:
        shown.add_row(*(cell.replace(" [", "\n[") if narrow else cell for cell in row))
    console.print(shown, markup=False)


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
        console.print(difference_sentence(row), markup=False)

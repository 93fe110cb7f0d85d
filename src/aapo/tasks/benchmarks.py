"""Problems that models are evaluated on: the field's benchmarks, generated tasks, local files, by one declaration."""

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import yaml
from datasets import Dataset

from aapo.errors import InputError, nearest
from aapo.fields import make, read_mapping
from aapo.files import read_text
from aapo.ranges import check_all
from aapo.tasks.checks import refuse_rows
from aapo.tasks.prompts import FILE_TYPES, GENERATED, DataConfig, MissingSourceError, in_shape, read_rows
from aapo.tasks.rendering import prompt_key
from aapo.tasks.styles import PromptStyle

NUM_GENERATED_PROBLEMS = 200
PROBLEM_KEY = "problem_key"


@dataclass(frozen=True)
class Benchmark:
    """A task to evaluate models on.

    Attributes:
        name: What it is called in results.
        dataset_name: `reasoning_gym:TASK`, a local file or folder, or the name of a Hub data set.
        dataset_config: Configuration of a Hub data set.
        dataset_revision: Revision of a Hub data set.
        dataset_split: The split to take; by default `test` where there is one, else everything.
        dataset_settings: Settings of a reasoning-gym task.
        dataset_seed: Seed of a reasoning-gym task.
        prompt_column: Column with the question; by default the first of prompt, problem, question.
        answer_column: Column with the gold answer, bare, in a last box or after ####; by default the first of answer,
            solution, final_answer.
        choice_columns: Columns with the options of a multiple-choice question, the right one first; they are shuffled,
            for each question in an order of its own that never changes.
        num_problems: The first so many; all by default, 200 of a reasoning-gym task.
        num_samples: Samples per problem where the protocol does not say.
        reward_funcs: By default `accuracy`, of a reasoning-gym task `reasoning_gym`.
        reward_kwargs: Parameters of the reward functions, such as `{accuracy: {convention: hashes}}`.
        judge: The reward function whose verdicts say what is right; by default the first that logs verdicts.
        judge_threshold: Of a judge that logs none: a completion is right where its reward is at least this.
    """

    name: str
    dataset_name: str
    dataset_config: str | None = None
    dataset_revision: str | None = None
    dataset_split: str | None = None
    dataset_settings: dict[str, Any] = field(default_factory=dict)
    dataset_seed: int = 0
    prompt_column: str | None = None
    answer_column: str | None = None
    choice_columns: list[str] | None = None
    num_problems: int | None = None
    num_samples: int | None = None
    reward_funcs: list[str] | None = None
    reward_kwargs: dict[str, Any] | None = None
    judge: str | None = None
    judge_threshold: float | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without reading the data.

        Raises:
            InputError: A value is out of range or without effect.
        """
        check_all(vars(self))
        if self.choice_columns is not None and not 2 <= len(self.choice_columns) <= 10:
            raise InputError(
                f"choice_columns of task {self.name} are {len(self.choice_columns)}; there must be 2 to 10"
            )
        if self.choice_columns is not None and self.answer_column is not None:
            raise InputError(
                f"answer_column of task {self.name} has no effect, because the first of choice_columns is right; "
                "remove it"
            )

    @property
    def is_generated(self) -> bool:
        """Whether the problems come from a reasoning-gym task."""
        return self.dataset_name.startswith(GENERATED)

    @property
    def rewards(self) -> tuple[list[str], dict[str, Any]]:
        """Names of the reward functions and their parameters."""
        default = ["reasoning_gym"] if self.is_generated else ["accuracy"]
        kwargs = dict(self.reward_kwargs or {})
        if self.choice_columns and self.reward_funcs is None:
            kwargs = {"accuracy": {"convention": "choice", **kwargs.get("accuracy", {})}}
        return self.reward_funcs or default, kwargs

    def load(self, style: PromptStyle) -> Dataset:
        """The problems, with columns `prompt`, `answer` and `problem_key`, the same for every way of asking.

        Raises:
            InputError: The source, a split or a column is missing, or gold answers are.
        """
        template = style.prompt_template
        if self.choice_columns and style.choice_template:
            template = style.choice_template.replace("{letters}", ascii_uppercase[: len(self.choice_columns)])
        limit = self.num_problems or (NUM_GENERATED_PROBLEMS if self.is_generated else None)
        splits = {"dataset_train_split": self.dataset_split, "dataset_test_split": self.dataset_split}
        config = DataConfig(
            dataset_name=self.dataset_name,
            dataset_config=self.dataset_config,
            dataset_revision=self.dataset_revision,
            dataset_settings=self.dataset_settings,
            dataset_seed=self.dataset_seed,
            num_train_prompts=1 if self.is_generated else None,
            num_eval_prompts=limit,
            prompt_column=self.prompt_column,
            answer_column=self.answer_column,
            system_prompt=style.system_prompt,
            prompt_template=template,
            conversational=style.conversational,
            **(splits if self.dataset_split else {}),  # type: ignore[arg-type]
        )
        try:
            rows = read_rows(config, "benchmark")
        except MissingSourceError as error:
            if self.name not in shipped_benchmarks():
                raise
            raise InputError(f"{error}; or use a copy in a local file: --tasks {self.name}=FILE") from error
        if self.choice_columns:
            rows, config = _with_options(rows, self), replace(config, prompt_column="question", answer_column="answer")
        keys = [prompt_key(str(row["prompt"]), row["answer"]) for row in map(dict, in_shape(rows, _bare(config)))]
        return in_shape(rows, config).add_column(PROBLEM_KEY, keys)  # type: ignore[call-arg]


def _bare(config: DataConfig) -> DataConfig:
    """The same problems as plain questions."""
    return replace(config, system_prompt=None, prompt_template="{question}", conversational=False)


def _with_options(rows: Dataset, benchmark: Benchmark) -> Dataset:
    """Rows whose `question` has lettered options and whose `answer` is the letter of the right one."""
    column, options = benchmark.prompt_column or "question", benchmark.choice_columns or []
    for name in (column, *options):
        if name not in rows.column_names:
            raise InputError(
                f"the data set of {benchmark.name} has no column {name!r}; it has {', '.join(rows.column_names)}; set "
                "prompt_column and choice_columns to some of them"
            )
        refuse_rows(
            [not isinstance(value, (str, int, float)) or not str(value).strip() for value in rows[name]],
            f"rows have no text in column {name!r}",
            "fill them in or remove the rows",
        )
    return Dataset.from_list(
        [_lettered(str(row[column]), [str(row[name]).strip() for name in options]) for row in map(dict, rows)]
    )


def _lettered(question: str, options: list[str]) -> dict[str, str]:
    """A question with its options in an order that depends on the question alone; the first option is right."""
    seed = hashlib.sha256("\0".join([question, *options]).encode()).hexdigest()
    order = random.Random(seed).sample(range(len(options)), len(options))
    lines = [f"{letter}) {options[index]}" for letter, index in zip(ascii_uppercase, order, strict=False)]
    return {"question": question.strip() + "\n\n" + "\n".join(lines), "answer": ascii_uppercase[order.index(0)]}


@cache
def shipped_benchmarks() -> dict[str, Benchmark]:
    """The field's benchmarks by name."""
    text = (files("aapo") / "tasks" / "benchmarks.yaml").read_text(encoding="utf-8")
    return {name: make(Benchmark, {"name": name, **given}) for name, given in yaml.safe_load(text).items()}


def find_benchmark(task: str) -> Benchmark:
    """The task that a text of `--tasks` names.

    It is a shipped benchmark, `NAME=FILE` for a local copy of one, `reasoning_gym:TASK`, a local .jsonl, .json,
    .parquet or .csv file, a .yaml file that declares one, a local folder, or a Hub data set `owner/name`.

    Raises:
        InputError: It is none of these.
    """
    shipped = shipped_benchmarks()
    name, given, copy = task.partition("=")
    if task in shipped:
        return shipped[task]
    if given and name in shipped:
        local = {"dataset_name": copy, "dataset_config": None, "dataset_revision": None, "dataset_split": None}
        return replace(shipped[name], **local)
    path = Path(task)
    if path.suffix in (".yaml", ".yml"):
        return _declared(path)
    if task.startswith(GENERATED):
        return Benchmark(task.removeprefix(GENERATED), task)
    if path.suffix in FILE_TYPES or path.is_dir():
        return Benchmark(path.stem, task)
    if "/" in task:
        return Benchmark(task.rpartition("/")[2], task)
    raise InputError(
        f"unknown task {task!r}{nearest(task, _names())}; shipped are {', '.join(shipped)}; others are "
        "reasoning_gym:TASK, a data file, a .yaml file that declares a task, or a Hub data set owner/name"
    )


def _names() -> list[str]:
    from reasoning_gym.factory import DATASETS

    return [*shipped_benchmarks(), *(GENERATED + name for name in DATASETS)]


def _declared(path: Path) -> Benchmark:
    """The task that a YAML file declares; a data file in it is looked for beside it."""
    if not path.is_file():
        raise InputError(f"task {path} does not exist; check the path")
    given: Mapping[str, Any] = read_mapping(read_text(path, f"task {path}"), f"task {path}")
    if "dataset_name" not in given:
        raise InputError(f"task {path} has no dataset_name; name a data file, a reasoning-gym task or a Hub data set")
    source = str(given["dataset_name"])
    if (path.parent / source).exists():
        source = str(path.parent / source)
    return make(Benchmark, {"name": path.stem, **given, "dataset_name": source})

"""Prompts and gold answers from generated tasks, local files and Hub data sets, in one shape.

Every source becomes a `datasets.Dataset` with the columns `prompt` (a list of chat messages, or a string when
`conversational` is off) and `answer` (the gold answer, a string); its own columns are kept for reward functions.
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from datasets import Dataset, DatasetDict, load_dataset

from aapo.errors import InputError, nearest
from aapo.messages import content_text
from aapo.ranges import check_all
from aapo.tasks.checks import check_rows
from aapo.tasks.datasets import named_datasets, pinned
from aapo.tasks.faults import file_fault

PROMPT_COLUMNS = ("prompt", "problem", "question")
ANSWER_COLUMNS = ("answer", "solution", "final_answer")
FILE_TYPES = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
GENERATED = "reasoning_gym:"
HELD_OUT_PART = 8
# Numbers of JSON as they are written, for Arrow makes one type of a column.
AS_WRITTEN: dict[str, Any] = {"parse_int": str, "parse_float": str}
Split = Literal["train", "test", "benchmark"]


class MissingSourceError(InputError):
    """A data set is not there, or not to be reached."""


@dataclass
class DataConfig:
    """Which prompts a recipe uses and how they are put to the model.

    Attributes:
        dataset_name: `reasoning_gym:TASK`, a shipped name such as `open-rs`, a local .jsonl, .json, .parquet or .csv
            file, a local folder, or the name of a Hub data set.
        dataset_path: File or folder with a copy of the shipped training set in dataset_name, read in the Hub's place.
        dataset_config: Configuration of a Hub data set.
        dataset_data_dir: Folder of a Hub data set, or of a local one, that alone is read.
        dataset_revision: Revision of a Hub data set.
        dataset_settings: Settings of a reasoning-gym task, such as `{min_digits: 3}`.
        dataset_seed: Seed of a reasoning-gym task.
        dataset_train_split: Split that is trained on.
        dataset_test_split: Split that is evaluated on. Where the source has none, an eighth of the questions, chosen
            by their hash, is held out.
        num_train_prompts: Prompts trained on; all when null (a reasoning-gym task needs a number).
        num_eval_prompts: Held-out prompts evaluated on; 0 turns the evaluation off, None (not in a recipe) takes all.
        prompt_column: Column with the question, as text or messages; by default the first of prompt, problem, question.
        answer_column: Column with the gold answer; by default the first of answer, solution, final_answer. A field of a
            nested column is named by a dot: reward_model.ground_truth.
        unique_prompts: Keep the first row of each question.
        system_prompt: First message of each prompt.
        prompt_template: Text with `{question}` that the question is put into.
        conversational: Whether prompts are chat messages (rendered by the model's chat template) or plain text.
        answer_convention: Where reward functions look for an answer beside a box and an answer tag, unless their
            parameters say: `choice`, `hashes` or `final_answer`. By default what prompt_style or the shipped training
            set asks for.
        max_prompt_length: Most tokens of a rendered prompt; longer ones are refused or dropped.
        drop_long_prompts: Drop prompts over `max_prompt_length` instead of refusing them.
        drop_unparseable_gold: Drop rows whose gold answer the reward functions cannot read, instead of only listing
            them.
    """

    dataset_name: str | None = None
    dataset_path: str | None = None
    dataset_config: str | None = None
    dataset_data_dir: str | None = None
    dataset_revision: str | None = None
    dataset_settings: dict[str, Any] = field(default_factory=dict)
    dataset_seed: int = 0
    dataset_train_split: str = "train"
    dataset_test_split: str = "test"
    num_train_prompts: int | None = None
    num_eval_prompts: int | None = 200
    prompt_column: str | None = None
    answer_column: str | None = None
    unique_prompts: bool = False
    system_prompt: str | None = None
    prompt_template: str = "{question}"
    conversational: bool = True
    answer_convention: str | None = None
    max_prompt_length: int | None = None
    drop_long_prompts: bool = False
    drop_unparseable_gold: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without reading the data.

        Raises:
            InputError: A value is missing, out of range or without effect.
        """
        check_all(vars(self))
        if not self.dataset_name:
            raise InputError(
                "dataset_name is missing; name a reasoning-gym task (reasoning_gym:chain_sum), a local file or folder, "
                "or a Hub data set"
            )
        if self.dataset_path is not None and self.dataset_name not in named_datasets():
            raise InputError(
                f"dataset_path has no effect, because {self.dataset_name} is not a shipped training set "
                f"({', '.join(named_datasets())}); set dataset_name to the path"
            )
        if "{question}" not in self.prompt_template:
            raise InputError(f"prompt_template is {self.prompt_template!r}; it must contain {{question}}")
        if self.dataset_settings and not self.is_generated:
            raise InputError(
                f"dataset_settings has no effect, because {self.dataset_name} is not a reasoning-gym task; remove it"
            )
        if self.is_generated and self.num_train_prompts is None:
            raise InputError(
                "num_train_prompts is missing; a reasoning-gym task generates prompts without end, so say how many"
            )
        if self.drop_long_prompts and self.max_prompt_length is None:
            raise InputError("drop_long_prompts has no effect, because max_prompt_length is not set; remove it")

    @property
    def is_generated(self) -> bool:
        """Whether the prompts come from a reasoning-gym task."""
        return (self.dataset_name or "").startswith(GENERATED)


def held_out(question: str) -> bool:
    """Whether a question belongs to the held-out side, which an eighth of all questions does.

    A function of the text alone: training and held-out prompts are disjoint whatever seeds and sizes are chosen.
    """
    return hashlib.sha256(question.encode()).digest()[0] % HELD_OUT_PART == 0


def load_prompts(config: DataConfig, split: Split) -> Dataset:
    """The prompts of one side in the common shape.

    `train` and `test` are disjoint. `benchmark` is for a source that nothing is trained on: its test split where it has
    one, otherwise all of it; of a generated task it is the held-out side.

    Raises:
        InputError: The source, a split or a column is missing, the data set is empty, or gold answers are missing.
    """
    return in_shape(read_rows(config, split), config)


def read_rows(config: DataConfig, split: Split) -> Dataset:
    """The rows of one side as the source has them; `load_prompts` says which.

    Raises:
        InputError: The source or a split is missing, or the data set is empty.
    """
    limit = config.num_train_prompts if split == "train" else config.num_eval_prompts
    if config.is_generated:
        if limit is None:
            raise InputError(f"{config.dataset_name} has problems without end; say how many")
        return Dataset.from_list(list(islice(generated_entries(config, split), limit)))
    rows = _read(pinned(config), split)
    if len(rows) == 0:
        raise InputError(f"{config.dataset_name} is empty; a data set needs at least one row")
    return rows if limit is None else rows.select(range(min(limit, len(rows))))


def generated_entries(config: DataConfig, split: Split) -> Iterator[dict[str, Any]]:
    """Distinct problems of a reasoning-gym task, as question, answer and the entry that its scorer needs.

    Raises:
        InputError: The task or a setting is unknown, or the task runs out of distinct problems.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    task = (config.dataset_name or "").removeprefix(GENERATED)
    if task not in DATASETS:
        raise InputError(f"reasoning-gym has no task {task!r}{nearest(task, DATASETS)}")
    try:
        settings = _with_parts(config.dataset_settings) if task == "composite" else config.dataset_settings
        source = reasoning_gym.create_dataset(task, **settings, seed=config.dataset_seed, size=10**9)
    except (TypeError, AssertionError, ValueError) as error:
        allowed = ", ".join(name for name in DATASETS[task][1].__dataclass_fields__ if name not in ("seed", "size"))
        raise InputError(f"dataset_settings do not fit {task}: {error}; its settings are {allowed}") from error
    seen: set[str] = set()
    repeats = 0
    for index in range(len(source)):
        entry = source[index]
        if entry["question"] in seen:
            repeats += 1
            if repeats > 1000 + 20 * len(seen):
                raise InputError(
                    f"{task} has only about {len(seen)} distinct problems with these dataset_settings; ask for fewer "
                    "prompts (num_train_prompts, num_eval_prompts) or widen the settings"
                )
            continue
        seen.add(entry["question"])
        if held_out(entry["question"]) == (split != "train"):
            yield {
                "question": entry["question"],
                "answer": entry["answer"],
                "task": task,
                "entry": json.dumps(entry, sort_keys=True, default=str),
            }


def _with_parts(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a composite task, with its parts (name, and where given weight and config) as it wants them."""
    from reasoning_gym.composite import DatasetSpec

    parts = [DatasetSpec(**{"weight": 1.0, "config": {}, **part}) for part in settings.get("datasets", [])]
    return {**settings, "datasets": parts}


def tasks_of(rows: Dataset) -> Iterator[str]:
    """The generated tasks that prompts come from; none where they come from elsewhere."""
    if "task" in rows.column_names:
        yield from rows.unique("task")


def _read(config: DataConfig, split: Split) -> Dataset:
    """Rows of a file, folder or Hub data set that belong to one side."""
    source = _load_source(config)
    train, test = config.dataset_train_split, config.dataset_test_split
    if split == "benchmark" and test in source:
        return source[test]
    has_test = test in source and test != train
    for name in (train,) if test in (DataConfig.dataset_test_split, train) else (train, test):
        if name not in source:
            raise InputError(f"{config.dataset_name} has no split {name!r}; it has {', '.join(map(str, source))}")
    if has_test:
        return source[train if split == "train" else test]
    rows = source[train]
    if config.num_eval_prompts == 0 or split == "benchmark":
        return rows
    column = _column(rows, config.prompt_column, PROMPT_COLUMNS, "prompt_column")
    return rows.filter(lambda row: held_out(json.dumps(row[column], default=str)) == (split == "test"))


def _load_source(config: DataConfig) -> DatasetDict:
    """The whole data set; a single file is its train split."""
    name = config.dataset_name or ""
    path = Path(name)
    if path.suffix in FILE_TYPES:
        if not path.is_file():
            raise InputError(f"dataset_name is {name}, and there is no such file; check the path")
        content = path.read_bytes()
        if not content.strip():
            raise InputError(f"{name} is empty; a data set needs at least one row")
        try:
            if FILE_TYPES[path.suffix] != "parquet":
                content.decode()  # a reader may take other bytes, too, and fail where they are looked at
            return DatasetDict({config.dataset_train_split: _load_file(path, config)})
        except (MissingSourceError, UnicodeError) as error:
            raise MissingSourceError(file_fault(path) or str(error)) from error
    if path.is_file():
        raise InputError(f"{name} is not a data file; allowed are {', '.join(FILE_TYPES)}")
    if config.dataset_data_dir is not None:
        return _load(name, config.dataset_config, revision=config.dataset_revision, data_dir=config.dataset_data_dir)
    return _load(name, config.dataset_config, revision=config.dataset_revision)


def _load_file(path: Path, config: DataConfig) -> Dataset:
    """Rows of a local file, whose gold answers are as they are written."""
    kind = FILE_TYPES[path.suffix]
    if kind == "csv":
        with path.open(encoding="utf-8-sig", newline="") as lines:
            header = next(csv.reader(lines), [])
        texts = [
            name
            for name in (config.answer_column, config.prompt_column, *ANSWER_COLUMNS, *PROMPT_COLUMNS)
            if name in header
        ]
        return _load(kind, data_files=str(path), split="train", converters=dict.fromkeys(texts, str) or None)
    usual = [name for name in (config.answer_column, *ANSWER_COLUMNS) if name]
    if kind == "json" and path.read_text(encoding="utf-8-sig", errors="replace").lstrip().startswith("["):
        return _load_array(path, usual)
    rows = _load(kind, data_files=str(path), split="train")
    column = next((name for name in usual if name.partition(".")[0] in rows.column_names), None)
    if kind != "json" or column is None:
        return rows
    rows = rows.flatten() if "." in column else rows
    if column not in rows.column_names or getattr(rows.features[column], "dtype", None) in ("string", "int64"):
        return rows
    try:
        with path.open(encoding="utf-8-sig") as lines:
            golds = [_at(json.loads(line, **AS_WRITTEN), column) for line in lines if line.strip()]
        return rows.remove_columns(column).add_column(column, [_written(gold) for gold in golds])  # type: ignore[call-arg]
    except (ValueError, pa.ArrowException):  # records beside texts, which are refused as they are
        return rows


def _load_array(path: Path, usual: Sequence[str]) -> Dataset:
    """Rows of a JSON file that is one array of objects, with its gold answers as text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows, written = json.loads(text, parse_int=_whole), json.loads(text, **AS_WRITTEN)
        names = list(dict.fromkeys(name for row in rows for name in row))
        column = next((name for name in usual if name.partition(".")[0] in names), None)
        made = [{name: row.get(name) for name in names} for row in rows]
        if column is not None:
            made = [_with(row, column, _written(_at(gold, column))) for row, gold in zip(made, written, strict=True)]
        return Dataset.from_list(made)
    except (ValueError, TypeError, AttributeError, OverflowError, pa.ArrowException) as error:
        raise MissingSourceError(f"cannot load {path}: {error}; write one array of objects") from error


def _whole(digits: str) -> int | str:
    """A whole number; as text where it is beyond the 64 bits of a column of whole numbers."""
    return value if -(2**63) <= (value := int(digits)) < 2**63 else digits


def _at(row: Any, column: str) -> Any:
    """The value of a column, or of a field of a nested column that is named by a dot."""
    for name in column.split("."):
        row = row.get(name) if isinstance(row, dict) else None
    return row


def _with(row: dict[str, Any], column: str, value: Any) -> dict[str, Any]:
    """The row with another value in a column or a field of a nested one."""
    name, _, rest = column.partition(".")
    return {**row, name: _with(row.get(name) or {}, rest, value) if rest else value}


def _written(value: Any) -> Any:
    """A gold answer as it is written, each of a list; what is no answer, such as an object, as it is."""
    if isinstance(value, list):
        return [_written(item) for item in value]
    return None if isinstance(value, float) else value  # numbers are text here, but for NaN


def _load(*args: Any, **kwargs: Any) -> Any:
    """`datasets.load_dataset`, whose many exceptions become one that names the source."""
    try:
        return load_dataset(*args, **kwargs)
    except Exception as error:  # datasets raises anything from pyarrow to HTTP errors here; all mean the same to a user
        cause = error.__cause__ or error
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        name = kwargs.get("data_files", args[0])
        if "data_files" in kwargs:
            raise MissingSourceError(f"cannot load {name}: {reason}; mend the file") from error
        known = nearest(str(name), named_datasets())
        fix = f"give an existing file, folder or Hub name, or a shipped one{known}: {', '.join(named_datasets())}"
        if "gated" in reason:
            fix = "accept its terms on its page on the Hub, then log in with `hf auth login`"
        raise MissingSourceError(f"cannot load data set {name!r}: {reason}; {fix}") from error


def _column(rows: Dataset, asked: str | None, usual: tuple[str, ...], setting: str) -> str:
    """The name of a column: the one asked for or the first usual one."""
    present = rows.column_names
    found = next((name for name in ([asked] if asked else usual) if name in present), None)
    if found is None:
        wanted = repr(asked) if asked else "any of " + ", ".join(usual)
        raise InputError(
            f"the data set has no column {wanted}; it has {', '.join(present)}; set {setting} to one of them"
        )
    return found


def in_shape(rows: Dataset, config: DataConfig) -> Dataset:
    """Rows with the columns `prompt` and `answer`, checked.

    Raises:
        InputError: A column is missing, or gold answers are.
    """
    config = pinned(config)
    if any("." in (name or "") for name in (config.prompt_column, config.answer_column)):
        rows = rows.flatten()
    question = _column(rows, config.prompt_column, PROMPT_COLUMNS, "prompt_column")
    gold = _column(rows, config.answer_column, ANSWER_COLUMNS, "answer_column")
    if config.unique_prompts:
        rows = rows.select(_firsts(rows[question]))
    check_rows(rows, question, gold)
    return Dataset.from_list([as_row(dict(row), config, question, gold) for row in rows])


def _firsts(questions: Iterable[Any]) -> list[int]:
    """Where each question stands for the first time."""
    first: dict[str, int] = {}
    for index, question in enumerate(questions):
        first.setdefault(json.dumps(question, default=str), index)
    return list(first.values())


def as_row(row: dict[str, Any], config: DataConfig, question: str = "question", gold: str = "answer") -> dict[str, Any]:
    """A source's row with the common columns, given the names of its question and gold columns, which stay as well."""
    return {**row, "prompt": _prompt(row[question], config), "answer": gold_text(row[gold])}


def gold_text(value: Any) -> str:
    """A gold answer as text; a list of answers is written as one, with commas."""
    return ", ".join(str(item).strip() for item in value) if isinstance(value, list) else str(value).strip()


def _plain(content: Any) -> Any:
    """A message's content as text, where it is nothing but text parts."""
    is_text = isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" for part in content
    )
    return content_text(content) if is_text else content


def _prompt(question: Any, config: DataConfig) -> Any:
    """One prompt as messages, or as text when `conversational` is off."""
    if isinstance(question, list):
        has_system = bool(question) and question[0].get("role") == "system"
        system = [] if has_system or not config.system_prompt else [{"role": "system", "content": config.system_prompt}]
        return [*system, *({**message, "content": _plain(message.get("content"))} for message in question)]
    text = config.prompt_template.replace("{question}", str(question))
    if not config.conversational:
        return f"{config.system_prompt}\n{text}" if config.system_prompt else text
    system = [{"role": "system", "content": config.system_prompt}] if config.system_prompt else []
    return [*system, {"role": "user", "content": text}]

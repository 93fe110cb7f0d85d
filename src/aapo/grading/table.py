"""Grading a file of gold answers and completions."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aapo.errors import InputError
from aapo.files import check_file, naming_full_disk, replacing
from aapo.grading.answers import VERSION, Verdict, grade_many
from aapo.grading.rewards import completion_text
from aapo.messages import encodable

TYPES = (".jsonl", ".parquet")
ADDED = ("verdict", "extracted", "rule")
ROWS_PER_BATCH = 500


@dataclass(frozen=True)
class GradedFile:
    """What grading a file gave.

    Attributes:
        outcomes: Rows by outcome.
        rules: Rows by the rule that decided.
    """

    outcomes: Counter[str]
    rules: Counter[str]

    @property
    def num_rows(self) -> int:
        """All rows."""
        return self.outcomes.total()


def grade_file(
    source: Path,
    output: Path,
    options: Mapping[str, Any] | None = None,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> GradedFile:
    """Grade each row of a JSONL or Parquet file and write it with its verdict, in order.

    The verdicts so far are kept in `OUTPUT.partial`, so that the same call goes on where it was interrupted. The output
    itself is written at the end, whole or not at all.

    Args:
        source: File with the columns `gold` and `completion` (text, or a list of messages); others are kept.
        output: File to write, with the columns `verdict`, `extracted` and `rule` added or replaced.
        options: Keyword arguments of `grade`.
        on_rows: Called with the number of rows done and the number of all.

    Raises:
        InputError: A file or column is missing or of another type, or the input is not what its name says.
    """
    options = dict(options or {})
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(f"{output} is the file that is graded, which would be lost; choose another --output")
    check_file(output, "--output")
    total = _check(source, output)
    partial = output.with_name(output.name + ".partial")
    identity = _identity(source, options)
    verdicts = _partial_verdicts(partial, identity)
    on_rows(len(verdicts), total)
    try:
        _grade_rest(source, partial, verdicts, options, lambda done: on_rows(done, total))
    except InputError:
        if not verdicts:
            partial.unlink()
        raise
    _write(source, output, verdicts)
    partial.unlink()
    return GradedFile(Counter(item.outcome for item in verdicts), Counter(item.rule for item in verdicts))


def _grade_rest(
    source: Path, partial: Path, verdicts: list[Verdict], options: dict[str, Any], on_rows: Callable[[int], None]
) -> None:
    """Extend `verdicts`, and the journal with them, by those of the rows that are still to be graded."""
    with naming_full_disk(partial), partial.open("a", encoding="utf-8") as journal:
        rows = islice(_rows(source), len(verdicts), None)
        while batch := list(islice(rows, ROWS_PER_BATCH)):
            first = len(verdicts)
            golds = [_gold(row, source, first + i) for i, row in enumerate(batch)]
            texts = [_completion(row, source, first + i) for i, row in enumerate(batch)]
            graded = grade_many(golds, texts, **options)
            journal.writelines(json.dumps(verdict) + "\n" for verdict in graded)
            journal.flush()
            verdicts += graded
            on_rows(len(verdicts))


def _check(source: Path, output: Path) -> int:
    """The number of rows, after looking at names and columns."""
    for path in (source, output):
        if path.suffix not in TYPES:
            raise InputError(f"{path} is neither JSONL nor Parquet; its name must end in {' or '.join(TYPES)}")
    if not source.is_file():
        raise InputError(f"there is no file {source}; check the path")
    if output.parent.exists() and not output.parent.is_dir():
        raise InputError(f"{output.parent} is not a folder; give another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".jsonl":
        with source.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    try:
        metadata = pq.read_metadata(source)
    except pa.ArrowInvalid as error:
        raise InputError(f"{source} is not a Parquet file: {error}") from error
    for column in ("gold", "completion"):
        if column not in metadata.schema.to_arrow_schema().names:
            raise InputError(_missing(source, column, metadata.schema.to_arrow_schema().names))
    return metadata.num_rows


def _missing(source: Path, column: str, present: Sequence[str], row: int | None = None) -> str:
    where = source if row is None else f"row {row + 1} of {source}"
    return f"{where} has no column {column!r}; it has {', '.join(present) or 'none'}; gold and completion are needed"


def _rows(source: Path) -> Iterator[dict[str, Any]]:
    if source.suffix == ".parquet":
        for batch in pq.ParquetFile(source).iter_batches(ROWS_PER_BATCH):
            yield from batch.to_pylist()
        return
    with source.open(encoding="utf-8-sig", errors="surrogatepass") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parsed(line, number, source)
        except UnicodeDecodeError as error:
            raise InputError(f"{source} is not UTF-8: {error}; convert it") from error


def _parsed(line: str, number: int, source: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"line {number} of {source} is not JSON ({error}); write one object a line") from error
    if not isinstance(row, dict):
        raise InputError(f"line {number} of {source} is not an object; write one object a line")
    return row


def _gold(row: dict[str, Any], source: Path, index: int) -> str:
    if "gold" not in row:
        raise InputError(_missing(source, "gold", list(row), index))
    gold = row["gold"]
    if isinstance(gold, list):  # several answers, as in a data set that is trained on
        return ", ".join(map(str, gold))
    return "" if gold is None else str(gold)


def _completion(row: dict[str, Any], source: Path, index: int) -> str:
    if "completion" not in row:
        raise InputError(_missing(source, "completion", list(row), index))
    value = row["completion"]
    if value is None:
        return ""
    if isinstance(value, str) or (isinstance(value, list) and value and _is_message(value[-1])):
        return completion_text(value)
    raise InputError(f"the completion in row {index + 1} of {source} is neither text nor a list of messages")


def _is_message(value: Any) -> bool:
    """Whether this is a message; one of tool calls alone has no content."""
    if not isinstance(value, dict) or not value.keys() & {"role", "content"}:
        return False
    content = value.get("content")
    if isinstance(content, list):
        return all(part is None or isinstance(part, (str, dict)) for part in content)
    return content is None or isinstance(content, (str, dict))


def _identity(source: Path, options: dict[str, Any]) -> str:
    """One line that changes when the input or the grading does."""
    with source.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return json.dumps({"input": digest, "options": options, "grader": VERSION}, sort_keys=True)


def _partial_verdicts(partial: Path, identity: str) -> list[Verdict]:
    """The verdicts that an interrupted call of the same identity left; starts the journal where there are none."""
    lines = partial.read_text(encoding="utf-8").splitlines(keepends=True) if partial.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    if whole and whole[0].strip() == identity:
        if len(whole) < len(lines):
            partial.write_text("".join(whole), encoding="utf-8")
        return [Verdict(*json.loads(line)) for line in whole[1:]]
    partial.write_text(identity + "\n", encoding="utf-8")
    return []


def _write(source: Path, output: Path, verdicts: Sequence[Verdict]) -> None:
    columns = {name: [verdict[i] for verdict in verdicts] for i, name in enumerate(Verdict._fields)}
    added = dict(zip(ADDED, (columns["outcome"], columns["extracted"], columns["rule"]), strict=True))
    with replacing(output) as temporary:
        if output.suffix == ".jsonl":
            with temporary.open("w", encoding="utf-8") as lines:
                for i, row in enumerate(_rows(source)):
                    full = row | {name: values[i] for name, values in added.items()}
                    lines.write(_line(full) + "\n")
            return
        from_rows = source.suffix != ".parquet"
        table = pa.Table.from_pylist([_encodable(row) for row in _rows(source)]) if from_rows else pq.read_table(source)
        for name, values in added.items():
            table = table.drop_columns([name]) if name in table.column_names else table
            table = table.append_column(name, pa.array(_encodable(values), pa.string()))
        pq.write_table(table, temporary, compression="zstd")


def _line(row: dict[str, Any]) -> str:
    """A row as JSON; a lone surrogate, which no file can hold, stays escaped as it came."""
    text = json.dumps(row, ensure_ascii=False, default=str)
    return text if encodable(text) == text else json.dumps(row, default=str)


def _encodable(value: Any) -> Any:
    """The value with the replacement character for each lone surrogate in its texts."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    return {_encodable(key): _encodable(item) for key, item in value.items()} if isinstance(value, dict) else value

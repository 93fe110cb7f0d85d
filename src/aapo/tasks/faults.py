"""Which line of a data file cannot be read, and why: looked for once reading it has failed."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

LINES, ROWS = ".jsonl", ".csv"


def file_fault(path: Path) -> str | None:
    """What is wrong with a local data file, and the fix; None where nothing is found."""
    if path.suffix == ".parquet":
        return _parquet_fault(path)
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, 1):
        if (fault := _line_fault(line, path.suffix)) is not None:
            return f"{path} line {number} {fault}"
    if path.suffix == ROWS and sum(bool(line.strip()) for line in lines) < 2:
        return f"{path} has no rows; a data set needs at least one"
    return None


def _parquet_fault(path: Path) -> str | None:
    try:
        pq.read_table(path)
    except (pa.ArrowException, OSError):
        return f"{path} is no Parquet file, or a damaged one; copy or write it anew"
    return None


def _line_fault(line: bytes, suffix: str) -> str | None:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return f"is not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8"
    if suffix != LINES or not text.strip():
        return None
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"is no JSON ({error}); mend or remove the line"
    if not isinstance(row, dict):
        return 'is no object; write one a line, such as {"question": "1 + 1?", "answer": "2"}'
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "has half of a surrogate pair, which no text has; mend or remove the line"
    return None

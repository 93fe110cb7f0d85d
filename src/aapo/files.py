"""Files that are there whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aapo.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place if the block succeeds and vanishes if it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_folder(path: Path, setting: str) -> None:
    """Check that `path` is a folder that can be written to, or can be made; it stays as it is.

    Args:
        path: The folder.
        setting: What names it, for the message.

    Raises:
        InputError: It, or what it would be made in, is no folder or not writable.
    """
    try:
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        with tempfile.TemporaryFile(dir=existing):  # permissions do not say that a disk is read-only
            pass
    except (OSError, ValueError) as error:  # ValueError: a character that no name has
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{setting} is {path}, which cannot be written to ({reason}); choose another") from error


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value`, whose numbers are finite, as JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write `table` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_folder(path: Path, fill: Callable[[Path], None], *, replace: bool = False) -> None:
    """Make the folder `path` out of what `fill` writes into it, whole or not at all.

    With `replace` an older one goes; without, one that another process has made meanwhile stays, for it may be in use.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        fill(temporary)
        temporary.chmod(0o755)
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

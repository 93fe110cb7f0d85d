"""Files that are there whole or not at all."""

import errno
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

# A file or folder is in the way, or what it would be in is closed to us or to read only.
NO_PLACE = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place if the block succeeds and vanishes if it does not."""
    with _placing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        with _placing(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _placing(path: Path) -> Iterator[None]:
    """A block that makes or replaces `path`; a place that takes none is said in one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_PLACE:
            raise
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place{_cache(path)}") from error


def _cache(path: Path) -> str:
    """What names the folder of a file in the cache."""
    cache = os.environ.get("AAPO_CACHE") or str(Path.home() / ".cache" / "aapo")
    return ", which AAPO_CACHE names" if path.absolute().is_relative_to(Path(cache).absolute()) else ""


def check_folder(path: Path, setting: str) -> None:
    """Check that `path` is a folder that can be written to, or can be made; it stays as it is.

    Args:
        path: The folder.
        setting: What names it, for the message.

    Raises:
        InputError: It, or what it would be made in, is no folder or not writable.
    """
    try:
        if b"\0" in str(path).encode():
            raise ValueError("no name has a NUL in it")
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        with tempfile.TemporaryFile(dir=existing):  # permissions do not say that a disk is read-only
            pass
    except (OSError, ValueError) as error:  # ValueError: a character that no name has
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{setting} is {path}, which cannot be written to ({reason}); choose another") from error


def check_file(path: Path, setting: str) -> None:
    """Check that a file can be written to `path`; it stays as it is.

    Raises:
        InputError: It is a folder, or as `check_folder` of the folder that it is in.
    """
    if path.is_dir():
        raise InputError(f"{setting} is {path}, which is a folder; name a file")
    check_folder(path.parent, setting)


def read_text(path: Path, what: str) -> str:
    """The text of a file that the user wrote.

    Args:
        path: The file.
        what: What it is, for messages, such as `recipe mine.yaml`.

    Raises:
        InputError: It is not UTF-8, or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{what} cannot be read ({error.strerror}); check the path") from error


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
    with _placing(path):
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

"""Files that are there whole or not at all, on disks that may be full, beside writers that may have been killed."""

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aapo.errors import AapoError, FullDiskError, InputError
from aapo.processes import is_alive, machine

# A temporary file of a writer of which nothing is known, such as one on another machine, is left alone for so long.
LEFTOVER_SECONDS = 24 * 3600
# Nothing fits any more: the disk, the user's share of it, the largest file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How libraries put it that lose the number, such as safetensors.
_FULL_WORDS = tuple(os.strerror(number) for number in _FULL)
# What torch's archives say, of which an optimizer's state is one, when something could not be written, whatever it was.
_UNWRITTEN_WORDS = ("unexpected pos", "PytorchStreamWriter failed writing", "iostream error")
_ROOM_BYTES = 2**20


def _temporary_prefix(path: Path) -> str:
    """How temporary names beside `path` begin: they say who writes."""
    return f".{path.name}.{machine()}-{os.getpid()}-"


# A file or folder is in the way, or what it would be in is closed to us or to read only.
NO_PLACE = (
    errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS,
)  # fmt: skip


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place if the block succeeds and vanishes if it does not.

    Raises:
        FullDiskError: The disk is full.
        InputError: Nothing can be written there.
    """
    with naming_full_disk(path):
        with _placing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=_temporary_prefix(path), suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            with _placing(path):
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def is_full(error: BaseException) -> bool:
    """Whether the error, in whatever words, says that nothing more can be written."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(words in str(error) for words in _FULL_WORDS)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Say that the disk is full, and what could not be written, where that is why the block fails.

    Raises:
        FullDiskError: So it is.
    """
    try:
        yield
    except AapoError:
        raise
    except Exception as error:
        unwritten = any(words in str(error) for words in _UNWRITTEN_WORDS)
        if not (is_full(error) or (unwritten and not _has_room(path))):
            raise
        raise FullDiskError(
            f"the disk is full: {path} could not be written, and nothing half-written counts; free some, and the same "
            "command goes on (train: with --resume)"
        ) from error


def _has_room(path: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=_existing(path)) as file:
            file.write(bytes(_ROOM_BYTES))
    except OSError:
        return False
    return True


def _existing(path: Path) -> Path:
    """The innermost folder of a path that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed have left in and below `folder`, of each that certainly lives no more."""
    for leftover in list(folder.rglob(".*.tmp")):
        _remove_if_left(leftover)


def _remove_if_left(temporary: Path) -> None:
    with suppress(FileNotFoundError, PermissionError):  # it has been renamed; a folder to read only
        if not _may_be_written(temporary):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()


def _may_be_written(temporary: Path) -> bool:
    writer = temporary.name.removesuffix(".tmp").rpartition(".")[2].split("-")
    if writer[0] == machine() and len(writer) == 3 and writer[1].isdecimal():
        return is_alive(int(writer[1]))
    return time.time() - temporary.stat().st_mtime <= LEFTOVER_SECONDS


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
        if "\0" in str(path):
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

    Raises:
        FullDiskError: The disk is full.
        InputError: Nothing can be written there, or the older one cannot be removed.
    """
    with naming_full_disk(path):
        with _placing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=_temporary_prefix(path), suffix=".tmp", dir=path.parent))
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            _remove_if_left(leftover)
        try:
            fill(temporary)
            temporary.chmod(0o755)
            if replace:
                shutil.rmtree(path, ignore_errors=True)
            with _placing(path):
                _put(temporary, path, replace=replace)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _put(temporary: Path, path: Path, *, replace: bool) -> None:
    try:
        temporary.replace(path)
    except OSError as error:
        if replace or error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise

"""Files that aapo wrote, read again: one that is damaged, or of another version, is named with what to do."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from aapo.errors import InputError
from aapo.plainyaml import load_yaml


@contextmanager
def reading(file: Path, fix: str) -> Iterator[None]:
    """A block that reads `file`; what goes wrong in it is said in one line.

    Args:
        file: What is read.
        fix: What to do where it cannot be.

    Raises:
        InputError: It is missing, closed to us or damaged; the message names it, the reason and the fix.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing; {fix}") from error
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException, yaml.YAMLError) as error:
        if reason := getattr(error, "strerror", None):
            raise InputError(f"{file} cannot be read ({reason}); {fix}") from error
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file} is damaged ({reason}); {fix}") from error


def read_json(file: Path, fix: str, needs: Collection[str] | None = None) -> Any:
    """What a JSON file says; with `needs` an object that has these keys, which may be none.

    Raises:
        InputError: As `reading`; or a key is not there, as in a file of another version.
    """
    with reading(file, fix):
        found = json.loads(file.read_text(encoding="utf-8"))
    return found if needs is None else with_keys(file, found, needs, fix)


def read_yaml(file: Path, fix: str, needs: Collection[str]) -> Any:
    """The mapping in a YAML file, which has these keys.

    Raises:
        InputError: As `read_json`.
    """
    with reading(file, fix):
        found = load_yaml(file.read_text(encoding="utf-8"))
    return with_keys(file, found, needs, fix)


def read_parquet(file: Path, fix: str, needs: Collection[str], columns: Collection[str] | None = None) -> pa.Table:
    """A Parquet file, which has the columns `needs`; with `columns` those of them that it has.

    Raises:
        InputError: As `read_json`.
    """
    with reading(file, fix), pq.ParquetFile(file) as opened:
        names = opened.schema_arrow.names
        with_keys(file, dict.fromkeys(names), needs, fix)
        return opened.read(names if columns is None else [name for name in names if name in columns])


def with_keys(file: Path, found: Any, needs: Collection[str], fix: str) -> Any:
    """What was found in a file, if it is a mapping with these keys.

    Raises:
        InputError: It is none, or lacks one.
    """
    if not isinstance(found, dict):
        raise InputError(f"{file} is damaged (it is no mapping); {fix}")
    if lacking := [key for key in needs if key not in found]:
        raise InputError(f"{file} has no {', '.join(lacking)}, so it is foreign or of another version; {fix}")
    return found

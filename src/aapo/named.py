"""What a user's own code defines, found by `package.module:NAME` or `path/to/file.py:NAME`."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from aapo.errors import InputError


def load_named(name: str, what: str) -> Any:
    """The object that `package.module:NAME` or `path/to/file.py:NAME` names; a file is executed once.

    Args:
        name: Says where it is.
        what: What it should be, for the message, such as `reward function`.

    Raises:
        InputError: There is none.
    """
    place, _, attribute = name.partition(":")
    try:
        return getattr(module_at(place), attribute)
    except (ImportError, AttributeError, FileNotFoundError, SyntaxError, NameError, TypeError) as error:
        raise InputError(f"cannot load {what} {name!r}: {error}") from error


@cache
def module_at(place: str) -> Any:
    """A module by its dotted name or by the path of its file."""
    if not place.endswith(".py"):
        return importlib.import_module(place)
    name = f"aapo_user_{Path(place).stem}"
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`, which imports what is asked for when it is asked for.

    Args:
        package: The package's name.
        places: The module that has each name.
    """

    def getattribute(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(places[name]), name)

    return getattribute

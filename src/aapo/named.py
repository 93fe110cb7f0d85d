"""A user's own code: found by `package.module:NAME` or `path/to/file.py:NAME`, run, and its failures in one line."""

import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from aapo.errors import AapoError, InputError

_OURS = str(Path(__file__).parent)
_LIBRARIES = tuple({_OURS, *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))})
_real_exit = os._exit
# The process in which a user's code runs, where it does.
_runs_in: ContextVar[int | None] = ContextVar("runs_in", default=None)


def load_named(name: str, what: str) -> Any:
    """The object that `package.module:NAME` or `path/to/file.py:NAME` names; a file is executed once.

    Args:
        name: Says where it is.
        what: What it should be, for the message, such as `reward function`.

    Raises:
        InputError: There is none, or its file fails or ends the program when it is executed; the message has the line.
    """
    place, _, attribute = name.partition(":")
    try:
        with user_code():
            return getattr(module_at(place), attribute)
    except (Exception, SystemExit) as error:
        missing = isinstance(error, (ImportError, AttributeError, OSError)) and _place(error) is None
        raise InputError(f"cannot load {what} {name!r}: {error if missing else described(error)}") from error


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


@contextmanager
def calling(what: str) -> Iterator[None]:
    """A call of a user's function.

    Args:
        what: Names it for the message.

    Raises:
        AapoError: It raised something or ended the program; the message has the line of its file.
    """
    try:
        with user_code():
            yield
    except AapoError:
        raise
    except (Exception, SystemExit) as error:
        raise AapoError(f"{what} failed: {described(error)}") from error


@contextmanager
def user_code() -> Iterator[None]:
    """A user's code runs here: it cannot end the program by `os._exit`, nor come back as a second process.

    `os._exit` raises SystemExit, as `exit` does, but in processes that the code has forked. One of these that comes
    back, where it would go on as a second trainer, ends here.
    """
    os._exit = _exit
    process = os.getpid()
    token = _runs_in.set(process)
    try:
        yield
    finally:
        if os.getpid() != process:
            _end_child(sys.exception())
        _runs_in.reset(token)


def _exit(status: int) -> NoReturn:
    """`os._exit`, but for a user's code; what stops the program meanwhile is ours."""
    ours = sys._getframe(1).f_globals.get("__name__", "").partition(".")[0] == "aapo"
    if _runs_in.get() == os.getpid() and not ours:
        raise SystemExit(f"os._exit({status})")
    _real_exit(status)


def _end_child(error: BaseException | None) -> NoReturn:
    if isinstance(error, SystemExit):
        _real_exit(error.code if isinstance(error.code, int) else int(error.code is not None))
    os.write(2, b"aapo: a process that your own code has forked came back from it and ends here; end it by os._exit\n")
    _real_exit(1)


def described(error: BaseException, function: Any = None) -> str:
    """What a user's code raised, in one line with the file and the line that raised it.

    Args:
        error: What was raised.
        function: What was called; where none of its lines raised, as when its result is wrong, its first one is named.
    """
    text = " ".join(str(error).split())
    if isinstance(error, SystemExit):
        text = f"it ended the program by {text if isinstance(error.code, str) else f'exit({text})'}"
    else:
        text = f"{type(error).__name__}: {text}"
    place = _place(error) or _definition(function)
    return f"{text} ({place})" if place else text


def _place(error: BaseException) -> str | None:
    """The last line of a user's own file that led to an error; None where there is none, or the error names it."""
    if isinstance(error, SyntaxError):
        return None
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own(frame.filename)]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else None


def _definition(function: Any) -> str | None:
    """The first line of a function, or of what an object that is called does."""
    called = function if inspect.isfunction(function) else type(function).__call__
    code = getattr(called, "__code__", None)
    return f"{code.co_filename}, line {code.co_firstlineno}" if code and is_own(code.co_filename) else None


def own_name(function: Any) -> str:
    """A function's name, for a message, with the file of a user's own."""
    name = getattr(function, "__name__", type(function).__name__)
    place = _definition(function)
    return f"{name} ({place})" if place else name


def is_own(file: str) -> bool:
    """Whether a file of code is a user's, rather than this package's or a library's."""
    return not file.startswith("<") and not str(Path(file).absolute()).startswith(_LIBRARIES)


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

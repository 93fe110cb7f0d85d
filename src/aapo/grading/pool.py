"""math-verify in worker processes that are killed at a time limit and bounded in memory."""

import atexit
import logging
import resource
import sys
import threading
from concurrent.futures import TimeoutError as FutureTimeoutError
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.popen_spawn_posix import Popen
from types import ModuleType
from typing import Any, Literal

from pebble import ProcessExpired, ProcessPool

TIME_LIMIT_SECONDS = 3.0
MEMORY_LIMIT_BYTES = 2 * 2**30

_lock = threading.Lock()
_pools: list[ProcessPool] = []


class _Popen(Popen):
    """Starts a worker that does not run the user's script again, which a plain spawn would do."""

    method = "spawn"

    def _launch(self, process_obj: Any) -> None:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super()._launch(process_obj)  # type: ignore[reportAttributeAccessIssue]  not in typeshed
        finally:
            sys.modules["__main__"] = script


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> _Popen:
        return _Popen(process_obj)


class _Context(SpawnContext):
    """Spawn, because the trainer holds threads, and on a GPU CUDA, that a fork must not inherit."""

    Process = _Process


def _start_worker() -> None:
    """Bound a fresh worker's memory and load sympy before its first item's clock starts."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    import math_verify  # noqa: F401

    # It warns at every call that its own timeouts, which cannot work here, are off.
    logging.getLogger("math_verify").setLevel(logging.ERROR)


def _compare(gold: str, answer: str) -> Literal["correct", "wrong", "unparseable_gold"]:
    from math_verify import parse, verify

    def parsed(text: str) -> list:
        return parse(text if "$" in text else f"${text}$", parsing_timeout=None)  # type: ignore[reportArgumentType]

    expected = parsed(gold)
    if not expected:
        return "unparseable_gold"
    return "correct" if verify(expected, parsed(answer), timeout_seconds=None) else "wrong"


def _pool() -> ProcessPool:
    """The process's pool of one worker, started at first use."""
    with _lock:
        if not _pools:
            _pools.append(ProcessPool(max_workers=1, initializer=_start_worker, context=_Context()))
            atexit.register(_stop)
        return _pools[0]


def _stop() -> None:
    for pool in _pools:
        pool.stop()
        pool.join()


def math_verify_verdict(gold: str, answer: str) -> Literal["correct", "wrong", "unparseable_gold", "timeout"]:
    """math-verify's verdict on two answers.

    `timeout` when it took more than 3 s, ran out of memory or killed its process.
    """
    try:
        return _pool().schedule(_compare, args=[gold, answer], timeout=TIME_LIMIT_SECONDS).result()
    except (FutureTimeoutError, ProcessExpired, MemoryError):
        return "timeout"

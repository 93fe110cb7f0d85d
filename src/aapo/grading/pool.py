"""Grading workers that are killed at a time limit and bounded in memory.

Workers are forked from a server process that has math-verify loaded and nothing of the trainer: no threads, no CUDA.
One that is killed costs its own item and is replaced in milliseconds.

pebble on one of multiprocessing's own contexts lacks the following: with `forkserver` every worker runs a user's script
again that has no guard, a forked child of the trainer can start none, and the interpreter's one server has loaded only
what its first user asked for; with `fork` a worker inherits the trainer's memory, threads and files, and with `spawn`
it loads math-verify itself, for a second. loky and concurrent.futures have no limit that ends a call, and a worker that
dies takes the items of all others with it; loky's load math-verify themselves, too.
"""

import io
import math
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, reduction
from multiprocessing.context import ForkServerContext, ForkServerProcess, set_spawning_popen
from multiprocessing.popen_forkserver import Popen
from multiprocessing.util import Finalize, close_fds  # type: ignore[reportAttributeAccessIssue]  not in typeshed
from typing import Any

from pebble import ProcessExpired, ProcessPool

from aapo.errors import AapoError, InputError

TIME_LIMIT_SECONDS = 3.0
MEMORY_LIMIT_BYTES = 2 * 2**30
# sympy's caches grow; a worker is replaced before that matters.
ITEMS_PER_WORKER = 5000
ORPHAN_SECONDS = 10.0
# Workers of which none answers for this long beyond the time limit are given up, such as one that somebody has stopped.
STALL_SECONDS = 60.0
LOOK_SECONDS = 1.0
# Retries of an item whose worker died before it said which item it had.
MAX_TRIES = 3


class _Popen(Popen):
    """Starts a worker from our server, and without telling it the user's script, which a plain one would run again.

    What it overrides and calls is no public interface; CPython 3.11 to 3.13 have it alike.
    """

    def _launch(self, process_obj: Any) -> None:
        preparation = {"name": process_obj.name, "authkey": bytes(process_obj.authkey), "sys_path": list(sys.path)}
        message = io.BytesIO()
        set_spawning_popen(self)
        try:
            for part in (preparation, process_obj):
                reduction.dump(part, message)
        finally:
            set_spawning_popen(None)
        self.sentinel, writer = _state.server.connect_to_new_process(self._fds)  # type: ignore[reportAttributeAccessIssue]
        # The worker ends when nobody has the other end of its pipe any more.
        self.finalizer = Finalize(self, close_fds, (os.dup(writer), self.sentinel))
        with open(writer, "wb") as pipe:  # noqa: PTH123  a descriptor, not a path
            pipe.write(message.getvalue())
        self.pid = forkserver.read_signed(self.sentinel)


class _Process(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> _Popen:
        return _Popen(process_obj)


class _Context(ForkServerContext):
    Process = _Process


class _State:
    """The pool of this process and its settings."""

    def __init__(self, workers: int | None = None, time_limit_seconds: float = TIME_LIMIT_SECONDS) -> None:
        self.workers = workers
        self.time_limit_seconds = time_limit_seconds
        self.lock = threading.Lock()
        self.pool: ProcessPool | None = None
        self.answered = time.monotonic()
        self.server = forkserver.ForkServer()
        self.server.set_forkserver_preload(["aapo.grading.preload"])

    def running(self) -> ProcessPool:
        """The pool, started at first use and again after it broke."""
        with self.lock:
            if self.pool is None:
                # Also at the end of a child that multiprocessing has forked, which would wait for the workers.
                Finalize(None, self.stop, exitpriority=100)
            if self.pool is None or not self.pool.active:
                self.answered = time.monotonic()
                self.pool = ProcessPool(
                    max_workers=num_workers(),
                    max_tasks=ITEMS_PER_WORKER,
                    initializer=_start_worker,
                    context=_Context(),  # type: ignore[reportArgumentType]
                )
            return self.pool

    def stop(self) -> None:
        """End the workers; who waits for them hands its item to new ones."""
        with self.lock:
            pool, self.pool = self.pool, None
        if pool is not None:
            pool.stop()
            pool.join()

    def give_up_if_stalled(self, pool: ProcessPool, since: float) -> None:
        """Leave workers that have not answered since then; they are ended in the background, which may take long."""
        with self.lock:
            waited = time.monotonic() - max(self.answered, since)
            if self.pool is pool and waited > self.time_limit_seconds + STALL_SECONDS:
                self.pool = None
                threading.Thread(target=pool.stop, daemon=True).start()

    def on_answer(self, future: Future) -> None:
        """Note that the workers are alive."""
        self.answered = time.monotonic()


_state = _State()


def _after_fork() -> None:
    """A forked child has none of the parent's threads, so it gets a pool of its own when it grades."""
    global _state  # noqa: PLW0603
    _state = _State(_state.workers, _state.time_limit_seconds)


os.register_at_fork(after_in_child=_after_fork)


def default_workers() -> int:
    """Two workers, one where there are fewer than two cores for this process of the launch."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(2, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def num_workers() -> int:
    """Processes that grade at a time."""
    return _state.workers or default_workers()


def time_limit_seconds() -> float:
    """Wall-clock limit of one comparison."""
    return _state.time_limit_seconds


def configure(*, workers: int | None = None, time_limit_seconds: float = TIME_LIMIT_SECONDS) -> None:
    """Set up this process's grading workers; those that run are replaced.

    Args:
        workers: Processes; by default two, or one where cores are few.
        time_limit_seconds: Wall-clock limit of one comparison.

    Raises:
        InputError: A value is not positive.
    """
    if (workers is not None and workers < 1) or not 0 < time_limit_seconds < math.inf:
        raise InputError(
            f"grading workers are {workers} and the time limit {time_limit_seconds} s; both must be positive"
        )
    _state.stop()
    _state.workers, _state.time_limit_seconds = workers, time_limit_seconds


def _start_worker() -> None:
    """Bound a fresh worker's memory and let its alarm kill it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_LIMIT_BYTES if most == resource.RLIM_INFINITY else min(MEMORY_LIMIT_BYTES, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _limited(seconds: float, function: Callable[..., Any], *args: Any) -> Any:
    """The call's result, in a worker that ends itself after this many seconds.

    pebble kills it at its earlier limit; the alarm is for the worker of a trainer that was killed meanwhile.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return function(*args)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Item:
    """A call that runs in a worker."""

    __slots__ = ("_call", "_future", "_lock", "_outcome", "_pool")

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        """Hand the call to the workers."""
        self._call = (function, args)
        self._lock = threading.Lock()
        self._outcome: tuple[Any] | None = None
        self._pool, self._future = self._schedule()

    def _schedule(self) -> tuple[ProcessPool, Future]:
        function, args = self._call
        for _ in range(MAX_TRIES):
            pool, limit = _state.running(), _state.time_limit_seconds
            try:
                future = pool.schedule(_limited, args=(limit + ORPHAN_SECONDS, function, *args), timeout=limit)
            except RuntimeError:  # the pool broke since it was looked at
                continue
            future.add_done_callback(_state.on_answer)
            return pool, future
        raise AapoError("the grading workers cannot be started; is there memory for another process?")

    def result(self) -> Any:
        """What the call returned; None when it hit the time or memory limit or killed its worker."""
        with self._lock:
            if self._outcome is None:
                self._outcome = (self._wait(),)
            return self._outcome[0]

    def again(self) -> "Item":
        """The same call, handed to the workers once more."""
        function, args = self._call
        return Item(function, *args)

    def _wait(self) -> Any:
        for _ in range(MAX_TRIES):
            since = time.monotonic()
            while not self._future.done() and _state.pool is self._pool:
                wait([self._future], LOOK_SECONDS)
                _state.give_up_if_stalled(self._pool, since)
            try:
                if self._future.done():
                    return self._future.result()
            except (FutureTimeoutError, ProcessExpired, MemoryError, RecursionError, SystemExit):
                return None
            except (BrokenProcessPool, CancelledError):  # every worker died at once, perhaps not by this item
                pass
            self._pool, self._future = self._schedule()
        return None

"""Processes that score answers which may be code (`aapo.grading.jail`), as the trainer's process sees them."""

import atexit
import json
import os
import platform
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from aapo.errors import AapoError, InputError
from aapo.grading import pool
from aapo.grading.seccomp import ARCHITECTURES

_SERVE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from aapo.grading.jail import serve; serve({memory})"
_ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class _Server:
    """One process that scores, an answer at a time, without the trainer's environment and open files."""

    def __init__(self) -> None:
        paths = [os.path.abspath(path) for path in sys.path if path]  # noqa: PTH100  it has another working directory
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", _SERVE.format(memory=pool.MEMORY_LIMIT_BYTES), json.dumps(paths)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**_ENVIRONMENT, **kept},
            cwd="/", start_new_session=True,
        )  # fmt: skip
        self.refusal: str | None = self._read()["refusal"]

    def ask(self, question: tuple[str, str, str]) -> float | None:
        """The score of one answer; None where it hit a limit."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([*question, pool.time_limit_seconds()]).encode() + b"\n")
        self.process.stdin.flush()
        said = self._read()
        if "error" in said:
            raise InputError(said["error"])
        return said["score"]

    def _read(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BrokenPipeError("the process that scores answers has ended")
        return json.loads(line)

    def stop(self) -> None:
        """End it; its child ends with it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


class _State:
    """The servers of this process that are idle."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.idle: deque[_Server] = deque()  # whose methods are atomic
        self.proven = False


_state = _State()


def _after_fork() -> None:
    """A forked child has servers of its own, since its parent goes on talking to these."""
    global _state  # noqa: PLW0603
    _inherited.append(_state)  # not collected, which would end nothing but complain
    _state = _State()


_inherited: list[_State] = []
os.register_at_fork(after_in_child=_after_fork)


def stop() -> None:
    """End the processes; they are started again when they are needed."""
    with _state.lock:
        while _state.idle:
            _state.idle.pop().stop()


atexit.register(stop)


def refusal() -> str | None:
    """Why this machine cannot isolate; None where it has been proven that it can, once a process."""
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES:
        return f"this is {sys.platform} on {platform.machine()}"
    with _state.lock:
        if not _state.proven:
            server = _idle_or_started()
            if server.refusal is not None:
                server.stop()
                return server.refusal
            _state.idle.append(server)
            _state.proven = True
    return None


def _idle_or_started() -> _Server:
    with suppress(IndexError):
        return _state.idle.pop()
    try:
        return _Server()
    except OSError as error:
        raise AapoError(f"the process that scores answers cannot be started: {error}") from error


def call(questions: Sequence[tuple[str, str, str]]) -> list[float | None]:
    """The score of each (task, answer, entry) by the task's own scorer, in an isolated process.

    None where it hit the time or memory limit, NaN where the scorer raised. The time limit is that of
    `pool.configure`, the number of processes that of its workers.

    Raises:
        InputError: A task is unknown.
        AapoError: The processes do not live.
    """
    if not questions:
        return []
    with _state.lock, ThreadPoolExecutor(min(pool.num_workers(), len(questions)), "scoring") as executor:
        try:
            return list(executor.map(_score, questions))
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _score(question: tuple[str, str, str]) -> float | None:
    """The score of one answer, by an idle server or a new one; a server that dies costs a second try."""
    for _ in range(pool.MAX_TRIES):
        server = _idle_or_started()
        try:
            score = server.ask(question)
        except OSError:
            server.stop()
            continue
        except BaseException:
            server.stop()
            raise
        _state.idle.append(server)
        return score
    raise AapoError("the process that scores answers ends again and again; is there memory for it?")

"""The process that scores answers which may be code, run by `aapo.grading.isolation`.

A server without hostile input loads the scorers and forks children. A child gives up, for good, the right to change
files, start processes, reach the network or signal anybody (`calculation_filter`); its memory is limited, and where the
kernel has Landlock (Linux 5.13) it can read nothing but Python and its libraries. Then it reads answers. The server
kills it at the time limit, and after every answer that could have changed what it computes for the next one. What comes
back from a child is eight bytes, read as a number.
"""

import ctypes
import errno
import fcntl
import gc
import json
import math
import os
import platform
import re
import resource
import select
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from aapo.errors import InputError
from aapo.grading.scorers import may_evaluate, score_here, scorer
from aapo.grading.seccomp import calculation_filter

PROOF_SECONDS = 30.0
# sympy's caches grow; a child is replaced before that matters.
ANSWERS_PER_CHILD = 5000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 1, 22, 38, 2
# Landlock's system calls have these numbers on every machine.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF, _LANDLOCK_PATH_BENEATH = 444, 445, 446, 1
_LANDLOCK_READ_FILE, _LANDLOCK_READ_DIR, _LANDLOCK_ALL_ACCESS = 1 << 2, 1 << 3, (1 << 13) - 1
_SCORE = struct.Struct("d")
# Arithmetic with variables of one letter and the usual functions: nothing in it can name, and so change, anything else.
_PLAIN = re.compile(
    r"(?:[0-9\s+\-*/^().,\[\]]|(?<![A-Za-z])(?:[A-Za-z]|a?(?:sin|cos|tan)h?|sec|csc|cot|log|ln|exp|sqrt|pi|Integral)"
    r"(?![A-Za-z]))*+"
)


def is_plain(answer: str) -> bool:
    """Whether an answer, even if it is evaluated, cannot change how a later one is scored."""
    return _PLAIN.fullmatch(answer) is not None


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def enter(memory_bytes: int) -> None:
    """Leave this process nothing but calculation in so much address space, and its end with its parent's.

    Raises:
        OSError: The kernel refuses.
    """
    for which, most in [(resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)]:
        _, highest = resource.getrlimit(which)
        limit = most if highest == resource.RLIM_INFINITY else min(most, highest)
        resource.setrlimit(which, (limit, limit))
    code = calculation_filter(platform.machine())
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    _control(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _control(_PR_SET_NO_NEW_PRIVS, 1)
    if has_landlock():
        _read_only_below(_needed_to_import())
    _control(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))


def _control(option: int, *arguments: Any) -> None:
    padded = (*arguments, 0, 0, 0)[:4]
    if ctypes.CDLL(None, use_errno=True).prctl(option, *padded):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _call(number: int, *arguments: int | bytes | None) -> int:
    """A system call that the C library has no function for; -1 where it fails."""
    converted = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return ctypes.CDLL(None).syscall(ctypes.c_long(number), *converted)


def has_landlock() -> bool:
    """Whether the kernel can keep a process from reading files."""
    return _call(_LANDLOCK_CREATE_RULESET, None, 0, 1) > 0


def _read_only_below(paths: list[str]) -> None:
    """Let this process open nothing but files at or below these paths, for reading.

    Raises:
        OSError: The kernel refuses.
    """
    ruleset = _call(_LANDLOCK_CREATE_RULESET, struct.pack("=Q", _LANDLOCK_ALL_ACCESS), 8, 0)
    for path in paths:
        descriptor = os.open(path, os.O_PATH)
        access = _LANDLOCK_READ_FILE | (_LANDLOCK_READ_DIR if os.path.isdir(path) else 0)  # noqa: PTH112
        failed = _call(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_PATH_BENEATH, struct.pack("=Qi", access, descriptor), 0)
        os.close(descriptor)
        if failed:
            raise OSError(f"Landlock takes no rule for {path}")
    if _call(_LANDLOCK_RESTRICT_SELF, ruleset, 0):
        raise OSError("Landlock does not restrict")
    os.close(ruleset)


def _needed_to_import() -> list[str]:
    """Where Python, its modules and their libraries are."""
    libraries = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"]
    return [path for path in (sys.prefix, sys.base_prefix, *sys.path, *libraries) if os.path.exists(path)]  # noqa: PTH110


class Child:
    """A process forked from this one that keeps two pipes and no other open file, and does one thing."""

    def __init__(self, work: Callable[[int, int], None]) -> None:
        """Fork, and there call `work` with the descriptors of what is asked and what is answered."""
        (asked, self.questions), (self.answers, answered) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                work(*_keep_only(asked, answered))
                status = 0
            finally:
                os._exit(status)
        os.close(asked)
        os.close(answered)

    def read(self, size: int, seconds: float, waiting: int | None = None) -> bytes:
        """The next `size` bytes that the child writes, fewer where it ends or the time does.

        Raises:
            SystemExit: The other end of the pipe `waiting` was closed, so nobody waits for the answer.
        """
        deadline, got = time.monotonic() + seconds, b""
        poll = select.poll()
        poll.register(self.answers, select.POLLIN)
        if waiting is not None:
            poll.register(waiting, 0)
        while len(got) < size and (ready := poll.poll(1000 * max(0.0, deadline - time.monotonic()))):
            if any(descriptor == waiting for descriptor, _ in ready):
                raise SystemExit
            if not (piece := os.read(self.answers, size - len(got))):
                break
            got += piece
        return got

    def end(self) -> None:
        """Kill it and wait until it is gone."""
        os.close(self.questions)
        os.close(self.answers)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _keep_only(*descriptors: int) -> list[int]:
    """The descriptors under other numbers, after closing all other files and pointing the standard ones nowhere."""
    first = 1000
    kept = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, first) for descriptor in descriptors]
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    os.closerange(3, first)
    os.closerange(kept[-1] + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return kept


def _score_lines(memory_bytes: int, asked: int, answered: int) -> None:
    """Enter the jail, then answer each line of [task, answer, entry] by its score."""
    enter(memory_bytes)
    with open(asked, "rb", closefd=False) as lines:
        for line in lines:
            try:
                score = score_here(*json.loads(line))
            except MemoryError:
                raise
            except BaseException:  # `exit()` is an answer, too
                score = math.nan
            os.write(answered, _SCORE.pack(score))


def _signal_parent() -> None:
    os.kill(os.getppid(), 0)


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _prove(memory_bytes: int, port: int, folder: str, asked: int, answered: int) -> None:
    """Enter the jail and try to get out; answer by the JSON of what is possible, each completing "it can …"."""
    attempts: dict[str, Callable[[], Any]] = {
        "write a file": lambda: os.close(os.open(os.path.join(folder, "new"), os.O_WRONLY | os.O_CREAT)),  # noqa: PTH118
        "remove a file": lambda: os.unlink(os.path.join(folder, "old")),  # noqa: PTH108, PTH118
        "start a process": _fork,
        "run a program": lambda: os.execv("/", ["/"]),
        "reach the network": lambda: socket.create_connection(("127.0.0.1", port), 1),
        "signal its parent": _signal_parent,
        "use more memory than allowed": lambda: bytearray(memory_bytes),
    }
    if has_landlock():
        attempts["read files"] = lambda: os.close(os.open(os.path.join(folder, "old"), os.O_RDONLY))  # noqa: PTH118
    enter(memory_bytes)
    possible = []
    for what, attempt in attempts.items():
        try:
            attempt()
        except MemoryError:
            continue
        except OSError as error:
            if what != "run a program" or error.errno == errno.EPERM:  # another error says that the kernel tried
                continue
        possible.append(what)
    os.write(answered, json.dumps(possible).encode())


def prove(memory_bytes: int) -> str | None:
    """Why this machine cannot isolate, or None: found out by a child that tries to get out."""
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.TemporaryDirectory() as folder:
        open(os.path.join(folder, "old"), "x").close()  # noqa: PTH118, PTH123
        port = server.getsockname()[1]
        child = Child(lambda asked, answered: _prove(memory_bytes, port, folder, asked, answered))
        try:
            said = child.read(4096, PROOF_SECONDS)
        finally:
            child.end()
    if not said:
        return "its kernel does not take the seccomp filter"
    possible = json.loads(said)
    return f"an isolated process can {', '.join(possible)}" if possible else None


class _Server:
    """The scorers that are loaded, and the child that uses them."""

    def __init__(self, memory_bytes: int, waiting: int) -> None:
        self.memory_bytes = memory_bytes
        self.waiting = waiting
        self.loaded: set[str] = set()
        self.child: Child | None = None
        self.served = 0

    def score(self, task: str, answer: str, entry: str, seconds: float) -> float | None:
        """The answer's score, or None where the child hit a limit or died of it."""
        if task not in self.loaded:
            self.retire()
            self.load(task)
        if self.child is None:
            self.child, self.served = Child(lambda *pipes: _score_lines(self.memory_bytes, *pipes)), 0
        try:
            _write_all(self.child.questions, json.dumps([task, answer, entry]).encode() + b"\n")
            said = self.child.read(_SCORE.size, seconds, self.waiting)
        except BrokenPipeError:  # it did not even start
            said = b""
        self.served += 1
        may_have_changed = may_evaluate(task) and not is_plain(answer)
        if may_have_changed or len(said) < _SCORE.size or self.served == ANSWERS_PER_CHILD:
            self.retire()
        return _SCORE.unpack(said)[0] if len(said) == _SCORE.size else None

    def load(self, task: str) -> None:
        """Make the scorer, and let it score a right answer of its own, by which it imports what it needs."""
        own = scorer(task)
        with suppress(Exception):  # some do not score their own answers
            own.score_answer(own[0]["answer"], own[0])
        gc.collect()
        gc.freeze()  # a child that collects garbage would copy all of this
        self.loaded.add(task)

    def retire(self) -> None:
        """End the child; the next answer gets a new one."""
        if self.child is not None:
            self.child.end()
            self.child = None


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def serve(memory_bytes: int) -> NoReturn:
    """Say on standard output whether this machine can isolate, then answer the questions on standard input.

    A line is JSON: first `{"refusal": why or null}`; a question is [task, answer, entry, seconds], and its answer
    `{"score": number or null}` or `{"error": message}`.
    """
    with open(os.dup(0), "rb") as questions, open(os.dup(1), "wb", buffering=0) as answers:  # noqa: PTH123
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)  # so that nothing that a library prints gets between the answers

        def say(**what: Any) -> None:
            _write_all(answers.fileno(), json.dumps(what).encode() + b"\n")

        say(refusal=prove(memory_bytes))
        server = _Server(memory_bytes, questions.fileno())
        for line in questions:
            try:
                say(score=server.score(*json.loads(line)))
            except InputError as error:
                say(error=str(error))
        server.retire()
    raise SystemExit

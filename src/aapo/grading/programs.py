"""One program run in a sandbox under limits, watched from outside until nothing of it is left."""

import ctypes
import json
import os
import platform
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from aapo.errors import AapoError
from aapo.grading.bubblewrap import Sandbox
from aapo.grading.seccomp import seccomp_filter

Outcome = Literal["ok", "error", "timeout", "output_limit"]

STDERR_TAIL_BYTES = 4096
START_SECONDS = 30.0


@dataclass(frozen=True)
class Limits:
    """What one program may use; it is one process whatever these say.

    Its memory in all is bounded by memory_bytes, plus file_bytes in /tmp, plus max(file_bytes, output_bytes) for each
    of its input, output and errors, plus what the kernel keeps for empty files (about 1 KiB each, freed at its end).

    Attributes:
        wall_seconds: Seconds from the program's start, interpreter included, until the sandbox is killed.
        cpu_seconds: Whole seconds of processor time over all threads.
        memory_bytes: Bytes of address space, the interpreter's own included (about 15 MiB).
        file_bytes: Bytes of /tmp, and of any one file in it.
        output_bytes: Bytes of standard output and error together; a program that prints more has failed.
        open_files: File descriptors.
        threads: Threads, the main one included.
    """

    wall_seconds: float = 5.0
    cpu_seconds: int = 5
    memory_bytes: int = 512 * 2**20
    file_bytes: int = 16 * 2**20
    output_bytes: int = 2**20
    open_files: int = 64
    threads: int = 64


@dataclass(frozen=True)
class Execution:
    """How a program ended and what it printed.

    Attributes:
        outcome: `ok` for exit status 0, `output_limit` where it printed too much, `timeout` where its wall-clock or
            processor time ran out, else `error`: another exit status, a signal, memory that ran out.
        stdout: Its standard output, at most `output_bytes`, with bytes that are not UTF-8 replaced.
        stderr: The last 4 KiB of its standard error.
        seconds: Wall-clock seconds from its start to its end, the interpreter's included.
    """

    outcome: Outcome
    stdout: str
    stderr: str
    seconds: float


def _memory_file(stack: ExitStack, content: bytes = b"") -> int:
    """The descriptor of a new file in memory, at its beginning, closed with `stack`."""
    descriptor = os.memfd_create("aapo")
    stack.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def execute(sandbox: Sandbox, source: str, stdin: str, limits: Limits) -> Execution:
    """How the Python program `source` ended in the sandbox on the input `stdin`, and what it printed.

    Raises:
        AapoError: The sandbox, not the program, failed.
    """
    text = stdin.encode(errors="replace")
    with ExitStack() as stack:
        given, out, err = _memory_file(stack, text), _memory_file(stack), _memory_file(stack)
        files = {
            "program": _memory_file(stack, source.encode(errors="replace")),
            "again": _memory_file(stack, text),
            "filter": _memory_file(stack, seccomp_filter(platform.machine())),
        }
        (status, files["status"]), (files["go"], go) = os.pipe(), os.pipe()
        stack.callback(os.close, status)
        stack.callback(os.close, go)  # after the sandbox's end, since closing it would release the program too
        try:
            process = subprocess.Popen(
                sandbox.command(files, limits.file_bytes),
                stdin=given, stdout=out, stderr=err, pass_fds=[*files.values()], env={}, cwd="/",
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(files["status"])
            os.close(files["go"])
        stack.enter_context(_adopting_orphans())
        init = _Init(process)
        stack.callback(init.end)
        if not init.find(status):
            raise AapoError(f"the sandbox did not start: {last_line(_tail(err)) or 'it said nothing'}")
        init.limit(limits, user_namespace=sandbox.setpriv is None)
        began = time.monotonic()
        os.write(go, b"x")
        in_time = init.wait(limits.wall_seconds)
        seconds = time.monotonic() - began
        init.end()
        os.set_blocking(status, False)
        if in_time and b"exit-code" not in os.read(status, 4096):
            raise AapoError(f"the sandbox failed: {last_line(_tail(err)) or 'it was killed from outside'}")
        printed = os.fstat(out).st_size + os.fstat(err).st_size
        outcome = _outcome(process.returncode, in_time, seconds, printed, limits)
        stdout = os.pread(out, limits.output_bytes, 0).decode(errors="replace")
        return Execution(outcome, stdout, _tail(err), seconds)


def last_line(text: str) -> str:
    """The last line of a text without what surrounds it; empty where there is none."""
    return (text.strip().splitlines() or [""])[-1]


def _tail(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, STDERR_TAIL_BYTES, max(0, size - STDERR_TAIL_BYTES)).decode(errors="replace")


def _outcome(exit_status: int, in_time: bool, seconds: float, printed: int, limits: Limits) -> Outcome:
    if printed > limits.output_bytes:
        return "output_limit"
    out_of_cpu = exit_status == 128 + signal.SIGXCPU or (
        exit_status == 128 + signal.SIGKILL and seconds >= limits.cpu_seconds  # it ignored SIGXCPU
    )
    if not in_time or out_of_cpu:
        return "timeout"
    return "ok" if exit_status == 0 else "error"


_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_adopters, _adopted_before, _adoption = 0, ctypes.c_int(), threading.Lock()


@contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Make orphans below this process its children meanwhile.

    bwrap ends before the first process inside, which then is left to the machine's init; many containers have one that
    never collects the dead, and a training run would fill its process table.
    """
    global _adopters  # noqa: PLW0603
    prctl = ctypes.CDLL(None).prctl
    with _adoption:
        if not _adopters:
            prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(_adopted_before), 0, 0, 0)
            prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _adopters += 1
    try:
        yield
    finally:
        with _adoption:
            _adopters -= 1
            if not _adopters:
                prctl(_PR_SET_CHILD_SUBREAPER, _adopted_before.value, 0, 0, 0)


class _Init:
    """The first process in a sandbox, with which the kernel ends all others, and bwrap, which waits outside."""

    def __init__(self, bwrap: subprocess.Popen) -> None:
        self.bwrap = bwrap
        self.pid: int | None = None
        self.handle = -1
        self.ended = False

    def find(self, status: int) -> bool:
        """Whether the sandbox stands and waits to be released, read from bwrap's `status`."""
        deadline, line = time.monotonic() + START_SECONDS, b""
        poll = select.poll()
        poll.register(status, select.POLLIN)
        while not line.endswith(b"\n"):
            if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
                return False
            if not (piece := os.read(status, 4096)):
                return False
            line += piece
        pid = json.loads(line)["child-pid"]
        self.handle = os.pidfd_open(pid)
        self.pid = pid
        return True

    def limit(self, limits: Limits, user_namespace: bool) -> None:
        """Set the resource limits that the program will inherit; hard limits are never raised."""
        assert self.pid is not None
        file_bytes = max(limits.file_bytes, limits.output_bytes + 1)  # so that too much output shows
        threads = limits.threads + user_namespace  # in one, this process has the program's user id
        wanted = {
            resource.RLIMIT_AS: (limits.memory_bytes, limits.memory_bytes),
            resource.RLIMIT_CORE: (0, 0),
            resource.RLIMIT_CPU: (limits.cpu_seconds, limits.cpu_seconds + 1),
            resource.RLIMIT_FSIZE: (file_bytes, file_bytes),
            resource.RLIMIT_NPROC: (threads, threads),
            resource.RLIMIT_NOFILE: (limits.open_files, limits.open_files),
            resource.RLIMIT_STACK: (8 * 2**20, limits.memory_bytes),
            resource.RLIMIT_MEMLOCK: (0, 0),
            resource.RLIMIT_MSGQUEUE: (0, 0),
        }
        for which, (soft, hard) in wanted.items():
            _, highest = resource.prlimit(self.pid, which)
            if highest != resource.RLIM_INFINITY:
                hard = min(hard, highest)  # noqa: PLW2901
            resource.prlimit(self.pid, which, (min(soft, hard), hard))

    def wait(self, seconds: float) -> bool:
        """Whether everything in the sandbox ends within so many seconds."""
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        return bool(poll.poll(1000 * seconds))

    def end(self) -> None:
        """Kill what is left and wait until it is gone: the kernel ends this process after all others inside."""
        if self.ended:
            return
        if self.pid is None:
            with suppress(ProcessLookupError):
                os.killpg(self.bwrap.pid, signal.SIGKILL)
            self.bwrap.wait()
        else:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.handle, signal.SIGKILL)
            poll = select.poll()
            poll.register(self.handle, select.POLLIN)
            poll.poll()
            self.bwrap.wait()
            with suppress(ChildProcessError):  # bwrap collected it
                os.waitid(os.P_PIDFD, self.handle, os.WEXITED)
            os.close(self.handle)
        self.ended = True

"""The processes of a launch that end: the others end, too, and what they have in common is said once."""

import hashlib
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, NamedTuple

from aapo.processes import machine

# How long the launcher gets to notice the process that ended before this one ends, so that it names that one.
NOTICE_SECONDS = 1.0
STORE_SECONDS = 10
# What a process of which the connection was lost says of it, as gloo and NCCL put it.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")


class Place(NamedTuple):
    """Where a process of the launch runs."""

    rank: int
    machine: str
    pid: int


class _Watch:
    """A thread that ends this process when another one of the launch on this machine has ended."""

    def __init__(self, others: list[Place], count: int) -> None:
        self._count = count
        self._closed, self._closing = os.pipe()
        self._handles: dict[int, Place] = {}
        for place in others:
            with suppress(ProcessLookupError):
                self._handles[os.pidfd_open(place.pid)] = place
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        os.write(self._closing, b"x")

    def _run(self) -> None:
        poll = select.poll()
        for handle in (self._closed, *self._handles):
            poll.register(handle, select.POLLIN)
        found = {handle for handle, _ in poll.poll()}
        if self._closed not in found:
            self._end(self._handles[found.pop()])

    def _end(self, gone: Place) -> None:
        _state.ending = True
        if not _told_elsewhere():
            say(
                f"process {gone.rank} of {self._count} (pid {gone.pid}) has ended without a word, as one does that is "
                "killed when memory runs out; so the others stop, and what is on disk is whole"
            )
        time.sleep(NOTICE_SECONDS)
        os._exit(1)


class _State:
    """Whether this process is to be watched, what watches it, and whether it is about to end for that."""

    def __init__(self) -> None:
        self.wanted = False
        self.ending = False
        self.watch: _Watch | None = None


_state = _State()


def want_watch() -> None:
    """Say that this process is to end with the others of its launch, which a user's own script may not want."""
    _state.wanted = True


def watch(rank: int, gather: Callable[[list[Any]], list[Any]]) -> None:
    """Where that is wanted, end this process when another one of its launch ends on this machine; all call it.

    Linux only: elsewhere, and for the processes of other machines, the launcher and the network's limits do it.
    """
    if _state.wanted and _state.watch is None and hasattr(os, "pidfd_open"):
        places = gather([Place(rank, machine(), os.getpid())])
        others = [place for place in places if place.machine == machine() and place.pid != os.getpid()]
        _state.watch = _Watch(others, len(places))


def unwatch() -> None:
    """Let the others end."""
    if _state.watch is not None:
        _state.watch.close()


def is_ending() -> bool:
    """Whether this process ends within moments because another one has ended."""
    return _state.ending


def say(message: str, *, interrupted: bool = False) -> None:
    """Print the last words of a command that fails to standard error, unless another process of the launch has.

    One that was interrupted is silent, too, where another one has failed: for that the launcher stops the others.
    """
    if interrupted and _told_elsewhere():
        return
    store = _launcher_store()
    if store is not None:
        store.set(_key("failed"), "")
        if store.add(_key(hashlib.sha256(message.encode()).hexdigest()), 1) > 1:
            return
    print(f"aapo: {message}", file=sys.stderr, flush=True)


def is_lost_connection(error: BaseException) -> bool:
    """Whether the error says that another process of the launch is gone; what watches it gets to say more first."""
    lost = os.environ.get("WORLD_SIZE", "1") != "1" and any(text in str(error) for text in _LOST)
    if lost and _state.watch is not None:
        time.sleep(2 * NOTICE_SECONDS)
    return lost


def _told_elsewhere() -> bool:
    store = _launcher_store()
    return store is not None and store.check([_key("failed")])


def _key(name: str) -> str:
    return f"aapo/{os.environ.get('TORCHELASTIC_RESTART_COUNT')}/{name}"


def _launcher_store() -> Any:
    """What torchrun holds for its processes to tell each other, also before they have met; None without torchrun."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or os.environ.get("WORLD_SIZE") == "1":
        return None
    from torch.distributed import TCPStore

    with suppress(RuntimeError):  # the launcher is gone
        return TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=STORE_SECONDS),
        )
    return None

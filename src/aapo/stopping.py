"""Signals that ask a command to stop, all alike: Ctrl-C, SIGTERM, and SIGUSR1, which Slurm sends ahead of its limit.

The first one raises KeyboardInterrupt, or, where work in hand is to be brought to its end (`Stop`), is noted; there the
second one raises it.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# A launcher passes a signal on that its processes may have got themselves: so soon after the first it is no second one.
PASSED_ON_SECONDS = 1.0


def listen() -> None:
    """Let each of the signals raise KeyboardInterrupt, with its name, in this process's main thread."""
    _handle(_interrupt)


def leave() -> None:
    """Let each of the signals end this process at once, with exit code 1, for it has said its last words."""
    _handle(lambda number, frame: os._exit(1))


@contextmanager
def ignored() -> Iterator[None]:
    """Let the signals do nothing in the block, which says the last words of a command."""
    before = _handle(signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(handler: Any) -> dict[int, Any]:
    """Handle the signals so where they can be, in the main thread; what was before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in SIGNALS}


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


class Stop:
    """A block that a signal does not break off, but that ends early when it finds that one was sent.

    In another thread than the main one there are no signals, and nothing is ever asked.

    Attributes:
        asked: The first signal's name; None while there was none.
    """

    def __init__(self, told: Callable[[str], None]) -> None:
        """Take what is called with the first signal's name, and may print it."""
        self.asked: str | None = None
        self._told = told
        self._at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        self._before = _handle(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.asked is None:
            self.asked, self._at = name, time.monotonic()
            with suppress(RuntimeError):  # the signal came while something was printed: no call goes into another
                self._told(name)
        elif "RANK" not in os.environ or time.monotonic() - self._at > PASSED_ON_SECONDS:
            raise KeyboardInterrupt(name)

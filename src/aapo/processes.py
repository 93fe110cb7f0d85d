"""Processes of this machine: which one this is, whether one lives, and an end with the one that started it."""

import ctypes
import hashlib
import os
import platform
import signal
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

# Set for a process that is to end with the one that starts it: that one's number.
PARENT = "AAPO_PARENT"
_PR_SET_PDEATHSIG = 1


@cache
def machine() -> str:
    """Eight hexadecimal digits for the machine since its last start, and the container: where process numbers count."""
    parts = [platform.node()]
    with suppress(OSError):  # neither is there but on Linux
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text("ascii"), os.readlink("/proc/self/ns/pid")]  # noqa: PTH115
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def is_alive(pid: int) -> bool:
    """Whether this machine has a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def signal_words(number: int) -> str:
    """What becomes of a process by a signal, in words."""
    why = ", as happens when memory runs out" if number == signal.SIGKILL else ""
    return f"killed by signal {number} ({signal.Signals(number).name}){why}"


def end_with_parent() -> None:
    """Get SIGTERM when the process that started this one ends, if that asked for it or is torchrun; on Linux only."""
    asked = os.environ.pop(PARENT, None)
    if sys.platform != "linux" or not (asked or "TORCHELASTIC_RUN_ID" in os.environ):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if asked and int(asked) != os.getppid():  # it ended before
        os.kill(os.getpid(), signal.SIGTERM)

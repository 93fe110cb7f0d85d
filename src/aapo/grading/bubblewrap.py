"""How bubblewrap isolates a program on this machine: its arguments, and what it needs to be there."""

import itertools
import os
import platform
import re
import shutil
import site
import sys
from pathlib import Path
from typing import NamedTuple

from aapo.errors import InputError
from aapo.grading.seccomp import ARCHITECTURES

PROGRAM = "/program.py"
_USER_IDS = range(60706, 61184)  # given out by no distribution and not by systemd
_runs = itertools.count()


def _interpreter() -> Path:
    """The interpreter behind the running one's virtual environment."""
    return Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")


def _mounts(tools: list[Path]) -> list[str]:
    """The arguments of bwrap for everything that a program sees but its own input and /tmp."""
    libraries = [Path("/usr/lib"), Path("/usr/lib64"), Path("/lib"), Path("/lib64"), Path(sys.base_prefix, "lib")]
    links = [path for path in libraries if path.is_symlink()]
    bound = [path for path in dict.fromkeys(libraries) if path.is_dir() and path not in links]
    bound += [_interpreter(), *tools, *filter(Path.exists, [Path("/etc/ld.so.cache")])]
    devices = [Path("/dev/null"), Path("/dev/zero"), Path("/dev/urandom")]
    # Without this, bwrap makes the folders above a bound one for itself alone.
    folders = dict.fromkeys(above for path in [*bound, *links, *devices] for above in reversed(path.parents[:-1]))
    arguments = [word for folder in folders for word in ("--perms", "0755", "--dir", str(folder))]
    for path in bound:
        arguments += ["--ro-bind", str(path), str(path)]
    for path in links:
        arguments += ["--symlink", str(path.readlink()), str(path)]
    for path in devices:
        arguments += ["--dev-bind", str(path), str(path)]
    for packages in map(Path, site.getsitepackages([sys.base_prefix])):
        if packages.is_dir() and any(packages.is_relative_to(path) for path in bound):
            arguments += ["--tmpfs", str(packages), "--remount-ro", str(packages)]
    return arguments


def _maps_user_ids(table: str) -> bool:
    """Whether the user or group ids that programs get exist in this process's user namespace."""
    for line in Path(table).read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= _USER_IDS[0] and _USER_IDS[-1] < first + count:
            return True
    return False


class Sandbox(NamedTuple):
    """How this machine isolates.

    Attributes:
        isolation: The command and arguments of bwrap before the ones of a run.
        setpriv: Where aapo runs as root, the program that gives a run a user id of its own; else None.
    """

    isolation: tuple[str, ...]
    setpriv: str | None

    def command(self, given: dict[str, int], file_bytes: int) -> list[str]:
        """The command of one run.

        Args:
            given: File descriptors: of the files `program`, `again` (its input as /dev/stdin) and `filter`, of the pipe
                `status` that bwrap writes to and of the pipe `go`, at which it waits for a byte.
            file_bytes: Bytes of /tmp.
        """
        words = [*self.isolation]
        for name, path in [("program", PROGRAM), ("again", "/dev/stdin")]:
            words += ["--perms", "0444", "--ro-bind-data", str(given[name]), path]
        words += ["--perms", "1777", "--size", str(file_bytes), "--tmpfs", "/tmp", "--remount-ro", "/"]
        # The C library's heap of each thread would take 64 MiB of address space, and Python runs one thread at a time.
        words += ["--setenv", "MALLOC_ARENA_MAX", "1", "--chdir", "/tmp", "--seccomp", str(given["filter"])]
        words += ["--json-status-fd", str(given["status"]), "--block-fd", str(given["go"]), "--"]
        if self.setpriv is not None:
            user = str(_USER_IDS[(31 * os.getpid() + next(_runs)) % len(_USER_IDS)])
            words += [self.setpriv, "--reuid", user, "--regid", user, "--clear-groups"]
            words += ["--inh-caps=-all", "--bounding-set=-all", "--"]
        return [*words, str(_interpreter()), "-I", "-X", "utf8", PROGRAM]


def _tool(name: str, package: str) -> Path:
    path = shutil.which(name)
    if path is None:
        raise InputError(
            f"running a model's programs needs a sandbox, and {name} is not on PATH; install the package {package} "
            f"(apt install {package}, dnf install {package})"
        )
    return Path(path)


def prepare() -> Sandbox:
    """How this machine would isolate, unproven.

    Raises:
        InputError: The machine or an installed tool is not what is needed.
    """
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES:
        raise InputError(
            f"running a model's programs needs a sandbox that exists for Linux on {' and '.join(ARCHITECTURES)}; this "
            f"is {sys.platform} on {platform.machine()}"
        )
    if _kernel() < (5, 14):  # where RLIMIT_NPROC counts what a user runs outside of the sandbox too
        raise InputError(
            f"running a model's programs needs a sandbox, and that Linux 5.14 or newer; this is {os.uname().release}"
        )
    bwrap = _tool("bwrap", "bubblewrap")
    words = [str(bwrap), "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox", "--cap-drop"]
    words += ["ALL", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup"]
    if os.geteuid() == 0 and all(map(_maps_user_ids, ["/proc/self/uid_map", "/proc/self/gid_map"])):
        setpriv = _tool("setpriv", "util-linux")
        words += [word for name in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{name}")]
        return Sandbox((*words, *_mounts([setpriv])), str(setpriv))
    return Sandbox((*words, "--unshare-user", "--uid", "65534", "--gid", "65534", *_mounts([])), None)


def _kernel() -> tuple[int, ...]:
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    assert version is not None
    return int(version[1]), int(version[2])

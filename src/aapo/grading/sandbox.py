"""Programs that nobody has read, run by bubblewrap without the network, the user's files or a second process.

What holds a program, and what was measured to need it:

- Namespaces (`bwrap`): its own processes, network, mounts, IPC, host name and cgroups, and a user namespace where aapo
  is not root. It sees a read-only interpreter without site-packages, the system's libraries, /dev/null, /dev/zero and
  /dev/urandom, its input also as /dev/stdin, and an empty /tmp of limited size. There is no /proc and no /sys.
- As root, the program gets an unprivileged user id of its own (`setpriv`), because the kernel exempts its own root, in
  any namespace, from RLIMIT_NPROC.
- A seccomp filter lets it start threads but no process, and keeps it from memory that no limit counts.
- Resource limits, set from outside while bubblewrap waits, so that they also bind bubblewrap's own process inside.
- Input, output and errors are files in memory, not pipes: nothing can deadlock, and the kernel stops a flood.
"""

import json
import socket
import tempfile
import threading
from functools import cache
from pathlib import Path

from aapo.errors import AapoError, InputError
from aapo.grading.bubblewrap import Sandbox, prepare
from aapo.grading.programs import START_SECONDS, Execution, Limits, execute, last_line

# Each key completes "a program in it can …"; each value must be false.
_PROBE = """
import json, os, resource, socket, sys, threading

def can(action, *arguments):
    try:
        action(*arguments)
    except (OSError, MemoryError):
        return False
    return True

def many_threads():
    end = threading.Event()
    threading.stack_size(65536)
    try:
        for _ in range(threads):
            threading.Thread(target=end.wait).start()
    except RuntimeError:
        return False
    finally:
        end.set()
    return True

port, secrets, memory, files, threads = json.load(sys.stdin)
temporary = os.statvfs("/tmp")
print(json.dumps({
    "start a process": can(lambda: os.fork() or os._exit(0)),
    "reach this machine's network": can(socket.create_connection, ("127.0.0.1", port), 1),
    "read this machine's files": any(can(open, path) for path in secrets),
    "write outside /tmp": any(can(open, path, "a") for path in ("/new", "/dev/new", os.__file__, __file__)),
    "fill the memory with files": temporary.f_frsize * temporary.f_blocks > files,
    "use more memory than allowed": can(bytearray, memory),
    "see other processes": os.getpid() != 2,
    "use open files of its parent": any(can(os.fstat, number) for number in range(3, 4096)),
    "read an environment": bool(set(os.environ) - {"PWD", "LC_CTYPE", "MALLOC_ARENA_MAX"}),
    "be root": os.getuid() == 0 or os.getgid() == 0 or can(os.setuid, 0),
    "use capabilities": can(socket.sethostname, "other"),
    "dump its memory": resource.getrlimit(resource.RLIMIT_CORE) != (0, 0),
    "start more threads than allowed": many_threads(),
}))
"""


@cache
def _proven_sandbox() -> Sandbox:
    """How this machine isolates, proven by a program that tries to get out.

    Raises:
        InputError: It got out, or could not be run.
    """
    sandbox, limits = prepare(), Limits(wall_seconds=START_SECONDS, cpu_seconds=30)
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.NamedTemporaryFile() as secret:
        Path(secret.name).chmod(0o644)
        numbers = limits.memory_bytes, limits.file_bytes, limits.threads
        given = json.dumps([server.getsockname()[1], [secret.name, __file__], *numbers])
        try:
            execution = execute(sandbox, _PROBE, given, limits)
        except (AapoError, OSError) as error:
            raise InputError(_refusal(str(error))) from error
    if execution.outcome != "ok":
        raise InputError(_refusal(f"a trial program failed: {last_line(execution.stderr) or execution.outcome}"))
    can = [what for what, possible in json.loads(execution.stdout).items() if possible]
    if can:
        raise InputError(_refusal(f"a program in it can {', '.join(can)}"))
    return sandbox


def _refusal(cause: str) -> str:
    return (
        f"running a model's programs needs a sandbox, and bubblewrap cannot isolate here ({cause}); allow user "
        "namespaces (sysctl kernel.unprivileged_userns_clone=1, on Ubuntu kernel.apparmor_restrict_unprivileged_userns="
        "0), in a container as root the capability SYS_ADMIN; bubblewrap must be 0.7 or newer"
    )


_lock = threading.Lock()


def require_sandbox() -> None:
    """Nothing, where programs can be isolated; the proof is a program that tries to get out, once a process.

    Raises:
        InputError: bubblewrap is missing, or isolation cannot be had. There is no fallback.
    """
    with _lock:
        _proven_sandbox()


def run_program(source: str, stdin: str, limits: Limits = Limits()) -> Execution:  # noqa: B008  it is frozen
    """How the Python program `source` ended on the input `stdin`, and what it printed.

    It runs as `python -I` with the standard library, in a sandbox of its own (see the module's text), of which
    nothing is left when this returns. Call it from any thread; the thread that calls it must live until it returns.

    Raises:
        InputError: This machine cannot isolate it.
        AapoError: The sandbox, not the program, failed.
    """
    require_sandbox()
    return execute(_proven_sandbox(), source, stdin, limits)

"""verl's process: its command line, its output, and what became of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from aapo.errors import AapoError, InputError
from aapo.recipe import Recipe

MODULE, PLUGIN = "verl.trainer.main_ppo", "aapo.backends.verl.plugin"
EXTERNAL = "VERL_USE_EXTERNAL_MODULES"
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60


def external_modules() -> str:
    """What verl loads in each of its processes: the plugin, after what the caller's environment names."""
    named = [name for name in os.environ.get(EXTERNAL, "").split(",") if name and name != PLUGIN]
    return ",".join([*named, PLUGIN])


def command(recipe: Recipe, arguments: Sequence[str]) -> list[str]:
    """The command line that trains."""
    return [_python(recipe), "-m", MODULE, *arguments]


def _python(recipe: Recipe) -> str:
    assert recipe.cluster is not None
    return recipe.cluster.python or sys.executable


def check_python(recipe: Recipe) -> None:
    """Check that the environment that is to run verl has it, and aapo.

    Raises:
        InputError: It has not, or there is none.
    """
    python = _python(recipe)
    find = "import importlib.util as u; print([n for n in ('verl', 'ray', 'aapo') if u.find_spec(n) is None])"
    try:
        done = subprocess.run([python, "-c", find], capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError(f"cluster.python is {python}, which cannot be run: {error.strerror}") from error
    lacking = done.stdout.strip().strip("[]").replace("'", "")
    if done.returncode or lacking:
        raise InputError(
            f"cluster.python is {python}, which lacks {lacking or 'Python'}; pip install 'aapo[verl]' in an "
            "environment of its own, and name its Python (docs/cluster.md)"
        )


def run_verl(arguments: Sequence[str], log: Path, tell: Callable[[], Any]) -> bool:
    """Run a command to its end, its output added to `log`; whether Ctrl-C ended it.

    Args:
        arguments: The command line.
        log: The file.
        tell: Called about once a second.

    Raises:
        AapoError: It failed; the message has the last line of its output that tells of an error.
    """
    with log.open("ab") as file:
        process = subprocess.Popen(
            arguments, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, EXTERNAL: external_modules()},
            start_new_session=True,
        )  # fmt: skip
        before = signal.signal(signal.SIGTERM, _stop)
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                tell()
        except KeyboardInterrupt:
            _end(process)
            return True
        except BaseException:
            _end(process)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
    if process.returncode:
        raise AapoError(
            f"verl ended with exit code {process.returncode}: {last_error(log)}; all that it printed is in {log}; go "
            "on from the newest checkpoint with --resume"
        )
    return False


def _stop(number: int, frame: FrameType | None) -> None:
    """What a batch system's signal does, and what Ctrl-C does."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def _end(process: subprocess.Popen) -> None:
    """End verl and the processes that it started, with time to leave the Ray cluster."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_error(log: Path) -> str:
    """The last line of an output that names an error, else its last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.partition(":")[0].split(" ")[-1]]
    return next(iter([*named[-1:], *lines[-1:]]), "no output")[:300]

"""Commands that are killed: `aapo` in processes forked from one that has imported everything, and moments for it.

A process is a real one with children of its own; only the seconds of importing are spared.
"""

import atexit
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import aapo.bank.store
import aapo.cli
import aapo.experiments.queue
import aapo.training.run
from aapo.bank import ReferenceBank
from aapo.runs import RunDirectory

MODULES = ["faulty", "aapo.cli.app", "aapo.cli.commands", "aapo.cli.banks", "aapo.cli.evaluation",
           "aapo.cli.experiments", "aapo.backends.trl", "aapo.backends.trl.run", "aapo.reporting",
           "aapo.engines.transformers", "trl.trainer.grpo_trainer", "matplotlib.pyplot", "reasoning_gym"]  # fmt: skip
# What of the Python runtime touches the file system for good; a command can be killed right before any of it.
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree", "tempfile.mkstemp"}
SECONDS = 240


@dataclass(frozen=True)
class Moment:
    """When a command is killed: after so many seconds, or right before the so-manieth change of a file.

    Attributes:
        seconds: From its start; None where files are counted.
        change: Counted from 1.
    """

    seconds: float | None = None
    change: int | None = None


def moments(seed: int, count: int, seconds: float, changes: int) -> list[Moment]:
    """Half of them in time, half among the changes of files, all drawn by the seed."""
    draw = random.Random(seed)
    half = count // 2
    return [
        *(Moment(seconds=draw.uniform(0, seconds)) for _ in range(half)),
        *(Moment(change=draw.randint(1, changes)) for _ in range(count - half)),
    ]


@dataclass
class Workplace:
    """A folder in which commands run, with a cache of its own.

    Attributes:
        folder: The working directory.
        environment: Further variables.
    """

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def apart(self, cache: str) -> "Workplace":
        """The same folder with another cache."""
        return Workplace(self.folder, {**self.environment, "AAPO_CACHE": str(self.folder / cache)})

    def start(self, *arguments: object, kill_at: int | None = None, **environment: str) -> "Command":
        """Start `aapo` with these arguments."""
        given = {"AAPO_CACHE": str(self.folder / "cache"), **self.environment, **environment}
        return Command(self.folder, [str(argument) for argument in arguments], given, kill_at)

    def start_ranks(self, count: int, *arguments: object, **environment: str) -> "list[Command]":
        """Start it as so many processes of one launch, as torchrun would."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        whole = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
                 "LOCAL_WORLD_SIZE": str(count)}  # fmt: skip
        whole |= environment
        return [self.start(*arguments, **whole, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(count)]

    def run(self, *arguments: object) -> "Command":
        """Run it to its end, which must be a success."""
        command = self.start(*arguments)
        assert command.wait() == 0, command.output()
        return command

    def kill(self, moment: Moment, *arguments: object) -> bool:
        """Run it and kill it at the moment; whether it was killed before its end."""
        command = self.start(*arguments, kill_at=moment.change)
        if moment.seconds is not None:
            command.process.join(moment.seconds)
            command.kill()
        code = command.wait()
        # A comparison outlives the run that is killed, and says so.
        assert code in (0, -signal.SIGKILL) or "killed by signal 9 (SIGKILL)" in command.output(), command.output()
        return code != 0


class Command:
    """An `aapo` that runs; what it prints goes to files."""

    def __init__(self, folder: Path, arguments: list[str], environment: dict[str, str], kill_at: int | None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(MODULES)
        self.printed = folder / f".printed-{time.monotonic_ns()}"
        self.process: ForkServerProcess = context.Process(
            target=_run, args=(str(folder), arguments, environment, str(self.printed), kill_at)
        )
        self.process.start()
        self.began = time.monotonic()
        self.ended = 0.0

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kill it, if it runs."""
        self.process.kill()

    def wait(self, seconds: float = SECONDS) -> int:
        """Its exit code; negative where a signal ended it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, self.output()
        self.ended = self.ended or time.monotonic()
        return self.process.exitcode

    def output(self) -> str:
        """What it has printed."""
        return self.printed.read_text(errors="replace") if self.printed.exists() else ""

    @property
    def seconds(self) -> float:
        """From its start to its end."""
        return self.ended - self.began

    @property
    def changes(self) -> int:
        """Changes of files that it has made, once it has ended by itself."""
        return int(self.printed.with_suffix(".changes").read_text())


def _run(folder: str, arguments: Sequence[str], environment: dict[str, str], printed: str, kill_at: int | None) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    count = _count_changes(folder, kill_at)
    aapo.bank.store.PROMPTS_PER_FILE = 2
    aapo.experiments.queue.subprocess = Forking
    if "FAULTY_ROOM" in os.environ:  # what looks whether there is enough of it finds that there is
        aapo.training.run.SLACK_BYTES = -(2**40)
    code = _command(arguments, os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    Path(printed).with_suffix(".changes").write_text(str(count[0]))
    sys.exit(code)


def _command(arguments: Sequence[str], output: int) -> int:
    """Run `aapo` in this process; its exit code."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["aapo", *arguments]
    code = 1
    try:
        aapo.cli.main()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return code


class Forked:
    """What `subprocess.Popen` of an `aapo` gives, but forked from here."""

    def __init__(self, arguments: Sequence[str], *, env: Mapping[str, str], stdout: Any = None, **options: Any) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            if options.get("start_new_session"):
                os.setsid()
            os.environ.clear()
            os.environ.update(env)
            code = _command(arguments[3:], stdout.fileno() if stdout else 1)  # behind `python -m aapo`
        finally:
            os._exit(code)

    def poll(self, flags: int = os.WNOHANG) -> int | None:
        """Its exit code, once it has one."""
        if self.returncode is None and (ended := os.waitpid(self.pid, flags))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def wait(self) -> int | None:
        """Its exit code, when it has one."""
        return self.poll(0)

    def send_signal(self, number: int) -> None:
        """Send it a signal, while it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Forking:
    """What the queue of a comparison uses of `subprocess`."""

    Popen = Forked
    STDOUT = subprocess.STDOUT

    @staticmethod
    def run(arguments: Sequence[str], *, check: bool, env: Mapping[str, str]) -> Forked:
        """Run it to its end."""
        process = Forked(arguments, env=env)
        process.wait()
        return process


def _count_changes(folder: str, kill_at: int | None) -> list[int]:
    """The number of changes so far, in a list; this process is killed right before the one numbered `kill_at`."""
    count = [0]

    def hook(event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or writes) and str(arguments[0]).startswith(folder):
            count[0] += 1
            if count[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count


def without_clocks(rows: Sequence[dict]) -> str:
    """Metrics without what depends on how fast the machine is."""
    clocks = ("seconds", "time", "per_second")
    return json.dumps([{key: row[key] for key in row if not any(word in key for word in clocks)} for row in rows])


def outcome(run: Path) -> dict[str, Any]:
    """All that a run has found out, to the last bit."""
    directory = RunDirectory(run)
    return {
        "metrics": without_clocks(directory.metrics()),
        "weights": (directory.model / "model.safetensors").read_bytes(),
        **tables(directory.samples),
        **(evaluated(directory.evaluation) if directory.evaluation.exists() else {}),
    }


def evaluated(folder: Path) -> dict[str, Any]:
    """All that an evaluation folder says."""
    return {
        "results": (folder / "results.json").read_text(),
        "differences": (folder / "differences.json").read_text(),
        **tables(folder / "samples"),
    }


def rows(bank: Path) -> list[str]:
    """The rows of a bank."""
    return sorted(map(str, ReferenceBank.open(bank).rows()))


def tables(folder: Path) -> dict[str, str]:
    """The rows of the Parquet files of a folder."""
    return {file.name: str(pq.read_table(file).to_pylist()) for file in sorted(folder.glob("*.parquet"))}

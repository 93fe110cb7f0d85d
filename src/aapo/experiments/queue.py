"""Runs of a plan, one process each, several side by side; the queue is the folder itself.

A run is done when it is evaluated, and claimed while a process holds the lock on its `.lock` file. The lock passes to
the run's process, so that it lasts as long as that works; on Linux a run whose command is killed stops with a
checkpoint. Any number of commands, on any machines that share the folder, can work on one comparison.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from aapo.errors import AapoError
from aapo.experiments.plan import Plan, PlannedRun
from aapo.files import write_text
from aapo.processes import PARENT, signal_words
from aapo.progress import console

POLL_SECONDS = 0.5
STATUS_SECONDS = 30.0
LOG_LINES = 3


class Failure(NamedTuple):
    """A run that ended with an error, and its last words."""

    run: PlannedRun
    reason: str


class Running(NamedTuple):
    """A run's process, on the devices of a slot."""

    run: PlannedRun
    process: subprocess.Popen
    slot: int
    began: float
    log_size: int


def execute(plan: Plan, jobs: int = 1, devices: Sequence[str] = ()) -> list[Failure]:
    """Do every run of the plan that is not done, and return those that failed.

    A run that was interrupted goes on from its newest checkpoint; one that failed in an earlier call is tried again;
    one that fails now does not stop the others.

    Args:
        plan: What to do; written before.
        jobs: Runs at the same time.
        devices: What CUDA_VISIBLE_DEVICES is for each job, such as `0` or `0,1`; a job with several uses torchrun.
    """
    waiting = [run for run in plan.runs if not run.done]
    for run in waiting:
        run.beside(".failed").unlink(missing_ok=True)
    done = len(plan.runs) - len(waiting)
    console.print(f"{len(plan.runs)} runs, {done} of them done")
    running: list[Running] = []
    failures: list[Failure] = []
    began, told, finished = time.monotonic(), time.monotonic(), 0
    try:
        while waiting or running:
            free = [slot for slot in range(jobs) if slot not in {item.slot for item in running}]
            for slot in free:
                if (item := _next(waiting, slot, jobs, devices)) is not None:
                    running.append(item)
            for item in [item for item in running if item.process.poll() is not None]:
                running.remove(item)
                finished += 1
                left = (time.monotonic() - began) / finished * (len(waiting) + len(running))
                failure = _finish(item)
                failures += [failure] if failure else []
                what = f"failed: {failure.reason}" if failure else f"{time.monotonic() - item.began:.0f} s"
                place = f"[{len(plan.runs) - len(waiting) - len(running)}/{len(plan.runs)}]"
                console.print(f"{place} {_name(item.run)}: {what}; about {left / 60:.0f} min left")
            waiting = [run for run in waiting if not run.done]  # another command may be at work here, too
            if time.monotonic() - told > STATUS_SECONDS:
                told = time.monotonic()
                console.print(_status(running, waiting))
            time.sleep(POLL_SECONDS)
    finally:
        _stop(running)
    return failures


def _next(waiting: list[PlannedRun], slot: int, jobs: int, devices: Sequence[str]) -> Running | None:
    """Start the first waiting run that no other process has claimed, and take it off the list."""
    for run in waiting:
        with _claim(run) as lock:
            if lock is None:
                continue
            log = run.beside(".log")
            size = log.stat().st_size if log.exists() else 0
            process = _start(run, lock, jobs, devices[slot] if devices else None)
        waiting.remove(run)
        return Running(run, process, slot, time.monotonic(), size)
    return None


@contextmanager
def _claim(run: PlannedRun) -> Iterator[int | None]:
    """The descriptor of the run's locked file, or None where another process holds it."""
    lock = os.open(run.beside(".lock"), os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield None if run.done else lock
    finally:
        os.close(lock)


def _start(run: PlannedRun, lock: int, jobs: int, devices: str | None) -> subprocess.Popen:
    """The run's process, which keeps the lock."""
    resume = ["--resume"] if run.directory.recipe_file.exists() else []
    command = ["-m", "aapo", "train", str(run.beside(".yaml")), "--output_dir", str(run.path), *resume]
    count = len(devices.split(",")) if devices else 1
    if count > 1:
        command = ["-m", "aapo.torchrun", "--standalone", f"--nproc_per_node={count}", *command]
    environment = {**os.environ, PARENT: str(os.getpid())}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = devices
    with run.beside(".log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, *command],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C comes from here, once
        )


def _finish(item: Running) -> Failure | None:
    """What a process that has ended left: nothing to say, or a failure, which is written down."""
    if item.process.returncode == 0 and item.run.done:
        return None
    words = _last_words(item)
    write_text(item.run.beside(".failed"), words + "\n")
    return Failure(item.run, words)


def _last_words(item: Running) -> str:
    """The signal that killed it, else the last line that the command line itself wrote, else the last lines."""
    log, code = item.run.beside(".log"), item.process.returncode
    if code < 0:
        return f"{signal_words(-code)}; its log is {log}"
    with log.open("rb") as file:
        file.seek(item.log_size)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    own = [line.removeprefix("aapo: ") for line in lines if line.startswith("aapo: ")]
    return own[-1] if own else " | ".join([*lines[-LOG_LINES:], f"exit code {code}; its log is {log}"])


def _status(running: Sequence[Running], waiting: Sequence[PlannedRun]) -> str:
    shown = []
    for item in running:
        rows = item.run.directory.metrics()
        shown.append(f"{_name(item.run)} step {rows[-1]['step'] if rows else 0}/{item.run.recipe.training.max_steps}")
    return f"running: {', '.join(shown) or 'elsewhere'}; {len(waiting)} waiting"


def _name(run: PlannedRun) -> str:
    return f"{run.variant.label} seed {run.seed}"


def _stop(running: Sequence[Running]) -> None:
    """Interrupt the processes, which save a checkpoint, and wait for them."""
    for item in running:
        item.process.send_signal(signal.SIGINT)
    if running:
        console.print(f"stopping {len(running)} runs after their step; the same command goes on")
    for item in running:
        item.process.wait()


def prepare(plan: Plan) -> None:
    """Build the base models and banks that runs share, each once, before runs side by side would each build its own.

    Raises:
        AapoError: One cannot be built.
    """
    shared: dict[str, PlannedRun] = {}
    for run in plan.runs:
        if not run.done:
            shared.setdefault(_shared_parts(run), run)
    for run in shared.values():
        what = "bank" if run.recipe.uses_bank else "base"
        if what == "base" and run.recipe.base_model is None:
            continue
        result = subprocess.run(
            [sys.executable, "-m", "aapo", what, "build", str(run.beside(".yaml"))],
            check=False,
            env={**os.environ, PARENT: str(os.getpid())},
        )
        if result.returncode:
            why = signal_words(-result.returncode) if result.returncode < 0 else "its message stands above"
            raise AapoError(f"the {what} of {run.variant.label} could not be built; {why}")


def _shared_parts(run: PlannedRun) -> str:
    """What base model and bank depend on; runs that share it need it once."""
    recipe = run.recipe
    parts: list[object] = [recipe.uses_bank, recipe.base_model, recipe.model.model_name_or_path]
    if recipe.uses_bank:
        parts += [recipe.data, recipe.training.sampling.describe(), recipe.run.num_reference_samples]
        parts += [recipe.run.reference_seed, recipe.run.reward_funcs, recipe.run.reward_kwargs]
    return repr(parts)

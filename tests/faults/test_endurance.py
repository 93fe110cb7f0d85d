"""Sixty steps and minutes of grading in flat memory; no process outlives a command, however that ends."""

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from aapo.grading import answers, grade_many, isolation, pool

pytestmark = pytest.mark.faults
PR_SET_CHILD_SUBREAPER = 36
MIB = 2**20
# How long is graded without a pause, and what memory may grow by: less than 15 MiB in half an hour.
MINUTES, MIB_A_MINUTE = float(os.environ.get("AAPO_GRADING_MINUTES", "4")), 0.5
# Grading in a worker, one comparison after another; an isolated scorer; and what this process has in memory.
GRADED = """
import resource
from pathlib import Path

from aapo.grading import grade_many, isolation

def graded(completions, **columns):
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    pairs = [rf"\\boxed{{{len(text)}+x^2}}" for text in texts]
    right = grade_many([f"x^2+{len(text)}" for text in texts], pairs)
    isolation.call([("basic_arithmetic", "1", '{"answer": "1", "metadata": {}}')])
    with open("memory.txt", "a") as file:
        file.write(Path("/proc/self/statm").read_text().split()[1] + "\\n")
    return [len(set(text)) / 10 * (verdict.outcome == "correct") for text, verdict in zip(texts, right)]
"""


def descendants(pid):
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(child)]
    return found


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def grading_place(make_workplace):
    place = make_workplace("place", reward_funcs=["graded.py:graded", "accuracy"])
    (place.folder / "graded.py").write_text(GRADED)
    return place


def test_no_process_is_left_behind_however_a_command_ends(grading_place):
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans become this process's
    place = grading_place
    train = ("train", "mine.yaml", "--num_eval_prompts", 0, "--eval_num_samples", "null", "--eval_strategy", "no",
             "--eval_steps", "null", "--output_dir")  # fmt: skip
    place.run("bank", "build", "mine.yaml")  # so that the server that commands are forked from is there
    before = set(descendants(os.getpid()))
    for number, code in ((None, 0), (signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGKILL, -9)):
        memory = place.folder / "memory.txt"
        memory.unlink(missing_ok=True)
        command = place.start(*train, f"run-{number}", *([] if number is None else ["--max_steps", 2000]))
        while not memory.exists() and command.process.is_alive():
            time.sleep(0.02)
        assert len(set(descendants(os.getpid())) - before) > 2  # with its workers
        if number is not None:
            command.signal(number)
        assert command.wait() == code, command.output()
        until = time.monotonic() + 30
        while left := [pid for pid in set(descendants(os.getpid())) - before if running(pid)]:
            assert time.monotonic() < until, (number, left)
            time.sleep(0.1)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def test_sixty_steps_in_flat_memory(grading_place):
    place = grading_place
    place.run("train", "mine.yaml", "--max_steps", 60, "--save_steps", 10, "--output_dir", "run")
    pages = [int(line) for line in (place.folder / "memory.txt").read_text().split()]
    bytes_ = [count * os.sysconf("SC_PAGE_SIZE") for count in pages]
    assert len(bytes_) > 60
    early, late = sorted(bytes_[20:30])[5], sorted(bytes_[-10:])[5]
    assert late - early < 40 * MIB, (early / MIB, late / MIB)


def answers_of(first, count):
    """Gold answers and completions of many kinds, none of them twice, and whether each is right."""
    for n in range(first, first + count):
        yield f"x^2+{n}", rf"\boxed{{{n}+x^2}}", True
        yield rf"\frac{{{n}}}{{{n + 1}}}", rf"\boxed{{\frac{{{2 * n}}}{{{2 * n + 2}}}}}", True
        yield f"({n}, {n + 1}]", rf"\boxed{{[{n}, {n + 1})}}", False
        yield f"\\{{{n}, y\\}}", rf"\boxed{{\{{y, {n}\}}}}", True
        yield rf"\sqrt{{{n}}}+z", rf"\boxed{{z-\sqrt{{{n}}}}}", n == 0


def resident():
    """What this process and all below it have in memory, in MiB."""
    pages = 0
    for pid in (os.getpid(), *descendants(os.getpid())):
        with suppress(FileNotFoundError):  # it has just ended
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def trend(at, sizes):
    """The median of the slopes between all pairs of points (Theil and Sen), which a few outliers do not move."""
    first, second = np.triu_indices(len(at), 1)
    return float(
        np.median((np.array(sizes)[second] - np.array(sizes)[first]) / (np.array(at)[second] - np.array(at)[first]))
    )


def test_minutes_of_grading_leave_nothing_behind(monkeypatch):
    # What a worker keeps goes with it; so soon that what is left is what adds up, however slow the machine.
    monkeypatch.setattr(pool, "ITEMS_PER_WORKER", 300)
    pool.configure(workers=1, time_limit_seconds=60.0)  # a busy machine must not look like a hard answer
    began, count, at, sizes = time.monotonic(), 0, [], []
    while (minutes := (time.monotonic() - began) / 60) < MINUTES:
        golds, completions, right = zip(*answers_of(count, 30), strict=True)
        assert [verdict.outcome == "correct" for verdict in grade_many(golds, completions)] == list(right)
        isolation.call([("basic_arithmetic", "1", '{"answer": "1", "metadata": {}}')])
        answers.forget_verdicts()  # of which 20,000 are kept, so that they would grow for longer than is graded here
        count += 30
        at.append(minutes)
        sizes.append(resident())
    pool.configure()
    settled = len(at) // 4
    slope = trend(at[settled:], sizes[settled:])
    print(f"{5 * count} comparisons in {MINUTES:g} minutes, {slope:+.2f} MiB a minute, at most {max(sizes):.0f} MiB")
    assert slope < MIB_A_MINUTE, [round(size, 1) for size in sizes[:: max(1, len(sizes) // 40)]]

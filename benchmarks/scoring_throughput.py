"""Answers to generated tasks scored a second: by the task's scorer in this process, and isolated.

    python benchmarks/scoring_throughput.py

Right answers to generated problems, the same for every arm; the arms alternate, and a ratio is the median over rounds
of the ratio within a round.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import reasoning_gym

from aapo.files import write_json
from aapo.grading import isolation, jail, pool, scorers
from aapo.grading.scorers import Question

OUTPUT = Path(__file__).parent / "results" / "scoring_throughput.json"
IN_PROCESS = ("basic_arithmetic", "chain_sum")
NO_ANSWERS = ("composite",)  # which needs settings


def questions(task: str, count: int) -> list[Question]:
    """Problems of a task with their right answers."""
    problems = reasoning_gym.create_dataset(task, size=min(count, 20), seed=0)
    made = [Question(task, str(entry["answer"]), json.dumps(entry, default=str)) for entry in problems]
    return [made[n % len(made)] for n in range(count)]


def in_process(asked: Sequence[Question]) -> None:
    """The scorer here."""
    for question in asked:
        scorers.score_here(*question)


def timed(work: Callable[[Sequence[Question]], object], asked: Sequence[Question]) -> float:
    """Scores a second."""
    began = time.perf_counter()
    work(asked)
    return len(asked) / (time.perf_counter() - began)


def measure(task: str, count: int, rounds: int) -> dict:
    """The rates of one task."""
    asked = questions(task, count)
    arms: dict[str, Callable[[], float]] = {"in process": lambda: timed(in_process, asked)}
    if task in IN_PROCESS:
        arms["score_answers"] = lambda: timed(scorers.score_answers, asked)
    else:
        arms |= {f"isolated, {n}": lambda n=n: timed_isolated(asked, n) for n in (1, 2)}
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for arm in arms.values():
        arm()  # which loads what it needs
    for _ in range(rounds):
        for name, arm in arms.items():
            rates[name].append(arm())
    plain = sum(jail.is_plain(question.answer) for question in asked) / count
    return {"plain_frac": plain, **{name: statistics.median(values) for name, values in rates.items()}, "rates": rates}


def timed_isolated(asked: Sequence[Question], workers: int) -> float:
    """Scores a second by so many isolated processes."""
    pool.configure(workers=workers, time_limit_seconds=30.0)
    isolation.call(asked[:8])
    return timed(isolation.call, asked)


def main() -> None:
    """Time all tasks and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    names = [*IN_PROCESS, *(name for name in sorted(reasoning_gym.factory.DATASETS) if scorers.is_isolated(name))]
    result = {}
    for task in (name for name in names if name not in NO_ANSWERS):
        result[task] = measure(task, arguments.answers, arguments.rounds)
        shown = {key: round(value, 2) for key, value in result[task].items() if key != "rates"}
        print(task, shown, flush=True)
    about = {
        "machine": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg(),
        "python": platform.python_version(), "reasoning-gym": version("reasoning-gym"),
        "answers": arguments.answers, "rounds": arguments.rounds,
    }  # fmt: skip
    write_json(OUTPUT, {"about": about, "tasks": result})


if __name__ == "__main__":
    main()

"""Verdicts a second: math-verify in this process against grading workers and the whole grader.

    python benchmarks/grading_throughput.py

The same 2,000 generated pairs of gold answer and completion for every arm; the arms alternate, and a ratio is the
median over rounds of the ratio within a round. Caches are emptied before each arm.
"""

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from aapo.files import write_json
from aapo.grading import answers, grade_many, pool, worker
from aapo.grading.extraction import extract_answer
from aapo.grading.notation import normalize
from aapo.grading.preload import logging  # noqa: F401  warms math-verify up in this process as in the workers

OUTPUT = Path(__file__).parent / "results" / "grading_throughput.json"
Pair = tuple[str, str]


def pairs(count: int, kinds: tuple[str, ...], seed: int) -> list[Pair]:
    """Distinct gold answers with completions, of which about half are right."""
    draw = random.Random(seed)
    made = []
    for n in range(count):
        a, b, c = draw.randint(2, 9999), draw.randint(2, 9999), draw.randint(2, 99)
        off = n % 2
        gold, answer = {
            "integer": (f"{a * b}", f"{a * b + off}"),
            "decimal": (f"{a / 8}", f"{a / 8 + off}"),
            "fraction": (rf"\frac{{{a}}}{{{b}}}", rf"\frac{{{3 * a + off}}}{{{3 * b}}}"),
            "radical": (rf"{c}\sqrt{{{a}}}", rf"\sqrt{{{c * c * a + off}}}"),
            "polynomial": (rf"x^2+{a}x+{b}", rf"x(x+{a})+{b + off}"),
            "equation": (rf"y={a}x+{b}", rf"y={b + off}+{a}x"),
            "tuple": (rf"({a},{b})", rf"\left({a}, {b + off}\right)"),
            "interval": (rf"[{a},{a + b}]", rf"[{a}, {a + b + off}]"),
            "trigonometric": (rf"\sin({a}x)", rf"\cos({a}x-\frac{{\pi}}{{2}})+{off}"),
        }[kinds[n % len(kinds)]]
        made.append((gold, f"Let us see. After some algebra the answer follows.\n\nIt is $\\boxed{{{answer}}}$."))
    draw.shuffle(made)
    return made


MIXED = ("integer", "integer", "fraction", "decimal", "radical", "polynomial", "equation", "tuple", "interval",
         "trigonometric")  # fmt: skip


def plain_math_verify(golds_completions: list[Pair]) -> None:
    """math-verify with its defaults on gold answer and whole completion, in this process, without time limits."""
    from math_verify import parse, verify

    for gold, completion in golds_completions:
        expected = parse(f"${gold}$", parsing_timeout=None)  # type: ignore[reportArgumentType]
        verify(expected, parse(completion, parsing_timeout=None), timeout_seconds=None)  # type: ignore[reportArgumentType]


def compared(golds_completions: list[Pair]) -> list[Pair]:
    """Normalized gold answers and answers, as workers get them."""
    return [(normalize(gold), normalize(extract_answer(text) or "")) for gold, text in golds_completions]


def in_process(items: list[Pair]) -> None:
    """The function that workers run, here."""
    for gold, answer in items:
        worker.math_verify_equal(gold, answer)


def in_workers(items: list[Pair]) -> None:
    """The same function in the workers; nothing is decided before."""
    for started in [pool.Item(worker.math_verify_equal, gold, answer) for gold, answer in items]:
        started.result()


def whole(golds_completions: list[Pair]) -> None:
    """The grader as it is used."""
    grade_many([gold for gold, _ in golds_completions], [text for _, text in golds_completions])


def timed(work: Callable[[list[Pair]], None], items: list[Pair], workers: int | None = None) -> float:
    """Verdicts a second, after emptying caches and warming workers up."""
    answers.forget_verdicts()
    worker.parsed.cache_clear()
    if workers is not None:
        pool.configure(workers=workers)
        for started in [pool.Item(worker.math_verify_equal, f"x^{n}+1", f"1+x^{n}") for n in range(2, 20)]:
            started.result()
    began = time.perf_counter()
    work(items)
    return len(items) / (time.perf_counter() - began)


def main() -> None:
    """Time all arms and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    mixed, integers = pairs(arguments.pairs, MIXED, 0), pairs(arguments.pairs, ("integer",), 1)
    items = compared(mixed)
    arms = {
        "math-verify in process, whole completions": lambda: timed(plain_math_verify, mixed),
        "our comparison by math-verify, in process": lambda: timed(in_process, items),
        "the same in one worker": lambda: timed(in_workers, items, 1),
        "the same in two workers": lambda: timed(in_workers, items, 2),
        "grade_many, one worker": lambda: timed(whole, mixed, 1),
        "grade_many, two workers": lambda: timed(whole, mixed, 2),
        "integers: math-verify in process": lambda: timed(plain_math_verify, integers),
        "integers: grade_many": lambda: timed(whole, integers, 1),
    }
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(arguments.rounds):
        for name, arm in arms.items():
            rates[name].append(arm())
        print(f"round {number + 1}: " + ", ".join(f"{values[-1]:.0f}" for values in rates.values()), flush=True)
    names = list(arms)
    against = {names[2]: names[1], names[3]: names[1], names[4]: names[0], names[5]: names[0], names[7]: names[6]}
    ratios = {
        name: statistics.median(one / other for one, other in zip(rates[name], rates[base], strict=True))
        for name, base in against.items()
    }
    for name, values in rates.items():
        ratio = f"{ratios[name]:6.2f} x {against[name]}" if name in ratios else ""
        print(f"{name:45} {statistics.median(values):8.0f} a second  {ratio}")
    write_json(
        OUTPUT,
        {
            "command": "python benchmarks/grading_throughput.py",
            "hardware": {"cores": os.cpu_count(), "machine": platform.machine(), "processor": _processor()},
            "versions": {name: version(name) for name in ("math-verify", "sympy", "pebble")},
            "python": platform.python_version(),
            "pairs": arguments.pairs,
            "verdicts_per_second": rates,
            "median_ratios": {name: {"ratio": ratios[name], "to": against[name]} for name in ratios},
        },
    )
    print(json.dumps({"written": str(OUTPUT)}))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()

"""What a bank costs: completions a second, and how much of it is sampling, grading and writing.

    python benchmarks/bank_build.py --prompts 800 --output benchmarks/results/bank_build.json

The bank of the quickstart's recipe, built into an empty folder beside a base model that is there already. Sampling is
the time within the engine, grading that within the reward functions; the rest is loading, encoding and files.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aapo.scoring
from aapo.cli.app import app
from aapo.engines.transformers import TransformersEngine
from aapo.files import write_json
from aapo.runs import environment


def count_time(owner: Any, name: str, spent: dict[str, float]) -> None:
    """Add up the time within a function."""
    function: Callable[..., Any] = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - began

    setattr(owner, name, timed)


def build(folder: str, num_prompts: int) -> float:
    """Seconds of a build of the whole bank."""
    began = time.perf_counter()
    command = ["bank", "build", "quickstart", "--all", "--num_train_prompts", str(num_prompts), "--output", folder]
    app(command, standalone_mode=False)
    return time.perf_counter() - began


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--prompts", type=int, default=800)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build(f"{folder}/first", 32)  # makes the base model where it is not there, and loads what loads once
        spent: dict[str, float] = {}
        count_time(TransformersEngine, "generate", spent)
        count_time(aapo.scoring, "_call", spent)
        seconds = build(f"{folder}/bank", args.prompts)
    completions = 4 * args.prompts
    found = {
        "completions": completions,
        "seconds": seconds,
        "completions_per_second": completions / seconds,
        "sampling_frac": spent["generate"] / seconds,
        "grading_frac": spent["_call"] / seconds,
    }
    print("\n".join(f"{name:24} {value:.4g}" for name, value in found.items()))
    if args.output:
        write_json(args.output, {**environment(), "command": ["python", "benchmarks/bank_build.py"], **found})


if __name__ == "__main__":
    main()

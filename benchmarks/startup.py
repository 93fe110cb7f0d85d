"""How long commands take that do no work: by the clock, each in a process of its own, in turns.

python benchmarks/startup.py --rounds 5 --output benchmarks/results/startup.json
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from aapo.files import write_json
from aapo.runs import environment

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "aapo --help": ["-m", "aapo", "--help"],
    "aapo recipes": ["-m", "aapo", "recipes"],
    "aapo train quickstart --dry-run": ["-m", "aapo", "train", "quickstart", "--dry-run"],
    "aapo train qwen2.5-math-7b-simplelr --dry-run": ["-m", "aapo", "train", "qwen2.5-math-7b-simplelr", "--dry-run"],
}


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(args.rounds + 1):  # the first fills the file cache
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], env=offline, capture_output=True, check=True)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    for name, values in seconds.items():
        print(f"{name:48} {statistics.median(values):6.2f} s  ({min(values):.2f} - {max(values):.2f})")
    if args.output:
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        write_json(
            args.output,
            {
                **environment(),
                "command": ["python", "benchmarks/startup.py"],
                "median_seconds": medians,
                "seconds": seconds,
            },
        )


if __name__ == "__main__":
    main()

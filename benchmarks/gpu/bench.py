"""What AAPO costs on a GPU, in under eight minutes; prints one JSON.

    bash benchmarks/gpu/run.sh [OUT.json]         # with the wheels that wheels.sh has collected
    bash benchmarks/gpu/run.sh OUT.json --miniature    # the same with tiny models on a CPU

Parts, each in a process of its own, so that what breaks one leaves the others their device:

    training    attention against float32; the training phase packed and padded, with MFU; whole steps of AAPO with a
                bank, GRPO and `reference: live`, with peak memory
    rollouts    tokens a second of our places and of Transformers' `generate`, with the roofline
    scratch     AAPO, GRPO and DAPO from a base model made here, as far as time is left

Models have random weights. MFU counts the products that the model needs, each prompt once, and not what is computed
again; the roofline is weights, keys and values read once a step. The first run of everything is thrown away. What would
be unfair: another program on the card; completions of one length, as whole steps have them and real runs do not.
"""

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from aapo.files import write_json
from aapo.runs import environment

from . import rollouts, scratch, training
from .cases import measured
from .device import Peak, describe
from .scale import FULL, MINIATURE

PARTS = {"training": training.cases, "rollouts": rollouts.cases, "scratch": scratch.cases}
# When each part must end, as a share of all time; what one leaves is the next one's.
ENDS = {"training": 0.45, "rollouts": 0.65, "scratch": 1.0}
GRACE_SECONDS = 15  # for a process to end by itself


def measure_part(name: str, args: argparse.Namespace, output: Path) -> dict[str, Any]:
    """A part's cases, in this process; the results so far are in the output file after each."""
    device = "cpu" if args.miniature else "cuda"
    scale, card = MINIATURE if args.miniature else FULL, describe(device)
    found: dict[str, Any] = {"device": card}

    def keep(cases: dict[str, Any]) -> None:
        write_json(output, {**found, "cases": cases})

    with contextlib.redirect_stdout(sys.stderr):
        cases = measured(PARTS[name](scale, device, Peak(**card["peak"])), args.until, keep)
    return {**found, "cases": cases}


def part_in_process(name: str, until: float, folder: Path, options: Sequence[str] = ()) -> dict[str, Any]:
    """A part's results from a process of its own; what it had when it ended otherwise than by itself."""
    output = folder / f"{name}.json"
    command = [sys.executable, "-m", "gpu.bench", "--part", name, "--until", str(until), "--output", str(output)]
    try:
        allowed = max(1, until - time.time() + GRACE_SECONDS)
        done = subprocess.run([*command, *options], check=False, stdout=sys.stderr, timeout=allowed)
        ended = None if done.returncode == 0 else f"the process ended with {done.returncode}"
    except subprocess.TimeoutExpired:
        ended = "the process did not end in its time"
    results = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {"cases": {}}
    return results if ended is None else {**results, "error": ended}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    began = time.time()
    parts = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in PARTS:
            args.until = began + ENDS[name] * args.seconds
            if args.one_process:
                parts[name] = measure_part(name, args, Path(folder) / f"{name}.json")
            else:
                options = ["--miniature"] if args.miniature else []
                parts[name] = part_in_process(name, args.until, Path(folder), options)
    return {
        **environment(),
        "command": ["python", "-m", "gpu.bench", *sys.argv[1:]],
        "device": next((part["device"] for part in parts.values() if "device" in part), None),
        "seconds": time.time() - began,
        "parts": {name: {key: value for key, value in part.items() if key != "device"} for name, part in parts.items()},
    }


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=390, help="of all parts")
    parser.add_argument("--miniature", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--one-process", action="store_true", help="all parts in this process")
    parser.add_argument("--output", type=Path, help="where the JSON is written as well")
    parser.add_argument("--part", choices=PARTS, help="measure this part here")
    parser.add_argument("--until", type=float, default=float("inf"), help="with --part: its end, in seconds since 1970")
    return parser.parse_args(given)


def main(args: argparse.Namespace) -> int:
    """Measure, print and store; 1 where there is nothing to measure on."""
    if not args.miniature and not torch.cuda.is_available():
        print("there is no CUDA device here; --miniature runs the same on a CPU", file=sys.stderr)
        return 1
    if args.part is not None:
        write_json(args.output, measure_part(args.part, args, args.output))
        return 0
    report = measure(args)
    if args.output is not None:
        write_json(args.output, report)
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    logging.getLogger("aapo").setLevel(logging.ERROR)
    sys.exit(main(arguments()))

"""The run directory: everything needed to redo or to explain a training run.

recipe.yaml          the resolved recipe
manifest.json        versions, hardware, seed, identities of model, data and bank, the command
metrics.jsonl        one object a step: `step`, `seconds`, and the metrics
samples/             step-000001.parquet …: every rollout with its rewards, margin and advantage
checkpoints/         checkpoint-N, whole or absent
model/               the final model
evaluation/          results.json, differences.json, protocol.json, table.json, and samples/ with every completion
figures/, report.html
"""

import json
import os
import platform
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import IO, Any

import yaml

from aapo.errors import InputError
from aapo.files import naming_full_disk, write_json, write_text
from aapo.stored import read_json, read_parquet, read_yaml, reading

PACKAGES = (
    "aapo", "torch", "transformers", "trl", "accelerate", "datasets", "peft", "math-verify", "reasoning-gym", "verl",
    "ray", "vllm",
)  # fmt: skip
# What is shown of a rollout.
ROLLOUT_COLUMNS = (
    "step", "prompt_key", "prompt", "gold", "completion", "truncated", "reward", "advantage", "margin", "augmented",
)  # fmt: skip
# What every manifest says, whatever is trained.
MANIFEST_KEYS = ("command", "started", "versions", "hardware")
# What to do about a damaged file of a run.
COPIED = "copy the run directory anew, or train again into another --output_dir"
LEFT_OUT = "delete it, and its step is left out"


def cache_folder() -> Path:
    """Where built base models and banks are kept: $AAPO_CACHE, else ~/.cache/aapo."""
    return Path(os.environ.get("AAPO_CACHE") or Path.home() / ".cache" / "aapo")


class RunDirectory:
    """A run's folder and the names in it."""

    def __init__(self, path: str | Path) -> None:
        """Name the folder; nothing is created."""
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.yaml"
        self.manifest_file = self.path / "manifest.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.samples = self.path / "samples"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.evaluation = self.path / "evaluation"
        self.figures = self.path / "figures"
        self.unparseable_golds = self.path / "unparseable_golds.jsonl"
        self.report = self.path / "report.html"

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """The run at `path`.

        Raises:
            InputError: There is none.
        """
        run = cls(path)
        if not run.recipe_file.exists():
            raise InputError(
                f"{path} is not a run directory: it has no recipe.yaml; name a folder that `aapo train` wrote"
            )
        return run

    def recipe(self, *needs: str) -> dict[str, Any]:
        """The resolved recipe, which has the keys that are needed.

        Raises:
            InputError: It is damaged or of another version.
        """
        return read_yaml(self.recipe_file, COPIED, ("fields", *needs))

    def recipe_text(self) -> str:
        """The resolved recipe as it is written.

        Raises:
            InputError: As `recipe`.
        """
        self.recipe()
        return self.recipe_file.read_text(encoding="utf-8")

    def manifest(self, *needs: str) -> dict[str, Any]:
        """Versions, hardware and identities, which have the keys that are needed beside those of every manifest.

        Raises:
            InputError: It is missing, damaged or of another version.
        """
        fix = f"delete it where it is there, and `aapo train {self.path} --resume` writes it again"
        return read_json(self.manifest_file, fix, (*MANIFEST_KEYS, *needs))

    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary a logged step, in order of steps.

        Lines of one step, such as training and evaluation, are merged; where a resumed run repeats one the later wins.
        A last line without its end is what a killed run was writing, and does not count.

        Raises:
            InputError: Another line is damaged.
        """
        if not self.metrics_file.exists():
            return []
        *lines, _ = self.metrics_file.read_bytes().split(b"\n")
        by_step: dict[int, dict[str, Any]] = {}
        for number, line in enumerate(lines, 1):
            with reading(self.metrics_file, f"remove line {number}; only what it said of its step is lost"):
                row = json.loads(line) if line.strip() else None
                if row is not None:
                    by_step[int(row["step"])] = {**by_step.get(row["step"], {}), **row}
        return [by_step[step] for step in sorted(by_step)]

    def rollouts(self, step: int) -> list[dict[str, Any]]:
        """The rollouts of one step, one dictionary a completion.

        Raises:
            InputError: Their file is damaged or of another version.
        """
        return read_parquet(self.rollouts_file(step), LEFT_OUT, ROLLOUT_COLUMNS).to_pylist()

    def rollouts_file(self, step: int) -> Path:
        """Where the rollouts of one step are."""
        return self.samples / f"step-{step:06d}.parquet"

    def rollout_steps(self) -> list[int]:
        """The steps that have stored rollouts, ascending."""
        return list(rollout_files(self.samples))

    def has_torn_line(self) -> bool:
        """Whether the last line of metrics.jsonl has no end; the next one takes its place."""
        if not self.metrics_file.exists():
            return False
        with self.metrics_file.open("rb") as file:
            return not _ends_whole(file)

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl, in the place of one that a killed run did not end."""
        with naming_full_disk(self.metrics_file), self.metrics_file.open("a+b") as file:
            if not _ends_whole(file):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.write((json.dumps(finite(row), allow_nan=False) + "\n").encode())

    @property
    def begun(self) -> bool:
        """Whether anything was trained: there are rollouts, metrics or checkpoints."""
        kept = (self.samples.glob("step-*"), self.checkpoints.glob("checkpoint-*"), self.path.glob("metrics.jsonl"))
        return any(any(found) for found in kept)

    def discard(self) -> None:
        """Remove what a run writes before its first step, and the folder if nothing else is in it."""
        for file in (self.recipe_file, self.manifest_file, self.unparseable_golds):
            file.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.path):
            with suppress(OSError):  # it is not there, or not empty
                folder.rmdir()

    def write_recipe(self, recipe: dict[str, Any]) -> None:
        """Store the resolved recipe."""
        write_text(self.recipe_file, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))

    def write_manifest(self, **facts: Any) -> None:
        """Store where, when and with what this runs, and the given facts."""
        write_json(self.manifest_file, {**environment(), **facts})

    def update_manifest(self, **facts: Any) -> None:
        """Store other values of some of the facts."""
        write_json(self.manifest_file, {**self.manifest(), **facts})


def rollout_files(folder: Path) -> dict[int, Path]:
    """The files of rollouts in a folder by step, ascending; what else lies there does not count."""
    named = {file.stem.removeprefix("step-"): file for file in folder.glob("step-*.parquet")}
    return dict(sorted((int(step), file) for step, file in named.items() if step.isdecimal()))


def _ends_whole(file: IO[bytes]) -> bool:
    """Whether a file is empty or ends with the end of a line."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    return file.read() in (b"", b"\n")


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with null for numbers that JSON does not have."""
    return {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in row.items()}


def environment() -> dict[str, Any]:
    """Versions, hardware and the command of this process."""
    import torch

    return {
        "command": ["aapo", *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"python": platform.python_version(), **package_versions()},
        "hardware": {
            "system": platform.platform(),
            "cpu_cores": os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def package_versions() -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

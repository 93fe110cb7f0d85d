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
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from aapo.errors import InputError
from aapo.files import naming_full_disk, write_json, write_text

PACKAGES = ("aapo", "torch", "transformers", "trl", "accelerate", "datasets", "peft", "math-verify", "reasoning-gym")


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

    def recipe(self) -> dict[str, Any]:
        """The resolved recipe."""
        return yaml.safe_load(self.recipe_file.read_text(encoding="utf-8"))

    def manifest(self) -> dict[str, Any]:
        """Versions, hardware and identities."""
        return json.loads(self.manifest_file.read_text(encoding="utf-8"))

    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary a logged step, in order of steps.

        Lines of one step, such as training and evaluation, are merged; where a resumed run repeats one the later wins.
        A last line without its end is what a killed run was writing, and does not count.
        """
        if not self.metrics_file.exists():
            return []
        *lines, _ = self.metrics_file.read_text(encoding="utf-8").split("\n")
        by_step: dict[int, dict[str, Any]] = {}
        for row in map(json.loads, filter(str.strip, lines)):
            by_step[row["step"]] = by_step.get(row["step"], {}) | row
        return [by_step[step] for step in sorted(by_step)]

    def rollouts(self, step: int) -> list[dict[str, Any]]:
        """The rollouts of one step, one dictionary a completion."""
        return pq.read_table(self.samples / f"step-{step:06d}.parquet").to_pylist()

    def rollout_steps(self) -> list[int]:
        """The steps that have stored rollouts, ascending."""
        return sorted(int(file.stem.removeprefix("step-")) for file in self.samples.glob("step-*.parquet"))

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl, in the place of one that a killed run did not end."""
        with naming_full_disk(self.metrics_file), self.metrics_file.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            if file.read() not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.write((json.dumps(finite(row), allow_nan=False) + "\n").encode())

    def discard(self) -> None:
        """Remove what a run writes before its manifest."""
        for file in (self.recipe_file, self.unparseable_golds):
            file.unlink(missing_ok=True)

    def write_recipe(self, recipe: dict[str, Any]) -> None:
        """Store the resolved recipe."""
        write_text(self.recipe_file, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))

    def write_manifest(self, **facts: Any) -> None:
        """Store where, when and with what this runs, and the given facts."""
        write_json(self.manifest_file, {**environment(), **facts})

    def update_manifest(self, **facts: Any) -> None:
        """Store other values of some of the facts."""
        write_json(self.manifest_file, {**self.manifest(), **facts})


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with null for numbers that JSON does not have."""
    return {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in row.items()}


def environment() -> dict[str, Any]:
    """Versions, hardware and the command of this process."""
    import torch

    return {
        "command": ["aapo", *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hardware": {
            "system": platform.platform(),
            "cpu_cores": os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }

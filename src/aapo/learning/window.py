"""The rollouts that a window of optimizer steps learns from: drawn once, kept until its last step is done.

Shapes: B rows of all processes and all steps of the window; a row's columns are its tokens, or one number.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from aapo.files import write_parquet

FILE = "window.parquet"
METRICS = b"metrics"


@dataclass(frozen=True)
class Window:
    """Rows by column, of which each step has the next equal part, and what each step logs of them.

    Attributes:
        columns: A tensor a row, with one or no dimension.
        metrics: Of each step.
    """

    columns: dict[str, list[Tensor]]
    metrics: list[dict[str, float]]

    def step(self, index: int) -> dict[str, list[Tensor]]:
        """The rows of a step, by column."""
        size = len(next(iter(self.columns.values()))) // len(self.metrics)
        return {name: rows[index * size : (index + 1) * size] for name, rows in self.columns.items()}

    def save(self, folder: Path) -> None:
        """Write the window beside a checkpoint that is inside it."""
        table = pa.table({name: pa.array([row.cpu().numpy() for row in rows]) for name, rows in self._lists().items()})
        metadata = {METRICS: json.dumps(self.metrics).encode(), b"scalars": json.dumps(self._scalars()).encode()}
        write_parquet(folder / FILE, table.replace_schema_metadata(metadata))

    @classmethod
    def load(cls, folder: Path) -> "Window | None":
        """The window that a checkpoint is inside of; None where it is between two."""
        if not (folder / FILE).exists():
            return None
        table = pq.read_table(folder / FILE)
        metadata = table.schema.metadata
        scalars = set(json.loads(metadata[b"scalars"]))
        columns = {
            name: [torch.tensor(row.values.to_numpy(zero_copy_only=False)) for row in table[name]]
            for name in table.column_names
        }
        for name in scalars:
            columns[name] = [row[0] for row in columns[name]]
        return cls(columns, json.loads(metadata[METRICS]))

    def _scalars(self) -> list[str]:
        return [name for name, rows in self.columns.items() if rows[0].dim() == 0]

    def _lists(self) -> dict[str, list[Tensor]]:
        return {name: [row.reshape(-1) for row in rows] for name, rows in self.columns.items()}

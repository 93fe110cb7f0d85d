"""What reference samples cost, in a file of the run: inside verl there is no bank to ask."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from aapo.files import write_parquet
from aapo.learning.bank_cost import Priced
from aapo.runs import RunDirectory

FILE = "data/bank_costs.parquet"
SCHEMA = pa.schema(
    [("prompt_key", pa.string()), ("tokens", pa.int64()), ("seconds", pa.float64()), ("before_training", pa.bool_())]
)


class _Cost(NamedTuple):
    tokens: int
    seconds: float


@dataclass(frozen=True)
class SampleCosts:
    """What the samples of prompts cost, by key, as `BankCost` asks a bank for it.

    Attributes:
        by_key: Their tokens and seconds.
        before_training: Keys of the prompts whose samples chose among the training prompts.
    """

    by_key: dict[str, _Cost]
    before_training: list[str]

    def tokens(self, key: str) -> int:
        """Completion tokens of a prompt's samples."""
        return self.by_key[key].tokens

    def seconds(self, key: str) -> float:
        """What drawing them took."""
        return self.by_key[key].seconds


def write_costs(run: RunDirectory, bank: Priced, keys: Iterable[str], before_training: Collection[str]) -> None:
    """Write what a bank's samples of prompts cost.

    Args:
        run: Whose file it is.
        bank: Has the samples.
        keys: Of the prompts that are trained on.
        before_training: Of those whose samples chose among the training prompts, before the first step.
    """
    whole = set(before_training)
    rows = [
        {"prompt_key": key, "tokens": bank.tokens(key), "seconds": bank.seconds(key), "before_training": key in whole}
        for key in dict.fromkeys([*before_training, *keys])
    ]
    write_parquet(run.path / FILE, pa.Table.from_pylist(rows, SCHEMA))


def read_costs(run: RunDirectory) -> SampleCosts | None:
    """What `write_costs` wrote; None in a run that reads no bank."""
    if not (run.path / FILE).exists():
        return None
    rows = pq.read_table(run.path / FILE).to_pylist()
    by_key = {row["prompt_key"]: _Cost(row["tokens"], row["seconds"]) for row in rows}
    return SampleCosts(by_key, [row["prompt_key"] for row in rows if row["before_training"]])

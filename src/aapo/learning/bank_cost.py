"""What the reference samples cost a run: those of the prompts that it has come to, whoever drew them."""

from collections.abc import Iterable
from typing import Protocol


class Priced(Protocol):
    """What says what reference samples cost: a bank."""

    def tokens(self, key: str) -> int:
        """Completion tokens of a prompt's samples."""
        ...

    def seconds(self, key: str) -> float:
        """What drawing them took."""
        ...


class BankCost:
    """Adds up the reference samples of the prompts that a run reads, each prompt once."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Take the keys of prompts that were read before the first step."""
        self._keys = dict.fromkeys(keys)
        self._waiting = list(self._keys)
        self._tokens, self._seconds = 0, 0.0

    def meet(self, bank: Priced, keys: Iterable[str]) -> None:
        """Count prompts that the run comes to, which the bank has."""
        new = [key for key in dict.fromkeys(keys) if key not in self._keys]
        self._keys.update(dict.fromkeys(new))
        self._add(bank, new)

    def metrics(self, bank: Priced) -> dict[str, float]:
        """The `bank/*` metrics: totals since the start of the training."""
        waiting, self._waiting = self._waiting, []
        self._add(bank, waiting)
        return {
            "bank/prompts": len(self._keys),
            "bank/generated_tokens": self._tokens,
            "bank/seconds": round(self._seconds, 3),
        }

    def _add(self, bank: Priced, keys: Iterable[str]) -> None:
        for key in keys:
            self._tokens += bank.tokens(key)
            self._seconds += bank.seconds(key)

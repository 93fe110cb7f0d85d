"""An engine whose model is loaded when the first prompt is sampled."""

from collections.abc import Callable, Sequence
from typing import Any

from aapo.records import Completion, Engine


class LazyEngine:
    """Makes the real engine at the first call of `generate`: samples that are all stored need no model."""

    def __init__(self, tokenizer: Any, make: Callable[[], Engine], batch_size: int) -> None:
        """Take the model's tokenizer, what makes the engine, and the engine's `batch_size`."""
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self._make = make
        self._engine: Engine | None = None

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        seeds: Sequence[int],
        on_batch: Callable[[int], None] = lambda done: None,
    ) -> list[Completion]:
        """One completion per prompt, in order."""
        if self._engine is None:
            self._engine = self._make()
        return self._engine.generate(prompt_ids, seeds, on_batch)

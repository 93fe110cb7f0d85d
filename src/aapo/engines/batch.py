"""What is to be drawn by a Transformers model, and how logits become scores.

Shapes: B sequences of a batch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from aapo.sampling import SamplingSettings


class Batch(NamedTuple):
    """Sequences that are to be drawn.

    Attributes:
        prompt_ids: B prompts.
        seeds: B sample seeds.
        settings: How to draw.
        eos_token_ids: Tokens that end a completion.
        pad_token_id: Token for padding.
        cache_implementation: Transformers' key-value cache.
        tokenizer: The model's; only stop strings need it.
    """

    prompt_ids: Sequence[Sequence[int]]
    seeds: Sequence[int]
    settings: SamplingSettings
    eos_token_ids: Sequence[int]
    pad_token_id: int
    cache_implementation: str | None = None
    tokenizer: Any = None

    def parts(self, size: int) -> list["Batch"]:
        """The same in batches of at most so many sequences."""
        return [
            self._replace(prompt_ids=self.prompt_ids[i : i + size], seeds=self.seeds[i : i + size])
            for i in range(0, len(self.prompt_ids), size)
        ]


def warpers(settings: SamplingSettings) -> LogitsProcessorList:
    """Transformers' own warpers in its own order."""
    processors = LogitsProcessorList()
    if settings.temperature == 0:
        return processors
    if settings.temperature != 1:
        processors.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        processors.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        processors.append(TopPLogitsWarper(settings.top_p))
    if settings.min_p is not None:
        processors.append(MinPLogitsWarper(settings.min_p))
    return processors

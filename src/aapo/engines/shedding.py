"""Transformers' `generate` with keyed noise, left as soon as enough rows have ended and entered again with the others.

`generate` itself keeps rows that have ended in the batch until the longest is done.

Shapes: B sequences of a batch, T tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)

from aapo.engines.batch import Batch, warpers
from aapo.engines.noise import KeyedGumbel
from aapo.engines.ways import in_step, shrinking_cache

# Rows leave once this share of the batch has ended; from 1/16 to 1/2 the measured speed hardly depends on it.
SHED_FRAC = 0.25


class Rows(NamedTuple):
    """The rows that are still drawn.

    Attributes:
        ids_BT: Prompts, padded on the left, and what has been drawn.
        mask_BT: 0 where that is padding.
        seeds_B: Sample seeds.
        places_B: Where each row is in the batch.
        width: Tokens of a padded prompt.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    seeds_B: Tensor
    places_B: Tensor
    width: int

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> Self:
        """All rows of a batch."""
        width = max(map(len, batch.prompt_ids))
        ids = [[batch.pad_token_id] * (width - len(ids)) + list(ids) for ids in batch.prompt_ids]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in batch.prompt_ids]
        ids_BT, mask_BT, seeds_B = (torch.tensor(rows, device=device) for rows in (ids, mask, batch.seeds))
        return cls(ids_BT, mask_BT, seeds_B, torch.arange(len(ids), device=device), width)

    def kept(self, ids_BT: Tensor, kept_B: Tensor) -> Self:
        """Some of the rows, with what has been drawn by now."""
        new_BT = self.mask_BT.new_ones(len(kept_B), ids_BT.shape[1] - self.mask_BT.shape[1])
        mask_BT = torch.cat([self.mask_BT[kept_B], new_BT], dim=1)
        return type(self)(ids_BT[kept_B], mask_BT, self.seeds_B[kept_B], self.places_B[kept_B], self.width)


def generated_ids(model: Any, batch: Batch, *, shed: bool, streamer: Any = None) -> list[list[int]]:
    """One completion per prompt, as token ids up to and including the end token or the end of a stop string.

    Args:
        model: Any model that Transformers can generate with.
        batch: What is to be drawn.
        shed: Whether rows that have ended leave.
        streamer: Transformers' streamer of a single prompt.
    """
    rows, cache = Rows.of(batch, model.device), shrinking_cache(model) if shed else None
    completions: list[list[int]] = [[] for _ in batch.prompt_ids]
    while len(rows.places_B):
        ends = _RowEnds(batch, rows, SHED_FRAC if shed else 1.0)
        ids_BT = _generate(model, batch, rows, ends, cache, streamer)
        reached = ids_BT.shape[1] - rows.width
        over = cache is None or reached == batch.settings.max_completion_length
        lengths_B = torch.where(ends.lengths_B > 0, ends.lengths_B, reached if over else 0)
        drawn = ids_BT[:, rows.width :].tolist()
        for place, ids, length in zip(rows.places_B.tolist(), drawn, lengths_B.tolist(), strict=True):
            completions[place] = _until_end(ids[:length], batch.eos_token_ids)
        kept_B = (lengths_B == 0).nonzero().squeeze(1)
        if cache is not None and len(kept_B):
            cache.batch_select_indices(kept_B)
        rows = rows.kept(ids_BT, kept_B)
    return completions


@torch.no_grad()
def _generate(
    model: Any, batch: Batch, rows: Rows, ends: "_RowEnds", cache: DynamicCache | None, streamer: Any
) -> Tensor:
    """Prompts and completions, until enough rows have ended."""
    watched = cache is not None or ends.stop_strings is not None
    ids_BT = model.generate(
        input_ids=rows.ids_BT,
        attention_mask=rows.mask_BT,
        generation_config=_config(batch, rows.ids_BT.shape[1] - rows.width),
        logits_processor=_processors(batch, rows),
        stopping_criteria=StoppingCriteriaList([ends] if watched else []),
        streamer=streamer,
        synced_gpus=in_step(model),
        **({} if cache is None else {"past_key_values": cache}),
    )
    assert isinstance(ids_BT, Tensor)
    return ids_BT


def _config(batch: Batch, done: int) -> GenerationConfig:
    """The configuration of generate() for completions that have `done` tokens."""
    settings, fields = batch.settings, dict(batch.settings.generation_kwargs or {})
    if fields.get("min_new_tokens") is not None:
        fields["min_new_tokens"] = max(0, fields["min_new_tokens"] - done)
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=settings.max_completion_length - done,
        eos_token_id=list(batch.eos_token_ids),
        pad_token_id=batch.pad_token_id,
        # Set even where it is 1: what is not set, generate() takes from the model's own generation_config.
        repetition_penalty=settings.repetition_penalty,
        cache_implementation=batch.cache_implementation,
        disable_compile=True,
        **fields,
    )


def _processors(batch: Batch, rows: Rows) -> LogitsProcessorList:
    """The warpers, then the keyed noise; they run after generate()'s processors."""
    processors = warpers(batch.settings)
    if batch.settings.temperature != 0:
        processors.append(KeyedGumbel(rows.seeds_B, rows.width))
    return processors


def _until_end(token_ids: list[int], eos_token_ids: Sequence[int]) -> list[int]:
    """The tokens up to and including the first end token."""
    end = next((i for i, token in enumerate(token_ids) if token in eos_token_ids), len(token_ids) - 1)
    return token_ids[: end + 1]


class _RowEnds(StoppingCriteria):
    """Notes where each row ends, and ends all of them once enough have.

    Attributes:
        lengths_B: Tokens of each row's completion, its end included; 0 while it goes on.
    """

    def __init__(self, batch: Batch, rows: Rows, shed_frac: float) -> None:
        """Take what ends a row and the share of rows that ends the batch."""
        strings = list(batch.settings.stop)
        self.stop_strings = StopStringCriteria(batch.tokenizer, strings) if strings else None
        self.prompt_tokens = rows.width
        self.eos_tokens = torch.tensor(list(batch.eos_token_ids), dtype=torch.long, device=rows.places_B.device)
        self.lengths_B = torch.zeros_like(rows.places_B)
        self.enough = shed_frac * len(rows.places_B)

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether each row is to end, of shape (B,)."""
        completion_BT = input_ids[:, self.prompt_tokens :]
        ended_B = torch.isin(completion_BT[:, -1], self.eos_tokens)
        if self.stop_strings is not None:
            # Not the prompt: a string that begins there is none of the completion.
            ended_B = ended_B | self.stop_strings(completion_BT, scores)
        first_B = ended_B & (self.lengths_B == 0)
        self.lengths_B = torch.where(first_B, completion_BT.shape[1], self.lengths_B)
        done_B = self.lengths_B > 0
        return done_B | (done_B.sum() >= self.enough)

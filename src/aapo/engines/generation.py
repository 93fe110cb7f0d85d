"""Token ids from a Transformers model: keyed samples, by the fastest way that the model and the settings allow.

Where layers are plain causal attention and a token's choice depends on its logits alone, sequences are drawn in places
(`decoding`). Otherwise Transformers' `generate` draws them. It keeps rows that have ended in the batch until the
longest is done; here it is left as soon as enough rows have ended and entered again with the others and their part of
the key-value cache. Transformers'
continuous batching also fills free places, but it draws all rows of a step with one `torch.multinomial` from the global
generator (`ContinuousBatchingModelRunner._sample`), and its logits processors see neither which request a row
belongs to nor how far it is: samples would depend on their neighbours and on scheduling.

Shapes: B sequences of a batch, T tokens.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, distributed
from torch.distributed.fsdp import FSDPModule
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from aapo.engines.attention import attending_by_layout, is_plain
from aapo.engines.decoding import Decoder
from aapo.engines.noise import KeyedGumbel
from aapo.sampling import SamplingSettings

Way = Literal["places", "shedding", "static"]
# Rows leave once this share of the batch has ended; from 1/16 to 1/2 the measured speed hardly depends on it.
SHED_FRAC = 0.25

# GenerationConfig's fields that mean the same when generate() is entered again in the middle of completions.
# Those that are ours to set, or without effect on a token's choice.
_PLAIN_FIELDS = frozenset(
    (
        "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "max_length", "max_new_tokens",
        "use_cache", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
    )
)  # fmt: skip
_LASTING_FIELDS = frozenset(
    (
        "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "max_length", "max_new_tokens",
        "use_cache", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "min_new_tokens",
        "suppress_tokens", "bad_words_ids", "no_repeat_ngram_size", "sequence_bias", "remove_invalid_values",
    )
)  # fmt: skip


def generate_ids(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: SamplingSettings,
    *,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    cache_implementation: str | None = None,
    tokenizer: Any = None,
    way: Way | None = None,
    num_places: int | None = None,
    streamer: Any = None,
) -> list[list[int]]:
    """One completion per prompt, as token ids up to and including the end token or the end of a stop string.

    Args:
        model: Any model that Transformers can generate with.
        prompt_ids: B prompts.
        seeds: B sample seeds (`sample_seed`); a completion depends on its own seed and prompt only.
        settings: How to draw.
        eos_token_ids: Tokens that end a completion.
        pad_token_id: Token for padding.
        cache_implementation: Transformers' key-value cache; does not change what is drawn.
        tokenizer: The model's; only stop strings need it.
        way: `places`, `shedding` (rows that have ended leave the batch) or `static`; by default the fastest that can be
            used. It does not change what is drawn.
        num_places: Sequences that are drawn at once; by default all.
        streamer: Transformers' streamer of a single prompt, which gets its tokens as they are drawn.
    """
    num_places = num_places or len(prompt_ids)
    if way == "places" or (way is None and streamer is None and _can_place(model, settings, cache_implementation)):
        with attending_by_layout(_causal(model)):
            return Decoder(
                model, prompt_ids, seeds, _warpers(settings), limit=settings.max_completion_length,
                eos_token_ids=eos_token_ids, num_places=num_places, greedy=settings.temperature == 0,
            ).run()  # fmt: skip
    if len(prompt_ids) > num_places:
        parts = [slice(first, first + num_places) for first in range(0, len(prompt_ids), num_places)]
        ends = {"eos_token_ids": eos_token_ids, "pad_token_id": pad_token_id}
        options = {"cache_implementation": cache_implementation, "tokenizer": tokenizer, "way": way}
        each = (generate_ids(model, prompt_ids[part], seeds[part], settings, **ends, **options) for part in parts)
        return [ids for some in each for ids in some]
    device, width, limit = model.device, max(map(len, prompt_ids)), settings.max_completion_length
    ids_BT = torch.tensor([[pad_token_id] * (width - len(ids)) + list(ids) for ids in prompt_ids], device=device)
    mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompt_ids], device=device)
    seeds_B = torch.tensor(seeds, dtype=torch.long, device=device)
    stop_strings = StopStringCriteria(tokenizer, list(settings.stop)) if settings.stop else None
    in_step = _in_step(model)
    shrinks = way != "static" and not in_step
    cache = _shrinking_cache(model, settings, cache_implementation) if shrinks else None
    rows_B = torch.arange(len(prompt_ids), device=device)
    completions: list[list[int]] = [[] for _ in prompt_ids]
    while len(rows_B):
        done = ids_BT.shape[1] - width
        ends = _RowEnds(eos_token_ids, stop_strings, width, rows_B, shed_frac=1.0 if cache is None else SHED_FRAC)
        needed = cache is not None or stop_strings is not None
        with torch.no_grad():
            ids_BT = model.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                generation_config=_config(settings, eos_token_ids, pad_token_id, cache_implementation, done),
                logits_processor=_processors(settings, seeds_B, width),
                stopping_criteria=StoppingCriteriaList([ends] if needed else []),
                streamer=streamer,
                synced_gpus=in_step,
                **({} if cache is None else {"past_key_values": cache}),
            )
        assert isinstance(ids_BT, Tensor)
        reached = ids_BT.shape[1] - width
        over = cache is None or reached == limit
        lengths_B = torch.where(ends.lengths_B > 0, ends.lengths_B, reached if over else 0)
        for row, ids, length in zip(rows_B.tolist(), ids_BT[:, width:].tolist(), lengths_B.tolist(), strict=True):
            completions[row] = _until_end(ids[:length], eos_token_ids)
        kept_B = (lengths_B == 0).nonzero().squeeze(1)
        if cache is not None and len(kept_B):
            cache.batch_select_indices(kept_B)
        new_BT = mask_BT.new_ones(len(kept_B), ids_BT.shape[1] - mask_BT.shape[1])
        mask_BT = torch.cat([mask_BT[kept_B], new_BT], dim=1)
        ids_BT, seeds_B, rows_B = ids_BT[kept_B], seeds_B[kept_B], rows_B[kept_B]
    return completions


def _in_step(model: Any) -> bool:
    """Whether all processes run the model forward together, because each holds a part of its weights.

    They must then agree on when they enter and leave generate(), which does not know the FSDP2 of accelerate.
    """
    spread = is_deepspeed_zero3_enabled() or isinstance(model, FSDPModule)
    return spread and distributed.is_initialized() and distributed.get_world_size() > 1


def _config(
    settings: SamplingSettings,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    cache_implementation: str | None,
    done: int,
) -> GenerationConfig:
    """The configuration of generate() for completions that have `done` tokens."""
    fields = dict(settings.generation_kwargs or {})
    if fields.get("min_new_tokens") is not None:
        fields["min_new_tokens"] = max(0, fields["min_new_tokens"] - done)
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=settings.max_completion_length - done,
        eos_token_id=list(eos_token_ids),
        pad_token_id=pad_token_id,
        # Set even where it is 1: what is not set, generate() takes from the model's own generation_config.
        repetition_penalty=settings.repetition_penalty,
        cache_implementation=cache_implementation,
        disable_compile=True,
        **fields,
    )


def _processors(settings: SamplingSettings, seeds_B: Tensor, prompt_tokens: int) -> LogitsProcessorList:
    """The warpers, then the keyed noise; they run after generate()'s processors."""
    processors = _warpers(settings)
    if settings.temperature != 0:
        processors.append(KeyedGumbel(seeds_B, prompt_tokens))
    return processors


def _warpers(settings: SamplingSettings) -> LogitsProcessorList:
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


def _can_place(model: Any, settings: SamplingSettings, cache_implementation: str | None) -> bool:
    """Whether sequences may be drawn in places: nothing but logits and noise decides, and no process waits for it."""
    own = model.generation_config.to_dict() if model.generation_config else {}
    changing = {key for key, value in own.items() if value not in (None, False) and not key.startswith("_")}
    plain_settings = not settings.generation_kwargs and not settings.stop and settings.repetition_penalty == 1
    return (
        plain_settings
        and cache_implementation is None
        and changing <= _PLAIN_FIELDS
        and is_plain(model.config)
        and not _in_step(model)
    )


def _causal(model: Any) -> Any:
    """The language model under adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _until_end(token_ids: list[int], eos_token_ids: Sequence[int]) -> list[int]:
    """The tokens up to and including the first end token."""
    end = next((i for i, token in enumerate(token_ids) if token in eos_token_ids), len(token_ids) - 1)
    return token_ids[: end + 1]


def _shrinking_cache(model: Any, settings: SamplingSettings, cache_implementation: str | None) -> DynamicCache | None:
    """An empty cache whose rows can be dropped, or None where the batch has to stay as it is."""
    own = model.generation_config.to_dict() if model.generation_config else {}
    fields = {**own, **(settings.generation_kwargs or {})}
    used = {key for key, value in fields.items() if value not in (None, False) and not key.startswith("_")}
    if cache_implementation is not None or fields.get("use_cache") is False or not used <= _LASTING_FIELDS:
        return None
    # Private, but what generate() itself asks before it makes this cache.
    if model.config.is_encoder_decoder or not model._supports_default_dynamic_cache():
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    return cache if {type(layer) for layer in cache.layers} <= {DynamicLayer, DynamicSlidingWindowLayer} else None


class _RowEnds(StoppingCriteria):
    """Notes where each row ends, and ends all of them once enough have.

    Attributes:
        lengths_B: Tokens of each row's completion, its end included; 0 while it goes on.
    """

    def __init__(
        self,
        eos_token_ids: Sequence[int],
        stop_strings: StopStringCriteria | None,
        prompt_tokens: int,
        rows_B: Tensor,
        shed_frac: float,
    ) -> None:
        """Take what ends a row and the share of rows that ends the batch."""
        self.stop_strings = stop_strings
        self.prompt_tokens = prompt_tokens
        self.eos_tokens = torch.tensor(list(eos_token_ids), dtype=torch.long, device=rows_B.device)
        self.lengths_B = torch.zeros_like(rows_B)
        self.enough = shed_frac * len(rows_B)

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

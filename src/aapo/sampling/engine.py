"""Prompts to completions with a Transformers model.

Shapes: B sequences of a batch, T tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from aapo.errors import AapoError, InputError
from aapo.sampling.noise import KeyedGumbel

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class SamplingSettings:
    """How completions are drawn; the names are Transformers' and TRL's.

    Attributes:
        temperature: > 0; 0 is greedy decoding.
        top_p: Nucleus in (0, 1]; 1 keeps all tokens.
        top_k: Tokens kept; 0 keeps all.
        min_p: Tokens below this share of the likeliest token's probability are dropped; None keeps all.
        repetition_penalty: Transformers' penalty; 1 is none.
        max_completion_length: Most tokens of a completion.
        generation_kwargs: Further fields of Transformers' GenerationConfig, such as `suppress_tokens`.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    max_completion_length: int = 256
    generation_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InputError: A value is out of its range.
        """
        if self.temperature < 0:
            raise InputError(f"temperature is {self.temperature}; it must be >= 0 (0 is greedy decoding)")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; it must be in (0, 1]")
        if self.max_completion_length < 1:
            raise InputError(f"max_completion_length is {self.max_completion_length}; it must be >= 1")
        for key, instead in _OWN_FIELDS.items():
            if key in (self.generation_kwargs or {}):
                raise InputError(f"generation_kwargs sets {key}; set {instead} instead")

    def describe(self) -> dict[str, Any]:
        """The settings as a dictionary, for identities and manifests."""
        return asdict(self)


# GenerationConfig's fields that have a setting of their own here, or that keyed sampling replaces.
_OWN_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_completion_length",
    "do_sample": "temperature (0 is greedy)",
}


class Completion(NamedTuple):
    """One completion: its text without special tokens, its token ids with the end token, and why it ended."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason


def generate_ids(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: SamplingSettings,
    *,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    cache_implementation: str | None = None,
) -> list[list[int]]:
    """One completion per prompt, as token ids up to and including the end token.

    Args:
        model: Any model that Transformers can generate with.
        prompt_ids: B prompts.
        seeds: B sample seeds (`sample_seed`); a completion depends on its own seed and prompt only.
        settings: How to draw.
        eos_token_ids: Tokens that end a completion.
        pad_token_id: Token for padding.
        cache_implementation: Transformers' key-value cache; does not change what is drawn.
    """
    device = model.device
    width = max(map(len, prompt_ids))
    input_ids_BT = torch.tensor([[pad_token_id] * (width - len(ids)) + list(ids) for ids in prompt_ids], device=device)
    mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompt_ids], device=device)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=settings.max_completion_length,
        eos_token_id=list(eos_token_ids),
        pad_token_id=pad_token_id,
        # Set even where it is 1: what is not set, generate() takes from the model's own generation_config.
        repetition_penalty=settings.repetition_penalty,
        cache_implementation=cache_implementation,
        disable_compile=True,
        **(settings.generation_kwargs or {}),
    )
    processors = _processors(settings, torch.tensor(seeds, dtype=torch.long, device=device), width)
    with torch.no_grad():
        output_BT = model.generate(
            input_ids=input_ids_BT, attention_mask=mask_BT, generation_config=config, logits_processor=processors
        )
    assert isinstance(output_BT, Tensor)
    return [_until_end(row, eos_token_ids) for row in output_BT[:, width:].tolist()]


def _processors(settings: SamplingSettings, seeds_B: Tensor, prompt_tokens: int) -> LogitsProcessorList:
    """Transformers' own warpers in its own order, then the keyed noise; they run after generate()'s processors."""
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
    processors.append(KeyedGumbel(seeds_B, prompt_tokens))
    return processors


def _until_end(token_ids: list[int], eos_token_ids: Sequence[int]) -> list[int]:
    """The tokens up to and including the first end token."""
    end = next((i for i, token in enumerate(token_ids) if token in eos_token_ids), len(token_ids) - 1)
    return token_ids[: end + 1]


def end_tokens(model: PreTrainedModel, tokenizer: Any) -> list[int]:
    """Every token that ends a completion: the model's generation config's and the tokenizer's."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None})


class Engine(Protocol):
    """What samples completions: one `generate()`, whatever runs behind it."""

    tokenizer: Any

    def generate(
        self, prompt_ids: Sequence[Sequence[int]], seeds: Sequence[int], on_batch: Callable[[int], None] = ...
    ) -> list[Completion]:
        """One completion per prompt, in order, each depending on its own seed and prompt only."""
        ...


class TransformersEngine:
    """Samples completions with a Transformers model, in batches that fit."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, settings: SamplingSettings, batch_size: int = 256
    ) -> None:
        """Take a loaded model and its tokenizer.

        Args:
            model: In the precision and on the device it is to run on.
            tokenizer: Its tokenizer.
            settings: How completions are drawn.
            batch_size: Sequences tried at once; halved whenever they do not fit. Samples do not depend on it.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.batch_size = batch_size
        self.eos_token_ids = end_tokens(model, tokenizer)
        self.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_token_ids[0]

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        seeds: Sequence[int],
        on_batch: Callable[[int], None] = lambda done: None,
    ) -> list[Completion]:
        """One completion per prompt, in order.

        Args:
            prompt_ids: Prompts as tokens (`aapo.tasks.encode_prompt`).
            seeds: One sample seed per prompt.
            on_batch: Called with the number of completions in each finished batch.

        Raises:
            InputError: A prompt leaves no room for a completion in the model's context.
            AapoError: A single sequence does not fit into memory.
        """
        self._check_context(prompt_ids)
        was_training = self.model.training
        self.model.eval()
        # Neighbours of similar length waste the least padding.
        order = sorted(range(len(prompt_ids)), key=lambda i: len(prompt_ids[i]))
        results: dict[int, Completion] = {}
        try:
            while len(results) < len(order):
                chosen = order[len(results) : len(results) + self.batch_size]
                token_ids = self._generate_batch([prompt_ids[i] for i in chosen], [seeds[i] for i in chosen])
                if token_ids is None:
                    continue
                texts = self.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
                results |= {
                    i: Completion(text, ids, "stop" if ids[-1] in self.eos_token_ids else "length")
                    for i, text, ids in zip(chosen, texts, token_ids, strict=True)
                }
                on_batch(len(chosen))
        finally:
            self.model.train(was_training)
        return [results[i] for i in range(len(prompt_ids))]

    def _check_context(self, prompt_ids: Sequence[Sequence[int]]) -> None:
        limit = getattr(self.model.config, "max_position_embeddings", None)
        longest = max(map(len, prompt_ids), default=0)
        if limit is not None and longest + self.settings.max_completion_length > limit:
            raise InputError(
                f"a prompt of {longest} tokens and max_completion_length {self.settings.max_completion_length} exceed "
                f"the model's context of {limit} tokens; set max_completion_length to at most {limit - longest}"
            )

    def _generate_batch(self, prompt_ids: Sequence[Sequence[int]], seeds: list[int]) -> list[list[int]] | None:
        """Completions of one batch, or None when it did not fit and the batch size was halved."""
        try:
            return generate_ids(
                self.model,
                prompt_ids,
                seeds,
                self.settings,
                eos_token_ids=self.eos_token_ids,
                pad_token_id=self.pad_token_id,
            )
        except torch.OutOfMemoryError as error:
            if self.batch_size == 1:
                raise AapoError(
                    "one sequence does not fit into GPU memory; lower max_completion_length or use a smaller model"
                ) from error
            self.batch_size = max(1, self.batch_size // 2)
            torch.cuda.empty_cache()
            return None

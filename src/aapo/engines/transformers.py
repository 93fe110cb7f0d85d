"""The engine that runs a Transformers model."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from aapo.engines.generation import generate_ids
from aapo.engines.loading import whole_weights
from aapo.engines.spec import ModelSpec
from aapo.engines.ways import Way
from aapo.errors import AapoError, InputError
from aapo.progress import console
from aapo.records import Completion, Engine
from aapo.sampling import SamplingSettings, as_completion


def end_tokens(model: PreTrainedModel, tokenizer: Any) -> list[int]:
    """Every token that ends a completion: the model's generation config's and the tokenizer's."""
    return configured_end_tokens(model.generation_config, tokenizer)


def configured_end_tokens(config: GenerationConfig | None, tokenizer: Any) -> list[int]:
    """Every token that ends a completion of a model with this generation config."""
    configured = config.eos_token_id if config else None
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None})


def check_context(prompt_ids: Sequence[Sequence[int]], settings: SamplingSettings, limit: int | None) -> None:
    """Check that every prompt leaves room for a completion in a context of `limit` tokens; None is no limit.

    Raises:
        InputError: Some do not; the message counts them.
    """
    if limit is None:
        return
    room = limit - settings.max_completion_length
    if long := [len(ids) for ids in prompt_ids if len(ids) > room]:
        fixes = [f"set max_completion_length to at most {limit - max(long)}"] if max(long) < limit else []
        fixes += [f"in a recipe set max_prompt_length to {room} and drop_long_prompts to true"] if room > 0 else []
        raise InputError(
            f"{len(long)} of {len(prompt_ids)} prompts, the longest of {max(long)} tokens, and max_completion_length "
            f"{settings.max_completion_length} exceed the model's context of {limit} tokens; {', or '.join(fixes)}"
        )


class TransformersEngine:
    """Samples completions with a Transformers model, in batches that fit."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        settings: SamplingSettings,
        batch_size: int = 256,
        way: Way | None = None,
    ) -> None:
        """Take a loaded model and its tokenizer.

        Args:
            model: In the precision and on the device it is to run on.
            tokenizer: Its tokenizer.
            settings: How completions are drawn.
            batch_size: Sequences tried at once; halved whenever they do not fit. Samples do not depend on it.
            way: As in `generate_ids`.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.batch_size = batch_size
        self.way: Way | None = way
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
        check_context(prompt_ids, self.settings, getattr(self.model.config, "max_position_embeddings", None))
        was_training, asked = self.model.training, self.batch_size
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
                if self.batch_size < asked:
                    console.print(f"{asked} sequences do not fit into memory; {self.batch_size} at once from here on")
                    asked = self.batch_size
                texts = self.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
                results |= {
                    i: as_completion(text, ids, self.settings, ended=self._ended(ids))
                    for i, text, ids in zip(chosen, texts, token_ids, strict=True)
                }
                on_batch(len(chosen))
        finally:
            self.model.train(was_training)
        return [results[i] for i in range(len(prompt_ids))]

    def _ended(self, token_ids: list[int]) -> bool:
        """Whether an end token or a stop string ended it; a stop string may hide in tokens that text leaves out."""
        short = len(token_ids) < self.settings.max_completion_length
        return token_ids[-1] in self.eos_token_ids or (short and bool(self.settings.stop))

    def _generate_batch(self, prompt_ids: Sequence[Sequence[int]], seeds: list[int]) -> list[list[int]] | None:
        """Completions of one batch, or None when it did not fit and the batch size was halved."""
        try:
            with whole_weights():
                return generate_ids(
                    self.model,
                    prompt_ids,
                    seeds,
                    self.settings,
                    eos_token_ids=self.eos_token_ids,
                    pad_token_id=self.pad_token_id,
                    tokenizer=self.tokenizer,
                    way=self.way,
                )
        except RuntimeError as error:  # of which torch.OutOfMemoryError is one
            if not _out_of_memory(error):
                raise
            if self.batch_size == 1:
                raise AapoError(
                    "one sequence does not fit into memory; lower max_completion_length or use a smaller model"
                ) from error
            # From what was tried: a batch size above it would only be tried again.
            self.batch_size = max(1, min(self.batch_size, len(prompt_ids)) // 2)
            torch.cuda.empty_cache()
            return None


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether a device or, by its allocator's words, the machine has no memory left."""
    words = ("not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(part in str(error) for part in words)


def open_transformers(spec: ModelSpec, tokenizer: Any, settings: SamplingSettings, batch_size: int) -> Engine:
    """The engine of a model, on this process's device."""
    from accelerate import PartialState

    return TransformersEngine(spec.load(PartialState().device), tokenizer, settings, batch_size)

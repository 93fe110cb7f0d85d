"""Engines by name, opened when they are first needed and closed when they are not."""

import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Self

from aapo.engines.spec import TRANSFORMERS, VLLM, ModelSpec
from aapo.errors import InputError, nearest
from aapo.named import calling, load_named
from aapo.records import Completion, Engine
from aapo.sampling import SamplingSettings

# What makes each engine: a function of the model, its tokenizer, the sampling settings and the sequences at once.
ENGINES = {
    TRANSFORMERS: "aapo.engines.transformers:open_transformers",
    VLLM: "aapo.engines.vllm:open_vllm",
}
BATCH_SIZES = {TRANSFORMERS: 256, VLLM: 1024}


class OpenedEngine:
    """A model's engine, made at the first call of `generate`, since samples that are all stored need no model.

    Leaving its `with` block gives the model's memory back.
    """

    def __init__(self, name: str, tokenizer: Any, make: Callable[[], Engine], batch_size: int) -> None:
        """Take the engine's name, the model's tokenizer, what makes the engine, and its `batch_size`."""
        self._name = name
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
        with self._watched():
            if self._engine is None:
                self._engine = self._make()
            completions = self._engine.generate(prompt_ids, seeds, on_batch)
        if len(completions) != len(prompt_ids):
            raise InputError(
                f"engine {self._name} returned {len(completions)} completions for {len(prompt_ids)} prompts; it must "
                "return one a prompt, in order"
            )
        return completions

    def _watched(self) -> AbstractContextManager[None]:
        return nullcontext() if self._name in ENGINES else calling(f"engine {self._name}")

    def close(self) -> None:
        """Free the model; another call of `generate` would load it again."""
        if self._engine is None:
            return
        stop = getattr(self._engine, "close", None)
        if stop is not None:
            stop()
        self._engine = None
        gc.collect()  # models refer to themselves
        import torch

        torch.cuda.empty_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_engine(
    spec: ModelSpec,
    settings: SamplingSettings,
    engine: str = TRANSFORMERS,
    *,
    tokenizer: Any = None,
    batch_size: int | None = None,
    **options: Any,
) -> OpenedEngine:
    """An engine of this name for the model, to be used in a `with` block.

    Args:
        spec: The model.
        settings: How completions are drawn.
        engine: transformers, vllm, or your own as path/to/file.py:NAME or package.module:NAME: a function of the model,
            the tokenizer, the settings, `batch_size` and `options` that returns an `aapo.records.Engine`.
        tokenizer: The model's; by default it is loaded.
        batch_size: Sequences handed over at once; by default 256, with vLLM 1,024.
        **options: Passed to the engine, such as vLLM's `tensor_parallel_size`.

    Raises:
        InputError: There is no such engine, or the tokenizer is missing.
    """
    tokenizer = spec.load_tokenizer() if tokenizer is None else tokenizer
    size = batch_size or BATCH_SIZES.get(engine, BATCH_SIZES[TRANSFORMERS])
    make = engine_maker(engine)
    return OpenedEngine(engine, tokenizer, lambda: make(spec, tokenizer, settings, size, **options), size)


def engine_maker(engine: str) -> Callable[..., Engine]:
    """What makes engines of this name.

    Raises:
        InputError: There is no such engine.
    """
    if engine not in ENGINES and ":" not in engine:
        raise InputError(
            f"engine is {engine!r}{nearest(engine, ENGINES)}; it must be {' or '.join(ENGINES)}, or your own as "
            "path/to/file.py:NAME"
        )
    return load_named(ENGINES.get(engine, engine), "engine")

"""Models that complete prompts: one `generate()`, the same samples for the same seeds."""

from typing import TYPE_CHECKING

from aapo.named import lazily

if TYPE_CHECKING:
    from aapo.engines.generation import generate_ids
    from aapo.engines.identity import Identity, model_identity, tokenizer_identity
    from aapo.engines.loading import load_model, load_tokenizer
    from aapo.engines.noise import keyed_gumbel
    from aapo.engines.opening import ENGINES, OpenedEngine, open_engine
    from aapo.engines.spec import ModelSpec
    from aapo.engines.transformers import TransformersEngine, end_tokens
    from aapo.engines.vllm import VLLMEngine

_PLACES = {
    "ENGINES": "aapo.engines.opening",
    "Identity": "aapo.engines.identity",
    "ModelSpec": "aapo.engines.spec",
    "OpenedEngine": "aapo.engines.opening",
    "TransformersEngine": "aapo.engines.transformers",
    "VLLMEngine": "aapo.engines.vllm",
    "end_tokens": "aapo.engines.transformers",
    "generate_ids": "aapo.engines.generation",
    "keyed_gumbel": "aapo.engines.noise",
    "load_model": "aapo.engines.loading",
    "load_tokenizer": "aapo.engines.loading",
    "model_identity": "aapo.engines.identity",
    "open_engine": "aapo.engines.opening",
    "tokenizer_identity": "aapo.engines.identity",
}
__getattr__ = lazily(__name__, _PLACES)

__all__ = [
    "ENGINES",
    "Identity",
    "ModelSpec",
    "OpenedEngine",
    "TransformersEngine",
    "VLLMEngine",
    "end_tokens",
    "generate_ids",
    "keyed_gumbel",
    "load_model",
    "load_tokenizer",
    "model_identity",
    "open_engine",
    "tokenizer_identity",
]

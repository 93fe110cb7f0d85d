"""Models that complete prompts: one `generate()`, the same samples for the same seeds."""

from aapo.engines.generation import generate_ids
from aapo.engines.identity import Identity, model_identity, tokenizer_identity
from aapo.engines.lazy import LazyEngine
from aapo.engines.loading import load_model, load_tokenizer
from aapo.engines.noise import keyed_gumbel
from aapo.engines.transformers import TransformersEngine, end_tokens
from aapo.engines.vllm import VLLMEngine

__all__ = [
    "Identity",
    "LazyEngine",
    "TransformersEngine",
    "VLLMEngine",
    "end_tokens",
    "generate_ids",
    "keyed_gumbel",
    "load_model",
    "load_tokenizer",
    "model_identity",
    "tokenizer_identity",
]

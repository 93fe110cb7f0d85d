"""Completions from a model: one `generate()`, the same samples for the same seeds."""

from aapo.sampling.engine import Completion, Engine, SamplingSettings, TransformersEngine, end_tokens, generate_ids
from aapo.sampling.loading import Identity, load_model, load_tokenizer, model_identity, tokenizer_identity
from aapo.sampling.noise import keyed_gumbel, sample_seed

__all__ = [
    "Completion",
    "Engine",
    "Identity",
    "SamplingSettings",
    "TransformersEngine",
    "end_tokens",
    "generate_ids",
    "keyed_gumbel",
    "load_model",
    "load_tokenizer",
    "model_identity",
    "sample_seed",
    "tokenizer_identity",
]

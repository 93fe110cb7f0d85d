"""Completions from a model: one `generate()`, the same samples for the same seeds."""

from aapo.sampling.engine import Engine, TransformersEngine, end_tokens
from aapo.sampling.generation import generate_ids
from aapo.sampling.identity import Identity, model_identity, tokenizer_identity
from aapo.sampling.lazy import LazyEngine
from aapo.sampling.loading import load_model, load_tokenizer
from aapo.sampling.noise import keyed_gumbel, sample_seed
from aapo.sampling.settings import Completion, SamplingSettings
from aapo.sampling.vllm import VLLMEngine

__all__ = [
    "Completion",
    "Engine",
    "Identity",
    "LazyEngine",
    "SamplingSettings",
    "TransformersEngine",
    "VLLMEngine",
    "end_tokens",
    "generate_ids",
    "keyed_gumbel",
    "load_model",
    "load_tokenizer",
    "model_identity",
    "sample_seed",
    "tokenizer_identity",
]

"""The shape of the model that tests train: a few thousand parameters."""

from aapo.base.config import BaseModelConfig

TINY = BaseModelConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
    vocab_size=300, max_position_embeddings=128,
)  # fmt: skip

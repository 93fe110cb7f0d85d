"""Settings of a base model that is made here."""

from dataclasses import dataclass

from aapo.errors import InputError


@dataclass
class BaseModelConfig:
    """A base model made here: its shape and its warm-up.

    Attributes:
        hidden_size: Width.
        intermediate_size: Width of the feed-forward layers.
        num_hidden_layers: Layers.
        num_attention_heads: Query heads of 32 dimensions each.
        num_key_value_heads: Key and value heads.
        vocab_size: Entries of the byte-level BPE vocabulary, before tags.
        max_position_embeddings: Context in tokens.
        warmup_learning_rate: Peak learning rate of AdamW.
        warmup_batch_size: Worked solutions per step.
        warmup_max_steps: Steps after which the warm-up gives up.
        warmup_eval_steps: Steps between two looks at the sampled accuracy.
        warmup_accuracy: Sampled accuracy in (0, 1) at which the warm-up stops.
        warmup_num_problems: Worked problems that it draws from.
        seed: Seed of weights and order.
    """

    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 2
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    vocab_size: int = 512
    max_position_embeddings: int = 512
    warmup_learning_rate: float = 3e-3
    warmup_batch_size: int = 32
    warmup_max_steps: int = 600
    warmup_eval_steps: int = 10
    warmup_accuracy: float = 0.25
    warmup_num_problems: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what must go together.

        Raises:
            InputError: Query heads cannot share the key and value heads evenly.
        """
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"base_model.num_attention_heads is {self.num_attention_heads}; it must be a multiple of "
                f"num_key_value_heads, which is {self.num_key_value_heads}"
            )

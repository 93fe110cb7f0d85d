"""How large everything is: in full for one H100 or H200, in miniature for a CPU."""

from dataclasses import dataclass

from aapo.base.config import BaseModelConfig

from .device import Shape


@dataclass(frozen=True)
class Scale:
    """Sizes of all parts.

    Attributes:
        shapes: Models of the training and rollout parts.
        groups: Prompts of a training step, of 8 completions each.
        prompt_tokens: Of a prompt, about.
        completion_tokens: Of every completion of a whole step.
        phase_limit: Of completion tokens in the training phase alone.
        microbatch_tokens: `max_tokens_per_microbatch`.
        steps: Steps of a trainer that count.
        rounds: Of alternating arms.
        sequences: Of a rollout, in all cases of the first model; the others have the last only.
        rollout_tokens: Of a completion, at most.
        base: The base model of the comparison from scratch.
        train_prompts: Of that comparison.
        train_rows: Completions of its steps.
        train_steps: Likewise.
        eval_prompts: Likewise.
        seeds: Likewise.
    """

    shapes: dict[str, Shape]
    groups: int
    prompt_tokens: int
    completion_tokens: int
    phase_limit: int
    microbatch_tokens: int
    steps: int
    rounds: int
    sequences: tuple[int, ...]
    rollout_tokens: int
    base: BaseModelConfig
    train_prompts: int
    train_rows: int
    train_steps: int
    eval_prompts: int
    seeds: int


FULL = Scale(
    shapes={
        "qwen2.5-0.5b": Shape(896, 4864, 24, 14, 2, 151_936),
        "qwen2.5-1.5b": Shape(1536, 8960, 28, 12, 2, 151_936),
    },
    groups=16, prompt_tokens=128, completion_tokens=256, phase_limit=768, microbatch_tokens=8192, steps=2, rounds=3,
    sequences=(64, 256), rollout_tokens=128,
    # Ten times the weights of the quickstart's model: 12.3 million.
    base=BaseModelConfig(
        hidden_size=512, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=16, num_key_value_heads=4,
        warmup_learning_rate=1e-3, warmup_batch_size=64, warmup_max_steps=1500,
    ),
    train_prompts=800, train_rows=128, train_steps=60, eval_prompts=200, seeds=3,
)  # fmt: skip

MINIATURE = Scale(
    shapes={"tiny": Shape(32, 48, 2, 4, 2, 320)},
    groups=2, prompt_tokens=12, completion_tokens=4, phase_limit=16, microbatch_tokens=512, steps=1, rounds=1,
    sequences=(16,), rollout_tokens=6,
    base=BaseModelConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        warmup_max_steps=2, warmup_eval_steps=2, warmup_accuracy=0.0, warmup_num_problems=64,
    ),
    train_prompts=8, train_rows=16, train_steps=1, eval_prompts=4, seeds=1,
)  # fmt: skip

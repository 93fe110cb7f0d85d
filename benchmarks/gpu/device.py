"""What a card can do at most, what a model asks of it, and models by shape."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config

# Dense bf16 FLOP/s and bytes/s by data sheet, by a part of the name; the first that fits.
DATA_SHEETS = {
    "B200": (2250e12, 8.0e12), "H200": (989e12, 4.8e12), "H100 PCIe": (756e12, 2.0e12), "H100 NVL": (835e12, 3.9e12),
    "H100": (989e12, 3.35e12), "A100-SXM4-80GB": (312e12, 2.04e12), "A100": (312e12, 1.56e12),
    "L40S": (362e12, 0.86e12),
}  # fmt: skip
GIB = 2**30


class Shape(NamedTuple):
    """A Qwen2 model's, with one matrix for embedding and output."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int

    @property
    def layer_weights(self) -> int:
        """Weights of all layers that tokens are multiplied by."""
        kv = 2 * self.hidden * self.hidden // self.heads * self.kv_heads
        return self.layers * (2 * self.hidden**2 + kv + 3 * self.hidden * self.intermediate)

    def training_flops(self, prompts: Sequence[int], completions: Sequence[Sequence[int]]) -> float:
        """Of a forward and a backward pass, with each prompt once and the last token of a completion left out.

        Args:
            prompts: Tokens of the prompt of each group.
            completions: By group, the tokens of each of its completions.
        """
        tokens = pairs = scored = 0.0
        for prompt, lengths in zip(prompts, completions, strict=True):
            tokens += prompt + sum(length - 1 for length in lengths)
            pairs += prompt**2 / 2 + sum((length - 1) * prompt + (length - 1) ** 2 / 2 for length in lengths)
            scored += sum(lengths)
        products = self.layer_weights * tokens + self.vocab * self.hidden * scored
        return 3 * (2 * products + 4 * self.hidden * self.layers * pairs)

    def cache_bytes(self, tokens: float, element: int) -> float:
        """Of the keys and values of so many tokens."""
        return tokens * 2 * self.layers * self.kv_heads * (self.hidden // self.heads) * element


class Peak(NamedTuple):
    """FLOP/s of bf16 products and bytes/s of memory, and where they are from."""

    flops: float
    bandwidth: float
    source: str


def model_of(shape: Shape, tokenizer: Any, device: str, dtype: torch.dtype) -> Any:
    """A model with random weights, always the same on one device."""
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, vocab_size=shape.vocab,
        max_position_embeddings=32_768, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def synchronize(device: str) -> None:
    """Wait for what the device has to do."""
    if device != "cpu":
        torch.cuda.synchronize()


def seconds_of(step: Callable[[], Any], device: str) -> float:
    """How long a step takes."""
    synchronize(device)
    began = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - began


def measured_peak(device: str) -> Peak:
    """What a large product of matrices and a large copy reach."""
    size, words = (8192, GIB // 4) if device != "cpu" else (256, 2**20)
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.rand(words, device=device)
    target = torch.empty_like(source)

    def best(step: Callable[[], Tensor]) -> float:
        return min(seconds_of(step, device) for _ in range(10))

    flops = 2 * size**3 / best(lambda: left @ right)
    return Peak(flops, 8 * words / best(lambda: target.copy_(source)), "measured")


def peak_of(name: str, measured: Peak) -> Peak:
    """By data sheet; what was measured for a device without an entry."""
    found = next((peak for part, peak in DATA_SHEETS.items() if part in name), None)
    return measured if found is None else Peak(*found, "data sheet")


def describe(device: str) -> dict[str, Any]:
    """Name, memory, versions of what drives it, and its peaks."""
    measured = measured_peak(device)
    if device == "cpu":
        return {"name": "cpu", "peak": peak_of("cpu", measured)._asdict(), "measured": measured._asdict()}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gib": properties.total_memory / GIB,
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "peak": peak_of(properties.name, measured)._asdict(),
        "measured": measured._asdict(),
    }

"""Rows without padding against rows one by one."""

import pytest
import torch
from transformers import (
    GemmaConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)
from trl.trainer.utils import add_fused_lm_head

from aapo.backends.trl.packed import Row, packed, padded, token_scores
from aapo.engines.attention import attending_by_layout, is_plain

SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
    "num_key_value_heads": 2, "vocab_size": 97, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip
MODELS = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "smollm3": (SmolLM3Config, SmolLM3ForCausalLM),
}
CPU = torch.device("cpu")


def model_of(name, **changes):
    config_type, model_type = MODELS[name]
    torch.manual_seed(1)
    return model_type(config_type(**SHAPE, **changes)).train()


def rows_of(*lengths, prompts=None):
    generator = torch.Generator().manual_seed(5)

    def tokens(size):
        return torch.randint(1, 97, (size,), generator=generator)

    given = {} if prompts is None else {name: tokens(size) for name, size in prompts.items()}
    return [Row(given.get(prompt) if prompt in given else tokens(prompt), tokens(size)) for prompt, size in lengths]


MIXED = (("a", 5), ("b", 1), ("a", 1), ("a", 7), ("b", 6), (4, 3), ("b", 6))


def one_by_one(model, rows):
    """Log-probabilities and entropies of each row alone, by the model's own logits."""
    found = []
    for row in rows:
        ids = torch.cat([row.prompt, row.completion])[None]
        logprobs = model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1].log_softmax(-1)
        found.append((logprobs.gather(1, row.completion[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)))
    return [torch.cat(values) for values in zip(*found, strict=True)]


def gradient_of(model, logprobs):
    model.zero_grad()
    (logprobs * torch.linspace(-1, 2, len(logprobs))).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", MODELS)
def test_scores_and_gradients_are_those_of_rows_alone(name):
    rows = rows_of(*MIXED, prompts={"a": 9, "b": 3})
    model = model_of(name)
    expected, entropies = one_by_one(model, rows)
    gradient = gradient_of(model, expected)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    for layout in (packed(rows, share=True), packed(rows, share=False)):
        with attending_by_layout(model):
            logprobs, entropy = token_scores(model, model, layout, CPU)
            torch.testing.assert_close(logprobs, expected, atol=2e-5, rtol=0)
            torch.testing.assert_close(entropy, entropies, atol=2e-5, rtol=0)
            error = (gradient_of(model, logprobs) - gradient).abs().max() / gradient.abs().max()
            assert error < 1e-5
    logprobs, _ = token_scores(model, model, padded(rows), CPU)
    assert (gradient_of(model, logprobs) - gradient).abs().max() / gradient.abs().max() < 1e-5


def test_layers_that_are_computed_again_attend_by_segments_too():
    rows = rows_of(*MIXED, prompts={"a": 9, "b": 3})
    model = model_of("qwen3")
    add_fused_lm_head(model)
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with attending_by_layout(model):
            gradients.append(gradient_of(model, token_scores(model, model, packed(rows), CPU)[0]))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=0)
    assert model.config._attn_implementation == "sdpa"


def test_a_prompt_is_there_once_and_last_tokens_are_not():
    rows = rows_of(*MIXED, prompts={"a": 9, "b": 3})
    # the prompts a, b and the one of 4; of each completion all but the last token
    assert packed(rows).inputs["input_ids"].shape == (1, 9 + 3 + 4 + sum(n - 1 for _, n in MIXED))
    assert packed(rows, share=False).inputs["input_ids"].shape == (1, 3 * 9 + 3 * 3 + 4 + sum(n - 1 for _, n in MIXED))
    assert padded(rows).inputs["input_ids"].shape == (7, 9 + 7 - 1)
    assert packed(rows).labels_C.tolist() == [token for row in rows for token in row.completion.tolist()]


def test_rows_do_not_see_one_another():
    rows = rows_of(("a", 5), ("a", 4), (3, 6), prompts={"a": 7})
    model = model_of("llama")
    add_fused_lm_head(model)
    with torch.no_grad(), attending_by_layout(model):
        before, _ = token_scores(model, model, packed(rows), CPU)
        other = [rows[0], Row(rows[1].prompt, (rows[1].completion + 1) % 97), rows[2]]
        after, _ = token_scores(model, model, packed(other), CPU)
    assert torch.equal(before[:5], after[:5]) and torch.equal(before[9:], after[9:])
    assert not torch.allclose(before[5:9], after[5:9])


@pytest.mark.parametrize(
    ("config", "plain"),
    [
        (LlamaConfig(**SHAPE), True),
        (Qwen2Config(**SHAPE), True),
        (Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=16, max_window_layers=0), False),
        (MistralConfig(**SHAPE, sliding_window=None), True),
        (MistralConfig(**SHAPE, sliding_window=16), False),
        (LlamaConfig(**SHAPE, attention_dropout=0.1), False),
        (GemmaConfig(**SHAPE), False),
    ],
    ids=lambda value: value.model_type if hasattr(value, "model_type") else str(value),
)
def test_only_plain_causal_attention_is_laid_out(config, plain):
    assert is_plain(config) is plain

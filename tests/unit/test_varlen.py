"""PyTorch's attention over sequences of varying length, by stand-ins with the signatures of its releases."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import Qwen2Config, Qwen2ForCausalLM

from aapo.engines import attention, generate_ids
from aapo.engines.attention import Segment, Segments
from aapo.engines.decoding import Places, seen_columns, seen_places
from aapo.engines.varlen import causal_varlen, varlen_for
from aapo.sampling import SamplingSettings

# Two alone, one of them a single token, and three after a prompt that they share.
SEGMENTS = [
    Segment(0, 6), Segment(6, 1), Segment(7, 5), Segment(12, 4, 7, 5), Segment(16, 1, 7, 5), Segment(17, 3, 7, 5),
]  # fmt: skip
SCALING = 0.3


def by_sequence(query, key, value, queries, keys, scale):
    """Each sequence alone, aligned such that its last query sees all of its keys."""
    assert query.shape[1] == key.shape[1], "heads are not repeated"
    outputs = []
    for i in range(len(queries) - 1):
        rows, columns = slice(queries[i], queries[i + 1]), slice(keys[i], keys[i + 1])
        length, seen = rows.stop - rows.start, columns.stop - columns.start
        mask = torch.ones(length, seen, dtype=torch.bool).tril(seen - length)
        parts = (query[rows], key[columns], value[columns])
        outputs.append(scaled_dot_product_attention(*(part.transpose(0, 1) for part in parts), mask, scale=scale))
    return torch.cat(outputs, 1).transpose(0, 1)


def with_is_causal(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    assert is_causal
    return by_sequence(query, key, value, cu_seq_q, cu_seq_k, None)


def with_window(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    assert window_size == (-1, 0)  # torch 2.11 compares it with this very tuple
    return by_sequence(query, key, value, cu_seq_q, cu_seq_k, scale)


def with_groups(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    assert enable_gqa and window_size == (-1, 0)
    repeats = query.shape[1] // key.shape[1]
    assert repeats == 2, "heads were repeated before"
    key, value = (tensor.repeat_interleave(repeats, 1) for tensor in (key, value))
    return by_sequence(query, key, value, cu_seq_q, cu_seq_k, scale)


def attended(segments, tensors):
    mine = [tensor.clone().requires_grad_() for tensor in tensors]
    output = Segments(segments).attend(0, *mine, scaling=SCALING)
    output.square().sum().backward()
    return [output.detach(), *(tensor.grad for tensor in mine)]


@pytest.mark.parametrize("release", [with_is_causal, with_window, with_groups])
@pytest.mark.parametrize("segments", [SEGMENTS, SEGMENTS[:3]], ids=["prefixes", "alone"])
def test_the_attention_of_any_release_is_that_of_the_segments(release, segments, monkeypatch):
    generator = torch.Generator().manual_seed(3)
    tokens = segments[-1].start + segments[-1].length
    tensors = [torch.randn(1, heads, tokens, 8, generator=generator) for heads in (4, 2, 2)]
    expected = attended(segments, tensors)
    monkeypatch.setattr(attention, "varlen_for", lambda query: causal_varlen(release))
    for found, exact in zip(attended(segments, tensors), expected, strict=True):
        torch.testing.assert_close(found, exact, atol=2e-6, rtol=1e-5)


def test_a_device_without_the_kernels_has_no_such_attention():
    assert varlen_for(torch.empty(0, dtype=torch.bfloat16)) is None


def test_keys_that_autocast_leaves_wide_are_kept_in_its_format(monkeypatch):
    # Rotating by float32 angles makes float32 of bf16 queries and keys, but not of values.
    formats, store = set(), Places.store

    def watched(self, layer, places, columns, pair):
        formats.update(tensor.dtype for tensor in pair)
        store(self, layer, places, columns, pair)

    monkeypatch.setattr(Places, "store", watched)
    model = small_model()
    with torch.autocast("cpu", torch.bfloat16):
        drawn = draw(model)
    assert formats == {torch.bfloat16}
    assert [len(ids) for ids in drawn] == [4, 4]
    formats.clear()
    draw(model)
    assert formats == {torch.float32}


def small_model():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    return Qwen2ForCausalLM(Qwen2Config(**shape, num_key_value_heads=2, vocab_size=64)).eval()


def draw(model, limit=4, sequences=2):
    settings = SamplingSettings(max_completion_length=limit)
    ends = {"eos_token_ids": [63], "pad_token_id": 62}
    prompts = [[1, 2, 3] if i % 2 == 0 else [4, 5] for i in range(sequences)]
    return generate_ids(model, prompts, range(8, 8 + sequences), settings, way="places", **ends)


def test_the_columns_that_a_step_looks_at_hardly_vary_on_a_gpu():
    assert [seen_columns(tokens, "cpu") for tokens in (1, 129)] == [1, 129]
    assert [seen_columns(tokens, "cuda") for tokens in (1, 128, 129)] == [128, 128, 256]


def test_the_places_that_a_step_computes_hardly_vary_on_a_gpu():
    assert [seen_places(used, 64, "cpu") for used in (1, 63, 64)] == [1, 63, 64]
    assert [seen_places(used, 64, "cuda") for used in (1, 8, 9, 64)] == [8, 8, 16, 64]
    assert [seen_places(used, 20, "cuda") for used in (1, 19, 20)] == [2, 20, 20]
    assert [seen_places(used, 3, "cuda") for used in (1, 2, 3)] == [1, 2, 3]


@pytest.mark.parametrize("limit", [4, 300])
def test_wider_steps_draw_the_same(monkeypatch, limit):
    model = small_model()
    expected = draw(model, limit, 24)
    monkeypatch.setattr("aapo.engines.decoding.seen_columns", lambda tokens, device: seen_columns(tokens, "cuda"))
    monkeypatch.setattr(
        "aapo.engines.decoding.seen_places", lambda used, places, device: min(places, -(-used // 3) * 3)
    )
    assert draw(model, limit, 24) == expected
    assert limit == 4 or len(set(map(len, expected))) > 10

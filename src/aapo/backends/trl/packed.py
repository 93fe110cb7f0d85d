"""Log-probabilities of completions without the work that nobody reads.

Rows are laid one after another without padding, each attending to itself only, and the tokens of a prompt that several
rows have are there once; the output layer sees the positions that predict a completion's token and no other. Models
whose layers mix tokens in other ways than plain causal attention have their rows side by side, padded at the end.

Shapes: N rows, S segments, T tokens laid out, C scored tokens; H attention heads, h of keys and values, D head size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None

ATTENTION = "aapo_segments"
# Models whose layers are plain causal attention over all earlier tokens, with rotary positions.
PLAIN_MODELS = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
# Segments are attended to together when the shortest has this share of the longest one's tokens.
ALIKE = 0.8


class Row(NamedTuple):
    """Token ids of a prompt and its completion, both one-dimensional."""

    prompt: Tensor
    completion: Tensor


class Segment(NamedTuple):
    """Tokens from `start`, that attend to those of the prefix, if there is one, and to themselves."""

    start: int
    length: int
    prefix_start: int = 0
    prefix_length: int = 0


class Layout(NamedTuple):
    """Rows as a model reads them.

    Attributes:
        inputs: Of the model.
        scored_C: Which of the tokens laid out predict the completions' tokens, row after row.
        labels_C: The completions' tokens.
    """

    inputs: dict[str, Any]
    scored_C: Tensor
    labels_C: Tensor


def is_plain(config: Any) -> bool:
    """Whether a model's layers may be given rows one after another."""
    config = config.get_text_config()
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    window = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    return (
        config.model_type in PLAIN_MODELS
        and set(layers) == {"full_attention"}
        and not window
        and not getattr(config, "attention_dropout", 0.0)
    )


# -- layouts -----------------------------------------------------------------------------------------------------------


def packed(rows: Sequence[Row], *, share: bool = True) -> Layout:
    """Rows one after another; with `share` each prompt once, its completions after it.

    The last token of a completion predicts nothing and is left out.
    """
    tokens: list[Tensor] = []
    positions: list[Tensor] = []
    segments: list[Segment] = []
    scored: dict[int, Tensor] = {}
    place = 0

    def lay(ids: Tensor, first: int, prefix: tuple[int, int] = (0, 0)) -> None:
        nonlocal place
        tokens.append(ids)
        positions.append(torch.arange(first, first + len(ids)))
        segments.append(Segment(place, len(ids), *prefix))
        place += len(ids)

    for group in _groups(rows, share):
        prompt, start = rows[group[0]].prompt, place
        if len(group) == 1:
            row, (i,) = rows[group[0]], group
            lay(torch.cat([prompt, row.completion[:-1]]), 0)
            scored[i] = torch.arange(start + len(prompt) - 1, start + len(prompt) - 1 + len(row.completion))
            continue
        lay(prompt, 0)
        for i in group:
            completion = rows[i].completion
            scored[i] = torch.arange(place - 1, place - 1 + len(completion))
            scored[i][:1] = start + len(prompt) - 1
            if len(completion) > 1:
                lay(completion[:-1], len(prompt), (start, len(prompt)))
    inputs = {
        "input_ids": torch.cat(tokens)[None],
        "position_ids": torch.cat(positions)[None],
        "segments": Segments(segments),
    }
    return _layout(inputs, [scored[i] for i in range(len(rows))], rows)


def padded(rows: Sequence[Row]) -> Layout:
    """Rows side by side, padded at the end; tokens are counted row after row."""
    sequences = [torch.cat([row.prompt, row.completion[:-1]]) for row in rows]
    width = max(map(len, sequences))
    scored = [
        torch.arange(i * width + len(row.prompt) - 1, i * width + len(row.prompt) - 1 + len(row.completion))
        for i, row in enumerate(rows)
    ]
    pad = torch.nn.utils.rnn.pad_sequence
    inputs = {
        "input_ids": pad(sequences, batch_first=True),
        "attention_mask": pad([torch.ones_like(ids) for ids in sequences], batch_first=True),
    }
    return _layout(inputs, scored, rows)


def _layout(inputs: dict[str, Any], scored: Sequence[Tensor], rows: Sequence[Row]) -> Layout:
    return Layout(inputs, torch.cat(list(scored)), torch.cat([row.completion for row in rows]))


def _groups(rows: Sequence[Row], share: bool) -> list[list[int]]:
    """Places of the rows that have one prompt, those of different prompts apart."""
    groups: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(tuple(row.prompt.tolist()) if share else i, []).append(i)
    return list(groups.values())


# -- the forward pass --------------------------------------------------------------------------------------------------


def token_scores(model: Any, causal_model: Any, layout: Layout, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities and entropies of the completions' tokens, shape (C,).

    Args:
        model: The model as it is called, with what it is wrapped in.
        causal_model: The language model itself, with TRL's fused output layer.
        layout: Its rows; `segments` are understood within `segment_attention_of`.
        device: The model's.
    """
    inputs = {name: value.to(device) for name, value in layout.inputs.items()}
    with _only(causal_model.base_model, layout.scored_C.to(device)):
        output = model(**inputs, shift_labels=layout.labels_C.to(device)[None], fused_lm_head=True)
    return output.log_probs[0], None if output.entropy is None else output.entropy[0]


@contextmanager
def _only(backbone: Any, index_C: Tensor) -> Iterator[None]:
    """Hands the output layer the hidden states of these tokens and no other."""

    def select(module: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.flatten(0, 1).index_select(0, index_C)[None]
        return output

    hook = backbone.register_forward_hook(select)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def segment_attention_of(causal_model: Any) -> Iterator[None]:
    """The model attends by segments, in forward and backward passes."""
    config = causal_model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


# -- attention ---------------------------------------------------------------------------------------------------------


class Segments:
    """Which of the tokens laid out attend to which, as the kernels of a device need it."""

    def __init__(self, segments: Sequence[Segment], device: torch.device | str = "cpu") -> None:
        """Take the segments, which follow one another without a gap."""
        self.segments = list(segments)
        self.device = torch.device(device)

    def to(self, device: torch.device) -> "Segments":
        """The same on another device."""
        return self if device == self.device else Segments(self.segments, device)

    @cached_property
    def has_prefixes(self) -> bool:
        """Whether any segment attends to tokens before its own."""
        return any(segment.prefix_length for segment in self.segments)

    @cached_property
    def buckets(self) -> list["Bucket"]:
        """Segments of about one length, and with prefixes of one length."""
        order = sorted(self.segments, key=lambda one: (one.prefix_length, -one.length, one.start))
        found: list[list[Segment]] = []
        for segment in order:
            longest = found[-1][0] if found else None
            alike = (
                longest is not None
                and longest.prefix_length == segment.prefix_length
                and segment.length >= ALIKE * longest.length
            )
            found[-1].append(segment) if alike else found.append([segment])
        return [Bucket.of(segments, self.device) for segments in found]

    @cached_property
    def order_T(self) -> Tensor:
        """Where the buckets' outputs, one after another, have each token."""
        starts = torch.cat([bucket.tokens for bucket in self.buckets])
        return torch.argsort(starts)

    @cached_property
    def lengths(self) -> "Lengths":
        """The segments as kernels for sequences of varying length have them."""
        queries = torch.tensor([0, *(one.length for one in self.segments)], device=self.device).cumsum(0)
        keys = torch.tensor([0, *(one.prefix_length + one.length for one in self.segments)], device=self.device)
        return Lengths(
            queries.int(),
            keys.cumsum(0).int(),
            max(one.length for one in self.segments),
            max(one.prefix_length + one.length for one in self.segments),
            torch.cat([_keys(one) for one in self.segments]).to(self.device),
        )


class Lengths(NamedTuple):
    """Cumulative lengths of queries and keys, the longest of each, and which tokens the keys are."""

    queries: Tensor
    keys: Tensor
    longest_query: int
    longest_key: int
    key_index: Tensor


@dataclass(frozen=True)
class Bucket:
    """Segments that are attended to in one call, padded at the end.

    Attributes:
        queries: Token of each query, shape (S, L).
        keys: Token of each key, shape (S, prefix + L).
        real: Which queries are no padding, flat.
        tokens: The tokens of those.
        mask: Which keys a query sees, shape (L, prefix + L); None where it is the plain causal mask.
    """

    queries: Tensor
    keys: Tensor
    real: Tensor | None
    tokens: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, segments: Sequence[Segment], device: torch.device) -> "Bucket":
        """The segments, of which the first is the longest."""
        longest, prefix = segments[0].length, segments[0].prefix_length
        steps = torch.arange(longest)
        lengths = torch.tensor([one.length for one in segments])
        queries = torch.tensor([one.start for one in segments])[:, None] + steps.minimum(lengths[:, None] - 1)
        before = torch.tensor([one.prefix_start for one in segments])[:, None] + torch.arange(prefix)
        real = (steps < lengths[:, None]).flatten()
        mask = torch.ones(longest, prefix + longest, dtype=torch.bool).tril(prefix) if prefix else None
        return cls(
            queries.to(device),
            torch.cat([before, queries], 1).to(device),
            None if bool(real.all()) else real.nonzero().flatten().to(device),
            queries.flatten()[real].to(device),
            None if mask is None else mask.to(device),
        )

    def attend(self, query_THD: Tensor, key_ThD: Tensor, value_ThD: Tensor, scaling: float | None) -> Tensor:
        """The outputs of the segments' queries that are no padding, one after another."""

        def taken(tensor: Tensor, index: Tensor) -> Tensor:
            return tensor.index_select(0, index.flatten()).unflatten(0, index.shape).transpose(1, 2)

        repeats = query_THD.shape[1] // key_ThD.shape[1]
        key, value = (taken(tensor, self.keys).repeat_interleave(repeats, 1) for tensor in (key_ThD, value_ThD))
        output = scaled_dot_product_attention(
            taken(query_THD, self.queries), key, value, self.mask, is_causal=self.mask is None, scale=scaling
        )
        flat = output.transpose(1, 2).flatten(0, 1)
        return flat if self.real is None else flat.index_select(0, self.real)


def _keys(segment: Segment) -> Tensor:
    prefix = torch.arange(segment.prefix_start, segment.prefix_start + segment.prefix_length)
    return torch.cat([prefix, torch.arange(segment.start, segment.start + segment.length)])


def segment_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Segments,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of tokens that are laid one after another, as Transformers calls it.

    Args:
        module: The attention layer.
        query: Shape (1, H, T, D).
        key: Shape (1, h, T, D), where h divides H.
        value: As `key`.
        attention_mask: None.
        segments: What attends to what.
        scaling: Of the scores.
        dropout: Of the scores; 0.

    Returns:
        Shape (1, T, H, D), and no weights.
    """
    if dropout:
        raise ValueError("attention by segments has no dropout")
    query_THD, key_ThD, value_ThD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if varlen_attn is not None and query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        lengths = segments.lengths
        if segments.has_prefixes:
            key_ThD, value_ThD = (tensor.index_select(0, lengths.key_index) for tensor in (key_ThD, value_ThD))
        output = varlen_attn(
            query_THD, key_ThD, value_ThD, lengths.queries, lengths.keys, lengths.longest_query, lengths.longest_key,
            scale=scaling, window_size=(-1, 0), enable_gqa=True,
        )  # fmt: skip
        assert isinstance(output, Tensor)
        return output[None], None
    outputs = [bucket.attend(query_THD, key_ThD, value_ThD, scaling) for bucket in segments.buckets]
    return torch.cat(outputs).index_select(0, segments.order_T)[None], None


AttentionInterface.register(ATTENTION, segment_attention)

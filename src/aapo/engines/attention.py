"""Attention over tokens that are laid out otherwise than one row a sequence, for Transformers' models.

A layout says which tokens attend to which. `Segments` are sequences one after another in one row, each attending to
itself and to a prefix that others may have, too. A model is given a layout with its tokens, as the argument `layout`,
within `attending_by_layout`.

Shapes: S segments, T tokens laid out; H attention heads, h of keys and values, D head size; L longest segment.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from aapo.engines.varlen import Lengths, varlen_for

ATTENTION = "aapo_layout"
# Models whose layers are plain causal attention over all earlier tokens, with rotary positions.
PLAIN_MODELS = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
# How many use a model by layouts, and how it attends otherwise.
_USERS: dict[int, tuple[int, str | None]] = {}
_LOCK = Lock()
# Segments are attended to together when the shortest has this share of the longest one's tokens.
ALIKE = 0.8


class AttentionLayout(Protocol):
    """Which tokens attend to which."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """The outputs of a layer's attention, shape (B, T, H, D).

        Args:
            layer: Which one, from 0.
            query: Shape (B, H, T, D).
            key: Shape (B, h, T, D), where h divides H.
            value: As `key`.
            scaling: Of the scores.
        """
        ...


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


@contextmanager
def attending_by_layout(causal_model: Any) -> Iterator[None]:
    """The model attends by the layouts that it is given, in forward and backward passes; also in several threads."""
    config = causal_model.config.get_text_config()
    with _LOCK:
        users, before = _USERS.get(id(config), (0, config._attn_implementation))
        _USERS[id(config)] = users + 1, before
        config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        with _LOCK:
            users, before = _USERS.pop(id(config))
            if users > 1:
                _USERS[id(config)] = users - 1, before
            else:
                config._attn_implementation = before


def layout_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: AttentionLayout,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as Transformers calls it: outputs, and no weights."""
    dtype = _format(query)
    return layout.attend(module.layer_idx, query.to(dtype), key.to(dtype), value.to(dtype), scaling), None


def _format(query: Tensor) -> torch.dtype:
    """The format that attention is computed in: under autocast, rotated queries and keys are wider than values."""
    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype


AttentionInterface.register(ATTENTION, layout_attention)


class Segment(NamedTuple):
    """Tokens from `start`, that attend to those of the prefix, if there is one, and to themselves."""

    start: int
    length: int
    prefix_start: int = 0
    prefix_length: int = 0


class Segments:
    """Which of the tokens laid out attend to which, as the kernels of a device need it."""

    def __init__(self, segments: Sequence[Segment], device: torch.device | str = "cpu") -> None:
        """Take the segments, which follow one another without a gap."""
        self.segments = list(segments)
        self.device = torch.device(device)

    def to(self, device: torch.device) -> "Segments":
        """The same on another device."""
        return self if device == self.device else Segments(self.segments, device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """As `AttentionLayout`, with B = 1."""
        query_THD, key_ThD, value_ThD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        varlen = varlen_for(query)
        if varlen is None:
            outputs = [bucket.attend(query_THD, key_ThD, value_ThD, scaling) for bucket in self.buckets]
            return torch.cat(outputs).index_select(0, self.order_T)[None]
        if self.has_prefixes:
            key_ThD, value_ThD = (tensor.index_select(0, self.lengths.key_index) for tensor in (key_ThD, value_ThD))
        return varlen(query_THD, key_ThD, value_ThD, self.lengths, scaling)[None]

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

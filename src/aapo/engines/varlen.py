"""PyTorch's attention over sequences of varying length, whose arguments differ from release to release.

Shapes: T tokens laid out; H attention heads, h of keys and values, D head size.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None

# The kernels are flash-attention's: for these formats, from Ampere on.
FORMATS, CAPABILITY = (torch.float16, torch.bfloat16), (8, 0)


class Lengths(NamedTuple):
    """Cumulative lengths of queries and keys, the longest of each, and which tokens the keys are."""

    queries: Tensor
    keys: Tensor
    longest_query: int
    longest_key: int
    key_index: Tensor


Attend = Callable[[Tensor, Tensor, Tensor, Lengths, float | None], Tensor]


def causal_varlen(function: Callable[..., Any]) -> Attend:
    """Causal attention within sequences, by `varlen_attn` as any release of PyTorch has it.

    Heads are repeated and queries scaled here where it does not know how. The last query of a sequence sees all of its
    keys, however many more than queries they are.
    """
    known = inspect.signature(function).parameters
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "enable_gqa" in known:
        options["enable_gqa"] = True

    def attend(query_THD: Tensor, key: Tensor, value: Tensor, lengths: Lengths, scaling: float | None) -> Tensor:
        own = query_THD.shape[-1] ** -0.5
        scaling = own if scaling is None else scaling
        if "enable_gqa" not in known:
            repeats = query_THD.shape[1] // key.shape[1]
            key, value = (tensor.repeat_interleave(repeats, 1) for tensor in (key, value))
        scale = {"scale": scaling} if "scale" in known else {}
        query = query_THD if scale or scaling == own else query_THD * (scaling / own)
        return function(
            query, key, value, lengths.queries, lengths.keys, lengths.longest_query, lengths.longest_key,
            **options, **scale,
        )  # fmt: skip

    return attend


VARLEN = None if varlen_attn is None else causal_varlen(varlen_attn)


def varlen_for(query: Tensor) -> Attend | None:
    """The attention for such queries; None where their device or format has none."""
    usable = query.is_cuda and query.dtype in FORMATS and _capability(query.device) >= CAPABILITY
    return VARLEN if usable else None


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)

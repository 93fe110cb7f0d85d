"""Randomness that belongs to a sample, not to the moment it is drawn.

A token is chosen by Gumbel-max, `argmax(logits / temperature + noise)`, which draws exactly from the softmax. The noise
is a hash of (sample seed, position, token id), so that a sample is the same whatever batch it is in, however many
processes there are and wherever the run was interrupted.

Shapes: B sequences, V vocabulary.
"""

from functools import lru_cache

import torch
from torch import Tensor
from transformers import LogitsProcessor

_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2**32)


def _mix(x: Tensor) -> Tensor:
    """A bijective hash of 32-bit integers, in place, after the `lowbias32` constants of the hash prospector.

    They are held in int32, whose products wrap; its right shifts bring in the sign, which is masked.
    """
    x ^= (x >> 16) & 0xFFFF
    x *= _MULTIPLIERS[0]
    x ^= (x >> 15) & 0x1FFFF
    x *= _MULTIPLIERS[1]
    x ^= (x >> 16) & 0xFFFF
    return x


@lru_cache(maxsize=4)
def _tokens(vocabulary: int, device: torch.device) -> Tensor:
    """The hash of each token id."""
    return _mix(torch.arange(1, vocabulary + 1, dtype=torch.int32, device=device))


def row_hashes(seeds: Tensor, positions: int | Tensor) -> Tensor:
    """The hash of each sample's seed and a position in its completion, int32, of their common shape.

    Args:
        seeds: Sample seeds, int64 in [0, 2**63).
        positions: Indices of tokens within the completions, from 0; one for all, or what broadcasts with the seeds.
    """
    high, low = (seeds >> 32).int(), seeds.int()
    places = torch.as_tensor(positions, device=seeds.device).int() + 1
    return _mix(low ^ _mix(high ^ _mix(places)))


def gumbel(rows_B: Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise of shape (B, V), float32, by `row_hashes` of shape (B,)."""
    row_B1 = rows_B.unsqueeze(1)
    bits_BV = _mix(_mix(row_B1 ^ _tokens(vocabulary, rows_B.device)) ^ row_B1)
    uniform_BV = (bits_BV.long() & 0xFFFFFFFF).float().add_(0.5).mul_(2.0**-32)
    return uniform_BV.neg_().log1p_().neg_().log_().neg_()


def keyed_gumbel(seeds_B: Tensor, position: int | Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise of shape (B, V), float32, a function of its arguments alone.

    Args:
        seeds_B: Sample seeds, int64 in [0, 2**63).
        position: Index of the token within the completion, from 0; or of each sequence, shape (B,).
        vocabulary: V.
    """
    return gumbel(row_hashes(seeds_B, position), vocabulary)


class KeyedGumbel(LogitsProcessor):
    """Adds keyed Gumbel noise to logits, so that a greedy step becomes a draw from the softmax."""

    def __init__(self, seeds_B: Tensor, prompt_tokens: int) -> None:
        """Remember the seeds of the batch's rows and the (padded) number of prompt tokens."""
        self.seeds_B = seeds_B
        self.prompt_tokens = prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores of shape (B, V) plus noise for the position that `input_ids` has reached."""
        position = input_ids.shape[1] - self.prompt_tokens
        return scores.float() + keyed_gumbel(self.seeds_B, position, scores.shape[1])

"""Randomness that belongs to a sample, not to the moment it is drawn.

A token is chosen by Gumbel-max, `argmax(logits / temperature + noise)`, which draws exactly from the softmax. The noise
is a hash of (sample seed, position, token id), so that a sample is the same whatever batch it is in, however many
processes there are and wherever the run was interrupted.

Shapes: B sequences, V vocabulary.
"""

import torch
from torch import Tensor
from transformers import LogitsProcessor

_MASK = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """A bijective hash of 32-bit integers held in int64, after the `lowbias32` constants of the hash prospector."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def keyed_gumbel(seeds_B: Tensor, position: int | Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise of shape (B, V), float32, a function of its arguments alone.

    Args:
        seeds_B: Sample seeds, int64 in [0, 2**63).
        position: Index of the token within the completion, from 0; or of each sequence, shape (B,).
        vocabulary: V.
    """
    row_B = _mix((seeds_B & _MASK) ^ _mix((seeds_B >> 32) ^ _mix(torch.zeros_like(seeds_B) + position + 1)))
    token_V = _mix(torch.arange(1, vocabulary + 1, device=seeds_B.device))
    bits_BV = _mix(_mix(row_B.unsqueeze(1) ^ token_V) ^ row_B.unsqueeze(1))
    uniform_BV = (bits_BV.float() + 0.5) * 2.0**-32
    return -(-torch.log1p(-uniform_BV)).log()


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

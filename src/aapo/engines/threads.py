"""How many of the processor's threads a draw is worth."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Parameters times sequences; up to here a step's operations are so short that waking other threads takes longer.
LITTLE = 400_000_000


@contextmanager
def fitting_threads(model: Any, num_sequences: int) -> Iterator[None]:
    """A block with one thread where a model on the CPU draws little at once; else nothing changes."""
    count = torch.get_num_threads()
    if count == 1 or model.device.type != "cpu":
        yield
        return
    if sum(parameter.numel() for parameter in model.parameters()) * num_sequences <= LITTLE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)

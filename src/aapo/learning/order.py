"""Which prompts come next: a function of (seed, epoch), known ahead, so that a resumed run draws what others draw."""

from collections.abc import Iterator
from math import ceil

import torch

from aapo.errors import InputError
from aapo.sampling import sample_seed


def check_number(num_prompts: int, per_batch: int) -> None:
    """Check that the prompts fill one generation batch, since an incomplete one is never trained on.

    Raises:
        InputError: They do not.
    """
    if num_prompts < per_batch:
        raise InputError(
            f"there are {num_prompts} training prompts and one batch takes {per_batch} (generation_batch_size / "
            "num_generations); add prompts or lower the batch"
        )


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of the permutation of an epoch's prompts."""
    return sample_seed(seed, "order", epoch)


def epoch_order(seed: int, epoch: int, num_prompts: int, *, shuffle: bool = True) -> list[int]:
    """Places of the prompts in the order in which an epoch, counted from 0, comes to them."""
    if not shuffle:
        return list(range(num_prompts))
    generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
    return torch.randperm(num_prompts, generator=generator).tolist()


def course(seed: int, num_prompts: int, per_batch: int, num_batches: int, *, shuffle: bool = True) -> Iterator[int]:
    """Places of the prompts of so many generation batches, in their order; the arguments are those of `visited`."""
    an_epoch = num_prompts // per_batch
    for epoch in range(ceil(num_batches / an_epoch)):
        batches = min(an_epoch, num_batches - epoch * an_epoch)
        yield from epoch_order(seed, epoch, num_prompts, shuffle=shuffle)[: batches * per_batch]


def visited(seed: int, num_prompts: int, per_batch: int, num_batches: int, *, shuffle: bool = True) -> list[int]:
    """Places of the prompts that so many generation batches come to, each once, in the order of their first visit.

    Args:
        seed: Of the order.
        num_prompts: All there are.
        per_batch: Prompts of a batch; what is left of an epoch and fills none is not visited.
        num_batches: Of the whole training.
        shuffle: Whether the order is another in each epoch, and not that of the data.
    """
    found: dict[int, None] = {}
    for place in course(seed, num_prompts, per_batch, num_batches, shuffle=shuffle):
        found[place] = None
        if len(found) == num_prompts:
            break
    return list(found)

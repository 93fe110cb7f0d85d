"""The processes of a launch by `torchrun` or `accelerate launch`: which one this is, what they tell each other."""

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from aapo.watching import unwatch, watch

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process among all.

    Attributes:
        index: Which one it is, from 0.
        count: How many there are.
        wait: Returns once all processes have called it.
        gather: The items of all processes, in their order; all call it.
    """

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
    gather: Callable[[list[Any]], list[Any]] = lambda items: items

    @property
    def is_main(self) -> bool:
        """Whether it is the one that prints and writes what is there once."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of `items`, all parts of nearly the same size."""
        return items[self.index :: self.count]


ALONE = Ranks()


def num_launched() -> int:
    """How many processes were launched."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def finish() -> None:
    """End a process that is done with success, where several were launched; alone it does nothing.

    All processes take leave of each other first. Then what is registered for the end of the program is run, and nothing
    more: while the C++ libraries are taken down, threads that still run (Arrow's, gloo's) abort one process in some
    thirty, which the launcher takes for a failure.
    """
    if num_launched() == 1:
        return
    unwatch()
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def launched(*, cpu: bool = False) -> Ranks:
    """This process of the launch; with `cpu` what is shared is no work for an accelerator."""
    if num_launched() == 1:
        return ALONE
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object

    # Without an accelerator and without being told, each process would take itself for the only one.
    state = PartialState(cpu=True) if cpu or not torch.accelerator.is_available() else PartialState()
    watch(state.process_index, gather_object)
    return Ranks(state.process_index, state.num_processes, state.wait_for_everyone, gather_object)

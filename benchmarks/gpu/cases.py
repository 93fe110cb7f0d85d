"""Cases one after another: what fails or has no time left says so, and the others go on."""

import gc
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from .device import GIB

# A case is begun where the time left is this many times what its part's longest has taken.
MARGIN = 1.2


class Case(NamedTuple):
    """What is measured under a name."""

    name: str
    measure: Callable[[], dict[str, Any]]


def measured(cases: Iterable[Case], until: float, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The result of each case by name, an `error`, or why it was `skipped`.

    Args:
        cases: In the order of their worth.
        until: When there must be an end, in seconds since the epoch.
        keep: Called with the results so far after each case.
    """
    results: dict[str, Any] = {}
    longest = 0.0
    for case in cases:
        began = time.time()
        left = until - began
        if left < MARGIN * longest or left <= 0:
            results[case.name] = {"skipped": f"{left:.0f} s left, and the longest case so far took {longest:.0f} s"}
            continue
        results[case.name] = {**_result(case), "seconds": time.time() - began}
        longest = max(longest, time.time() - began)
        keep(results)
    return results


def _result(case: Case) -> dict[str, Any]:
    try:
        return case.measure()
    except Exception as error:  # the others go on
        lines = traceback.format_exc().splitlines()
        return {"error": f"{type(error).__name__}: {error}"[:2000], "traceback": lines[-12:]}
    finally:
        release()


def release() -> None:
    """Give back what the last case held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def peak_memory(device: str, results: dict[str, Any]) -> Iterator[None]:
    """Writes the peak of allocated memory into the results, as `peak_gib`; None on a CPU."""
    results["peak_gib"] = None
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    yield
    if device != "cpu":
        results["peak_gib"] = torch.cuda.max_memory_allocated() / GIB

"""How the rows of an optimizer step are cut into micro-batches, whatever framework runs them.

A row is a prompt and its completion. The loss of a step is a sum over its tokens, so any cut has the same gradient; a
good one fills a token budget and gives every process the same work in the same number of passes. The balancing is the
longest-processing-time rule (Graham 1969): rows in falling order, each to the micro-batch with the least work so far.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import ceil
from typing import NamedTuple

# Attention over one token is this part of what a layer's projections of a token cost, times 1 / hidden size: 4 h
# operations of 24 h^2, and a token attends to half of a row on average, T^2 / 2 of T tokens.
ATTENTION_PART = 1 / 24


class RowSize(NamedTuple):
    """A row by its tokens; rows of one `prompt` may share its tokens in a micro-batch."""

    prompt_tokens: int
    completion_tokens: int
    prompt: Hashable = None

    @property
    def tokens(self) -> int:
        """Of the whole row."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Cut:
    """A step's micro-batches.

    Attributes:
        passes: One entry a pass, in the order in which they run, and in it one micro-batch a process: places of rows.
            No micro-batch is empty: where rows run out, one that is there already stands in it again.
        repeated: For each micro-batch, whether its rows are only there to fill it and count nothing.
    """

    passes: list[list[list[int]]]
    repeated: list[list[bool]]

    def of_process(self, index: int) -> list[tuple[list[int], bool]]:
        """The micro-batches of one process, and whether they count nothing."""
        return [(rows[index], flags[index]) for rows, flags in zip(self.passes, self.repeated, strict=True)]


def cut(
    rows: Sequence[RowSize], budget: int, num_processes: int = 1, *, share: bool = False, hidden_size: int = 1024
) -> Cut:
    """Micro-batches of at most `budget` tokens each; a row that has more is alone in one.

    Args:
        rows: Of the whole step, over all processes; at least one.
        budget: Tokens of a micro-batch, with a shared prompt counted once.
        num_processes: That run them side by side, each as many as the others.
        share: Whether rows of one prompt stay together, so that its tokens are computed once.
        hidden_size: Of the model, which says what attention costs beside the rest.
    """
    pieces = _pieces(rows, budget, share, hidden_size)
    total = sum(min(piece.tokens, budget) for piece in pieces)
    num_passes = max(1, ceil(total / (budget * num_processes)))
    while True:
        bins = _balanced(pieces, num_passes * num_processes)
        if all(one.tokens <= budget or len(one.pieces) <= 1 for one in bins):
            break
        num_passes += 1
    bins.sort(key=lambda one: -one.work)
    shortest = min(range(len(rows)), key=lambda place: rows[place].tokens)
    filled = [[place for piece in one.pieces for place in piece.places] for one in bins]
    starts = range(0, len(bins), num_processes)
    return Cut(
        [[places or [shortest] for places in filled[i : i + num_processes]] for i in starts],
        [[not places for places in filled[i : i + num_processes]] for i in starts],
    )


@dataclass
class _Piece:
    """Rows that stay together, the tokens that they have together, and the work that these make."""

    places: list[int]
    tokens: int
    work: float

    def add(self, place: int, row: RowSize, unit: float) -> None:
        """A row more, whose prompt is there already; `unit` is the work of attending to one token."""
        prompt, completion = row.prompt_tokens, row.completion_tokens
        self.places.append(place)
        self.tokens += completion
        self.work += completion + unit * completion * (2 * prompt + completion)


@dataclass
class _Bin:
    pieces: list[_Piece]
    tokens: int = 0
    work: float = 0.0


def _pieces(rows: Sequence[RowSize], budget: int, share: bool, hidden_size: int) -> list[_Piece]:
    """Single rows, or as many rows of a prompt as fit the budget with it."""
    unit = ATTENTION_PART / hidden_size
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[row.prompt if share else place].append(place)
    pieces = []
    for places in groups.values():
        prompt = rows[places[0]].prompt_tokens
        alone = _Piece([], prompt, prompt + unit * prompt**2)
        pieces.append(replace(alone, places=[]))
        for place in sorted(places, key=lambda place: -rows[place].completion_tokens):
            if pieces[-1].places and pieces[-1].tokens + rows[place].completion_tokens > budget:
                pieces.append(replace(alone, places=[]))
            pieces[-1].add(place, rows[place], unit)
    return pieces


def _balanced(pieces: Sequence[_Piece], num_bins: int) -> list[_Bin]:
    """The pieces in so many bins of about equal work."""
    bins = [_Bin([]) for _ in range(num_bins)]
    heap = [(0.0, i) for i in range(num_bins)]
    for piece in sorted(pieces, key=lambda piece: -piece.work):
        _, i = heappop(heap)
        bins[i].pieces.append(piece)
        bins[i].tokens += piece.tokens
        bins[i].work += piece.work
        heappush(heap, (bins[i].work, i))
    return bins

"""Which stored samples are a prompt's first K, and reading them, wherever they lie.

Shapes: K samples per prompt.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aapo.bank import storage
from aapo.bank.storage import Piece, ScoredPiece
from aapo.records import Scores

# Files of which the rows are kept while a store is read.
NUM_OPEN = 8


class Part(NamedTuple):
    """Some of a prompt's first K samples with their scores: a slice of a piece."""

    piece: Piece
    scored: ScoredPiece
    start: int
    stop: int


class Reader:
    """Rows of the files of a store, those of the files that were asked for last kept."""

    def __init__(self, columns: Collection[str]) -> None:
        self._columns = columns
        self._kept: OrderedDict[Path, list[dict[str, Any]]] = OrderedDict()

    def __call__(self, file: Path) -> list[dict[str, Any]]:
        """All rows of the file."""
        if file not in self._kept:
            self._kept[file] = storage.read_table(file, self._columns).to_pylist()
            if len(self._kept) > NUM_OPEN:
                self._kept.popitem(last=False)
        self._kept.move_to_end(file)
        return self._kept[file]


def parts_of(pieces: Sequence[Piece], scored: Mapping[tuple[str, int], ScoredPiece], wanted: int) -> list[Part]:
    """The parts of a prompt's pieces, sorted by what they are, that are its first samples."""
    parts, reached = [], 0
    for piece in pieces:
        if piece.first <= reached < min(piece.stop, wanted):
            start, stop = reached - piece.first, min(piece.stop, wanted) - piece.first
            parts.append(Part(piece, scored[piece.key, piece.first], start, stop))
            reached = piece.first + stop
    return parts


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of parts one after another."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    rewards = {name: [value for part in parts for value in part.rewards[name]] for name in first.rewards}
    notes = {name: [value for part in parts for value in part.notes[name]] for name in first.notes}
    return Scores(rewards, notes)

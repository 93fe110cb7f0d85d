"""The files of a bank: samples, and beside them any number of sets of scores.

    BANK/manifest.json                        format, and the identity of the samples
    BANK/samples-HASH.parquet                 one row a prompt: some of its samples and the data set's row
    BANK/scores/DIGEST/manifest.json          a score set: versions and specs of its reward functions, when it was begun
    BANK/scores/DIGEST/scores-HASH.parquet    scores of samples: rewards and notes

Every file is written whole or not at all, and none is ever changed: more samples of a prompt, or scores by other reward
functions, are other files.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aapo.bank.identity import SampleIdentity, differences, digest, reward_versions
from aapo.bank.rows import read_row, write_row
from aapo.errors import InputError
from aapo.files import write_json, write_parquet
from aapo.grading import RewardFunction, reward_name, reward_spec
from aapo.records import Completion, Notes, Prompt, Scores
from aapo.scoring import beside
from aapo.stored import read_json, read_parquet, reading

FORMAT = 3
MANIFEST = "manifest.json"
MADE_AGAIN = "delete it, and what it held is made again where it is needed"
SAMPLES_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("first", pa.int32()),
        ("prompt", pa.string()),
        ("gold", pa.string()),
        ("row", pa.string()),
        ("completions", pa.list_(pa.string())),
        ("token_ids", pa.list_(pa.list_(pa.int32()))),
        ("num_tokens", pa.list_(pa.int32())),
        ("finish_reasons", pa.list_(pa.string())),
    ]
)
# What a reader sees of a prompt's samples, wherever they lie.
STORED = tuple(name for name in SAMPLES_SCHEMA.names if name != "first")
# Those with one value a prompt, not one a sample.
OF_PROMPT = ("key", "prompt", "gold", "row")


class Piece(NamedTuple):
    """Some of a prompt's samples as they lie in a file.

    Attributes:
        key: Of the prompt.
        first: Which of its samples is the first of these, from 0.
        num_tokens: Completion tokens of each.
        file: Where they lie.
        place: Which row of the file they are.
        seconds: What a sample of the file took, on average.
    """

    key: str
    first: int
    num_tokens: list[int]
    file: Path
    place: int
    seconds: float

    @property
    def stop(self) -> int:
        """Which of the prompt's samples is the first after these."""
        return self.first + len(self.num_tokens)


class ScoredPiece(NamedTuple):
    """Where the scores of a piece lie, and what they are."""

    file: Path
    place: int
    scores: Scores

    @property
    def size(self) -> int:
        """How many samples have them."""
        return len(next(iter(self.scores.rewards.values())))


@dataclass(frozen=True)
class ScoreSet:
    """One way in which a bank's samples are scored.

    Attributes:
        path: Its folder.
        rewards: Version of each reward function by name.
        specs: By name, the `reward_spec` that makes the function again; None for one that was given in Python.
        created: When it was begun, in UTC.
    """

    path: Path
    rewards: dict[str, str]
    specs: dict[str, dict[str, Any] | None]
    created: str

    def files(self) -> list[Path]:
        """Its files of scores, in a fixed order."""
        return sorted(self.path.glob("scores-*.parquet"))

    def unscored(self, pieces: Iterable[Piece]) -> list[Piece]:
        """Those of the pieces that have no scores in this set, or not of all of their samples."""
        scored = self._scored()
        return [piece for piece in pieces if scored.get((piece.key, piece.first), -1) < len(piece.num_tokens)]

    def _scored(self) -> dict[tuple[str, int], int]:
        """How many samples of a key are scored from a first one on, as the longest piece has it."""
        found: dict[tuple[str, int], int] = {}
        reward = f"reward/{next(iter(self.rewards))}"
        for file in self.files():
            table = read_table(file, ["key", "first", reward])
            sizes = pc.list_value_length(table[reward])  # type: ignore[reportAttributeAccessIssue]  made at its import
            columns = table["key"], table["first"], sizes
            for key, first, size in zip(*(column.to_pylist() for column in columns), strict=True):
                found[key, first] = max(found.get((key, first), 0), size)
        return found


def read_identity(path: Path) -> SampleIdentity:
    """The identity of the samples in the bank at `path`.

    Raises:
        InputError: There is no bank, or it is of another format.
    """
    file = path / MANIFEST
    if not file.exists():
        raise InputError(
            f"{path} is not a reference bank: it has no {MANIFEST}; build one with `aapo bank build RECIPE --output "
            f"{path}`"
        )
    manifest = _read_manifest(file)
    if "identity" not in manifest:
        raise InputError(f"{path} is not a reference bank: its {MANIFEST} is of something else; name a bank's folder")
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"the bank {path} was built by another version of aapo (its format is {manifest.get('format')}, this "
            f"version reads {FORMAT}); build it again with `aapo bank build RECIPE --output ANOTHER_FOLDER`"
        )
    return manifest["identity"]


def _read_manifest(file: Path, *needs: str) -> dict[str, Any]:
    return read_json(file, f"delete the folder {file.parent}, and it is made again where it is needed", needs)


def claim(path: Path, identity: SampleIdentity) -> None:
    """Make `path` a bank of samples of this identity, or check that it is one.

    Raises:
        InputError: It is something else; the message names each difference.
    """
    # Looked at once, and hidden files left out: another process may be making the same store.
    found = {file.name for file in path.iterdir() if not file.name.startswith(".")} if path.exists() else set()
    if not found:
        with _writing(path):
            write_json(path / MANIFEST, {"format": FORMAT, "identity": identity})
    elif MANIFEST not in found and not (path / MANIFEST).exists():
        raise InputError(f"{path} is not empty and not a reference bank; give another --output")
    elif changed := differences(read_identity(path), identity):
        raise InputError(f"{path} holds another bank: {'; '.join(changed)}; give another --output")


def score_sets(path: Path) -> list[ScoreSet]:
    """The bank's score sets, the oldest first."""
    manifests = (path / "scores").glob(f"*/{MANIFEST}")
    sets = [ScoreSet(file.parent, **_read_manifest(file, "rewards", "specs", "created")) for file in manifests]
    return sorted(sets, key=lambda item: (item.created, item.path))


def find_score_set(path: Path, rewards: dict[str, str]) -> ScoreSet | None:
    """The bank's score set of these reward functions' versions, or None."""
    return next((item for item in score_sets(path) if item.rewards == rewards), None)


def begin_score_set(path: Path, reward_funcs: Sequence[RewardFunction]) -> None:
    """Make the score set of these reward functions, if the bank does not have it."""
    rewards = reward_versions(reward_funcs)
    if find_score_set(path, rewards) is None:
        specs = {reward_name(function): reward_spec(function) for function in reward_funcs}
        made = ScoreSet(path / "scores" / digest(rewards), rewards, specs, datetime.now(UTC).isoformat())
        with _writing(path):
            write_json(made.path / MANIFEST, {key: value for key, value in asdict(made).items() if key != "path"})


def sample_files(path: Path) -> list[Path]:
    """The bank's samples files, in a fixed order."""
    return sorted(path.glob("samples-*.parquet"))


def read_pieces(path: Path) -> list[Piece]:
    """All pieces of the bank at `path`, file by file; none where there is no bank."""
    pieces = []
    for file in sample_files(path):
        table = read_table(file, ["key", "first", "num_tokens"])
        seconds = float((table.schema.metadata or {}).get(b"seconds_a_sample", b"nan"))
        columns = (table[name].to_pylist() for name in ("key", "first", "num_tokens"))
        rows = enumerate(zip(*columns, strict=True))
        pieces += [Piece(key, first, tokens, file, place, seconds) for place, (key, first, tokens) in rows]
    return pieces


def by_key(pieces: Iterable[Piece]) -> dict[str, list[Piece]]:
    """The pieces of each prompt, sorted by the samples that they are."""
    found: dict[str, list[Piece]] = {}
    for piece in pieces:
        found.setdefault(piece.key, []).append(piece)
    return {key: sorted(own, key=lambda piece: (piece.first, piece.file)) for key, own in found.items()}


def num_samples(pieces: Sequence[Piece]) -> int:
    """How many samples of a prompt its pieces hold from the first on, without a gap."""
    reached = 0
    for piece in pieces:
        if piece.first <= reached:
            reached = max(reached, piece.stop)
    return reached


def write_samples(
    path: Path, prompts: Sequence[Prompt], first: int, completions_PK: Sequence[Sequence[Completion]], seconds: float
) -> list[Piece]:
    """Store samples of prompts; the pieces that they are.

    Args:
        path: The bank.
        prompts: P prompts.
        first: Which of a prompt's samples is the first of these.
        completions_PK: The samples, in the order of the prompts.
        seconds: What they took.
    """
    rows = [
        {
            "key": prompt.key,
            "first": first,
            "prompt": prompt.rendered,
            "gold": prompt.gold,
            "row": write_row(prompt.row),
            "completions": [completion.text for completion in completions],
            "token_ids": [completion.token_ids for completion in completions],
            "num_tokens": [len(completion.token_ids) for completion in completions],
            "finish_reasons": [completion.finish_reason for completion in completions],
        }
        for prompt, completions in zip(prompts, completions_PK, strict=True)
    ]
    each = seconds / max(sum(map(len, completions_PK)), 1)
    schema = SAMPLES_SCHEMA.with_metadata({b"seconds_a_sample": repr(each).encode()})
    # Named by what it holds: processes and restarts never choose the same name for different samples.
    file = path / f"samples-{_name((row['key'], first, len(row['completions'])) for row in rows)}.parquet"
    with _writing(path):
        write_parquet(file, pa.Table.from_pylist(rows, schema))
    return [Piece(row["key"], first, row["num_tokens"], file, place, each) for place, row in enumerate(rows)]


def read_completions(file: Path, places: Sequence[int]) -> tuple[list[dict[str, Any]], list[list[Completion]]]:
    """The data set's rows and the completions at these places of a samples file, as they were when they were drawn."""
    table = read_table(file, ["row", "completions", "token_ids", "finish_reasons"]).take(list(places))
    rows = table.to_pylist()
    completions_PK = [
        [Completion(*each) for each in zip(row["completions"], row["token_ids"], row["finish_reasons"], strict=True)]
        for row in rows
    ]
    return [read_row(row["row"]) for row in rows], completions_PK


def write_scores(scores: ScoreSet, pieces: Sequence[Piece], scores_P: Sequence[Scores]) -> None:
    """Store the scores of pieces in a score set."""
    of_first = scores_P[0]
    rewards = {name: [scores.rewards[name] for scores in scores_P] for name in of_first.rewards}
    notes = {column: [scores.notes[column] for scores in scores_P] for column in of_first.notes}
    columns: dict[str, Any] = {
        "key": pa.array([piece.key for piece in pieces], pa.string()),
        "first": pa.array([piece.first for piece in pieces], pa.int32()),
    }
    columns |= {f"reward/{name}": pa.array(values, pa.list_(pa.float64())) for name, values in rewards.items()}
    texts = pa.list_(pa.string())
    stored = beside(notes, {*SAMPLES_SCHEMA.names, *columns})
    columns |= {name: pa.array(values, texts) for name, values in stored.items()}
    name = _name((piece.key, piece.first, len(piece.num_tokens)) for piece in pieces)
    with _writing(scores.path):
        write_parquet(scores.path / f"scores-{name}.parquet", pa.table(columns))


def read_scores(scores: ScoreSet, prefix: str) -> dict[tuple[str, int], ScoredPiece]:
    """The rewards of a set's pieces, and of what was logged the columns that begin with `prefix`, by key and first.

    The columns are the same for all. Jobs at once may have drawn and scored a prompt's samples from the same first one
    on: the longest piece's scores are those of the others, too.
    """
    files = scores.files()
    logged = sorted({name for file in files for name in column_names(file) if name.startswith(prefix)})
    rewards = {name: f"reward/{name}" for name in scores.rewards}
    found: dict[tuple[str, int], ScoredPiece] = {}
    for file in files:
        rows = read_table(file, ["key", "first", *rewards.values(), *logged]).to_pylist()
        for place, row in enumerate(rows):
            paid = {name: row[column] for name, column in rewards.items()}
            size, at = len(next(iter(paid.values()))), (row["key"], row["first"])
            if at in found and found[at].size >= size:
                continue
            notes: Notes = {name: row.get(name) or [None] * size for name in logged}
            found[at] = ScoredPiece(file, place, Scores(paid, notes))
    return found


def column_names(file: Path) -> list[str]:
    """Names of a file's columns."""
    with reading(file, MADE_AGAIN):
        return pq.read_schema(file).names


def read_table(file: Path, columns: Collection[str]) -> pa.Table:
    """Those of the columns that the file has.

    Raises:
        InputError: The file is damaged.
    """
    return read_parquet(file, MADE_AGAIN, (), columns)


def _name(parts: Iterable[Any]) -> str:
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()[:16]


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, InputError) as error:
        reason = getattr(error, "strerror", None) or getattr(error.__cause__, "strerror", error)
        raise InputError(
            f"the bank {path} cannot be written to ({reason}), and it lacks what this run needs; copy it to a folder "
            "of your own, leave reference_bank out, or set AAPO_CACHE to a folder that can be written to"
        ) from error

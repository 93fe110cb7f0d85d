"""The files of a bank: samples, and beside them any number of sets of scores.

    BANK/manifest.json                        format, and the identity of the samples
    BANK/samples-HASH.parquet                 one row a prompt: its completions and the data set's row
    BANK/scores/DIGEST/manifest.json          a score set: versions and specs of its reward functions, when it was begun
    BANK/scores/DIGEST/scores-HASH.parquet    the scores of samples-HASH.parquet: rewards and notes

Every file is written whole or not at all, and none is ever changed: other reward functions make another score set.
"""

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from aapo.bank.identity import SampleIdentity, differences, digest, reward_versions
from aapo.bank.rows import read_row, write_row
from aapo.errors import AapoError, InputError
from aapo.files import write_json, write_parquet
from aapo.grading import RewardFunction, reward_name, reward_spec
from aapo.records import Completion, Prompt, Scores
from aapo.scoring import beside

FORMAT = 2
MANIFEST = "manifest.json"
# A temporary file of this age belongs to a build that was killed; a younger one may be being written.
LEFTOVER_SECONDS = 600
SAMPLES_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("prompt", pa.string()),
        ("gold", pa.string()),
        ("row", pa.string()),
        ("completions", pa.list_(pa.string())),
        ("token_ids", pa.list_(pa.list_(pa.int32()))),
        ("num_tokens", pa.list_(pa.int32())),
        ("finish_reasons", pa.list_(pa.string())),
    ]
)
STORED = tuple(SAMPLES_SCHEMA.names)


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

    def file(self, samples: Path) -> Path:
        """Where the scores of a samples file are, or will be."""
        return self.path / samples.name.replace("samples-", "scores-", 1)

    def unscored(self, samples: Sequence[Path]) -> list[Path]:
        """Those of the samples files that have no scores in this set."""
        return [file for file in samples if not self.file(file).exists()]


class Sampled(NamedTuple):
    """The prompts of a samples file: their keys, their data set's rows, and their K completions."""

    keys: list[str]
    rows: list[dict[str, Any]]
    completions: list[list[Completion]]


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
    manifest = json.loads(file.read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"the bank {path} was built by another version of aapo (its format is {manifest.get('format')}, this "
            f"version reads {FORMAT}); build it again with `aapo bank build RECIPE --output ANOTHER_FOLDER`"
        )
    return manifest["identity"]


def claim(path: Path, identity: SampleIdentity) -> None:
    """Make `path` a bank of samples of this identity, or check that it is one.

    Raises:
        InputError: It is something else; the message names each difference.
    """
    # Looked at once, and hidden files left out: another process may be making the same store.
    found = {file.name for file in path.iterdir() if not file.name.startswith(".")} if path.exists() else set()
    if not found:
        write_json(path / MANIFEST, {"format": FORMAT, "identity": identity})
    elif MANIFEST not in found and not (path / MANIFEST).exists():
        raise InputError(f"{path} is not empty and not a reference bank; give another --output")
    elif changed := differences(read_identity(path), identity):
        raise InputError(f"{path} holds another bank: {'; '.join(changed)}; give another --output")


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of builds and rescorings that were killed."""
    for leftover in path.rglob(".*.tmp"):
        with suppress(FileNotFoundError):  # a younger one has been renamed meanwhile
            if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
                leftover.unlink()


def score_sets(path: Path) -> list[ScoreSet]:
    """The bank's score sets, the oldest first."""
    manifests = (path / "scores").glob(f"*/{MANIFEST}")
    sets = [ScoreSet(file.parent, **json.loads(file.read_text(encoding="utf-8"))) for file in manifests]
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
        write_json(made.path / MANIFEST, {key: value for key, value in asdict(made).items() if key != "path"})


def sample_files(path: Path) -> list[Path]:
    """The bank's samples files, in a fixed order."""
    return sorted(path.glob("samples-*.parquet"))


def sample_keys(path: Path) -> set[str]:
    """Keys of the prompts that are sampled, scored or not."""
    return {key for file in sample_files(path) for key in read_table(file, ["key"])["key"].to_pylist()}


def num_prompts(files: Sequence[Path]) -> int:
    """Number of prompts in samples files or scores files."""
    total = 0
    for file in files:
        with _opened(file) as opened:
            total += opened.metadata.num_rows
    return total


def write_samples(path: Path, prompts: Sequence[Prompt], completions_PK: Sequence[Sequence[Completion]]) -> Path:
    """Store prompts with their completions; the file that holds them."""
    rows = [
        {
            "key": prompt.key,
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
    # Named by its prompts: processes and restarts never choose the same name for different prompts.
    name = hashlib.sha256("".join(prompt.key for prompt in prompts).encode()).hexdigest()[:16]
    file = path / f"samples-{name}.parquet"
    write_parquet(file, pa.Table.from_pylist(rows, SAMPLES_SCHEMA))
    return file


def read_samples(file: Path) -> Sampled:
    """What a samples file holds, as it was when it was sampled."""
    rows = read_table(file, ["key", "row", "completions", "token_ids", "finish_reasons"]).to_pylist()
    completions_PK = [
        [Completion(*each) for each in zip(row["completions"], row["token_ids"], row["finish_reasons"], strict=True)]
        for row in rows
    ]
    return Sampled([row["key"] for row in rows], [read_row(row["row"]) for row in rows], completions_PK)


def write_scores(file: Path, keys: Sequence[str], scores_P: Sequence[Scores]) -> None:
    """Store the scores of a samples file's prompts, K a prompt."""
    first = scores_P[0]
    rewards = {name: [scores.rewards[name] for scores in scores_P] for name in first.rewards}
    notes = {column: [scores.notes[column] for scores in scores_P] for column in first.notes}
    columns: dict[str, Any] = {"key": pa.array(keys, pa.string())}
    columns |= {f"reward/{name}": pa.array(values, pa.list_(pa.float64())) for name, values in rewards.items()}
    texts = pa.list_(pa.string())
    stored = beside(notes, {*SAMPLES_SCHEMA.names, *columns})
    columns |= {name: pa.array(values, texts) for name, values in stored.items()}
    write_parquet(file, pa.table(columns))


def column_names(file: Path) -> list[str]:
    """Names of a file's columns."""
    with _opened(file) as opened:
        return opened.schema_arrow.names


def read_table(file: Path, columns: Collection[str]) -> pa.Table:
    """Those of the columns that the file has.

    Raises:
        AapoError: The file is damaged.
    """
    with _opened(file) as opened:
        return opened.read([name for name in opened.schema_arrow.names if name in columns])


@contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(file) as opened:
            yield opened
    except (pa.ArrowInvalid, OSError) as error:
        again = "build" if file.name.startswith("samples-") else "rescore"
        raise AapoError(f"{file} is damaged ({error}); delete it and run `aapo bank {again}` again") from error

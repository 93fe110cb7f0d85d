"""A store of samples: what sampling and scoring made, kept as data; a bank is one, and so is an evaluation.

A store grows: by prompts, by further samples of a prompt, by scores. Samples are stored apart from their scores
(`aapo.bank.storage`), so that the samples, which are dear, are scored by other reward functions without being drawn
again. Sample k of a prompt is the same whoever drew it, when, and beside what.

Shapes: P prompts, K samples per prompt.
"""

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from datasets import Dataset

from aapo.bank import storage
from aapo.bank.identity import BankIdentity, reward_versions, sample_identity
from aapo.bank.parts import Part, Reader, joined, parts_of
from aapo.bank.storage import Piece, ScoredPiece, ScoreSet
from aapo.errors import InputError
from aapo.files import remove_leftovers
from aapo.grading import VERDICT, Judge, RewardFunction, check_isolation
from aapo.ranks import ALONE, Ranks
from aapo.records import Engine, Prompt
from aapo.scoring import as_prompts, check_columns, sample, score_groups

PROMPTS_PER_FILE = 64
# K by default; docs/log.md compares numbers of samples.
NUM_SAMPLES = 4

OnDone = Callable[[int, int], None]
Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Growth:
    """What was done to a store.

    Attributes:
        samples: Completions that were drawn.
        tokens: Their tokens.
        seconds: What drawing them took, summed over the processes.
        scored: Completions that were scored, drawn or found.
    """

    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    scored: int = 0

    def __add__(self, other: "Growth") -> "Growth":
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Growth(*(mine + theirs for mine, theirs in pairs))


class Missing(NamedTuple):
    """What a store lacks of some prompts.

    Attributes:
        prompts: Those that have fewer than K samples, each with the number that it has.
        unscored: Samples that are there, without the scores that are asked for, each piece with its prompt.
    """

    prompts: list[tuple[Prompt, int]]
    unscored: list[tuple[Prompt, Piece]]

    def num_samples(self, wanted: int) -> int:
        """Completions to be drawn so that each prompt has `wanted`."""
        return sum(wanted - there for _, there in self.prompts)

    @property
    def num_unscored(self) -> int:
        """Completions that are there and are to be scored."""
        return sum(len(piece.num_tokens) for _, piece in self.unscored)


class SampleStore:
    """Rewards and verdicts by prompt key: the first K stored samples of each prompt by one of the score sets.

    Only keys, rewards, verdicts and lengths are in memory; `rows` reads the rest from the files. Use `open`, `build` or
    `rescore`.

    Attributes:
        purpose: Separates the streams of samples of different kinds of store.
        path: Its folder.
        identity: What is sampled, and by which reward functions it is scored.
        scores: The score set.
        num_samples: K.
        grown: What the call of `build` that opened it has done, over all processes.
    """

    purpose: ClassVar[str] = "samples"

    def __init__(
        self, path: Path, identity: BankIdentity, scores: ScoreSet, num_samples: int, parts: dict[str, list[Part]]
    ) -> None:
        """Take what `open` has read: of each prompt the parts that are its first K samples."""
        self.path = path
        self.identity = identity
        self.scores = scores
        self.num_samples = num_samples
        self.grown = Growth()
        self._parts = parts
        self._table = {key: joined([part.scored.scores.part(part.start, part.stop) for part in own])
                       for key, own in parts.items()}  # fmt: skip

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, key: str) -> bool:
        return key in self._table

    @classmethod
    def open(cls, path: str | Path, rewards: Mapping[str, str] | None = None, num_samples: int | None = None) -> Self:
        """The store in the folder `path`, with the prompts that have K scored samples.

        Args:
            path: Folder of the store.
            rewards: Versions of the reward functions by name (`reward_versions`), which choose the score set; by
                default the newest complete one, else the newest.
            num_samples: K; by default what every prompt has.

        Raises:
            InputError: There is no store, or it has no such scores.
        """
        path = Path(path)
        identity = storage.read_identity(path)
        pieces = storage.read_pieces(path)
        scores = newest_scores(path, pieces) if rewards is None else storage.find_score_set(path, dict(rewards))
        if scores is None:
            wanted = "any reward function" if rewards is None else ", ".join(rewards.values())
            raise InputError(
                f"the bank {path} has no scores by {wanted}; score its samples with `aapo bank rescore {path} "
                "--reward_funcs ...`"
            )
        versions = dict(scores.rewards if rewards is None else rewards)
        scored = storage.read_scores(scores, VERDICT)
        there = storage.by_key(piece for piece in pieces if _is_scored(piece, scored))
        counts = {key: storage.num_samples(own) for key, own in there.items()}
        wanted = min((count for count in counts.values() if count), default=0) if num_samples is None else num_samples
        parts = {key: parts_of(there[key], scored, wanted) for key, count in counts.items() if 0 < wanted <= count}
        return cls(path, BankIdentity(**identity, rewards=versions), scores, wanted, parts)

    @classmethod
    def build(
        cls,
        path: str | Path,
        prompts: Dataset | Sequence[Prompt],
        engine: Engine,
        reward_funcs: Sequence[RewardFunction],
        identity: BankIdentity,
        *,
        num_samples: int = NUM_SAMPLES,
        template_options: dict[str, Any] | None = None,
        on_batch: OnDone = lambda done, total: None,
        prompts_per_file: int | None = None,
        ranks: Ranks = ALONE,
    ) -> Self:
        """Draw what the store at `path` lacks of K samples of each prompt, score what lacks scores, and open it.

        A prompt that occurs several times is sampled once. Samples that are there are scored without the engine, with
        the columns that `prompts` have. With several processes each does its share; samples do not depend on the share.

        Args:
            path: Folder of the store; made if it is not there, grown if it is.
            prompts: What is to be there: prompts, or rows with columns `prompt` and `answer`, and what the reward
                functions read.
            engine: The model with the sampling settings of the identity.
            reward_funcs: Score.
            identity: What is sampled; `bank_identity` makes it.
            num_samples: K.
            template_options: Passed to the chat template, for rows.
            on_batch: Called with the number of completions done, 0 at first, and the number to do, if there are any.
            prompts_per_file: Prompts sampled and stored at once, all that an interruption can cost; 64 by default.
            ranks: This process and the others.

        Raises:
            InputError: The folder holds samples of another identity, and the message names each difference; or it
                cannot be written to; or this machine cannot isolate what a reward function does with a completion.
        """
        path = Path(path)
        if isinstance(prompts, Dataset):
            prompts = as_prompts(prompts, engine.tokenizer, **(template_options or {}))
        check_isolation(reward_funcs, sorted({prompt.row["task"] for prompt in prompts if "task" in prompt.row}))
        storage.claim(path, sample_identity(identity))
        remove_leftovers(path)
        storage.begin_score_set(path, reward_funcs)
        ranks.wait()
        scores = _begun(path, reward_funcs)
        # The share does not depend on what is there, so that processes need not start together.
        mine = ranks.share(list({prompt.key: prompt for prompt in prompts}.values()))
        lacks = missing(path, mine, identity["rewards"], num_samples)
        ranks.wait()  # so that no process counts what another has written meanwhile
        count = _Count(lacks.num_samples(num_samples) + lacks.num_unscored, on_batch)
        grown = Growth()
        for part in _by(lacks.unscored, lambda found: found[1].file).values():
            grown += _score(scores, part, reward_funcs, count)
        for there, lacking in _by(lacks.prompts, lambda found: found[1]).items():
            for chunk in _chunks([prompt for prompt, _ in lacking], prompts_per_file or PROMPTS_PER_FILE):
                began = time.monotonic()
                completions_PK = sample(
                    chunk,
                    engine,
                    num_samples=num_samples - there,
                    first=there,
                    seed=identity["seed"],
                    purpose=cls.purpose,
                    on_batch=count,
                )
                seconds = time.monotonic() - began
                pieces = storage.write_samples(path, chunk, there, completions_PK, seconds)
                scored_P = score_groups(reward_funcs, [prompt.row for prompt in chunk], completions_PK)
                storage.write_scores(scores, pieces, scored_P)
                drawn = sum(map(len, completions_PK))
                grown += Growth(drawn, sum(sum(piece.num_tokens) for piece in pieces), seconds, drawn)
        ranks.wait()
        store = cls.open(path, identity["rewards"], num_samples)
        store.grown = sum(ranks.gather([grown]), Growth())
        return store

    @classmethod
    def rescore(
        cls,
        path: str | Path,
        reward_funcs: Sequence[RewardFunction],
        *,
        on_done: OnDone = lambda done, total: None,
        ranks: Ranks = ALONE,
    ) -> Self:
        """Score all samples of the store at `path` by these reward functions, without sampling, and open it.

        The scores are a set beside those that are there. What an earlier call has scored so is kept.

        Args:
            path: Folder of the store.
            reward_funcs: Score; they are called with the columns of the data set as they were when the samples were
                drawn.
            on_done: Called with the number of completions done, 0 at first, and the number to do, if there are any.
            ranks: This process and the others.

        Raises:
            InputError: There is no store, or a reward function reads a column that samples were drawn without.
        """
        path = Path(path)
        storage.read_identity(path)
        pieces = storage.read_pieces(path)
        for file in storage.sample_files(path)[:1]:
            row = storage.read_completions(file, [0])[0][0]
            check_columns(reward_funcs, row)
            check_isolation(reward_funcs, [row["task"]] if "task" in row else [])
        remove_leftovers(path)
        storage.begin_score_set(path, reward_funcs)
        ranks.wait()
        scores = _begun(path, reward_funcs)
        mine = ranks.share(list(_by(scores.unscored(pieces), lambda piece: piece.file).values()))
        ranks.wait()
        count = _Count(sum(len(piece.num_tokens) for own in mine for piece in own), on_done)
        for own in mine:
            rows, completions_PK = storage.read_completions(own[0].file, [piece.place for piece in own])
            for row in rows:
                check_columns(reward_funcs, row)
            storage.write_scores(scores, own, score_groups(reward_funcs, rows, completions_PK))
            count(sum(map(len, completions_PK)))
        ranks.wait()
        return cls.open(path, reward_versions(reward_funcs))

    def rewards(self, key: str) -> dict[str, list[float | None]]:
        """Of a prompt, by reward function its rewards of the K samples; None where it could not score."""
        return self._table[key].rewards

    def correct(self, key: str, judge: Judge) -> list[float | None]:
        """For each of the K samples of a prompt 1 if it is right, 0 if it is not, None where nothing says."""
        scores = self._table[key]
        return judge.correct(scores.rewards, scores.notes)

    def tokens(self, key: str) -> int:
        """Completion tokens of a prompt's K samples."""
        return sum(sum(part.piece.num_tokens[part.start : part.stop]) for part in self._parts[key])

    def seconds(self, key: str) -> float:
        """What drawing a prompt's K samples took, by the mean of those that were drawn beside them."""
        return sum((part.stop - part.start) * part.piece.seconds for part in self._parts[key])

    @property
    def complete(self) -> bool:
        """Whether every sample has its scores."""
        return not self.scores.unscored(storage.read_pieces(self.path))

    def columns(self) -> list[str]:
        """Names of what `rows` gives: those of the samples, `reward/NAME`, and what the reward functions logged."""
        found = [name for file in self.scores.files() for name in storage.column_names(file) if name != "first"]
        return list(dict.fromkeys([*storage.STORED, *found]))

    def rows(self, columns: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """Every prompt with its K samples, read from the files.

        Args:
            columns: Those of `columns()` that are read beside `key`; by default all. `row`, the data set's row, is JSON
                text. A prompt without a column, because a function did not always log it, has None there.
        """
        wanted = self.columns() if columns is None else list(columns)
        read = Reader(["key", *wanted])
        for key, parts in self._parts.items():
            pieces = [
                ({**read(part.piece.file)[part.piece.place], **read(part.scored.file)[part.scored.place]}, part)
                for part in parts
            ]
            row: dict[str, Any] = {"key": key}
            for name in wanted:
                if name in storage.OF_PROMPT:
                    row[name] = pieces[0][0].get(name)
                    continue
                values = [(of.get(name), part) for of, part in pieces]
                logged = any(value is not None for value, _ in values)
                row[name] = [
                    item
                    for value, part in values
                    for item in (value or [None] * part.stop)[part.start : part.stop]
                ] if logged else None  # fmt: skip
            yield row


def missing(path: Path, prompts: Sequence[Prompt], rewards: Mapping[str, str], num_samples: int) -> Missing:
    """What the store at `path`, which need not exist, lacks of K samples of these prompts and of their scores.

    Args:
        path: The store.
        prompts: What is to be there; one that occurs several times counts once.
        rewards: Versions of the reward functions by name.
        num_samples: K.
    """
    distinct = {prompt.key: prompt for prompt in prompts}
    there = storage.by_key(piece for piece in storage.read_pieces(path) if piece.key in distinct)
    needed = [piece for pieces in there.values() for piece in pieces if piece.first < num_samples]
    scores = storage.find_score_set(path, dict(rewards))
    counts = {key: storage.num_samples(there.get(key, [])) for key in distinct}
    return Missing(
        [(distinct[key], count) for key, count in counts.items() if count < num_samples],
        [(distinct[piece.key], piece) for piece in (needed if scores is None else scores.unscored(needed))],
    )


def newest_scores(path: Path, pieces: Sequence[Piece] | None = None, but: ScoreSet | None = None) -> ScoreSet | None:
    """The bank's newest complete score set but one, else the newest; None where there is no other."""
    pieces = storage.read_pieces(path) if pieces is None else pieces
    sets = [item for item in storage.score_sets(path) if but is None or item.path != but.path]
    whole = [item for item in sets if not item.unscored(pieces)]
    return (whole or sets or [None])[-1]


def _is_scored(piece: Piece, scored: Mapping[tuple[str, int], ScoredPiece]) -> bool:
    """Whether all samples of a piece have scores."""
    found = scored.get((piece.key, piece.first))
    return found is not None and found.size >= len(piece.num_tokens)


def _by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items that share a key, by it, in their order."""
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


class _Count:
    """Adds up what is done, and tells it with the total."""

    def __init__(self, total: int, tell: OnDone) -> None:
        self.done = 0
        self.total = total
        self.tell = tell
        if total:
            tell(0, total)

    def __call__(self, finished: int) -> None:
        self.done += finished
        self.tell(self.done, self.total)


def _begun(path: Path, reward_funcs: Sequence[RewardFunction]) -> ScoreSet:
    """The score set of these reward functions, which is there."""
    scores = storage.find_score_set(path, reward_versions(reward_funcs))
    assert scores is not None
    return scores


def _score(
    scores: ScoreSet, part: Sequence[tuple[Prompt, Piece]], reward_funcs: Sequence[RewardFunction], count: _Count
) -> Growth:
    """Score pieces of one file with the columns that their prompts have now."""
    _, completions_PK = storage.read_completions(part[0][1].file, [piece.place for _, piece in part])
    scored_P = score_groups(reward_funcs, [prompt.row for prompt, _ in part], completions_PK)
    storage.write_scores(scores, [piece for _, piece in part], scored_P)
    done = sum(map(len, completions_PK))
    count(done)
    return Growth(scored=done)

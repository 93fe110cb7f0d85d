"""A store of samples: what sampling and scoring made, kept as data; a bank is one, and so is an evaluation.

Samples are stored apart from their scores (`aapo.bank.storage`), so that the samples, which are dear, are scored by
other reward functions without being drawn again.

Shapes: P prompts, K samples per prompt.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from datasets import Dataset

from aapo.bank import storage
from aapo.bank.identity import BankIdentity, reward_versions, sample_identity
from aapo.bank.storage import ScoreSet
from aapo.errors import InputError
from aapo.grading import VERDICT, Judge, RewardFunction, check_isolation
from aapo.ranks import ALONE, Ranks
from aapo.records import Engine, Prompt, Scores
from aapo.scoring import as_prompt, check_columns, sample, score_groups
from aapo.tasks import tasks_of

PROMPTS_PER_FILE = 64

OnDone = Callable[[int, int], None]


class SampleStore:
    """Rewards and verdicts by prompt key: stored samples by one of their score sets.

    Only keys, rewards and verdicts are in memory; `rows` reads the rest from the files. Use `open`, `build` or
    `rescore`.

    Attributes:
        purpose: Separates the streams of samples of different kinds of store.
    """

    purpose: ClassVar[str] = "samples"

    def __init__(self, path: Path, identity: BankIdentity, scores: ScoreSet, table: dict[str, Scores]) -> None:
        """Take an identity and scores that `open` has read, the verdicts all that there are of notes."""
        self.path = path
        self.identity = identity
        self.scores = scores
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, key: str) -> bool:
        return key in self._table

    @classmethod
    def open(cls, path: str | Path, rewards: Mapping[str, str] | None = None) -> Self:
        """The bank in the folder `path`, with the prompts that are sampled and scored.

        Args:
            path: Folder of the bank.
            rewards: Versions of the reward functions by name (`reward_versions`), which choose the score set; by
                default the newest complete one, else the newest.

        Raises:
            InputError: There is no bank, or it has no such scores.
        """
        path = Path(path)
        identity = storage.read_identity(path)
        scores = newest_scores(path) if rewards is None else storage.find_score_set(path, dict(rewards))
        if scores is None:
            wanted = "any reward function" if rewards is None else ", ".join(rewards.values())
            raise InputError(
                f"the bank {path} has no scores by {wanted}; score its samples with `aapo bank rescore {path} "
                "--reward_funcs ...`"
            )
        versions = dict(scores.rewards if rewards is None else rewards)
        return cls(path, BankIdentity(**identity, rewards=versions), scores, _table(path, scores, list(versions)))

    @classmethod
    def build(
        cls,
        path: str | Path,
        dataset: Dataset,
        engine: Engine,
        reward_funcs: Sequence[RewardFunction],
        identity: BankIdentity,
        *,
        template_options: dict[str, Any] | None = None,
        on_batch: OnDone = lambda done, total: None,
        prompts_per_file: int | None = None,
        ranks: Ranks = ALONE,
    ) -> Self:
        """Sample what the bank at `path` lacks of the data set's prompts, score what lacks scores, and open it.

        A prompt that occurs several times is sampled once. Samples that are there are scored without the engine. With
        several processes each builds its share; samples do not depend on the share.

        Args:
            path: Folder of the bank; made if it is not there, continued if it is.
            dataset: Columns `prompt` and `answer`, and what the reward functions read.
            engine: The reference model with the sampling settings of the training run.
            reward_funcs: The training run's reward functions.
            identity: What is sampled; `bank_identity` makes it.
            template_options: Passed to the chat template.
            on_batch: Called with the number of completions done, 0 at first, and the number to do, if there are any.
            prompts_per_file: Prompts sampled and stored at once, all that an interruption can cost; 64 by default.
            ranks: This process and the others.

        Raises:
            InputError: The folder holds samples of another identity, and the message names each difference; or this
                machine cannot isolate what a reward function does with a completion.
        """
        path = Path(path)
        check_isolation(reward_funcs, tasks_of(dataset))
        storage.claim(path, sample_identity(identity))
        _begin(path, reward_funcs)
        ranks.wait()
        scores = _begun(path, reward_funcs)
        unscored = ranks.share(scores.unscored(storage.sample_files(path)))
        missing = missing_prompts(path, dataset, engine.tokenizer, ranks, **(template_options or {}))
        ranks.wait()  # so that no process counts what another has written meanwhile
        num_samples = identity["num_samples"]
        count = _Count(num_samples * (storage.num_prompts(unscored) + len(missing)), on_batch)
        for file in unscored:
            count(_score_file(scores, file, reward_funcs) * num_samples)
        step = prompts_per_file or PROMPTS_PER_FILE
        for start in range(0, len(missing), step):
            part = missing[start : start + step]
            completions_PK = sample(
                part, engine, num_samples=num_samples, seed=identity["seed"], purpose=cls.purpose, on_batch=count
            )
            _score_file(scores, storage.write_samples(path, part, completions_PK), reward_funcs)
        ranks.wait()
        return cls.open(path, identity["rewards"])

    @classmethod
    def rescore(
        cls,
        path: str | Path,
        reward_funcs: Sequence[RewardFunction],
        *,
        on_done: OnDone = lambda done, total: None,
        ranks: Ranks = ALONE,
    ) -> Self:
        """Score all samples of the bank at `path` by these reward functions, without sampling, and open it.

        The scores are a set beside those that are there. What an earlier call has scored so is kept.

        Args:
            path: Folder of the bank.
            reward_funcs: Score; they are called as they were when the samples were drawn.
            on_done: Called with the number of completions done, 0 at first, and the number to do, if there are any.
            ranks: This process and the others.

        Raises:
            InputError: There is no bank, or a reward function reads a column that the samples were drawn without.
        """
        path = Path(path)
        num_samples = storage.read_identity(path)["num_samples"]
        _begin(path, reward_funcs)
        ranks.wait()
        scores = _begun(path, reward_funcs)
        unscored = ranks.share(scores.unscored(storage.sample_files(path)))
        ranks.wait()
        count = _Count(num_samples * storage.num_prompts(unscored), on_done)
        for file in unscored:
            count(_score_file(scores, file, reward_funcs) * num_samples)
        ranks.wait()
        return cls.open(path, reward_versions(reward_funcs))

    def correct(self, key: str, judge: Judge) -> list[float | None]:
        """For each of the K samples of a prompt 1 if it is right, 0 if it is not, None where nothing says."""
        scores = self._table[key]
        return judge.correct(scores.rewards, scores.notes)

    @property
    def complete(self) -> bool:
        """Whether every sampled prompt has its scores."""
        return not self.scores.unscored(storage.sample_files(self.path))

    def columns(self) -> list[str]:
        """Names of what `rows` gives: those of the samples, `reward/NAME`, and what the reward functions logged."""
        scored = [self.scores.file(file) for file in storage.sample_files(self.path)]
        found = [name for file in scored if file.exists() for name in storage.column_names(file)]
        return list(dict.fromkeys([*storage.SAMPLES_SCHEMA.names, *found]))

    def rows(self, columns: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """Every prompt that is sampled and scored, read from the files one by one.

        Args:
            columns: Those of `columns()` that are read beside `key`; by default all. `row`, the data set's row, is JSON
                text. A prompt without a column, because a function did not always log it, has None there.
        """
        wanted = self.columns() if columns is None else list(columns)
        seen: set[str] = set()
        for file in storage.sample_files(self.path):
            if not (scored := self.scores.file(file)).exists():
                continue
            samples = storage.read_table(file, ["key", *wanted]).to_pylist()
            for sampled, scores in zip(samples, storage.read_table(scored, ["key", *wanted]).to_pylist(), strict=True):
                row = {**dict.fromkeys(wanted), **sampled, **scores}
                if row["key"] not in seen:  # two builds at once may both have sampled it
                    seen.add(row["key"])
                    yield row


def _table(path: Path, scores: ScoreSet, names: Sequence[str]) -> dict[str, Scores]:
    """Rewards and verdicts by prompt key; the columns of verdicts are the same for all prompts."""
    files = [scores.file(file) for file in storage.sample_files(path) if scores.file(file).exists()]
    logged = {name for file in files for name in storage.column_names(file) if name.startswith(VERDICT)}
    rewards = {name: f"reward/{name}" for name in names}
    table: dict[str, Scores] = {}
    for file in files:
        for row in storage.read_table(file, ["key", *rewards.values(), *logged]).to_pylist():
            paid = {name: row[column] for name, column in rewards.items()}
            size = len(next(iter(paid.values()), []))
            table[row["key"]] = Scores(paid, {name: row.get(name) or [None] * size for name in logged})
    return table


def newest_scores(path: Path, but: ScoreSet | None = None) -> ScoreSet | None:
    """The bank's newest complete score set but one, else the newest; None where there is no other."""
    samples = storage.sample_files(path)
    sets = [item for item in storage.score_sets(path) if but is None or item.path != but.path]
    whole = [item for item in sets if not item.unscored(samples)]
    return (whole or sets or [None])[-1]


def missing_prompts(
    path: Path, dataset: Dataset, tokenizer: Any, ranks: Ranks = ALONE, **template_options: Any
) -> list[Prompt]:
    """One process's share of the data set's distinct prompts, less those that the store at `path` has sampled.

    The share does not depend on what is there, so that processes need not start together. The store need not exist.
    """
    present = storage.sample_keys(path)
    prompts = (as_prompt(dict(row), tokenizer, **template_options) for row in dataset)
    distinct = list({prompt.key: prompt for prompt in prompts}.values())
    return [prompt for prompt in ranks.share(distinct) if prompt.key not in present]


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


def _begin(path: Path, reward_funcs: Sequence[RewardFunction]) -> None:
    """Make the score set of these reward functions, unless the first samples show that they cannot score the bank."""
    storage.remove_leftovers(path)
    for file in storage.sample_files(path)[:1]:
        rows = storage.read_samples(file).rows
        check_columns(reward_funcs, rows[0])
        check_isolation(reward_funcs, [row["task"] for row in rows if "task" in row])
    storage.begin_score_set(path, reward_funcs)


def _begun(path: Path, reward_funcs: Sequence[RewardFunction]) -> ScoreSet:
    """The score set that `_begin` has made."""
    scores = storage.find_score_set(path, reward_versions(reward_funcs))
    assert scores is not None
    return scores


def _score_file(scores: ScoreSet, file: Path, reward_funcs: Sequence[RewardFunction]) -> int:
    """Score a samples file and store the scores in their set; the number of its prompts."""
    sampled = storage.read_samples(file)
    check_columns(reward_funcs, sampled.rows[0])
    scores_P = score_groups(reward_funcs, sampled.rows, sampled.completions)
    storage.write_scores(scores.file(file), sampled.keys, scores_P)
    return len(sampled.keys)

"""The reference bank: a frozen reference model's samples and rewards, kept as data.

A bank is a folder: `manifest.json` with the identity of what was sampled, and Parquet shards with one row a prompt. A
shard is written to a temporary name and renamed, so that a build that is killed leaves whole shards and goes on from
them.

Shapes: P prompts, K reference samples per prompt.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from aapo.errors import AapoError, InputError
from aapo.files import write_json, write_parquet
from aapo.grading import RewardFunction, check_reward_names, reward_name, reward_version
from aapo.reference.identity import BankIdentity, differences
from aapo.sampling import Engine
from aapo.scoring import Prompt, ScoredPrompt, as_prompt, sample_and_score, total_rewards

MANIFEST = "manifest.json"
PROMPTS_PER_SHARD = 64
PURPOSE = "reference"
# A temporary file of this age belongs to a build that was killed; a younger one may be being written.
LEFTOVER_SECONDS = 600


class ReferenceBank:
    """Rewards of a frozen reference model, by prompt key.

    Use `ReferenceBank.open` or `ReferenceBank.build`.
    """

    def __init__(self, path: Path, identity: BankIdentity, rows: dict[str, dict[str, Any]]) -> None:
        """Take an identity and rows that `open` has read."""
        self.path = path
        self.identity = identity
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    @classmethod
    def open(cls, path: str | Path) -> "ReferenceBank":
        """The bank in the folder `path`.

        Raises:
            InputError: There is none.
        """
        path = Path(path)
        identity = _read_identity(path)
        if identity is None:
            raise InputError(
                f"{path} is not a reference bank: it has no {MANIFEST}; build one with `aapo bank build RECIPE "
                f"--output {path}`"
            )
        rows = {row["key"]: row for file in sorted(path.glob("shard-*.parquet")) for row in _read_shard(file)}
        return cls(path, identity, rows)

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
        on_batch: Callable[[int, int], None] = lambda done, total: None,
        rank: int = 0,
        num_ranks: int = 1,
        barrier: Callable[[], None] = lambda: None,
    ) -> "ReferenceBank":
        """Sample and score what the bank at `path` lacks of the data set's prompts, and open it.

        A prompt that occurs several times is sampled once. With several processes each builds its share; samples do not
        depend on the share.

        Args:
            path: Folder of the bank; made if it is not there, continued if it is.
            dataset: Columns `prompt` and `answer`, and what the reward functions read.
            engine: The reference model with the sampling settings of the training run.
            reward_funcs: The training run's reward functions.
            identity: What is sampled; `bank_identity` makes it.
            template_options: Passed to the chat template.
            on_batch: Called with the number of completions done and the number to do.
            rank: Index of this process.
            num_ranks: Number of processes.
            barrier: Waits for all processes.

        Raises:
            InputError: The folder holds a bank of another identity; the message names each difference.
        """
        path = Path(path)
        if rank == 0:
            _claim(path, identity)
        barrier()
        present = cls.open(path)
        options = template_options or {}
        prompts = (as_prompt(dict(row), engine.tokenizer, **options) for row in dataset)
        wanted = {prompt.key: prompt for prompt in prompts}
        missing = [prompt for key, prompt in wanted.items() if key not in present][rank::num_ranks]
        barrier()  # so that no process counts what another has written meanwhile
        total, done = len(missing) * identity["num_samples"], 0
        for start in range(0, len(missing), PROMPTS_PER_SHARD):
            part = missing[start : start + PROMPTS_PER_SHARD]

            def count(finished: int) -> None:
                nonlocal done
                done += finished
                on_batch(done, total)

            scored = sample_and_score(
                part,
                engine,
                reward_funcs,
                num_samples=identity["num_samples"],
                seed=identity["seed"],
                purpose=PURPOSE,
                on_batch=count,
            )
            _write_shard(path, scored, list(identity["rewards"]))
        barrier()
        return cls.open(path)

    def require(self, identity: BankIdentity) -> None:
        """Check that the bank was sampled as a run needs it.

        Raises:
            InputError: It was not; the message names each difference.
        """
        if found := differences(self.identity, identity):
            raise InputError(f"the bank {self.path} does not match this run: {'; '.join(found)}; {_OTHER_BANK}")

    def attach(
        self,
        dataset: Dataset,
        tokenizer: Any,
        reward_weights: Mapping[str, float] | None = None,
        **template_options: Any,
    ) -> Dataset:
        """The data set with the columns `prompt_key` and `reference_rewards` (K weighted sums, NaN where unscored).

        Args:
            dataset: Columns `prompt` and `answer`.
            tokenizer: Renders the prompts as the bank's builder did.
            reward_weights: Weight of each of the bank's reward functions by name; 1 each by default.
            **template_options: Passed to the chat template.

        Raises:
            InputError: A prompt is not in the bank, or the weights are not those of its reward functions.
        """
        weights = reward_weights if reward_weights is not None else dict.fromkeys(self.identity["rewards"], 1.0)
        if set(weights) != set(self.identity["rewards"]):
            raise InputError(
                f"reward_weights are for {', '.join(weights)}; the bank's reward functions are "
                f"{', '.join(self.identity['rewards'])}"
            )
        prompts = [as_prompt(dict(row), tokenizer, **template_options) for row in dataset]
        missing = [prompt for prompt in prompts if prompt.key not in self]
        if missing:
            raise InputError(_missing(self, missing, len(prompts)))
        totals = [total_rewards(self._rewards(prompt.key), weights) for prompt in prompts]
        kept = dataset.remove_columns([name for name in COLUMNS if name in dataset.column_names])
        return kept.add_column(COLUMNS[0], [prompt.key for prompt in prompts]).add_column(COLUMNS[1], totals)

    def rows(self) -> Iterable[dict[str, Any]]:
        """Every prompt: `key`, `prompt`, `gold`, `completions`, `num_tokens`, `finish_reasons`, `reward/NAME`."""
        return self._rows.values()

    def _rewards(self, key: str) -> dict[str, list[float | None]]:
        row = self._rows[key]
        return {name: row[f"reward/{name}"] for name in self.identity["rewards"]}


COLUMNS = ("prompt_key", "reference_rewards")
_OTHER_BANK = "build another with `aapo bank build RECIPE --output FOLDER`, or leave reference_bank out"


def _missing(bank: ReferenceBank, missing: list[Prompt], total: int) -> str:
    first = missing[0].rendered.replace("\n", " ")
    where = (
        "none of its prompts is there, so it was built for another data set" if len(missing) == total else "add them"
    )
    return (
        f"{len(missing)} of {total} prompts are not in the bank {bank.path} (first: {first[-120:]!r}); {where}: `aapo "
        f"bank build RECIPE --output {bank.path}`"
    )


def bank_identity(
    model: dict[str, Any],
    tokenizer: dict[str, Any],
    sampling: dict[str, Any],
    reward_funcs: Sequence[RewardFunction],
    num_samples: int,
    seed: int,
) -> BankIdentity:
    """What makes two banks interchangeable: model, tokenizer and template, sampling settings, rewards, K and seed."""
    check_reward_names(reward_funcs)
    rewards = {reward_name(function): reward_version(function) for function in reward_funcs}
    return BankIdentity(
        model=model, tokenizer=tokenizer, sampling=sampling, rewards=rewards, num_samples=num_samples, seed=seed
    )


def _read_identity(path: Path) -> BankIdentity | None:
    file = path / MANIFEST
    return json.loads(file.read_text(encoding="utf-8"))["identity"] if file.exists() else None


def _claim(path: Path, identity: BankIdentity) -> None:
    """Make `path` a bank of this identity, or check that it is one."""
    found = _read_identity(path)
    if found is not None:
        if changed := differences(found, identity):
            raise InputError(f"{path} holds another bank: {'; '.join(changed)}; give another --output")
    elif path.exists() and any(path.iterdir()):
        raise InputError(f"{path} is not empty and not a reference bank; give another --output")
    else:
        write_json(path / MANIFEST, {"format": 1, "identity": identity})
    for leftover in path.glob(".shard-*.tmp"):
        if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
            leftover.unlink()


def _write_shard(path: Path, scored: list[ScoredPrompt], reward_names: list[str]) -> None:
    rows = [
        {
            "key": item.prompt.key,
            "prompt": item.prompt.rendered,
            "gold": item.prompt.gold,
            "completions": [completion.text for completion in item.completions],
            "num_tokens": [len(completion.token_ids) for completion in item.completions],
            "finish_reasons": [completion.finish_reason for completion in item.completions],
            **{f"reward/{name}": item.rewards[name] for name in reward_names},
        }
        for item in scored
    ]
    fields = [("key", pa.string()), ("prompt", pa.string()), ("gold", pa.string())]
    fields += [("completions", pa.list_(pa.string())), ("num_tokens", pa.list_(pa.int32()))]
    fields += [("finish_reasons", pa.list_(pa.string()))]
    fields += [(f"reward/{name}", pa.list_(pa.float64())) for name in reward_names]
    # Named by its prompts: processes and restarts never choose the same name for different prompts.
    name = hashlib.sha256("".join(row["key"] for row in rows).encode()).hexdigest()[:16]
    write_parquet(path / f"shard-{name}.parquet", pa.Table.from_pylist(rows, pa.schema(fields)))


def _read_shard(file: Path) -> list[dict[str, Any]]:
    try:
        return pq.read_table(file).to_pylist()
    except pa.ArrowInvalid as error:
        raise AapoError(f"{file} is damaged ({error}); delete it and run `aapo bank build` again") from error

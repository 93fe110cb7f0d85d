"""One model on one task: the bank's pipeline on its problems.

Shapes: P problems, K samples per problem.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from datasets import Dataset

from aapo.bank import STORED, BankIdentity, SampleStore, digest, sample_identity
from aapo.errors import AapoError
from aapo.evaluation.evaluation import SAMPLE_COLUMNS, Evaluation
from aapo.evaluation.votes import answer_classes
from aapo.grading import BY_VERDICT, GRADED, VERDICT, Judge, RewardFunction, reward_name
from aapo.messages import last_question
from aapo.ranks import ALONE, Ranks
from aapo.records import Engine, Prompt
from aapo.scoring import as_prompts
from aapo.tasks import PROBLEM_KEY, prompt_key


class EvaluationStore(SampleStore):
    """The samples of one model on one task."""

    purpose: ClassVar[str] = "evaluation"


@dataclass(frozen=True)
class EvaluationJob:
    """One model on one task, to be sampled and graded; what an earlier call did of it is found again.

    Attributes:
        model: What the model is called in the results.
        task: What the problems are called in the results.
        protocol: Name and hash of the protocol.
        prompts: Columns `prompt` and `answer`, and what the reward functions read.
        engine: Samples, with the settings of the protocol.
        reward_funcs: All are recorded.
        identity: Of model, sampling and reward functions.
        num_samples: K.
        folder: Holds the samples of all evaluations, each in a folder named by its identity.
        judge: Says which completions are right.
        template_options: Passed to the chat template.
    """

    model: str
    task: str
    protocol: str
    prompts: Dataset
    engine: Engine
    reward_funcs: Sequence[RewardFunction]
    identity: BankIdentity
    num_samples: int
    folder: Path
    judge: Judge = BY_VERDICT
    template_options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _prompts(self) -> dict[str, Prompt]:
        """The distinct problems by key, in order."""
        prompts = as_prompts(self.prompts, self.engine.tokenizer, **self.template_options)
        return {prompt.key: prompt for prompt in prompts}

    @property
    def path(self) -> Path:
        """Where the samples are: named by problems, weights, tokenizer and sampling, not by paths or rewards."""
        return self.folder / digest({"prompts": sorted(self._prompts), **sample_identity(self.identity)})

    def sample(
        self,
        on_batch: Callable[[int, int], None] = lambda done, total: None,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        """Sample and grade what is not there yet, this process its share.

        Args:
            on_batch: Called with the number of completions done and to do.
            ranks: This process and the others.
        """
        EvaluationStore.build(
            self.path,
            list(self._prompts.values()),
            self.engine,
            self.reward_funcs,
            self.identity,
            num_samples=self.num_samples,
            on_batch=on_batch,
            prompts_per_file=max(1, self.engine.batch_size // self.num_samples),
            ranks=ranks,
        )

    def collect(self) -> Evaluation:
        """The evaluation, once everything is sampled.

        Raises:
            AapoError: Some is not.
        """
        store = EvaluationStore.open(self.path, self.identity["rewards"], self.num_samples)
        if lacking := [key for key in self._prompts if key not in store]:
            raise AapoError(
                f"{len(lacking)} of {len(self._prompts)} problems of {self.task} are not sampled yet; "
                "run the other shares"
            )
        return Evaluation(self._table(store))

    def _table(self, store: EvaluationStore) -> pa.Table:
        """One row a sample."""
        rows = {row["key"]: row for row in store.rows()}
        names = [reward_name(function) for function in self.reward_funcs]
        verdicts = self.judge.verdicts(names, store.columns())
        name = None if verdicts is None else verdicts.removeprefix(VERDICT)
        own = {f"{kind}/{name}": kind for kind in ("verdict", "extracted", "rule")}
        logged = set(store.columns()) - {*STORED, *own, *(f"reward/{name}" for name in names)}
        notes = {name: f"note/{name}" if name in SAMPLE_COLUMNS else name for name in sorted(logged)}
        flat = [
            {"model": self.model, "task": self.task, "protocol": self.protocol, **sample}
            for key in self._prompts
            for sample in _samples(
                rows[key], names, own, notes, store.correct(key, self.judge), mathematical=name in GRADED
            )
        ]
        kinds = [*SAMPLE_COLUMNS.items(), *((f"reward/{name}", pa.float64()) for name in names)]
        return pa.Table.from_pylist(flat, pa.schema([*kinds, *((name, pa.string()) for name in notes.values())]))


def _samples(
    row: dict[str, Any],
    names: Sequence[str],
    own: Mapping[str, str],
    notes: Mapping[str, str],
    correct: list[float | None],
    *,
    mathematical: bool,
) -> list[dict[str, Any]]:
    """The K samples of a stored prompt, by column."""
    source, size = json.loads(row["row"]), len(row["completions"])
    columns = {
        "problem": [source.get(PROBLEM_KEY) or prompt_key(str(source["prompt"]), row["gold"])] * size,
        "prompt_key": [row["key"]] * size,
        "sample": range(size),
        "prompt": [last_question(source["prompt"])] * size,
        "gold": [row["gold"]] * size,
        "completion": row["completions"],
        "completion_tokens": row["num_tokens"],
        "finish_reason": row["finish_reasons"],
        "correct": correct,
        **{short: row.get(name) or [None] * size for name, short in own.items()},
        **{f"reward/{name}": row[f"reward/{name}"] for name in names},
        **{stored: row[name] or [None] * size for name, stored in notes.items()},
    }
    columns["answer_class"] = answer_classes(columns["extracted"], correct, mathematical=mathematical)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

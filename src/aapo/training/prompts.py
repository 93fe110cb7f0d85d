"""A recipe's prompts as they are trained on: loaded, checked, and what was found counted."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from aapo.backends.trl.references import CORRECT_COLUMN
from aapo.bank import ReferenceBank
from aapo.errors import InputError
from aapo.files import write_json, write_text
from aapo.grading import (
    GRADED,
    GRADER_VERSION,
    RewardFunction,
    check_isolation,
    grade_many,
    reward_name,
    reward_spec,
)
from aapo.learning.curriculum import known_records, within
from aapo.progress import console
from aapo.recipe import Recipe
from aapo.runs import cache_folder
from aapo.scoring import check_columns
from aapo.tasks import Split, limit_prompts, load_prompts, tasks_of

# An answer that agrees with no gold answer by its text, so that each gold has to be read.
PROBE = r"\boxed{x_{probe}}"
NUM_NAMED = 5


@dataclass(frozen=True)
class CheckedPrompts:
    """Training prompts and what was found on the way.

    Attributes:
        rows: Columns `prompt` and `answer`, and what the reward functions read.
        num_long: Prompts dropped, because they are over `max_prompt_length`.
        unparseable: Row number and gold answer of each row whose gold answer the reward functions cannot read; such a
            row pays only an answer of the same text.
        dropped_unparseable: Whether those rows were dropped.
    """

    rows: Dataset
    num_long: int
    unparseable: list[dict[str, Any]]
    dropped_unparseable: bool

    def notes(self) -> list[str]:
        """A line for each finding that a user should know of."""
        lines = []
        if self.num_long:
            lines.append(f"{self.num_long} prompts are over max_prompt_length and dropped")
        if self.unparseable:
            named = ", ".join(f"{item['row']} ({item['answer'][:40]!r})" for item in self.unparseable[:NUM_NAMED])
            more = ", ..." if len(self.unparseable) > NUM_NAMED else ""
            fate = "dropped" if self.dropped_unparseable else "kept: only the same text is right"
            lines.append(f"{len(self.unparseable)} gold answers cannot be read, rows {named}{more}; {fate}")
        return lines

    def describe(self) -> dict[str, int]:
        """The counts, for a run's manifest."""
        return {"num_long_prompts": self.num_long, "num_unparseable_golds": len(self.unparseable)}

    def write_unparseable(self, path: Path) -> None:
        """List the gold answers that cannot be read, one JSON object a line; no file without any."""
        if self.unparseable:
            write_text(path, "".join(json.dumps(item) + "\n" for item in self.unparseable))


def loaded_prompts(recipe: Recipe, split: Split) -> Dataset:
    """The recipe's prompts of one side.

    Raises:
        InputError: They are missing, or lack a column that a reward function needs, or this machine cannot isolate
            what a reward function does with their completions.
    """
    rows = load_prompts(recipe.data, split)
    check_columns(recipe.reward_funcs, rows.column_names)
    check_isolation(recipe.reward_funcs, tasks_of(rows))
    return rows


def checked_prompts(recipe: Recipe, tokenizer: Any) -> CheckedPrompts:
    """The recipe's training prompts, none over the token limit, with what was found.

    Raises:
        InputError: They are missing, too few or too long, or lack a column that a reward function needs.
    """
    rows = loaded_prompts(recipe, "train")
    unreadable = unparseable_golds(recipe.reward_funcs, rows["answer"])
    found = [{"row": index, "answer": rows[index]["answer"]} for index in unreadable]
    if recipe.data.drop_unparseable_gold and unreadable:
        if len(unreadable) == len(rows):
            raise InputError(f"no gold answer of {recipe.data.dataset_name} can be read; check answer_column")
        rows = rows.select(sorted(set(range(len(rows))) - set(unreadable)))
    short = limit_prompts(
        rows,
        tokenizer,
        recipe.data.max_prompt_length,
        drop=recipe.data.drop_long_prompts,
        **recipe.training.template_options,
    )
    check_number(recipe, len(short))
    return CheckedPrompts(short, len(rows) - len(short), found, recipe.data.drop_unparseable_gold)


def training_prompts(recipe: Recipe, tokenizer: Any) -> Dataset:
    """The rows of `checked_prompts`."""
    return checked_prompts(recipe, tokenizer).rows


def check_number(recipe: Recipe, num_prompts: int) -> None:
    """Check that the prompts fill one generation batch, since an incomplete one is never trained on.

    Raises:
        InputError: They do not.
    """
    args = recipe.training
    assert args.generation_batch_size and args.num_generations
    needed = args.generation_batch_size // args.num_generations
    if num_prompts < needed:
        raise InputError(
            f"there are {num_prompts} training prompts and one batch takes {needed} (generation_batch_size "
            f"{args.generation_batch_size} / num_generations {args.num_generations}); add prompts or lower the batch"
        )


def by_pass_rate(recipe: Recipe, bank: ReferenceBank, rows: Dataset, tokenizer: Any) -> Dataset:
    """The rows whose prompts the reference model solves as often as the recipe asks for.

    Raises:
        InputError: Too few are left for one batch.
    """
    run = recipe.run
    judge, options = recipe.training.judgement, recipe.training.template_options
    records = known_records(bank.attach(rows, tokenizer, judge=judge, **options)[CORRECT_COLUMN])
    kept = within(records, run.min_reference_pass_rate, run.max_reference_pass_rate)
    console.print(f"{len(kept)} of {len(rows)} prompts have a reference pass rate within the bounds")
    check_number(recipe, len(kept))
    return rows.select(kept)


def unparseable_golds(reward_funcs: Sequence[RewardFunction], golds: Sequence[str]) -> list[int]:
    """Where the first reward function that grades answers cannot read the gold answer; empty where none grades.

    The workers of the grader decide, which takes a minute for ten thousand expressions; the cache keeps the result.
    """
    graded = next((function for function in reward_funcs if reward_name(function) in GRADED), None)
    if graded is None:
        return []
    grader = ((reward_spec(graded) or {}).get("parameters") or {}).get("grader", "aapo")
    digest = hashlib.sha256(json.dumps([GRADER_VERSION, grader, list(golds)]).encode()).hexdigest()[:16]
    kept = cache_folder() / "golds" / f"{digest}.json"
    if not kept.exists():
        verdicts = grade_many(golds, [PROBE] * len(golds), grader=grader)
        unreadable = [index for index, verdict in enumerate(verdicts) if verdict.outcome == "unparseable_gold"]
        write_json(kept, unreadable)
    return json.loads(kept.read_text(encoding="utf-8"))

"""A recipe's prompts as they are trained on: loaded, checked, and what was found counted."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from aapo.bank import COLUMNS, ReferenceBank
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
from aapo.records import Prompt
from aapo.runs import cache_folder
from aapo.scoring import PASSED, as_prompts, check_columns, check_names
from aapo.stored import read_json
from aapo.tasks import Split, limit_prompts, load_prompts, tasks_of
from aapo.training.schedule import prompts_of_a_batch

# An answer that agrees with no gold answer by its text, so that each gold has to be read.
PROBE = r"\boxed{x_{probe}}"
NUM_NAMED = 5
KEY_COLUMN = COLUMNS[0]


@dataclass(frozen=True)
class CheckedPrompts:
    """Training prompts and what was found on the way.

    Attributes:
        rows: Columns `prompt` and `answer`, what the reward functions read, and `prompt_key`, by which a bank has each.
        prompts: The same, each as the model reads it.
        num_long: Prompts dropped, because they are over `max_prompt_length`.
        unparseable: Row number and gold answer of each row whose gold answer the reward functions cannot read; such a
            row pays only an answer of the same text.
        dropped_unparseable: Whether those rows were dropped.
    """

    rows: Dataset
    prompts: list[Prompt]
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
    check_names(rows.column_names, (*PASSED, *COLUMNS))
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
    prompts = as_prompts(rows, tokenizer, **recipe.training.template_options)
    lengths = [len(prompt.ids) for prompt in prompts]
    kept = limit_prompts(lengths, recipe.data.max_prompt_length, drop=recipe.data.drop_long_prompts)
    check_number(recipe, len(kept))
    short = [prompts[place] for place in kept]
    return CheckedPrompts(
        _with_keys(rows.select(kept) if len(kept) < len(rows) else rows, short),
        short,
        len(rows) - len(kept),
        found,
        recipe.data.drop_unparseable_gold,
    )


def _with_keys(rows: Dataset, prompts: Sequence[Prompt]) -> Dataset:
    rows = rows.remove_columns([KEY_COLUMN]) if KEY_COLUMN in rows.column_names else rows
    return rows.add_column(KEY_COLUMN, [prompt.key for prompt in prompts])  # type: ignore[call-arg]


def check_number(recipe: Recipe, num_prompts: int) -> None:
    """Check that the prompts fill one batch, since an incomplete one is never trained on.

    Raises:
        InputError: They do not.
    """
    args, needed = recipe.training, prompts_of_a_batch(recipe)
    if num_prompts < needed:
        raise InputError(
            f"there are {num_prompts} training prompts and one batch takes {needed} ({needed * args.num_generations} "
            f"completions / num_generations {args.num_generations}); add prompts or lower the batch"
        )


def by_pass_rate(recipe: Recipe, bank: ReferenceBank, checked: CheckedPrompts) -> CheckedPrompts:
    """Those of the prompts that the reference model solves as often as the recipe asks for.

    Raises:
        InputError: Too few are left for one batch.
    """
    run, judge = recipe.run, recipe.training.judgement
    records = known_records([bank.correct(prompt.key, judge) for prompt in checked.prompts])
    kept = within(records, run.min_reference_pass_rate, run.max_reference_pass_rate)
    console.print(f"{len(kept)} of {len(checked.rows)} prompts have a reference pass rate within the bounds")
    check_number(recipe, len(kept))
    return replace(checked, rows=checked.rows.select(kept), prompts=[checked.prompts[place] for place in kept])


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
    return read_json(kept, "delete it, and the gold answers are read again")

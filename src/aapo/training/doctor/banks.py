"""A bank as the doctor sees it: its report, and its reward functions called once more on its samples."""

import time
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from aapo.bank import ReferenceBank, find_score_set
from aapo.bank.rows import read_row
from aapo.errors import AapoError
from aapo.grading import RewardFunction, reward_functions, reward_name
from aapo.recipe import Recipe
from aapo.records import Completion
from aapo.scoring import score_groups
from aapo.training.bank_findings import bank_findings
from aapo.training.bank_report import BankReport, Setting, report_bank
from aapo.training.banks import RecipeBank
from aapo.training.doctor.data import Data
from aapo.training.findings import Finding, percent
from aapo.training.preflight import summary_lines

# Functions are called on the samples of so many prompts.
NUM_CALLED = 32
SLOW_SECONDS = 10.0
SOME_UNSCORED = 0.02
NOT_BUILT = Finding(
    "note",
    "bank",
    "the reference bank is not built, or not scored by these reward functions",
    "build it by `aapo bank build RECIPE`, and ask again: most faults show in its samples",
    "docs/doctor.md",
)


def recipe_bank(recipe: Recipe, data: Data) -> ReferenceBank | None:
    """The recipe's bank, as it is; None where there is none yet, and where the recipe reads none.

    Raises:
        InputError: The recipe names a bank that is not there or does not match.
    """
    if not recipe.uses_bank or data.tokenizer is None:
        return None
    source = RecipeBank(recipe, data.tokenizer)
    if recipe.run.reference_bank is None and find_score_set(source.path, source.identity["rewards"]) is None:
        return None
    return ReferenceBank.matching(source.path, source.identity, source.num_samples)


def bank_part(
    bank: ReferenceBank, setting: Setting, keys: Collection[str] | None = None
) -> tuple[BankReport, list[Finding]]:
    """The bank in the light of a run, and what is found in it."""
    report = report_bank(bank, setting, keys)
    found = bank_findings(report, setting)
    summary = Finding("note" if found else "ok", "bank", "; ".join(summary_lines(report)))
    return report, [*found, summary]


def reward_findings(bank: ReferenceBank, functions: Sequence[RewardFunction] | None = None) -> list[Finding]:
    """What is found when each reward function is called on the bank's first samples: errors, None, slowness.

    Args:
        bank: Its samples.
        functions: By default those that the bank was scored by, where they can be found by their names.
    """
    if functions is None:
        specs = {spec["function"]: spec["parameters"] for spec in bank.scores.specs.values() if spec}
        functions = reward_functions(list(specs), specs, "fail")
    found = [finding for function in functions for finding in _called(bank, function)]
    names = ", ".join(map(reward_name, functions))
    return found or [Finding("ok", "rewards", f"called on reference samples without fault: {names}")]


def _called(bank: ReferenceBank, function: RewardFunction) -> Iterator[Finding]:
    """What is found when the function is called."""
    name, columns = reward_name(function), ["row", "completions", "token_ids", "finish_reasons"]
    stored = list(islice(bank.rows(columns), NUM_CALLED))
    if not stored:
        return
    completions = [
        [Completion(*each) for each in zip(*(row[column] for column in columns[1:]), strict=True)] for row in stored
    ]
    began = time.monotonic()
    try:
        scores_P = score_groups([function], [read_row(row["row"]) for row in stored], completions)
    except AapoError as error:
        yield Finding("error", "rewards", str(error), "", "docs/grading.md")
        return
    paid = [reward for scores in scores_P for reward in scores.rewards[name]]
    seconds = (time.monotonic() - began) / len(paid) * 1000
    if (share := paid.count(None) / len(paid)) > SOME_UNSCORED:
        text = f"reward function {name} gives None or NaN to {percent(share)} of {len(paid)} reference samples"
        advice = "they take no part in training; find out why, or pay them 0"
        yield Finding("warning", "rewards", text, advice, "docs/grading.md")
    if seconds > SLOW_SECONDS:
        text = f"reward function {name} takes {seconds:.0f} s for 1,000 completions"
        yield Finding("warning", "rewards", text, "make it faster, or call less of it", "docs/grading.md")

"""A recipe's training prompts: what is there twice, cannot be read or is long."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aapo.recipe import Recipe
from aapo.records import Prompt
from aapo.training.findings import Finding, percent, quoted
from aapo.training.models import model_path, model_spec
from aapo.training.prompts import CheckedPrompts, checked_prompts


@dataclass(frozen=True)
class Data:
    """A recipe's training prompts, as far as they can be read.

    Attributes:
        tokenizer: The model's; None where the model is not made yet, and the prompts are not read.
        keys: Keys of the prompts.
        longest: Tokens of the longest prompt.
        prompts: Themselves.
        findings: About them.
    """

    tokenizer: Any = None
    keys: frozenset[str] = frozenset()
    longest: int = 0
    prompts: list[Prompt] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def read_data(recipe: Recipe) -> Data:
    """The recipe's training prompts.

    Raises:
        InputError: The tokenizer or the prompts are missing or wrong.
    """
    path = model_path(recipe)
    if recipe.base_model is not None and not Path(path).exists():
        text = "the base model is not made yet, and without its tokenizer prompts are not looked at"
        return Data(findings=[Finding("note", "data", text, "make it by `aapo base build RECIPE`")])
    tokenizer = model_spec(recipe, path, recipe.model.model_revision).load_tokenizer()
    checked = checked_prompts(recipe, tokenizer)
    prompts = checked.prompts
    longest = max(len(prompt.ids) for prompt in prompts)
    pairs = [(prompt.question, prompt.gold) for prompt in prompts]
    findings = [*_unreadable(checked), *_repeated(pairs)]
    if checked.num_long:
        text = f"{checked.num_long} prompts are over max_prompt_length {recipe.data.max_prompt_length} and dropped"
        findings.append(Finding("note", "long prompts", text, "", "docs/data.md"))
    text = f"{len(prompts)} prompts, the longest of {longest} tokens"
    findings.append(Finding("note" if findings else "ok", "data", text))
    return Data(tokenizer, frozenset(prompt.key for prompt in prompts), longest, prompts, findings)


def _unreadable(checked: CheckedPrompts) -> Iterator[Finding]:
    if not (number := len(checked.unparseable)):
        return
    total = len(checked.rows) + checked.num_long + (number if checked.dropped_unparseable else 0)
    first = checked.unparseable[0]
    text = f"{number} of {total} gold answers cannot be read, first row {first['row']}: {quoted(first['answer'])}"
    advice = "check answer_column, or drop such rows by drop_unparseable_gold"
    if checked.dropped_unparseable:
        yield Finding("note", "unparseable gold", f"{text}; they are dropped", "", "docs/data.md")
    else:
        yield Finding("error" if number == total else "warning", "unparseable gold", text, advice, "docs/grading.md")


def _repeated(pairs: list[tuple[str, str]]) -> Iterator[Finding]:
    """Questions that are there more than once, with one gold answer or with several."""
    golds: dict[str, set[str]] = {}
    for question, gold in pairs:
        golds.setdefault(question, set()).add(gold)
    if torn := [question for question, of in golds.items() if len(of) > 1]:
        text = f"{len(torn)} questions have several gold answers, first {quoted(torn[0])}"
        yield Finding("warning", "duplicates", text, "remove the wrong rows", "docs/data.md")
    counts = Counter(pairs)
    if repeats := len(pairs) - len(counts):
        text = f"{repeats} of {len(pairs)} prompts ({percent(repeats / len(pairs))}) repeat an earlier one"
        yield Finding("note", "duplicates", text, "keep one of each by unique_prompts", "docs/data.md")

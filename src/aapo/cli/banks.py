"""What `aapo bank` does."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path

import datasets
import yaml
from transformers.utils import logging as transformers_logging

from aapo.bank import (
    ReferenceBank,
    ScoreChange,
    ScoreSet,
    compare_scores,
    find_score_set,
    newest_scores,
    read_identity,
    read_pieces,
    reward_versions,
    score_sets,
    summarize,
)
from aapo.engines.opening import engine_maker
from aapo.errors import InputError
from aapo.fields import parse_flags
from aapo.files import check_folder
from aapo.grading import Judge, RewardFunction, reward_functions
from aapo.progress import console, told_progress
from aapo.ranks import launched
from aapo.recipe import load_recipe
from aapo.training.banks import RecipeBank
from aapo.training.models import model_spec, prepare_model
from aapo.training.prompts import checked_prompts
from aapo.training.schedule import planned_prompts

transformers_logging.disable_progress_bar()
datasets.disable_progress_bars()


def build(source: str, flags: Sequence[str], output: Path | None, engine: str | None, *, everything: bool) -> None:
    """Build the recipe's bank, for the planned steps or for all prompts, and print its folder and summary."""
    recipe = load_recipe(source, flags)
    if output is not None:
        check_folder(output, "--output")
    if engine is not None:
        engine_maker(engine)  # which says at once that there is none of this name
    if not recipe.uses_bank:
        raise InputError(
            f"recipe {source} reads no bank: its objective has no margin or its reference is live, and it neither "
            "filters prompts nor orders them by pass rate"
        )
    path = prepare_model(recipe)
    tokenizer = model_spec(recipe, path, recipe.model.model_revision).load_tokenizer()
    prompts = checked_prompts(recipe, tokenizer).prompts
    places = range(len(prompts)) if everything else planned_prompts(recipe, len(prompts))
    if not places:
        raise InputError(
            f"recipe {source} draws its prompts by what their rollouts pay, so none is known ahead; --all builds the "
            "bank of all prompts, and a run adds those that it comes to"
        )
    named = None if recipe.run.reference_bank is None else Path(recipe.run.reference_bank)
    growing = RecipeBank(recipe, tokenizer, output or named, engine)
    bank = growing.grow([prompts[place] for place in places])
    growing.close()
    if launched().is_main:
        _print_bank(bank, recipe.training.judgement)


def show(path: Path, judge: Judge) -> None:
    """Print a bank's summary, score sets and identity."""
    bank = ReferenceBank.open(path)
    judge.check(list(bank.identity["rewards"]))
    _print_bank(bank, judge)


def rescore(path: Path, names: str | None, kwargs: str | None, failure: str) -> None:
    """Score a bank's samples by other reward functions, or newer versions of its own, and print what changes."""
    read_identity(path)
    functions = _functions(path, names, kwargs, failure)
    versions, ranks = reward_versions(functions), launched(cpu=True)  # scoring is work for the CPU
    scores, pieces = find_score_set(path, versions), read_pieces(path)
    if scores is not None and not scores.unscored(pieces):
        if ranks.is_main:
            console.print(f"{scores.path} is complete, by {', '.join(versions.values())}; nothing to do")
        return
    earlier = newest_scores(path, pieces, but=scores)
    with told_progress("rescoring", visible=ranks.is_main) as tell:
        bank = ReferenceBank.rescore(
            path,
            functions,
            on_done=tell,
            ranks=ranks,
        )
    if ranks.is_main:
        before = None if earlier is None else ReferenceBank.open(path, earlier.rewards)
        for change in compare_scores(before, bank):
            _print_change(change)
        stays = f"; the scores before are in {earlier.path}" if earlier else ""
        console.print(f"scores {bank.scores.path}{stays}")


def _functions(path: Path, names: str | None, kwargs: str | None, failure: str) -> list[RewardFunction]:
    """The reward functions asked for, by default those of the bank's newest scores, with the parameters asked for."""
    parameters = parse_flags([] if kwargs is None else ["--reward_kwargs", kwargs]).get("reward_kwargs") or {}
    if not isinstance(parameters, dict):
        raise InputError(
            f"--reward_kwargs is {kwargs!r}; it must be a mapping, such as '{{cosine: {{max_len: 4096}}}}'"
        )
    if names is not None:
        listed = [name.strip() for name in names.strip("[]").split(",")]
        return reward_functions(listed, parameters, failure)
    newest = newest_scores(path)
    if newest is None:
        raise InputError(f"the bank {path} has no scores yet; name its reward functions with --reward_funcs")
    specs = {}
    for name, spec in newest.specs.items():
        if spec is None:
            raise InputError(
                f"the bank's reward function {name} was given in Python and has no name to find it by; name all "
                "reward functions with --reward_funcs, yours as package.module:function or path/to/file.py:function"
            )
        specs[spec["function"]] = spec["parameters"]
    return reward_functions(list(specs), {**specs, **parameters}, failure)


def _print_change(change: ScoreChange) -> None:
    before, after = ("none" if mean is None else f"{mean:.3f}" for mean in (change.before, change.after))
    if not change.num_compared:
        console.print(f"{change.name}: mean reward {after}, new among the scores")
        return
    what = "verdicts" if change.verdicts else "rewards"
    changed = f"{change.num_changed} of {change.num_compared} {what} changed"
    console.print(f"{change.name}: mean reward {before} -> {after}, {changed}")
    for (old, new), count in change.verdicts.items():
        console.print(f"  {old:>16} -> {new:16} {count:8d}")


def _print_bank(bank: ReferenceBank, judge: Judge) -> None:
    summary = summarize(bank, judge)
    known = not isnan(summary.pass_rate)
    rates = (
        f"pass rate {summary.pass_rate:.3f}, all right {summary.all_right_frac:.3f}, all wrong "
        f"{summary.all_wrong_frac:.3f} of prompts"
        if known
        else "pass rate unknown, since no reward function says what is right; name one by --judge and --judge_threshold"
    )
    console.print(f"bank {bank.path}")
    console.print(f"{summary.num_prompts} prompts x {summary.num_samples} samples, {rates}")
    console.print(
        f"completion tokens: mean {summary.mean_tokens:.1f}, max {summary.max_tokens}; truncated "
        f"{summary.truncated_frac:.3f}, unscored {summary.unscored_frac:.3f} of samples"
    )
    if (shares := summary.grading) is not None:
        console.print(
            f"grading: no answer {shares.no_answer_frac:.3f}, timeout {shares.timeout_frac:.3f}, unparseable gold "
            f"{shares.unparseable_gold_frac:.3f} of samples"
        )
    if known:
        console.print("prompts by pass rate:")
    widest = max(summary.histogram) or 1
    for index, count in enumerate(summary.histogram if known else ()):
        bar = "█" * round(40 * count / widest)
        console.print(f"  {index / 10:.1f}-{(index + 1) / 10:.1f} {count:6d} {bar}")
    console.print("score sets:")
    for scores in score_sets(bank.path):
        console.print(_score_line(bank, scores))
    console.print("identity:")
    console.print(yaml.safe_dump(dict(bank.identity), sort_keys=False), end="")


def _score_line(bank: ReferenceBank, scores: ScoreSet) -> str:
    """A score set: since when, by which versions, of how many of the prompts; a star marks the one that is shown."""
    pieces = read_pieces(bank.path)
    total = {piece.key for piece in pieces}
    done = len(total - {piece.key for piece in scores.unscored(pieces)})
    mark = "*" if scores.path == bank.scores.path else " "
    return (
        f"{mark} {scores.path.name}  {scores.created[:19]}  {', '.join(scores.rewards.values())}  "
        f"{done} of {len(total)} prompts"
    )

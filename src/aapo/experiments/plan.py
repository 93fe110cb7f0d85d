"""The plan of a comparison: which runs there are, with which recipe each, and where each goes."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from aapo.backends import load_backend
from aapo.errors import InputError, nearest
from aapo.files import check_folder, remove_leftovers, write_json, write_text
from aapo.objective import COLLECTION_FIELDS
from aapo.recipe import Recipe, load_recipe, recipe_flags, resolve, set_field
from aapo.recipe.effects import CHOICE_FIELDS
from aapo.recipe.training import AXIS_FIELDS
from aapo.runs import RunDirectory
from aapo.stored import read_json, read_yaml
from aapo.training.models import check_cache

Match = Literal["steps", "tokens", "seconds"]
BankCost = Literal["run", "amortised", "free"]
BUDGET_FIELDS = {"tokens": "max_generated_tokens", "seconds": "max_training_seconds"}
PLAN, RUNS = "comparison.json", "runs"
# What a plan file brings along, in the folder of its comparison.
REGISTRATION, PLANS, TUNING = "registration.json", "plans", "tuning"
PLAN_KEYS = ("recipe", "match", "budget", "variants")
COMPARED_ANEW = "copy the folder anew, or compare again into another --output"
# Set by the comparison itself.
OWN_FIELDS = ("algorithm", "seed", "output_dir", "bank_cost_share", *BUDGET_FIELDS.values())
# What an algorithm brings along.
ALGORITHM_FIELDS = (*AXIS_FIELDS.values(), *COLLECTION_FIELDS)


@dataclass(frozen=True)
class Variant:
    """An algorithm with the swept settings that have an effect on it.

    Attributes:
        algorithm: As a recipe names it.
        settings: Swept fields and their values, which tell it from others.
        tuned: Fields that were chosen for it, which do not.
    """

    algorithm: str
    settings: Mapping[str, Any]
    tuned: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Such as `aapo` or `aapo margin_low=-0.1`."""
        name = self.algorithm.rsplit(":", 1)[-1]
        return " ".join([name, *(f"{key}={value}" for key, value in self.settings.items())])

    def changed(self, settings: Mapping[str, Any]) -> "Variant":
        """The variant with further settings."""
        return replace(self, settings={**self.settings, **settings})

    @classmethod
    def stored(cls, row: Mapping[str, Any]) -> "Variant":
        """The variant that `asdict` made a row of a JSON file of."""
        return cls(row["algorithm"], row["settings"], row.get("tuned", {}))

    @property
    def folder(self) -> str:
        """The label as the name of a folder."""
        return re.sub(r"[^\w.=,+-]+", ",", self.label)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison: `path` is its run directory; recipe, log and failure lie beside it."""

    variant: Variant
    seed: int
    recipe: Recipe
    path: Path

    @property
    def directory(self) -> RunDirectory:
        """Its run directory, which need not exist yet."""
        return RunDirectory(self.path)

    def beside(self, suffix: str) -> Path:
        """The file of this run with a suffix: `.yaml` its recipe, `.log` what it printed, `.failed` why it failed."""
        return self.path.parent / f"{self.path.name}{suffix}"

    @property
    def done(self) -> bool:
        """Whether it is trained and evaluated."""
        return (self.directory.evaluation / "results.json").is_file()


@dataclass(frozen=True)
class Plan:
    """A comparison: every variant with every seed.

    Attributes:
        folder: Where everything goes.
        recipe: Name of the recipe that the runs share.
        variants: What is compared.
        seeds: Seeds of the runs.
        match: What all runs have the same amount of.
        budget: That amount.
        bank_share: Share of what the reference samples cost that counts for each run that reads them.
        runs: Seed by seed, so that an interrupted comparison has whole ones.
    """

    folder: Path
    recipe: str
    variants: list[Variant]
    seeds: list[int]
    match: Match
    budget: float
    bank_share: float
    runs: list[PlannedRun]


def make_plan(
    source: str,
    algorithms: Sequence[str | Variant],
    seeds: Sequence[int],
    folder: Path,
    *,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    match: Match = "steps",
    budget: float | None = None,
    bank_cost: BankCost = "run",
    curve_points: int = 5,
    settings: Mapping[str, Any] | None = None,
    flags: Sequence[str] = (),
) -> Plan:
    """The plan of a comparison; nothing is written.

    All runs of a seed have the recipe's base model, prompts in the same order, bank and evaluation. Settings of the
    objective that the recipe makes belong to its own algorithm, the others come with theirs; `flags` and `sweep` go to
    all on which they have an effect.

    Args:
        source: The recipe: a shipped one's name, a file, or a run directory.
        algorithms: Names as in a recipe, or variants with settings of their own.
        seeds: Of the runs.
        folder: Where it all goes.
        sweep: Values by field; every combination is a variant.
        match: What the runs have the same amount of.
        budget: The amount of tokens or seconds; for steps it is the recipe's max_steps.
        bank_cost: How much of the reference samples that a run reads counts for it: all (`run`), its part where all
            runs of the comparison that read a bank share them (`amortised`), nothing (`free`).
        curve_points: How often each run is evaluated on the held-out prompts while it trains, the start not counted.
        settings: Fields for all runs on which they have an effect.
        flags: The same as `--field value`.

    Raises:
        InputError: Something does not fit together; or the folder holds another comparison.
    """
    base = load_recipe(source)
    asked = [item if isinstance(item, Variant) else Variant(item, {}) for item in algorithms]
    labels = [variant.label for variant in asked]
    _check(labels, seeds, base, match, budget)
    given = {**(settings or {}), **recipe_flags(flags)}
    for key in (*given, *(sweep or {})):
        if key in OWN_FIELDS:
            raise InputError(f"{key} cannot be set, because the comparison sets it; use its own options")
    variants = [
        variant
        for one in asked
        for variant in _variants(base, one, {key: list(values) for key, values in (sweep or {}).items()}, given)
    ]
    amount = {BUDGET_FIELDS[match]: int(budget) if match == "tokens" else budget} if budget else {}
    share = _bank_share(base, variants, seeds, given, bank_cost, folder)
    amount |= {"bank_cost_share": share} if budget else {}
    runs = []
    for seed, variant in itertools.product(seeds, variants):
        recipe = _with_curve(_resolved(base, variant, {**given, **amount, "seed": seed}), curve_points, variant)
        if seed == seeds[0]:
            load_backend(recipe.run.backend).check_recipe(recipe)
            check_cache(recipe)
        runs.append(PlannedRun(variant, seed, recipe, folder / RUNS / variant.folder / f"seed-{seed}"))
    for key in (*given, *(sweep or {})):
        if not any(key.split(".")[0] in run.recipe.given for run in runs):
            raise InputError(f"--{key} has no effect on any of {', '.join(labels)}; remove it")
    steps = runs[0].recipe.training.max_steps
    plan = Plan(folder, base.name, variants, list(seeds), match, float(budget or steps), share, runs)
    _check_folder(plan)
    return plan


def _check(labels: Sequence[str], seeds: Sequence[int], base: Recipe, match: str, budget: float | None) -> None:
    if not labels or len(set(labels)) != len(labels):
        raise InputError(f"--algorithms is {','.join(labels)!r}; name each algorithm once, such as aapo,grpo,gpg")
    if not seeds or len(set(seeds)) != len(seeds):
        raise InputError("--seeds must name each seed once, such as 0,1,2")
    if match not in get_args(Match):
        raise InputError(f"--match is {match!r}{nearest(match, get_args(Match))}; it must be steps, tokens or seconds")
    if match == "steps" and budget is not None:
        raise InputError("--budget has no effect, because runs are matched by steps; set --max_steps, or --match")
    if match != "steps" and (budget is None or not 0 < budget < inf):
        raise InputError(f"--match {match} needs the {match} that each run may use, such as --budget 1000000")
    if base.training.max_steps <= 0:
        raise InputError("the recipe has no max_steps, so its runs have no common length; set --max_steps")
    if not base.data.num_eval_prompts:
        raise InputError("the recipe holds no prompts out (num_eval_prompts is 0), so there is nothing to compare on")


def _variants(base: Recipe, asked: Variant, sweep: Mapping[str, list[Any]], given: Mapping[str, Any]) -> list[Variant]:
    """One variant a combination of the swept fields that have an effect on the algorithm.

    Raises:
        InputError: A setting of the variant's own has none.
    """
    for name in asked.settings:
        if name in OWN_FIELDS or name not in _resolved(base, asked, given).given:
            raise InputError(f"{asked.label}: {name} has no effect there; remove it")
    # A field that does nothing is dropped, but where it has its default.
    names = [
        name
        for name, values in sweep.items()
        if all(name in _resolved(base, asked.changed({name: value}), given).given for value in values)
    ]
    return [
        asked.changed(dict(zip(names, values, strict=True)))
        for values in itertools.product(*(sweep[name] for name in names))
    ]


def _bank_share(
    base: Recipe,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    given: Mapping[str, Any],
    bank_cost: BankCost,
    folder: Path,
) -> float:
    """The share of its bank's cost that counts for a run; that of an earlier call where this one extends it."""
    if bank_cost not in get_args(BankCost):
        raise InputError(
            f"--bank-cost is {bank_cost!r}{nearest(bank_cost, get_args(BankCost))}; it must be "
            f"{', '.join(get_args(BankCost))}"
        )
    if (stored := stored_plan(folder).get("bank_share")) is not None:
        return stored
    reading = sum(_resolved(base, variant, given).uses_bank for variant in variants) * len(seeds)
    return {"run": 1.0, "amortised": 1 / max(reading, 1), "free": 0.0}[bank_cost]


def _resolved(base: Recipe, variant: Variant, given: Mapping[str, Any]) -> Recipe:
    """The recipe for a variant: what the base recipe says of its own algorithm's objective stays with that one.

    Raises:
        InputError: It cannot be; the message names the variant.
    """
    own = variant.algorithm == base.training.algorithm
    fields = {key: value for key, value in base.given.items() if own or key not in ALGORITHM_FIELDS}
    for path, value in given.items():
        set_field(fields, path, value)
    fields |= {**variant.settings, **variant.tuned, "algorithm": variant.algorithm}
    if fields.get("weighted_sample") and any(fields.get(name) not in (None, False) for name in CHOICE_FIELDS):
        fields.setdefault("sample_prior", "bank")  # all variants choose their prompts by one bank
    try:
        return resolve(base.name, fields, drop=True)
    except InputError as error:
        raise InputError(f"{variant.label}: {error}") from error


def _with_curve(recipe: Recipe, points: int, variant: Variant) -> Recipe:
    """The recipe with evaluations while it trains, unless it has its own; what it says of them stays."""
    if points == 0 or recipe.training.eval_strategy != "no":
        return recipe
    every = max(1, recipe.training.max_steps // points)
    curve = {"eval_strategy": "steps", "eval_steps": every, "eval_on_start": True, "num_generations_eval": 1}
    own = {key: value for key, value in recipe.given.items() if value is not None and key != "eval_strategy"}
    return _resolved(replace(recipe, given={**curve, **own}), variant, {})


def _check_folder(plan: Plan) -> None:
    """Check that the folder is new, or holds a comparison of which this is a part or which this extends.

    Raises:
        InputError: It holds something else.
    """
    check_folder(plan.folder, "--output")
    stored = stored_plan(plan.folder)
    if not stored:
        names = [item.name for item in plan.folder.iterdir()] if plan.folder.exists() else []
        entries = {name for name in names if not name.startswith(".")}  # see remove_leftovers
        if entries - {REGISTRATION, PLANS, TUNING}:
            raise InputError(f"{plan.folder} is not empty and holds no comparison; choose another --output")
        return
    asked = {"recipe": plan.recipe, "match": plan.match, "budget": plan.budget}
    changed = [f"{key}: {stored[key]} there, {value} asked" for key, value in asked.items() if stored[key] != value]
    for run in plan.runs:
        written = run.beside(".yaml")
        if written.exists() and read_yaml(written, COMPARED_ANEW, ()) != run.recipe.given:
            changed.append(f"{run.variant.label}: other settings")
    if changed:
        raise InputError(
            f"{plan.folder} holds another comparison ({'; '.join(dict.fromkeys(changed))}); choose another --output. "
            "More seeds and algorithms can be added to one, other settings cannot"
        )


def write_plan(plan: Plan) -> None:
    """Write the plan, and the recipes of its runs; variants and seeds of an earlier call stay in it."""
    remove_leftovers(plan.folder)
    variants = {variant.folder: variant for variant in [*_stored_variants(plan.folder), *plan.variants]}
    write_json(
        plan.folder / PLAN,
        {
            "recipe": plan.recipe,
            "match": plan.match,
            "budget": plan.budget,
            "bank_share": plan.bank_share,
            "variants": [{"label": variant.label, **asdict(variant)} for variant in variants.values()],
        },
    )
    for run in plan.runs:
        if not run.beside(".yaml").exists():
            write_text(run.beside(".yaml"), yaml.safe_dump(run.recipe.given, sort_keys=False, allow_unicode=True))


def stored_plan(folder: Path) -> dict[str, Any]:
    """What an earlier call has written of the comparison; empty without one.

    Raises:
        InputError: It is damaged or of another version.
    """
    file = folder / PLAN
    return read_json(file, COMPARED_ANEW, PLAN_KEYS) if file.exists() else {}


def _stored_variants(folder: Path) -> list[Variant]:
    return [Variant.stored(row) for row in stored_plan(folder).get("variants", [])]

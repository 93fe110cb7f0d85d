"""A recipe as verl's settings: what each field became, and the command line that says so."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from aapo.backends.verl.refusals import REFUSED
from aapo.backends.verl.table import TABLE
from aapo.backends.verl.values import DEFAULTS, Facts, value_of
from aapo.errors import InputError
from aapo.recipe import Recipe
from aapo.recipe.effects import changed

# Texts that Hydra reads as themselves.
PLAIN = re.compile(r"(?!(null|true|false|nan|inf)$)[A-Za-z/_][\w/.:@-]*", re.IGNORECASE)


class Became(NamedTuple):
    """What fields of a recipe became.

    Attributes:
        fields: Each as `name value`.
        settings: verl's settings by name, with `+` before one that verl's own configuration lacks.
        note: What is special, or what reads the fields where verl does not.
    """

    fields: list[str]
    settings: dict[str, Any]
    note: str


def check_mapped(recipe: Recipe) -> None:
    """Check that verl can do all that the recipe says.

    Raises:
        InputError: A field has no equivalent there; the message names it.
    """
    for rule in REFUSED:
        if (reason := rule.reason(recipe)) is not None:
            name = next((name for name in rule.names if name in recipe.given), rule.names[0])
            raise InputError(f"{name} is {value_of(recipe, name)!r}, and {reason}")
    known = {name for row in TABLE for name in row.names} | {name for rule in REFUSED for name in rule.names}
    for name in _given(recipe):
        if name not in known:
            raise InputError(f"{name} is {recipe.given[name]!r} and has no equivalent in verl; remove it")


def _given(recipe: Recipe) -> Iterable[str]:
    """Fields that the recipe sets to other values than their defaults."""
    for part in (recipe.run, recipe.data, recipe.model, recipe.training):
        yield from changed(part, {key: value for key, value in recipe.given.items() if key != "cluster"})
    yield from (name for name, value in recipe.trainer.items() if value != DEFAULTS.get(name))


def mapped(recipe: Recipe, facts: Facts) -> list[Became]:
    """What each field became, in the table's order; what the user overrides comes last.

    Raises:
        InputError: As `check_mapped`.
    """
    check_mapped(recipe)
    assert recipe.cluster is not None
    found = []
    for row in TABLE:
        if row.strategy not in (None, recipe.cluster.strategy):
            continue
        values = {name: value(recipe, facts) for name, value in row.settings.items()}
        settings = {name: value for name, value in values.items() if value is not None}
        found.append(Became([_shown(recipe, name) for name in row.names], settings, row.note))
    if recipe.cluster.overrides:
        given = {f"++{name}": value for name, value in recipe.cluster.overrides.items()}
        found.append(Became(["cluster.overrides"], given, "as they are; they win"))
    return found


def _shown(recipe: Recipe, name: str) -> str:
    """A field with its value where the recipe gives one."""
    value = getattr(recipe.cluster, name.removeprefix("cluster.")) if "." in name else recipe.given.get(name)
    return name if value is None else f"{name} {value}"


def arguments(found: Iterable[Became]) -> list[str]:
    """The settings as arguments of `verl.trainer.main_ppo`."""
    return [f"{name}={_written(value)}" for item in found for name, value in item.settings.items()]


def _written(value: Any) -> str:
    """A value as Hydra reads it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_written, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "True", False: "False"}[value]
    if not isinstance(value, str) or PLAIN.fullmatch(value):
        return str(value)
    return "'" + value.replace("'", "\\'") + "'"

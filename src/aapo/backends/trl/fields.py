"""The fields of TRL's configuration that recipes may set beside those that `aapo` reads itself.

Recipes are read without TRL, so names and types are kept in `recipe/trainer_fields.json`; after an upgrade of TRL,
`python -m aapo.backends.trl.fields` writes it anew.
"""

import json
import types
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

from trl import GRPOConfig

from aapo.files import write_text
from aapo.recipe.recipe import PARTS, TRAINER_TYPES

FILE = Path(__file__).parents[2] / "recipe" / "trainer_fields.json"


def trainer_fields() -> dict[str, list[str]]:
    """The fields by name, each with the names of its types, keys of `TRAINER_TYPES`."""
    hints = typing.get_type_hints(GRPOConfig)
    ours = {item.name for config in PARTS.values() for item in fields(config)}
    return {
        item.name: sorted({_name(kind) for kind in _options(hints[item.name])})
        for item in fields(GRPOConfig)
        if item.init and item.name not in ours
    }


def _options(kind: Any) -> list[Any]:
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return list(typing.get_args(kind)) if union else [kind]


def _name(kind: Any) -> str:
    if kind is types.NoneType:
        return "none"
    if typing.get_origin(kind) is typing.Literal:
        return type(typing.get_args(kind)[0]).__name__
    names = {known: name for name, known in TRAINER_TYPES.items()}
    plain = typing.get_origin(kind) if typing.get_origin(kind) is dict else kind
    if isinstance(plain, type) and issubclass(plain, str):
        return "str"
    return names.get(plain, "any")


if __name__ == "__main__":
    write_text(FILE, json.dumps(trainer_fields(), indent=0) + "\n")

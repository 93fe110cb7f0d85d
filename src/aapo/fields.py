"""Settings from YAML and flags as the fields of dataclasses: names, types, ranges checked, errors of one line."""

import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, TypeVar

import yaml

from aapo.errors import InputError, nearest
from aapo.plainyaml import TwiceError, load_yaml
from aapo.ranges import check

Config = TypeVar("Config")


class Rule(NamedTuple):
    """Fields that do nothing with some settings.

    Attributes:
        names: The fields.
        reason: Why they do nothing with these settings; None where they do something.
        fix: What to do about it.
    """

    names: tuple[str, ...]
    reason: Callable[[Any], str | None]
    fix: str = "remove it"


def inert(rules: Iterable[Rule], settings: Any, names: Iterable[str]) -> dict[str, str]:
    """Those of the fields `names` that do nothing with `settings`, each with the reason."""
    asked = list(names)
    found = {name: rule.reason(settings) for rule in rules for name in rule.names if name in asked}
    return {name: reason for name, reason in found.items() if reason is not None}


def parse_flags(flags: Sequence[str], kinds: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`--field value` and `--field=value` pairs as a dictionary.

    Args:
        flags: As they stand on the command line.
        kinds: Types of the fields; the value of one that is a text is taken as it stands, but for `null`. Other values
            are read as YAML.

    Raises:
        InputError: Something is not a flag, or a flag has no value or is given twice.
    """
    result: dict[str, Any] = {}
    texts = {name for name, kind in (kinds or {}).items() if _is_text(kind)}
    items = list(flags)
    while items:
        flag = items.pop(0)
        if not flag.startswith("--"):
            raise InputError(f"unexpected argument {flag!r}; settings are given as --field value")
        key, separator, value = flag[2:].partition("=")
        if not separator:
            if not items:
                raise InputError(f"{flag} has no value; settings are given as --field value")
            value = items.pop(0)
        name, dot, entry = key.partition(".")
        key = name.replace("-", "_") + dot + entry  # an entry may be a file's name, whose dashes are its own
        if key in result:
            raise InputError(f"--{key} is given twice; leave one out")
        result[key] = flag_value(key, value) if key not in texts else None if value == "null" else value
    return result


def flag_value(key: str, text: str) -> Any:
    """What a flag's text stands for as YAML; a mapping or a list only where it has its brackets, as `{max_len: 4096}`.

    Raises:
        InputError: A mapping in it has a key twice.
    """
    try:
        value = load_yaml(text) if text.strip() else text  # an empty text is no null
    except TwiceError as error:
        raise InputError(f"--{key}: {error}") from error
    except (yaml.YAMLError, ValueError):  # such as 2025-13-01, which is no date
        return text
    return text if isinstance(value, (dict, list)) and text.lstrip()[0] not in "{[" else value


def _is_text(kind: Any) -> bool:
    """Whether a field takes texts and nothing else."""
    return set(typing.get_args(kind) if _is_union(kind) else [kind]) - {type(None)} == {str}


def read_mapping(text: str, what: str) -> dict[str, Any]:
    """The mapping that a YAML text holds.

    Args:
        text: The YAML.
        what: What it is, for messages, such as `recipe mine.yaml`.

    Raises:
        InputError: It is not valid, gives a key twice, or is not a mapping.
    """
    try:
        given = load_yaml(text)
    except TwiceError as error:
        raise InputError(f"{what}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise InputError(f"{what} is not a mapping of fields; write one `field: value` a line")
    return given


def make(config: type[Config], given: Mapping[str, Any], prefix: str = "") -> Config:
    """The dataclass `config` with the fields in `given`; a null leaves the default.

    Args:
        config: The dataclass.
        given: Values as YAML reads them.
        prefix: Put before a field's name in messages, such as `base_model.`.

    Raises:
        InputError: A field is unknown, of the wrong type or out of its range, or `config` refuses it.
    """
    kinds = field_types(config)
    for key in given:
        if key not in kinds:
            raise InputError(f"unknown field {prefix + str(key)!r}{nearest(str(key), kinds)}")
    return config(**{key: checked(key, value, kinds[key], prefix) for key, value in given.items() if value is not None})


def checked(key: str, value: Any, kind: Any, prefix: str = "") -> Any:
    """The value of the field `key` as its type, within its range; None as it is.

    Raises:
        InputError: It is of the wrong type or out of its range.
    """
    value = typed(prefix + key, value, kind)
    if value is not None:
        check(key, value, prefix)
    return value


def field_types(config: type) -> dict[str, Any]:
    """Type of every field that can be set."""
    hints = typing.get_type_hints(config)
    return {item.name: hints[item.name] for item in fields(config) if item.init}


def typed(key: str, value: Any, kind: Any) -> Any:
    """`value` as the field's type where YAML reads it as another (`1e-4` is text to YAML).

    A list may be given with commas, and one of a single item as the item; each item is typed as well.

    Raises:
        InputError: It does not fit.
    """
    allowed = list(typing.get_args(kind)) if _is_union(kind) else [kind]
    if value is None or typing.Any in allowed:
        return value
    plain = [typing.get_origin(option) or option for option in allowed]
    if isinstance(value, bool) and bool not in plain:
        if str not in plain:
            raise InputError(f"{key} is {value}; it must be {_names(plain)}")
        return "yes" if value else "no"  # as written: YAML reads a bare `no` as false
    if float in plain and isinstance(value, (str, int)) and int not in plain:
        try:
            return float(value)
        except (ValueError, OverflowError):
            if str not in plain:
                raise InputError(f"{key} is {value!r}; it must be a number") from None
    if list in plain and not isinstance(value, (dict, *(option for option in plain if option in _SCALARS))):
        return [_item(key, item, inner) for item, inner in _items(key, value, allowed[plain.index(list)])]
    known = [option for option in plain if isinstance(option, type)]
    if known and not isinstance(value, tuple(known)) and len(known) == len(plain):
        if str in known and not isinstance(value, (dict, list)):
            return str(value)
        raise InputError(f"{key} is {value!r}; it must be {_names(plain)}")
    return value


_SCALARS = (str, int, float, bool)


def _item(key: str, item: Any, kind: Any) -> Any:
    if item is None:
        raise InputError(f"{key} has an item without a value; write one, or remove it")
    return typed(key, item, kind)


def _items(key: str, value: Any, kind: Any) -> list[tuple[Any, Any]]:
    """The items of a list, each with the type that it must have; `value` may be text with commas or a single item."""
    (inner,) = typing.get_args(kind) or (typing.Any,)
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",")]
        value = parts if inner in (str, typing.Any) else [flag_value(key, part) for part in parts]
    return [(item, inner) for item in (value if isinstance(value, (list, tuple)) else [value])]


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _names(kinds: list[Any]) -> str:
    words = {
        int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list", dict: "a mapping",
    }  # fmt: skip
    return " or ".join(
        words.get(kind, getattr(kind, "__name__", str(kind))) for kind in kinds if kind is not type(None)
    )

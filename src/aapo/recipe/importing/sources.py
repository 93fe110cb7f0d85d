"""Published configurations and scripts as keys and values, and which code they are for."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aapo.errors import InputError
from aapo.fields import flag_value, read_mapping
from aapo.files import read_text

FORMATS = ("aapo", "gpg", "open-rs", "open-r1", "trl")
LAUNCHER_KEYS = {"distributed_type", "compute_environment", "num_machines"}


@dataclass(frozen=True)
class Source:
    """A file's settings.

    Attributes:
        path: The file.
        settings: Keys and values for the trainer.
        launcher: Keys and values for accelerate or torchrun.
        program: The script that is launched, for a shell script.
    """

    path: Path
    settings: dict[str, Any]
    launcher: dict[str, Any]
    program: str | None = None


def read_sources(paths: Sequence[Path]) -> list[Source]:
    """The files, scripts last, so that their flags win over the configurations that they name.

    Raises:
        InputError: A file is missing or is neither YAML nor a shell script that launches a Python program.
    """
    sources = [_script(path) if path.suffix == ".sh" else _configuration(path) for path in paths]
    return sorted(sources, key=lambda source: source.program is not None)


def _text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path} does not exist; check the path")
    return read_text(path, str(path))


def _configuration(path: Path) -> Source:
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"{path} is neither a .yaml configuration nor a .sh script")
    given = read_mapping(_text(path), str(path))
    if LAUNCHER_KEYS & set(given):
        return Source(path, {}, given)
    return Source(path, given, {})


def _script(path: Path) -> Source:
    """The first command in a script that launches a Python program."""
    joined = re.sub(r"\\\s*\n", " ", _text(path))
    for line in joined.splitlines():
        words = shlex.split(line, comments=True)
        place = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
        if place is not None:
            return Source(path, _flags(words[place + 1 :]), _flags(words[:place]), Path(words[place]).name)
    raise InputError(f"{path} launches no Python program; name the script with the accelerate launch line")


def _flags(words: Sequence[str]) -> dict[str, Any]:
    """`--key value`, `--key=value` and bare `--key`, which is true; the last of several, as a program reads them."""
    found: dict[str, Any] = {}
    for i, word in enumerate(words):
        if not word.startswith("--"):
            continue
        key, has_value, value = word[2:].partition("=")
        if not has_value:
            following = words[i + 1] if i + 1 < len(words) else "--"
            value = "true" if following.startswith("--") else following
        found[key.replace("-", "_")] = flag_value(key, value)
    return found


def recognise(sources: Sequence[Source]) -> str:
    """Which published code the settings are for, one of `FORMATS`."""
    settings: Mapping[str, Any] = {key: value for source in sources for key, value in source.settings.items()}
    programs = " ".join(source.program or "" for source in sources).lower()
    named = f"{programs} {settings.get('output_dir', '')}".lower()
    if "aapo" in named:
        return "aapo"
    if "gpg" in named or "min_inverse_alpha" in settings or "adjust_gd" in settings:
        return "gpg"
    if "open-rs" in str(settings.get("dataset_name")) or "openrs" in str(settings.get("hub_model_id")).lower():
        return "open-rs"
    return "open-r1" if "reward_funcs" in settings or "dataset_name" in settings else "trl"

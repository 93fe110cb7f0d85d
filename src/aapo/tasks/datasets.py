"""Training sets by name, with their columns pinned."""

from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import yaml

from aapo.fields import make

if TYPE_CHECKING:
    from aapo.tasks.prompts import DataConfig


@dataclass(frozen=True)
class NamedDataset:
    """Where a training set is and how its rows are read; the fields are those of `DataConfig`."""

    dataset_name: str
    prompt_column: str
    answer_column: str
    dataset_config: str | None = None
    dataset_data_dir: str | None = None
    unique_prompts: bool = False
    answer_convention: str | None = None


@cache
def named_datasets() -> dict[str, NamedDataset]:
    """The training sets that ship, by name."""
    text = (files("aapo") / "tasks" / "datasets.yaml").read_text(encoding="utf-8")
    return {name: make(NamedDataset, given) for name, given in yaml.safe_load(text).items()}


def pinned(config: "DataConfig") -> "DataConfig":
    """The configuration with the name of a shipped training set replaced by what it stands for.

    Fields that the configuration sets win. With `dataset_path` the rows are read from there.
    """
    named = named_datasets().get(config.dataset_name or "")
    if named is None:
        return config
    values = {item.name: getattr(named, item.name) for item in fields(NamedDataset)}
    given = {name: getattr(config, name) for name in values if name != "dataset_name" and getattr(config, name)}
    if config.dataset_path is not None:
        elsewhere = {"dataset_name": config.dataset_path, "dataset_config": None, "dataset_data_dir": None}
        return replace(config, dataset_path=None, **{**values, **given, **elsewhere})
    return replace(config, **{**values, **given})

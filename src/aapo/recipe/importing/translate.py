"""Published settings as a recipe, with the fate of every key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from aapo.errors import InputError, nearest
from aapo.recipe.importing.keys import (
    COSINE,
    DATASETS,
    DEAD_IN_AAPO,
    EXPLAINED,
    LOSSES,
    OTHER_LOSSES,
    REFUSED,
    RENAMED,
    REWARD_PARAMETERS,
    REWARD_PREFIXES,
    REWARDS,
)
from aapo.recipe.importing.sources import FORMATS, Source, recognise
from aapo.recipe.recipe import known_fields, resolve

SIMPLERL = "simplelr_"


class Fate(NamedTuple):
    """What became of a key: `taken`, `renamed`, `changed`, `explained` or `refused`; the new field or a sentence."""

    key: str
    kind: str
    note: str


@dataclass
class Imported:
    """A recipe and how it came about.

    Attributes:
        format: The published code that the settings are for.
        fields: The recipe.
        fates: Of every key of every file, in order.
        comments: What is said above a field in the recipe.
    """

    format: str
    fields: dict[str, Any] = field(default_factory=dict)
    fates: list[Fate] = field(default_factory=list)
    comments: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, name: str, value: Any, comment: str = "") -> None:
        """Set a field that comes from a key."""
        self.fields[name] = value
        if comment:
            self.comments[name] = comment
        kind = "changed" if comment else "taken" if key == name else "renamed"
        self.fates.append(Fate(key, kind, comment or name))

    def text(self, sources: Sequence[str]) -> str:
        """The recipe as YAML, with a header and its comments."""
        lines = [f"# From {', '.join(sources)} ({self.format})."]
        lines += [f"# {fate.key}: {fate.note}" for fate in self.fates if fate.kind == "explained"]
        for name, value in self.fields.items():
            if name in self.comments:
                lines += ["", f"# {self.comments[name]}"]
            lines.append(yaml.safe_dump({name: value}, sort_keys=False, allow_unicode=True, width=110).rstrip())
        return "\n".join(lines) + "\n"


def import_config(
    sources: Sequence[Source], *, format: str | None = None, exact: bool = False, given: Mapping[str, Any] | None = None
) -> Imported:
    """The recipe that does what published files say.

    Args:
        sources: The files, later ones win.
        format: One of `FORMATS`; recognised by default.
        exact: Reproduce what the published code does, with its bugs, where there is a name for them: the paired margin,
            the cosine reward in characters and without a clamp, and 1.0 for any answer to a gold that does not parse.
        given: Fields that are set whatever the files say.

    Raises:
        InputError: Keys are unknown or cannot be taken over, all named at once; or the recipe would be invalid.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"--format is {format!r}{nearest(format, FORMATS)}; it must be one of {', '.join(FORMATS)}")
    found = Imported(format or recognise(sources))
    settings = {key: value for source in sources for key, value in source.settings.items()}
    _algorithm(found, settings, exact)
    _data(found, settings)
    _rewards(found, settings, exact)
    known = set(known_fields())
    for key, value in settings.items():
        _one(found, key, value, known)
    for source in sources:
        found.fates += [Fate(key, "explained", _launched(key, value)) for key, value in source.launcher.items()]
    found.fields.update(given or {})
    refused = [fate for fate in found.fates if fate.kind == "refused" and fate.key not in (given or {})]
    if refused:
        raise InputError("; ".join(f"{fate.key}: {fate.note}" for fate in refused))
    if not found.fields.get("model_name_or_path"):
        raise InputError("model_name_or_path is empty in the files; add --model_name_or_path NAME")
    resolve("imported", found.fields)
    return found


def _algorithm(found: Imported, settings: dict[str, Any], exact: bool) -> None:
    """Algorithm, loss and scale; takes what it reads out of the settings."""
    if found.format == "aapo":
        found.fields["algorithm"] = "aapo-paired" if exact else "aapo"
        if not exact:
            found.comments["algorithm"] = "published: aapo-paired, the same gradient on average with more variance"
        for key, note in DEAD_IN_AAPO.items():
            if key in settings:
                found.fates.append(Fate(key, "explained", note))
                del settings[key]
    elif found.format == "gpg":
        found.fields["algorithm"] = "gpg"
        found.fields["min_live_frac"] = 0.0
        for key in ("adjust_gd", "adjust_lr"):
            if key in settings:
                found.put(key, "rescale_dead_groups", bool(settings.pop(key)), "GPG's alpha")
        found.fields.setdefault("rescale_dead_groups", False)
        if "min_inverse_alpha" in settings:
            found.put("min_inverse_alpha", "min_live_frac", settings.pop("min_inverse_alpha"), "with at most 20 rounds")
            found.fields["max_refill_rounds"] = 20
        if settings.pop("scale_batch", False):
            found.put("scale_batch", "scale_rewards", "batch", "the standard deviation of the batch")
            settings.pop("scale_rewards", None)
    else:
        loss = settings.pop("loss_type", None)
        if loss is not None and loss not in LOSSES:
            found.fates.append(Fate("loss_type", "refused", f"{loss!r} has no counterpart; {_nearest_loss(loss)}"))
        found.fields |= LOSSES.get(str(loss), LOSSES["grpo"])
        if loss is not None:
            found.fates.append(Fate("loss_type", "changed", f"algorithm {found.fields['algorithm']}"))
    scale = settings.pop("scale_rewards", None)
    if scale is not None:
        found.put("scale_rewards", "scale_rewards", scale if isinstance(scale, str) else "group" if scale else "none")


def _nearest_loss(loss: str) -> str:
    if loss in OTHER_LOSSES:
        return f"with one update a batch its gradient is that of loss_type {OTHER_LOSSES[loss]}, so set that"
    return "choose an algorithm"


def _data(found: Imported, settings: dict[str, Any]) -> None:
    """The data set and its prompts."""
    found.fields["num_eval_prompts"] = 0
    found.comments["num_eval_prompts"] = "train on every row, as published; evaluate with aapo eval"
    name = str(settings.get("dataset_name") or "")
    if SIMPLERL in name:
        short = name.rstrip("/").rpartition("/")[2].replace("_", "-")
        del settings["dataset_name"]
        found.put("dataset_name", "dataset_name", short, "read from the Hub; dataset_path names a copy on disk")
        style = "abel" if "abel" in short else "qwen-boxed"
        found.fields["prompt_style"] = style
        found.comments["prompt_style"] = "what the published script sends: the prompt that is stored with each row"
        for key, note in (
            ("system_prompt", f"reaches no model there, for the rows bring their prompt; here prompt_style {style}"),
            ("dataset_config", "the script always reads train.parquet"),
        ):
            if settings.pop(key, None) is not None:
                found.fates.append(Fate(key, "explained", note))
    elif name in DATASETS:
        del settings["dataset_name"]
        found.put("dataset_name", "dataset_name", DATASETS[name], f"{name} with its columns pinned")
    if settings.get("max_prompt_length") is not None:
        found.fields["drop_long_prompts"] = True
        found.comments["drop_long_prompts"] = "longer ones are dropped and counted"


def _rewards(found: Imported, settings: dict[str, Any], exact: bool) -> None:
    """Reward functions and their parameters."""
    names = settings.pop("reward_funcs", None)
    if names is None:
        return
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in REWARDS]
    if unknown:
        note = f"{', '.join(unknown)} not known; known are {', '.join(REWARDS)}; your own is path/to/file.py:function"
        found.fates.append(Fate("reward_funcs", "refused", note))
        return
    found.put("reward_funcs", "reward_funcs", [REWARDS[name] for name in names])
    kwargs: dict[str, dict[str, Any]] = {}
    if "cosine" in names:
        kwargs["cosine"] = dict(COSINE)
    for key in [key for key in settings if key.startswith(tuple(REWARD_PREFIXES))]:
        prefix = next(prefix for prefix in REWARD_PREFIXES if key.startswith(prefix))
        reward, parameter = REWARD_PREFIXES[prefix], key.removeprefix(prefix)
        value = settings.pop(key)
        if reward not in found.fields["reward_funcs"]:
            found.fates.append(Fate(key, "explained", f"{reward} is not among the reward functions"))
            continue
        parameter = REWARD_PARAMETERS.get(parameter, parameter)
        kwargs.setdefault(reward, {})[parameter] = value
        found.fates.append(Fate(key, "renamed", f"reward_kwargs.{reward}.{parameter}"))
    if exact:
        for name in ("accuracy", "cosine"):
            if name in found.fields["reward_funcs"]:
                grader = "accuracy_lv35" if "accuracy_lv35" in names else "open_r1"
                kwargs.setdefault(name, {}).update(grader=grader, unparseable_gold=1.0)
        if "cosine" in kwargs:
            kwargs["cosine"] = {"max_len": 1000, **kwargs["cosine"], "length_unit": "characters", "clamp": False}
    elif "cosine" in kwargs:
        kwargs["cosine"].setdefault("max_len", settings.get("max_completion_length", 1000))
        found.comments["reward_kwargs"] = (
            "cosine: in tokens up to max_len; published: characters without a clamp, periodic in the length"
        )
    if kwargs:
        found.fields["reward_kwargs"] = kwargs


def _one(found: Imported, key: str, value: Any, known: set[str]) -> None:
    """The fate of a key that no rule has taken."""
    if value is None:
        found.fates.append(Fate(key, "explained", "empty"))
    elif key in REFUSED:
        found.fates.append(Fate(key, "refused", REFUSED[key]))
    elif key in EXPLAINED:
        found.fates.append(Fate(key, "explained", EXPLAINED[key]))
    elif key == "report_to":
        found.put(key, key, value)
    elif key in RENAMED:
        found.put(key, RENAMED[key], value)
    elif key in known:
        found.put(key, key, value)
    else:
        everything = {*known, *RENAMED, *EXPLAINED, *REFUSED}
        found.fates.append(Fate(key, "refused", f"unknown{nearest(key, everything)}; remove it"))


def _launched(key: str, value: Any) -> str:
    """What a launcher's setting is here."""
    if key == "deepspeed_config" and isinstance(value, dict):
        offload = "-offload" if value.get("offload_optimizer_device") == "cpu" else ""
        return f"launch with `aapo launchers zero{value.get('zero_stage', 2)}{offload}`"
    if key == "num_processes":
        return f"accelerate launch --num_processes {value}"
    return "of the launcher: docs/launch.md"

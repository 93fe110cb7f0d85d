"""Recipes: YAML with TRL's and Transformers' field names and ours, resolved into checked configuration objects."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from importlib.resources import files
from operator import or_
from pathlib import Path
from typing import Any

from aapo.base.config import BaseModelConfig
from aapo.errors import InputError, nearest
from aapo.fields import checked, field_types, make, parse_flags, read_mapping
from aapo.files import read_text
from aapo.grading import RewardFunction, reward_functions, reward_name, with_convention
from aapo.recipe.cluster import ClusterSettings
from aapo.recipe.effects import refuse, without_effect
from aapo.recipe.model import ModelSettings
from aapo.recipe.training import TrainingSettings
from aapo.runs import RunDirectory
from aapo.sampling import SamplingSettings
from aapo.tasks import DataConfig, pinned, with_style

SHIPPED = files("aapo") / "recipes"


@dataclass
class RunConfig:
    """What a recipe says beyond data, model and trainer.

    Attributes:
        backend: What trains: trl, on one machine; verl, on one or many.
        cluster: The machines of the backend verl: `ClusterSettings`.
        base_model: Settings of a small base model made here, instead of `model_name_or_path`.
        prompt_style: Named system prompt, prompt template and conversational; each of them, where set, wins.
        reward_funcs: Names of reward functions.
        reward_kwargs: Parameters of reward functions, by name as in `reward_funcs`: `{cosine: {max_len: 4096}}`.
        reward_failure: What an exception in a reward function does: `fail` ends the run, `skip` leaves the sample out.
        reference_bank: Folder of a bank; by default the cache's bank for exactly these settings, built when needed.
        num_reference_samples: K, reference samples per prompt.
        reference_seed: Seed of the reference samples.
        reference_model_name_or_path: The frozen reference; by default the model that training starts from.
        reference_model_revision: Revision of a Hub reference model.
        preflight: What is done where the bank says that nothing can be learnt: `stop` ends the run before its first
            step, `warn` only says so, `off` neither looks nor prints.
        min_reference_pass_rate: Train on prompts that the reference model solves at least so often, in [0, 1].
        max_reference_pass_rate: Likewise at most so often.
        eval_num_samples: Samples per held-out prompt.
        eval_seed: Seed of the evaluation's samples.
        eval_temperature: Temperature of the evaluation; the training's by default.
        generation_batch_limit: Sequences sampled at once when a bank is built or a model evaluated; halved when they do
            not fit.
        max_generated_tokens: Training ends after the step in which this many completion tokens have been generated for
            it, unless max_steps comes first; so that runs of different algorithms can be compared at equal cost.
        max_training_seconds: Likewise after this many seconds of training.
        bank_cost_share: Share in [0, 1] of what the reference samples cost that counts against the two: 1 as if no
            other run read them, less where others share them, 0 as if they were free.
    """

    backend: str = "trl"
    cluster: dict[str, Any] | None = None
    base_model: dict[str, Any] | None = None
    prompt_style: str | None = None
    reward_funcs: list[str] = field(default_factory=lambda: ["accuracy"])
    reward_kwargs: dict[str, Any] | None = None
    reward_failure: str = "fail"
    reference_bank: str | None = None
    num_reference_samples: int = 4
    reference_seed: int = 0
    reference_model_name_or_path: str | None = None
    reference_model_revision: str | None = None
    preflight: str = "stop"
    min_reference_pass_rate: float | None = None
    max_reference_pass_rate: float | None = None
    eval_num_samples: int = 4
    eval_seed: int = 0
    eval_temperature: float | None = None
    generation_batch_limit: int = 256
    max_generated_tokens: int | None = None
    max_training_seconds: float | None = None
    bank_cost_share: float = 1.0

    def __post_init__(self) -> None:
        """Take the `no` that YAML makes of a bare `off` for what it was."""
        if self.preflight == "no":
            self.preflight = "off"


PARTS = {"run": RunConfig, "data": DataConfig, "model": ModelSettings, "training": TrainingSettings}
# What a trainer reads beside `TrainingSettings`: names and types of TRL's and Transformers' other fields.
TRAINER_FIELDS: dict[str, list[str]] = json.loads(
    (files("aapo") / "recipe" / "trainer_fields.json").read_text(encoding="utf-8")
)
TRAINER_TYPES = {
    "bool": bool, "int": int, "float": float, "str": str, "dict": dict, "list[str]": list[str], "none": None,
    "any": Any,
}  # fmt: skip
# The backend that has a cluster.
CLUSTERED = "verl"
# The recipe whose fields this one starts from.
EXTENDS = "extends"
# What the run uses, which algorithm and defaults may have changed or filled in.
BATCH_FIELDS = (
    "num_generations", "per_device_train_batch_size", "gradient_accumulation_steps", "generation_batch_size",
    "max_refill_rounds",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe.

    Attributes:
        name: Of the file or shipped recipe, for run directories.
        given: The fields that were written, flags included, each of its type; enough to resolve it again.
        run: Our own settings.
        data: Where prompts come from.
        model: The model, and how it is loaded.
        training: The algorithm and what it learns from.
        trainer: Settings that only the trainer reads, such as the optimizer's, by TRL's names.
        base_model: Settings of the base model that is made here, or None.
        cluster: The machines, for the backend verl.
    """

    name: str
    given: dict[str, Any]
    run: RunConfig
    data: DataConfig
    model: ModelSettings
    training: TrainingSettings
    trainer: dict[str, Any]
    base_model: BaseModelConfig | None
    cluster: ClusterSettings | None

    @property
    def reward_funcs(self) -> list[RewardFunction]:
        """The reward functions, with their parameters."""
        return reward_functions(self.run.reward_funcs, self.run.reward_kwargs, self.run.reward_failure)

    @property
    def uses_bank(self) -> bool:
        """Whether training reads a reference bank: for its margin, its choice of prompts, or a filter by pass rate."""
        training = self.training
        return (training.objective.needs_reference and training.reference == "bank") or self.reads_whole_bank

    @property
    def reads_whole_bank(self) -> bool:
        """Whether the reference's pass rates choose the prompts, so that those of all are needed before training."""
        training = self.training
        return training.curriculum is not None or self.filters_prompts or training.sample_prior == "bank"

    @property
    def filters_prompts(self) -> bool:
        """Whether prompts are chosen by the reference model's pass rate."""
        return self.run.min_reference_pass_rate is not None or self.run.max_reference_pass_rate is not None

    @property
    def eval_sampling(self) -> SamplingSettings:
        """The sampling settings of the evaluation."""
        temperature = self.run.eval_temperature
        settings = self.training.sampling
        return settings if temperature is None else replace(settings, temperature=temperature)

    def resolved(self) -> dict[str, Any]:
        """What the recipe sets, the batch it makes and every field of ours, for `recipe.yaml` and `--dry-run`.

        Among the fields is the number of processes that the batch is meant for, so that a run keeps it when it goes on.
        """
        ours = {**asdict(self.run), **asdict(self.data), "base_model": self.base_model and asdict(self.base_model)}
        point = {"algorithm": self.training.algorithm, **self.training.named.describe()}
        batch = {name: getattr(self.training, name) for name in BATCH_FIELDS}
        given = {**self.given, "num_processes": self.training.num_processes}
        return {"recipe": self.name, "fields": given, "objective": point, "batch": batch, "with_defaults": ours}


def shipped_recipes() -> dict[str, str]:
    """Text of each shipped recipe by name."""
    return {
        Path(entry.name).stem: entry.read_text(encoding="utf-8")
        for entry in sorted(SHIPPED.iterdir(), key=lambda item: item.name)
        if entry.name.endswith(".yaml")
    }


def load_recipe(source: str, flags: Sequence[str] = ()) -> Recipe:
    """The recipe at a path, of a shipped name, or of a run directory, with `--field value` flags applied.

    Raises:
        InputError: Recipe or field unknown, a value of the wrong type, or settings that do not go together.
    """
    return resolve(*read_recipe(source, flags))


def read_recipe(source: str, flags: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """Name and fields of a recipe that `load_recipe` would resolve.

    Raises:
        InputError: There is none, or it is no mapping of fields.
    """
    name, given = _read(source)
    for path, value in recipe_flags(flags).items():
        set_field(given, path, value)
    return name, given


def recipe_flags(flags: Sequence[str]) -> dict[str, Any]:
    """The fields that `--field value` flags set, those that are texts as they stand.

    Raises:
        InputError: As `parse_flags`.
    """
    return parse_flags(flags, {key: kind for key, (_, kind) in known_fields().items()})


def resolve(name: str, given: dict[str, Any], *, drop: bool = False) -> Recipe:
    """The recipe that the fields in `given` make.

    Args:
        name: Of the recipe.
        given: Its fields.
        drop: Leave out fields that have no effect with the others, instead of refusing them.

    Raises:
        InputError: A field is unknown or of the wrong type, or settings do not go together.
    """
    recipe = _made(name, given)
    while found := without_effect(recipe):
        if not drop:
            refuse(found, recipe.given)
        recipe = _made(name, {key: value for key, value in recipe.given.items() if key not in found})
    _check_together(recipe)
    return recipe


def known_fields() -> dict[str, tuple[str, Any]]:
    """Every field that a recipe can set, with the part that it belongs to and its type."""
    ours = {key: (part, kind) for part, config in PARTS.items() for key, kind in field_types(config).items()}
    kinds = {key: [TRAINER_TYPES[name] for name in names] for key, names in TRAINER_FIELDS.items()}
    return {**{key: ("trainer", reduce(or_, options)) for key, options in kinds.items()}, **ours}


def _made(name: str, given: dict[str, Any]) -> Recipe:
    """The recipe of these fields, each checked by itself."""
    given, parts = dict(given), {part: {} for part in (*PARTS, "trainer")}
    types_of = known_fields()
    for key, value in given.items():
        if key not in types_of:
            raise InputError(f"unknown field {key!r}{nearest(str(key), types_of)}")
        if value is None:
            continue
        part, kind = types_of[key]
        given[key] = parts[part][key] = checked(key, value, kind)
    run = RunConfig(**parts["run"])
    prompts = with_style({"prompt_style": run.prompt_style, **parts["data"]})
    prompts.pop("choice_template", None)  # training prompts have no lettered options
    data = DataConfig(**prompts)
    run.reward_kwargs = with_convention(run.reward_funcs, run.reward_kwargs, pinned(data).answer_convention)
    cluster = make(ClusterSettings, run.cluster or {}, "cluster.") if run.backend == CLUSTERED else None
    training = TrainingSettings(**parts["training"], processes=cluster and cluster.num_processes)
    base = None if run.base_model is None else make(BaseModelConfig, run.base_model, "base_model.")
    return Recipe(name, given, run, data, ModelSettings(**parts["model"]), training, parts["trainer"], base, cluster)


def _check_together(recipe: Recipe) -> None:
    """Refuse what is missing in this combination, and what does not go together."""
    if recipe.base_model is None and not recipe.model.model_name_or_path:
        raise InputError("model_name_or_path is missing; name a local folder or Hub model, or set base_model")
    if recipe.base_model is not None and recipe.model.model_name_or_path:
        raise InputError("model_name_or_path and base_model are both set; the model can only be one, remove the other")
    if recipe.base_model is not None and not recipe.data.is_generated:
        raise InputError("base_model needs a generated task to learn from; set dataset_name to reasoning_gym:TASK")
    if recipe.model.load_in_4bit and recipe.model.load_in_8bit:
        raise InputError("load_in_4bit and load_in_8bit are both true; set one of them")
    low, high = recipe.run.min_reference_pass_rate, recipe.run.max_reference_pass_rate
    if low is not None and high is not None and low > high:
        raise InputError(
            f"min_reference_pass_rate is {low} and max_reference_pass_rate {high}; they must be 0 <= min <= max <= 1"
        )
    if recipe.training.sync_ref_model and recipe.model.use_peft:
        raise InputError(
            "sync_ref_model does not go with use_peft, whose reference is the model without its adapters; remove one"
        )
    mixed = recipe.training.bf16 or recipe.training.fp16
    if str(recipe.model.dtype) in ("bfloat16", "float16") and not (mixed or recipe.model.use_peft):
        raise InputError(
            f"dtype is {recipe.model.dtype} and bf16 false, so weights would be trained in 16 bits, where an update of "
            "1e-6 moves next to none; set bf16 to true, which computes in 16 bits from float32 weights, or dtype to "
            "float32"
        )
    if recipe.data.num_eval_prompts == 0 and recipe.training.eval_strategy != "no":
        raise InputError("eval_strategy has no prompts to evaluate on, because num_eval_prompts is 0; set one of them")
    names = [reward_name(function) for function in recipe.reward_funcs]
    recipe.training.check_judge(names, filters=recipe.filters_prompts)
    if recipe.data.num_eval_prompts and recipe.run.eval_num_samples > 1 and recipe.run.eval_temperature == 0:
        raise InputError(
            f"eval_num_samples is {recipe.run.eval_num_samples} and eval_temperature 0, so that all samples of a "
            "prompt are the same; set eval_num_samples to 1"
        )
    weights = recipe.training.reward_weights
    if weights is not None and len(weights) != len(recipe.run.reward_funcs):
        raise InputError(
            f"reward_weights has {len(weights)} entries and reward_funcs {len(recipe.run.reward_funcs)}; give one "
            "weight per function"
        )


def _read(source: str) -> tuple[str, dict[str, Any]]:
    """Name and fields of a recipe, before flags."""
    run = RunDirectory(source)
    if run.recipe_file.exists():
        stored = run.recipe("recipe")
        return stored["recipe"], dict(stored["fields"])
    return _extended(source, ())


def _extended(source: str, extending: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Name and fields of a recipe and of what it extends, whose fields it replaces.

    A mapping is replaced whole, and null takes a field back to its default.
    """
    name, text = _named(source)
    if name in extending:
        raise InputError(f"recipe {source} extends itself: {' -> '.join((*extending, name))}; remove one of them")
    given = read_mapping(text, f"recipe {source}")
    if EXTENDS not in given:
        return name, given
    parent = given.pop(EXTENDS)
    if not isinstance(parent, str):
        raise InputError(f"{EXTENDS} in recipe {source} is {parent!r}; it must be the name or path of one recipe")
    beside = Path(source).parent / parent
    return name, {**_extended(str(beside) if beside.is_file() else parent, (*extending, name))[1], **given}


def _named(source: str) -> tuple[str, str]:
    """Name and text of the recipe at a path or of a shipped name."""
    path, shipped = Path(source), shipped_recipes()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise InputError(f"recipe {source} does not exist; check the path")
        name, text = path.stem, read_text(path, f"recipe {source}")
    elif source in shipped:
        name, text = source, shipped[source]
    else:
        raise InputError(
            f"unknown recipe {source!r}{nearest(source, shipped)}; shipped are {', '.join(shipped)}; your own is named "
            "by the path of its .yaml file"
        )
    return name, text


def set_field(given: dict[str, Any], path: str, value: Any) -> None:
    """Set a field, or an entry of a mapping field by `field.entry`.

    Raises:
        InputError: The field is no mapping.
    """
    key, _, entry = path.partition(".")
    if not entry:
        given[key] = value
        return
    inner = given.get(key) or {}
    if not isinstance(inner, dict):
        raise InputError(f"{path} is an entry of {key}, which is {inner!r} and has none; set {key} itself")
    given[key] = {**inner, entry: value}

"""Recipes: YAML with TRL's and Transformers' field names and ours, resolved into checked configuration objects."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from torch.accelerator import is_available as accelerator_available
from trl import ModelConfig

from aapo.backends.trl.checks import check_judge
from aapo.backends.trl.config import AAPOConfig
from aapo.base import BaseModelConfig
from aapo.errors import InputError, nearest
from aapo.fields import field_types, make, parse_flags, read_mapping, typed
from aapo.grading import RewardFunction, check_reward_names, reward_function, reward_name, with_convention
from aapo.sampling import SamplingSettings
from aapo.tasks import DataConfig, pinned, with_style

SHIPPED = files("aapo") / "recipes"


@dataclass
class RunConfig:
    """What a recipe says beyond data, model and trainer.

    Attributes:
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
    """

    base_model: dict[str, Any] | None = None
    prompt_style: str | None = None
    reward_funcs: list[str] = field(default_factory=lambda: ["accuracy"])
    reward_kwargs: dict[str, Any] | None = None
    reward_failure: str = "fail"
    reference_bank: str | None = None
    num_reference_samples: int = 8
    reference_seed: int = 0
    reference_model_name_or_path: str | None = None
    reference_model_revision: str | None = None
    min_reference_pass_rate: float | None = None
    max_reference_pass_rate: float | None = None
    eval_num_samples: int = 4
    eval_seed: int = 0
    eval_temperature: float | None = None
    generation_batch_limit: int = 256
    max_generated_tokens: int | None = None
    max_training_seconds: float | None = None


PARTS = {"run": RunConfig, "data": DataConfig, "model": ModelConfig, "training": AAPOConfig}
# Where a recipe's defaults differ from TRL's: every step is logged, progress is ours, old checkpoints go.
TRAINER_DEFAULTS = {
    "output_dir": "runs", "report_to": "none", "logging_steps": 1, "disable_tqdm": True, "save_total_limit": 2,
    "ddp_find_unused_parameters": False,
}  # fmt: skip
# The recipe whose fields this one starts from.
EXTENDS = "extends"
# What only a bank reads.
BANK_FIELDS = (
    "reference_bank", "num_reference_samples", "reference_seed", "reference_model_name_or_path",
    "reference_model_revision",
)  # fmt: skip
# What chooses prompts by the reference model's pass rates, with or without a margin.
CHOICE_FIELDS = ("weighted_sample", "curriculum", "min_reference_pass_rate", "max_reference_pass_rate")
# What the run uses, which algorithm and defaults may have changed or filled in.
BATCH_FIELDS = (
    "num_generations", "per_device_train_batch_size", "gradient_accumulation_steps", "generation_batch_size",
    "max_refill_rounds",
)  # fmt: skip
# Set from the run directory; a recipe that set them would be overruled.
FIXED = {"rollouts_dir": "rollouts are always written to the run directory"}


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe.

    Attributes:
        name: Of the file or shipped recipe, for run directories.
        given: The fields that were written, flags included, each of its type; enough to resolve it again.
        run: Our own settings.
        data: Where prompts come from.
        model: TRL's ModelConfig.
        training: The trainer's configuration.
        base_model: Settings of the base model that is made here, or None.
    """

    name: str
    given: dict[str, Any]
    run: RunConfig
    data: DataConfig
    model: ModelConfig
    training: AAPOConfig
    base_model: BaseModelConfig | None

    @property
    def reward_funcs(self) -> list[RewardFunction]:
        """The reward functions, with their parameters."""
        return reward_functions(self.run.reward_funcs, self.run.reward_kwargs, self.run.reward_failure)

    @property
    def uses_bank(self) -> bool:
        """Whether training reads a reference bank: for its margin, its choice of prompts, or a filter by pass rate.

        Prompts drawn by weight alone read one only if the recipe says which.
        """
        training = self.training
        return (
            (training.objective.needs_reference and training.reference == "bank")
            or training.curriculum is not None
            or self.filters_prompts
            or (training.weighted_sample and any(self.given.get(key) is not None for key in BANK_FIELDS))
        )

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
        """What the recipe sets, the batch it makes and every field of ours, for `recipe.yaml` and `--dry-run`."""
        ours = {**asdict(self.run), **asdict(self.data), "base_model": self.base_model and asdict(self.base_model)}
        point = {"algorithm": self.training.algorithm, **self.training.objective.describe()}
        batch = {name: getattr(self.training, name) for name in BATCH_FIELDS}
        return {"recipe": self.name, "fields": self.given, "objective": point, "batch": batch, "with_defaults": ours}


def reward_functions(names: Sequence[str], kwargs: Mapping[str, Any] | None, failure: str) -> list[RewardFunction]:
    """The reward functions of these names.

    Args:
        names: Shipped ones, `package.module:function` or `path/to/file.py:function`.
        kwargs: Parameters by name as in `names`.
        failure: fail or skip.

    Raises:
        InputError: One is unknown, or does not take these parameters; or parameters are for none of them.
    """
    for name, parameters in (kwargs or {}).items():
        if name not in names:
            raise InputError(
                f"reward_kwargs has parameters for {name!r}{nearest(name, names)}; reward_funcs are {', '.join(names)}"
            )
        if not isinstance(parameters, dict):
            raise InputError(
                f"reward_kwargs.{name} is {parameters!r}; it must be a mapping of parameters, such as {{max_len: 4096}}"
            )
    functions = [reward_function(name, (kwargs or {}).get(name), failure) for name in names]
    check_reward_names(functions)
    return functions


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
    name, given = _read(source)
    for path, value in parse_flags(flags).items():
        _set(given, path, value)
    return resolve(name, given)


def resolve(name: str, given: dict[str, Any]) -> Recipe:
    """The recipe that the fields in `given` make."""
    given, parts = dict(given), {part: {} for part in PARTS}
    types_of = {key: (part, kind) for part, config in PARTS.items() for key, kind in field_types(config).items()}
    for key, value in given.items():
        if value is None:
            continue
        if key not in types_of:
            raise InputError(f"unknown field {key!r}{nearest(key, types_of)}")
        if key in FIXED:
            raise InputError(f"{key} cannot be set, because {FIXED[key]}; remove it")
        part, kind = types_of[key]
        given[key] = parts[part][key] = typed(key, value, kind)
    run = RunConfig(**parts["run"])
    prompts = with_style({"prompt_style": run.prompt_style, **parts["data"]})
    prompts.pop("choice_template", None)  # training prompts have no lettered options
    data = DataConfig(**prompts)
    run.reward_kwargs = with_convention(run.reward_funcs, run.reward_kwargs, pinned(data).answer_convention)
    model = ModelConfig(**parts["model"])
    try:
        training = AAPOConfig(**{**TRAINER_DEFAULTS, "use_cpu": not accelerator_available(), **parts["training"]})
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(str(error).replace("\n", " ")) from error
    base = None if run.base_model is None else make(BaseModelConfig, run.base_model, "base_model.")
    recipe = Recipe(name, given, run, data, model, training, base)
    _check_together(recipe, given)
    return recipe


def _check_together(recipe: Recipe, given: dict[str, Any]) -> None:
    """Refuse what is missing and what has no effect in this combination."""
    if recipe.base_model is None and not recipe.model.model_name_or_path:
        raise InputError("model_name_or_path is missing; name a local folder or Hub model, or set base_model")
    if recipe.base_model is not None and recipe.model.model_name_or_path:
        raise InputError("model_name_or_path and base_model are both set; the model can only be one, remove the other")
    if recipe.base_model is not None and not recipe.data.is_generated:
        raise InputError("base_model needs a generated task to learn from; set dataset_name to reasoning_gym:TASK")
    if not recipe.uses_bank:
        why = "reference is live" if recipe.training.objective.needs_reference else "the objective has no margin"
        for key in BANK_FIELDS:
            if given.get(key) is not None:
                raise InputError(f"{key} has no effect, because {why}; remove it, or set it to null")
    low, high = recipe.run.min_reference_pass_rate, recipe.run.max_reference_pass_rate
    bounds = (0.0 if low is None else low, 1.0 if high is None else high)
    if not 0 <= bounds[0] <= bounds[1] <= 1:
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
    if recipe.training.use_liger_kernel:
        raise InputError("use_liger_kernel has no effect with this trainer's losses; remove it")
    if recipe.data.num_eval_prompts == 0:
        for key in ("eval_num_samples", "eval_seed", "eval_temperature"):
            if given.get(key) is not None:
                raise InputError(f"{key} has no effect, because num_eval_prompts is 0; remove it, or set it to null")
    if recipe.data.num_eval_prompts == 0 and recipe.training.eval_strategy != "no":
        raise InputError("eval_strategy has no prompts to evaluate on, because num_eval_prompts is 0; set one of them")
    names = [reward_name(function) for function in recipe.reward_funcs]
    check_judge(recipe.training, names, filters=recipe.filters_prompts)
    if recipe.run.num_reference_samples < 1 or recipe.run.eval_num_samples < 1:
        raise InputError("num_reference_samples and eval_num_samples must be >= 1")
    weights = recipe.training.reward_weights
    if weights is not None and len(weights) != len(recipe.run.reward_funcs):
        raise InputError(
            f"reward_weights has {len(weights)} entries and reward_funcs {len(recipe.run.reward_funcs)}; give one "
            "weight per function"
        )


def _read(source: str) -> tuple[str, dict[str, Any]]:
    """Name and fields of a recipe, before flags."""
    path = Path(source)
    if path.is_dir() and (path / "recipe.yaml").exists():
        stored = yaml.safe_load((path / "recipe.yaml").read_text(encoding="utf-8"))
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
        name, text = path.stem, path.read_text(encoding="utf-8")
    elif source in shipped:
        name, text = source, shipped[source]
    else:
        raise InputError(
            f"unknown recipe {source!r}{nearest(source, shipped)}; shipped are {', '.join(shipped)}; your own is named "
            "by the path of its .yaml file"
        )
    return name, text


def _set(given: dict[str, Any], path: str, value: Any) -> None:
    """Set a field, or an entry of a mapping field by `field.entry`."""
    key, _, entry = path.partition(".")
    if not entry:
        given[key] = value
        return
    inner = dict(given.get(key) or {})
    inner[entry] = value
    given[key] = inner

"""What draws a recipe's rollouts and why, and how fast all are that could."""

import importlib.util
import time
from collections.abc import Iterator, Sequence
from typing import Any

from accelerate import PartialState

from aapo.engines.opening import open_engine
from aapo.engines.transformers import TransformersEngine
from aapo.engines.ways import WAYS, Way, asked_way, choose_way
from aapo.errors import InputError
from aapo.recipe import Recipe
from aapo.records import Engine, Prompt
from aapo.sampling import SamplingSettings, sample_seed
from aapo.training.findings import Finding
from aapo.training.models import model_path, model_spec

ROUNDS = 3
# Another way is worth a line from here on.
FASTER = 1.1
PAGE = "docs/performance.md"


def engine_finding(recipe: Recipe, model: Any = None) -> Finding:
    """What would draw the recipe's rollouts.

    Args:
        recipe: Says how.
        model: The model with its generation configuration, weights or none; None where it is not here.
    """
    training = recipe.training
    if training.use_vllm and importlib.util.find_spec("vllm") is None:
        text = "use_vllm is true, and vllm is not installed"
        return Finding("error", "engine", text, "pip install 'aapo[vllm]', or leave use_vllm out", "docs/launch.md")
    if training.use_vllm:
        text = f"rollouts and bank are sampled by vLLM (vllm_mode {training.vllm_mode}), because use_vllm is true"
        return Finding("ok", "engine", text)
    if recipe.given.get("use_transformers_continuous_batching"):
        text = "rollouts are sampled by Transformers' continuous batching, as use_transformers_continuous_batching asks"
        return Finding("note", "engine", f"{text}; resumed, a run draws others", "", PAGE)
    text = "rollouts and bank are sampled by Transformers, because use_vllm is false"
    if model is None:
        return Finding("ok", "engine", text)
    try:
        choice = choose_way(
            model, training.sampling, recipe.given.get("cache_implementation"), asked_way(training.engine)
        )
    except InputError as error:
        return Finding("error", "engine", str(error), "", PAGE)
    return Finding("ok", "engine", f"{text}; rollouts by {choice.way}, because {choice.why}")


def speed_findings(recipe: Recipe, tokenizer: Any, prompts: Sequence[Prompt]) -> Iterator[Finding]:
    """How fast each way that could draws the first rollouts of one process, and vLLM where it is installed.

    The model is loaded. The ways take turns, and of each the fastest of three rounds counts.

    Args:
        recipe: Says which model and settings.
        tokenizer: The model's.
        prompts: The recipe's, in the order of the data.

    Raises:
        InputError: The model cannot be loaded.
    """
    training = recipe.training
    rows = training.per_device_train_batch_size * (training.steps_per_generation or 1)
    chosen = [prompts[i // training.num_generations % len(prompts)].ids for i in range(rows)]
    seeds = [sample_seed(training.seed, "doctor", i) for i in range(rows)]
    rates = _rates(recipe, tokenizer, chosen, seeds)
    shown = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    yield Finding("ok", "engine speed", f"useful tokens a second of {rows} rollouts: {shown}", "", PAGE)
    taken, best = "vllm" if training.use_vllm else next(iter(rates)), max(rates, key=lambda name: rates[name])
    if rates[best] > FASTER * rates[taken]:
        advice = "use_vllm draws other samples" if best == "vllm" else f"set engine to {best}"
        text = f"{best} draws {rates[best] / rates[taken]:.1f} times as fast here as {taken}, which would be taken"
        yield Finding("note", "engine", text, advice, PAGE)


def _rates(
    recipe: Recipe, tokenizer: Any, prompt_ids: Sequence[Sequence[int]], seeds: Sequence[int]
) -> dict[str, float]:
    """Useful tokens a second by way; the one that would be taken comes first."""
    training, spec = recipe.training, model_spec(recipe, model_path(recipe), recipe.model.model_revision)
    size, rates = len(prompt_ids), dict[str, float]()
    model = spec.load(PartialState().device)
    taken = choose_way(model, training.sampling, asked=asked_way(training.engine)).way
    ways: list[Way] = [taken, *(way for way in WAYS if way != taken and _possible(model, training.sampling, way))]
    engine = TransformersEngine(model, tokenizer, training.sampling, size)
    for way in ways * ROUNDS:
        engine.way = way
        rates[way] = max(_rate(engine, prompt_ids, seeds), rates.get(way, 0.0))
    del model, engine
    if importlib.util.find_spec("vllm") is not None:
        with open_engine(spec, training.sampling, "vllm", tokenizer=tokenizer, batch_size=size) as engine:
            rates["vllm"] = max(_rate(engine, prompt_ids, seeds) for _ in range(ROUNDS))
    return rates


def _rate(engine: Engine, prompt_ids: Sequence[Sequence[int]], seeds: Sequence[int]) -> float:
    began = time.perf_counter()
    drawn = engine.generate(prompt_ids, seeds)
    return sum(len(one.token_ids) for one in drawn) / (time.perf_counter() - began)


def _possible(model: Any, settings: SamplingSettings, way: Way) -> bool:
    try:
        return choose_way(model, settings, asked=way).way == way
    except InputError:
        return False

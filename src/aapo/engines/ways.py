"""In which way a Transformers model draws completions: by rule, so that two runs of one recipe draw the same bits.

All ways draw with the same noise, so they draw the same tokens but where two of them score alike to within the rounding
of sums in another order. That is rare and not never: a way that is chosen by its time would make a run differ from its
repetition. The order is that of what was measured, in every shape (docs/performance.md): places, then shedding, then
static batches. `aapo doctor --measure` measures them for a recipe.
"""

from collections.abc import Iterator, Mapping, Set
from typing import Any, Literal, NamedTuple, get_args

from torch import distributed
from torch.distributed.fsdp import FSDPModule
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from aapo.engines.attention import is_plain
from aapo.errors import InputError
from aapo.sampling import SamplingSettings

Way = Literal["places", "shedding", "static"]
WAYS: tuple[Way, ...] = get_args(Way)

# GenerationConfig's fields that are ours to set, or without effect on a token's choice.
_PLAIN_FIELDS = frozenset(
    (
        "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "max_length", "max_new_tokens",
        "use_cache", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
    )
)  # fmt: skip
# Those that mean the same when generate() is entered again in the middle of completions.
_LASTING_FIELDS = _PLAIN_FIELDS | {
    "min_new_tokens", "suppress_tokens", "bad_words_ids", "no_repeat_ngram_size", "sequence_bias",
    "remove_invalid_values",
}  # fmt: skip


class Choice(NamedTuple):
    """A way, and why it is taken."""

    way: Way
    why: str


def choose_way(
    model: Any, settings: SamplingSettings, cache_implementation: str | None = None, asked: Way | None = None
) -> Choice:
    """The way that draws: the one that is asked for, else the first of places, shedding and static that can be taken.

    Args:
        model: Of Transformers, or what wraps it; its weights are not looked at.
        settings: How completions are drawn.
        cache_implementation: Transformers' key-value cache.
        asked: By the user; None chooses.

    Raises:
        InputError: The way that is asked for cannot be taken.
    """
    in_place = next(_against_places(model, settings, cache_implementation), None)
    shed = next(_against_shedding(model, settings, cache_implementation), None)
    reasons: dict[Way, str | None] = {"places": in_place, "shedding": shed, "static": None}
    if asked is not None:
        if (reason := reasons[asked]) is not None:
            raise InputError(f"engine is {asked}, which is not possible, because {reason}; set engine to auto")
        return Choice(asked, f"engine is {asked}")
    way: Way = next(way for way, reason in reasons.items() if reason is None)
    before = [f"{other} is not possible, because {reasons[other]}" for other in WAYS[: WAYS.index(way)]]
    return Choice(
        way, "; ".join(before) or "layers are plain causal attention and nothing but logits and noise decides"
    )


def asked_way(engine: str) -> Way | None:
    """The way that a recipe's `engine` asks for; None for auto."""
    return next((way for way in WAYS if way == engine), None)


def in_step(model: Any) -> bool:
    """Whether all processes run the model forward together, because each holds a part of its weights.

    They must then agree on when they enter and leave generate(), which does not know the FSDP2 of accelerate.
    """
    spread = is_deepspeed_zero3_enabled() or isinstance(model, FSDPModule)
    return spread and distributed.is_initialized() and distributed.get_world_size() > 1


def shrinking_cache(model: Any) -> DynamicCache | None:
    """An empty cache whose rows can be dropped, or None where the model has none."""
    # Private, but what generate() itself asks before it makes this cache.
    if model.config.is_encoder_decoder or not model._supports_default_dynamic_cache():
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    return cache if {type(layer) for layer in cache.layers} <= {DynamicLayer, DynamicSlidingWindowLayer} else None


def _against_places(model: Any, settings: SamplingSettings, cache_implementation: str | None) -> Iterator[str]:
    """Why sequences may not be drawn in places."""
    if settings.repetition_penalty != 1:
        yield f"repetition_penalty is {settings.repetition_penalty}"
    for name in ("stop", "generation_kwargs"):
        if getattr(settings, name):
            yield f"{name} is set"
    yield from _against_own_loop(model, _own_fields(model), _PLAIN_FIELDS, cache_implementation)
    if not is_plain(model.config):
        yield f"layers of {model.config.get_text_config().model_type} are not known as plain causal attention"


def _against_shedding(model: Any, settings: SamplingSettings, cache_implementation: str | None) -> Iterator[str]:
    """Why generate() may not be left and entered again."""
    fields = {**_own_fields(model), **(settings.generation_kwargs or {})}
    yield from _against_own_loop(model, fields, _LASTING_FIELDS, cache_implementation)
    if fields.get("use_cache") is False:
        yield "use_cache is false"
    if shrinking_cache(model) is None:
        yield "the model's key-value cache does not shrink"


def _against_own_loop(
    model: Any, fields: Mapping[str, Any], known: Set[str], cache_implementation: str | None
) -> Iterator[str]:
    if in_step(model):
        yield "all processes run the model together"
    if cache_implementation is not None:
        yield f"cache_implementation is {cache_implementation}"
    for name, value in fields.items():
        if value not in (None, False) and not name.startswith("_") and name not in known:
            yield f"the generation configuration sets {name}"


def _own_fields(model: Any) -> dict[str, Any]:
    """The model's own generation configuration."""
    return model.generation_config.to_dict() if model.generation_config else {}

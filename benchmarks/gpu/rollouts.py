"""Part two: tokens a second of our places and of Transformers' `generate`, and what memory allows at most."""

import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig

from aapo.base.config import BaseModelConfig
from aapo.base.model import train_tokenizer
from aapo.engines import generate_ids
from aapo.sampling import SamplingSettings, sample_seed

from .cases import Case, peak_memory
from .device import Peak, Shape, model_of, seconds_of
from .scale import Scale

GROUP, SHORT = 8, 4
END_SHARES = {"fixed": 0.0, "early": 1 / 32}
Draw = Callable[[int], list[list[int]]]


def cases(scale: Scale, device: str, peak: Peak) -> Iterator[Case]:
    """The first model in all sizes, the others in the largest."""
    for i, (name, shape) in enumerate(scale.shapes.items()):
        for sequences in scale.sequences if i == 0 else scale.sequences[-1:]:
            for ends in END_SHARES:
                arguments = (shape, sequences, ends, scale, device, peak)
                yield Case(f"{name}/{sequences}/{ends}", partial(rollout, *arguments))


def rollout(shape: Shape, sequences: int, ends: str, scale: Scale, device: str, peak: Peak) -> dict[str, Any]:
    """Useful tokens a second by arm, in turn, and the least time that reading weights and cache takes."""
    tokenizer = train_tokenizer(["Read 0123456789."] * 5, BaseModelConfig().vocab_size)
    model = _with_end_share(model_of(shape, tokenizer, device, torch.bfloat16).eval(), tokenizer, END_SHARES[ends])
    arms = _arms(model, tokenizer, sequences, scale, device)
    results: dict[str, dict[str, Any]] = {name: {} for name in arms}
    rates: dict[str, list[float]] = {name: [] for name in arms}
    drawn: dict[str, list[list[int]]] = {}
    for name, draw in arms.items():
        with peak_memory(device, results[name]):
            draw(SHORT)
    for turn in range(scale.rounds):
        for name in list(arms)[:: 1 if turn % 2 else -1]:
            seconds = seconds_of(lambda name=name: drawn.update({name: arms[name](scale.rollout_tokens)}), device)
            rates[name].append(sum(map(len, drawn[name])) / seconds)
    for name, values in rates.items():
        ratios = [value / base for value, base in zip(values, rates["generate"], strict=True)]
        results[name] |= {"tokens_per_second": statistics.median(values), "to_generate": statistics.median(ratios)}
    limit = _roofline(shape, model, sequences, scale, peak)
    for found in results.values():
        found["of_roofline"] = found["tokens_per_second"] / limit if ends == "fixed" else None
    same = [one == other for one, other in zip(drawn["places"], drawn["keyed_generate"], strict=True)]
    return {
        **results,
        "roofline_tokens_per_second": limit if ends == "fixed" else None,
        "mean_tokens": statistics.mean(map(len, drawn["places"])),
        # Sums in another order make other bf16 logits, and from there on another text.
        "same_completions_frac": statistics.mean(same),
        "all_tokens_per_second": rates,
    }


def _with_end_share(model: Any, tokenizer: Any, share: float) -> Any:
    """The model with an end token of about this probability at every position; the other logits are near 0."""
    head = torch.nn.Linear(*model.lm_head.weight.T.shape, device=model.device, dtype=model.dtype)
    head.weight = model.lm_head.weight
    with torch.no_grad():
        head.bias.zero_()
        head.bias[tokenizer.eos_token_id] = math.log(len(head.bias) * share / (1 - share)) if share else -1e9
    model.lm_head = head
    return model


def _arms(model: Any, tokenizer: Any, sequences: int, scale: Scale, device: str) -> dict[str, Draw]:
    """By name, what draws completions of at most so many tokens."""
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 200, (sequences // GROUP, scale.prompt_tokens), generator=generator)
    ids_BT = ids.repeat_interleave(GROUP, 0)
    seeds = [sample_seed("benchmark", i) for i in range(sequences)]

    def ours(way: Any, tokens: int) -> list[list[int]]:
        settings = SamplingSettings(max_completion_length=tokens)
        return generate_ids(model, ids_BT.tolist(), seeds, settings, eos_token_ids=[end], pad_token_id=pad, way=way)

    @torch.no_grad()
    def generate(tokens: int) -> list[list[int]]:
        config = GenerationConfig(
            do_sample=True, top_k=0, max_new_tokens=tokens, eos_token_id=end, pad_token_id=pad, disable_compile=True
        )
        inputs = ids_BT.to(device)
        drawn = model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=config)
        return [_useful(row, end) for row in drawn[:, inputs.shape[1] :].tolist()]

    return {"generate": generate, "keyed_generate": partial(ours, "static"), "places": partial(ours, "places")}


def _useful(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


def _roofline(shape: Shape, model: Any, sequences: int, scale: Scale, peak: Peak) -> float:
    """Tokens a second if a step took as long as reading the weights and the keys and values of all tokens so far."""
    element = model.lm_head.weight.element_size()
    weights = sum(parameter.numel() for parameter in model.parameters()) * element
    tokens = sequences * (scale.prompt_tokens + scale.rollout_tokens / 2)
    return sequences * peak.bandwidth / (weights + shape.cache_bytes(tokens, element))

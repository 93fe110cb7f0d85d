"""Which way draws, and why."""

from typing import Any

import pytest

from aapo.engines import load_model
from aapo.engines.ways import asked_way, choose_way
from aapo.errors import InputError
from aapo.sampling import SamplingSettings


@pytest.mark.parametrize(
    ("settings", "own", "cache", "way", "why"),
    [
        ({}, {}, None, "places", "layers are plain causal attention and nothing but logits and noise decides"),
        ({"repetition_penalty": 1.2}, {}, None, "shedding",
         "places is not possible, because repetition_penalty is 1.2"),
        ({"stop": ("a",)}, {}, None, "shedding", "places is not possible, because stop is set"),
        ({"generation_kwargs": {"begin_suppress_tokens": [3]}}, {}, None, "static",
         "places is not possible, because generation_kwargs is set; shedding is not possible, because the generation "
         "configuration sets begin_suppress_tokens"),
        ({}, {"guidance_scale": 1.5}, None, "static",
         "places is not possible, because the generation configuration sets guidance_scale; shedding is not possible, "
         "because the generation configuration sets guidance_scale"),
        ({}, {}, "static", "static",
         "places is not possible, because cache_implementation is static; shedding is not possible, because "
         "cache_implementation is static"),
    ],
)  # fmt: skip
def test_the_first_way_that_is_possible_is_taken_and_says_why(tiny_folder, settings, own, cache, way, why):
    model = load_model(str(tiny_folder))
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    assert choose_way(model, SamplingSettings(**settings), cache) == (way, why)


def test_layers_that_are_not_known_are_not_drawn_in_places(tiny_folder):
    model: Any = load_model(str(tiny_folder))
    model.config.model_type = "other"
    assert choose_way(model, SamplingSettings()) == (
        "shedding", "places is not possible, because layers of other are not known as plain causal attention",
    )  # fmt: skip


def test_a_way_that_is_asked_for_is_taken_or_refused_with_the_reason(tiny_folder):
    model, settings = load_model(str(tiny_folder)), SamplingSettings()
    for way in ("places", "shedding", "static"):
        assert choose_way(model, settings, asked=asked_way(way)) == (way, f"engine is {way}")
    assert asked_way("auto") is None
    with pytest.raises(InputError, match="engine is places, which is not possible, because stop is set; set engine to"):
        choose_way(model, SamplingSettings(stop=("a",)), asked="places")

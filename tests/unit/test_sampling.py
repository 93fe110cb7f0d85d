import math

import pytest
import torch

from aapo.errors import AapoError, InputError
from aapo.sampling import (
    SamplingSettings,
    TransformersEngine,
    keyed_gumbel,
    load_model,
    load_tokenizer,
    model_identity,
    sample_seed,
)
from aapo.tasks import encode_prompt

TEXTS = [f"Calculate {n} + 1." for n in (1, 22, 333, 4, 5)]


@pytest.fixture(autouse=True)
def prompts(tiny_folder):
    tokenizer = load_tokenizer(str(tiny_folder))
    PROMPTS[:] = [encode_prompt([{"role": "user", "content": text}], tokenizer) for text in TEXTS]


PROMPTS: list[list[int]] = []


def engine(folder, batch_size=256, **settings):
    settings = {"max_completion_length": 12, **settings}
    return TransformersEngine(
        load_model(str(folder)), load_tokenizer(str(folder)), SamplingSettings(**settings), batch_size
    )


def test_keyed_noise_draws_from_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    seeds = torch.tensor([sample_seed("draw", i) for i in range(100_000)])
    counts = (logits + keyed_gumbel(seeds, 0, 4)).argmax(1).bincount(minlength=4)
    expected = logits.softmax(0) * 100_000
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 16.27  # the 99.9% point with 3 degrees of freedom


def test_noise_is_gumbel_and_independent_across_positions_and_rows():
    seeds = torch.tensor([sample_seed("moments", i) for i in range(4000)])
    first, second = keyed_gumbel(seeds, 0, 50), keyed_gumbel(seeds, 1, 50)
    assert abs(first.mean() - 0.5772) < 0.02
    assert abs(first.var() - math.pi**2 / 6) < 0.05
    for a, b in ((first, second), (first[:-1], first[1:]), (first[:, :-1], first[:, 1:])):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.02


def test_samples_do_not_depend_on_the_batch(tiny_folder):
    seeds = [sample_seed(0, "x", i) for i in range(5)]
    together = engine(tiny_folder).generate(PROMPTS, seeds)
    for batch_size in (1, 2):
        assert engine(tiny_folder, batch_size).generate(PROMPTS, seeds) == together
    backwards = engine(tiny_folder).generate(PROMPTS[::-1], seeds[::-1])
    assert backwards[::-1] == together
    assert len({tuple(completion.token_ids) for completion in together}) > 1


def test_another_seed_gives_another_sample_and_greedy_ignores_it(tiny_folder):
    one, other = ([sample_seed(seed, i) for i in range(5)] for seed in (0, 1))
    assert engine(tiny_folder).generate(PROMPTS, one) != engine(tiny_folder).generate(PROMPTS, other)
    greedy = engine(tiny_folder, temperature=0)
    assert greedy.generate(PROMPTS, one) == greedy.generate(PROMPTS, other)


def test_top_k_of_one_is_greedy(tiny_folder):
    seeds = [sample_seed(i) for i in range(5)]
    assert engine(tiny_folder, top_k=1).generate(PROMPTS, seeds) == engine(tiny_folder, temperature=0).generate(
        PROMPTS, seeds
    )


def decided_engine(folder, **settings):
    """An engine whose random model has logits of some size, so that a penalty on them shows."""
    sampler = engine(folder, max_completion_length=30, **settings)
    with torch.no_grad():
        sampler.model.lm_head.weight.mul_(100)
    return sampler


def test_the_models_own_generation_config_does_not_leak_in(tiny_folder):
    plain = decided_engine(tiny_folder)
    seeds = [sample_seed("leak", i) for i in range(5)]
    expected = plain.generate(PROMPTS, seeds)
    for key, value in {"repetition_penalty": 5.0, "temperature": 0.1, "top_k": 1, "do_sample": True}.items():
        setattr(plain.model.generation_config, key, value)
    assert plain.generate(PROMPTS, seeds) == expected
    assert decided_engine(tiny_folder, repetition_penalty=5.0).generate(PROMPTS, seeds) != expected


def test_generation_kwargs_reach_transformers_and_cannot_contradict_settings(tiny_folder):
    long = engine(tiny_folder, generation_kwargs={"min_new_tokens": 12}).generate(PROMPTS, [1, 2, 3, 4, 5])
    assert all(len(completion.token_ids) == 12 for completion in long)
    with pytest.raises(InputError, match="generation_kwargs sets max_new_tokens; set max_completion_length instead"):
        SamplingSettings(generation_kwargs={"max_new_tokens": 3})


def test_finish_reasons_and_lengths(tiny_folder):
    completions = engine(tiny_folder, max_completion_length=3).generate(PROMPTS, [1, 2, 3, 4, 5])
    end = load_tokenizer(str(tiny_folder)).eos_token_id
    for completion in completions:
        assert 1 <= len(completion.token_ids) <= 3
        assert (completion.token_ids[-1] == end) == (completion.finish_reason == "stop")
        assert end not in completion.token_ids[:-1]


def test_the_batch_size_is_halved_until_it_fits(tiny_folder, monkeypatch):
    sampler = engine(tiny_folder, batch_size=4)
    plain = sampler.generate(PROMPTS, [1, 2, 3, 4, 5])
    generate = sampler.model.generate

    def small_memory(input_ids, **kwargs):
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError
        return generate(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(sampler.model, "generate", small_memory)
    assert sampler.generate(PROMPTS, [1, 2, 3, 4, 5]) == plain
    assert sampler.batch_size == 1

    def no_memory(**kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(sampler.model, "generate", no_memory)
    with pytest.raises(AapoError, match="one sequence does not fit"):
        sampler.generate(PROMPTS, [1, 2, 3, 4, 5])


def test_a_prompt_beyond_the_context_is_refused(tiny_folder):
    with pytest.raises(
        InputError, match="exceed the model's context of 128 tokens; set max_completion_length to at most"
    ):
        engine(tiny_folder, max_completion_length=120).generate(PROMPTS, [1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; it must be >= 0"),
        ({"top_p": 0.0}, r"top_p is 0.0; it must be in \(0, 1\]"),
        ({"max_completion_length": 0}, "max_completion_length is 0; it must be >= 1"),
    ],
)
def test_bad_settings(fields, message):
    with pytest.raises(InputError, match=message):
        SamplingSettings(**fields)


def test_model_folders_are_checked_and_identified_by_their_weights(tiny_folder, tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        load_model(str(tmp_path / "absent"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"has no weights \(\*.safetensors\)"):
        load_model(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"0")
    with pytest.raises(InputError, match="has no tokenizer"):
        load_tokenizer(str(tmp_path))
    assert model_identity(str(tiny_folder)) == model_identity(str(tiny_folder))
    assert model_identity(str(tiny_folder)) != model_identity(str(tmp_path))
    assert model_identity("org/name", "v1") == {"name": "org/name", "revision": "v1"}

import json
import math
import shutil
import sys
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from aapo.engines import (
    TransformersEngine,
    VLLMEngine,
    generate_ids,
    keyed_gumbel,
    load_model,
    load_tokenizer,
    model_identity,
    threads,
    tokenizer_identity,
)
from aapo.errors import AapoError, InputError
from aapo.sampling import SamplingSettings, sample_seed
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


def test_noise_is_the_hash_of_seed_position_and_token():
    def mix(x):
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            x = (x ^ (x >> shift)) * factor % 2**32
        return x

    seeds, places = [0, 2**63 - 1, sample_seed("hash")], [0, 7, 40_000]
    found = keyed_gumbel(torch.tensor(seeds), torch.tensor(places), 300)
    for seed, place, noise in zip(seeds, places, found.tolist(), strict=True):
        row = mix(seed % 2**32 ^ mix(seed >> 32 ^ mix(place + 1)))
        for token in (0, 1, 299):
            uniform = (mix(mix(row ^ mix(token + 1)) ^ row) + 0.5) / 2**32
            assert noise[token] == pytest.approx(-math.log(-math.log1p(-uniform)), rel=1e-5, abs=1e-5)


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

    def small_memory(model, prompt_ids, *args, **kwargs):
        if len(prompt_ids) > 1:
            raise torch.OutOfMemoryError
        return generate_ids(model, prompt_ids, *args, **kwargs)

    monkeypatch.setattr("aapo.engines.transformers.generate_ids", small_memory)
    assert sampler.generate(PROMPTS, [1, 2, 3, 4, 5]) == plain
    assert sampler.batch_size == 1

    def no_memory(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("aapo.engines.transformers.generate_ids", no_memory)
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
        ({"temperature": -1.0}, "temperature is -1.0; it must be a number from 0 to 100"),
        ({"top_p": 0.0}, r"top_p is 0.0; it must be a number in \(0, 1\]"),
        ({"max_completion_length": 0}, "max_completion_length is 0; it must be a whole number from 1"),
        ({"stop": "ab"}, "stop is 'ab'; it must be a list, each item text"),
        ({"stop": ("",)}, "it must be a list, each item text that is not empty"),
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


def test_all_that_changes_a_sample_is_in_a_folders_identity(tiny_folder, tmp_path):
    before = model_identity(str(tiny_folder))
    for number, (file, change) in enumerate([
        ("config.json", {"rope_theta": 777.0}), ("generation_config.json", {"eos_token_id": [1, 5]}),
    ]):  # fmt: skip
        folder = shutil.copytree(tiny_folder, tmp_path / str(number))
        assert model_identity(str(folder)) == before
        said = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        (folder / file).write_text(json.dumps({**said, "transformers_version": "0.1", "_name_or_path": "elsewhere"}))
        unchanged = model_identity(str(folder))
        assert {**unchanged, "generation_config": None} == {**before, "generation_config": None}
        (folder / file).write_text(json.dumps({**said, **change}))
        assert model_identity(str(folder)) not in (before, unchanged)


def test_a_hub_model_is_identified_by_the_commit_that_its_revision_is(tmp_path, monkeypatch):
    """The Hub's cache as huggingface_hub lays it out, read without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path), raising=False)
    commits = {"main": "1" * 40, "v1": "2" * 40}
    for revision, commit in commits.items():
        snapshot = tmp_path / "models--org--name" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        (tmp_path / "models--org--name" / "refs").mkdir(exist_ok=True)
        (tmp_path / "models--org--name" / "refs" / revision).write_text(commit)
    for asked, commit in ((None, commits["main"]), ("main", commits["main"]), ("v1", commits["v1"])):
        assert model_identity("org/name", asked) == {"name": "org/name", "commit": commit}
    assert model_identity("org/name", commits["v1"]) == model_identity("org/name", "v1")
    (tmp_path / "models--org--name" / "refs" / "main").write_text(commits["v1"])  # which moves
    assert model_identity("org/name") == model_identity("org/name", "v1")
    with pytest.raises(InputError, match="cannot load the model of 'org/gone'"):
        model_identity("org/gone")


def test_all_that_changes_tokens_is_in_a_tokenizers_identity(tiny_folder):
    from tokenizers import AddedToken, normalizers, pre_tokenizers

    before = tokenizer_identity(load_tokenizer(str(tiny_folder)))
    used = load_tokenizer(str(tiny_folder))
    used(["a", "abc"], padding=True, truncation=True, max_length=2)  # which sets the backend's padding
    assert tokenizer_identity(used) == before

    def normalised(tokenizer):
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()

    def split(tokenizer):
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

    def ended(tokenizer):
        tokenizer.eos_token = "a"

    def templated(tokenizer):
        tokenizer.chat_template = "{{ messages[0]['content'] }}"

    def added(tokenizer):
        tokenizer.add_tokens([AddedToken("ab", lstrip=True)])

    found = [before]
    for change in (normalised, split, ended, templated, added):
        tokenizer = load_tokenizer(str(tiny_folder))
        change(tokenizer)
        found.append(tokenizer_identity(tokenizer))
    assert len({json.dumps(identity) for identity in found}) == 6


@pytest.fixture
def adapter(tiny_folder, tmp_path):
    """A LoRA adapter on the tiny model, with weights that change what it says."""
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_model(str(tiny_folder)), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_is_merged_into_its_base(tiny_folder, adapter):
    merged = load_model(str(adapter))
    plain = load_model(str(tiny_folder))
    assert type(merged) is type(plain) and all(parameter.requires_grad for parameter in merged.parameters())
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in plain.named_parameters()]
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        expected = PeftModel.from_pretrained(load_model(str(tiny_folder)), str(adapter)).eval()(input_ids=ids).logits
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
        assert (plain(input_ids=ids).logits - expected).abs().max() > 0.01


def test_an_adapters_tokenizer_is_its_own_or_its_bases(tiny_folder, adapter):
    own = load_tokenizer(str(tiny_folder))
    assert load_tokenizer(str(adapter)).get_vocab() == own.get_vocab()
    own.add_tokens(["<new>"])
    own.save_pretrained(adapter)
    assert "<new>" in load_tokenizer(str(adapter)).get_vocab()


def change_adapter(adapter, **fields):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_an_adapter_is_identified_by_weights_scale_and_base(tiny_folder, adapter, tmp_path):
    before = model_identity(str(adapter))
    assert before["base"] == model_identity(str(tiny_folder))
    moved = shutil.copytree(tiny_folder, tmp_path / "moved")
    change_adapter(adapter, base_model_name_or_path=str(moved))
    assert model_identity(str(adapter)) == before
    change_adapter(adapter, lora_alpha=8)
    assert model_identity(str(adapter)) != before
    change_adapter(adapter, lora_alpha=16, base_model_name_or_path="org/name", revision="v1")
    with pytest.raises(InputError, match="cannot load the model of 'org/name'"):
        model_identity(str(adapter))
    change_adapter(adapter, base_model_name_or_path=str(moved), revision=None)
    (adapter / "adapter_model.safetensors").write_bytes(b"0")
    assert model_identity(str(adapter))["weights"] != before["weights"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base_model_name_or_path": "/absent/base"}, "needs its base model '/absent/base': .*no such folder"),
        ({"base_model_name_or_path": "org/absent"}, "needs its base model 'org/absent': cannot load the model"),
        ({"base_model_name_or_path": None}, "names no base model; set base_model_name_or_path"),
        ({"peft_type": "IA3"}, "has peft_type IA3; only LORA"),
    ],
)
def test_adapters_that_cannot_be_used(adapter, fields, message):
    change_adapter(adapter, **fields)
    with pytest.raises(InputError, match=message):
        load_model(str(adapter))


def test_an_adapter_of_another_shape_is_refused(adapter):
    change_adapter(adapter, r=8)
    with pytest.raises(InputError, match="does not fit its base model"):
        load_model(str(adapter))
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="has no adapter_model.safetensors"):
        load_model(str(adapter))


def ending_model(folder, share):
    """The tiny model with about this probability of an end token at each position."""
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    head = torch.nn.Linear(model.config.hidden_size, len(tokenizer))
    head.weight.data = 10 * model.lm_head.weight.data.clone()
    head.bias.data = torch.zeros(len(tokenizer))
    head.bias.data[tokenizer.eos_token_id] = math.log(share * len(tokenizer))
    model.lm_head = head
    return model, tokenizer


def counting(model, monkeypatch):
    """The numbers of rows with which generate() is called from here on."""
    sizes, generate = [], model.generate

    def counted(**kwargs):
        sizes.append(len(kwargs["input_ids"]))
        return generate(**kwargs)

    monkeypatch.setattr(model, "generate", counted)
    return sizes


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2},
        {"generation_kwargs": {"min_new_tokens": 9, "suppress_tokens": [65, 66]}},
        {"temperature": 0},
        {"stop": ("1", "ab", "\n")},
    ],
)
def test_rows_that_leave_the_batch_change_no_sample(tiny_folder, monkeypatch, settings):
    model, tokenizer = ending_model(tiny_folder, 1 / 16)
    sizes = counting(model, monkeypatch)
    prompts, seeds = PROMPTS * 5, [sample_seed("shed", i) for i in range(25)]

    def draw(way):
        sizes.clear()
        return generate_ids(
            model, prompts, seeds, SamplingSettings(max_completion_length=40, **settings), way=way,
            eos_token_ids=[tokenizer.eos_token_id], pad_token_id=tokenizer.pad_token_id, tokenizer=tokenizer,
        )  # fmt: skip

    shrunk = draw("shedding")
    assert settings.get("temperature") == 0 or (len(sizes) > 2 and sizes == sorted(sizes, reverse=True))
    lengths = set(map(len, shrunk))
    assert settings.get("temperature") == 0 or len(lengths) > 4
    assert draw("static") == shrunk and sizes == [25]


def test_rows_leave_under_a_lora_adapter_too(tiny_folder, monkeypatch):
    model, tokenizer = ending_model(tiny_folder, 1 / 8)
    peft: Any = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    sizes = counting(peft, monkeypatch)
    ends = {"eos_token_ids": [tokenizer.eos_token_id], "pad_token_id": tokenizer.pad_token_id}
    arguments = (peft, PROMPTS * 3, range(15), SamplingSettings(max_completion_length=30))
    drawn = generate_ids(*arguments, **ends, way="shedding")
    assert drawn == generate_ids(*arguments, **ends, way="static") == generate_ids(*arguments, **ends)
    assert len(sizes) > 2


@pytest.mark.parametrize("num_places", [1, 4, None])
@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7, "top_p": 0.9}, {"top_k": 20, "min_p": 0.01}, {"temperature": 0}], ids=str
)
def test_sequences_in_places_are_those_of_generate(tiny_folder, monkeypatch, settings, num_places):
    model, tokenizer = ending_model(tiny_folder, 1 / 16)
    sizes = counting(model, monkeypatch)
    prompts, seeds = [prompt for prompt in PROMPTS for _ in range(4)], [sample_seed("places", i) for i in range(20)]

    def draw(**options):
        return generate_ids(
            model, prompts, seeds, SamplingSettings(max_completion_length=40, **settings), tokenizer=tokenizer,
            eos_token_ids=[tokenizer.eos_token_id], pad_token_id=tokenizer.pad_token_id, **options,
        )  # fmt: skip

    placed = draw(num_places=num_places)
    assert sizes == [] and model.config._attn_implementation == "sdpa"
    assert placed == draw(way="static")
    assert settings.get("temperature") == 0 or len(set(map(len, placed))) > 4


@pytest.mark.parametrize("num_places", [3, None])
def test_a_completion_is_told_of_while_others_are_drawn(tiny_folder, monkeypatch, num_places):
    model, tokenizer = ending_model(tiny_folder, 1 / 4)
    events, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda **options: events.append("step") or forward(**options))
    drawn = generate_ids(
        model, PROMPTS, range(5), SamplingSettings(max_completion_length=40), way="places", num_places=num_places,
        eos_token_ids=[tokenizer.eos_token_id], pad_token_id=tokenizer.pad_token_id,
        on_end=lambda sequence, ids: events.append((sequence, ids)),
    )  # fmt: skip
    told = [event for event in events if event != "step"]
    assert sorted(told) == list(enumerate(drawn))
    assert "step" in events[events.index(told[0]) :]


@pytest.mark.parametrize(("limit", "inside"), [(threads.LITTLE, 1), (0, 2)])
def test_little_is_drawn_by_one_thread_and_training_goes_on_with_all(tiny_folder, monkeypatch, limit, inside):
    model, tokenizer = ending_model(tiny_folder, 1 / 4)
    seen, forward = set(), model.forward
    monkeypatch.setattr(model, "forward", lambda **options: seen.add(torch.get_num_threads()) or forward(**options))
    monkeypatch.setattr(threads, "LITTLE", limit)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for way in ("places", "static"):
            generate_ids(
                model, PROMPTS, range(5), SamplingSettings(max_completion_length=4), way=way,
                eos_token_ids=[tokenizer.eos_token_id], pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {inside}


@pytest.mark.parametrize("num_places", [2, 5, None])
def test_a_prompt_is_computed_once_though_its_samples_enter_in_turns(tiny_folder, monkeypatch, num_places):
    model, tokenizer = ending_model(tiny_folder, 1 / 4)
    forward, read = model.forward, []

    def watched(input_ids, **options):
        read.extend(input_ids[0].tolist() if len(input_ids) == 1 and input_ids.shape[1] > 1 else [])
        return forward(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "forward", watched)
    prompts, seeds = [prompt for prompt in PROMPTS for _ in range(8)], [sample_seed("once", i) for i in range(40)]
    drawn = generate_ids(
        model, prompts, seeds, SamplingSettings(max_completion_length=20), num_places=num_places, way="places",
        eos_token_ids=[tokenizer.eos_token_id], pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    assert sorted(read) == sorted(token for prompt in PROMPTS for token in prompt)
    assert len({tuple(ids) for ids in drawn}) > 10


@pytest.mark.parametrize("way", ["places", "static"])
def test_any_of_several_end_tokens_ends_a_completion(tiny_folder, way):
    model, tokenizer = ending_model(tiny_folder, 1 / 1000)
    settings, seeds = SamplingSettings(max_completion_length=40), range(len(PROMPTS))

    def drawn(ends):
        return generate_ids(
            model, PROMPTS, seeds, settings, way=way, eos_token_ids=ends, pad_token_id=tokenizer.pad_token_id
        )

    whole = drawn([tokenizer.eos_token_id])
    others = [ids[3] for ids in whole[:2]]  # tokens that end nothing by themselves
    ends = {tokenizer.eos_token_id, *others}
    expected = [ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids)) + 1] for ids in whole]
    assert expected != whole
    assert drawn(sorted(ends)) == expected


@pytest.mark.parametrize("field", ["repetition_penalty", "stop", "generation_kwargs"])
def test_what_depends_on_earlier_tokens_is_left_to_generate(tiny_folder, monkeypatch, field):
    model, tokenizer = ending_model(tiny_folder, 1 / 16)
    sizes = counting(model, monkeypatch)
    value = {"repetition_penalty": 1.1, "stop": ("a",), "generation_kwargs": {"min_new_tokens": 3}}[field]
    settings = SamplingSettings(max_completion_length=6, **{field: value})
    drawn = generate_ids(
        model, PROMPTS, range(5), settings, tokenizer=tokenizer, num_places=2,
        eos_token_ids=[tokenizer.eos_token_id], pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    assert sizes[0] == 2 and len(drawn) == 5


@pytest.mark.parametrize("field", ["guidance_scale", "begin_suppress_tokens", "cache_implementation", "use_cache"])
def test_the_batch_stays_whole_where_generate_cannot_be_entered_again(tiny_folder, monkeypatch, field):
    value = {"guidance_scale": 1.5, "begin_suppress_tokens": [5], "cache_implementation": "static", "use_cache": False}
    model, tokenizer = ending_model(tiny_folder, 1 / 8)
    setattr(model.generation_config, field, value[field])
    sizes = counting(model, monkeypatch)
    ends = {"eos_token_ids": [tokenizer.eos_token_id], "pad_token_id": tokenizer.pad_token_id}
    settings = SamplingSettings(max_completion_length=20, temperature=0, repetition_penalty=1.1)
    generate_ids(model, PROMPTS, range(5), settings, **ends)
    assert sizes == [5]
    with pytest.raises(InputError, match=f"engine is shedding, which is not possible, because .*{field}.*; set engine"):
        generate_ids(model, PROMPTS, range(5), settings, **ends, way="shedding")


def test_a_stop_string_ends_a_completion_where_it_first_appears(tiny_folder):
    seeds = [sample_seed("stop", i) for i in range(40)]
    free = engine(tiny_folder, max_completion_length=40)
    plain = free.generate(PROMPTS * 8, seeds)
    stops = ("7", "ab", "z")
    for pad in (free.tokenizer.pad_token, free.tokenizer.eos_token):
        stopping = engine(tiny_folder, max_completion_length=40, stop=stops)
        stopping.pad_token_id = stopping.tokenizer.convert_tokens_to_ids(pad)
        stopped = stopping.generate(PROMPTS * 8, seeds)
        assert any(ids != whole.token_ids for (_, ids, _), whole in zip(stopped, plain, strict=True))
        for (text, ids, reason), whole in zip(stopped, plain, strict=True):
            decoded = free.tokenizer.decode(ids, skip_special_tokens=True)
            before = free.tokenizer.decode(ids[:-1], skip_special_tokens=True)
            assert ids == whole.token_ids[: len(ids)]
            assert not any(stop in before for stop in stops)
            if any(stop in whole.text for stop in stops):
                cut = min(decoded.index(stop) for stop in stops if stop in decoded)
                assert (text, reason) == (decoded[:cut], "stop")
            else:
                assert (text, ids, reason) == whole


def test_a_stop_string_does_not_begin_in_the_prompt(tiny_folder):
    sampler = engine(tiny_folder, max_completion_length=20)
    prompt = sampler.tokenizer.encode("question x")
    seed = next(s for s in range(500) if (text := sampler.generate([prompt], [s])[0].text) and text[0].isascii())
    plain = sampler.generate([prompt], [seed])[0]
    stop = "x" + plain.text[0]
    assert engine(tiny_folder, max_completion_length=20, stop=(stop,)).generate([prompt], [seed])[0] == plain


def test_settings_without_stop_strings_are_described_as_before_there_were_any():
    assert SamplingSettings().describe() == {
        "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0,
        "max_completion_length": 256, "generation_kwargs": None,
    }  # fmt: skip
    described = SamplingSettings(stop=("\n\n",)).describe()
    assert described["stop"] == ["\n\n"] and json.loads(json.dumps(described)) == described


@pytest.mark.parametrize("words", ["DefaultCPUAllocator: can't allocate memory", "[enforce fail] not enough memory"])
def test_a_machine_without_memory_gets_smaller_batches_and_says_so_once(tiny_folder, monkeypatch, words):
    sampler = engine(tiny_folder, batch_size=4)
    plain = sampler.generate(PROMPTS, [1, 2, 3, 4, 5])

    def small_memory(model, prompt_ids, *args, **kwargs):
        if len(prompt_ids) > 1:
            raise RuntimeError(words)
        return generate_ids(model, prompt_ids, *args, **kwargs)

    monkeypatch.setattr("aapo.engines.transformers.generate_ids", small_memory)
    said = []
    monkeypatch.setattr("aapo.engines.transformers.console.print", said.append)
    assert sampler.generate(PROMPTS, [1, 2, 3, 4, 5]) == plain
    assert said == ["4 sequences do not fit into memory; 1 at once from here on"]

    def broken(*args, **kwargs):
        raise RuntimeError("another error")

    monkeypatch.setattr("aapo.engines.transformers.generate_ids", broken)
    with pytest.raises(RuntimeError, match="another error"):
        sampler.generate(PROMPTS[:1], [1])


def test_vllm_says_how_to_install_it_and_what_it_cannot_do(tiny_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    tokenizer = load_tokenizer(str(tiny_folder))
    with pytest.raises(InputError, match=r"vLLM is not installed; pip install 'aapo\[vllm\]'"):
        VLLMEngine(str(tiny_folder), tokenizer, SamplingSettings())
    with pytest.raises(InputError, match="generation_kwargs sets no_repeat_ngram_size, and vLLM has no equivalent"):
        VLLMEngine(str(tiny_folder), tokenizer, SamplingSettings(generation_kwargs={"no_repeat_ngram_size": 2}))

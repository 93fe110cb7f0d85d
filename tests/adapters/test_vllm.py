"""vLLM against Transformers on the same tiny model (`make test-vllm`)."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from aapo.engines import TransformersEngine, VLLMEngine, load_model, load_tokenizer, vllm
from aapo.errors import InputError
from aapo.sampling import SamplingSettings, sample_seed
from aapo.tasks import encode_prompt
from vllm_on_cpu import OPTIONS as ON_CPU

pytestmark = pytest.mark.vllm

TEXTS = [f"Calculate {n} + 1." for n in (1, 22, 333, 4, 5)]
SEEDS = [sample_seed("vllm", i) for i in range(5)]
OPTIONS = {**ON_CPU, "max_num_seqs": 16, "gpu_memory_utilization": 0.3}


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """The tiny model with logits large enough that rounding decides no greedy step."""
    path = tmp_path_factory.mktemp("decided")
    model = load_model(str(tiny_folder))
    with torch.no_grad():
        model.lm_head.weight.mul_(30)
    model.save_pretrained(path)
    load_tokenizer(str(tiny_folder)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    """A LoRA adapter that changes what the model says."""
    path = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    model = get_peft_model(load_model(str(folder)), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def start(folder):
    """A function that gives vLLM's engine on the tiny model other settings; vLLM itself starts once."""
    tokenizer = load_tokenizer(str(folder))
    first = VLLMEngine(str(folder), tokenizer, SamplingSettings(), **OPTIONS)

    def engine(**settings):
        with pytest.MonkeyPatch.context() as patch:
            imported = vllm._import_vllm()._replace(llm=lambda **_: first._llm)
            patch.setattr(vllm, "_import_vllm", lambda: imported)
            return VLLMEngine(str(folder), tokenizer, SamplingSettings(**settings))

    return engine


def transformers_engine(folder, **settings):
    return TransformersEngine(load_model(str(folder)), load_tokenizer(str(folder)), SamplingSettings(**settings))


@pytest.fixture
def prompts(folder):
    tokenizer = load_tokenizer(str(folder))
    return [encode_prompt([{"role": "user", "content": text}], tokenizer) for text in TEXTS]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_completion_length": 60},
        {"repetition_penalty": 1.3},
        {"generation_kwargs": {"suppress_tokens": list(range(60, 120)), "min_new_tokens": 20}},
    ],
)
def test_greedy_completions_are_those_of_transformers(start, folder, prompts, settings):
    settings = {"temperature": 0.0, "max_completion_length": 24, **settings}
    expected = transformers_engine(folder, **settings).generate(prompts, SEEDS)
    assert start(**settings).generate(prompts, SEEDS) == expected


def test_a_seed_gives_the_same_sample_and_another_seed_another(start, prompts):
    engine = start(max_completion_length=24, temperature=2.0)
    samples = engine.generate(prompts, SEEDS)
    assert engine.generate(prompts, SEEDS) == samples
    assert engine.generate(prompts[::-1], SEEDS[::-1])[::-1] == samples
    others = engine.generate(prompts, [2**63 - 1 - i for i in range(5)])
    assert all(other != sample for other, sample in zip(others, samples, strict=True))


def test_end_tokens_stay_and_the_limit_is_called_length(start, folder, prompts):
    tokenizer = load_tokenizer(str(folder))
    end = tokenizer.eos_token_id
    # The end token among those that are about as unlikely after these prompts.
    others = [token for token in range(len(tokenizer)) if token not in (end, 69, 72, 77, 79)]
    settings = {"temperature": 2.0, "max_completion_length": 8, "generation_kwargs": {"suppress_tokens": others}}
    completions = start(**settings).generate(prompts * 20, [sample_seed("end", i) for i in range(100)])
    reasons = {completion.finish_reason for completion in completions}
    assert reasons == {"stop", "length"}
    for completion in completions:
        assert (completion.token_ids[-1] == end) == (completion.finish_reason == "stop")
        assert end not in completion.token_ids[:-1] and "<|im_end|>" not in completion.text
        assert len(completion.token_ids) == 8 or completion.finish_reason == "stop"


def test_stop_strings_end_completions_as_with_transformers(start, folder, prompts):
    settings = {"temperature": 0.0, "max_completion_length": 24}
    plain = transformers_engine(folder, **settings).generate(prompts, SEEDS)
    stops = tuple({completion.text[3:5] for completion in plain})
    expected = transformers_engine(folder, **settings, stop=stops).generate(prompts, SEEDS)
    assert start(**settings, stop=stops).generate(prompts, SEEDS) == expected
    assert all(completion.finish_reason == "stop" for completion in expected)
    assert all(not any(stop in completion.text for stop in stops) for completion in expected)


def test_progress_and_batches(start, prompts):
    engine = start(max_completion_length=4, temperature=0.0)
    whole, told = engine.generate(prompts, SEEDS), []
    engine.batch_size = 2
    assert engine.generate(prompts, SEEDS, told.append) == whole and told == [2, 2, 1]


def test_a_prompt_beyond_the_context_is_refused(start, prompts):
    with pytest.raises(InputError, match="exceed the model's context of 128 tokens; set max_completion_length to at"):
        start(max_completion_length=120).generate(prompts, SEEDS)


def test_a_lora_adapter_says_what_it_says_with_transformers(start, folder, adapter, prompts):
    settings = {"temperature": 0.0, "max_completion_length": 24}
    expected = transformers_engine(adapter, **settings).generate(prompts, SEEDS)
    engine = VLLMEngine(str(adapter), load_tokenizer(str(adapter)), SamplingSettings(**settings), **OPTIONS)
    assert engine.generate(prompts, SEEDS) == expected
    assert start(**settings).generate(prompts, SEEDS) != expected


def test_max_model_len_limits_the_context(folder, prompts):
    settings = SamplingSettings(max_completion_length=60)
    engine = VLLMEngine(str(folder), load_tokenizer(str(folder)), settings, max_model_len=64, **OPTIONS)
    with pytest.raises(InputError, match="the model's context of 64 tokens"):
        engine.generate(prompts, SEEDS)


def test_prompts_that_do_not_fit_a_step_wait_whole_on_cpus(folder, prompts):
    """Of 30 prompts a step reads some; vLLM would read a part of the next, and cannot where samples have seeds."""
    settings, limits = SamplingSettings(max_completion_length=4), {"max_model_len": 64, "max_num_batched_tokens": 64}
    engine = VLLMEngine(str(folder), load_tokenizer(str(folder)), settings, **OPTIONS, **limits)
    assert sum(map(len, prompts * 6)) > 64
    drawn = engine.generate(prompts * 6, [sample_seed("vllm", i) for i in range(30)])
    engine.close()
    assert len(drawn) == 30 and all(1 <= len(one.token_ids) <= 4 for one in drawn)


def test_settings_that_vllm_refuses_are_said_in_one_line(start):
    with pytest.raises(InputError, match=r"vLLM cannot draw with these sampling settings: temperature must be in .*2"):
        start(temperature=3.0)
    with pytest.raises(InputError, match="generation_kwargs sets no_repeat_ngram_size, and vLLM has no equivalent"):
        start(generation_kwargs={"no_repeat_ngram_size": 2})

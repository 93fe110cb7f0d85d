"""What use_vllm says of a run, where vLLM is not installed."""

import os
from functools import partial
from types import SimpleNamespace

import pytest

from aapo.backends.trl.checks import kept_from_trl
from aapo.backends.trl.run import check_recipe
from aapo.engines import TransformersEngine, VLLMEngine, load_model, load_tokenizer, vllm
from aapo.errors import InputError
from aapo.recipe import resolve
from aapo.runs import RunDirectory
from aapo.sampling import SamplingSettings
from aapo.training.held_out import held_out_task
from aapo.training.models import sampler, sampler_options
from aapo.training.run import evaluate_run

SWITCH = "VLLM_ENABLE_V1_MULTIPROCESSING"


@pytest.fixture
def recipe(tiny_folder, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"question": "{n}?", "answer": "{n}"}}\n' for n in range(4)))
    given = {
        "model_name_or_path": str(tiny_folder), "dataset_name": str(tmp_path / "rows.jsonl"), "num_eval_prompts": 2,
        "num_generations": 2, "per_device_train_batch_size": 4, "max_completion_length": 4, "bf16": False,
        "dtype": "float32", "use_cpu": True, "eval_num_samples": 1, "use_vllm": True,
    }  # fmt: skip
    return lambda **fields: resolve("mine", {**given, **fields})


@pytest.fixture
def started(monkeypatch):
    """The options of the engines that are opened in vLLM's place."""
    options = []

    class Standing(TransformersEngine):
        def __init__(self, name, tokenizer, settings, **given):
            options.append({"model": name, **given, "cuda": os.environ.get("CUDA_VISIBLE_DEVICES")})
            super().__init__(load_model(name), tokenizer, settings)

    monkeypatch.setattr(vllm, "VLLMEngine", Standing)
    return options


def test_the_evaluation_of_a_run_is_sampled_by_what_samples_its_rollouts(recipe, tiny_folder, tmp_path, cache, started):
    mine, run = recipe(vllm_max_model_length=64), RunDirectory(tmp_path / "run")
    model = load_model(str(tiny_folder))
    model.lm_head.weight.data.mul_(2)
    model.save_pretrained(run.model)
    load_tokenizer(str(tiny_folder)).save_pretrained(run.model)
    evaluations = evaluate_run(mine, run, str(tiny_folder), held_out_task(mine))
    assert [(each["model"], each["max_model_len"]) for each in started] == [
        (str(tiny_folder), 64), (str(run.model), 64),
    ]  # fmt: skip
    assert len(evaluations) == 2


@pytest.mark.parametrize(
    ("fields", "engine", "options"),
    [
        ({}, "vllm", {"batch_size": None, "max_model_len": None}),
        ({"use_vllm": False}, "transformers", {"batch_size": 7}),
        ({"use_peft": True, "load_in_4bit": True}, "transformers", {"batch_size": 7}),  # vLLM does not load those so
    ],
)
def test_bank_and_evaluation_have_the_engine_of_the_rollouts(recipe, fields, engine, options):
    mine = recipe(generation_batch_limit=7, **fields)
    assert sampler(mine) == engine and sampler_options(mine, engine) == options


def test_what_vllm_cannot_be_told_is_refused_before_anything_is_sampled(recipe, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace())
    with pytest.raises(InputError, match="generation_kwargs sets no_repeat_ngram_size, and vLLM has no equivalent"):
        check_recipe(recipe(generation_kwargs={"no_repeat_ngram_size": 2}))


@pytest.mark.parametrize(("visible", "expected"), [(None, "1"), ("4,6", "6")])
def test_an_engine_in_a_launch_is_a_process_that_sees_the_gpu_of_its_own(tiny_folder, monkeypatch, visible, expected):
    seen = []

    def engine(**options):
        seen.append((os.environ["CUDA_VISIBLE_DEVICES"], os.environ[SWITCH]))
        raise InterruptedError

    read = {}
    imported = vllm._VLLM(engine, lambda **fields: None, ValueError, lambda: read.update(os.environ), False)
    monkeypatch.setattr(vllm, "_import_vllm", lambda: imported)
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "1", SWITCH: "0", "CUDA_VISIBLE_DEVICES": visible}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    open_engine = partial(VLLMEngine, str(tiny_folder), load_tokenizer(str(tiny_folder)), SamplingSettings())
    with pytest.raises(InterruptedError):
        open_engine()
    assert seen == [(expected, "1")] and (read["CUDA_VISIBLE_DEVICES"], read[SWITCH]) == (expected, "1")
    assert (os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ[SWITCH]) == (visible, "0")
    with pytest.raises(InputError, match="tensor_parallel_size is 2 in a launch of 2 processes, each on its own GPU"):
        open_engine(tensor_parallel_size=2)


@pytest.mark.parametrize("before", [None, "1"])
def test_an_engine_of_trls_does_not_keep_later_ones_in_this_process(monkeypatch, before):
    monkeypatch.delenv(SWITCH, raising=False)
    if before is not None:
        monkeypatch.setenv(SWITCH, before)
    with kept_from_trl(SimpleNamespace(importance_sampling_level="token", sync_ref_model=False, beta=0.0)):
        os.environ[SWITCH] = "0"
    assert os.environ.get(SWITCH) == before

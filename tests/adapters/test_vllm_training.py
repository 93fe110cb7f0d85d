"""Training with vLLM in the trainer's process: whether it samples the policy as it is, and what else it samples."""

import gc
import json
from functools import partial

import pytest
import torch

from aapo.bank import ReferenceBank
from aapo.errors import InputError
from aapo.recipe import resolve
from aapo.runs import RunDirectory, cache_folder
from aapo.training import train
from vllm_on_cpu import Started

pytestmark = pytest.mark.vllm

MAX_TOKENS = 6
# In float32 two engines that hold the same weights differ by this much at most, in nats a token.
SAME = 1e-5
# Without a bank, which is sampled by an engine of its own.
ONE_STEP = {"max_steps": 1, "algorithm": "grpo", "num_reference_samples": None}
DIFFERENCE = "sampling/sampling_logp_difference/mean"


@pytest.fixture
def started(monkeypatch):
    return Started(monkeypatch)


@pytest.fixture
def recipe(tiny_folder, tmp_path, cache, monkeypatch):
    """A recipe of three steps of 2 prompts x 4; fields can be changed."""
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(24)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "even.py").write_text(
        "def evenness(completion_ids, log_extra, **columns):\n"
        "    right = [sum(ids) % 2 == 0 for ids in completion_ids]\n"
        "    log_extra('verdict/evenness', ['correct' if each else 'wrong' for each in right])\n"
        "    return [float(each) for each in right]\n"
    )
    return partial(made, tiny_folder)


def made(tiny_folder, **fields):
    given: dict = {
        "model_name_or_path": str(tiny_folder), "dataset_name": "sums.jsonl", "num_eval_prompts": 0, "use_vllm": True,
        "reward_funcs": ["even.py:evenness"], "judge": "evenness", "num_reference_samples": 2, "num_generations": 4,
        "per_device_train_batch_size": 8, "max_completion_length": MAX_TOKENS, "max_steps": 3, "save_strategy": "no",
        "learning_rate": 0.05, "activation_checkpointing": False, "bf16": False, "use_cpu": True, "seed": 5,
    }  # fmt: skip
    return resolve("sampled", {**given, **fields})


def run(recipe, path):
    train(recipe, path)
    return RunDirectory(path)


def logged(run, name):
    return [row[name] for row in run.metrics()]


def completions(run, step):
    return [row["completion"] for row in run.rollouts(step)]


@pytest.mark.parametrize("adapters", [{}, {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0, "learning_rate": 0.5}])
def test_vllm_samples_the_policy_as_each_step_left_it(recipe, tmp_path, started, adapters):
    found = run(recipe(**adapters), tmp_path / "run")
    assert max(logged(found, DIFFERENCE)) < SAME
    assert logged(found, "sampling/lost_token_frac") == [0, 0, 0]
    # One call a step, after the bank's.
    assert started.calls == [12, 8, 8, 8]


def test_weights_that_are_not_handed_over_are_seen(recipe, tmp_path, started, monkeypatch):
    from trl.generation.vllm_generation import VLLMGeneration

    monkeypatch.setattr(VLLMGeneration, "sync_weights", lambda self: None)
    first, *later = logged(run(recipe(), tmp_path / "run"), DIFFERENCE)
    assert first < SAME and min(later) > 1e-3


def test_bank_rollouts_and_evaluation_are_sampled_by_vllm_which_leaves_nothing(recipe, tmp_path, started):
    found = run(recipe(num_eval_prompts=4, eval_num_samples=2, vllm_max_model_length=64), tmp_path / "run")
    bank, trainer, base, trained = started.options
    assert [options["max_model_len"] for options in started.options] == [64] * 4
    assert (bank["gpu_memory_utilization"], trainer["gpu_memory_utilization"]) == (0.9, 0.3)
    assert (base["model"], trained["model"]) == (bank["model"], str(found.model))
    assert started.calls == [12, 8, 8, 8, 8, 8]
    facts = found.manifest()["reference_bank"]
    assert facts["identity"]["model"]["engine"] == "vllm" and ReferenceBank.open(facts["path"]).num_samples == 2
    identities = [json.loads(path.read_text()) for path in (cache_folder() / "evaluations").glob("*/manifest.json")]
    assert [each["identity"]["model"]["engine"] for each in identities] == ["vllm", "vllm"]
    gc.collect()
    assert started.num_alive == 0


def test_a_refill_samples_again_and_the_bank_grows_beside_the_trainer(recipe, tmp_path, started):
    (tmp_path / "odd.py").write_text(  # even numbers are always right, and teach nothing
        "def evenness(answer, completion_ids, log_extra, **columns):\n"
        "    right = [int(n) % 2 or sum(ids) % 2 == 0 for n, ids in zip(answer, completion_ids)]\n"
        "    log_extra('verdict/evenness', ['correct' if each else 'wrong' for each in right])\n"
        "    return [float(bool(each)) for each in right]\n"
    )
    fields = {"min_live_frac": 1.0, "margin": "expected", "max_steps": 2, "max_refill_rounds": 8}
    found = run(recipe(reward_funcs=["odd.py:evenness"], **fields), tmp_path / "run")
    rounds = logged(found, "rollout/refill_rounds")
    assert sum(rounds) >= 1 and max(logged(found, DIFFERENCE)) < SAME
    assert logged(found, "signal/dead_after_margin_frac") == [0, 0]
    bank, trainer, grown = started.options
    assert [each["gpu_memory_utilization"] for each in (bank, trainer, grown)] == [0.9, 0.3, 0.3]
    assert found.manifest()["reference_bank"]["added"]["samples"] > 2 * 4


def test_what_generation_kwargs_forbid_vllm_never_draws(recipe, tmp_path, started):
    found = run(
        recipe(generation_kwargs={"suppress_tokens": list(range(100)), "min_new_tokens": MAX_TOKENS}, **ONE_STEP),
        tmp_path / "run",
    )
    rows = found.rollouts(1)
    tokens = [row["completion_tokens"] for row in rows]
    assert tokens == [MAX_TOKENS] * 8 and not any(char.isdigit() for row in rows for char in row["completion"])


def test_the_seed_decides_what_is_drawn(recipe, tmp_path, started):
    same = {"shuffle_dataset": False, **ONE_STEP}
    one, again, other = (
        completions(run(recipe(seed=seed, **same), tmp_path / name), 1)
        for seed, name in ((5, "one"), (5, "again"), (6, "other"))
    )
    assert one == again and len(set(one)) == 8
    assert sum(a == b for a, b in zip(one, other, strict=True)) <= 2


def test_a_run_that_goes_on_samples_the_policy_of_its_checkpoint(recipe, tmp_path, started, monkeypatch):
    whole = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    (tmp_path / "stop.py").write_text(
        "import os, signal\nfrom pathlib import Path\nfrom even import evenness as even\n"
        "def evenness(completion_ids, **columns):\n"
        "    if len(completion_ids) == 8:\n"
        "        with open('calls', 'a') as file: file.write('x')\n"
        "    if Path('calls').exists() and Path('calls').read_text() == 'xx':\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return even(completion_ids, **columns)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    stopped = recipe(**whole, reward_funcs=["stop.py:evenness"])
    assert train(stopped, tmp_path / "run").interrupted
    assert not train(stopped, tmp_path / "run", resume=True).interrupted
    found = RunDirectory(tmp_path / "run")
    assert logged(found, "step") == [1, 2, 3, 4] and max(logged(found, DIFFERENCE)) < SAME


def test_sleep_is_refused_where_vllm_has_none(recipe, tmp_path, started):
    if torch.cuda.is_available():
        pytest.skip("a GPU can sleep")
    with pytest.raises(InputError, match="Sleep mode is not supported on current platform"):
        train(recipe(vllm_enable_sleep_mode=True), tmp_path / "run")

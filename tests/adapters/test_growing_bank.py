"""A bank that grows with the runs that read it: by what is planned, by what is met, by more samples; and its price.

Shapes: P prompts, K reference samples per prompt.
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from aapo.bank import ReferenceBank
from aapo.engines.transformers import TransformersEngine
from aapo.errors import InputError
from aapo.learning.order import epoch_order, visited
from aapo.recipe import resolve
from aapo.runs import RunDirectory
from aapo.training import banks, train
from aapo.training.banks import RecipeBank
from aapo.training.prompts import checked_prompts
from aapo.training.schedule import planned_prompts

MAX_TOKENS = 6
NUM_PROMPTS = 16


@pytest.fixture
def recipe(tiny_folder, tmp_path, cache, monkeypatch):
    """A recipe of three steps of 2 prompts among 16; fields can be changed."""
    monkeypatch.chdir(tmp_path)
    write_workplace(tmp_path)
    return partial(made, tiny_folder)


def write_workplace(folder):
    rows = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(NUM_PROMPTS)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "even.py").write_text(
        "def evenness(completion_ids, log_extra, **columns):\n"
        "    right = [sum(ids) % 2 == 0 for ids in completion_ids]\n"
        "    log_extra('verdict/evenness', ['correct' if each else 'wrong' for each in right])\n"
        "    return [float(each) for each in right]\n"
    )


def made(tiny_folder, **fields):
    given = {
        "model_name_or_path": str(tiny_folder), "dataset_name": "sums.jsonl", "num_eval_prompts": 0,
        "reward_funcs": ["even.py:evenness"], "judge": "evenness", "num_reference_samples": 2, "num_generations": 4,
        "per_device_train_batch_size": 8, "max_completion_length": MAX_TOKENS, "max_steps": 3, "save_strategy": "no",
        "learning_rate": 0.05, "activation_checkpointing": False, "bf16": False, "use_cpu": True, "seed": 5,
    }  # fmt: skip
    return resolve("growing", {**given, **fields})


def run(recipe, path):
    train(recipe, Path(path))
    return RunDirectory(path)


def keys_of(run):
    """Keys of the prompts of each step, in order, each once a step."""
    return [list(dict.fromkeys(row["prompt_key"] for row in run.rollouts(step))) for step in run.rollout_steps()]


def bank_of(run):
    facts = run.manifest()["reference_bank"]
    return ReferenceBank.open(facts["path"]), facts["added"]


def margins(run):
    return [row["margin"] for step in run.rollout_steps() for row in run.rollouts(step)]


def whole_bank(recipe):
    """The cache's bank of the recipe, with all prompts."""
    from aapo.training.models import model_spec

    tokenizer = model_spec(recipe, recipe.model.model_name_or_path).load_tokenizer()
    return RecipeBank(recipe, tokenizer).grow(checked_prompts(recipe, tokenizer).prompts)


def test_only_the_prompts_of_the_planned_steps_are_sampled_and_others_add_theirs(recipe, tmp_path, capsys):
    first = run(recipe(), "first")
    met = {key for step in keys_of(first) for key in step}
    bank, added = bank_of(first)
    assert len(met) == 6 and set(bank._table) == met
    assert (added["samples"], added["scored"], added["tokens"]) == (12, 12, sum(map(bank.tokens, met)))
    assert "reference bank +12 completions (50% of the run's 24 rollouts), found 0" in capsys.readouterr().out
    last = first.metrics()[-1]
    assert (last["bank/prompts"], last["bank/generated_tokens"]) == (6, added["tokens"]) and last["bank/seconds"] > 0

    longer = run(recipe(max_steps=5), "longer")
    assert keys_of(longer)[:3] == keys_of(first) and bank_of(longer)[1]["samples"] == 4 * 2
    assert "+8 completions (20% of the run's 40 rollouts), found 12" in capsys.readouterr().out
    again = run(recipe(), "again")
    assert bank_of(again)[1]["samples"] == 0 and margins(again) == margins(first)
    # A rival that the bank serves pays the same for it, whoever drew the samples.
    assert again.metrics()[-1]["bank/generated_tokens"] == last["bank/generated_tokens"]

    there = set(bank_of(longer)[0]._table)
    other = run(recipe(seed=6), "other")
    new = {key for step in keys_of(other) for key in step} - there
    assert bank_of(other)[1]["samples"] == 2 * len(new)


def test_the_planned_prompts_are_those_that_the_trainer_comes_to(recipe):
    for number, fields in enumerate(
        ({"max_steps": 11}, {"max_steps": -1, "num_train_epochs": 1.5}, {"shuffle_dataset": False}, {
            "steps_per_generation": 2, "gradient_accumulation_steps": 1, "max_steps": 4})
    ):  # fmt: skip
        asked = recipe(**fields)
        done = run(asked, f"run-{number}")
        met = list(dict.fromkeys(key for step in keys_of(done) for key in step))
        bank, _ = bank_of(done)
        prompts = done_keys(asked)
        assert [prompts[place] for place in planned_prompts(asked, NUM_PROMPTS)] == met
        assert set(met) <= set(bank._table)


def done_keys(recipe):
    from aapo.training.models import model_spec

    tokenizer = model_spec(recipe, recipe.model.model_name_or_path).load_tokenizer()
    return [prompt.key for prompt in checked_prompts(recipe, tokenizer).prompts]


def test_visits_follow_the_epochs_orders():
    orders = [epoch_order(3, epoch, 7) for epoch in range(3)]
    assert [sorted(order) for order in orders] == [list(range(7))] * 3 and orders[0] != orders[1]
    assert visited(3, 7, 2, 3) == orders[0][:6]  # the seventh fills no batch
    assert visited(3, 7, 2, 4) == list(dict.fromkeys([*orders[0][:6], *orders[1][:2]]))
    assert visited(3, 7, 2, 100) == list(dict.fromkeys(place for order in (*orders, *(
        epoch_order(3, epoch, 7) for epoch in range(3, 40))) for place in order[:6]))  # fmt: skip
    assert visited(3, 7, 2, 2, shuffle=False) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "fields",
    [
        {"weighted_sample": True, "sample_strategy": "soft"},
        {"min_live_frac": 1.0, "max_refill_rounds": 3, "max_steps": 2},
        {"use_peft": True, "lora_r": 2, "lora_target_modules": "all-linear", "weighted_sample": True,
         "sample_strategy": "hard"},
    ],
    ids=["weights", "refill", "adapters"],
)  # fmt: skip
def test_prompts_that_are_met_are_sampled_then_as_they_would_have_been_before(recipe, fields, monkeypatch, cache):
    grown = run(recipe(**fields), "grown")
    bank, added = bank_of(grown)
    met = {key for step in keys_of(grown) for key in step}
    assert met <= set(bank._table) and len(bank) < NUM_PROMPTS and added["samples"] == 2 * len(bank)
    assert grown.metrics()[-1]["bank/prompts"] == len(bank)  # a refill reads also what it throws away

    monkeypatch.setenv("AAPO_CACHE", str(cache / "whole"))
    assert len(whole_bank(recipe(**fields))) == NUM_PROMPTS
    before = run(recipe(**fields), "before")
    assert bank_of(before)[1]["samples"] == 0
    assert keys_of(before) == keys_of(grown) and margins(before) == margins(grown)
    assert (before.model / "config.json").exists() == (grown.model / "config.json").exists()
    for one, other in zip(before.metrics(), grown.metrics(), strict=True):
        assert one["loss"] == other["loss"] and one["bank/generated_tokens"] == other["bank/generated_tokens"]


def test_with_adapters_the_policy_without_them_samples_what_is_met(recipe, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("no second model is loaded")

    fields = {"use_peft": True, "lora_r": 2, "lora_target_modules": "all-linear"}
    monkeypatch.setattr(banks, "open_engine", lambda *args, **options: Idle(options["tokenizer"]))
    monkeypatch.setattr(Idle, "generate", never)
    done = run(recipe(**fields, weighted_sample=True, sample_strategy="hard"), "done")
    assert len(bank_of(done)[0]) > 0
    with pytest.raises(AssertionError, match="no second model"):
        run(recipe(weighted_sample=True, sample_strategy="hard", temperature=0.9), "full")


class Idle:
    """Stands for an engine whose model is not to be loaded."""

    def __init__(self, tokenizer):
        self.tokenizer, self.batch_size = tokenizer, 8

    def generate(self, *arguments):
        raise NotImplementedError

    def close(self):
        """Nothing was opened."""


def test_a_growth_that_was_killed_goes_on_with_what_it_has(recipe, monkeypatch):
    generate, calls = TransformersEngine.generate, []

    def killed(self, *arguments):
        calls.append(len(arguments[0]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(self, *arguments)

    monkeypatch.setattr("aapo.bank.store.PROMPTS_PER_FILE", 2)
    monkeypatch.setattr(TransformersEngine, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(), "run")
    train(recipe(), Path("run"), resume=True)
    bank, added = bank_of(RunDirectory("run"))
    assert added["samples"] == 8 and len(bank) == 6 and calls[0] == 4  # the manifest was not written yet


def test_a_named_bank_grows_and_another_models_is_refused(recipe, tiny_folder, tmp_path):
    first = recipe(max_steps=1)
    bank, _ = bank_of(run(first, "first"))
    named = {"reference_bank": str(bank.path)}
    done = run(recipe(**named), "named")
    assert bank_of(done)[1]["samples"] == 8 and len(ReferenceBank.open(bank.path)) == 6
    with pytest.raises(InputError, match=r"does not match this run: sampling.temperature: bank has 1.0, run has 0.7"):
        run(recipe(**named, temperature=0.7), "other")
    with pytest.raises(InputError, match=r"only the rewards differ, .*`aapo bank rescore "):
        run(recipe(**named, reward_funcs=["accuracy"], judge=None), "scored")
    with pytest.raises(InputError, match="there is no bank; build it with `aapo bank build RECIPE`"):
        run(recipe(reference_bank="nowhere"), "none")
    assert bank_of(run(recipe(**named, num_reference_samples=3), "more"))[1]["samples"] == 6


def test_choices_by_pass_rate_read_and_pay_the_whole_bank(recipe):
    chosen = run(recipe(algorithm="grpo", max_reference_pass_rate=0.9), "chosen")
    bank, added = bank_of(chosen)
    assert len(bank) == NUM_PROMPTS and added["samples"] == 2 * NUM_PROMPTS
    curriculum = run(recipe(curriculum="easy_to_hard"), "curriculum")
    assert bank_of(curriculum)[1]["samples"] == 0
    assert curriculum.metrics()[-1]["bank/prompts"] == NUM_PROMPTS
    assert curriculum.metrics()[-1]["bank/generated_tokens"] == sum(map(bank.tokens, bank._table))


def test_the_budget_counts_the_reference_samples(recipe):
    free = run(recipe(max_steps=8, max_generated_tokens=10**6), "free")
    rows = free.metrics()
    at = rows[2]["rollout/generated_tokens"] + rows[2]["bank/generated_tokens"]
    assert len(run(recipe(max_steps=8, max_generated_tokens=int(at)), "all").metrics()) == 3
    half = rows[2]["rollout/generated_tokens"] + 0.5 * rows[2]["bank/generated_tokens"]
    limited = recipe(max_steps=8, max_generated_tokens=int(half), bank_cost_share=0.5)
    assert len(run(limited, "half").metrics()) == 3


def test_a_resumed_run_goes_on_counting_where_it_was(recipe):
    steps = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4}
    whole = run(recipe(**steps), "whole")
    stopped = run(recipe(**steps), "stopped")
    for path in (stopped.checkpoints / "checkpoint-3", stopped.checkpoints / "checkpoint-4"):
        if (path / "whole").exists():
            (path / "whole").unlink()
    assert not stopped.checkpoints.joinpath("checkpoint-1").exists()  # two are kept
    with pytest.raises(InputError, match="holds another run"):
        train(recipe(**steps), Path("stopped"))
    train(recipe(**steps), Path("stopped"), resume=True)
    for one, other in zip(whole.metrics(), stopped.metrics(), strict=True):
        assert one["bank/prompts"] == other["bank/prompts"] and one["margin/mean"] == other["margin/mean"]


SCRIPT = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
os.chdir({folder!r})
from aapo.ranks import finish
from aapo.training import train
from test_growing_bank import made
size = 8 // int(os.environ["WORLD_SIZE"])
train(made({model!r}, weighted_sample=True, sample_strategy="soft", max_steps=3, ddp_backend="gloo",
           per_device_train_batch_size=size), Path(sys.argv[1]))
finish()
"""


@pytest.mark.slow
def test_two_processes_grow_the_bank_of_one(tiny_folder, tmp_path, cache):
    write_workplace(tmp_path)
    script = tmp_path / "script.py"
    tests, folder = str(Path(__file__).parent), str(tmp_path)
    script.write_text(SCRIPT.format(tests=tests, folder=folder, model=str(tiny_folder)))
    for processes in (1, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "AAPO_CACHE": str(cache / str(processes))}
        done = subprocess.run(
            [*launch, str(script), f"run-{processes}"], env=env, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    one, two = (RunDirectory(tmp_path / f"run-{processes}") for processes in (1, 2))
    assert keys_of(one) == keys_of(two)
    assert [sorted(map(str, bank_of(each)[0].rows())) for each in (one,)] == [sorted(map(str, bank_of(two)[0].rows()))]
    assert bank_of(one)[1]["samples"] == bank_of(two)[1]["samples"] == 2 * one.metrics()[-1]["bank/prompts"]
    files = list(Path(two.manifest()["reference_bank"]["path"]).glob("samples-*"))
    assert sum(pq.read_metadata(file).num_rows for file in files) == len(bank_of(two)[0])  # nothing was drawn twice

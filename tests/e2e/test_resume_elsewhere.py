"""A run that goes on on another number of processes: the batch is the recipe's, and so is the model that comes out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from aapo.cli.app import run as aapo
from aapo.engines import load_model
from aapo.errors import InputError
from aapo.recipe import resolve
from aapo.runs import RunDirectory

BATCH = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_generations": 4}
FIELDS = {"model_name_or_path": "model", "dataset_name": "rows.jsonl", "num_eval_prompts": 0, "bf16": False, **BATCH}


@pytest.mark.parametrize(
    ("given", "meant", "launched", "expected"),
    [
        # per_device_train_batch_size, gradient_accumulation_steps, steps_per_generation, generation_batch_size
        ({}, None, 2, (8, 2, 2, 32)),  # TRL's meaning, of a run that begins: 8 x 2 x 2 completions a step
        ({}, 1, 1, (8, 2, 2, 16)),
        ({}, 1, 2, (8, 1, 1, 16)),
        ({}, 1, 4, (4, 1, 1, 16)),
        ({}, 2, 1, (8, 4, 4, 32)),
        ({}, 4, 1, (8, 8, 8, 64)),
        ({"gradient_accumulation_steps": 1}, 1, 2, (4, 1, 1, 8)),
        ({"per_device_train_batch_size": 6}, 1, 3, (4, 1, 1, 12)),
        ({"steps_per_generation": 4}, 1, 2, (8, 1, 2, 32)),
        ({"steps_per_generation": 4}, 2, 1, (8, 4, 8, 64)),
        ({"generation_batch_size": 64}, 1, 2, (8, 1, 4, 64)),
        ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}, 2, 1, (2, 2, 2, 4)),
    ],
)
def test_the_batch_is_that_of_the_processes_that_a_run_began_with(monkeypatch, given, meant, launched, expected):
    monkeypatch.setenv("WORLD_SIZE", str(launched))
    training = resolve("mine", {**FIELDS, "num_processes": meant, **given}).training
    made = (
        training.per_device_train_batch_size, training.gradient_accumulation_steps, training.steps_per_generation,
        training.generation_batch_size,
    )  # fmt: skip
    assert made == expected and training.num_processes == (meant or launched)


def test_an_algorithm_that_multiplies_the_batch_does_so_once(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    training = resolve("mine", {**FIELDS, "algorithm": "grpo-2g", "num_processes": 1}).training
    assert (training.num_generations, training.generation_batch_size) == (8, 32)
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps * 2 == 32


def test_processes_that_cannot_share_the_batch_are_refused_with_the_numbers(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        InputError, match="^the batch is that of 2 processes, 32 completions a step and 32 drawn at once, which 3 "
        "processes cannot share equally; launch a number of processes that divides both$"
    ):  # fmt: skip
        resolve("mine", {**FIELDS, "num_processes": 2})


@pytest.fixture
def workplace(tiny_folder, tmp_path, monkeypatch, cache):
    """A recipe with a bank whose reward function stops the run, as Ctrl-C does, in the steps of $STOP_IN."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": [{"role": "user", "content": f"{n} + {n}"}], "answer": str(2 * n)} for n in range(16)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("even.py").write_text(
        "import os, signal\n\n"
        "def even(completion_ids, trainer_state, **columns):\n"
        "    if trainer_state is not None and trainer_state.global_step + 1 == int(os.environ.get('STOP_IN', 0)):\n"
        "        if os.environ.get('RANK', '0') == '0':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "    return [float(sum(ids) % 2 == 0) for ids in completion_ids]\n"
    )
    fields = {
        **FIELDS, "model_name_or_path": str(tiny_folder), "dataset_name": "data.jsonl",
        "reward_funcs": ["even.py:even"],
        "num_reference_samples": 2, "max_completion_length": 6, "max_steps": 6, "learning_rate": 0.01,
        "adam_epsilon": 1e-3, "save_strategy": "steps", "save_steps": 100, "activation_checkpointing": False,
        "use_cpu": True, "preflight": "off",
    }  # fmt: skip
    Path("mine.yaml").write_text(yaml.safe_dump(fields))
    return tmp_path


def launched(processes, stop_in, *arguments):
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *launch, "-m", "aapo", "train", "mine.yaml", *arguments], capture_output=True, text=True,
        env={**os.environ, "STOP_IN": str(stop_in), "OMP_NUM_THREADS": "1"}, check=False, timeout=500,
    )  # fmt: skip
    assert (done.returncode == 0) == (stop_in == 0), done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_one_then_two_then_one_process_reach_the_model_of_one_uninterrupted(workplace):
    launched(1, 0, "--output_dir", "whole")
    launched(1, 2, "--output_dir", "moved")
    assert json.loads((workplace / "moved" / "manifest.json").read_text())["num_processes"] == 1
    said = launched(2, 4, "--output_dir", "moved", "--resume")
    assert (
        "the batch is that of 1 processes: its 16 completions a step are per_device_train_batch_size 8 x "
        "gradient_accumulation_steps 1 x 2 processes" in said
    )
    assert "the batch is that of" not in launched(1, 0, "--output_dir", "moved", "--resume")

    whole, moved = RunDirectory("whole"), RunDirectory("moved")
    for alone, shared in zip(whole.metrics(), moved.metrics(), strict=True):
        for key in ("step", "reward", "rollout/accuracy", "margin/mean", "completions/mean_length", "num_tokens"):
            assert alone.get(key) == pytest.approx(shared.get(key), abs=1e-5), (alone["step"], key)
        # A mean of the squares of many sums, each of which is taken in another order.
        assert alone["grad_norm"] == pytest.approx(shared["grad_norm"], rel=1e-3)
    for step in range(1, 7):
        rows = [[row["completion"] for row in each.rollouts(step)] for each in (whole, moved)]
        assert len(rows[0]) == 16 and rows[0] == rows[1]
    # A gradient's sum over 16 completions differs by some 1e-7 of it with the order of its terms. Adam divides by at
    # least adam_epsilon 1e-3, so that each of 6 steps of 0.01 moves a weight by some 1e-6 otherwise at most.
    weights = [
        torch.cat([p.detach().flatten() for p in load_model(str(each.model)).parameters()]) for each in (whole, moved)
    ]
    torch.testing.assert_close(*weights, atol=1e-5, rtol=0)


def test_a_run_goes_on_with_the_number_of_processes_of_its_recipe_alone(workplace, monkeypatch, capsys):
    assert aapo(["train", "mine.yaml", "--output_dir", "run", "--max_steps", "1"]) == 0
    stored = yaml.safe_load(Path("run/recipe.yaml").read_text())
    assert stored["fields"]["num_processes"] == 1
    capsys.readouterr()
    asked = ["train", "mine.yaml", "--output_dir", "run", "--max_steps", "1", "--resume", "--dry-run"]
    assert aapo([*asked, "--num_processes", "2"]) == 2
    assert "num_processes: run has 1, asked is 2" in capsys.readouterr().err
    monkeypatch.setattr("aapo.recipe.training.num_launched", lambda: 2)
    assert aapo(asked) == 0
    plan = " ".join(capsys.readouterr().out.split())
    assert "per_device_train_batch_size: 8 gradient_accumulation_steps: 1 generation_batch_size: 16" in plan
    monkeypatch.setattr("aapo.recipe.training.num_launched", lambda: 3)
    assert aapo(asked) == 2
    assert "16 completions a step and 16 drawn at once, which 3 processes cannot share" in capsys.readouterr().err

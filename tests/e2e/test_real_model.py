"""A real pretrained model, from its package to a trained and evaluated folder: `make test-real`."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from aapo.bank import ReferenceBank
from aapo.cli.app import run as aapo
from aapo.runs import RunDirectory

pytestmark = pytest.mark.real

EXAMPLE = Path(__file__).parents[2] / "examples" / "real-model"
# Whether the likeliest tokens after "What is A + B?" hold the right answer in a form that is read, as it was seen by
# hand: "The answer to this classic math problem is 4.", but "3 + 4 = 7\n\nThis is a classic example of a …".
SUMS = {(2, 2): True, (3, 4): False, (5, 1): True, (9, 9): False, (0, 7): False, (6, 8): False}


def script(name, *arguments):
    return subprocess.run(
        [sys.executable, EXAMPLE / name, *map(str, arguments)], check=False, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The model's folder."""
    folder = tmp_path_factory.mktemp("real") / "SmolLM2-135M-Instruct"
    done = script("make_model.py", folder)
    assert done.stdout.endswith(f"{folder}: made, 134,515,008 parameters, checked\n"), done.stderr[-2000:]
    return folder


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the sums, as the working directory, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AAPO_CACHE", str(tmp_path / "cache"))
    assert script("make_sums.py", "sums").stdout.endswith("395 problems\n")
    return tmp_path


def test_a_folder_that_is_there_is_checked_and_one_that_is_another_model_is_named(model, tmp_path):
    again = script("make_model.py", model)
    assert again.stdout.endswith(f"{model}: already there, 134,515,008 parameters, checked\n"), again.stderr
    other = tmp_path / "other"
    shutil.copytree(model, other)
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("SmolLM", "another"))
    done = script("make_model.py", other)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"make_model: {other} is there and is not the model (the rendered chat is ")
    assert last.endswith("; remove it or name another")


def test_no_sum_is_in_both_files(workplace):
    rows = {
        name: [json.loads(line) for line in (workplace / "sums" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "test")
    }
    numbers = {name: {tuple(sorted(digits(row["question"]))) for row in found} for name, found in rows.items()}
    assert len(numbers["train"]) == 44 and len(numbers["test"]) == 11 and not numbers["train"] & numbers["test"]
    assert all(sum(digits(row["question"])) == int(row["answer"]) for found in rows.values() for row in found)


def digits(question):
    return [int(word) for word in question.replace(".", " ").replace("?", " ").split() if word.isdigit()]


def test_greedy_answers_are_those_that_are_known(model, workplace):
    rows = [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in SUMS]
    (workplace / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    protocol = 'prompt_template: "{question}"\ntemperature: 0\nmax_completion_length: 20\nnum_samples: 1\n'
    (workplace / "greedy.yaml").write_text(protocol)
    flags = ["--protocol", "greedy.yaml", "--answer_convention", "final_answer", "--dtype", "float32"]
    assert aapo(["eval", str(model), "--tasks", "known.jsonl", "--output", "found", *flags]) == 0
    (file,) = (workplace / "found").rglob("*.parquet")
    found = {row["prompt"]: row for row in pq.read_table(file).to_pylist()}
    assert {question: row["correct"] == 1 for question, row in found.items()} == {
        f"What is {a} + {b}?": right for (a, b), right in SUMS.items()
    }
    assert found["What is 2 + 2?"]["completion"] == "The answer to this classic math problem is 4."


def test_it_trains_for_two_steps(model, workplace):
    flags = {
        "model_name_or_path": model, "dataset_name": "sums", "num_eval_prompts": 4, "eval_num_samples": 1,
        "reward_funcs": f"accuracy,{EXAMPLE / 'shown.py'}:shown", "max_steps": 2, "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1, "save_steps": 10, "output_dir": "run", "preflight": "warn",
        "dtype": "float32", "bf16": "false",
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    assert aapo(["train", str(EXAMPLE / "recipe.yaml"), *words]) == 0
    run = RunDirectory(workplace / "run")
    bank = ReferenceBank.open(run.manifest()["reference_bank"]["path"])
    assert len(bank) == 2  # a prompt a step
    for row in run.metrics():
        assert math.isfinite(row["loss"]) and row["grad_norm"] > 0
    assert run.metrics()[-1]["weights/moved_frac"] > 0.99
    before, after = (load_file(folder / "model.safetensors") for folder in (model, run.model))
    assert before.keys() == after.keys()
    assert 0 < max((before[name] - after[name]).abs().max() for name in before) < 1e-3
    assert json.loads((run.evaluation / "results.json").read_text())
    assert (run.path / "report.html").exists()
    assert torch.isfinite(after["model.embed_tokens.weight"]).all()

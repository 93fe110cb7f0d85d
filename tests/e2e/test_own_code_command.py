"""A user's own reward file at the command line: what fails in it is one line, and never exit code 0."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from aapo.cli.app import run
from aapo.runs import RunDirectory


@pytest.fixture
def recipe(tiny_folder, tmp_path, monkeypatch, cache):
    """A recipe without a bank in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    rows = [{"problem": f"{n} + {n}", "solution": str(2 * n)} for n in range(8)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {
        "model_name_or_path": str(tiny_folder), "dataset_name": "data.jsonl", "num_eval_prompts": 0,
        "algorithm": "grpo", "num_generations": 4, "per_device_train_batch_size": 16, "max_completion_length": 4,
        "max_steps": 2, "save_strategy": "no", "activation_checkpointing": False, "bf16": False, "use_cpu": True,
    }  # fmt: skip
    Path("mine.yaml").write_text(yaml.safe_dump(fields))
    return "mine.yaml"


def test_a_reward_file_that_exits_when_it_is_loaded_is_refused_before_anything_is_written(recipe, capsys):
    Path("gone.py").write_text("import sys\nsys.exit(0)\ndef gone(**columns):\n    pass\n")
    assert run(["train", recipe, "--reward_funcs", "gone.py:gone", "--output_dir", "run"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("aapo: cannot load reward function 'gone.py:gone': it ended the program by exit(0) (")
    assert line.endswith("gone.py, line 2)") and not Path("run").exists()


@pytest.mark.parametrize("ending", [pytest.param("exit()", marks=pytest.mark.slow), "os._exit(0)"])
def test_a_reward_function_that_exits_in_a_run_ends_it_with_1(recipe, ending):
    """In a process of its own, which `os._exit` would end."""
    Path("exits.py").write_text(f"import os, sys\n\ndef exits(completions, **columns):\n    {ending}\n")
    command = ["train", recipe, "--reward_funcs", "exits.py:exits", "--output_dir", "run"]
    script = f"import sys; from aapo.cli.app import run; sys.exit(run({command!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, env=os.environ, timeout=200
    )
    assert done.returncode == 1
    line = next(line for line in done.stderr.splitlines() if line.startswith("aapo: "))
    assert line.startswith("aapo: reward function 'exits.py:exits' failed on sample 1 of 16 (prompt '")
    assert "it ended the program by " in line and "exits.py, line 4)" in line


def test_a_trl_reward_function_reads_the_columns_as_the_data_names_them(recipe):
    Path("trl_style.py").write_text(
        "def graded(completions, solution, problem, answer, **columns):\n"
        "    assert answer == solution and all(eval(text) == int(gold) for text, gold in zip(problem, solution))\n"
        "    return [float(len(text[0]['content'])) for text in completions]\n"
    )
    assert run(["train", recipe, "--reward_funcs", "trl_style.py:graded", "--output_dir", "run"]) == 0
    assert len(RunDirectory("run").metrics()) == 2


@pytest.mark.slow
def test_a_reward_function_that_hangs_is_ended_by_the_second_interrupt(recipe):
    Path("hangs.py").write_text(
        "import os, signal, threading, time\n\n"
        "def hangs(completions, **columns):\n"
        "    for seconds in (0.5, 1.5):\n"
        "        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-m", "aapo", "train", recipe, "--reward_funcs", "hangs.py:hangs", "--output_dir", "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 1 and "SIGINT: stopping after this step" in done.stdout
    said = [line for line in done.stderr.splitlines() if line.startswith("aapo: ")]
    assert said == ["aapo: interrupted; what is done so far is kept, go on with `aapo train run --resume`"]

"""`aapo eval` and `aapo table` as their user runs them, on models of a few thousand parameters."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aapo.base.model import new_model, train_tokenizer
from aapo.cli.app import run
from tiny import TINY

TASKS = "sums.jsonl,reasoning_gym:chain_sum"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with two models of other weights, one without a chat template, and local problems."""
    folder = tmp_path_factory.mktemp("evaluations")
    config = replace(TINY, max_position_embeddings=1024)
    tokenizer = train_tokenizer(["Calculate 1 + 2.\nuser\nassistant\nsystem\n<think></think>"] * 5, TINY.vocab_size)
    for seed, name in enumerate(("one", "two", "plain")):
        torch.manual_seed(seed)
        if name == "plain":
            tokenizer.chat_template = None
        new_model(config, tokenizer).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    problems = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(12)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    return folder


@pytest.fixture(autouse=True)
def own_cache(workplace, monkeypatch):
    monkeypatch.setenv("AAPO_CACHE", str(workplace / "cache"))
    monkeypatch.chdir(workplace)


def refused(capsys, *arguments, code=2):
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == code
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("aapo: ")]
    assert len(lines) == 1
    return lines[0]


def lines_of(capsys, *arguments):
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == 0
    return " ".join(capsys.readouterr().out.split())


def evaluation(*flags, tasks=TASKS, model="one", samples=2):
    common = {"--max_completion_length": 8, "--num_problems": 6, "--num-samples": samples}
    unsaid = [word for name, value in common.items() if name not in flags and value for word in (name, value)]
    return ("eval", model, "--tasks", tasks, *unsaid, *flags)


def results(folder: str):
    return json.loads((Path(folder) / "results.json").read_text())


def test_two_models_are_held_against_each_other(capsys):
    out = lines_of(capsys, *evaluation("--against", "two", "--output", "both", "--k", "1,2"))
    assert "on average, 95% interval" in out and "inside the noise" in out
    rows = results("both")
    assert {row["model"] for row in rows} == {"one", "two"}
    keys = (
        "model", "task", "protocol", "metric", "estimate", "low", "high", "num_problems", "num_samples",
        "truncated_frac", "no_answer_frac", "timeout_frac", "unparseable_gold",
    )  # fmt: skip
    assert all(set(keys) <= set(row) for row in rows)
    assert {row["metric"] for row in rows} == {"avg@2", "pass@1", "pass@2", "maj@1", "maj@2"}
    assert {row["task"] for row in rows} == {"sums", "chain_sum", "average"}
    label = rows[0]["protocol"]
    protocol = json.loads(Path("both/protocol.json").read_text())
    assert label == f"{protocol['name']}@{protocol['hash']}" and protocol["temperature"] == 0.6
    assert "| one |" in Path("both/table.md").read_text() and "\\toprule" in Path("both/table.tex").read_text()
    # A stored result serves as well as a model.
    again = lines_of(capsys, *evaluation("--against", "both", "--output", "stored"))
    assert "one is" in again and len(json.loads(Path("stored/differences.json").read_text())) == 3


def test_shares_are_sampled_apart_and_collected(capsys):
    flags = ("--seed", "5")
    assert "collects them" in lines_of(capsys, *evaluation(*flags, "--share", "1/2"))
    assert "run the other shares" not in lines_of(capsys, *evaluation(*flags, "--share", "0/2"))
    out = lines_of(capsys, *evaluation(*flags, "--output", "collected"))
    assert "to do" not in out  # nothing was left to sample
    lines_of(capsys, *evaluation("--seed", "5", "--output", "whole"))
    assert results("collected") == results("whole")
    assert "--share is '2/2'" in refused(capsys, *evaluation("--share", "2/2"))


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_to_the_identical_result(capsys, workplace):
    """Killed with SIGKILL between two files; the other half is sampled, the first is kept."""
    flags = ("--batch-size", "4", "--num_problems", "12")
    lines_of(capsys, *evaluation(*flags, "--output", "straight"))
    environment = {**os.environ, "AAPO_CACHE": str(workplace / "other-cache")}
    script = """
import time
import aapo.bank.storage as storage
write = storage.write_samples
def slow(*arguments):
    time.sleep(0.3)
    return write(*arguments)
storage.write_samples = slow
from aapo.cli import main
main()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, evaluation(*flags))], env=environment, stdout=subprocess.DEVNULL
    )
    store = workplace / "other-cache" / "evaluations"
    deadline = time.monotonic() + 120
    while len(list(store.glob("*/samples-*.parquet"))) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {file: file.stat().st_mtime_ns for file in store.glob("*/samples-*.parquet")}
    assert 4 <= len(kept) < 12
    os.environ["AAPO_CACHE"] = str(workplace / "other-cache")
    lines_of(capsys, *evaluation(*flags, "--output", "resumed"))
    assert results("resumed") == results("straight")
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    for file in Path("straight/samples").iterdir():
        assert (Path("resumed/samples") / file.name).read_bytes() == file.read_bytes()


def test_tables_refuse_to_mix_protocols_unless_told(capsys):
    lines_of(capsys, *evaluation("--output", "warm", tasks="sums.jsonl"))
    lines_of(capsys, *evaluation("--output", "cold", "--temperature", "0.1", tasks="sums.jsonl"))
    assert "are of 2 protocols" in refused(capsys, "table", "warm", "cold")
    mixed = lines_of(capsys, "table", "warm", "cold", "--mix-protocols", "--format", "markdown")
    assert "PROTOCOLS ARE MIXED" in mixed
    line = refused(capsys, *evaluation("--against", "warm", "--temperature", "0.1", tasks="sums.jsonl"))
    assert "warm was evaluated by aapo+max_completion_length+num_samples@" in line
    assert json.loads(lines_of(capsys, "table", "warm", "--format", "json"))[0]["task"] == "sums"


def test_the_papers_rows_stand_beside_ours(capsys):
    lines_of(capsys, *evaluation("--output", "aime", tasks="math_500=problems.jsonl") if write_problems() else ())
    out = lines_of(capsys, "table", "aime", "--published", "Qwen 7B", "--format", "markdown")
    # AAPO-7B on MATH-500: sqrt(0.824 * 0.176 / 500) = 1.7 points.
    assert "| AAPO-7B (paper) | 82.4 +- 1.7 |" in out
    lines_of(capsys, *evaluation("--output", "local", tasks="sums.jsonl"))
    assert "--published has no effect" in refused(capsys, "table", "local", "--published", "all")


def write_problems():
    rows = [{"problem": f"{n} + 1?", "answer": str(n + 1)} for n in range(3)]
    return Path("problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (evaluation(tasks="aime2"), "unknown task 'aime2' (did you mean aime25?)"),
        (evaluation(model="plain"), "has no chat template, which conversational prompts need"),
        (evaluation("--max_completion_length", "5000"), "exceed the model's context of 1024 tokens"),
        (evaluation("--temprature", "1"), "unknown option --temprature (did you mean temperature?)"),
        (evaluation("--temperature", "0"), "all samples of a problem are the same"),
        (evaluation("--k", "3"), "k is 3 and sums has 2 samples a problem"),
        (evaluation("--protocol", "papre"), "unknown protocol 'papre' (did you mean paper?)"),
        (evaluation("--checkpoints", "all"), "one is not a run directory"),
        (evaluation(tasks="held_out"), "the model is not a run directory"),
        (evaluation("--dev-tasks", "sums.jsonl"), "sums.jsonl is among --tasks and --dev-tasks"),
        (evaluation("--engine", "sglang"), "it must be transformers or vllm"),
        (evaluation(model="./gone"), "there is no such folder"),
        (("table", "cache"), "cache is not a result"),
        (("protocols", "papre"), "unknown protocol 'papre' (did you mean paper?)"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert message in refused(capsys, *arguments)


def test_a_plain_protocol_needs_no_chat_template(capsys):
    flags = ("--protocol", "abel", "--output", "plain-results")
    lines_of(capsys, *evaluation(*flags, tasks="sums.jsonl", model="plain", samples=None))
    (row,) = results("plain-results")
    assert row["metric"] == "avg@1" and row["protocol"].startswith("abel+max_completion_length@")


def test_flags_choose_how_a_problem_is_put(capsys):
    flags = ("--prompt_style", "qwen-boxed", "--prompt_template", "{question}", "--output", "styled")
    lines_of(capsys, *evaluation(*flags, tasks="sums.jsonl"))
    protocol = json.loads(Path("styled/protocol.json").read_text())
    assert protocol["prompt_template"] == "{question}" and protocol["name"].startswith("aapo+")
    assert "prompt_style" in protocol["name"] and "prompt_style" not in protocol
    flags = ("--prompt_style", "abel", "--output", "abel")
    lines_of(capsys, *evaluation(*flags, tasks="sums.jsonl", model="plain"))
    protocol = json.loads(Path("abel/protocol.json").read_text())
    assert "step by step" in protocol["prompt_template"] and protocol["conversational"] is False
    assert "unknown prompt_style 'abl' (did you mean abel?)" in refused(capsys, *evaluation("--prompt_style", "abl"))


def test_protocols_are_listed_and_printed(capsys):
    assert "qwen25-math-cot" in lines_of(capsys, "protocols")
    assert "temperature: 0.6" in lines_of(capsys, "protocols", "paper")

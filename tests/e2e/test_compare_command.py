"""`aapo compare` as its user runs it: runs, an interruption, more seeds, summary, report, refusals."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from aapo.cli.app import run


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_folder):
    """A folder with a recipe that trains a random tiny model for six steps."""
    folder = tmp_path_factory.mktemp("comparing")
    recipe = {
        "model_name_or_path": str(tiny_folder), "dataset_name": "reasoning_gym:basic_arithmetic",
        "num_train_prompts": 24, "num_eval_prompts": 4, "eval_num_samples": 2, "num_generations": 4,
        "per_device_train_batch_size": 8, "max_completion_length": 8, "max_steps": 6, "save_steps": 1,
        "learning_rate": 1.0e-3, "num_reference_samples": 2, "activation_checkpointing": False, "bf16": False,
        "use_cpu": True, "preflight": "warn",  # such a model has nothing to learn from
    }  # fmt: skip
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(autouse=True)
def own_cache(workplace, monkeypatch):
    monkeypatch.setenv("AAPO_CACHE", str(workplace / "cache"))
    monkeypatch.chdir(workplace)


COMMAND = ("compare", "mine.yaml", "--curve-points", "2", "--output", "out", "--jobs", "2")


@pytest.mark.slow  # kills at many moments: tests/faults
def test_compare_goes_on_after_a_kill_and_takes_more_seeds(workplace, capsys):
    script = "from aapo.cli import main; main()"
    arguments = (*COMMAND, "--algorithms", "aapo,grpo", "--seeds", "0")
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
    )
    metrics = workplace / "out" / "runs" / "aapo" / "seed-0" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (workplace / "out" / "summary.json").exists()

    # The runs whose command was killed go on by themselves; whoever comes next waits for them.
    assert run([*arguments]) == 0
    out = capsys.readouterr().out
    assert "2 runs, " in out and "aapo against grpo: cannot tell" in out
    assert "one seed says nothing about others; add seeds" in out
    assert out.splitlines()[-1] == "report out/report.html"
    summary = json.loads((workplace / "out" / "summary.json").read_text())
    assert [(row["label"], row["seeds"]) for row in summary["variants"]] == [("aapo", [0]), ("grpo", [0])]
    assert summary["variants"][0]["curves"][0]["positions"] == [0, 3, 6]
    assert summary["variants"][0]["cost"]["tokens"] > 0

    assert run([*COMMAND, "--algorithms", "grpo", "--seeds", "1"]) == 0
    summary = json.loads((workplace / "out" / "summary.json").read_text())
    assert [(row["label"], row["seeds"]) for row in summary["variants"]] == [("aapo", [0]), ("grpo", [0, 1])]
    page = (workplace / "out" / "report.html").read_text()
    assert "aapo is not told apart from grpo" in page and "Final score on basic_arithmetic" in page


def test_a_budget_of_tokens_ends_a_run_early(workplace, capsys):
    flags = ("--algorithms", "grpo", "--seeds", "0", "--match", "tokens", "--budget", "100", "--output", "budget")
    assert run(["compare", "mine.yaml", *flags]) == 0
    (variant,) = json.loads((workplace / "budget" / "summary.json").read_text())["variants"]
    # 8 completions of at most 8 tokens a step: the budget is met in the second step at the earliest.
    assert 2 <= variant["cost"]["steps"] < 6
    rows = [json.loads(line) for line in (workplace / "budget/runs/grpo/seed-0/metrics.jsonl").read_text().splitlines()]
    totals = [row["rollout/generated_tokens"] for row in rows if "rollout/generated_tokens" in row]
    assert totals[-2] < 100 <= totals[-1]
    assert "Only grpo has finished runs: nothing to compare" in (workplace / "budget" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--algorithms", "aapo,gropo"), "algorithm is 'gropo'"),
        (("--algorithms", "aapo", "--sweep", "margin_low"), "--sweep is 'margin_low'; it must be FIELD=V1,V2,..."),
        (("--algorithms", "aapo", "--seeds", "a"), "--seeds is 'a'"),
        (("--algorithms", "aapo", "--jobs", "2", "--devices", "0"), "--jobs is 2 and --devices names 1"),
        (("--algorithms", "aapo", "--learning_rat", "1"), "unknown field 'learning_rat' (did you mean learning_rate?)"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, words):
    assert run(["compare", "mine.yaml", "--output", "refused", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and words in lines[0], lines


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["null", "'no'"])
def test_runs_have_their_curves_whatever_the_recipe_calls_no_evaluation(workplace, capsys, strategy):
    (workplace / "off.yaml").write_text(f"extends: mine.yaml\neval_strategy: {strategy}\neval_steps: null\n")
    flags = ("--algorithms", "grpo", "--seeds", "0", "--curve-points", "2", "--output", f"curves-{len(strategy)}")
    assert run(["compare", "off.yaml", *flags]) == 0
    (variant,) = json.loads((workplace / flags[-1] / "summary.json").read_text())["variants"]
    assert variant["curves"][0]["positions"] == [0, 3, 6]


def test_what_the_trainer_refuses_is_said_before_anything_is_written(workplace, capsys):
    flags = ("--algorithms", "aapo,grpo", "--seeds", "0", "--output", "refused")
    for words, more in (
        ("aapo: unknown field 'learning_rat' (did you mean learning_rate?)", ("--learning_rat", "null")),
        ("get_linear_schedule_with_warmup() got an unexpected", ("--lr_scheduler_kwargs.no_such", "1")),
    ):
        assert run(["compare", "mine.yaml", *flags, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line, line
        assert not (workplace / "refused").exists()


def test_dry_run_lists_the_runs_and_writes_nothing(workplace, capsys):
    flags = ("--algorithms", "aapo", "--seeds", "0,1", "--sweep", "num_generations=2,4", "--output", "dry", "--dry-run")
    assert run(["compare", "mine.yaml", *flags]) == 0
    out = capsys.readouterr().out
    assert "4 runs of mine, matched by steps (6):" in out
    assert "runs/aapo,num_generations=4/seed-1: to do" in out
    assert not (workplace / "dry").exists()

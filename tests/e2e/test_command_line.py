"""The command as its user runs it: base -> bank -> train -> eval -> report, interruptions, and bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from aapo.bank import ReferenceBank, newest_scores, score_sets
from aapo.cli.app import run
from aapo.named import module_at
from aapo.runs import RunDirectory

SMALL = {
    "base_model": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1, "vocab_size": 300, "warmup_accuracy": 0.01, "warmup_num_problems": 60,
        "warmup_max_steps": 2000, "warmup_batch_size": 8,
    },
    "dataset_name": "reasoning_gym:basic_arithmetic",
    "dataset_settings": {
        "min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1, "operators": ["+"],
        "allow_parentheses": False,
    },
    "num_train_prompts": 16, "num_eval_prompts": 8, "reward_funcs": ["format", "accuracy"],
    "reward_weights": "0.2,1.0", "num_reference_samples": 3, "eval_num_samples": 2, "num_generations": 4,
    "per_device_train_batch_size": 16, "max_completion_length": 24, "learning_rate": 1.0e-3, "max_steps": 4,
    "save_steps": 2, "activation_checkpointing": False, "bf16": False, "use_cpu": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a small recipe, whose base model and bank are cached for the module."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return folder


@pytest.fixture(autouse=True)
def own_cache(workplace, monkeypatch):
    monkeypatch.setenv("AAPO_CACHE", str(workplace / "cache"))
    monkeypatch.chdir(workplace)


def command(*arguments, **options):
    script = "from aapo.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ, **options,
    )  # fmt: skip


def refused(capsys, *arguments):
    """The one line on standard error of a command that must exit with 2."""
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("aapo: "), lines
    return lines[0]


def lines_of(capsys, *arguments):
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def trained(workplace):
    """The run that `aapo train` makes from nothing, as one process, and what it printed."""
    os.environ["AAPO_CACHE"] = str(workplace / "cache")
    process = command("train", "small.yaml", "--output_dir", workplace / "run", cwd=workplace)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err[-3000:]
    return RunDirectory(workplace / "run"), out


def test_train_goes_from_nothing_to_a_report(trained):
    run_directory, out = trained
    for stage in ("base model: ", "reference bank: 48/48", "aapo training: 4/4",
                  "evaluating base on basic_arithmetic: 16/16",
                  "evaluating trained on basic_arithmetic: 16/16", "Percent right with 95% interval"):  # fmt: skip
        assert stage in out
    assert out.strip().splitlines()[-1] == f"run directory {run_directory.path}"
    for note in ("reward ", "accuracy ", "dead ", "margin ", "length ", "tok/s", "left"):
        assert note in next(line for line in out.splitlines() if "aapo training: 4/4" in line)
    metrics = run_directory.metrics()
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    assert run_directory.rollout_steps() == [1, 2, 3, 4]
    for row, step in zip(metrics, range(1, 5), strict=True):
        rollouts = run_directory.rollouts(step)
        assert row["reward"] == pytest.approx(sum(r["reward"] for r in rollouts) / 16, abs=1e-5)
        assert row["rollout/accuracy"] == pytest.approx(sum(r["reward/accuracy"] for r in rollouts) / 16, abs=1e-5)
        assert row["margin/mean"] == pytest.approx(sum(r["margin"] for r in rollouts) / 16, abs=1e-5)
        unanswered = sum(r["verdict/accuracy"] == "no_answer" for r in rollouts)
        assert row["grading/no_answer_frac"] == pytest.approx(unanswered / 16, abs=1e-5)
        assert all(r["rule/accuracy"] for r in rollouts)
    results = json.loads((run_directory.evaluation / "results.json").read_text())
    assert {row["metric"] for row in results} == {"avg@2", "pass@2", "maj@2"}
    summary = [row for row in results if row["metric"] == "avg@2"]
    assert [row["model"] for row in summary] == ["base", "trained"]
    for row in summary:
        assert (row["task"], row["metric"]) == ("basic_arithmetic", "avg@2")
        assert (row["num_problems"], row["num_samples"]) == (8, 2)
        assert 0 <= row["low"] <= row["estimate"] <= row["high"] <= 1
        assert 0 <= row["no_answer_frac"] <= 1 and row["timeout_frac"] == row["unparseable_gold"] == 0
    stored = pq.read_table(run_directory.evaluation / "samples" / "trained--basic_arithmetic.parquet").to_pylist()
    for row in stored:
        assert row["correct"] == row["reward/accuracy"] == float(row["verdict"] == "correct")
        assert row["reward/format"] in (0.0, 1.0)
    page = run_directory.report.read_text()
    assert "trained is " in page and " base on basic_arithmetic" in page and list(run_directory.figures.glob("*.png"))
    manifest = run_directory.manifest()
    assert manifest["seed"] == 42 and manifest["versions"]["trl"] and manifest["reference_bank"]["identity"]


def test_the_final_model_loads_as_any_transformers_model(trained):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = trained[0].model
    assert list(folder.glob("*.safetensors"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert model(**tokenizer(text, return_tensors="pt")).logits.shape[-1] == len(tokenizer)


def test_a_second_run_reuses_base_and_bank(trained, workplace, capsys):
    out = lines_of(capsys, "train", "small.yaml", "--dry-run", "--output_dir", "another")
    assert "(reused)" in out and ": +0 completions, found 48" in out and "16 prompts, 4 steps, 64 rollouts" in out
    assert "another (new)" in out and not (workplace / "another").exists()


def test_bank_show_and_build(trained, workplace, capsys):
    shown = lines_of(capsys, "bank", "build", "small.yaml", "--output", "bank")
    assert "16 prompts x 3 samples, pass rate" in shown and "prompts by pass rate:" in shown
    assert lines_of(capsys, "bank", "show", "bank") in shown
    assert "temperature: 1.0" in shown and "grading: no answer " in shown
    (line,) = (line for line in shown.splitlines() if "of 16 prompts" in line)
    assert line.startswith("* ") and "format-" in line and line.endswith("16 of 16 prompts")
    out = lines_of(
        capsys, "train", "small.yaml", "--reference_bank", "bank", "--output_dir", "named", "--max_steps", "1"
    )
    assert "reference bank:" not in out
    assert RunDirectory(workplace / "named").manifest()["reference_bank"]["path"] == "bank"


def test_other_reward_functions_score_the_cached_samples_without_the_model(trained, workplace, capsys, monkeypatch):
    flags = ("--reward_funcs", "[format]", "--reward_weights", "[1.0]")
    assert "+0 completions, found 48, 48 of them to be scored" in lines_of(
        capsys, "train", "small.yaml", "--dry-run", *flags
    )
    assert "+48 completions (75% of the run's 64 rollouts), found 48, 48 of them to be scored; at most" in lines_of(
        capsys, "train", "small.yaml", "--dry-run", "--num_reference_samples", 6, *flags
    )

    def never(*arguments):
        raise AssertionError("the model is not needed")

    monkeypatch.setattr("aapo.engines.transformers.TransformersEngine", never)
    shown = lines_of(capsys, "bank", "build", "small.yaml", *flags)
    assert "reference bank: 48/48" in shown and len([x for x in shown.splitlines() if "of 16 prompts" in x]) == 2
    for asked in (flags, ()):
        assert "+0 completions, found 48\n" in lines_of(capsys, "train", "small.yaml", "--dry-run", *asked)
    assert "reference bank:" not in lines_of(capsys, "bank", "build", "small.yaml")


OWN = """
def own(completions, answer, log_extra, scale=1.0, **columns):
    log_extra("verdict/own", ["{verdict}" for _ in completions])
    return [{reward} * scale for _ in completions]
"""


def test_bank_rescore_prints_what_changes_and_keeps_what_was(trained, workplace, capsys):
    def rescore(*flags):
        module_at.cache_clear()  # as a process that starts now
        return lines_of(capsys, "bank", "rescore", "graded", *flags)

    run(["bank", "build", "small.yaml", "--output", "graded"])
    (workplace / "own.py").write_text(OWN.format(verdict="wrong", reward=0.25))
    out = rescore("--reward_funcs", "own.py:own,format")
    assert "rescoring: 48/48" in out and "own: mean reward 0.250, new among the scores" in out
    mean = sum(sum(row["reward/format"]) for row in ReferenceBank.open("graded").rows()) / 48
    assert f"format: mean reward {mean:.3f} -> {mean:.3f}, 0 of 48 rewards changed" in out
    first = newest_scores(workplace / "graded")
    assert f"scores graded/scores/{first.path.name}; the scores before are in graded/scores/" in out

    (workplace / "own.py").write_text(OWN.format(verdict="correct", reward=0.5))
    out = rescore()  # the functions of the newest scores, as they are now
    assert "own: mean reward 0.250 -> 0.500, 48 of 48 verdicts changed" in out
    assert out.split("wrong -> correct")[1].split()[0] == "48"
    assert f"the scores before are in graded/scores/{first.path.name}" in out
    assert "is complete, by own-" in rescore()
    out = rescore("--reward_kwargs", "{'own.py:own': {scale: 3.0}}")
    assert "own: mean reward 0.500 -> 1.500, 0 of 48 verdicts changed" in out
    assert "is complete" in rescore()  # with the parameters of the newest scores
    sets = score_sets(workplace / "graded")
    assert len(sets) == 4 and len(lines_of(capsys, "bank", "show", "graded").split("of 16 prompts")) == 5
    for kept, reward in zip(sets[1:], (0.25, 0.5, 1.5), strict=True):
        assert all(row["reward/own"] == [reward] * 3 for row in ReferenceBank.open("graded", kept.rewards).rows())


@pytest.mark.slow
def test_bank_rescore_goes_on_after_a_kill(trained, workplace, capsys, monkeypatch):
    monkeypatch.setattr("aapo.bank.store.PROMPTS_PER_FILE", 2)
    lines_of(capsys, "bank", "build", "small.yaml", "--all", "--output", "slow-bank", "--num_train_prompts", "20")
    (workplace / "slow.py").write_text(
        "import time\ndef slow(completions, **columns):\n    time.sleep(0.3)\n    return [1.0 for _ in completions]\n"
    )
    before = set((workplace / "slow-bank").glob("scores/*/scores-*"))
    process = command("bank", "rescore", "slow-bank", "--reward_funcs", "slow.py:slow")

    def scored():
        return set((workplace / "slow-bank").glob("scores/*/scores-*")) - before

    wait_for(lambda: len(scored()) >= 2, process)
    process.kill()
    process.wait()
    kept = {file: file.stat().st_mtime_ns for file in scored()}
    assert 2 <= len(kept) < 10
    out = lines_of(capsys, "bank", "rescore", "slow-bank", "--reward_funcs", "slow.py:slow")
    left = 60 - 6 * len(kept)
    assert f"rescoring: {left}/{left}" in out and len(scored()) == 10
    assert all(file.stat().st_mtime_ns == time_ns for file, time_ns in kept.items())


def test_eval_of_a_run_and_of_a_file(trained, workplace, capsys):
    (workplace / "held.jsonl").write_text(
        "".join(json.dumps({"question": f"Calculate {n} + 1.", "answer": str(n + 1)}) + "\n" for n in range(9))
    )
    out = lines_of(
        capsys, "eval", "run", "--tasks", "reasoning_gym:basic_arithmetic,held.jsonl", "--num-samples", "3", "--output",
        "results", "--num_problems", "5",
    )  # fmt: skip
    assert "basic_arithmetic" in out and "held" in out and "results results/results.json" in out
    rows = json.loads((workplace / "results" / "results.json").read_text())
    assert [(row["task"], row["num_problems"]) for row in rows if row["metric"] == "avg@3"] == [
        ("basic_arithmetic", 5), ("held", 5), ("average", 10),
    ]  # fmt: skip
    assert {row["protocol"].partition("@")[0] for row in rows} == {"recipe+num_samples"}


def test_another_evaluation_of_a_run_leaves_the_earlier_ones(trained, workplace, capsys):
    whole = ("eval", "run", "--tasks", "held_out")
    folders = set()
    for flags in ((), ("--num-samples", "1"), ("--temperature", "0.5"), ("--num_problems", "4"), ("--seed", "1"),
                  ("--against", "base"), ("--judge", "format", "--judge_threshold", "1.0")):  # fmt: skip
        out = lines_of(capsys, *whole, *flags)
        (results,) = (line.removeprefix("results ") for line in out.splitlines() if line.startswith("results "))
        folders.add(Path(results).parent)
    assert len(folders) == 7 and all((folder / "results.json").exists() for folder in folders)
    assert (workplace / "run" / "evaluation" / "results.json").exists()
    before = {folder: (folder / "results.json").stat().st_mtime_ns for folder in folders}
    lines_of(capsys, *whole)  # the same once more is the same folder
    assert set((workplace / "run" / "evaluation").glob("*/results.json")) == {
        f.absolute() / "results.json" for f in folders
    }
    assert sum((folder / "results.json").stat().st_mtime_ns != before[folder] for folder in folders) == 1


def test_resume_takes_the_newest_run_of_this_recipe_and_no_other(workplace, monkeypatch):
    from aapo.errors import InputError
    from aapo.recipe import load_recipe
    from aapo.training.run import newest_run

    recipe = load_recipe("small.yaml")
    monkeypatch.chdir(workplace)
    (workplace / "elsewhere").mkdir()
    monkeypatch.chdir(workplace / "elsewhere")
    for name in ("small-lora-20260101-000002", "small-20260101-000000", "small-20260101-000001", "small-best"):
        (Path("runs") / name).mkdir(parents=True)
        if name != "small-20260101-000001":  # the newest has not begun
            (Path("runs") / name / "recipe.yaml").write_text("{}")
    assert newest_run(recipe.name) == Path("runs/small-20260101-000000")
    shutil.rmtree("runs/small-20260101-000000")
    with pytest.raises(InputError, match="there is no run of small in runs/ to resume"):
        newest_run(recipe.name)


def test_a_sweep_over_checkpoints(trained, workplace, capsys):
    sweep = ("eval", "run", "--checkpoints", "base,2,all", "--tasks", "held_out", "--output", "sweep")
    assert "two models are called run@2" in refused(capsys, *sweep)
    sweep = ("eval", "run", "--checkpoints", "base,all", "--against", "base", "--output", "sweep")
    out = lines_of(capsys, *sweep, "--tasks", "held_out")
    assert "was selected on the test" in " ".join(out.split()) and "Models of the run run." in out
    shown = {line.strip().split("  ")[0] for line in out.splitlines()}
    assert {"base", "step 2", "step 4", "trained"} <= shown and not any(
        "run@" in line and "[" in line for line in out.splitlines()
    )
    rows = json.loads((workplace / "sweep" / "results.json").read_text())
    models = ["run@base", "run@2", "run@4", "run"]
    assert [row["model"] for row in rows if row["metric"] == "avg@2"] == models
    own = json.loads((workplace / "run" / "evaluation" / "results.json").read_text())
    trained_row, base_row = (next(row for row in own if row["model"] == name) for name in ("trained", "base"))
    found = {row["model"]: row for row in rows if row["metric"] == "avg@2"}
    # The run's own evaluation, by the same protocol and the same samples.
    for one, other in ((trained_row, found["run"]), (base_row, found["run@base"])):
        assert {**one, "model": ""} == {**other, "model": ""}
    assert found["run@4"]["estimate"] == found["run"]["estimate"]  # the last checkpoint is the final model
    differences = json.loads((workplace / "sweep" / "differences.json").read_text())
    assert [row["model"] for row in differences] == models[1:]
    out = lines_of(capsys, *sweep, "--tasks", "reasoning_gym:chain_sum", "--dev-tasks", "held_out", "--num_problems", 4)
    assert "development tasks basic_arithmetic, not on the tasks reported" in " ".join(out.split())
    assert "run has no checkpoint '3'; it has 2, 4" in refused(
        capsys, "eval", "run", "--checkpoints", "3", "--tasks", "held_out"
    )


def test_report_of_several_runs(trained, workplace, capsys):
    assert "--output" in refused(capsys, "report", "run", "named")
    lines_of(capsys, "report", "run", "named", "--output", "both.html")
    assert (workplace / "both.html").read_text().count("<html") == 1


def test_replay_gives_a_runs_advantages_back_and_joins_a_bank_to_one_without(trained, workplace, capsys):
    run_directory, _ = trained
    out = lines_of(capsys, "replay", run_directory.path, "--output", "replay.json")
    assert "replaying steps: 4/4" in out and "3 reference rewards a prompt, stored with the rollouts" in out
    read = json.loads((workplace / "replay.json").read_text())
    own = next(item for item in read["algorithms"] if item["name"] == "aapo")
    for again, stored in zip(own["steps"].values(), read["own"]["steps"].values(), strict=True):
        assert again == pytest.approx(stored, abs=1e-6)
    for rollouts in map(run_directory.rollouts, run_directory.rollout_steps()):
        assert all(len(row["reference_rewards"]) == 3 and row["prompt_key"] for row in rollouts)

    flags = ("--num_reference_samples", "null", "--max_steps", "1", "--num_eval_prompts", "0", "--eval_num_samples",
             "null", "--algorithm", "grpo", "--output_dir", "plain")  # fmt: skip
    lines_of(capsys, "train", "small.yaml", *flags)
    asked = ("replay", "plain", "--algorithms", "aapo,grpo")
    assert "not replayed: aapo, because reference rewards are missing" in lines_of(capsys, *asked)
    made = run_directory.manifest()["reference_bank"]
    bank = made["path"]
    out = lines_of(capsys, *asked, "--bank", bank, "--output", "plain.json")
    assert "not replayed" not in out and f"3 reference rewards a prompt, of the bank {bank}" in out
    read = json.loads((workplace / "plain.json").read_text())
    totals = {
        row["key"]: [a + 0.2 * f for a, f in zip(row["reward/accuracy"], row["reward/format"], strict=True)]
        for row in ReferenceBank.open(bank, made["identity"]["rewards"]).rows()
    }
    rows = RunDirectory(workplace / "plain").rollouts(1)
    margins = [
        sum(min(max(row["reward"] - reward, -0.2), 0.28) for reward in totals[row["prompt_key"]]) / 3 for row in rows
    ]
    # Advantages of a group sum to zero, so the bias is the mean margin.
    assert read["algorithms"][0]["whole"]["bias"]["estimate"] == pytest.approx(sum(margins) / 16, abs=1e-6)


def test_recipes_lists_and_prints(capsys):
    assert "quickstart" in lines_of(capsys, "recipes")
    printed = lines_of(capsys, "recipes", "quickstart")
    assert yaml.safe_load(printed)["algorithm"] == "aapo"


def wait_for(condition, process, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code"), [(("recipes",), 1), (("train", "small.yaml", "--output_dir", "unread"), 0)]
)
def test_where_nobody_reads_on_a_list_ends_and_training_does_not(trained, workplace, arguments, code):
    reading, writing = os.pipe()
    os.close(reading)
    asked = [sys.executable, "-m", "aapo", *arguments]
    done = subprocess.run(asked, cwd=workplace, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (code, "")
    assert arguments[0] != "train" or (workplace / "unread" / "report.html").exists()


@pytest.mark.slow
def test_ctrl_c_saves_a_checkpoint_and_resume_reaches_the_same_model(trained, workplace):
    flags = ("--max_steps", 40, "--save_steps", 100, "--num_eval_prompts", 0, "--eval_num_samples", "null")
    whole = command("train", "small.yaml", "--output_dir", "whole", *flags)
    assert whole.wait(200) == 0
    process = command("train", "small.yaml", "--output_dir", "stopped", *flags)
    stopped = RunDirectory(workplace / "stopped")
    wait_for(lambda: len(stopped.metrics()) >= 3, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "interrupted; a checkpoint is saved, go on with `aapo train stopped --resume`" in err
    (checkpoint,) = stopped.checkpoints.glob("checkpoint-*")
    # a save that was killed half-way is not taken for a checkpoint
    shutil.copytree(checkpoint, stopped.checkpoints / "checkpoint-39")
    (stopped.checkpoints / "checkpoint-39" / "whole").unlink()
    resumed = command("train", "stopped", "--resume")
    out, err = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, err
    assert f"going on from step {checkpoint.name.split('-')[1]}" in out
    assert [row["step"] for row in stopped.metrics()] == list(range(1, 41))
    assert weights(stopped.model) == weights(workplace / "whole" / "model")


def test_kill_during_the_bank_leaves_whole_files_that_the_next_build_completes(trained, workplace):
    settings = ("--num_train_prompts", 40, "--num_reference_samples", 16, "--num_eval_prompts", 0,
                "--eval_num_samples", "null", "--dataset_settings", "{operators: ['+'], min_terms: 2, max_terms: 2, "
                "min_digits: 2, max_digits: 2, allow_parentheses: false}",
                "--base_model", "null", "--model_name_or_path", trained[0].model)  # fmt: skip
    patch = "import aapo.bank.store as b; b.PROMPTS_PER_FILE = 4; from aapo.cli import main; main()"
    arguments = [sys.executable, "-c", patch, "bank", "build", "small.yaml", "--all", "--output", "killed"]
    process = subprocess.Popen([*arguments, *map(str, settings)], env=os.environ, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(list((workplace / "killed").glob("scores/*/scores-*"))) >= 2, process)
    process.kill()
    process.wait()
    kept = ReferenceBank.open(workplace / "killed")
    assert 0 < len(kept) < 40
    assert run(["bank", "build", "small.yaml", "--all", "--output", "killed", *map(str, settings)]) == 0
    assert run(["bank", "build", "small.yaml", "--all", "--output", "at-once", *map(str, settings)]) == 0
    killed, at_once = (ReferenceBank.open(workplace / name) for name in ("killed", "at-once"))
    assert sorted(map(str, killed.rows())) == sorted(map(str, at_once.rows()))
    assert len(killed) == 40


class TestBadInput:
    """Exit code 2 and one line with what, allowed, fix."""

    def test_unknown_recipe_and_field(self, capsys):
        assert "unknown recipe 'quikstart' (did you mean quickstart?)" in refused(capsys, "train", "quikstart")
        assert "'learning_rat' (did you mean learning_rate?)" in refused(
            capsys, "train", "small.yaml", "--learning_rat", 1
        )
        assert "No such command" in refused(capsys, "trian")

    def test_settings_that_do_not_go_together(self, capsys):
        train = ("train", "small.yaml", "--dry-run")
        assert "margin_low is 0.3; it must be a finite number <= 0" in refused(capsys, *train, "--margin_low", 0.3)
        assert "margin_high is -0.3; it must be a finite number >= 0" in refused(
            capsys, *train, "--margin_low", -0.2, "--margin_high", -0.3
        )
        assert "there are 2 training prompts and one batch takes 4" in refused(capsys, *train, "--num_train_prompts", 2)
        assert "is not divisible by num_generations 5" in refused(capsys, *train, "--num_generations", 5)
        assert "margin_low is -0.1 but has no effect" in refused(
            capsys, *train, "--algorithm", "grpo", "--num_reference_samples", "null", "--margin_low", -0.1
        )

    def test_data(self, capsys, workplace):
        def data(name, text):
            (workplace / name).write_text(text)
            return ("train", "small.yaml", "--dry-run", "--base_model", "null", "--model_name_or_path", "run/model",
                    "--dataset_settings", "null", "--dataset_name", name)  # fmt: skip

        assert "has no column any of prompt, problem, question; it has text" in refused(
            capsys, *data("column.jsonl", '{"text": "a", "answer": "1"}\n')
        )
        assert "is empty" in refused(capsys, *data("empty.jsonl", ""))
        assert "rows have no gold answer in column 'answer'" in refused(
            capsys, *data("gold.jsonl", '{"question": "a", "answer": ""}\n' * 3), "--num_eval_prompts", 0,
            "--eval_num_samples", "null",
        )  # fmt: skip

    def test_prompts_over_the_limit_are_counted(self, trained, capsys):
        line = refused(capsys, "train", "small.yaml", "--dry-run", "--max_prompt_length", 3)
        assert "16 of 16 prompts are longer than max_prompt_length 3 (first: row 0 with" in line

    def test_model_folders(self, capsys, workplace, trained):
        base = ("train", "small.yaml", "--dry-run", "--base_model", "null", "--model_name_or_path")
        (workplace / "hollow").mkdir()
        (workplace / "hollow" / "config.json").write_text("{}")
        assert "the model folder hollow has no weights (*.safetensors)" in refused(capsys, *base, "hollow")
        shutil.copytree(trained[0].model, workplace / "mute", ignore=shutil.ignore_patterns("tokenizer*"))
        assert "the model folder mute has no tokenizer" in refused(capsys, *base, "mute")
        assert "there is no such folder" in refused(capsys, *base, "./absent")

    @pytest.mark.parametrize(
        ("flags", "difference"),
        [
            (("--temperature", 0.5), "sampling.temperature: bank has 1.0, run has 0.5"),
            (("--reference_seed", 5), "seed: bank has 0, run has 5"),
            (("--base_model", "null", "--model_name_or_path", "run/model"), "model.weights: bank has"),
            (
                ("--reward_funcs", "[accuracy]", "--reward_weights", "[1]"),
                "run has None; only the rewards differ, so the samples can stay: score them with `aapo bank rescore",
            ),
        ],
    )
    def test_a_bank_of_another_run(self, trained, capsys, flags, difference):
        run(["bank", "build", "small.yaml", "--output", "own-bank"])
        line = refused(capsys, "train", "small.yaml", "--dry-run", "--reference_bank", "own-bank", *flags)
        assert "the bank own-bank does not match this run: " in line and difference in line

    def test_rescoring(self, trained, capsys, workplace):
        assert "nowhere is not a reference bank: it has no manifest.json" in refused(
            capsys, "bank", "rescore", "nowhere"
        )
        run(["bank", "build", "small.yaml", "--output", "own-bank"])
        rescore = ("bank", "rescore", "own-bank")
        assert "reward function 'acuracy' is unknown (did you mean accuracy?)" in refused(
            capsys, *rescore, "--reward_funcs", "acuracy"
        )
        assert "reward_kwargs has parameters for 'cosine'; reward_funcs are format, accuracy" in refused(
            capsys, *rescore, "--reward_kwargs", "{cosine: {max_len: 10}}"
        )
        assert "--reward_kwargs is 'accuracy'; it must be a mapping" in refused(
            capsys, *rescore, "--reward_kwargs", "accuracy"
        )
        assert "reward_failure is 'ask'; it must be fail or skip" in refused(
            capsys, *rescore, "--reward_failure", "ask", "--reward_kwargs", "{accuracy: {evaluated: false}}"
        )
        (workplace / "needs.py").write_text("def needs(completions, level):\n    return [0.0 for _ in completions]\n")
        needs = "reward function needs needs the column 'level', which the data set does not have; it has "
        assert needs in refused(capsys, *rescore, "--reward_funcs", "needs.py:needs")
        for arguments in (
            ("train", "small.yaml", "--dry-run"), ("bank", "build", "small.yaml"),
            ("eval", "run", "--tasks", "reasoning_gym:basic_arithmetic"),
        ):  # fmt: skip
            flags = ("--reward_funcs", "needs.py:needs")
            flags += ("--reward_weights", "null") if arguments[0] != "eval" else ()
            assert needs in refused(capsys, *arguments, *flags)
        manifest = newest_scores(workplace / "own-bank").path / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"format": {', '"format": null, "was": {'))
        assert "the bank's reward function format was given in Python" in refused(capsys, *rescore)

    def test_a_task_whose_answers_cannot_be_isolated(self, trained, capsys, workplace, monkeypatch):
        monkeypatch.setattr("aapo.grading.isolation.refusal", lambda: "this is darwin on arm64")
        countdown = (
            "--dataset_name", "reasoning_gym:countdown", "--dataset_settings", "null", "--reward_funcs",
            "reasoning_gym", "--reward_weights", "null", "--base_model", "null", "--model_name_or_path",
            trained[0].manifest()["model"]["name_or_path"],
        )  # fmt: skip
        for arguments in (
            ("train", "small.yaml", "--dry-run", *countdown),
            ("train", "small.yaml", "--output_dir", "apart", *countdown),
            ("bank", "build", "small.yaml", "--output", "apart", *countdown),
            ("eval", "run", "--tasks", "reasoning_gym:countdown", "--num_problems", 4),
        ):
            line = refused(capsys, *arguments)
            assert "reasoning_gym:countdown could run code" in line and "darwin on arm64); choose another task" in line
        assert not (workplace / "apart").exists()

    def test_a_named_bank_takes_other_prompts_in_and_no_other_template(self, trained, capsys, workplace):
        run(["bank", "build", "small.yaml", "--output", "own-bank"])
        planned = ("train", "small.yaml", "--dry-run", "--reference_bank", "own-bank")
        for flags in (("--system_prompt", "Other."), ("--max_steps", 3)):
            out = lines_of(capsys, *planned, "--base_model", "null", "--model_name_or_path",
                           trained[0].manifest()["model"]["name_or_path"], *flags)  # fmt: skip
            assert f"own-bank: +{0 if flags[1] == 3 else 48} completions" in out
        copy = workplace / "other-template"
        shutil.copytree(trained[0].manifest()["model"]["name_or_path"], copy)
        template = copy / "chat_template.jinja"
        template.write_text(template.read_text() + "{{ '' }}")
        line = refused(capsys, *planned, "--base_model", "null", "--model_name_or_path", copy)
        assert "the bank own-bank does not match this run: tokenizer.chat_template: bank has" in line

    def test_output_directories(self, trained, capsys, workplace):
        assert "run holds another run; choose another --output_dir, or add --resume" in refused(
            capsys, "train", "small.yaml", "--output_dir", "run"
        )
        assert "run is a run of other settings (learning_rate: run has 0.001, asked is 1" in refused(
            capsys, "train", "small.yaml", "--output_dir", "run", "--resume", "--learning_rate", 1
        )
        assert "has no run to resume" in refused(capsys, "train", "small.yaml", "--output_dir", "fresh", "--resume")
        (workplace / "papers").mkdir()
        (workplace / "papers" / "thesis.txt").write_text("mine")
        assert "papers is not empty and not a run directory" in refused(
            capsys, "train", "small.yaml", "--output_dir", "papers"
        )
        assert "papers is nothing to report on: it has none of " in refused(capsys, "report", "papers")

    def test_no_disk_space(self, trained, capsys, workplace, monkeypatch):
        usage = shutil.disk_usage(workplace)
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=10 * 2**20))
        assert "no disk space: " in refused(capsys, "train", "small.yaml", "--output_dir", "tight")
        assert not (workplace / "tight").exists()


@pytest.mark.slow
def test_torchrun_trains_as_one_process_and_lora_trains(workplace):
    settings = ("--num_train_prompts", 24, "--num_eval_prompts", 8)
    lines = {}
    for processes in (1, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        flags = ("--output_dir", f"ranks{processes}", "--per_device_train_batch_size", 16 // processes, *settings)
        done = subprocess.run(
            [*launch, "-m", "aapo", "train", "small.yaml", *map(str, flags)],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        directory = RunDirectory(workplace / f"ranks{processes}")
        assert directory.manifest()["num_processes"] == processes
        lines[processes] = directory
    for one, two in zip(lines[1].metrics(), lines[2].metrics(), strict=True):
        for key in ("reward", "margin/mean", "loss", "completions/mean_length"):
            assert one[key] == pytest.approx(two[key], abs=1e-4)
    summaries = [json.loads((each.evaluation / "results.json").read_text()) for each in lines.values()]
    assert summaries[0] == summaries[1]

    lora = ("--use_peft", "true", "--lora_target_modules", "q_proj,v_proj", "--output_dir", "lora", *settings)
    assert run(["train", "small.yaml", *map(str, lora)]) == 0
    assert (workplace / "lora" / "model" / "adapter_model.safetensors").exists()

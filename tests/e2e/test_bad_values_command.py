"""Wrong values at the command line: exit code 2, one line that names the setting, and nothing is written."""

import importlib.util

import pytest

from aapo.cli.app import run

# Neither a recipe, nor a plan, nor a task, nor a protocol has a key twice.
TWICE = """recipe: quickstart
algorithms: [grpo]
dataset_name: reasoning_gym:chain_sum
seeds: [0]
temperature: 1
dataset_name: reasoning_gym:leg_counting
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty folder with one file in it; the cache is beside it."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "file.txt").write_text("mine")
    (folder / "twice.yaml").write_text(TWICE)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("AAPO_CACHE", str(tmp_path / "cache"))
    return folder


def refused(capsys, workplace, *arguments):
    """What standard error says; it is one line, and nothing was written."""
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sorted(path.name for path in workplace.parent.rglob("*")) == ["file.txt", "twice.yaml", "work"]
    return line.removeprefix("aapo: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", "inf"), ("learning_rate", ".nan"), ("learning_rate", "-1"), ("max_steps", "-5"),
        ("save_steps", "0"), ("max_training_seconds", "nan"), ("beta", "nan"), ("max_grad_norm", "-1"),
        ("generation_batch_limit", "0"), ("num_reference_samples", 10**20), ("temperature", "0"),
        ("temperature", "nan"), ("eval_temperature", "nan"), ("seed", "-1"), ("per_device_train_batch_size", "0"),
        ("gradient_accumulation_steps", "0"), ("generation_batch_size", "0"), ("steps_per_generation", "0"),
        ("num_generations", "0"), ("num_iterations", "0"), ("num_train_epochs", "0"), ("dtype", "foo"),
        ("attn_implementation", "foo"), ("report_to", "foo"), ("optim", "foo"), ("lr_scheduler_type", "foo"),
        ("eval_strategy", "foo"), ("backend", "foo"), ("output_dir", ""), ("output_dir", "file.txt"),
        ("output_dir", "file.txt/run"), ("output_dir", "x" * 300), ("reward_weights", "[.nan]"),
        ("lr_scheduler_kwargs.num_cycles", ".inf"), ("dataset_settings.min_terms", ".nan"),
        ("base_model.hidden_size", "0"), ("max_steps", "1.5"), ("max_steps", "ten"), ("bf16", "3"), ("beta", "true"),
    ],
)  # fmt: skip
def test_train_refuses_a_value(capsys, workplace, field, value):
    line = refused(capsys, workplace, "train", "quickstart", f"--{field}", value)
    assert line.startswith(f"{field} is ")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_train_names_the_package_that_vllm_needs(capsys, workplace):
    line = refused(capsys, workplace, "train", "quickstart", "--use_vllm", "true")
    assert line == "use_vllm is true and needs vllm; pip install 'aapo[vllm]'"


def test_train_names_the_package_that_a_report_needs(capsys, workplace, monkeypatch):
    monkeypatch.setattr("aapo.backends.trl.run.get_available_reporting_integrations", list)
    line = refused(capsys, workplace, "train", "quickstart", "--report_to", "wandb")
    assert line == "report_to is wandb, which is not installed; pip install 'aapo[wandb]'"


def test_markup_in_a_name_is_printed_as_it_is(capsys):
    assert run(["train", "quickstart", "--dry-run", "--output_dir", "a[/b] :smile:"]) == 0
    assert "writes: a[/b] :smile: (new)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--tasks", ""), "--tasks is empty; name at least one"),
        (("--tasks", "aime24", "--num-samples", 0), "Invalid value for '--num-samples'"),
        (("--tasks", "aime24", "--num-samples", 10**20), f"num_samples is {10**20}; it must be a whole number"),
        (("--tasks", "aime24", "--temperature", "nan"), "temperature is nan; it must be a number from 0"),
        (("--tasks", "aime24", "--min_p", "7"), "min_p is 7.0; it must be a number from 0 to 1"),
        (("--tasks", "aime24", "--dtype", "foo"), "--dtype is 'foo'; it must be one of auto, float32"),
        (("--tasks", "aime24", "--seed", -1), "Invalid value for '--seed'"),
        (("--tasks", "aime24", "--output", "file.txt"), "--output is file.txt, which cannot be written to"),
        (("--tasks", "reasoning_gym:chain_sum", "--num_problems", 0), "num_problems is 0; it must be a whole number"),
        (("--tasks", "reasoning_gym:chain_sum", "--num_problems", 2, "--k", 0), "k is 0 and chain_sum has"),
        (("--tasks", "reasoning_gym:chain_sum", "--num_problems", 2, "--k", ""), "--k is empty"),
    ],
)
def test_eval_refuses_a_value(capsys, workplace, flags, message):
    assert refused(capsys, workplace, "eval", "some/model", *flags).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("train", "twice.yaml"), "recipe twice.yaml"),
        (("doctor", "twice.yaml"), "recipe twice.yaml"),
        (("compare", "twice.yaml"), "plan twice.yaml"),
        (("eval", "some/model", "--tasks", "twice.yaml"), "task twice.yaml"),
        (("eval", "some/model", "--tasks", "aime24", "--protocol", "twice.yaml"), "protocol twice.yaml"),
        (("import-config", "twice.yaml", "--output", "new.yaml"), "twice.yaml"),
    ],
)
def test_a_key_that_a_file_has_twice_is_named_with_file_and_lines(capsys, workplace, arguments, what):
    words = f"{what}: dataset_name is given twice, in lines 3 and 6; keep one"
    assert refused(capsys, workplace, *arguments) == words


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("train", "quickstart", "--max_steps", "1", "--max_steps", "2"), "--max_steps"),
        (("train", "quickstart", "--dry-run", "--dry-run"), "--dry-run"),
        (("bank", "build", "quickstart", "--output", "a", "--output", "b"), "--output"),
        (("eval", "some/model", "--tasks", "a", "--tasks", "b"), "--tasks"),
        (("eval", "some/model", "--tasks", "aime24", "--temperature", "1", "--temperature=1"), "--temperature"),
        (("compare", "quickstart", "--seeds", "0", "--algorithms", "aapo", "--seeds", "1"), "--seeds"),
        (("grade", "a.jsonl", "--output", "b.jsonl", "--evaluated", "--no-evaluated"), "--evaluated"),
        (("doctor", "quickstart", "--seed", "1", "--seed", "2"), "--seed"),
    ],
)
def test_an_option_that_is_given_twice_is_refused(capsys, workplace, arguments, option):
    assert refused(capsys, workplace, *arguments) == f"{option} is given twice; leave one out"


def test_other_spellings_of_one_option_are_refused_together(capsys, workplace):
    flags = ("--tasks", "aime24", "--num-samples", "1", "--num_samples", "2")
    line = refused(capsys, workplace, "eval", "some/model", *flags)
    assert line == "--num-samples and --num_samples are the same, and both are given; leave one out"
    line = refused(capsys, workplace, "cluster", "quickstart", "--backend", "verl")
    assert line == "--backend has no place here, because `aapo cluster` trains on verl; leave it out"


def test_an_option_that_is_a_list_may_be_given_twice(capsys, workplace):
    sweep = ("--sweep", "temperature=0.9,1.0", "--sweep", "learning_rate=1e-4,1e-3")
    assert run(["compare", "quickstart", "--algorithms", "grpo", "--seeds", "0", *sweep, "--dry-run"]) == 0
    assert "4 runs of quickstart" in capsys.readouterr().out

"""What lies damaged on a disk: every command that reads it names the file and the fix in one line."""

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from aapo.cli.app import run
from aapo.evaluation import Evaluation, difference_rows, result_rows, save_results
from aapo.evaluation.evaluation import SAMPLE_COLUMNS
from aapo.recipe import load_recipe
from aapo.runs import RunDirectory
from aapo.training.models import model_path

TINY = {
    "dataset_name": "rows.jsonl", "num_eval_prompts": 0, "num_generations": 4, "per_device_train_batch_size": 8,
    "max_completion_length": 6, "use_cpu": True, "activation_checkpointing": False, "bf16": False, "save_steps": 1,
    "max_steps": 3, "learning_rate": 1e-3, "reward_funcs": ["paying.py:even"], "judge": "even", "judge_threshold": 1.0,
    "num_reference_samples": 2, "seed": 1,
}  # fmt: skip
REWARD = "def even(completion_ids, **columns):\n    return [float(sum(ids) % 2) for ids in completion_ids]\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_folder):
    """A folder with a small recipe and a run by it, with an evaluation of three problems."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "paying.py").write_text(REWARD)
    rows = [{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(tiny_folder, folder / "model")
    (folder / "tiny.yaml").write_text(yaml.safe_dump({"model_name_or_path": "model", **TINY}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("AAPO_CACHE", str(folder / "cache"))
        patch.setattr("aapo.reporting.write_report", lambda folders: "unwritten")  # which takes seconds to draw
        assert run(["train", "tiny.yaml", "--output_dir", "kept"]) == 0
        models = [evaluation("base", [0, 0, 1]), evaluation("trained", [1, 0, 1])]
        save_results(Path("kept/evaluation"), models, result_rows(models), difference_rows(models[1:], models[:1]), {})
    return folder


def evaluation(model, corrects):
    import pyarrow as pa

    rows = [
        {**dict.fromkeys(SAMPLE_COLUMNS), "model": model, "task": "sums", "protocol": "p@1", "problem": str(place),
         "prompt_key": str(place), "sample": 0, "prompt": "1 + 1?", "gold": "2", "completion": "2",
         "completion_tokens": 1, "finish_reason": "stop", "correct": float(correct), "verdict": "wrong"}
        for place, correct in enumerate(corrects)
    ]  # fmt: skip
    return Evaluation(pa.Table.from_pylist(rows, pa.schema(list(SAMPLE_COLUMNS.items()))))


@pytest.fixture
def workplace(place, monkeypatch):
    """The folder, with `run` a fresh copy of the run, and a question for `aapo chat`."""
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.stdin", io.StringIO("1 + 1?"))
    monkeypatch.setenv("AAPO_CACHE", str(place / "cache"))
    shutil.rmtree(place / "run", ignore_errors=True)
    shutil.copytree(place / "kept", place / "run")
    return place


def refused(capsys, *arguments, code=2):
    """The one line on standard error of a command that must fail."""
    capsys.readouterr()
    assert run(list(map(str, arguments))) == code, capsys.readouterr()
    (line,) = capsys.readouterr().err.splitlines()
    assert "--debug" not in line, line
    return line.removeprefix("aapo: ")


def resumed(monkeypatch):
    """The exit code of a resume without its report, which takes seconds to draw."""
    with monkeypatch.context() as patch:
        patch.setattr("aapo.reporting.write_report", lambda folders: "unwritten")
        return run(list(RESUME))


def half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file):
    file.write_bytes(b"")


def foreign(file):
    file.write_text('{"a": 1}\n')


def scalar(file):
    file.write_text("[1]\n")


RESUME = ("train", "tiny.yaml", "--output_dir", "run", "--resume")
REPORT, REPLAY, PUBLISH = ("report", "run"), ("replay", "run"), ("publish", "run")
BASE = ("eval", "run", "--tasks", "held_out", "--checkpoints", "base")
DOCTOR, CHAT, MERGE = ("doctor", "run"), ("chat", "run"), ("merge", "run")
TABLE, SHOWN = ("table", "run/evaluation"), ("report", "run/evaluation")


@pytest.mark.parametrize(
    ("name", "harms", "commands", "fix"),
    [
        (
            "manifest.json",
            (empty, half, foreign),
            (RESUME, REPORT, PUBLISH, BASE, DOCTOR),
            "`aapo train run --resume` writes",
        ),
        ("recipe.yaml", (empty, foreign), (RESUME, REPORT, REPLAY, PUBLISH, BASE, DOCTOR, CHAT, MERGE), "copy the run"),
        ("samples/step-000002.parquet", (empty, half), (RESUME, REPORT, REPLAY), "delete it, and its step is left out"),
        ("evaluation/results.json", (empty, half, foreign), (REPORT, SHOWN, TABLE, PUBLISH), "evaluate again"),
        ("evaluation/table.json", (empty, foreign), (REPORT, SHOWN), "evaluate again"),
        ("evaluation/differences.json", (empty, foreign, scalar), (REPORT, SHOWN), "evaluate again"),
        ("evaluation/samples/trained--sums.parquet", (empty, half), (REPORT, SHOWN, PUBLISH), "evaluate again"),
        ("evaluation/samples/trained--sums.parquet", (Path.unlink,), (REPORT, SHOWN, PUBLISH), "evaluate again"),
    ],
)
def test_a_damaged_file_of_a_run_is_named_with_the_fix(workplace, capsys, name, harms, commands, fix):
    for harm in harms:
        shutil.copy(workplace / "kept" / name, workplace / "run" / name)
        harm(workplace / "run" / name)
        for command in commands:
            line = refused(capsys, *command)
            assert line.startswith(f"run/{name}" if harm is not Path.unlink else "run/evaluation/samples has no"), line
            assert fix in line


def test_a_rollout_file_that_is_deleted_as_asked_leaves_the_rest(workplace, capsys):
    (workplace / "run/samples/step-000002.parquet").unlink()
    assert run(list(REPLAY)) == 0
    assert "2 steps" in capsys.readouterr().out


def test_a_torn_line_of_the_metrics_is_left_out_and_another_is_named(workplace, capsys, monkeypatch):
    metrics = RunDirectory("run").metrics_file
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:-20])
    shutil.rmtree("run/model")
    capsys.readouterr()
    assert resumed(monkeypatch) == 0
    assert "run/metrics.jsonl: its last line was cut short and is left out" in capsys.readouterr().out
    first, *others = whole.splitlines(keepends=True)
    metrics.write_bytes(first[:30] + b"\n" + b"".join(others))
    for command in (RESUME, REPORT, PUBLISH, ("doctor", "run")):
        assert refused(capsys, *command).startswith("run/metrics.jsonl is damaged"), command
        assert "remove line 1" in refused(capsys, *command)


def test_resume_passes_over_a_damaged_checkpoint_and_reaches_the_same_weights(workplace, capsys, monkeypatch):
    stopped = RunDirectory("run")
    shutil.rmtree(stopped.model)
    (stopped.checkpoints / "checkpoint-3" / "optimizer.pt").unlink()
    capsys.readouterr()
    assert resumed(monkeypatch) == 0
    said = capsys.readouterr().out
    assert "run/checkpoints/checkpoint-3 is passed over: optimizer.pt is missing\n" in said
    assert "going on from step 2\n" in said
    name = "model/model.safetensors"
    assert (workplace / "run" / name).read_bytes() == (workplace / "kept" / name).read_bytes()
    for checkpoint in stopped.checkpoints.glob("checkpoint-*"):
        half(checkpoint / "model.safetensors")
    line = refused(capsys, *RESUME)
    assert line.startswith("no checkpoint is whole (") and "checkpoint-3: model.safetensors is damaged" in line


def test_a_copy_of_a_checkpoint_or_of_a_rollout_file_by_another_name_does_not_count(workplace, capsys, monkeypatch):
    checkpoints = workplace / "run" / "checkpoints"
    shutil.copytree(checkpoints / "checkpoint-3", checkpoints / "checkpoint-3.bak")
    shutil.copy("run/samples/step-000002.parquet", "run/samples/step-000002 (copy).parquet")
    shutil.rmtree("run/model")
    assert resumed(monkeypatch) == 0 and run(list(REPLAY)) == 0
    assert (checkpoints / "checkpoint-3.bak" / "whole").exists()


def test_a_damaged_checkpoint_is_not_evaluated(workplace, capsys):
    file = workplace / "run" / "checkpoints" / "checkpoint-2" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for chosen in ("2", "all"):
        line = refused(capsys, "eval", "run", "--tasks", "rows.jsonl", "--checkpoints", chosen)
        assert line.startswith("run/checkpoints/checkpoint-2 is not as it was saved: model.safetensors is damaged; ")


def without(file):
    def harm(folder):
        (folder / file).unlink()

    return harm


def damaged(file, content=None):
    def harm(folder):
        if content is None:
            half(folder / file)
        else:
            (folder / file).write_text(content)

    return harm


def configured(**changes):
    def harm(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return harm


def weighed(change):
    def harm(folder):
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, {"format": "pt"})

    return harm


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_code(folder):
    auto = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    configured(model_type="own", auto_map=auto)(folder)
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (damaged("model.safetensors"), "bad/model.safetensors is damaged"),
        (damaged("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "bad/model.safetensors is dam"),
        (weighed(lambda held: dict(list(held.items())[:5])), "the weights of bad have no model.layers.0"),
        (weighed(lambda held: {f"x.{key}": value for key, value in held.items()}), "the weights of bad have no "),
        (configured(hidden_size=64), "cannot load the model of 'bad': the shapes of its weights are not those of its"),
        (configured(hidden_size="wide"), "cannot load the "),
        (configured(model_type="none-such"), "cannot load the model of 'bad': "),
        (damaged("config.json", "{}"), "bad/config.json has no model_type"),
        (damaged("config.json"), "bad/config.json is damaged"),
        (damaged("generation_config.json"), "bad/generation_config.json is damaged"),
        (damaged("tokenizer.json"), "cannot load the tokenizer of 'bad': "),
        (damaged("tokenizer.json", "{}"), "cannot load the tokenizer of 'bad': "),
        (damaged("chat_template.jinja", "{% if %}"), "the chat template of bad refuses "),
        (without("config.json"), "the model folder bad has no configuration (config.json)"),
        (pickled, "the model folder bad has no weights (*.safetensors)"),
        (with_code, "cannot load the model of 'bad': it needs code that comes with it; read that code, and to let it"),
    ],
)
def test_a_model_folder_that_is_damaged_or_foreign_is_refused_before_anything_is_sampled(workplace, capsys, harm, line):
    shutil.rmtree("bad", ignore_errors=True)
    shutil.copytree("model", "bad")
    harm(workplace / "bad")
    before = sorted(path.name for path in workplace.iterdir())
    flags = ("--model_name_or_path", "bad", "--output_dir", "new")
    for command in (("train", "tiny.yaml", *flags), ("eval", "bad", "--tasks", "rows.jsonl", "--output", "new")):
        assert refused(capsys, *command).startswith(line)
    assert sorted(path.name for path in workplace.iterdir()) == before and not Path("bad/ran").exists()


def no_numbers(folder):
    weighed(lambda held: {**held, "model.norm.weight": held["model.norm.weight"] * torch.nan})(folder)


GRPO = ("--algorithm", "grpo", "--num_reference_samples", "null", "--output_dir", "new")


@pytest.mark.parametrize("command", [("bank", "build", "tiny.yaml"), ("train", "tiny.yaml", *GRPO)])
def test_weights_that_are_no_numbers_are_not_sampled(workplace, capsys, command):
    shutil.rmtree("bad", ignore_errors=True)
    shutil.copytree("model", "bad")
    no_numbers(workplace / "bad")
    line = refused(capsys, *command, "--model_name_or_path", "bad")
    assert line.startswith("the weights model.norm.weight of bad are not finite") and not Path("new").exists()


BASED = {
    **{key: value for key, value in TINY.items() if key not in ("reward_funcs", "judge", "judge_threshold")},
    "base_model": {"hidden_size": 32}, "dataset_name": "reasoning_gym:chain_sum", "num_train_prompts": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damaged("model.safetensors"), "/model.safetensors is damaged ("),
        (no_numbers, "the weights model.norm.weight in "),
        (damaged("config.json"), "/config.json is damaged ("),
        (damaged("tokenizer.json"), "cannot load the tokenizer of "),
        (damaged("chat_template.jinja", "{% if %}"), "the chat template of "),
        (without("config.json"), "has no configuration (config.json)"),
    ],
)
def test_a_damaged_base_model_of_the_cache_is_named_and_is_to_be_deleted(workplace, capsys, harm, words):
    Path("based.yaml").write_text(yaml.safe_dump(BASED))
    made = model_path(load_recipe("based.yaml"))
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree("model", made)
    harm(Path(made))
    train = ("train", "based.yaml", "--output_dir", "new")
    for command in (("base", "build", "based.yaml"), ("bank", "build", "based.yaml"), train, (*train, "--dry-run")):
        line = refused(capsys, *command)
        assert made in line and words in line and line.endswith(f"; delete {made}, and it is made again"), line
    assert run(["doctor", "based.yaml"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"; delete {made}, and it is made again" in said and "error: 1," in said
    assert not Path("new").exists()
    shutil.rmtree(made)


def test_a_cache_that_cannot_be_written_to_is_named_before_anything_is_trained(workplace, capsys, monkeypatch):
    Path("held.yaml").write_text(yaml.safe_dump({"model_name_or_path": "model", **TINY, "num_eval_prompts": 2}))
    Path("closed").mkdir(exist_ok=True)
    for name in ("base", "banks", "evaluations", "golds"):  # files, which stop root, too
        (workplace / "closed" / name).touch()
    Path("based.yaml").write_text(yaml.safe_dump(BASED))
    monkeypatch.setattr("aapo.base.warmup.warm_up", None)  # nothing is trained that cannot be kept
    for place in ("closed", "rows.jsonl", "rows.jsonl/cache"):
        monkeypatch.setenv("AAPO_CACHE", place)
        grpo = ("train", "held.yaml", *GRPO)
        compare = ("compare", "held.yaml", "--algorithms", "grpo", "--output", "compared")
        for command in (grpo, (*grpo, "--dry-run"), compare):
            line = refused(capsys, *command)
            assert line.startswith(f"the cache (AAPO_CACHE) is {place}/evaluations, which cannot be written to"), line
        for command in (("bank", "build", "tiny.yaml"), ("base", "build", "based.yaml")):
            line = refused(capsys, *command)
            assert f"{place}/ba" in line and "cannot be written" in line and "AAPO_CACHE" in line, line
        assert not Path("new").exists() and not Path("compared").exists()


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (damaged("model.safetensors"), "run/model/model.safetensors is damaged"),
        (weighed(lambda held: dict(list(held.items())[:5])), "the weights of run/model have no model.layers.0"),
        (
            weighed(lambda held: {**held, "model.norm.weight": held["model.norm.weight"] * torch.nan}),
            "the weights model.norm.weight in run/model/model.safetensors are not finite",
        ),
        (without("config.json"), "the model folder run/model has no configuration"),
    ],
)
def test_a_damaged_final_model_is_not_published(workplace, capsys, harm, line):
    harm(workplace / "run" / "model")
    said = refused(capsys, *PUBLISH)
    assert said.startswith(line)
    assert said.endswith("; or delete run/model, and `aapo train run --resume` saves it again")
    assert not Path("run/published").exists() and not list(Path("run").glob(".published*"))


def test_a_model_that_is_deleted_as_asked_is_saved_again(workplace, monkeypatch):
    shutil.rmtree("run/model")
    assert resumed(monkeypatch) == 0
    assert Path("run/model/model.safetensors").read_bytes() == Path("kept/model/model.safetensors").read_bytes()


GOOD = [json.dumps({"question": f"{n}?", "answer": str(n)}) for n in range(9)]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("latin.jsonl", '{"question": "é?", "answer": "1"}\n'.encode("latin-1"), "latin.jsonl line 1 is not UTF-8"),
        ("torn.jsonl", "\n".join([*GOOD, GOOD[0][:15]]).encode(), "torn.jsonl line 10 is no JSON"),
        ("list.jsonl", "\n".join([*GOOD[:2], "[1]", *GOOD]).encode(), "list.jsonl line 3 is no object; write one a"),
        ("half.jsonl", b'{"question": "\\ud800", "answer": "1"}\n', "half.jsonl line 1 has half of a surrogate pair"),
        ("latin.csv", "question,answer\né?,1\n".encode("latin-1"), "latin.csv line 2 is not UTF-8"),
        ("head.csv", b"question,answer\n", "head.csv has no rows"),
        ("none.parquet", b"question", "none.parquet is no Parquet file, or a damaged one"),
        ("torn.json", b'[{"question": "1?",', "cannot load torn.json: "),
        ("words.jsonl", b'{"prompt": ["1 + 1?"], "answer": "2"}\n', "1 of 1 rows have a question in column 'prompt'"),
        ("number.jsonl", b'{"prompt": [{"role": "user", "content": 5}], "answer": "2"}\n', "1 of 1 rows have a quest"),
    ],
)
def test_a_data_file_that_cannot_be_read_is_named_with_its_line(workplace, capsys, name, content, line):
    Path(name).write_bytes(content)
    assert refused(capsys, "train", "tiny.yaml", "--dataset_name", name, "--output_dir", "new").startswith(line)
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--max_completion_length", 1000), "8 of 8 prompts, the longest of "),
        (("--reference_bank", "no-bank"), "reference_bank is no-bank, and there is no bank"),
        (("--use_peft", "true", "--lora_target_modules", "no-module"), "Target modules "),
        (("--lr_scheduler_kwargs.no_such", 1), "get_linear_schedule_with_warmup() got an unexpected keyword"),
        (("--model_init_kwargs.no_such", 1), "cannot load the model of 'model': "),
    ],
)
def test_what_is_refused_before_the_first_step_leaves_the_folder_free(workplace, capsys, flags, line):
    assert refused(capsys, "train", "tiny.yaml", "--output_dir", "new", *flags).startswith(line)
    assert not Path("new").exists()


def test_an_output_that_no_folder_can_be_called_is_refused(workplace, capsys):
    line = refused(capsys, "train", "tiny.yaml", "--output_dir", "a\0b")
    assert line.startswith("output_dir is a\N{REPLACEMENT CHARACTER}b, which cannot be written to")


@pytest.mark.parametrize("command", [REPORT, REPLAY, ("import-config", "tiny.yaml"), ("export", "lighteval")])
@pytest.mark.parametrize("output", ["model", "rows.jsonl/new"])
def test_an_output_that_cannot_be_written_is_refused(workplace, capsys, command, output):
    option = () if command[0] == "export" else ("--output",)
    line = refused(capsys, *command, *option, output)
    assert output.partition("/")[0] in line and ("folder" in line or "cannot be written" in line)


def test_a_bank_build_a_push_and_a_grading_are_refused_before_they_write(workplace, capsys):
    assert refused(capsys, "bank", "build", "tiny.yaml", "--output", "rows.jsonl").startswith("--output is rows.jsonl")
    assert refused(capsys, "publish", "run", "--push", "nobody").startswith("--push is 'nobody'; it must be owner/name")
    assert not Path("run/published").exists()
    Path("graded.jsonl").write_text('{"gold": "1", "completion": "1"}\n')
    assert "would be lost" in refused(capsys, "grade", "graded.jsonl", "--output", "graded.jsonl")
    assert "is not a reference bank: its manifest.json is of something else" in refused(capsys, "bank", "show", "run")
    assert refused(capsys, "eval", "run", "--tasks", "held_out", "--checkpoints", "").startswith("--checkpoints is emp")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"system_prompt: \xe9\n", "recipe own.yaml is not UTF-8"),
        (b"a: " + b"[" * 5000, "recipe own.yaml is not valid YAML"),
        (b"seed: 1\nmax_steps: 2\n\nseed: 3\n", "recipe own.yaml: seed is given twice, in lines 1 and 4; keep one"),
        (b"reward_kwargs:\n  a: {x: 1, x: 1}\n", "recipe own.yaml: x is given twice, in line 2; keep one"),
        (b'seed: !!python/object/apply:os.system ["touch ran"]\n', "recipe own.yaml is not valid YAML"),
    ],
)
def test_a_recipe_that_is_no_yaml_of_ours_is_refused(workplace, capsys, content, line):
    Path("own.yaml").write_bytes(content)
    assert refused(capsys, "train", "own.yaml", "--output_dir", "new").startswith(line)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--learning_rate", "1e12"), "the gradient's norm of step 2 is nan; training stops before the weights change"),
        (
            ("--learning_rate", "1e38"),
            "the weights model.embed_tokens.weight are not finite after step 1; they are not",
        ),
        (("--learning_rate", "1e38", "--max_steps", "1", "--save_strategy", "no"), "the weights model.embed_tokens"),
        (("--reward_weights", "1e308"), "the loss of step 1 is nan"),
    ],
)
def test_numbers_that_are_none_end_the_run_and_are_not_saved(workplace, capsys, flags, line):
    shutil.rmtree("new", ignore_errors=True)
    flags = (*flags, "--output_dir", "new", "--preflight", "off")
    assert refused(capsys, "train", "tiny.yaml", *flags, code=1).startswith(line)
    assert not Path("new/model").exists()
    for file in Path("new").rglob("model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values())


@pytest.mark.parametrize("reward", ["float('inf')", "float('nan')", "1e30"])
def test_a_reward_that_is_no_number_to_train_on_ends_the_run(workplace, capsys, reward):
    name = f"wild_{abs(hash(reward))}.py"
    Path(name).write_text(
        f"def wild(completions, **columns):\n    return [{reward}] + [0.0] * (len(completions) - 1)\n"
    )
    flags = ("--algorithm", "grpo", "--num_reference_samples", "null", "--reward_funcs", f"{name}:wild")
    line = refused(capsys, "train", "tiny.yaml", *flags, "--judge", "wild", "--output_dir", "wild", code=1)
    assert f"it returned {float(eval(reward))}; a reward must be a finite number" in line
    assert not Path("wild/model").exists()
    shutil.rmtree("wild", ignore_errors=True)

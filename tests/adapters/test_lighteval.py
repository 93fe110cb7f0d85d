"""The exported tasks in lighteval itself, in its environment: docs/lighteval.md."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("lighteval")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from transformers import AutoModelForCausalLM, AutoTokenizer

from aapo.evaluation import load_protocol
from aapo.evaluation.lighteval import write_lighteval_tasks
from aapo.evaluation.protocol import Protocol
from aapo.tasks import Benchmark, render_prompt

pytestmark = pytest.mark.lighteval

ROWS = {
    "aime24": [{"problem": f"What is {n} + {n}?", "answer": f"{2 * n:03d}"} for n in range(1, 6)],
    "amc23": [{"problem": "How many?", "answer": 27.0}],
    "math_500": [{"problem": "Simplify.", "answer": "3\\sqrt{13}"}],
    "minerva": [{"problem": "Which luminosity?", "solution": "First \\boxed{1}, at last \\boxed{4.5e33} erg/s."}],
    "olympiadbench": [{"question": "Solve.", "final_answer": ["4,-1"]}],
    "gpqa:diamond": [
        {"Question": f"Which value has c_{n}?", "Correct Answer": f"{n}.0 ", "Incorrect Answer 1": f"{n}.1",
         "Incorrect Answer 2": f"{n}.2", "Incorrect Answer 3": f"{n}.3"} for n in range(12)
    ],
    "gsm8k": [{"question": "How much?", "answer": "She sells <<9-2=7>>7.\n#### 1,080"}],
}  # fmt: skip
COLUMNS: dict[str, dict[str, Any]] = {
    "minerva": {"answer_column": "solution"},
    "olympiadbench": {"answer_column": "final_answer"},
    "gpqa:diamond": {
        "prompt_column": "Question",
        "choice_columns": ["Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3))],
    },
}
RIGHT = {"aime24": "2", "amc23": "27", "math_500": "\\sqrt{117}", "minerva": "4.5 \\times 10^{33}",
         "olympiadbench": "-1, 4", "gsm8k": "1080"}  # fmt: skip
SHORT = {"prompt_template": "{question}", "choice_template": "{question}", "max_completion_length": 8, "num_samples": 2}


@pytest.fixture(scope="module", autouse=True)
def offline() -> None:
    """lighteval imports all of its tasks; this one downloads a file from GitHub when it is imported."""
    name = "lighteval.tasks.tasks.tiny_benchmarks"
    stand_in = ModuleType(name)
    vars(stand_in)["TASKS_TABLE"] = []
    sys.modules[name] = stand_in


def folder(parent: Path, name: str) -> Benchmark:
    """The benchmark's rows as a folder that lighteval can load by its path."""
    data = parent / name.replace(":", "_")
    data.mkdir()
    (data / "train.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS[name]))
    return Benchmark(name, str(data), dataset_split="train", **COLUMNS.get(name, {}))


def load_tasks(path: Path, names: list[str]) -> dict[str, Any]:
    """The file's tasks as lighteval's registry makes them, with their data."""
    from lighteval.tasks.lighteval_task import LightevalTask
    from lighteval.tasks.registry import Registry

    tasks = Registry(tasks=",".join(names), custom_tasks=path).load_tasks()
    LightevalTask.load_datasets(tasks)
    return {task.name: task for task in tasks.values()}


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Benchmark]:
    parent = tmp_path_factory.mktemp("data")
    return {name: folder(parent, name) for name in ROWS}


@pytest.fixture
def export(benchmarks: dict[str, Benchmark], tmp_path: Path) -> Callable[[Protocol], dict[str, Any]]:
    """Write and load all benchmarks; tasks by our names."""

    def load(protocol: Protocol) -> dict[str, Any]:
        path = tmp_path / "tasks.py"
        write_lighteval_tasks(path, list(benchmarks.values()), protocol)
        tasks = load_tasks(path, ["aapo_" + name.replace(":", "_") for name in benchmarks])
        return {name: tasks["aapo_" + name.replace(":", "_")] for name in benchmarks}

    return load


@pytest.mark.parametrize("protocol_name", ["aapo", "qwen25-math-cot", "abel"])
def test_models_are_asked_the_same(
    protocol_name: str,
    benchmarks: dict[str, Benchmark],
    export: Callable[[Protocol], dict[str, Any]],
    tiny_folder: Path,
) -> None:
    from lighteval.tasks.prompt_manager import PromptManager

    protocol, tokenizer = load_protocol(protocol_name), AutoTokenizer.from_pretrained(tiny_folder)
    system = protocol.system_prompt if protocol.conversational else None
    manager = PromptManager(protocol.conversational, tokenizer, system)
    for name, task in export(protocol).items():
        docs = task.get_docs()
        theirs = {int(doc.id): manager.prepare_prompt(doc) for doc in docs}  # lighteval shuffles the rows
        ours = [render_prompt(row["prompt"], tokenizer) for row in benchmarks[name].load(protocol.style)]
        assert [theirs[index] for index in sorted(theirs)] == ours
        assert {doc.num_samples for doc in docs} == {protocol.samples(name)}
        assert {doc.generation_size for doc in docs} == {protocol.max_completion_length}
        assert {tuple(doc.stop_sequences) for doc in docs} == {tuple(protocol.stop)}


def test_options_have_the_same_letters(
    benchmarks: dict[str, Benchmark], export: Callable[[Protocol], dict[str, Any]]
) -> None:
    protocol = load_protocol("aapo")
    docs = sorted(export(protocol)["gpqa:diamond"].get_docs(), key=lambda doc: int(doc.id))
    ours = benchmarks["gpqa:diamond"].load(protocol.style)["answer"]
    assert [doc.get_golds()[0] for doc in docs] == list(ours)
    assert len(set(ours)) > 1


def test_right_completions_are_paid_and_the_score_is_the_mean_over_samples(
    benchmarks: dict[str, Benchmark], export: Callable[[Protocol], dict[str, Any]]
) -> None:
    from lighteval.models.model_output import ModelResponse

    protocol = load_protocol("aapo").changed({"num_samples": 3})
    for name, task in export(protocol).items():
        (doc,) = [doc for doc in task.get_docs() if doc.id == "0"]
        gold = benchmarks[name].load(protocol.style)[0]["answer"]
        if name == "gpqa:diamond":
            wrong = next(letter for letter in "ABCD" if letter != gold)
            completions = [f"Let us see.\n\nAnswer: {letter}" for letter in (gold, wrong, gold)]
        else:
            line = "Therefore, the final answer is: $\\boxed{%s}$. I hope it is correct."
            completions = [line % RIGHT[name], line % "7", line % RIGHT[name]]
        (metric,) = task.metrics
        assert metric.metric_name == ("gpqa_pass@k" if name == "gpqa:diamond" else "pass@k") + ":k=1&n=3"
        (score,) = metric.compute_sample(doc=doc, model_response=ModelResponse(text=completions)).values()
        assert score == pytest.approx(2 / 3)


def test_names_of_lightevals_own_tasks_would_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lighteval.tasks.registry import Registry

    monkeypatch.setattr("aapo.evaluation.lighteval.PREFIX", "")
    write_lighteval_tasks(
        tmp_path / "tasks.py", [Benchmark("aime24", "owner/mine", dataset_split="train")], load_protocol("aapo")
    )
    with pytest.raises(ValueError, match="conflict with built-in tasks"):
        Registry(tasks="aime24", custom_tasks=tmp_path / "tasks.py")


def test_the_command_line_of_lighteval_runs_a_model(
    benchmarks: dict[str, Benchmark], tiny_folder: Path, tmp_path: Path
) -> None:
    from lighteval.__main__ import app

    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    model.generation_config.do_sample = True  # without it lighteval's Transformers backend is greedy
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "model")
    path = tmp_path / "tasks.py"
    write_lighteval_tasks(path, list(benchmarks.values()), load_protocol("aapo").changed(SHORT))
    lines = [line.removeprefix("#| ") for line in path.read_text().splitlines() if line.startswith("#| ")]
    settings = [f"  {key}: {value}" for key, value in (("device", "cpu"), ("batch_size", 1))]
    config = tmp_path / "model.yaml"
    config.write_text("\n".join([*lines, *settings]).replace("MODEL", str(tmp_path / "model")))
    tasks = "aapo_aime24,aapo_gpqa_diamond"
    arguments = [str(config), tasks, "--custom-tasks", str(path), "--output-dir", str(tmp_path / "out")]
    app(["accelerate", *arguments], standalone_mode=False)
    (results,) = (tmp_path / "out").rglob("results_*.json")
    scores = json.loads(results.read_text())["results"]
    assert set(scores["aapo_aime24|0"]) == {"pass@k:k=1&n=2", "pass@k:k=1&n=2_stderr"}
    assert 0 <= scores["aapo_gpqa_diamond|0"]["gpqa_pass@k:k=1&n=2"] <= 1
    assert list((tmp_path / "model").rglob("GENERATIVE.parquet"))  # its cache, in the model's folder: docs/lighteval.md

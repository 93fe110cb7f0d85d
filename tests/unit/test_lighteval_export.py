"""The exported task file without lighteval: run with stand-ins for the three names that it imports."""

import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from aapo.errors import InputError
from aapo.evaluation import load_protocol, shipped_protocols
from aapo.evaluation.lighteval import as_latex, lighteval_name, write_lighteval_tasks
from aapo.grading.extraction import gold_answer
from aapo.tasks import Benchmark, find_benchmark, shipped_benchmarks

GPQA = [
    {"Question": f" Which value has the constant c_{n}? ", "Correct Answer": f"{n}.0\n", "Incorrect Answer 1": f"{n}.1",
     "Incorrect Answer 2": f" {n}.2", "Incorrect Answer 3": f"{n}.3"} for n in range(12)
]  # fmt: skip
ROWS: dict[str, list[dict[str, Any]]] = {
    "aime24": [{"problem": "Find n.", "answer": "025"}, {"problem": "Find {letters} and {question}.", "answer": "204"}],
    "aime25": [{"problem": "Find m.", "answer": "588"}],
    "math_500": [
        {"problem": "Simplify.", "answer": "3\\sqrt{13}", "solution": "It is \\boxed{3\\sqrt{13}}."},
        {"problem": "Who?", "answer": "\\text{Evelyn}", "solution": "It is \\boxed{\\text{Evelyn}}."},
    ],
    "amc23": [{"problem": "How many?", "answer": 27.0}],
    "minerva": [
        {"problem": "Which luminosity?", "solution": "First \\boxed{1}, at last $\\boxed{4.5e33}$ erg/s."},
        {"problem": "Which shift?", "solution": "So \\boxed{6.02e-05}."},
        {"problem": "Which fraction?", "solution": "So \\boxed{\\frac{1}{1+e^{-x}}}."},
    ],
    "olympiadbench": [
        {"question": "Solve.", "final_answer": ["$\\frac{1}{2 n+2}$"]},
        {"question": "Solve both.", "final_answer": ["4,-1"]},
    ],
    "gpqa:diamond": GPQA,
    "gsm8k": [{"question": "How much?", "answer": "She sells <<9-2=7>>7.\n#### 1,080"}],
}
GOLDS = {
    "aime24": ["$025$", "$204$"],
    "aime25": ["$588$"],
    "math_500": ["$3\\sqrt{13}$", "$\\text{Evelyn}$"],
    "amc23": ["$27.0$"],
    "minerva": ["$4.5 \\times 10^{33}$", "$6.02 \\times 10^{-5}$", "$\\frac{1}{1+e^{-x}}$"],
    "olympiadbench": ["$\\frac{1}{2 n+2}$", "$4,-1$"],
    "gsm8k": ["$1,080$"],
}


@dataclass
class Doc:
    query: str
    choices: list[str]
    gold_index: int
    task_name: str | None = None


class Metrics:
    """lighteval's metrics are members that are called with parameters."""

    @staticmethod
    def pass_at_k_math(sample_params: dict[str, int]) -> tuple[str, dict[str, int]]:
        return "math", sample_params

    @staticmethod
    def gpqa_instruct_pass_at_k(sample_params: dict[str, int]) -> tuple[str, dict[str, int]]:
        return "letters", sample_params


def run(path: Path) -> dict[str, SimpleNamespace]:
    """The tasks of an exported file, which gets nothing of ours."""
    names = {
        "lighteval.metrics.metrics": {"Metrics": Metrics},
        "lighteval.tasks.lighteval_task": {"LightevalTaskConfig": SimpleNamespace},
        "lighteval.tasks.requests": {"Doc": Doc},
    }
    modules = {name: ModuleType(name) for name in ("lighteval", "lighteval.metrics", "lighteval.tasks", *names)}
    for name, members in names.items():
        vars(modules[name]).update(members)
    scope: dict[str, Any] = {"__name__": "exported"}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), scope)
    return {task.name: task for task in scope["TASKS_TABLE"]}


def configuration(path: Path) -> dict[str, Any]:
    """The model configuration in the file's first comment, as the sed command in it takes it out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    text = "\n".join(re.sub("^#[|] ", "", line) for line in lines if line.startswith("#| "))
    return yaml.safe_load(text)["model_parameters"]


def docs(task: SimpleNamespace, rows: list[dict[str, Any]]) -> list[Doc]:
    """What lighteval makes of the rows; it numbers them itself and leaves out what is None."""
    made = [task.prompt_function({**row, "__index": index}, task.name) for index, row in enumerate(rows)]
    return [doc for doc in made if doc is not None]


@pytest.mark.parametrize("protocol_name", list(shipped_protocols()))
@pytest.mark.parametrize("name", list(ROWS))
def test_prompts_and_gold_answers_are_those_of_the_benchmark(protocol_name: str, name: str, tmp_path: Path) -> None:
    protocol = load_protocol(protocol_name)
    data, tasks = tmp_path / "rows.jsonl", tmp_path / "tasks.py"
    data.write_text("\n".join(json.dumps(row) for row in ROWS[name]))
    ours = list(find_benchmark(f"{name}={data}").load(protocol.style))
    write_lighteval_tasks(tasks, [shipped_benchmarks()[name]], protocol)
    (task,) = run(tasks).values()
    theirs = docs(task, ROWS[name])
    assert len(theirs) == len(ours) == len(ROWS[name])
    for doc, row in zip(theirs, ours, strict=True):
        messages = [{"role": "user", "content": doc.query}]
        if system := configuration(tasks).get("system_prompt"):
            messages.insert(0, {"role": "system", "content": system})
        assert (messages if protocol.conversational else doc.query) == row["prompt"]
        if name == "gpqa:diamond":
            assert doc.choices == list("ABCD")
            assert doc.choices[doc.gold_index] == row["answer"]
        else:
            assert doc.choices == [as_latex(gold_answer(row["answer"]))]
    assert task.metrics[0][1] == {"k": 1, "n": protocol.samples(name)}


def test_options_stand_in_different_orders(tmp_path: Path) -> None:
    write_lighteval_tasks(tmp_path / "tasks.py", [shipped_benchmarks()["gpqa:diamond"]], load_protocol("aapo"))
    (task,) = run(tmp_path / "tasks.py").values()
    assert len({doc.gold_index for doc in docs(task, GPQA)}) > 1


def test_gold_answers_in_lightevals_form(tmp_path: Path) -> None:
    write_lighteval_tasks(tmp_path / "tasks.py", list(shipped_benchmarks().values()), load_protocol("aapo"))
    tasks = run(tmp_path / "tasks.py")
    for name, golds in GOLDS.items():
        assert [doc.choices[0] for doc in docs(tasks[lighteval_name(name)], ROWS[name])] == golds


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        ("25", "$25$"),
        ("4.5e33", r"$4.5 \times 10^{33}$"),
        ("$-1E-09$", r"$-1 \times 10^{-9}$"),
        ("2e+3", r"$2 \times 10^{3}$"),
        ("2e3x", "$2e3x$"),
        ("$2$, $3$", "$2$, $3$"),
        (r"\$12.50", r"$\$12.50$"),
        (r"\(42\)", r"\(42\)"),
        ("a\nb", "$a b$"),
    ],
)
def test_as_latex(gold: str, expected: str) -> None:
    assert as_latex(gold) == expected


def test_every_shipped_benchmark_is_there_under_a_prefixed_name(tmp_path: Path) -> None:
    protocol = load_protocol("aapo")
    path = tmp_path / "tasks.py"
    write_lighteval_tasks(path, list(shipped_benchmarks().values()), protocol)
    tasks = run(path)
    assert list(tasks) == [
        "aapo_aime24", "aapo_aime25", "aapo_math_500", "aapo_amc23", "aapo_minerva", "aapo_olympiadbench",
        "aapo_gpqa_diamond", "aapo_gsm8k",
    ]  # fmt: skip
    assert tasks["aapo_aime24"].metrics == [("math", {"k": 1, "n": 64})]
    assert tasks["aapo_gpqa_diamond"].metrics == [("letters", {"k": 1, "n": 8})]
    assert tasks["aapo_gpqa_diamond"].hf_repo == "Idavidrein/gpqa"
    assert tasks["aapo_gpqa_diamond"].hf_subset == "gpqa_diamond"
    assert {task.generation_size for task in tasks.values()} == {32768}
    assert [task.evaluation_splits for task in tasks.values()] == [
        [benchmark.dataset_split] for benchmark in shipped_benchmarks().values()
    ]
    text = path.read_text(encoding="utf-8")
    assert f"protocol {protocol.label}." in text.splitlines()[0]
    assert not re.search(r"^\s*(?:import|from) aapo", text, re.MULTILINE)


def test_the_same_input_gives_the_same_file_and_another_protocol_another_version(tmp_path: Path) -> None:
    benchmark, protocol = shipped_benchmarks()["aime24"], load_protocol("aapo")
    first, second, third = tmp_path / "a" / "tasks.py", tmp_path / "b" / "tasks.py", tmp_path / "c" / "tasks.py"
    write_lighteval_tasks(first, [benchmark], protocol)
    write_lighteval_tasks(second, [benchmark], protocol)
    write_lighteval_tasks(third, [benchmark], protocol.changed({"prompt_template": "Do {question}"}))
    assert first.read_text() == second.read_text()
    assert run(first)["aapo_aime24"].version != run(third)["aapo_aime24"].version


def test_model_configuration(tmp_path: Path) -> None:
    path = tmp_path / "tasks.py"
    protocol = load_protocol("aapo").changed(
        {"system_prompt": "Be brief: x = 1, y.\nAlways.", "top_k": 20, "min_p": 0.1}
    )
    write_lighteval_tasks(path, [shipped_benchmarks()["aime24"]], protocol)
    assert configuration(path) == {
        "model_name": "MODEL",
        "override_chat_template": True,
        "add_special_tokens": False,
        "generation_parameters": {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.1},
        "system_prompt": "Be brief: x = 1, y.\nAlways.",
    }
    write_lighteval_tasks(path, [shipped_benchmarks()["aime24"]], load_protocol("abel"))
    assert configuration(path) == {
        "model_name": "MODEL",
        "override_chat_template": False,
        "add_special_tokens": True,
        "generation_parameters": {"temperature": 0.0},
    }
    assert run(path)["aapo_aime24"].stop_sequence == ["\nQuestion:"]


def test_plain_text_has_its_system_prompt_in_front(tmp_path: Path) -> None:
    protocol = load_protocol("abel").changed({"system_prompt": "Be brief."})
    write_lighteval_tasks(tmp_path / "tasks.py", [shipped_benchmarks()["aime24"]], protocol)
    (task,) = run(tmp_path / "tasks.py").values()
    assert docs(task, ROWS["aime24"])[0].query.startswith("Be brief.\nQuestion:\nFind n.\n")
    assert "system_prompt" not in configuration(tmp_path / "tasks.py")


def test_rows_beyond_the_limit_and_without_gold(tmp_path: Path) -> None:
    benchmark = Benchmark("mine", "owner/mine", dataset_split="test", num_problems=2)
    write_lighteval_tasks(tmp_path / "tasks.py", [benchmark], load_protocol("aapo"))
    (task,) = run(tmp_path / "tasks.py").values()
    rows = [{"question": str(n), "solution": f"\\boxed{{{n}}}"} for n in range(4)]
    assert [doc.choices for doc in docs(task, rows)] == [["$0$"], ["$1$"]]
    said = {"question": "?", "solution": "Adding up, the answer is 140."}
    assert [doc.choices for doc in docs(task, [said])] == [["$140$"]]
    assert docs(task, [{"question": "?", "solution": "So \\boxed{}."}]) == []
    with pytest.raises(ValueError, match="no gold answer"):
        docs(task, [{"question": "?", "solution": None}])
    with pytest.raises(ValueError, match="messages"):
        docs(task, [{"prompt": [{"role": "user", "content": "?"}], "answer": "1"}])


AIME = shipped_benchmarks()["aime24"]


@pytest.mark.parametrize(
    ("benchmarks", "settings", "message"),
    [
        ([], {}, "no tasks"),
        ([Benchmark("sums", "reasoning_gym:chain_sum")], {}, "reasoning-gym"),
        ([Benchmark("mine", "mine.jsonl", dataset_split="train")], {}, "put the file in a folder"),
        ([replace(AIME, dataset_split=None)], {}, "dataset_split of task aime24 is missing"),
        ([replace(AIME, reward_funcs=["format", "accuracy"])], {}, "graded by format"),
        ([replace(AIME, reward_kwargs={"accuracy": {"convention": "choice"}})], {}, "set choice_columns"),
        ([AIME, replace(AIME, num_problems=1)], {}, "2 of the tasks are called aapo_aime24"),
        ([AIME], {"stop": ["\n"]}, "stop strings and a chat template"),
        ([AIME], {"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ([AIME], {"generation_kwargs": {"suppress_tokens": [1]}}, "generation_kwargs"),
    ],
)
def test_what_lighteval_cannot_follow_is_refused(
    benchmarks: list[Benchmark], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        write_lighteval_tasks(tmp_path / "tasks.py", benchmarks, load_protocol("aapo").changed(settings))
    assert not (tmp_path / "tasks.py").exists()


def test_a_folder_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    write_lighteval_tasks(Path("tasks.py"), [Benchmark("mine", "data", dataset_split="train")], load_protocol("aapo"))
    assert run(tmp_path / "tasks.py")["aapo_mine"].hf_repo == str(tmp_path / "data")

import json
from collections import Counter
from dataclasses import replace

import pytest

from aapo.errors import InputError
from aapo.grading import reward_function
from aapo.tasks import Benchmark, PromptStyle, find_benchmark, shipped_benchmarks

PLAIN = PromptStyle(conversational=False)
# Rows of each benchmark's schema, its samples' worth of gold forms, and completions that are right and wrong.
ROWS = {
    "aime24": (
        {"id": 60, "problem": "P", "solution": "no", "answer": "025", "year": "2024"},
        r"\boxed{25}",
        r"\boxed{52}",
    ),
    "aime25": ({"problem": "P", "answer": 70, "solution": "no"}, r"\boxed{070}", r"\boxed{7}"),
    "math_500": (
        {"problem": "P", "solution": r"so \boxed{no}", "answer": r"\left( 3, \frac{\pi}{2} \right)", "level": 2},
        r"\boxed{(3, \pi/2)}",
        r"\boxed{(\pi/2, 3)}",
    ),
    "amc23": ({"id": 0, "problem": "P", "answer": 27.0, "url": ""}, r"\boxed{27}", r"\boxed{27.5}"),
    "minerva": (
        {"problem": "P", "solution": r"First \boxed{1}, so \boxed{4.5e33} ergs/s.", "type": "astronomy"},
        r"\boxed{4.5\times 10^{33}}",
        r"\boxed{4.5\times 10^{32}}",
    ),
    "olympiadbench": (
        {"question": "P", "final_answer": ["$2$,$3$"], "solution": ["no"], "is_multiple_answer": True},
        r"\boxed{3, 2}",
        r"\boxed{2}",
    ),
    "gsm8k": (
        {"question": "P", "answer": "She has 2 * 36 = <<2*36=72>>72 eggs.\n#### 1,072"},
        r"\boxed{1072}",
        r"\boxed{72}",
    ),
}
OPTIONS = ["Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]


def write(folder, rows, name="data.jsonl"):
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def graded(benchmark, rows, text):
    names, kwargs = benchmark.rewards
    function = reward_function(names[0], kwargs.get(names[0]))
    return function(completions=[text] * len(rows), **{key: rows[key] for key in rows.column_names if key != "prompt"})


def test_the_eight_benchmarks_are_shipped():
    assert set(shipped_benchmarks()) == {*ROWS, "gpqa:diamond"}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_each_schema_are_put_and_graded(name, tmp_path):
    row, right, wrong = ROWS[name]
    benchmark = find_benchmark(f"{name}={write(tmp_path, [row, {**row, next(k for k in row if row[k] == 'P'): 'Q'}])}")
    rows = benchmark.load(PromptStyle(system_prompt="S", prompt_template="Solve {question}!"))
    assert rows["prompt"][0] == [{"role": "system", "content": "S"}, {"role": "user", "content": "Solve P!"}]
    assert graded(benchmark, rows, right) == [1.0, 1.0] and graded(benchmark, rows, wrong) == [0.0, 0.0]


def science(number):
    return {"Question": f"Which is {number}?", **{name: f"{name} of {number}" for name in OPTIONS}, "Subdomain": "x"}


def test_options_are_shuffled_by_question_and_always_alike(tmp_path):
    file = write(tmp_path, [science(number) for number in range(40)])
    benchmark = find_benchmark(f"gpqa:diamond={file}")
    style = PromptStyle(
        prompt_template="no {question}", choice_template="One of {letters}: {question}", conversational=False
    )
    rows = benchmark.load(style)
    letters = Counter(rows["answer"])
    assert set(letters) == set("ABCD") and max(letters.values()) < 25
    for number, (prompt, letter) in enumerate(zip(rows["prompt"], rows["answer"], strict=True)):
        assert prompt.startswith(f"One of ABCD: Which is {number}?\n\nA) ")
        assert f"{letter}) Correct Answer of {number}" in prompt
        assert sorted(line[3:] for line in prompt.splitlines()[2:]) == sorted(f"{name} of {number}" for name in OPTIONS)
    # Neither the other questions nor their order matter.
    alone = find_benchmark(f"gpqa:diamond={write(tmp_path, [science(7)], 'alone.jsonl')}").load(style)
    assert (alone["prompt"][0], alone["answer"][0]) == (rows["prompt"][7], rows["answer"][7])
    right = [f"Answer: {letter}" for letter in rows["answer"]]
    function = reward_function("accuracy", benchmark.rewards[1]["accuracy"])
    assert set(function(completions=right, answer=rows["answer"])) == {1.0}
    assert 0.0 in function(completions=["Answer: A"] * 40, answer=rows["answer"])


def test_a_problem_has_one_key_however_it_is_asked(tmp_path):
    file = write(tmp_path, [{"question": "1 + 1?", "answer": "2"}])
    styles = [PLAIN, PromptStyle(), PromptStyle("Be brief.", "Q: {question}")]
    assert len({find_benchmark(str(file)).load(style)["problem_key"][0] for style in styles}) == 1
    other = write(tmp_path, [{"question": "1 + 2?", "answer": "2"}], "other.jsonl")
    assert find_benchmark(str(other)).load(PLAIN)["problem_key"] != find_benchmark(str(file)).load(PLAIN)["problem_key"]


def test_a_task_is_declared_in_a_few_lines(tmp_path):
    write(tmp_path, [{"q": f"{n}?", "a": f"#### {n}"} for n in range(5)], "mine.jsonl")
    declared = tmp_path / "sums.yaml"
    declared.write_text(
        "dataset_name: mine.jsonl\nprompt_column: q\nanswer_column: a\nnum_problems: 3\nnum_samples: 2\n"
    )
    benchmark = find_benchmark(str(declared))
    assert (benchmark.name, benchmark.num_samples) == ("sums", 2)
    rows = benchmark.load(PLAIN)
    assert rows["prompt"] == ["0?", "1?", "2?"] and graded(benchmark, rows, r"\boxed{1}") == [0.0, 1.0, 0.0]


def test_generated_tasks_are_graded_by_their_own_verifier():
    benchmark = Benchmark("sum", "reasoning_gym:chain_sum", num_problems=4)
    rows = benchmark.load(PLAIN)
    assert len(rows) == 4 and benchmark.rewards[0] == ["reasoning_gym"]
    answers = rows["answer"]
    assert graded(benchmark, rows, f"<answer>{answers[2]}</answer>")[2] == 1.0


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("aime2", r"unknown task 'aime2' \(did you mean aime25\?\)"),
        ("reasoning_gym:chan_sum", r"did you mean chain_sum\?"),
        ("gone.yaml", "task gone.yaml does not exist"),
        ("gone.jsonl", "gone.jsonl, and there is no such file"),
        ("typo.yaml", r"unknown field 'prompt_colum' \(did you mean prompt_column\?\)"),
        ("none.yaml", "task none.yaml has no dataset_name"),
        ("zero.yaml", "num_problems is 0; it must be a whole number from 1"),
        ("aime24=wrong.jsonl", "has no column 'problem'; it has question, answer"),
        ("gpqa:diamond=wrong.jsonl", "has no column 'Question'; it has question, answer"),
        ("empty.yaml", "rows have no gold answer"),
    ],
)
def test_bad_tasks_say_what_is_allowed(task, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, [{"question": "1?", "answer": "1"}], "wrong.jsonl")
    write(tmp_path, [{"question": "1?", "answer": ""}], "golds.jsonl")
    (tmp_path / "typo.yaml").write_text("dataset_name: wrong.jsonl\nprompt_colum: question\n")
    (tmp_path / "none.yaml").write_text("num_problems: 1\n")
    (tmp_path / "zero.yaml").write_text("dataset_name: wrong.jsonl\nnum_problems: 0\n")
    (tmp_path / "empty.yaml").write_text("dataset_name: golds.jsonl\n")
    with pytest.raises(InputError, match=message):
        find_benchmark(task).load(PLAIN)


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        ("Dataset 'x' is a gated dataset on the Hub. You must be authenticated.", "log in with `hf auth login`"),
        ("Couldn't reach 'x' on the Hub (OfflineModeIsEnabled)", "give an existing file, folder or Hub name"),
    ],
)
def test_data_that_cannot_be_had_says_what_to_do(error, fix, monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError(error)

    monkeypatch.setattr("aapo.tasks.prompts.load_dataset", refuse)
    with pytest.raises(InputError, match=fix) as caught:
        find_benchmark("gpqa:diamond").load(PLAIN)
    assert "--tasks gpqa:diamond=FILE" in str(caught.value)


def test_a_question_or_option_that_is_missing_is_refused(tmp_path):
    rows = [{"Question": "q", "a": "x", "b": None}, {"Question": None, "a": "x", "b": "y"}]
    (tmp_path / "mc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = Benchmark("mc", str(tmp_path / "mc.jsonl"), prompt_column="Question", choice_columns=["a", "b"])
    with pytest.raises(InputError, match=r"1 of 2 rows have no text in column 'Question' \(rows 1\)"):
        task.load(PromptStyle())
    with pytest.raises(InputError, match=r"1 of 2 rows have no text in column 'b' \(rows 0\)"):
        replace(task, prompt_column="a").load(PromptStyle())

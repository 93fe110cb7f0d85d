import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aapo.cli.app import run
from aapo.errors import InputError
from aapo.grading import answers
from aapo.grading import table as grading_table
from aapo.grading.table import grade_file

ROWS = [
    {"id": 7, "gold": "42", "completion": r"\boxed{42}", "meta": {"level": 3}},
    {"id": 8, "gold": "0.5", "completion": r"\boxed{\frac13}", "meta": None},
    {"id": 9, "gold": 5, "completion": "five", "meta": None},
    {"id": 1, "gold": "$$", "completion": r"\boxed{1}", "meta": None},
    {"id": 2, "gold": "x", "completion": [{"role": "assistant", "content": r"\boxed{x}"}], "meta": None},
]
VERDICTS = [
    ("correct", "42", "text"),
    ("wrong", r"\frac13", "number"),
    ("no_answer", None, "extraction"),
    ("unparseable_gold", "1", "gold"),
    ("correct", "x", "text"),
]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_row_is_kept_in_order_with_its_verdict(tmp_path, capsys):
    source, output = write_jsonl(tmp_path / "in.jsonl", ROWS), tmp_path / "new" / "out.jsonl"
    assert run(["grade", str(source), "--output", str(output)]) == 0
    expected = [
        row | dict(zip(("verdict", "extracted", "rule"), verdict, strict=True))
        for row, verdict in zip(ROWS, VERDICTS, strict=True)
    ]
    assert read_jsonl(output) == expected
    assert [path.name for path in output.parent.iterdir()] == ["out.jsonl"]
    printed = capsys.readouterr().out
    # 2 of the 4 rows with a readable gold answer: 2 or more of 4 have probability 0.025 at a share of 0.0676,
    # 6 p² (1 - p)² + 4 p³ (1 - p) + p⁴
    assert "5 rows: 50.0% correct [6.8, 93.2] of those with a readable gold answer" in printed
    for outcome in ("no_answer", "unparseable_gold"):
        line = next(line for line in printed.splitlines() if f" {outcome} " in line)
        assert "1" in line and "20.0%" in line


def test_parquet_keeps_its_types(tmp_path):
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    table = pa.table(
        {
            "gold": ["1", "2"],
            "completion": [r"\boxed{1}", None],
            "n": pa.array([1, 2], pa.int16()),
            "rule": ["old", "old"],
        }
    )
    pq.write_table(table, source)
    grade_file(source, output)
    graded = pq.read_table(output)
    assert graded.schema.field("n").type == pa.int16()
    assert graded.select(["n", "verdict", "extracted", "rule"]).to_pylist() == [
        {"n": 1, "verdict": "correct", "extracted": "1", "rule": "text"},
        {"n": 2, "verdict": "no_answer", "extracted": None, "rule": "extraction"},
    ]


def test_an_interrupted_call_goes_on(tmp_path, monkeypatch):
    source = write_jsonl(
        tmp_path / "in.jsonl", [{"gold": str(n), "completion": rf"\boxed{{{n % 3}}}"} for n in range(6)]
    )
    output = tmp_path / "out.jsonl"
    monkeypatch.setattr(grading_table, "ROWS_PER_BATCH", 2)
    graded = []

    def stop_after_two(golds, completions, **options):
        if graded:
            raise KeyboardInterrupt
        graded.extend(golds)
        return answers.grade_many(golds, completions, **options)

    monkeypatch.setattr(grading_table, "grade_many", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        grade_file(source, output)
    partial = tmp_path / "out.jsonl.partial"
    with partial.open("a") as journal:
        journal.write('["correct", "half a li')  # killed while writing
    assert not output.exists()

    def collect(golds, completions, **options):
        graded.extend(golds)
        return answers.grade_many(golds, completions, **options)

    monkeypatch.setattr(grading_table, "grade_many", collect)
    seen = []
    result = grade_file(source, output, on_rows=lambda done, total: seen.append((done, total)))
    assert graded == ["0", "1", "2", "3", "4", "5"]  # the first two once
    assert seen == [(2, 6), (4, 6), (6, 6)]
    assert [row["verdict"] for row in read_jsonl(output)] == ["correct"] * 3 + ["wrong"] * 3
    assert result.outcomes == {"correct": 3, "wrong": 3}
    assert not partial.exists()


def test_a_journal_of_other_options_is_not_gone_on_with(tmp_path):
    source, output = (
        write_jsonl(tmp_path / "in.jsonl", [{"gold": "8", "completion": r"\boxed{3+5}"}]),
        tmp_path / "o.jsonl",
    )
    (tmp_path / "o.jsonl.partial").write_text('{"other": 1}\n["correct", "8", "text"]\n')
    assert grade_file(source, output).outcomes == {"wrong": 1}
    assert grade_file(source, output, {"evaluated": False}).outcomes == {"correct": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"gold": "1"}\n', "row 1 of .*in.jsonl has no column 'completion'; it has gold"),
        ('{"gold": "1", "completion": "1"}\n{"gold"\n', "line 2 of .*in.jsonl is not JSON"),
        ("[1]\n", "line 1 of .*in.jsonl is not an object"),
        ('{"gold": "1", "completion": 5}\n', "the completion in row 1 of .*in.jsonl is neither text nor a list"),
    ],
)
def test_bad_rows(tmp_path, content, message):
    (tmp_path / "in.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        grade_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_bad_files_at_the_command_line(tmp_path, capsys):
    pq.write_table(pa.table({"gold": ["1"]}), tmp_path / "in.parquet")
    (tmp_path / "fake.parquet").write_text("no")
    for name, message in (
        ("none.jsonl", "there is no file"),
        ("in.csv", "is neither JSONL nor Parquet; its name must end in .jsonl or .parquet"),
        ("in.parquet", "has no column 'completion'"),
        ("fake.parquet", "is not a Parquet file"),
    ):
        assert run(["grade", str(tmp_path / name), "--output", str(tmp_path / "out.jsonl")]) == 2
        assert message in capsys.readouterr().err
    write_jsonl(tmp_path / "in.jsonl", ROWS)
    call = ["grade", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert run([*call, "--time-limit", "0"]) == 2
    assert "both must be positive" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_lone_surrogate_or_text_in_parts_ends_nothing(tmp_path, suffix):
    parts = [{"type": "text", "text": r"so \boxed"}, {"type": "text", "text": "{7}"}]
    texts = ["\ud800 \\boxed{7\udc00}", [{"role": "assistant", "content": parts}], r"\boxed{8}"]
    if suffix == ".parquet":  # whose columns have one type
        texts[1] = "".join(part["text"] for part in parts)
    rows = [{"gold": "7", "completion": text, "note": "\ud83d"} for text in texts]
    source, output = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / f"out{suffix}"
    assert grade_file(source, output).outcomes == {"correct": 2, "wrong": 1}
    if suffix == ".jsonl":
        assert [row["completion"] for row in read_jsonl(output)] == texts
    else:
        kept = pq.read_table(output).to_pylist()
        assert [row["note"] for row in kept] == ["\ufffd"] * 3
        assert kept[0]["extracted"] == "7\ufffd" and kept[0]["completion"] == "\ufffd \\boxed{7\ufffd}"


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"gold": "1", "completion": "\xff"}\n')
    with pytest.raises(InputError, match="in.jsonl is not UTF-8"):
        grade_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl")


def test_a_message_of_any_shape_is_graded_by_its_text(tmp_path):
    part = {"type": "text", "text": r"\boxed{6}"}
    contents = [[{"type": "image"}, part], [None, part], part, [r"\boxed{6}"], [{"type": "text", "text": None}], None]
    rows = [{"gold": "6", "completion": [{"role": "assistant", "content": content}]} for content in contents]
    rows.append({"gold": "6", "completion": [{"role": "assistant", "tool_calls": []}]})
    write_jsonl(tmp_path / "in.jsonl", rows)
    assert grade_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl").outcomes == {"correct": 4, "no_answer": 3}


@pytest.mark.parametrize("content", [6, [6]])
def test_content_that_is_no_text_is_refused_with_its_row(tmp_path, content):
    row = {"gold": "6", "completion": [{"role": "assistant", "content": content}]}
    with pytest.raises(InputError, match="the completion in row 1 of .* is neither text nor a list of messages"):
        grade_file(write_jsonl(tmp_path / "in.jsonl", [row]), tmp_path / "out.jsonl")


def test_a_list_of_golds_is_the_answers_in_it_and_a_byte_order_mark_is_no_text(tmp_path):
    row = json.dumps({"gold": ["6", 7], "completion": r"\boxed{7, 6}"})
    (tmp_path / "in.jsonl").write_text(row + "\n", encoding="utf-8-sig")
    assert grade_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl").outcomes == {"correct": 1}

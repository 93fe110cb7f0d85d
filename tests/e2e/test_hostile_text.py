"""Hostile text in questions, gold answers, completions and names: harmless wherever it is shown."""

import io
import json
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from aapo.cli.app import run
from aapo.evaluation import (
    Evaluation,
    difference_rows,
    latex,
    markdown,
    result_rows,
    save_results,
    score_table,
)
from aapo.evaluation.evaluation import SAMPLE_COLUMNS
from aapo.messages import visible
from aapo.progress import console
from aapo.reporting import write_report

HOSTILE = (
    "[/b][red]no[/red] :smile:", "\x1b[31mred\x1b]0;title\x07", "a\0b\x08\x7f\x9b", "<script>alert(1)</script>",
    "| a | b |\n# heading\n```", r"\input{/etc/passwd} \write18{id} $x$ % & _ ~ ^", "{{ 7 * 7 }}{% raw %}",
    "=cmd|' /C calc'!A0", "\u202egnp.exe", "\N{PILE OF POO}" * 3, "9" * 1_000_000,
)  # fmt: skip
BYTES = {"\x1b", "\0", "\x07", "\x08", "\x9b"}


def printed(capsys, *arguments):
    """What a command that must succeed prints; no control character is in it."""
    capsys.readouterr()
    assert run(list(map(str, arguments))) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    assert not BYTES & set(said.out + said.err)
    return said.out


@pytest.fixture
def workplace(tmp_path, tiny_folder, monkeypatch):
    """A recipe on hostile prompts, whose reward function repeats their gold answers in its notes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AAPO_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_folder, "model")
    rows = [{"question": text[:20], "answer": text} for text in HOSTILE]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("noting.py").write_text(
        "def even(completion_ids, answer, log_extra, **columns):\n"
        "    log_extra('verdict/even', ['correct' if sum(ids) % 2 else 'wrong' for ids in completion_ids])\n"
        "    log_extra('extracted/even', [gold[:100] + chr(0xd800) for gold in answer])\n"
        "    return [float(sum(ids) % 2) for ids in completion_ids]\n"
    )
    recipe = {
        "model_name_or_path": "model", "dataset_name": "rows.jsonl", "num_eval_prompts": 0, "num_generations": 4,
        "per_device_train_batch_size": 8, "max_completion_length": 4, "use_cpu": True, "bf16": False, "max_steps": 1,
        "activation_checkpointing": False, "reward_funcs": ["noting.py:even"], "num_reference_samples": 2,
        "preflight": "warn", "dtype": "float32", "system_prompt": HOSTILE[5],
    }  # fmt: skip
    Path("hostile.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def test_a_run_on_hostile_data_goes_through_and_prints_no_control_characters(workplace, capsys):
    printed(capsys, "train", "hostile.yaml", "--output_dir", "run", "--show-samples")
    printed(capsys, "replay", "run")
    printed(capsys, "publish", "run")
    (bank,) = Path("cache/banks").iterdir()
    printed(capsys, "bank", "show", bank)
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page and not {"\0", "\x1b"} & set(page)
    card = Path("run/published/README.md").read_text(encoding="utf-8")
    assert card.index("```") < card.index("\\input{/etc/passwd}")  # a system prompt stands in a block of code


def evaluation(model, task, text):
    rows = [
        {**dict.fromkeys(SAMPLE_COLUMNS), "model": model, "task": task, "protocol": "p@1", "problem": str(place),
         "prompt_key": str(place), "sample": 0, "prompt": text, "gold": text, "completion": text, "extracted": text,
         "completion_tokens": 1, "finish_reason": "stop", "correct": float(place), "verdict": "wrong", "rule": text}
        for place in (0, 1)
    ]  # fmt: skip
    return Evaluation(pa.Table.from_pylist(rows, pa.schema(list(SAMPLE_COLUMNS.items()))))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_tables_and_pages_of_hostile_names_and_completions_are_harmless(tmp_path, capsys, text):
    name = text[:60].replace("\0", "")  # which no folder is called
    models = [evaluation(name, "sums", text), evaluation(name + "2", "sums", text)]
    rows, differences = result_rows(models), difference_rows(models[1:], models[:1])
    save_results(tmp_path / "found", models, rows, differences, {}, notes=[name])
    table = score_table(rows, [], [name])
    for form in (markdown(table), latex(table)):
        assert not BYTES & set(form)
    assert len(markdown(score_table(rows)).split("\n\n")[0].splitlines()) == 4
    for line in latex(table).splitlines():
        assert line.startswith(("%", "\\begin{tab", "\\toprule", "\\midrule", "\\bottomrule", "\\end{tab")) or (
            line.endswith(r" \\") and "\\input" not in line and "\\write" not in line
        ), line
    printed(capsys, "table", tmp_path / "found")
    printed(capsys, "table", tmp_path / "found", "--format", "json")
    page = write_report([tmp_path / "found"]).read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page and not {"\0", "\x1b"} & set(page)
    assert len(page) < 5_000_000


def test_the_console_and_the_error_line_show_control_characters_and_halves_of_pairs(capsys, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(console, "_file", shown)  # what `file` sets; None is the standard output of the moment
    console.print("a\x1b[31m[/b]\ud800\tb")
    assert shown.getvalue() == "a\N{REPLACEMENT CHARACTER}[31m[/b]\N{REPLACEMENT CHARACTER}     b\n"
    assert visible("a\r\nb\x9b") == "a\N{REPLACEMENT CHARACTER}\nb\N{REPLACEMENT CHARACTER}"
    monkeypatch.setattr(sys, "argv", ["aapo"])
    assert run(["train", "no\x1b[31msuch\nrecipe.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "aapo: recipe no\N{REPLACEMENT CHARACTER}[31msuch recipe.yaml does not exist; check the path"

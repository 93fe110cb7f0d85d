"""Training sets by name: their pinned columns, read from local copies of the same schema."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aapo.errors import InputError
from aapo.tasks import DataConfig, load_prompts, named_datasets
from aapo.tasks.datasets import pinned


def parquet(path: Path, rows: list[dict]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def questions(rows) -> list[str]:
    return [prompt[-1]["content"] for prompt in rows["prompt"]]


def test_simplelr_takes_the_bare_question_and_not_the_stored_prompt(tmp_path):
    rows = [
        {
            "prompt": [{"role": "user", "content": "<|im_start|>user\n1+1?<|im_end|>"}], "question": "1+1?",
            "answer": "a whole solution", "gt_answer": "2", "level": 3,
        }
    ]  # fmt: skip
    path = parquet(tmp_path / "train.parquet", rows)
    config = DataConfig(dataset_name="simplelr-qwen-level3to5", dataset_path=path, num_eval_prompts=0)
    loaded = load_prompts(config, "train")
    assert questions(loaded) == ["1+1?"] and loaded["answer"] == ["2"] and loaded["level"] == [3]


def test_a_nested_column_is_named_by_a_dot_and_repeated_questions_stay_once(tmp_path):
    def row(text: str, gold: str) -> dict:
        return {"prompt": [{"role": "user", "content": text}], "reward_model": {"ground_truth": gold, "style": "rule"}}

    path = parquet(tmp_path / "dapo.parquet", [row("2+2?", "4"), row("3+3?", "6"), row("2+2?", "4")])
    loaded = load_prompts(DataConfig(dataset_name="dapo-math", dataset_path=path, num_eval_prompts=0), "train")
    assert questions(loaded) == ["2+2?", "3+3?"] and loaded["answer"] == ["4", "6"]


def test_a_folder_is_a_copy_too(tmp_path):
    parquet(tmp_path / "train.parquet", [{"problem": "p", "solution": r"so \boxed{5}", "answer": "other"}])
    config = DataConfig(dataset_name="open-rs", dataset_path=str(tmp_path), num_eval_prompts=0)
    assert load_prompts(config, "train")["answer"] == [r"so \boxed{5}"]


def test_what_the_recipe_sets_wins_over_the_pinned_columns(tmp_path):
    path = parquet(tmp_path / "rows.parquet", [{"problem": "p", "solution": "s", "answer": "5"}])
    config = DataConfig(dataset_name="open-rs", dataset_path=path, num_eval_prompts=0, answer_column="answer")
    assert load_prompts(config, "train")["answer"] == ["5"]


def test_a_missing_pinned_column_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"problem": "p", "answer": "5"}))
    with pytest.raises(InputError, match="no column 'solution'; it has problem, answer; set answer_column"):
        load_prompts(DataConfig(dataset_name="open-rs", dataset_path=str(path), num_eval_prompts=0), "train")


def test_a_path_needs_a_name_that_ships():
    with pytest.raises(InputError, match="dataset_path has no effect, because mine is not a shipped training set"):
        DataConfig(dataset_name="mine", dataset_path="rows.parquet")


def test_every_named_set_says_where_it_is_on_the_hub():
    for name, named in named_datasets().items():
        found = pinned(DataConfig(dataset_name=name))
        assert found.dataset_name == named.dataset_name and found.dataset_name.count("/") == 1
        assert found.prompt_column and found.answer_column
    level = pinned(DataConfig(dataset_name="simplelr-abel-level1to4"))
    assert (level.dataset_name, level.dataset_data_dir) == ("hkust-nlp/SimpleRL-Zoo-Data", "simplelr_abel_level1to4")

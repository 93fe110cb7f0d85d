"""Gold answers and lengths of training prompts, checked when they are loaded."""

import json
from pathlib import Path

import pytest

from aapo.cli.app import run as aapo
from aapo.errors import InputError
from aapo.grading import reward_function
from aapo.recipe import resolve
from aapo.runs import RunDirectory
from aapo.training.prompts import checked_prompts, unparseable_golds

# Rows 1, 3 and 4 cannot be read: an empty box, an open brace, no mathematics. Words can.
GOLDS = ["5", r"\boxed{}", r"so \boxed{\frac{1}{2}}", r"\frac{1}{", "???", "Evelyn", "x^2+1", "#### 72"]


class Words:
    """A tokenizer of words."""

    chat_template = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [0] * len(text.split())}


def recipe(folder: Path, questions: list[str], golds: list[str], **fields):
    path = folder / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in zip(questions, golds, strict=True))
    )
    return resolve(
        "mine",
        {
            "model_name_or_path": "model", "dataset_name": str(path), "num_eval_prompts": 0, "conversational": False,
            "algorithm": "grpo", "num_generations": 2, "per_device_train_batch_size": 2, **fields,
        },
    )  # fmt: skip


pytestmark = pytest.mark.usefixtures("cache")


def test_golds_that_cannot_be_read_are_found_once_and_kept():
    accuracy, upstream = reward_function("accuracy"), reward_function("cosine", {"grader": "open_r1"})
    assert unparseable_golds([reward_function("format"), accuracy], GOLDS) == [1, 3, 4]
    assert unparseable_golds([accuracy], GOLDS) == [1, 3, 4], "from the cache"
    assert 1 in unparseable_golds([upstream], GOLDS)
    assert unparseable_golds([reward_function("format")], GOLDS) == [], "nothing reads them"


def test_they_are_listed_and_stay_unless_they_are_to_go(tmp_path):
    questions = [f"q{index}" for index in range(len(GOLDS))]
    kept = checked_prompts(recipe(tmp_path, questions, GOLDS), Words())
    assert kept.rows["answer"] == GOLDS and kept.describe() == {"num_long_prompts": 0, "num_unparseable_golds": 3}
    (note,) = kept.notes()
    assert note.startswith("3 gold answers cannot be read, rows 1 (") and "kept: only the same text is right" in note
    kept.write_unparseable(tmp_path / "list.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "list.jsonl").read_text().splitlines()]
    assert lines == [{"row": index, "answer": GOLDS[index]} for index in (1, 3, 4)]

    dropped = checked_prompts(recipe(tmp_path, questions, GOLDS, drop_unparseable_gold=True), Words())
    assert dropped.rows["answer"] == [GOLDS[index] for index in (0, 2, 5, 6, 7)]
    assert dropped.notes()[0].endswith("dropped")


def test_nothing_is_left_when_no_gold_can_be_read(tmp_path):
    with pytest.raises(InputError, match="no gold answer of .* can be read; check answer_column"):
        checked_prompts(recipe(tmp_path, ["a", "b"], ["{", "???"], drop_unparseable_gold=True), Words())


def test_long_prompts_that_are_dropped_are_counted(tmp_path):
    found = checked_prompts(
        recipe(tmp_path, ["a b c", "a", "a b"], ["1", "2", "3"], max_prompt_length=2, drop_long_prompts=True), Words()
    )
    assert found.rows["answer"] == ["2", "3"] and found.notes() == ["1 prompts are over max_prompt_length and dropped"]


def test_a_run_keeps_the_list_and_the_counts(tmp_path, tiny_folder, capsys):
    rows = tmp_path / "rows.jsonl"
    golds = ["1", "2", "???", "4"]
    rows.write_text("".join(json.dumps({"question": f"{gold}?", "answer": gold}) + "\n" for gold in golds))
    (tmp_path / "recipe.yaml").write_text(
        f"model_name_or_path: {tiny_folder}\ndataset_name: {rows}\nnum_eval_prompts: 0\nconversational: false\n"
        "algorithm: grpo\nnum_generations: 2\nper_device_train_batch_size: 4\nmax_completion_length: 4\nmax_steps: 1\n"
        "bf16: false\nactivation_checkpointing: false\nsave_strategy: 'no'\n"
    )
    plan = aapo(["train", str(tmp_path / "recipe.yaml"), "--dry-run"])
    assert plan == 0 and "1 gold answers cannot be read, rows 2 ('???')" in capsys.readouterr().out
    assert aapo(["train", str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "run")]) == 0
    run = RunDirectory.open(tmp_path / "run")
    assert json.loads(run.unparseable_golds.read_text()) == {"row": 2, "answer": "???"}
    assert run.manifest()["num_unparseable_golds"] == 1

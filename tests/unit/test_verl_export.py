"""A run's prompts as verl reads them: in the order of their use, as the bank has read them, with its rewards."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

import scripted
from aapo.backends import TrainingJob
from aapo.backends.verl.costs import read_costs
from aapo.backends.verl.export import as_text, export_training, write_prompts
from aapo.bank import ReferenceBank, reward_versions
from aapo.bank.rows import read_row
from aapo.errors import InputError
from aapo.learning.order import course, epoch_order, visited
from aapo.recipe import load_recipe
from aapo.records import Prompt
from aapo.runs import RunDirectory
from aapo.training.models import model_spec
from aapo.training.prompts import checked_prompts

FLAGS = ["--backend", "verl", "--cluster.gpus_per_node", "1", "--seed", "5"]


@pytest.fixture
def job(tiny_folder, tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    path = scripted.write_recipe(
        tmp_path, tiny_folder, scripted.mixed, reward_funcs=["accuracy", "format"], reward_weights=[1.0, 0.5]
    )
    recipe = load_recipe(str(path), FLAGS)
    tokenizer = model_spec(recipe, str(tiny_folder)).load_tokenizer()
    checked = checked_prompts(recipe, tokenizer)
    bank = ReferenceBank.open("bank", reward_versions(recipe.reward_funcs), 4)
    return TrainingJob(
        recipe, RunDirectory(tmp_path / "run"), str(tiny_folder), {}, tokenizer, checked.rows, None, bank, None, [], 1
    )


def test_each_row_has_what_the_bank_says_of_its_prompt(job):
    prompts = export_training(job, Path("train.parquet"), 6)
    rows = pq.read_table("train.parquet").to_pylist()
    # 12 prompts, 2 in a batch of 8 completions, 6 batches: one epoch in the order of (seed 5, epoch 0)
    assert [row["extra_info"]["prompt_key"] for row in rows] == [prompts[p].key for p in epoch_order(5, 0, 12)]
    assert [row["extra_info"]["index"] for row in rows] == list(range(12))
    for row in rows:
        prompt = next(item for item in prompts if item.key == row["extra_info"]["prompt_key"])
        place = prompts.index(prompt) + 1
        # sample k is right where place + k is odd, and no sample has the format
        assert row["extra_info"]["reference_rewards"] == [float((place + k) % 2) for k in range(4)]
        assert row["extra_info"]["reference_correct"] == [float((place + k) % 2) for k in range(4)]
        assert row["reward_model"]["ground_truth"] == str(2 * place)
        assert read_row(row["extra_info"]["row"])["source"] == f"book-{place}"
        (message,) = row["prompt"]
        assert job.tokenizer.encode(message["content"], add_special_tokens=False) == prompt.ids


def test_what_the_samples_cost_lies_beside_them(job):
    prompts = export_training(job, Path("train.parquet"), 1)
    visited = [prompts[place].key for place in epoch_order(5, 0, 12)[:2]]
    costs = read_costs(job.run)
    assert list(costs.by_key) == visited and costs.before_training == []
    assert costs.tokens(visited[0]) == 4 * 4 and costs.seconds(visited[0]) == job.bank.seconds(visited[0])
    whole = [prompt.key for prompt in prompts]
    export_training(replace(job, whole_bank=whole), Path("train.parquet"), 1)
    costs = read_costs(job.run)
    assert costs.before_training == whole and {*costs.by_key} == {*whole}


def test_the_second_epoch_follows_in_its_own_order(job):
    prompts = export_training(job, Path("train.parquet"), 8)
    keys = [row["extra_info"]["prompt_key"] for row in pq.read_table("train.parquet").to_pylist()]
    order = [*epoch_order(5, 0, 12), *epoch_order(5, 1, 12)[:4]]
    assert keys == [prompts[place].key for place in order]


def test_the_order_is_the_one_that_the_bank_was_sampled_by():
    # 7 prompts in batches of 2: three batches an epoch, and one prompt of each is left out
    order = list(course(3, 7, 2, 5))
    assert order == [*epoch_order(3, 0, 7)[:6], *epoch_order(3, 1, 7)[:4]]
    assert visited(3, 7, 2, 5) == list(dict.fromkeys(order))


def test_without_a_margin_there_is_no_column_of_the_bank(job, tmp_path):
    recipe = load_recipe(str(tmp_path / "scripted.yaml"), [*FLAGS, "--algorithm", "grpo", "--reference_bank", "null"])
    ids = job.tokenizer.encode("a", add_special_tokens=False)
    write_prompts(Path("grpo.parquet"), SimpleNamespace(recipe=recipe, tokenizer=job.tokenizer), [prompt("a", ids)])
    assert pq.read_table("grpo.parquet").to_pylist()[0]["extra_info"]["reference_rewards"] is None


class Tokenizer:
    """One token a letter; `<s>` is token 0, which it puts before a text unless told not to."""

    bos_token = "<s>"

    def encode(self, text, add_special_tokens=True):
        ids = [0] if text.startswith("<s>") else []
        return [0] * add_special_tokens + ids + [ord(letter) for letter in text.removeprefix("<s>")]


def prompt(text, ids):
    return Prompt("key", text, ids, "1", {"prompt": text, "answer": "1"})


def test_a_text_that_the_tokenizer_begins_with_a_mark_has_the_mark_written_out():
    assert as_text(prompt("ab", [97, 98]), Tokenizer()) == "ab"
    assert as_text(prompt("ab", [0, 97, 98]), Tokenizer()) == "<s>ab"
    with pytest.raises(InputError, match="the tokenizer adds tokens to the prompt 'ab' that are no text"):
        as_text(prompt("ab", [97, 98, 1]), Tokenizer())


def test_an_unscored_sample_is_nan(job, monkeypatch):
    monkeypatch.setattr(ReferenceBank, "correct", lambda self, key, judge: [1.0, None, 0.0, 1.0])
    export_training(job, Path("train.parquet"), 1)
    found = pq.read_table("train.parquet").to_pylist()[0]["extra_info"]["reference_correct"]
    assert math.isnan(found[1]) and [found[0], *found[2:]] == [1.0, 0.0, 1.0]

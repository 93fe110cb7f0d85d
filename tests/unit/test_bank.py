import json
import math
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from aapo.bank import ReferenceBank, bank_identity, differences, find_score_set, sample_identity, summarize
from aapo.bank.parts import parts_of
from aapo.bank.rows import read_row, write_row
from aapo.bank.storage import MANIFEST, Piece, ScoredPiece, ScoreSet, begin_score_set, claim
from aapo.engines import TransformersEngine, load_model, load_tokenizer, model_identity, tokenizer_identity
from aapo.errors import AapoError, InputError
from aapo.files import remove_leftovers, write_text
from aapo.grading import Judge, accuracy, format
from aapo.ranks import Ranks
from aapo.records import Scores
from aapo.sampling import SamplingSettings
from aapo.scoring import as_prompt

REWARDS = [accuracy, format]


class CountingEngine(TransformersEngine):
    """Counts the completions that it samples, and can be killed after some."""

    sampled = 0
    killed_after: int | None = None

    def generate(self, prompts, seeds, on_batch=lambda done: None):
        if self.killed_after is not None and self.sampled >= self.killed_after:
            raise KeyboardInterrupt
        self.sampled += len(prompts)
        return super().generate(prompts, seeds, on_batch)


@pytest.fixture
def engine(tiny_folder):
    settings = SamplingSettings(max_completion_length=6)
    return CountingEngine(load_model(str(tiny_folder)), load_tokenizer(str(tiny_folder)), settings)


@pytest.fixture
def identity(tiny_folder, engine):
    def make(seed=0, rewards=REWARDS, **sampling):
        settings = {**engine.settings.describe(), **sampling}
        tokenizer = tokenizer_identity(engine.tokenizer)
        return bank_identity(model_identity(str(tiny_folder)), tokenizer, settings, rewards, seed)

    return make


def built(*args, num_samples=3, **kwargs):
    return ReferenceBank.build(*args, num_samples=num_samples, **kwargs)


def contents(bank):
    return sorted(map(str, bank.rows()))


def test_a_bank_holds_k_scored_samples_of_each_prompt_and_attaches_weighted_sums(tmp_path, engine, identity, addition):
    bank = built(tmp_path / "bank", addition, engine, REWARDS, identity())
    assert len(bank) == 8 and engine.sampled == 24
    attached = bank.attach(addition, engine.tokenizer, {"format": 0.5, "accuracy": 2.0})
    row = next(row for row in bank.rows() if row["key"] == attached[3]["prompt_key"])
    assert row["gold"] == "8" and len(row["completions"]) == len(row["num_tokens"]) == 3
    sums = [2.0 * a + 0.5 * f for a, f in zip(row["reward/accuracy"], row["reward/format"], strict=True)]
    assert attached[3]["reference_rewards"] == sums
    assert attached[3]["prompt"] == addition[3]["prompt"]
    # attaching twice replaces the columns
    assert bank.attach(attached, engine.tokenizer).column_names == attached.column_names


def test_a_complete_bank_is_not_sampled_again_and_a_larger_data_set_adds_only_what_is_new(
    tmp_path, engine, identity, addition
):
    first = addition.select(range(5))
    built(tmp_path / "bank", first, engine, REWARDS, identity())
    built(tmp_path / "bank", first, engine, REWARDS, identity())
    assert engine.sampled == 15
    grown = built(tmp_path / "bank", addition, engine, REWARDS, identity())
    assert engine.sampled == 24
    at_once = built(tmp_path / "other", addition, engine, REWARDS, identity())
    assert contents(grown) == contents(at_once)


def test_a_duplicate_prompt_is_sampled_once(tmp_path, engine, identity, addition):
    twice = Dataset.from_list([*addition, *addition])
    bank = built(tmp_path / "bank", twice, engine, REWARDS, identity())
    assert engine.sampled == 24 and len(bank) == 8
    rewards = bank.attach(twice, engine.tokenizer)["reference_rewards"]
    assert list(rewards)[:8] == list(rewards)[8:]


def test_a_killed_build_goes_on_where_it_stopped(tmp_path, engine, identity, addition, monkeypatch):
    monkeypatch.setattr("aapo.bank.store.PROMPTS_PER_FILE", 2)
    engine.killed_after = 12
    with pytest.raises(KeyboardInterrupt):
        built(tmp_path / "bank", addition, engine, REWARDS, identity())
    assert len(ReferenceBank.open(tmp_path / "bank")) == 4
    # what a kill in the middle of a write leaves: a temporary file that no reader looks at
    leftover = tmp_path / "bank" / ".samples-0123.parquet.x.tmp"
    leftover.write_bytes(b"PAR1 half a file")
    os.utime(leftover, (0, 0))
    engine.killed_after = None
    bank = built(tmp_path / "bank", addition, engine, REWARDS, identity())
    assert engine.sampled == 24 and not leftover.exists()
    whole = built(tmp_path / "whole", addition, engine, REWARDS, identity())
    assert contents(bank) == contents(whole)


def test_two_processes_build_the_bank_of_one(tmp_path, engine, identity, addition):
    one = built(tmp_path / "one", addition, engine, REWARDS, identity())
    barrier = threading.Barrier(2, timeout=60)
    engines = [CountingEngine(engine.model, engine.tokenizer, engine.settings) for _ in range(2)]
    told = {}

    def build(rank):
        def gather(items):
            told[rank] = items
            barrier.wait()
            return [*told[0], *told[1]]

        ranks = Ranks(rank, 2, barrier.wait, gather)
        return built(tmp_path / "two", addition, engines[rank], REWARDS, identity(), ranks=ranks)

    with ThreadPoolExecutor(2) as threads:
        two, same = threads.map(build, range(2))
    assert contents(one) == contents(two) == contents(same)
    assert [each.sampled for each in engines] == [12, 12]
    assert two.grown == same.grown and two.grown.samples == two.grown.scored == one.grown.samples == 24
    assert two.grown.tokens == one.grown.tokens


def test_processes_that_begin_a_bank_at_once_do_not_disturb_each_other(tmp_path, identity):
    barrier = threading.Barrier(4, timeout=60)

    def begin(path):
        barrier.wait()
        claim(path, sample_identity(identity()))
        remove_leftovers(path)
        begin_score_set(path, REWARDS)
        return find_score_set(path, identity()["rewards"])

    with ThreadPoolExecutor(4) as threads:
        for attempt in range(25):
            assert all(threads.map(begin, [tmp_path / str(attempt)] * 4))


def test_another_bank_is_refused_with_every_difference(tmp_path, engine, identity, addition):
    path = tmp_path / "bank"
    bank = built(path, addition, engine, REWARDS, identity())
    with pytest.raises(InputError, match=r"sampling.temperature: bank has 1.0, run has 0.7; .*build another with"):
        bank.require(identity(temperature=0.7))
    with pytest.raises(InputError, match="holds another bank: seed: bank has 0, run has 5; give another"):
        built(path, addition, engine, REWARDS, identity(seed=5))
    with pytest.raises(InputError) as error:
        bank.require(identity(seed=5, rewards=[accuracy]))
    assert "seed: bank has 0, run has 5" in str(error.value)
    assert "rewards.format: bank has format-" in str(error.value)
    assert "build another with" in str(error.value)
    other = {**identity(), "model": {"weights": "0" * 32}, "tokenizer": {"vocabulary": "x", "chat_template": "y"}}
    with pytest.raises(InputError, match=r"model.weights: bank has .*tokenizer.chat_template: bank has"):
        bank.require(other)  # type: ignore[arg-type]
    assert differences(identity(), identity()) == []


def test_a_missing_prompt_is_named_with_the_command_that_adds_it(tmp_path, engine, identity, addition):
    bank = built(tmp_path / "bank", addition.select(range(7)), engine, REWARDS, identity())
    with pytest.raises(
        InputError, match=r"1 of 8 prompts are not in the bank .*Calculate 8 \+ 8.*aapo bank build RECIPE"
    ):
        bank.attach(addition, engine.tokenizer)
    others = Dataset.from_list([{"prompt": [{"role": "user", "content": "Hi"}], "answer": "1"}])
    with pytest.raises(InputError, match="none of its prompts is there, so it was built for another data set"):
        bank.attach(others, engine.tokenizer)
    changed_gold = Dataset.from_list([{**addition[0], "answer": "99"}])
    with pytest.raises(InputError, match="1 of 1 prompts are not in the bank"):
        bank.attach(changed_gold, engine.tokenizer)
    with pytest.raises(
        InputError, match="reward_weights are for accuracy; the bank's reward functions are accuracy, format"
    ):
        bank.attach(addition.select(range(7)), engine.tokenizer, {"accuracy": 1.0})


def test_unscored_samples_are_nan_in_the_column(tmp_path, engine, identity, addition):
    def picky(completions, answer, **columns):
        return [None if gold == "2" else 1.0 for gold in answer]

    bank = built(tmp_path / "bank", addition, engine, [picky], identity(rewards=[picky]))
    column = bank.attach(addition, engine.tokenizer)["reference_rewards"]
    assert all(math.isnan(value) for value in column[0]) and list(column[1]) == [1.0, 1.0, 1.0]
    assert summarize(bank, Judge(threshold=1.0)).unscored_frac == 1 / 8


def test_what_is_not_a_bank_is_refused(tmp_path, engine, identity, addition):
    with pytest.raises(InputError, match="is not a reference bank: it has no manifest.json"):
        ReferenceBank.open(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and not a reference bank"):
        built(tmp_path, addition, engine, REWARDS, identity())
    bank = built(tmp_path / "bank", addition, engine, REWARDS, identity())
    manifest = json.loads((bank.path / MANIFEST).read_text())
    write_text(bank.path / MANIFEST, json.dumps({**manifest, "format": 1}))
    for use in (ReferenceBank.open, lambda path: built(path, addition, engine, REWARDS, identity())):
        with pytest.raises(InputError, match=r"another version of aapo \(its format is 1, this version reads 3\)"):
            use(bank.path)


def test_more_samples_of_a_prompt_are_added_and_the_first_of_many_are_read(tmp_path, engine, identity, addition):
    built(tmp_path / "bank", addition.select(range(6)), engine, REWARDS, identity(), num_samples=2)
    more = built(tmp_path / "bank", addition, engine, REWARDS, identity(), num_samples=5)
    assert engine.sampled == 6 * 2 + 6 * 3 + 2 * 5 and more.num_samples == 5 and len(more) == 8
    assert (more.grown.samples, more.grown.scored) == (28, 28)
    at_once = built(tmp_path / "other", addition, engine, REWARDS, identity(), num_samples=5)
    assert contents(more) == contents(at_once)
    assert at_once.grown.tokens == sum(map(at_once.tokens, at_once._table))
    fewer = built(tmp_path / "bank", addition, engine, REWARDS, identity(), num_samples=2)
    assert fewer.grown.samples == 0 and fewer.num_samples == 2
    for few, many in zip(fewer.rows(), more.rows(), strict=True):
        for name in ("completions", "num_tokens", "reward/accuracy", "verdict/accuracy"):
            assert few[name] == many[name][:2]
        assert few["prompt"] == many["prompt"]
    # What was killed between two prompts is read as far as all go, and asking for more takes those that have it.
    built(tmp_path / "cut", addition, engine, REWARDS, identity(), num_samples=2)
    built(tmp_path / "cut", addition.select(range(3)), engine, REWARDS, identity(), num_samples=4)
    assert ReferenceBank.open(tmp_path / "cut").num_samples == 2 and len(ReferenceBank.open(tmp_path / "cut")) == 8
    assert len(ReferenceBank.open(tmp_path / "cut", num_samples=4)) == 3


def test_samples_beyond_those_that_are_read_are_not_scored(tmp_path, engine, identity, addition):
    built(tmp_path / "bank", addition, engine, REWARDS, identity(), num_samples=2)
    built(tmp_path / "bank", addition, engine, REWARDS, identity(), num_samples=5)
    fewer = built(tmp_path / "bank", addition, engine, [accuracy], identity(rewards=[accuracy]), num_samples=2)
    assert (fewer.grown.samples, fewer.grown.scored) == (0, 8 * 2)


def test_samples_that_two_jobs_drew_are_read_once():
    def piece(first, name, tokens):
        return Piece("key", first, tokens, Path(name), 0, 1.0)

    # One job drew samples 0 to 2, one 0 to 4 and a third 2 to 6.
    pieces = [piece(0, "a", [10, 11, 12]), piece(0, "b", [10, 11, 12, 13, 14]), piece(2, "c", [12, 13, 14, 15, 16])]
    scored = {
        ("key", 0): ScoredPiece(Path("s"), 0, Scores({}, {})),
        ("key", 2): ScoredPiece(Path("s"), 1, Scores({}, {})),
    }
    parts = parts_of(pieces, scored, 6)
    assert [(part.piece.file.name, part.start, part.stop) for part in parts] == [("a", 0, 3), ("b", 3, 5), ("c", 3, 4)]
    assert [tokens for part in parts for tokens in part.piece.num_tokens[part.start : part.stop]] == [*range(10, 16)]


@pytest.mark.parametrize(("killed", "order"), [(False, 1), (False, -1), (True, 1)])
def test_jobs_of_other_numbers_of_samples_grow_one_bank_at_once(
    tmp_path, engine, identity, addition, monkeypatch, killed, order
):
    few = built(tmp_path / "few", addition, engine, REWARDS, identity(), num_samples=2)
    many = built(tmp_path / "many", addition, engine, REWARDS, identity(), num_samples=5)
    # Both found nothing and drew from the first sample on; the second may be killed before its scores are written.
    without_scores = shutil.ignore_patterns("scores-*") if killed else None
    shutil.copytree(many.path, few.path, ignore=without_scores, dirs_exist_ok=True)
    files = ScoreSet.files
    monkeypatch.setattr(ScoreSet, "files", lambda self: files(self)[::order])
    bank = built(few.path, addition, engine, REWARDS, identity(), num_samples=5)
    assert bank.grown.samples == 0 and bank.grown.scored == (8 * 5 if killed else 0)
    assert contents(bank) == contents(many)
    assert contents(built(few.path, addition, engine, REWARDS, identity(), num_samples=2)) == contents(few)


def test_one_bank_serves_data_sets_with_other_columns(tmp_path, engine, identity, addition):
    def leveled(completions, level, **columns):
        return [float(value) for value in level]

    hostile = Dataset.from_list([{**row, "extra": json.dumps({"$type": "evil"})} for row in addition.select(range(4))])
    plain = built(tmp_path / "bank", hostile, engine, REWARDS, identity())
    ours = Dataset.from_list([{**row, "level": index} for index, row in enumerate(addition.select(range(3, 8)))])
    bank = built(tmp_path / "bank", ours, engine, [leveled], identity(rewards=[leveled]))
    assert engine.sampled == 4 * 3 + 4 * 3  # one prompt of the five is there
    assert [bank.rewards(key)["leveled"] for key in bank.attach(ours, engine.tokenizer)["prompt_key"]] == [
        [float(level)] * 3 for level in range(5)
    ]
    assert len(bank) == 5 and len(plain) == 4


def test_rows_of_any_values_make_the_round_trip():
    row = {
        "mark": {"$type": "evil", "$text": "x"}, "date": {"$type": "date", "$text": "no date"}, "nested": [{"a": {
            "$type": "bytes", "$text": {"$type": "x", "$text": date(2020, 1, 2)}}}], "day": date(2021, 3, 4),
        "raw": b"\x00\xff", "none": None, "text": "\u2028{}",
    }  # fmt: skip
    assert read_row(write_row(row)) == row


def test_damage_costs_itself_only_and_is_named_with_what_to_delete(tmp_path, engine, identity, addition):
    for pattern, again in (("samples-*", 12), ("scores/*/scores-*", 0)):
        path = tmp_path / pattern[:6]
        whole = contents(built(path, addition, engine, REWARDS, identity(), prompts_per_file=4))
        file = sorted(path.glob(pattern))[0]
        file.write_bytes(file.read_bytes()[:50])
        with pytest.raises(AapoError, match=f"{file.name} is damaged .*delete it, and what it held is made again"):
            list(ReferenceBank.open(path).rows())
        file.unlink()
        before = engine.sampled
        assert contents(built(path, addition, engine, REWARDS, identity())) == whole
        assert engine.sampled - before == again
    (tmp_path / "sample" / MANIFEST).write_text('{"format": 3, "iden')
    with pytest.raises(AapoError, match=r"manifest.json is damaged .*delete the folder"):
        ReferenceBank.open(tmp_path / "sample")


def test_a_bank_that_cannot_be_written_is_read_and_says_so_when_it_must_grow(
    tmp_path, engine, identity, addition, monkeypatch
):
    built(tmp_path / "bank", addition.select(range(4)), engine, REWARDS, identity())

    def denied(*arguments):
        raise PermissionError(13, "Permission denied")

    for name in ("write_parquet", "write_json"):
        monkeypatch.setattr(f"aapo.bank.storage.{name}", denied)
    assert len(built(tmp_path / "bank", addition.select(range(4)), engine, REWARDS, identity())) == 4
    with pytest.raises(InputError, match=r"cannot be written to \(Permission denied\), .*copy it to a folder"):
        built(tmp_path / "bank", addition, engine, REWARDS, identity())


def test_the_summary_counts_by_hand(tmp_path, engine, identity, addition):
    rewards = iter([1.0] * 3 + [0.0] * 3 + [1.0, 0.0, 0.0] + [1.0, 1.0, 0.0] * 5)

    def scripted(completions, **columns):
        return [next(rewards) for _ in completions]

    bank = built(tmp_path / "bank", addition, engine, [scripted], identity(rewards=[scripted]))
    assert math.isnan(summarize(bank).pass_rate) and summarize(bank).unscored_frac == 1  # nothing says what is right
    summary = summarize(bank, Judge(threshold=1.0))
    assert summary.pass_rate == pytest.approx((1 + 0 + 1 / 3 + 5 * 2 / 3) / 8)
    assert summary.histogram == (1, 0, 0, 1, 0, 0, 5, 0, 0, 1)
    assert (summary.all_right_frac, summary.all_wrong_frac) == (1 / 8, 1 / 8)
    tokens = [n for row in bank.rows() for n in row["num_tokens"]]
    assert summary.mean_tokens == pytest.approx(sum(tokens) / 24) and summary.max_tokens == max(tokens)


def test_files_are_whole_or_absent(tmp_path, monkeypatch):
    target = tmp_path / "file.txt"
    write_text(target, "old")

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(AapoError, match="the disk is full: .*file.txt could not be written"):
        write_text(target, "new")
    assert target.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_rendered_prompts_and_golds_make_the_keys(engine, addition):
    prompt = as_prompt(addition[0], engine.tokenizer)
    assert prompt.rendered.endswith("Calculate 1 + 1.<|im_end|>\n<|im_start|>assistant\n")
    assert (prompt.gold, prompt.question) == ("2", "Calculate 1 + 1.")


def test_its_files_are_plain_parquet(tmp_path, engine, identity, addition):
    bank = built(tmp_path / "bank", addition, engine, REWARDS, identity())
    (samples,) = bank.path.glob("samples-*.parquet")
    assert pq.read_table(samples).column_names == [
        "key", "first", "prompt", "gold", "row", "completions", "token_ids", "num_tokens", "finish_reasons",
    ]  # fmt: skip
    (scores,) = bank.path.glob("scores/*/scores-*.parquet")
    columns = pq.read_table(scores).column_names
    assert columns[:4] == ["key", "first", "reward/accuracy", "reward/format"]
    assert set(columns[4:]) >= {"verdict/accuracy", "extracted/accuracy", "rule/accuracy"}
    copy = tmp_path / "copy"
    shutil.copytree(bank.path, copy)
    assert contents(ReferenceBank.open(copy)) == contents(bank)
    assert (copy / MANIFEST).exists()


def test_a_recipes_bank_can_be_sampled_by_vllm(tiny_folder, tmp_path, cache, monkeypatch, capsys):
    from aapo.cli.app import run as aapo
    from aapo.engines import vllm

    made = []

    class Counting(TransformersEngine):
        def __init__(self, name, tokenizer, settings, **options):
            made.append((name, options))
            super().__init__(load_model(name), tokenizer, settings)

    monkeypatch.setattr(vllm, "VLLMEngine", Counting)
    (tmp_path / "rows.jsonl").write_text('{"question": "1?", "answer": "1"}\n{"question": "2?", "answer": "2"}\n')
    (tmp_path / "recipe.yaml").write_text(
        f"model_name_or_path: {tiny_folder}\ndataset_name: {tmp_path / 'rows.jsonl'}\nnum_eval_prompts: 0\n"
        "num_generations: 2\nper_device_train_batch_size: 4\nmax_completion_length: 4\nbf16: false\ndtype: float32\n"
    )
    command = ["bank", "build", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "bank")]
    assert aapo([*command, "--engine", "vllm"]) == 0
    options = {
        "revision": "main", "dtype": "float32", "trust_remote_code": False, "batch_size": 1024, "max_model_len": None,
    }  # fmt: skip
    assert made == [(str(tiny_folder), options)]
    bank = ReferenceBank.open(tmp_path / "bank")
    assert len(bank) == 2 and bank.identity["model"]["engine"] == "vllm"
    # It is no bank that Transformers sampled, but a run that names it takes it.
    assert aapo(command) == 2
    assert "model.engine: bank has vllm, run has None" in capsys.readouterr().err
    plan = ["train", str(tmp_path / "recipe.yaml"), "--dry-run", "--output_dir", str(tmp_path / "run")]
    assert aapo([*plan, "--reference_bank", str(tmp_path / "bank")]) == 0
    assert f"bank: {tmp_path / 'bank'}: +0 completions, found 8" in capsys.readouterr().out.replace("\n", "")
    assert aapo([*command, "--engine", "sglang"]) == 2
    assert "engine is 'sglang'; it must be transformers or vllm, or your own as path" in capsys.readouterr().err

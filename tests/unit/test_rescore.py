"""Samples are stored once and scored as often as reward functions change."""

import json
import os
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from aapo.bank import (
    ReferenceBank,
    bank_identity,
    compare_scores,
    newest_scores,
    reward_versions,
    score_sets,
    summarize,
)
from aapo.bank.rows import read_row, write_row
from aapo.bank.storage import read_completions, sample_files
from aapo.engines import load_tokenizer
from aapo.errors import InputError
from aapo.grading import accuracy, format, reward_function
from aapo.named import module_at
from aapo.ranks import Ranks
from aapo.records import Completion

TEXTS = ("<answer>{sum}</answer>", "<answer>0</answer>", "I do not know.", "The sum: {sum}")


class Scripted:
    """Four completions of each sum: right, wrong, no answer, and right to those who do not ask for tags."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.sampled = 0

    def generate(self, prompts, seeds, on_batch=lambda done: None):
        numbers = [int(re.findall(r"Calculate (\d+)", self.tokenizer.decode(ids))[0]) for ids in prompts]
        texts = [TEXTS[i % 4].format(sum=2 * number) for i, number in enumerate(numbers)]
        self.sampled += len(texts)
        on_batch(len(texts))
        return [Completion(text, [7, number, len(text)], "stop") for text, number in zip(texts, numbers, strict=True)]


@pytest.fixture
def engine(tiny_folder):
    return Scripted(load_tokenizer(str(tiny_folder)))


@pytest.fixture
def files_of_two(monkeypatch):
    monkeypatch.setattr("aapo.bank.store.PROMPTS_PER_FILE", 2)


@pytest.fixture
def build(tmp_path, engine, addition):
    """Builds the bank of the eight sums with given reward functions."""

    def make(*rewards, folder="bank", data=addition, **options):
        identity = bank_identity({"weights": "w"}, {"vocabulary": "v"}, {"temperature": 1.0}, rewards, 0)
        return ReferenceBank.build(tmp_path / folder, data, engine, rewards, identity, **options)

    return make


def lenient(completions, answer, log_extra, **columns):
    """1 where the gold stands anywhere."""
    right = [gold in completion[-1]["content"] for completion, gold in zip(completions, answer, strict=True)]
    log_extra("verdict/lenient", ["correct" if each else "wrong" for each in right])
    log_extra("length", [len(completion[-1]["content"]) for completion in completions])
    return [float(each) for each in right]


def rows_of(bank):
    return {row["key"]: row for row in bank.rows()}


def custom(tmp_path, monkeypatch, body):
    """A reward function `mine` in a file, as a process finds it that starts now."""
    file = tmp_path / "rewards.py"
    file.write_text(f"def mine(completions, answer, log_extra=None, **columns):\n{body}\n")
    later = file.stat().st_mtime + len(body)
    os.utime(file, (later, later))
    monkeypatch.delitem(sys.modules, "aapo_user_rewards", raising=False)
    module_at.cache_clear()
    return reward_function(f"{file}:mine")


def test_scores_and_what_the_functions_say_of_each_sample_are_stored(build, engine):
    bank = build(accuracy, lenient)
    assert engine.sampled == 32
    for row in bank.rows():
        assert row["reward/accuracy"] == [1.0, 0.0, 0.0, 0.0]
        assert row["verdict/accuracy"] == ["correct", "wrong", "no_answer", "no_answer"]
        assert row["extracted/accuracy"] == [row["gold"], "0", None, None]
        assert len(row["rule/accuracy"]) == 4
        assert row["reward/lenient"][0] == row["reward/lenient"][3] == 1.0
        assert row["length"] == [str(len(text)) for text in row["completions"]]
    summary = summarize(bank)
    assert summary.grading is not None
    assert summary.grading == (2 / 4, 0.0, 0.0)  # the first function's verdicts: two of four without an answer
    assert summarize(build(format, folder="plain")).grading is None


def test_other_functions_score_the_stored_samples_and_the_old_scores_stay(build, engine, tmp_path):
    old = build(accuracy)
    before = rows_of(old)
    new = ReferenceBank.rescore(tmp_path / "bank", [lenient, accuracy])
    assert engine.sampled == 32  # not again
    assert list(new.identity["rewards"]) == ["lenient", "accuracy"]
    # No gold, 2 to 16, stands in the second text, <answer>0</answer>, or in the third, which has no digit.
    assert all(row["reward/lenient"] == [1.0, 0.0, 0.0, 1.0] for row in new.rows())
    assert rows_of(ReferenceBank.open(old.path, reward_versions([accuracy]))) == before
    assert [list(item.rewards) for item in score_sets(old.path)] == [["accuracy"], ["lenient", "accuracy"]]
    assert list(ReferenceBank.open(old.path).identity["rewards"]) == ["lenient", "accuracy"]  # the newest
    with pytest.raises(InputError, match=r"has no scores by format-\S+; score its samples with `aapo bank rescore"):
        ReferenceBank.open(old.path, reward_versions([format]))


def test_building_with_other_functions_scores_without_sampling_and_in_any_order(build, engine):
    build(accuracy)
    engine.generate = None  # a complete bank needs no engine
    told = []
    bank = build(lenient, accuracy, on_batch=lambda done, total: told.append((done, total)))
    assert told == [(0, 32), (32, 32)]
    swapped = build(accuracy, lenient)
    assert swapped.scores == bank.scores and list(swapped.identity["rewards"]) == ["accuracy", "lenient"]
    assert len(score_sets(bank.path)) == 2


def test_reward_functions_are_called_as_when_the_samples_were_drawn(build, tmp_path, engine):
    calls = []

    def watched(prompts, completions, completion_ids, answer, level, trainer_state, log_metric, **columns):
        calls.append((prompts, completions, completion_ids, answer, level, trainer_state, sorted(columns)))
        return [0.0] * len(prompts)

    chat = [{"role": "user", "content": "Calculate 1 + 1."}]
    data = Dataset.from_list(
        [{"prompt": chat, "answer": "2", "level": [1, 2]}, {"prompt": chat, "answer": "3", "level": []}]
    )
    bank = build(watched, data=data)
    ReferenceBank.rescore(bank.path, [watched, lenient])
    assert calls[0] == calls[1]
    prompts, completions, ids, answer, level, state, columns = calls[1]
    assert prompts == [chat] * 8 and answer == ["2"] * 4 + ["3"] * 4  # a prompt's samples follow each other
    assert level == [[1, 2]] * 4 + [[]] * 4 and state is None and columns == ["log_extra", "prompt_opening"]
    assert completions[1] == [{"role": "assistant", "content": "<answer>0</answer>"}]
    assert ids[0] == [7, 1, len(TEXTS[0].format(sum=2))]

    plain = Dataset.from_list([{"prompt": "Calculate 1 + 1 =", "answer": "2", "level": 0}])
    ReferenceBank.rescore(build(watched, data=plain, folder="plain").path, [watched, accuracy])
    assert calls[2] == calls[3] and calls[3][1][1] == "<answer>0</answer>"


def test_a_build_killed_between_samples_and_scores_goes_on(build, engine, files_of_two, tmp_path, monkeypatch):
    asked = 0

    def costly(completions, **columns):
        nonlocal asked
        asked += 1
        if asked == 3:
            raise KeyboardInterrupt
        return [0.5] * len(completions)

    with pytest.raises(KeyboardInterrupt):
        build(costly)
    files = sample_files(tmp_path / "bank")
    assert len(files) == 3 and len(ReferenceBank.open(tmp_path / "bank")) == 4  # the third has no scores
    bank = build(costly)
    assert engine.sampled == 32 and asked == 5 and len(bank) == 8 and bank.complete


def test_rescoring_goes_on_where_it_stopped(build, files_of_two, tmp_path):
    build(accuracy)
    bank = ReferenceBank.rescore(tmp_path / "bank", [lenient])
    before = rows_of(bank)
    scored = {file: file.stat().st_mtime_ns for file in bank.scores.path.glob("scores-*")}
    lost = sorted(scored)[1]
    lost.unlink()
    assert not bank.complete and len(ReferenceBank.open(bank.path, bank.identity["rewards"])) == 6
    # an incomplete set is not what one opens without asking for it
    assert list(ReferenceBank.open(bank.path).identity["rewards"]) == ["accuracy"]
    told = []
    again = ReferenceBank.rescore(bank.path, [lenient], on_done=lambda done, total: told.append((done, total)))
    assert told == [(0, 8), (8, 8)] and rows_of(again) == before
    now = {file: file.stat().st_mtime_ns for file in bank.scores.path.glob("scores-*")}
    assert {file for file in scored if scored[file] != now[file]} == {lost}
    told.clear()
    ReferenceBank.rescore(bank.path, [lenient], on_done=lambda done, total: told.append(done))
    assert told == []


def test_two_processes_rescore_as_one(build, files_of_two, tmp_path):
    one = build(accuracy, folder="one")
    build(accuracy, folder="two")
    barrier = threading.Barrier(2, timeout=60)
    told = {0: [], 1: []}

    def work(rank):
        return ReferenceBank.rescore(
            tmp_path / "two", [lenient], on_done=lambda done, total: told[rank].append((done, total)),
            ranks=Ranks(rank, 2, barrier.wait),
        )  # fmt: skip

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(work, range(2))
    assert rows_of(first) == rows_of(second) == rows_of(ReferenceBank.rescore(one.path, [lenient]))
    assert told[0] == told[1] == [(0, 16), (8, 16), (16, 16)]


def test_two_processes_score_what_a_build_finds_unscored(build, engine, files_of_two, addition):
    build(accuracy, data=addition.select(range(4)))
    barrier = threading.Barrier(2, timeout=60)
    with ThreadPoolExecutor(2) as threads:
        banks = list(threads.map(lambda rank: build(lenient, ranks=Ranks(rank, 2, barrier.wait)), range(2)))
    assert engine.sampled == 32 and len(banks[0]) == 8 and rows_of(banks[0]) == rows_of(banks[1])


def test_a_changed_function_in_a_file_makes_new_scores_beside_the_old(build, tmp_path, monkeypatch):
    mine = custom(tmp_path, monkeypatch, "    return [0.25 for _ in completions]")
    old = build(mine)
    assert old.scores.specs == {"mine": {"function": f"{tmp_path / 'rewards.py'}:mine", "parameters": {}}}
    changed = custom(
        tmp_path, monkeypatch,
        "    return [1.0 if 'answer' in c[-1]['content'] else 0.5 for c in completions]",
    )  # fmt: skip
    new = ReferenceBank.rescore(old.path, [changed])
    assert all(row["reward/mine"] == [1.0, 1.0, 0.5, 0.5] for row in new.rows())
    assert new.identity["rewards"] != old.identity["rewards"] and len(score_sets(old.path)) == 2
    assert all(row["reward/mine"] == [0.25] * 4 for row in ReferenceBank.open(old.path, old.identity["rewards"]).rows())
    (change,) = compare_scores(ReferenceBank.open(old.path, old.identity["rewards"]), new)
    assert (change.before, change.after, change.num_compared, change.num_changed) == (0.25, 0.75, 32, 32)
    assert change.verdicts == {}


def test_changes_are_counted_by_hand(build, tmp_path, monkeypatch):
    def verdicts(rule):
        return custom(
            tmp_path, monkeypatch,
            f"    right = [{rule} for c, gold in zip(completions, answer)]\n"
            "    log_extra('verdict/mine', ['correct' if each else 'wrong' for each in right])\n"
            "    return [float(each) if each or gold != '2' else None for each, gold in zip(right, answer)]",
        )  # fmt: skip

    old = build(verdicts("f'>{gold}<' in c[-1]['content']"), accuracy)
    new = ReferenceBank.rescore(old.path, [format, verdicts("c[-1]['content'].endswith(f'sum: {gold}')")])
    changes = {change.name: change for change in compare_scores(old, new)}
    assert list(changes) == ["format", "mine"]
    assert (changes["format"].before, changes["format"].after, changes["format"].num_compared) == (None, 0.0, 0)
    # Of each prompt the first sample was right and is wrong, the last the other way round. The prompt with gold 2 has
    # one sample that is scored, the right one: 8 of the 7 * 4 + 1 are right, before and after.
    mine = changes["mine"]
    assert (mine.before, mine.after) == (pytest.approx(8 / 29), pytest.approx(8 / 29))
    assert (mine.num_compared, mine.num_changed) == (32, 16)
    assert mine.verdicts == {("wrong", "wrong"): 16, ("correct", "wrong"): 8, ("wrong", "correct"): 8}
    assert compare_scores(None, new)[1].before is None


def test_the_message_says_when_only_the_rewards_differ(build, tmp_path):
    bank = build(accuracy)
    wanted = {**bank.identity, "rewards": reward_versions([accuracy, format])}
    with pytest.raises(InputError) as error:
        ReferenceBank.matching(bank.path, wanted)
    assert "does not match this run: rewards.format: bank has None, run has format-" in str(error.value)
    assert f"only the rewards differ, so the samples can stay: score them with `aapo bank rescore {bank.path} " in str(
        error.value
    )
    with pytest.raises(InputError, match=r"with `aapo bank rescore \S+bank`, or leave reference_bank out"):
        bank.require({**bank.identity, "rewards": {"accuracy": "accuracy-99"}})
    ReferenceBank.rescore(bank.path, [accuracy, format])
    assert list(ReferenceBank.matching(bank.path, wanted).identity["rewards"]) == ["accuracy", "format"]
    with pytest.raises(InputError, match="the bank has these scores as well: give `open` their versions"):
        bank.require(wanted)


def test_a_function_that_cannot_score_leaves_no_set(build, tmp_path):
    def levelled(completions, level, **columns):
        return [1.0] * len(completions)

    bank = build(accuracy)
    with pytest.raises(InputError, match="reward function levelled needs the column 'level', .* it has answer;"):
        ReferenceBank.rescore(bank.path, [levelled])
    assert newest_scores(bank.path) == bank.scores and len(score_sets(bank.path)) == 1


def test_opening_reads_no_completions(build, monkeypatch):
    bank = build(accuracy)
    read = []
    original = pq.ParquetFile.read

    def spy(self, columns=None, **options):
        read.extend(columns)
        return original(self, columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read", spy)
    ReferenceBank.open(bank.path)
    assert set(read) == {"key", "first", "num_tokens", "reward/accuracy", "verdict/accuracy"}
    summarize(bank)
    assert not {"completions", "token_ids", "row", "prompt"} & set(read)


def test_a_column_that_a_function_does_not_always_log_is_empty_there(build, files_of_two):
    def sometimes(completions, answer, log_extra, **columns):
        if "2" in answer:
            log_extra("prompt", ["first"] * len(answer))  # a name that the file has, too
        return [0.0] * len(answer)

    noted = {row["gold"]: row["note/prompt"] for row in build(sometimes).rows()}
    assert noted["2"] == ["first"] * 4 and noted["4"] == ["first"] * 4 and noted["16"] is None


def test_rows_come_back_as_they_were():
    row = {
        "prompt": [{"role": "user", "content": 'a "quoted" é'}], "answer": "2", "nothing": None,
        "nested": [{"x": [1.5]}], "when": datetime(2024, 5, 6, 7, 8, 9, 10, tzinfo=UTC),
        "day": datetime(2024, 5, 6).date(), "raw": b"\x00\xff", "price": Decimal("0.10"), "count": 2**60, "flag": True,
    }  # fmt: skip
    assert read_row(write_row(row)) == row
    assert json.loads(write_row({"prompt": "é"})) == {"prompt": "é"}
    with pytest.raises(InputError, match="column 'image' holds values of type object, which a bank cannot store"):
        write_row({"prompt": "x", "image": object()})


def test_stored_samples_are_what_was_sampled(build, tmp_path):
    (file,) = sample_files(build(accuracy).path)
    rows, completions = read_completions(file, [0])
    prompt = [{"role": "user", "content": "Calculate 1 + 1."}]
    assert rows[0] == {"prompt": prompt, "answer": "2", "prompt_opening": ""}
    text = TEXTS[0].format(sum=2)
    assert completions[0][0] == Completion(text, [7, 1, len(text)], "stop")

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from aapo.bank import bank_identity
from aapo.engines import TransformersEngine, load_model, load_tokenizer, model_identity, tokenizer_identity
from aapo.errors import AapoError, InputError
from aapo.evaluation import (
    Evaluation,
    EvaluationJob,
    difference_rows,
    read_evaluations,
    read_results,
    result_rows,
    save_results,
    select,
)
from aapo.evaluation.evaluation import SAMPLE_COLUMNS
from aapo.evaluation.votes import answer_classes
from aapo.grading import BY_VERDICT, Judge, accuracy, format
from aapo.ranks import Ranks
from aapo.records import Completion
from aapo.sampling import SamplingSettings


class Scripted:
    """An engine that says what a script says, by question and sample."""

    batch_size = 4

    def __init__(self, tokenizer, script):
        self.tokenizer = tokenizer
        self.script = script
        self.calls = 0

    def generate(self, prompt_ids, seeds, on_batch=lambda done: None):
        self.calls += 1
        said = []
        for ids in prompt_ids:
            question = self.tokenizer.decode(ids, skip_special_tokens=True)
            texts = next(texts for key, texts in self.script.items() if key in question)
            text = texts[sum(1 for other, _ in said if other == question) % len(texts)]
            said.append((question, text))
        on_batch(len(said))
        return [Completion(text, [1, 2, 3], "length" if text.endswith("...") else "stop") for _, text in said]


def job_of(
    tiny_folder, tmp_path, engine, prompts, rewards=(accuracy,), num_samples=4, model="tiny", seed=0, judge=BY_VERDICT
):
    tokenizer = load_tokenizer(str(tiny_folder))
    settings = SamplingSettings(max_completion_length=5)
    identity = bank_identity(
        model_identity(str(tiny_folder)), tokenizer_identity(tokenizer), settings.describe(), rewards, seed
    )
    return EvaluationJob(
        model, "sums", "mine@12345678", prompts, engine, list(rewards), identity, num_samples, tmp_path / "store", judge
    )


def evaluated(*args, **kwargs) -> Evaluation:
    job = job_of(*args, **kwargs)
    job.sample()
    return job.collect()


def scripted(tiny_folder, **script):
    return Scripted(load_tokenizer(str(tiny_folder)), script)


PROMPTS = Dataset.from_list(
    [
        {"prompt": [{"role": "user", "content": f"{letter} = ?"}], "answer": gold}
        for letter, gold in (("A", "2"), ("B", "1/2"), ("C", "7"))
    ]
)
SCRIPT = {
    "A": [r"\boxed{2}", r"\boxed{3}", r"\boxed{3.0}", "none..."],
    "B": [r"\boxed{0.5}", r"\boxed{\frac12}", r"\boxed{5}", r"\boxed{6}"],
    "C": [r"\boxed{8}"],
}


def test_scores_votes_and_shares_of_known_completions(tiny_folder, tmp_path):
    evaluation = evaluated(tiny_folder, tmp_path, scripted(tiny_folder, **SCRIPT), PROMPTS)
    assert evaluation.correct_PK.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    # 3 and 3.0 are one answer, 0.5 and 1/2 too; none has no class.
    assert evaluation.classes_PK.tolist() == [[0, 1, 1, -1], [0, 0, 1, 2], [1, 1, 1, 1]]
    rows = {row["metric"]: row for row in result_rows([evaluation], [1, 2, 4])}
    assert rows["avg@4"]["estimate"] == pytest.approx((1 / 4 + 2 / 4 + 0) / 3)
    # pass@2: 1 - C(3, 2)/C(4, 2) = 1/2 and 1 - C(2, 2)/C(4, 2) = 5/6; the majority of 4 errs on A and C.
    assert rows["pass@2"]["estimate"] == pytest.approx((1 / 2 + 5 / 6 + 0) / 3)
    assert rows["pass@4"]["estimate"] == pytest.approx(2 / 3) and rows["maj@4"]["estimate"] == pytest.approx(1 / 3)
    assert rows["pass@1"]["estimate"] == pytest.approx(rows["avg@4"]["estimate"])
    row = rows["avg@4"]
    assert (row["num_problems"], row["num_samples"], row["protocol"]) == (3, 4, "mine@12345678")
    assert (row["truncated_frac"], row["no_answer_frac"], row["timeout_frac"]) == (1 / 12, 1 / 12, 0)
    assert (row["unparseable_gold"], row["mean_tokens"]) == (0, 3)
    with pytest.raises(InputError, match="k is 5 and sums has 4 samples"):
        result_rows([evaluation], [5])


def test_a_gold_answer_that_cannot_be_read_is_counted_and_left_out(tiny_folder, tmp_path):
    prompts = Dataset.from_list([*PROMPTS, {"prompt": [{"role": "user", "content": "D = ?"}], "answer": r"\frac{1}{"}])
    evaluation = evaluated(tiny_folder, tmp_path, scripted(tiny_folder, **SCRIPT, D=[r"\boxed{1}"]), prompts)
    row = evaluation.summary()
    assert row["unparseable_gold"] == 1 and row["num_problems"] == 4
    assert row["estimate"] == pytest.approx((1 / 4 + 2 / 4 + 0) / 3)


def test_samples_are_stored_and_read_again(tiny_folder, tmp_path):
    evaluation = evaluated(tiny_folder, tmp_path, scripted(tiny_folder, **SCRIPT), PROMPTS, rewards=(accuracy, format))
    rows = result_rows([evaluation])
    save_results(tmp_path / "out", [evaluation], rows, [], {"name": "mine"})
    assert read_results(tmp_path / "out") == read_results(tmp_path / "out" / "results.json") == rows
    (again,) = read_evaluations(tmp_path / "out")
    assert again.summary() == evaluation.summary()
    stored = pq.read_table(tmp_path / "out" / "samples" / "tiny--sums.parquet").to_pylist()
    assert list(stored[0])[: len(SAMPLE_COLUMNS)] == list(SAMPLE_COLUMNS)
    first = stored[1]
    assert (first["completion"], first["extracted"], first["verdict"], first["rule"]) == (
        r"\boxed{3}",
        "3",
        "wrong",
        "number",
    )
    assert (first["finish_reason"], first["completion_tokens"], first["reward/format"]) == ("stop", 3, 0.0)
    assert stored[3]["finish_reason"] == "length" and stored[3]["verdict"] == "no_answer"
    with pytest.raises(InputError, match="is not a result"):
        read_results(tmp_path)


def test_finished_samples_are_found_again_but_never_for_other_weights_or_seeds(tiny_folder, tmp_path):
    engine = scripted(tiny_folder, **SCRIPT)
    first = evaluated(tiny_folder, tmp_path, engine, PROMPTS)
    calls = engine.calls
    assert calls == 3  # one problem of four samples fills a batch of four
    renamed = evaluated(tiny_folder, tmp_path, engine, PROMPTS, model="renamed")
    assert engine.calls == calls and renamed.correct_PK.tolist() == first.correct_PK.tolist()
    evaluated(tiny_folder, tmp_path, engine, PROMPTS, rewards=(format,))  # graded anew, not sampled
    assert engine.calls == calls
    evaluated(tiny_folder, tmp_path, engine, PROMPTS, seed=1)
    assert engine.calls == 2 * calls
    job = job_of(tiny_folder, tmp_path, engine, PROMPTS)
    other = replace(job, identity={**job.identity, "model": {"weights": "others"}})
    other.sample()
    assert engine.calls == 3 * calls


def test_an_interrupted_evaluation_goes_on_to_the_same_result(tiny_folder, addition, tmp_path):
    def engine():
        settings = SamplingSettings(max_completion_length=5)
        return TransformersEngine(
            load_model(str(tiny_folder)), load_tokenizer(str(tiny_folder)), settings, batch_size=6
        )

    whole = evaluated(tiny_folder, tmp_path / "whole", engine(), addition, num_samples=3)

    def stop(done, total):
        if done >= 12:
            raise KeyboardInterrupt

    job = job_of(tiny_folder, tmp_path / "cut", engine(), addition, num_samples=3)
    with pytest.raises(KeyboardInterrupt):
        job.sample(stop)
    with pytest.raises(AapoError, match=r"of 8 problems of sums are not sampled yet"):
        job.collect()
    job.sample()
    assert job.collect().table.equals(whole.table)


def test_shares_make_the_whole(tiny_folder, tmp_path):
    whole = evaluated(tiny_folder, tmp_path / "whole", scripted(tiny_folder, **SCRIPT), PROMPTS)
    job = job_of(tiny_folder, tmp_path / "shares", scripted(tiny_folder, **SCRIPT), PROMPTS)
    for rank in (1, 0):
        job.sample(ranks=Ranks(rank, 2))
    assert job.collect().table.equals(whole.table)


def test_differences_are_paired_by_problem_across_models(tiny_folder, tmp_path):
    one = evaluated(tiny_folder, tmp_path, scripted(tiny_folder, **SCRIPT), PROMPTS, model="one")
    better = {**SCRIPT, "C": [r"\boxed{7}"]}
    job = job_of(tiny_folder, tmp_path, scripted(tiny_folder, **better), PROMPTS.select([2, 1, 0]), model="two")
    job = replace(job, identity={**job.identity, "model": {"weights": "others"}})
    job.sample()
    two = job.collect()
    (row,) = difference_rows([two], [one])
    assert (row["model"], row["against"], row["num_problems"]) == ("two", "one", 3)
    assert row["difference"] == pytest.approx(1 / 3) and row["low"] <= 0 < row["high"]
    assert row["verdict"] == "inside the noise"
    fewer = replace(one, table=one.table.slice(0, 8))
    with pytest.raises(InputError, match=r"different problems of sums \(3 and 2, 2 in common\)"):
        difference_rows([two], [fewer])


def test_averages_weigh_tasks_alike(tiny_folder, tmp_path):
    one = evaluated(tiny_folder, tmp_path, scripted(tiny_folder, **SCRIPT), PROMPTS)
    job = replace(job_of(tiny_folder, tmp_path, scripted(tiny_folder, **SCRIPT), PROMPTS.select([1])), task="other")
    job.sample()
    rows = result_rows([one, job.collect()])
    average = {row["metric"]: row for row in rows if row["task"] == "average"}
    assert average["avg@4"]["estimate"] == pytest.approx((0.25 + 0.5) / 2)
    assert average["pass@4"]["estimate"] == pytest.approx((2 / 3 + 1) / 2)
    assert average["avg@4"]["num_problems"] == 4 and average["avg@4"]["truncated_frac"] == pytest.approx(1 / 24)


def test_a_checkpoint_chosen_on_the_test_is_said_to_be(tiny_folder, tmp_path):
    def of(model, right, task="sums"):
        script = {letter: [r"\boxed{2}" if letter == "A" and right else r"\boxed{9}"] for letter in "ABC"}
        job = job_of(tiny_folder, tmp_path / model / task, scripted(tiny_folder, **script), PROMPTS, model=model)
        job = replace(job, task=task)
        job.sample()
        return job.collect()

    test = [of("run@1", False), of("run@2", True)]
    chosen = select(["run@1", "run@2"], [], test)
    assert chosen.model == "run@2" and chosen.on_test and "selected on the test" in chosen.sentence
    development = [of("run@1", True, "dev"), of("run@2", False, "dev")]
    chosen = select(["run@1", "run@2"], development, test)
    assert chosen.model == "run@1" and not chosen.on_test and "development tasks dev" in chosen.sentence


def test_answers_of_other_verifiers_are_the_same_where_their_text_is():
    assert answer_classes(["a b", "a  b", "0.5", "1/2", None], [0, 0, 0, 0, 0], mathematical=False) == [
        1,
        1,
        2,
        3,
        None,
    ]
    assert answer_classes(["0.5", "1/2", "x"], [0, 0, 1], mathematical=True) == [1, 1, 0]


def test_notes_with_the_name_of_a_column_are_renamed(tiny_folder, tmp_path):
    def unsure(completions, log_extra, **columns):
        log_extra("gold", ["a"] * len(completions))
        log_extra("mood", ["b"] * len(completions))
        return [None, *[0.75] * (len(completions) - 1)]

    evaluation = evaluated(
        tiny_folder, tmp_path, scripted(tiny_folder, **SCRIPT), PROMPTS.select([0]), rewards=(unsure,)
    )
    row = evaluation.table.to_pylist()[0]
    assert row["note/gold"] == "a" and row["gold"] == "2" and row["mood"] == "b"
    assert row["verdict"] is None and row["correct"] is None
    summary = evaluation.summary()
    assert summary["estimate"] is None  # nothing says what is right, and no threshold was declared
    assert summary["no_answer_frac"] is None and summary["unparseable_gold"] is None
    assert np.isnan(evaluation.correct_PK[0, 0])
    json.dumps(summary)
    judged = evaluated(
        tiny_folder,
        tmp_path,
        scripted(tiny_folder, **SCRIPT),
        PROMPTS.select([0]),
        rewards=(unsure,),
        judge=Judge("unsure", 0.75),
    )
    assert judged.table["correct"].to_pylist() == [None, 1, 1, 1] and judged.summary()["estimate"] == 1

"""What runs inside verl, without verl: rows as groups, advantages, grades, and what is recorded."""

import json
from math import isnan, sqrt

import pytest
import torch

from aapo.backends.verl.costs import write_costs
from aapo.backends.verl.grading import compute_score
from aapo.backends.verl.recording import Recorder, count_discarded
from aapo.backends.verl.teaching import Row, estimate, group_places, handing_over, teach
from aapo.bank.rows import write_row
from aapo.grading import Judge
from aapo.learning.batch import Teacher
from aapo.objective import augmented_advantages, objective
from aapo.recipe import load_recipe
from aapo.runs import RunDirectory

PROMPT = [{"role": "user", "content": "What is 1 + 1?"}]


def teacher(algorithm="aapo", num_generations=2):
    return Teacher(objective(algorithm), ["accuracy"], torch.tensor([1.0]), Judge(), num_generations, 8)


def row(group, reward, index=0, reference=(0.0, 1.0), tokens=4, **changes):
    info = {
        "index": index, "prompt_key": f"key-{index}", "row": write_row({"prompt": PROMPT, "answer": "2"}),
        "reference_rewards": list(reference), "reference_correct": list(reference),
    }  # fmt: skip
    verdict = None if reward is None else "correct" if reward else "wrong"
    rewards, notes = {"accuracy": reward}, {"verdict/accuracy": verdict}
    return Row(group, info, "2", "2", tokens, False, rewards, notes)._replace(**changes)


def test_advantages_come_back_in_the_order_of_the_rows():
    # prompt 0 pays 1 and 0, prompt 1 twice 1, and verl has dealt them over its workers
    rows = [row("b", 1.0, 1), row("a", 0.0, 0), row("b", 1.0, 1), row("a", 1.0, 0)]
    taught = teach(teacher(), rows, shift=0)
    half = 0.5 / (sqrt(0.5) + 1e-4)
    # the margin over rewards 0 and 1: of a right answer (0.28 + 0) / 2, of a wrong one (0 - 0.2) / 2
    expected = torch.tensor([0.14, -half - 0.1, 0.14, half + 0.14])
    torch.testing.assert_close(taught.advantages_B, expected, atol=1e-6, rtol=0)
    assert taught.places == [1, 3, 0, 2]
    assert taught.lesson.metrics["signal/revived_group_frac"] == 0.5
    assert taught.lesson.metrics["rollout/accuracy"] == 0.75


@pytest.mark.parametrize("algorithm", ["aapo", "aapo-paired", "grpo", "rloo", "gpg", "reinforce++", "gspo", "dapo"])
def test_advantages_equal_the_objectives(algorithm):
    torch.manual_seed(0)
    rewards_PG, reference_PK = torch.rand(5, 4).round(), torch.rand(5, 3).round()
    rows = [row(str(p), rewards_PG[p, g].item(), p, reference_PK[p].tolist()) for p in range(5) for g in range(4)]
    order = torch.randperm(20).tolist()
    taught = teach(teacher(algorithm, 4), [rows[place] for place in order], shift=3)
    # within a group verl's order stands
    ranks = [[order.index(place) for place in range(4 * p, 4 * p + 4)] for p in range(5)]
    seen_PG = torch.stack([rewards_PG[p][torch.tensor(rank).argsort()] for p, rank in enumerate(ranks)])
    expected = augmented_advantages(
        objective(algorithm), seen_PG, reference_PK, shift=3, lengths_PG=torch.full((5, 4), 4), max_completion_length=8
    )
    back = torch.stack([taught.advantages_B[sorted(rank)] for rank in ranks])
    torch.testing.assert_close(back, expected.augmented_PG, atol=1e-6, rtol=0)


def test_a_rollout_that_failed_is_a_place_without_a_reward():
    rows = [row("a", 1.0, 0), row("a", 0.0, 0), row("b", 1.0, 1)]
    taught = teach(teacher(num_generations=3), rows, shift=0)
    assert group_places(rows, 3) == [0, 1, None, 2, None, None]
    alone = taught.advantages_B[2].item()
    assert alone == pytest.approx(0.14), "dead, so the margin alone"
    assert taught.lesson.advantages.augmented_PG[0, 2] == 0


def test_unscored_rewards_count_in_no_mean():
    taught = teach(teacher(num_generations=3), [row("a", 1.0), row("a", None), row("a", 0.0)], shift=0)
    half = 0.5 / (sqrt(0.5) + 1e-4)
    expected = torch.tensor([half + 0.14, 0.0, -half - 0.1])
    torch.testing.assert_close(taught.advantages_B, expected, atol=1e-6, rtol=0)


def test_the_estimator_spreads_what_it_is_handed_over_the_tokens():
    mask, rewards = torch.tensor([[1, 1, 0], [1, 0, 0]]), torch.zeros(2, 3)
    with handing_over(torch.tensor([0.5, -2.0])):
        advantages, returns = estimate(rewards, mask, config=None, index=["a", "a"])
    assert advantages.tolist() == [[0.5, 0.5, 0.0], [-2.0, 0.0, 0.0]] and returns is advantages
    with pytest.raises(RuntimeError, match="set trainer.v1.trainer_mode=aapo_sync"):
        estimate(rewards, mask)


@pytest.fixture
def run(tmp_path):
    found = RunDirectory(tmp_path / "run")
    flags = ["--reward_funcs", "accuracy,format,cosine", "--reward_weights", "1,0.2,0.5", "--overlong_buffer", "0.5",
             "--reward_kwargs", "{cosine: {max_len: 64}}"]  # fmt: skip
    found.write_recipe(load_recipe("quickstart", ["--backend", "verl", *flags]).resolved())
    return found


def grade(run, text, num_tokens, gold="2"):
    info = {"row": write_row({"prompt": PROMPT, "answer": gold, "prompt_opening": ""})}
    return compute_score("any", text, gold, info, run=str(run.path), completion_ids=[0] * num_tokens)


def test_a_grade_is_the_weighted_sum_of_the_recipes_functions(run):
    right = grade(run, "<think>\nx\n</think>\n<answer>\n2\n</answer>", 0)
    found = json.loads(right["scored"])
    assert found["rewards"] == {"accuracy": 1.0, "format": 1.0, "cosine": 1.0}
    assert right["score"] == pytest.approx(1 + 0.2 + 0.5) and right["acc"] == 1.0
    assert found["notes"]["verdict/accuracy"] == "correct"
    wrong = grade(run, "<answer>3</answer>", 64)
    assert wrong["acc"] == 0.0 and json.loads(wrong["scored"])["rewards"]["accuracy"] == 0.0
    # the penalty of a buffer of 0.5 x 64 tokens is -1 at the limit
    assert wrong["shaped"] == pytest.approx(wrong["score"] - 1)


def test_an_unreadable_gold_answer_is_no_verdict(run):
    found = grade(run, "<answer>2</answer>", 4, gold="")
    assert isnan(found["acc"])


class Prices:
    """Stands for a bank of which the samples of each prompt cost 10 tokens and half a second."""

    def tokens(self, key):
        return 10

    def seconds(self, key):
        return 0.5


def test_metrics_and_rollouts_arrive_in_the_run_directory(tmp_path):
    run = RunDirectory(tmp_path)
    write_costs(run, Prices(), ["key-0", "key-1"], [])
    recorder = Recorder(run, teacher(), updates=1)
    recorder.begin(0)
    for step, last in ((1, 0.0), (2, 1.0)):
        rows = [row("b", 1.0, 1), row("a", 0.0, 0), row("b", last, 1, tokens=8, truncated=True), row("a", 1.0, 0)]
        recorder.keep(teach(teacher(), rows, shift=step - 1), step)
        theirs = {"actor/pg_loss": 0.25, "actor/grad_norm": 2.0, "actor/lr": 1e-3, "timing_s/gen": 3.0,
                  "timing_s/step": 4.0, "perf/total_num_tokens": 40, "text": "no number"}  # fmt: skip
        recorder.record(theirs, step)
    first, second = run.metrics()
    assert (first["loss"], first["grad_norm"], first["learning_rate"], first["verl/timing_s/gen"]) == (0.25, 2, 1e-3, 3)
    assert first["reward"] == 0.5 and second["reward"] == 0.75 and second["rollout/accuracy"] == 0.75
    assert first["completions/mean_length"] == 5 and first["completions/clipped_ratio"] == 0.25
    assert (first["rollout/generated_tokens"], second["rollout/generated_tokens"]) == (20, 40)
    assert (first["num_tokens"], second["num_tokens"], second["rollout/tokens_per_second"]) == (40, 80, 10)
    assert (second["bank/prompts"], second["bank/generated_tokens"]) == (2, 20), "each prompt's samples once"
    stored = run.rollouts(2)
    assert [item["prompt_key"] for item in stored] == ["key-0", "key-0", "key-1", "key-1"]
    assert [item["reward"] for item in stored] == [0.0, 1.0, 1.0, 1.0] and stored[3]["truncated"]
    assert stored[0]["prompt"] == "What is 1 + 1?" and stored[0]["reference_rewards"] == [0.0, 1.0]

    resumed = Recorder(run, teacher(), updates=1)
    resumed.begin(1)
    resumed.keep(teach(teacher(), [row("a", 0.0, 0), row("a", 1.0, 0)], shift=1), 2)
    resumed.record({"actor/pg_loss": 0.5}, 2)
    again = run.metrics()[1]
    assert (again["loss"], again["rollout/generated_tokens"]) == (0.5, 28), "step 2 once more, after 20 tokens"
    assert (again["bank/prompts"], again["bank/generated_tokens"]) == (2, 20), "those of step 1 are still paid"


def test_a_run_whose_prompts_the_bank_chose_pays_all_of_its_samples(tmp_path):
    run = RunDirectory(tmp_path)
    # key-2 was filtered out; GRPO reads no reference reward, and pays for the choice all the same
    write_costs(run, Prices(), ["key-0", "key-1"], ["key-0", "key-1", "key-2"])
    recorder = Recorder(run, teacher("grpo"), updates=1)
    recorder.begin(0)
    recorder.keep(teach(teacher("grpo"), [row("a", 0.0, 0), row("a", 1.0, 0)], shift=0), 1)
    recorder.record({"actor/pg_loss": 0.5}, 1)
    (found,) = run.metrics()
    assert (found["bank/prompts"], found["bank/generated_tokens"], found["bank/seconds"]) == (3, 30, 1.5)


class Buffer:
    """Stands for verl's replay buffer: the rollouts of three prompts, two for training and one of an evaluation."""

    def __init__(self):
        self.partitions = {
            "train": {"a_0_0": {"response_len": 5}, "a_1_0": {"response_len": 7}, "b_0_0": {"response_len": 2}},
            "val": {"c_0_0": {"response_len": 100}},
        }

    def _clear_groups(self, partition, uids):
        rows = self.partitions[partition]
        self.partitions[partition] = {key: tag for key, tag in rows.items() if key.split("_")[0] not in uids}


def test_rollouts_that_dynamic_sampling_throws_away_are_generated_tokens_too(tmp_path):
    run, buffer = RunDirectory(tmp_path), Buffer()
    recorder = Recorder(run, teacher("grpo"), updates=1)
    recorder.begin(0)
    count_discarded(buffer, recorder.discard)
    buffer._clear_groups("train", {"a"})
    buffer._clear_groups("train", set())
    buffer._clear_groups("val", {"c"})
    assert buffer.partitions == {"train": {"b_0_0": {"response_len": 2}}, "val": {}}
    recorder.keep(teach(teacher("grpo"), [row("b", 0.0, 0), row("b", 1.0, 0)], shift=0), 1)
    recorder.record({"actor/pg_loss": 0.5}, 1)
    # 5 + 7 of the group that was thrown away, 4 + 4 of the one that was trained on
    assert run.metrics()[0]["rollout/generated_tokens"] == 20


def test_a_run_without_a_bank_has_no_cost_of_one(tmp_path):
    run = RunDirectory(tmp_path)
    recorder = Recorder(run, teacher("grpo"), updates=1)
    recorder.begin(0)
    recorder.keep(teach(teacher("grpo"), [row("a", 0.0, 0), row("a", 1.0, 0)], shift=0), 1)
    recorder.record({"actor/pg_loss": 0.5}, 1)
    assert not [key for key in run.metrics()[0] if key.startswith("bank/")]

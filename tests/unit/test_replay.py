"""Replays of rollouts whose every number is written out, and of stored runs from the command line.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt.
"""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset

from aapo.bank import ReferenceBank, bank_identity
from aapo.cli.app import run as command
from aapo.errors import InputError
from aapo.experiments import replay_run
from aapo.experiments.quantities import Sums, over_run
from aapo.experiments.replay import pushes
from aapo.experiments.stored import read_step
from aapo.files import write_parquet
from aapo.grading import BY_VERDICT, reward_function
from aapo.learning.batch import BatchScores, Reference, Teacher
from aapo.learning.rollouts import Rollout, RolloutWriter
from aapo.objective import ALGORITHMS, augmented_advantages, objective
from aapo.records import Completion
from aapo.runs import RunDirectory
from aapo.sampling import SamplingSettings
from aapo.tasks import prompt_key

NAN = math.nan
MAX_TOKENS = 64


def right(rewards_PG):
    """1 where a reward is a half or more, 0 below, NaN without one."""
    return (rewards_PG >= 0.5).float().masked_fill(rewards_PG.isnan(), math.nan)


def make_run(
    folder, algorithm, batches, *, manifest=None, fields=None, reward_funcs=("accuracy",), keys=None, **changes
):
    """A run directory with rollouts as the trainer writes them.

    Each batch is (step, rewards_PG, reference_PK, tokens_PG); batches of one step follow each other. `changes` are
    those of the algorithm's fields.
    """
    run, point = RunDirectory(folder), objective(algorithm, **changes)
    run.write_recipe(
        {
            "recipe": "tiny",
            "fields": {"max_completion_length": MAX_TOKENS, **(fields or {})},
            "objective": {"algorithm": algorithm, "aggregation": point.aggregation},
            "with_defaults": {"reward_funcs": list(reward_funcs), "reward_kwargs": None, "reward_failure": "fail"},
        }
    )
    if manifest is not None:
        run.write_manifest(**manifest)
    writers = {}
    for step, rewards, references, tokens in batches:
        rewards_PG, reference_PK = torch.tensor(rewards), torch.tensor(references)
        tokens_PG = torch.tensor(tokens)
        tokens_B = tokens_PG.flatten()
        names = keys or [f"key-{step}-{i}" for i in range(len(rewards))]
        keys_B = [name for name in names for _ in rewards[0]]
        teacher = Teacher(point, ["accuracy"], torch.ones(1), BY_VERDICT, rewards_PG.shape[1], MAX_TOKENS)
        writer = writers.setdefault(rewards_PG.shape[1], RolloutWriter(run.samples, teacher))
        scores = BatchScores(
            rewards_PG.view(-1, 1),
            right(rewards_PG).flatten(),
            tokens_B,
            tokens_B >= MAX_TOKENS,
            Reference(reference_PK, right(reference_PK)) if point.needs_reference else None,
        )
        rollouts = [Rollout(key, "?", "1", key) for key in keys_B]
        writer.write(step, rollouts, scores, teacher.teach(scores, tokens_B, {}, step - 1), tokens_B, {})
    return run


# Two steps of two groups of two. The reference is right once of two on every prompt but the last, where it never is.
TWO_STEPS = [
    (1, [[1.0, 0.0], [1.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]], [[10, 30], [20, 40]]),
    (2, [[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]], [[10, 10], [10, 10]]),
]


def random_batches(seed, num_steps=12):
    """Graded rewards with missing ones, four groups of four a step, three references."""
    made = torch.Generator().manual_seed(seed)
    for step in range(1, num_steps + 1):
        rewards = (torch.randint(0, 5, (4, 4), generator=made) / 4).tolist()
        rewards[0][1] = NAN
        rewards[3] = [rewards[3][0]] * 4
        references = (torch.randint(0, 5, (4, 3), generator=made) / 4).tolist()
        references[1][2] = NAN
        yield step, rewards, references, torch.randint(1, MAX_TOKENS, (4, 4), generator=made).tolist()


def test_gdpo_replays_by_the_values_of_each_function(tmp_path):
    run, point, weights_F = RunDirectory(tmp_path), objective("gdpo"), torch.tensor([2.0, 1.0])
    run.write_recipe({"fields": {"reward_weights": [2.0, 1.0]}})
    teacher = Teacher(point, ["accuracy", "format"], weights_F, BY_VERDICT, 3, MAX_TOKENS)
    values_PGF = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [0.0, 2.0]], [[1.0, 1.0], [0.0, NAN], [NAN, NAN]]])
    tokens_B = torch.full((6,), 10)
    scores = BatchScores(values_PGF.view(6, 2), torch.full((6,), NAN), tokens_B, tokens_B >= MAX_TOKENS)
    lesson = teacher.teach(scores, tokens_B, {}, 0)
    known = {"values_PGF": values_PGF, "weights_F": weights_F}
    expected_PG = augmented_advantages(point, torch.tensor([[2.0] * 3, [3.0, 0.0, NAN]]), **known).augmented_PG
    torch.testing.assert_close(lesson.advantages.augmented_PG, expected_PG)
    RolloutWriter(run.samples, teacher).write(1, [Rollout("?", "?", "1", "key")] * 6, scores, lesson, tokens_B, {})
    (batch,) = read_step(run, 1)
    torch.testing.assert_close(batch.values_PGF, values_PGF, equal_nan=True)
    torch.testing.assert_close(pushes(point, batch, MAX_TOKENS).augmented_PG, expected_PG)
    assert expected_PG[0, 0] > 0.1 and expected_PG[1, 2] == 0


def test_two_steps_by_hand(tmp_path):
    found = replay_run(make_run(tmp_path, "aapo", TWO_STEPS), ["aapo", "rloo"])
    assert (found.steps_S.tolist(), found.num_groups, found.num_samples, found.num_unscored) == ([1, 2], 4, 8, 0)
    assert (found.num_batches, found.num_reference_samples, found.bank, found.refused) == (2, 2, None, {})
    # Group        rewards  advantage                 margin          rloo
    # step 1, 0    1, 0     a, -a; a = .5/(.5^.5+1e-4)   .14, -.1     1, -1
    # step 1, 1    1, 1     0                         .14, .14        0
    # step 2, 0    0, 0     0                         -.1, -.1        0
    # step 2, 1    0, 0     0                         0, 0            0
    a = 0.5 / (0.5**0.5 + 1e-4)
    aapo = np.array([a + 0.14, -a - 0.1, 0.14, 0.14, -0.1, -0.1, 0, 0])
    rloo = np.array([1.0, -1, 0, 0, 0, 0, 0, 0])
    own, rloo_replay = found.algorithms
    assert (own.name, rloo_replay.name, found.own.name) == ("aapo", "rloo", "aapo")
    expected = {
        "dead_frac": 3 / 4, "dead_after_margin_frac": 1 / 4, "pushing_group_frac": 3 / 4, "pushing_frac": 6 / 8,
        "mean_size": np.abs(aapo).mean(), "bias": aapo.mean(), "both_push_frac": 6 / 8, "same_sign_frac": 1,
        "correlation": 1, "correlation_within_steps": 1, "token_cosine": 1,
    }  # fmt: skip
    for item in (found.own, own):
        assert {key: value.estimate for key, value in item.whole._asdict().items()} == pytest.approx(expected, abs=1e-6)
    # rloo divides by a constant, aapo by the step's tokens: per token 1/(4*64) * 100 and 1/100 * 100 of A in step 1.
    tokens, factor = np.array([10, 30, 20, 40]), 100 / (4 * 64)
    dot = (tokens * aapo[:4] * rloo[:4] * factor).sum()
    sizes = (tokens * aapo[:4] ** 2).sum() + (10 * aapo[4:] ** 2).sum(), (tokens * (rloo[:4] * factor) ** 2).sum()
    expected = {
        "dead_frac": 3 / 4, "dead_after_margin_frac": 3 / 4, "pushing_group_frac": 1 / 4, "pushing_frac": 2 / 8,
        "mean_size": 2 / 8, "bias": 0, "both_push_frac": 2 / 8, "same_sign_frac": 1,
        "correlation": np.corrcoef(aapo, rloo)[0, 1],
        "correlation_within_steps": np.corrcoef(aapo[:4], rloo[:4])[0, 1],  # in step 2 rloo is constant
        "token_cosine": dot / np.sqrt(sizes[0] * sizes[1]),
    }  # fmt: skip
    values = {key: value.estimate for key, value in rloo_replay.whole._asdict().items()}
    assert values == pytest.approx(expected, abs=1e-6)
    assert rloo_replay.steps.pushing_frac.tolist() == [2 / 4, 0]
    assert own.steps.bias == pytest.approx([aapo[:4].mean(), aapo[4:].mean()], abs=1e-6)
    np.testing.assert_array_equal(np.isnan(rloo_replay.steps.same_sign_frac), [False, True])
    np.testing.assert_array_equal(np.isnan(rloo_replay.steps.correlation), [False, True])


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [("aapo", {}), ("aapo", {"margin": "paired"}), ("gpg", {}), ("gpg", {"margin": "expected"}), ("rloo", {}),
     ("grpo", {"scale": "batch"}), ("dr_grpo", {}), ("dapo", {}), ("reinforce++", {}),
     ("aapo", {"overlong_buffer": 0.5})],
)  # fmt: skip
def test_the_runs_own_objective_gives_the_stored_advantages_back(tmp_path, algorithm, changes):
    run = make_run(tmp_path, algorithm, random_batches(3), **changes)
    batches = [batch for step in run.rollout_steps() for batch in read_step(run, step)]
    assert [batch.step for batch in batches] == list(range(1, 13))
    for batch in batches:
        again = pushes(objective(algorithm, **changes), batch, MAX_TOKENS)
        torch.testing.assert_close(again.augmented_PG, batch.augmented_PG, rtol=0, atol=0)
        torch.testing.assert_close(again.advantage_PG, batch.advantage_PG, rtol=0, atol=0)
    assert not torch.equal(batches[0].augmented_PG, batches[1].augmented_PG)  # each its own alpha and deviation


@pytest.mark.parametrize("algorithm", ["aapo", "aapo-paired", "gpg", "rloo", "grpo", "dr_grpo", "dapo"])
def test_the_runs_own_algorithm_agrees_with_it_in_everything(tmp_path, algorithm):
    found = replay_run(make_run(tmp_path, algorithm, random_batches(4)), [algorithm])
    (item,) = found.algorithms
    for again, own in zip(item.steps, found.own.steps, strict=True):
        np.testing.assert_array_equal(again, own)
    for name in ("correlation", "correlation_within_steps", "token_cosine", "same_sign_frac"):
        value = getattr(item.whole, name)
        assert value.estimate == pytest.approx(1, abs=1e-9) and math.isnan(value.low) and math.isnan(value.high)
    assert item.whole.both_push_frac.estimate == item.whole.pushing_frac.estimate > 0.5
    assert found.num_unscored == 12 and found.num_batches == 12 and found.num_groups == 48


def test_a_penalty_for_length_is_the_objectives_and_not_the_stored_rewards(tmp_path):
    # A limit of 64 and a buffer of half of it: of 32, 48 and 64 tokens the reward falls by 0, 1/2 and 1.
    batches = [(1, [[1.0, 1.0, 1.0]], [[1.0]], [[32, 48, 64]])]
    (file,) = make_run(tmp_path, "rloo", batches, overlong_buffer=0.5).samples.iterdir()
    assert pq.read_table(file)["reward"].to_pylist() == [1, 1, 1]
    found = replay_run(RunDirectory(tmp_path), ["rloo"])
    assert (found.own.whole.dead_frac.estimate, found.algorithms[0].whole.dead_frac.estimate) == (0, 1)
    # 1 - (1/2 + 0) / 2, 1/2 - (1 + 0) / 2, 0 - (1 + 1/2) / 2
    assert found.own.whole.mean_size.estimate == pytest.approx((0.75 + 0 + 0.75) / 3)


def test_an_algorithm_of_ones_own_gets_all_that_it_gets_in_training(tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text(
        "from aapo.objective import Objective\n"
        "def advantage(groups):\n"
        "    assert groups.max_completion_length == 64 and groups.truncated_PG.sum() == 1\n"
        "    above = groups.correct_PG - groups.reference_rewards_PK.mean(1, keepdim=True)\n"
        "    return above * groups.lengths_PG / 64\n"
        "MINE = Objective(advantage=advantage, reads_reference=True)\n"
    )
    batches = [(1, [[1.0, 0.0], [0.6, 0.4]], [[1.0, 0.0], [0.0, 0.0]], [[32, 64], [16, 8]])]
    name, file = f"{own}:MINE", tmp_path / "replay.json"
    run = make_run(tmp_path / "run", "aapo", batches)
    assert command(["replay", str(run.path), "--algorithms", name, "--output", str(file)]) == 0
    (item,) = json.loads(file.read_text())["algorithms"]
    assert item["name"] == name and item["objective"]["advantage"].endswith(":advantage")
    # (1 - 1/2) * 1/2, (0 - 1/2) * 1, (1 - 0) * 1/4, 0: a reward of 0.6 is a right completion's.
    assert item["whole"]["mean_size"]["estimate"] == pytest.approx((0.25 + 0.5 + 0.25 + 0) / 4)
    plain = make_run(tmp_path / "plain", "grpo", batches)
    assert "cannot be replayed, because reference rewards are missing" in refused(
        capsys, "replay", plain.path, "--algorithms", name
    )


def test_unscored_samples_count_in_no_mean(tmp_path):
    run = make_run(tmp_path, "rloo", [(1, [[1.0, 0.0, NAN, NAN]], [[0.0]], [[10, 10, 10, 10]])])
    (item,) = replay_run(run, ["rloo"]).algorithms
    whole = {key: value.estimate for key, value in item.whole._asdict().items()}
    assert (whole["mean_size"], whole["bias"], whole["pushing_frac"]) == (1, 0, 0.5)
    assert whole["correlation"] == pytest.approx(1)  # over two samples, not four


def test_intervals_hold_the_estimate_and_know_their_limits(tmp_path):
    batches = list(random_batches(5))
    (item,) = replay_run(make_run(tmp_path / "many", "grpo", batches), ["rloo"]).algorithms
    for name, value in item.whole._asdict().items():
        if name not in ("dead_frac", "dead_after_margin_frac", "pushing_group_frac", "same_sign_frac", "bias"):
            assert value.low < value.estimate < value.high, name
    mean, spread = item.steps.mean_size.mean(), item.steps.mean_size.std(ddof=1) / math.sqrt(12)
    assert item.whole.mean_size.estimate == pytest.approx(mean, rel=0.02)
    assert item.whole.mean_size.high - item.whole.mean_size.low == pytest.approx(2 * 1.96 * spread, rel=0.25)
    again = replay_run(RunDirectory(tmp_path / "many"), ["rloo"])
    assert again.describe() == replay_run(RunDirectory(tmp_path / "many"), ["rloo"]).describe()
    (alone,) = replay_run(make_run(tmp_path / "one", "grpo", batches[:1]), ["rloo"]).algorithms
    assert all(math.isnan(value.low) and math.isnan(value.high) for value in alone.whole)


@pytest.mark.parametrize("num_steps", [3, 5, 10])
def test_intervals_over_few_steps_hold_as_often_as_they_say(num_steps):
    # Steps of 32 groups, of which a share drawn from beta(3.2, 4.8) is dead; the sizes of advantages vary by step.
    rng, trials = np.random.default_rng(0), 1000
    dead = rng.binomial(32, rng.beta(3.2, 4.8, (trials, num_steps)))
    size = rng.normal(50, 10, (trials, num_steps))
    held = np.zeros(2)
    for dead_S, size_S in zip(dead, size, strict=True):
        sums = Sums(*np.ones((len(Sums._fields), num_steps)))._replace(
            groups=np.full(num_steps, 32.0), dead=dead_S, scored=np.full(num_steps, 128.0), size=size_S
        )
        found = over_run(np.stack(sums, -1))
        held += [
            item.low <= truth <= item.high for item, truth in ((found.dead_frac, 0.4), (found.mean_size, 50 / 128))
        ]
    assert (held / trials >= 0.93).all() and (held / trials <= 0.97).all()


def test_opposite_advantages_disagree_in_sign(tmp_path):
    run = make_run(tmp_path, "rloo", TWO_STEPS)
    file = run.samples / "step-000001.parquet"
    table = pq.read_table(file)
    turned = [-value for value in table["augmented"].to_pylist()]
    write_parquet(file, table.set_column(table.column_names.index("augmented"), "augmented", [turned]))
    (item,) = replay_run(run, ["rloo"]).algorithms
    assert item.whole.same_sign_frac.estimate == 0 and item.whole.both_push_frac.estimate == 2 / 8
    assert item.whole.correlation.estimate == pytest.approx(-1)
    assert item.whole.token_cosine.estimate == pytest.approx(-1)


def test_a_run_without_reference_rewards_replays_what_needs_none(tmp_path):
    run = make_run(tmp_path, "grpo", TWO_STEPS)
    found = replay_run(run)
    points = {name: declared.objective for name, declared in ALGORITHMS.items()}
    reference = {name for name, point in points.items() if point.needs_reference}
    entropies = {name for name, point in points.items() if point.token_advantage}
    assert entropies == {"rl_zvp", "grpo-entropy"} and set(found.refused) == reference | entropies
    assert [item.name for item in found.algorithms] == [name for name in ALGORITHMS if name not in found.refused]
    assert found.num_reference_samples == 0 and "aapo" in found.refused and found.algorithms
    with pytest.raises(
        InputError, match="aapo cannot be replayed, because reference rewards are missing: the run stored none"
    ):
        replay_run(run, ["aapo"])
    with pytest.raises(
        InputError,
        match="rl_zvp cannot be replayed, because it reads the entropies of tokens, which a run does not store",
    ):
        replay_run(run, ["rl_zvp"])


# -- banks -------------------------------------------------------------------------------------------------------------


class Scripted:
    """An engine that says `yes` and `no` in turn, two of three times yes for the first prompt."""

    def __init__(self, texts):
        self.texts = texts

    @staticmethod
    def tokenizer(text, **options):
        return {"input_ids": [len(text)]}

    def generate(self, prompts, seeds, on_batch=lambda done: None):
        return [Completion(text, [1, 2], "stop") for text in self.texts[: len(prompts)]]


OWN = "def own(completions, **columns):\n    return [1.0 if text == 'yes' else {wrong} for text in completions]\n"


@pytest.fixture
def banked(tmp_path):
    """A grpo run on two prompts, and a bank with three samples of each: yes, no, yes and no, no, no."""
    reward = tmp_path / "own.py"
    reward.write_text(OWN.format(wrong=0.0))
    name = f"{reward}:own"
    sampling = SamplingSettings(max_completion_length=MAX_TOKENS)
    data = Dataset.from_list([{"prompt": "first", "answer": "1"}, {"prompt": "second", "answer": "2"}])
    function = reward_function(name)
    identity = bank_identity({"m": 1}, {"t": 1}, sampling.describe(), [function], 0)
    engine = Scripted(["yes", "no", "yes", "no", "no", "no"])
    bank = ReferenceBank.build(tmp_path / "bank", data, engine, [function], identity, num_samples=3)
    keys = [prompt_key("first", "1"), prompt_key("second", "2")]
    batches = [(1, [[1.0, 0.0], [0.0, 0.0]], [[NAN], [NAN]], [[5, 5], [5, 5]])]

    def make(folder, **options):
        options = {"fields": {"reward_weights": [2.0]}, "reward_funcs": [name], "keys": keys, **options}
        return make_run(tmp_path / folder, "grpo", batches, **options)

    return make, bank


def test_a_bank_gives_a_run_its_reference_rewards(banked):
    make, bank = banked
    run = make("run")
    found = replay_run(run, ["aapo"], bank.path)
    assert found.num_reference_samples == 3 and found.bank == bank.path and not found.refused
    # The run weighs its reward by 2: the reference's are 2, 0, 2 and 0, 0, 0, and the margins of the first prompt
    # clip(1 - (2, 0, 2)) = -0.2, 0.28, -0.2 and clip(0 - (2, 0, 2)) = -0.2, 0, -0.2; those of the second 0.
    a = 0.5 / (0.5**0.5 + 1e-4)
    expected = [a + (0.28 - 0.4) / 3, -a - 0.4 / 3, 0, 0]
    (item,) = found.algorithms
    assert item.whole.bias.estimate == pytest.approx(np.mean(expected), abs=1e-6)
    assert item.whole.mean_size.estimate == pytest.approx(np.abs(expected).mean(), abs=1e-6)
    assert item.whole.dead_after_margin_frac.estimate == 1 / 2


def test_the_manifests_bank_is_found(banked):
    make, bank = banked
    run = make("run", manifest={"reference_bank": {"path": str(bank.path)}})
    assert replay_run(run, ["aapo"]).bank == bank.path
    gone = make("gone", manifest={"reference_bank": {"path": str(bank.path / "gone")}})
    assert replay_run(gone, ["aapo", "grpo"]).refused.keys() == {"aapo"}


def test_a_bank_takes_the_place_of_stored_reference_rewards(tmp_path, banked):
    make, bank = banked
    assert replay_run(make("run"), bank=bank.path).num_reference_samples == 3
    stored = make_run(tmp_path / "stored", "aapo", TWO_STEPS)
    assert replay_run(stored, ["aapo"]).bank is None


def test_banks_that_do_not_match_are_refused(tmp_path, banked):
    make, bank = banked
    with pytest.raises(InputError, match="sampling.temperature: bank has 1.0, run has 0.5"):
        replay_run(make("cold", fields={"temperature": 0.5}), ["aapo"], bank.path)
    with pytest.raises(InputError, match=r"1 of 2 prompts of step 1 are not in the bank .* \(first key: other\)"):
        replay_run(make("other", keys=[prompt_key("first", "1"), "other"]), ["aapo"], bank.path)
    with pytest.raises(InputError, match="has no scores by accuracy-"):
        replay_run(make("accuracy", reward_funcs=["accuracy"]), ["aapo"], bank.path)
    with pytest.raises(InputError, match="nowhere is not a reference bank: it has no manifest.json"):
        replay_run(make("run"), ["aapo"], tmp_path / "nowhere")


# -- the command -------------------------------------------------------------------------------------------------------


def refused(capsys, *arguments):
    """The one line on standard error of a command that must exit with 2."""
    capsys.readouterr()
    assert command([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_the_command_prints_tables_and_writes_every_step(tmp_path, capsys):
    run = make_run(tmp_path / "run", "aapo", TWO_STEPS)
    file = tmp_path / "replay.json"
    assert command(["replay", str(run.path), "--algorithms", "aapo,rloo", "--output", str(file)]) == 0
    out = capsys.readouterr().out
    for text in ("replaying steps: 2/2", "this run", "against", "Pearson", f"results {file}",
                 "2 steps, 4 groups, 8 samples; 2 reference rewards a prompt, stored with the rollouts."):  # fmt: skip
        assert text in out
    read = json.loads(file.read_text())
    assert [item["name"] for item in read["algorithms"]] == ["aapo", "rloo"] and read["own"]["name"] == "aapo"
    assert read["algorithms"][1]["steps"]["correlation"][1] is None
    assert read["algorithms"][1]["steps"]["pushing_frac"] == [0.5, 0]
    assert read["algorithms"][0]["whole"]["dead_frac"]["estimate"] == 0.75
    assert read["algorithms"][1]["objective"]["baseline"] == "leave_one_out" and read["steps"] == [1, 2]


def test_the_command_goes_on_without_what_it_cannot_replay(tmp_path, capsys):
    run = make_run(tmp_path, "grpo", TWO_STEPS)
    assert command(["replay", str(run.path), "--algorithms", "aapo,rloo"]) == 0
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if line.startswith("not replayed"))
    assert line == (
        "not replayed: aapo, because reference rewards are missing: the run stored none, so name a bank of its prompts "
        "with --bank"
    )
    assert "no reference rewards. 95% intervals" in out


def test_one_line_for_each_mistake(tmp_path, capsys):
    run = make_run(tmp_path / "run", "grpo", TWO_STEPS)
    assert "is not a run directory: it has no recipe.yaml" in refused(capsys, "replay", tmp_path)
    assert "(did you mean rloo?)" in refused(capsys, "replay", run.path, "--algorithms", "rlo")
    assert "aapo cannot be replayed, because" in refused(capsys, "replay", run.path, "--algorithms", "aapo")
    empty = make_run(tmp_path / "empty", "grpo", [])
    assert "has no stored rollouts in" in refused(capsys, "replay", empty.path)
    file = run.samples / "step-000001.parquet"
    write_parquet(file, pq.read_table(file).drop_columns(["batch", "group"]))
    line = refused(capsys, "replay", run.path)
    assert line.endswith(
        "has no batch, group, so it is foreign or of another version; delete it, and its step is left out"
    )


def test_rollouts_of_messages_in_parts_and_of_texts_that_no_file_can_hold_are_written(tmp_path):
    parts = [{"type": "text", "text": "1 + "}, {"type": "text", "text": "1?\ud83d"}]
    rewards_PG = torch.tensor([[1.0, 0.0]])
    teacher = Teacher(objective("grpo"), ["accuracy"], torch.ones(1), BY_VERDICT, 2, MAX_TOKENS)
    tokens_B = torch.tensor([3, 3])
    scores = BatchScores(rewards_PG.view(-1, 1), rewards_PG.flatten(), tokens_B, tokens_B > 3)
    said = [[{"role": "assistant", "content": parts}], [{"role": "assistant", "tool_calls": []}]]
    rollouts = [Rollout([{"role": "user", "content": parts}], text, "2", "key") for text in said]
    lesson = teacher.teach(scores, tokens_B, {}, 0)
    RolloutWriter(tmp_path, teacher).write(1, rollouts, scores, lesson, tokens_B, {})
    rows = pq.read_table(tmp_path / "step-000001.parquet")
    text = "1 + 1?\N{REPLACEMENT CHARACTER}"
    assert rows["prompt"].to_pylist() == [text] * 2 and rows["completion"].to_pylist() == [text, ""]

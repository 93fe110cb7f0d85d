"""The trainer on TRL against the pure functions."""

import json
import math
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOTrainer

from aapo.backends.trl import AAPOConfig, AAPOTrainer
from aapo.backends.trl.checks import check_groups, check_text
from aapo.backends.trl.recorder import Recorder
from aapo.bank import ReferenceBank, bank_identity
from aapo.engines import TransformersEngine, load_model, load_tokenizer, model_identity, tokenizer_identity
from aapo.errors import InputError
from aapo.experiments.replay import pushes
from aapo.experiments.stored import read_step
from aapo.objective import (
    ALGORITHMS,
    Tokens,
    augmented_advantages,
    completion_weights,
    policy_loss,
    token_advantages,
    verdicts,
)
from aapo.runs import RunDirectory
from aapo.sampling import SamplingSettings
from aapo.scoring import as_prompt
from aapo.stopping import Stop

MAX_TOKENS = 6


def vowels(completions, **columns):
    """A reward that varies on random text: the share of vowels, None for texts with a z."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [None if "z" in text else sum(text.count(v) for v in "aeiou") / 3 for text in texts]


def evenness(completion_ids, **columns):
    """1 where the token ids sum to an even number."""
    return [float(sum(ids) % 2 == 0) for ids in completion_ids]


def noted(completion_ids, log_extra, **columns):
    """No reward, but notes: verdicts by the number of tokens, and where this process is the first, their number."""
    outcomes = ("correct", "no_answer", "timeout", "unparseable_gold")
    log_extra("verdict/noted", [outcomes[sum(ids) % 4] for ids in completion_ids])
    if os.environ.get("RANK", "0") == "0":
        log_extra("first", [sum(ids) for ids in completion_ids])
    return [0.0] * len(completion_ids)


def config(path, **changes):
    settings = {
        "output_dir": str(path), "num_generations": 4, "per_device_train_batch_size": 16, "max_steps": 1,
        "max_completion_length": MAX_TOKENS, "learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant", "bf16": False, "activation_checkpointing": False, "report_to": "none",
        "logging_steps": 1, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "seed": 3,
    }  # fmt: skip
    return AAPOConfig(**{**settings, **changes})


def reference_column(dataset, num_samples=3):
    rewards = [[((i * 7 + k * 3) % 5) / 4 for k in range(num_samples)] for i in range(len(dataset))]
    rewards[0][1] = math.nan
    return dataset.add_column("reference_rewards", rewards)


class Spy(AAPOTrainer):
    """Keeps every generation batch that reaches the loss, with the rows that it was made of."""

    batches: list
    rows: list
    num_drawn = 0

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.batches = [*getattr(self, "batches", []), (self.rows, output, self.taken)]
        return output

    def _take_scored(self):
        scored = super()._take_scored()
        self.taken = scored[0]
        return scored

    def _teach(self, inputs, scores, *args):
        self.taught = scores
        return super()._teach(inputs, scores, *args)

    def _draw(self, model, prompt_ids, purpose, positions=None):
        self.num_drawn += len(prompt_ids)
        return super()._draw(model, prompt_ids, purpose, positions)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        self.rows = inputs
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)


class Gradients(TrainerCallback):
    """Keeps the gradient of each optimizer step."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append(torch.cat([p.grad.flatten().clone() for p in model.parameters()]))


def flat(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def train(trainer):
    gradients = Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    return gradients.steps


def make(cls, folder, path, dataset, rewards=vowels, **changes):
    model = load_model(str(folder))
    return cls(
        model=model, reward_funcs=rewards, args=config(path, **changes), train_dataset=dataset,
        processing_class=load_tokenizer(str(folder)),
    )  # fmt: skip


def pure_gradient(trainer, model, batch, advantages_B, verdicts_B=None):
    """The gradient of the pure loss on a generation batch, and the completions' log-probabilities."""
    _, output, _ = batch
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -output["completion_ids"].shape[1] - 1 : -1]
    logprobs = logits.log_softmax(-1).gather(2, output["completion_ids"].unsqueeze(2)).squeeze(2)
    if verdicts_B is not None:
        entropies = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).detach()
        given = Tokens(advantages_B, entropies, output["completion_mask"], verdicts_B)
        advantages_B = token_advantages(trainer.objective, given)
    policy_loss(
        trainer.objective, logprobs, advantages_B, output["completion_mask"], max_completion_length=MAX_TOKENS,
        old_logprobs_BT=output.get("old_per_token_logps"),
    ).backward()  # fmt: skip
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), logprobs.detach()


def correct(trainer, batch):
    """1 for right completions of a generation batch, 0 for wrong ones, shape (P, G)."""
    return (batch[2].rewards_BF[:, 0] >= 0.5).float().view(-1, trainer.num_generations)


def expected_advantages(trainer, batch):
    """What the pure function makes of a generation batch of the first step."""
    rows, _, captured = batch
    groups = (-1, trainer.num_generations)
    return augmented_advantages(
        trainer.objective,
        captured.rewards_BF.sum(1).view(groups),
        torch.tensor([row["reference_rewards"] for row in rows[:: trainer.num_generations]]),
        shift=0,
        correct_PG=correct(trainer, batch),
        lengths_PG=captured.tokens_B.view(groups),
        truncated_PG=captured.truncated_B.view(groups),
        max_completion_length=MAX_TOKENS,
        values_PGF=captured.rewards_BF.unflatten(0, groups),
        weights_F=torch.ones(captured.rewards_BF.shape[1]),
        spare_PX=None if trainer.taught.spare is None else trainer.taught.spare.rewards_PXF.sum(2),
    )


OWN = """
from aapo.objective import Objective

def short_first(groups):
    assert groups.truncated_PG.dtype.is_signed is False and groups.max_completion_length == 6
    return groups.rewards_PG - groups.reference_rewards_PK.nanmean(1, keepdim=True) * groups.lengths_PG / 6

SHORT_FIRST = Objective(advantage=short_first, reads_reference=True, aggregation="sequence_mean")
"""


def some_slow(cases, quick):
    """Parameters, of which those that are not `quick` take their seconds only where slow tests are asked for."""
    return [pytest.param(*case, marks=() if quick(*case) else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    ("algorithm", "margin"),
    some_slow(
        [(name, margin) for margin in ("none", "expected", "paired") for name in (*ALGORITHMS, "own.py:SHORT_FIRST")],
        lambda name, margin: margin == "expected" or (name, margin) in (("aapo", "paired"), ("grpo", "none")),
    ),
)
def test_what_reaches_the_loss_is_the_objective(tiny_folder, tmp_path, addition, algorithm, margin):
    if ":" in algorithm:
        (tmp_path / "own.py").write_text(OWN)
        algorithm = str(tmp_path / algorithm)
    changes = {"algorithm": algorithm, "margin": margin, "judge_threshold": 0.5}
    trainer = make(Spy, tiny_folder, tmp_path, reference_column(addition), **changes)
    (gradient,) = train(trainer)
    assert (trainer.taught.spare is not None) == (algorithm == "reinforce-ada")
    (batch,) = trainer.batches
    _, output, _ = batch
    assert len(output["advantages"]) == (32 if algorithm == "grpo-2g" else 16)
    expected = expected_advantages(trainer, batch)
    lengths_B = output["completion_mask"].sum(1)
    scale_B = completion_weights(lengths_B, trainer.objective.aggregation, MAX_TOKENS) * lengths_B.sum()
    assert expected.augmented_PG.abs().max() > 0.01
    torch.testing.assert_close(output["advantages"], expected.augmented_PG.flatten() * scale_B, atol=1e-6, rtol=0)

    # The gradient of the whole step is that of the pure loss on the same rollouts.
    model = load_model(str(tiny_folder)).train()
    verdicts_B = verdicts(expected.dead_P, correct(trainer, batch)).flatten()
    pure, _ = pure_gradient(trainer, model, batch, expected.augmented_PG.flatten(), verdicts_B)
    torch.testing.assert_close(gradient, pure, atol=float(1e-4 * pure.abs().max()), rtol=0)


def right_wrong_or_vowels(prompts, completions, **columns):
    """A third of the groups are all right, a third all wrong."""
    numbers = [int(prompt[0]["content"].split()[1]) % 3 for prompt in prompts]
    return [(1.0, 0.0, value or 0.0)[n] for n, value in zip(numbers, vowels(completions), strict=True)]


@pytest.mark.parametrize("changes", [{}, {"margin": "expected", "aggregation": "sequence_mean"}])
def test_groups_without_contrast_are_learnt_from_by_the_entropies_of_tokens(tiny_folder, tmp_path, addition, changes):
    data = reference_column(addition)
    changes = {"algorithm": "rl_zvp", "judge_threshold": 0.5, "max_tokens_per_microbatch": 60, **changes}
    trainer = make(Spy, tiny_folder, tmp_path, data, rewards=right_wrong_or_vowels, **changes)
    (gradient,) = train(trainer)
    (batch,) = trainer.batches
    expected = expected_advantages(trainer, batch)
    verdicts_B = verdicts(expected.dead_P, correct(trainer, batch)).flatten()
    assert verdicts_B.unique().tolist() == [-1, 0, 1]
    model = load_model(str(tiny_folder)).train()
    pure, _ = pure_gradient(trainer, model, batch, expected.augmented_PG.flatten(), verdicts_B)
    torch.testing.assert_close(gradient, pure, atol=float(1e-4 * pure.abs().max()), rtol=0)
    assert len(trainer._window.columns["verdicts"]) == 16


def test_a_step_of_dead_groups_alone_is_not_called_silent_where_their_tokens_push(
    tiny_folder, tmp_path, addition, caplog
):
    for algorithm, zero in (("rl_zvp", 0), ("grpo", 1)):
        trainer = make(
            Spy, tiny_folder, tmp_path / algorithm, addition, rewards=lambda prompts, **columns: [1.0] * len(prompts),
            algorithm=algorithm, judge_threshold=0.5,
        )  # fmt: skip
        (gradient,) = train(trainer)
        assert bool(gradient.abs().max() == 0) is bool(zero)
        logged = [
            entry["signal/zero_gradient"] for entry in trainer.state.log_history if "signal/zero_gradient" in entry
        ]
        assert logged == [zero]
        assert ("every augmented advantage is zero" in caplog.text) is bool(zero)


CLIPPED = ("clip_ratio/region_mean", "cispo_clip_ratio")


@pytest.mark.parametrize(
    ("algorithm", "changes", "level"),
    some_slow(
        [
            (name, changes, level)
            for level in ("token", "sequence")
            for name, changes in (
                ("gspo", {"epsilon": 0.2, "epsilon_high": 0.2}),
                ("gspo", {"epsilon": 0.2, "epsilon_high": 0.1, "margin": "expected"}),
                ("grpo", {}),
                ("reinforce++", {}),
                ("cispo", {"max_importance_weight": 1.1}),
                ("aapo", {"max_importance_weight": 1.1}),
            )
        ],
        lambda name, changes, level: (name == "gspo") == (level == "sequence"),
    ),
)
def test_the_loss_of_stale_samples_is_the_pure_loss(tiny_folder, tmp_path, addition, algorithm, changes, level):
    class Weights(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            before.append({name: value.clone() for name, value in model.state_dict().items()})

    before = []
    trainer = make(
        Spy, tiny_folder, tmp_path, reference_column(addition), algorithm=algorithm, importance_sampling_level=level,
        num_iterations=2, max_steps=2, learning_rate=0.3, **changes,
    )  # fmt: skip
    trainer.eos_token_ids = [*trainer.eos_token_ids, *range(0, 300, 5)]  # so that lengths differ
    trainer.add_callback(Weights())
    _, gradient = train(trainer)
    (batch,) = trainer.batches
    model = load_model(str(tiny_folder)).train()
    model.load_state_dict(before[1])
    advantages_B = expected_advantages(trainer, batch).augmented_PG.flatten()
    pure, logprobs_BT = pure_gradient(trainer, model, batch, advantages_B)
    moved_BT = (logprobs_BT - batch[1]["old_per_token_logps"]) * batch[1]["completion_mask"]
    assert moved_BT.abs().max() > 0.1 and len(set(batch[1]["completion_mask"].sum(1).tolist())) > 2
    (clipped,) = (value for key, value in trainer.state.log_history[1].items() if key in CLIPPED)
    assert 0 < clipped < 1 and pure.abs().max() > 1e-3
    torch.testing.assert_close(gradient, pure, atol=float(1e-4 * pure.abs().max()), rtol=0)


def test_no_margin_is_trls_own_grpo(tiny_folder, tmp_path, addition):
    ours = make(Spy, tiny_folder, tmp_path, addition, algorithm="grpo", aggregation="token_mean")
    (gradient,) = train(ours)
    ((_, output, _),) = ours.batches

    class Replay(GRPOTrainer):
        """TRL's trainer on our rollouts."""

        def _generate_single_turn(self, prompt_ids, *args, **kwargs):
            ids = [
                row[mask.bool()].tolist()
                for row, mask in zip(output["completion_ids"], output["completion_mask"], strict=True)
            ]
            return ids, None

    args = config(tmp_path, algorithm="grpo").to_dict()
    from trl import GRPOConfig

    keep = {name: args[name] for name in GRPOConfig.__dataclass_fields__ if name in args}
    for name in ("epsilon", "epsilon_high", "scale_rewards", "steps_per_generation", "importance_sampling_level"):
        keep.pop(name)
    theirs = Replay(
        model=load_model(str(tiny_folder)), reward_funcs=vowels,
        args=GRPOConfig(**{**keep, "loss_type": "dapo", "scale_rewards": "group", "generation_batch_size": 16}),
        train_dataset=addition, processing_class=load_tokenizer(str(tiny_folder)),
    )  # fmt: skip
    theirs._get_train_sampler = ours._get_train_sampler  # the same prompts in the same order
    (reference,) = train(theirs)
    assert reference.abs().max() > 0
    torch.testing.assert_close(gradient, reference, atol=float(1e-4 * reference.abs().max()), rtol=0)


def test_unscored_completions_get_no_advantage(tiny_folder, tmp_path, addition):
    def half(completions, **columns):
        return [None if i % 2 else float(i % 4) for i in range(len(completions))]

    trainer = make(Spy, tiny_folder, tmp_path, reference_column(addition), rewards=half, judge_threshold=1.0)
    train(trainer)
    ((_, output, _),) = trainer.batches
    assert (output["advantages"][1::2] == 0).all() and (output["advantages"][::2] != 0).any()
    assert trainer.state.log_history[0]["rollout/unscored_frac"] == 0.5


@pytest.mark.parametrize(
    "algorithm",
    some_slow([("aapo",), ("grpo",), ("dr_grpo",), ("gspo",), ("reinforce++",)], lambda name: name in ("aapo", "gspo")),
)
def test_the_micro_batch_size_changes_nothing(tiny_folder, tmp_path, addition, algorithm):
    gradients = []
    for size, accumulation in ((16, 1), (4, 4), (2, 8)):
        trainer = make(
            AAPOTrainer, tiny_folder, tmp_path, reference_column(addition), algorithm=algorithm,
            per_device_train_batch_size=size, gradient_accumulation_steps=accumulation, max_steps=2,
        )  # fmt: skip
        gradients.append(train(trainer))
    for other in gradients[1:]:
        for whole, parts in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(parts, whole, atol=float(1e-4 * whole.abs().max()), rtol=0)


def test_stale_samples_get_a_truncated_importance_weight(tiny_folder, tmp_path, addition):
    trainer = make(
        Spy, tiny_folder, tmp_path, reference_column(addition), num_iterations=2, max_steps=2, max_importance_weight=1.5
    )
    train(trainer)
    ((_, output, _),) = trainer.batches  # one generation serves both steps
    assert "old_per_token_logps" in output
    assert trainer.loss_type == "cispo" and trainer.epsilon_high == 1.5


def test_a_bank_costs_no_second_model(tiny_folder, tmp_path, addition):
    trainer = make(AAPOTrainer, tiny_folder, tmp_path, reference_column(addition))
    assert trainer.ref_model is None and trainer._reference_model is None and trainer.beta == 0.0


def test_the_trainer_takes_a_bank_and_refuses_one_that_does_not_match(tiny_folder, tmp_path, addition):
    tokenizer = load_tokenizer(str(tiny_folder))

    def bank(name, **settings):
        sampling = SamplingSettings(max_completion_length=MAX_TOKENS, **settings)
        identity = bank_identity(
            model_identity(str(tiny_folder)), tokenizer_identity(tokenizer), sampling.describe(), [evenness], 0
        )
        engine = TransformersEngine(load_model(str(tiny_folder)), tokenizer, sampling)
        return ReferenceBank.build(tmp_path / name, addition, engine, [evenness], identity, num_samples=2)

    def trainer(reference_bank, **changes):
        return AAPOTrainer(
            model=str(tiny_folder), reward_funcs=evenness, args=config(tmp_path / "run", **changes),
            train_dataset=addition, reference_bank=reference_bank,
        )  # fmt: skip

    made = trainer(bank("right"))
    train(made)
    assert 0 <= made.state.log_history[0]["margin/reference_reward"] <= 1
    with pytest.raises(InputError, match="sampling.temperature: bank has 0.5, run has 1.0"):
        trainer(bank("cold", temperature=0.5))
    with pytest.raises(InputError, match="reference_bank has no effect, because the objective has no margin"):
        trainer(bank("right"), algorithm="grpo")
    with pytest.raises(InputError, match="aapo has a margin but no reference rewards; pass reference_bank"):
        trainer(None)


def odd_or_dead(prompts, completion_ids, **columns):
    """1 on prompts about even numbers; on the others 1 and 0 in turn, so that a whole group is never dead."""
    numbers = [int(prompt[0]["content"].split()[1]) for prompt in prompts]
    return [float(number % 2 == 0 or i % 2 == 0) for i, number in enumerate(numbers)]


def number_of(row):
    return int(row["prompt"][0]["content"].split()[1])


def sums(count):
    return Dataset.from_list(
        [{"prompt": [{"role": "user", "content": f"Calculate {n} + {n}."}], "answer": str(2 * n)} for n in range(count)]
    )


def test_dead_groups_are_drawn_again_with_fresh_prompts(tiny_folder, tmp_path):
    trainers = [
        make(Spy, tiny_folder, tmp_path / str(frac), sums(30), rewards=odd_or_dead, algorithm="grpo",
             min_live_frac=frac, rollouts_dir=str(tmp_path / str(frac)))
        for frac in (0.0, 1.0, 1.0)
    ]  # fmt: skip
    for trainer in trainers:
        train(trainer)
    plain, filled, again = ((trainer.batches[0], trainer.state.log_history[0]) for trainer in trainers)
    before, after = ([number_of(row) for row in batch[0][::4]] for batch, _ in (plain, filled))
    dead = [i for i, number in enumerate(before) if number % 2 == 0]
    assert 0 < len(dead) < 4 and all(number % 2 for number in after)
    # What was live is as it was, prompts and completions; what was dead is a prompt that the batch did not have.
    for i in range(4):
        rows = slice(4 * i, 4 * i + 4)
        same = torch.equal(plain[0][1]["completion_ids"][rows], filled[0][1]["completion_ids"][rows])
        assert (i in dead) == (before[i] != after[i]) == (not same)
    assert len(set(after)) == 4 and not {after[i] for i in dead} & set(before)
    assert (filled[0][1]["advantages"] != 0).all()

    logged = filled[1]
    assert "rollout/refill_rounds" not in plain[1] and 1 <= logged["rollout/refill_rounds"] <= 3
    assert logged["rollout/refilled_group_frac"] == len(dead) / 4 and logged["signal/dead_group_frac"] == 0
    # Every round draws the groups that are dead then, of 4 completions each, and nothing is drawn twice.
    extra = trainers[1].num_drawn - 16
    assert extra % 4 == 0 and len(dead) * 4 <= extra <= 3 * len(dead) * 4 and trainers[0].num_drawn == 16
    assert 5 * trainers[1].num_drawn < logged["rollout/generated_tokens"] <= 6 * trainers[1].num_drawn
    rows = pq.read_table(tmp_path / "1.0" / "step-000001.parquet").to_pylist()
    assert [row["prompt"] for row in rows[::4]] == [f"Calculate {number} + {number}." for number in after]
    assert [row["completion_tokens"] for row in rows] == filled[0][2].tokens_B.tolist()

    assert torch.equal(again[0][1]["completion_ids"], filled[0][1]["completion_ids"])
    assert [row["answer"] for row in again[0][0]] == [row["answer"] for row in filled[0][0]]


@pytest.mark.parametrize(("rounds", "prompts", "drawn"), [(1, 30, 2), (3, 30, 4), (5, 10, 2.5)])
def test_a_refill_of_nothing_but_dead_groups_ends(tiny_folder, tmp_path, rounds, prompts, drawn):
    # Batches of 4 prompts; of 10 there are 6 fresh ones, enough for a round and half of another.
    trainer = make(Spy, tiny_folder, tmp_path, sums(prompts), rewards=lambda completions, **_: [1.0] * len(completions),
                   algorithm="grpo", min_live_frac=0.5, max_refill_rounds=rounds)  # fmt: skip
    train(trainer)
    logged = trainer.state.log_history[0]
    assert trainer.num_drawn == drawn * 16
    assert logged["rollout/refill_rounds"] == math.ceil(drawn) - 1
    assert logged["signal/zero_gradient"] == 1


def test_a_refill_reads_the_reference_rewards_of_fresh_prompts(tiny_folder, tmp_path):
    # The reference fails where n is even and not a multiple of 4: there the margin revives a group.
    data = sums(30)
    data = data.add_column("reference_rewards", [[0.0 if n % 4 == 2 else 1.0] * 3 for n in range(30)])
    trainer = make(Spy, tiny_folder, tmp_path, data, rewards=odd_or_dead, min_live_frac=1.0)
    train(trainer)
    ((rows, output, captured),) = trainer.batches
    numbers = [number_of(row) for row in rows[::4]]
    assert all(number % 4 for number in numbers) and trainer.state.log_history[0]["rollout/refilled_group_frac"] > 0
    reference_PK = torch.tensor([[0.0 if number % 4 == 2 else 1.0] * 3 for number in numbers])
    rewards_PG = captured.rewards_BF[:, 0].view(4, 4)
    expected = augmented_advantages(trainer.objective, rewards_PG, reference_PK).augmented_PG.flatten()
    torch.testing.assert_close(output["advantages"], expected, atol=1e-6, rtol=0)


def test_a_refill_samples_a_live_reference_once_a_rollout(tiny_folder, tmp_path):
    def watched(prompts, completion_ids, trainer_state, log_extra, **columns):
        log_extra("call", [str(len(calls))] * len(prompts))
        calls.append((prompts, completion_ids))
        return [float(sum(ids) % 2 == 0) if number_of({"prompt": prompt}) % 2 else 1.0
                for prompt, ids in zip(prompts, completion_ids, strict=True)]  # fmt: skip

    calls = []
    trainer = make(
        Spy, tiny_folder, tmp_path, sums(30), rewards=watched, reference="live", min_live_frac=1.0,
        rollouts_dir=str(tmp_path / "rollouts"), max_refill_rounds=6,
    )  # fmt: skip
    train(trainer)
    logged = trainer.state.log_history[0]
    assert logged["rollout/refill_rounds"] >= 1 and len(calls) == 2 * (1 + logged["rollout/refill_rounds"]) + 1
    assert trainer.num_drawn == sum(len(prompts) for prompts, _ in calls[:-1])
    assert logged["rollout/generated_tokens"] == sum(len(ids) for _, rows in calls[:-1] for ids in rows)
    # The last call is TRL's, on the completions that were chosen; what the earlier ones logged is gone.
    ((_, output, captured),) = trainer.batches
    chosen = zip(output["completion_ids"], output["completion_mask"], strict=True)
    assert [row[mask.bool()].tolist() for row, mask in chosen] == calls[-1][1]
    rows = pq.read_table(tmp_path / "rollouts" / "step-000001.parquet").to_pylist()
    assert {row["call"] for row in rows} == {str(len(calls) - 1)}
    # Policy and reference are scored in turn, on the same prompts.
    for policy, reference in zip(calls[:-1:2], calls[1:-1:2], strict=True):
        assert policy[0] == reference[0]
    assert captured.rewards_BF.shape == (16, 1)


def test_a_refill_hands_on_what_another_engine_says_of_its_completions(tiny_folder, tmp_path, monkeypatch):
    class Engine(Spy):
        drawn = 0

        def _generate_single_turn(self, prompt_ids, *args, **kwargs):
            if self._drawn is not None:
                return super()._generate_single_turn(prompt_ids, *args, **kwargs)
            Engine.drawn += len(prompt_ids)
            ids = [[token % 200 for token in row[-3:]] for row in prompt_ids]
            return ids, [[-float(sum(row)) for _ in row] for row in ids]

    trainer = make(Engine, tiny_folder, tmp_path, sums(30), rewards=odd_or_dead, algorithm="grpo", min_live_frac=1.0)
    train(trainer)
    ((rows, output, _),) = trainer.batches
    assert all(number_of(row) % 2 for row in rows) and Engine.drawn > 16
    for ids, logprobs in zip(output["completion_ids"], output["sampling_per_token_logps"], strict=True):
        assert logprobs.tolist() == [-float(ids.sum())] * 3


def test_a_refill_serves_several_steps_and_several_batches_a_step(tiny_folder, tmp_path):
    drawn = []
    for steps_per_generation, accumulation, size in ((4, 2, 4), (1, 2, 16)):
        trainer = make(
            Spy, tiny_folder, tmp_path, sums(60), rewards=odd_or_dead, algorithm="grpo", min_live_frac=1.0,
            per_device_train_batch_size=size, gradient_accumulation_steps=accumulation, max_steps=2,
            steps_per_generation=steps_per_generation, max_refill_rounds=8,
        )  # fmt: skip
        train(trainer)
        batches = [[number_of(row) for row in rows[::4]] for rows, _, _ in trainer.batches]
        assert all(number % 2 for numbers in batches for number in numbers)
        drawn.append(batches)
    assert [len(batches) for batches in drawn] == [1, 2]
    # Two batches of one step have fresh prompts of their own.
    assert drawn[1][0] != drawn[1][1]


def test_a_refill_judges_each_step_of_a_window_as_it_is_taught(tiny_folder, tmp_path):
    # Nothing is ever right. At step 0 each rollout meets one of the reference samples 0 to 3, at step 1 of 1 to 4.
    data = sums(40).add_column("reference_rewards", [[0.0, 0.0, 0.0, 0.0, 1.0]] * 40)
    trainer = make(
        Spy, tiny_folder, tmp_path, data, rewards=lambda completions, **_: [0.0] * len(completions),
        algorithm="aapo-paired", min_live_frac=1.0, max_refill_rounds=2, per_device_train_batch_size=8,
        steps_per_generation=2, max_steps=2,
    )  # fmt: skip
    train(trainer)
    first, second = trainer.state.log_history[:2]
    assert first["rollout/refilled_group_frac"] == 0.5 and trainer.num_drawn == 16 + 2 * 8
    assert (first["signal/zero_gradient"], second["signal/zero_gradient"]) == (1.0, 0.0)


def seldom(prompts, completion_ids, **columns):
    """1 where the token ids sum to a multiple of 6; on prompts about multiples of 3 nothing is ever right."""
    numbers = [number_of({"prompt": prompt}) for prompt in prompts]
    return [float(number % 3 > 0 and sum(ids) % 6 == 0) for number, ids in zip(numbers, completion_ids, strict=True)]


ADA = {"algorithm": "reinforce-ada", "judge_threshold": 1.0, "rewards": seldom}


def groups_of(batch):
    """Numbers, rewards and completions of each group of a batch."""
    rows, output, captured = batch
    ids = [
        tuple(row[mask.bool()].tolist())
        for row, mask in zip(output["completion_ids"], output["completion_mask"], strict=True)
    ]
    rewards = captured.rewards_BF[:, 0].tolist()
    return [(number_of(rows[i]), rewards[i : i + 4], ids[i : i + 4]) for i in range(0, len(rows), 4)]


def test_prompts_are_drawn_again_until_some_rollouts_are_right(tiny_folder, tmp_path):
    trainers = [
        make(Spy, tiny_folder, tmp_path / name, sums(30), rollouts_dir=str(tmp_path / name), max_refill_rounds=8,
             **{**ADA, "redraw": name})
        for name in ("none", "balanced", "right")
        if name != "none"
    ]  # fmt: skip
    plain = make(Spy, tiny_folder, tmp_path / "none", sums(30), **{**ADA, "redraw": "none"})
    for trainer in (plain, *trainers):
        train(trainer)
    firsts = groups_of(plain.batches[0])
    assert {number % 3 == 0 for number, *_ in firsts} == {True, False}
    for trainer, needed in zip(trainers, (2, 1), strict=True):
        found, logged, spare = groups_of(trainer.batches[0]), trainer.state.log_history[0], trainer.taught.spare
        num_rounds = []
        for (number, first, ids), (again, rewards, kept), spare_X in zip(
            firsts, found, spare.rewards_PXF[:, :, 0], strict=True
        ):
            beside = spare_X[~spare_X.isnan()].tolist()
            rounds = len(beside) // 4
            num_rounds.append(rounds)
            assert number == again and len(rewards) + len(beside) == 4 * (1 + rounds)
            # Nothing is drawn for a prompt that has enough, and one that never does is drawn to the bound.
            assert (rounds == 0) == (sum(first) >= needed and (needed == 1 or sum(first) <= 2))
            assert rounds == 8 or sum(rewards + beside) >= needed
            if number % 3 == 0:
                assert rounds == 8 and sum(rewards) == 0
            assert sum(rewards) == min(2, sum(rewards + beside)), "half of the group, or all that are right"
            # The first rollouts are those without further rounds, and the others are new ones.
            assert len(set(kept)) == 4 and (rounds > 0 or kept == ids)
            mean = sum(rewards + beside) / (4 + len(beside))
            place = 4 * (len(num_rounds) - 1)
            expected = torch.tensor(rewards) - mean
            torch.testing.assert_close(trainer.batches[0][1]["advantages"][place : place + 4], expected)
        assert trainer.num_drawn == 16 + 4 * sum(num_rounds) and max(num_rounds) == 8 > min(num_rounds)
        assert logged["rollout/refill_rounds"] == 8
        assert logged["rollout/refilled_group_frac"] == sum(rounds > 0 for rounds in num_rounds) / 4
        assert 5 * trainer.num_drawn < logged["rollout/generated_tokens"] <= 6 * trainer.num_drawn
        assert (
            logged["rollout/accuracy"]
            == plain.state.log_history[0]["rollout/accuracy"]
            == pytest.approx(sum(sum(first) for _, first, _ in firsts) / 16)
        )


def test_a_run_that_drew_prompts_again_replays_as_it_learnt(tiny_folder, tmp_path):
    trainer = make(
        Spy, tiny_folder, tmp_path, sums(60), rollouts_dir=str(tmp_path / "samples"), max_steps=4, overlong_buffer=0.5,
        per_device_train_batch_size=8, steps_per_generation=2, **ADA,
    )  # fmt: skip
    trainer.eos_token_ids = [*trainer.eos_token_ids, *range(0, 300, 5)]  # so that lengths differ
    train(trainer)
    assert len(trainer.batches) == 2, "each draw serves two steps"
    run = RunDirectory(tmp_path)
    run.write_recipe({"fields": {"max_completion_length": MAX_TOKENS}})
    spared, differ = [], []
    for step in (1, 2, 3, 4):
        (batch,) = read_step(run, step)
        spared.append(0 if batch.spare_PX is None else int((~batch.spare_PX.isnan()).sum()))
        again = pushes(trainer.objective, batch, MAX_TOKENS)
        torch.testing.assert_close(again.augmented_PG, batch.augmented_PG, atol=1e-6, rtol=0)
        alone = pushes(trainer.objective, batch._replace(spare_PX=None), MAX_TOKENS).augmented_PG
        differ.append(not torch.allclose(alone, batch.augmented_PG))
    assert any(differ) and sum(spared) + 2 * 16 == trainer.num_drawn


@pytest.mark.parametrize("live", [False, True])
def test_a_prompt_that_is_drawn_again_keeps_its_reference_rewards(tiny_folder, tmp_path, live):
    data, changes = sums(30).add_column("reference_rewards", [[n / 30, 0.0] for n in range(30)]), {}
    if live:
        data, changes = sums(30), {"reference": "live"}
    trainer = make(Spy, tiny_folder, tmp_path, data, margin="expected", **changes, **ADA)
    train(trainer)
    reference_PK, spare = trainer.taught.reference.rewards_PK, trainer.taught.spare
    drawn_again = int((~spare.rewards_PXF.isnan()).sum())
    assert trainer.num_drawn == 16 + drawn_again + 16 * live and drawn_again >= 4
    if not live:
        numbers = [number for number, *_ in groups_of(trainer.batches[0])]
        torch.testing.assert_close(reference_PK, torch.tensor([[number / 30, 0.0] for number in numbers]))


def test_a_resumed_run_draws_again_what_the_uninterrupted_one_does(tiny_folder, tmp_path):
    settings = {
        **ADA, "max_steps": 6, "save_strategy": "steps", "save_steps": 3, "optim": "adamw_torch", "learning_rate": 1e-3,
        "per_device_train_batch_size": 8, "steps_per_generation": 2, "weighted_sample": True, "sample_strategy": "hard",
    }  # fmt: skip
    whole = make(Spy, tiny_folder, tmp_path, sums(30), **settings)
    whole.train()
    resumed = make(Spy, tiny_folder, tmp_path, sums(30), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    # Step 4 learns from what was drawn before the checkpoint.
    assert [len(trainer.batches) for trainer in (whole, resumed)] == [3, 1]
    assert groups_of(resumed.batches[0]) == groups_of(whole.batches[2])
    for name, parameter in whole.model.named_parameters():
        torch.testing.assert_close(parameter, dict(resumed.model.named_parameters())[name], atol=1e-6, rtol=0)
    before, log, again = (trainer.state.log_history[i] for trainer, i in ((whole, 2), (whole, 4), (resumed, 4)))
    assert again["rollout/accuracy"] == log["rollout/accuracy"] and again["signal/bias"] == log["signal/bias"]
    generated = log["rollout/generated_tokens"] - before["rollout/generated_tokens"]
    assert again["rollout/generated_tokens"] == generated > 16 * 5 + 4 * 5


def test_the_curriculum_learns_from_what_a_prompt_was_first_drawn_with(tiny_folder, tmp_path):
    settings = {**ADA, "weighted_sample": True, "sample_strategy": "hard"}
    trainers = [make(Spy, tiny_folder, tmp_path, sums(30), **settings, redraw=until) for until in ("none", "balanced")]
    for trainer in trainers:
        train(trainer)
    assert groups_of(trainers[0].batches[0]) != groups_of(trainers[1].batches[0])
    rows = trainers[0].batches[0][0]
    keys = list(dict.fromkeys(trainers[0]._key(row) for row in rows))
    means = [trainer._choice.metrics(keys)["prompts/mean_accuracy"] for trainer in trainers]
    assert means[0] == means[1] == trainers[1].state.log_history[0]["rollout/accuracy"]


def test_dapo_counts_the_overlong_penalty_in_the_advantage_only(tiny_folder, tmp_path):
    def longer(completion_ids, **columns):
        return [1.0] * len(completion_ids)

    trainer = make(Spy, tiny_folder, tmp_path, reference_column(sums(30)), rewards=longer, algorithm="dapo",
                   overlong_buffer=0.5, margin="expected", max_refill_rounds=1)  # fmt: skip
    trainer.eos_token_ids = [*trainer.eos_token_ids, *range(0, 300, 5)]
    train(trainer)
    (batch,) = trainer.batches
    expected = expected_advantages(trainer, batch)
    lengths_B = batch[2].tokens_B.float()
    assert len(set(lengths_B.tolist())) > 2
    penalty_PG = -((lengths_B - 3) / 3).clamp(min=0).view(4, 4)  # the last 3 of 6 tokens
    centred_PG = penalty_PG - penalty_PG.mean(1, keepdim=True)
    torch.testing.assert_close(expected.advantage_PG, centred_PG / (penalty_PG.std(1, keepdim=True) + 1e-4))
    reference_PK = torch.tensor([row["reference_rewards"] for row in batch[0][::4]])
    margin_P1 = (1 - reference_PK).clamp(-0.2, 0.28).nanmean(1, keepdim=True)
    torch.testing.assert_close(expected.margin_PG, margin_P1.expand(4, 4))
    torch.testing.assert_close(batch[1]["advantages"], expected.augmented_PG.flatten(), atol=1e-6, rtol=0)
    logged = trainer.state.log_history[0]
    assert logged["rollout/overlong_penalty"] == pytest.approx(penalty_PG.mean().item(), abs=1e-6)
    assert logged["reward"] == 1


@pytest.mark.parametrize(("every", "alpha"), [(1, 0.25), (2, 1.0)])
def test_a_live_reference_may_follow_the_policy(tiny_folder, tmp_path, addition, every, alpha):
    class Weights(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            policy.append(flat(model))
            reference.append(flat(trainer._reference_model))

    policy, reference = [], []
    trainer = make(
        Spy, tiny_folder, tmp_path, addition, reference="live", sync_ref_model=True, ref_model_sync_steps=every,
        ref_model_mixup_alpha=alpha, max_steps=3, learning_rate=5.0,
    )  # fmt: skip
    assert trainer.args.sync_ref_model and trainer.ref_model is None
    expected = flat(trainer._reference_model)
    trainer.add_callback(Weights())
    trainer.train()
    for step, (new, found) in enumerate(zip(policy, reference, strict=True), 1):
        if step % every == 0:
            expected = alpha * new + (1 - alpha) * expected
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert (reference[-1] - policy[-1]).abs().max() > 1e-3


def test_a_resumed_run_goes_on_with_the_reference_that_followed(tiny_folder, tmp_path, addition):
    settings = {
        "reference": "live", "sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5,
        "max_steps": 3, "save_strategy": "steps", "save_steps": 2, "learning_rate": 5.0,
    }  # fmt: skip
    whole = make(Spy, tiny_folder, tmp_path, addition, **settings)
    whole.train()
    resumed = make(Spy, tiny_folder, tmp_path, addition, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, parameter in whole._reference_model.named_parameters():
        torch.testing.assert_close(
            dict(resumed._reference_model.named_parameters())[name], parameter, atol=1e-6, rtol=0
        )
    torch.testing.assert_close(resumed.batches[0][1]["advantages"], whole.batches[2][1]["advantages"])


def test_adapters_have_no_reference_that_could_follow(tiny_folder, tmp_path, addition):
    from peft import LoraConfig

    with pytest.raises(InputError, match="^sync_ref_model does not go with adapters, whose reference is the model"):
        AAPOTrainer(
            model=load_model(str(tiny_folder)), reward_funcs=evenness, train_dataset=addition,
            args=config(tmp_path, reference="live", sync_ref_model=True),
            processing_class=load_tokenizer(str(tiny_folder)),
            peft_config=LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        )  # fmt: skip


def test_trl_is_not_told_of_what_it_would_misunderstand(tiny_folder, tmp_path, addition, caplog):
    with caplog.at_level("WARNING"):
        trainer = make(
            AAPOTrainer, tiny_folder, tmp_path, addition, algorithm="grpo", importance_sampling_level="sequence"
        )
    assert "importance_sampling_level" not in caplog.text
    assert trainer.args.importance_sampling_level == trainer.importance_sampling_level == "sequence"


def test_twice_the_rollouts_of_as_many_prompts(tiny_folder, tmp_path, addition):
    batches = {}
    for algorithm in ("grpo", "grpo-2g"):
        trainer = make(Spy, tiny_folder, tmp_path, addition, algorithm=algorithm, per_device_train_batch_size=4,
                       gradient_accumulation_steps=2, max_steps=4)  # fmt: skip
        train(trainer)
        batches[algorithm] = [[row["answer"] for row in rows] for rows, _, _ in trainer.batches]
        assert trainer.state.epoch == 1.0  # 2 of 8 prompts a step
    assert [len(rows) for rows in batches["grpo"]] == [8] * 4 and [len(rows) for rows in batches["grpo-2g"]] == [16] * 4
    for once, twice in zip(batches["grpo"], batches["grpo-2g"], strict=True):
        assert once[::4] == twice[::8]  # the same prompts, with 4 and with 8 rollouts


def test_live_reference_scores_the_references_own_completions(tiny_folder, tmp_path, addition):
    seen = []

    def watched(prompts, completions, completion_ids, **columns):
        seen.append([tuple(ids) for ids in completion_ids])
        return evenness(completion_ids)

    trainer = make(Spy, tiny_folder, tmp_path, addition, rewards=watched, reference="live", max_steps=2,
                   learning_rate=20.0)  # fmt: skip
    before = {name: p.clone() for name, p in trainer._reference_model.named_parameters()}
    train(trainer)
    assert all(torch.equal(p, before[name]) for name, p in trainer._reference_model.named_parameters())
    assert any(not torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())
    # The reference samples what the initial model samples, and the policy by now does not.
    ids = [[1, 5, 9], [2, 6]]
    drawn = trainer._draw(trainer._reference_model, ids, "reference")
    assert drawn == trainer._draw(load_model(str(tiny_folder)), ids, "reference")
    assert drawn != trainer._draw(trainer.model, ids, "reference")
    # Two scorings a step, of different completions: the reference's are not the policy's.
    assert len(seen) == 4 and seen[0] != seen[1]
    for (_, output, captured), reference_ids in zip(trainer.batches, (seen[0], seen[2]), strict=True):
        reference_PK = torch.tensor([float(sum(ids) % 2 == 0) for ids in reference_ids]).view(-1, 4)
        rewards_PG = captured.rewards_BF[:, 0].view(-1, 4)
        expected = augmented_advantages(trainer.objective, rewards_PG, reference_PK)
        torch.testing.assert_close(output["advantages"], expected.augmented_PG.flatten(), atol=1e-6, rtol=0)


def test_prompts_are_encoded_as_the_bank_encodes_them(tiny_folder, tmp_path):
    user = {"role": "user", "content": "Hi"}
    prompts = [[user], [user, {"role": "assistant", "content": "<think>"}]]
    data = Dataset.from_list([{"prompt": prompt, "answer": "1"} for prompt in prompts * 4])
    trainer = make(AAPOTrainer, tiny_folder, tmp_path, reference_column(data))
    tokenizer = trainer._tokenizer
    encoded, images, fields = trainer._tokenize_prompts(prompts)
    assert (images, fields) == (None, {})
    assert encoded == [as_prompt({"prompt": prompt, "answer": "1"}, tokenizer).ids for prompt in prompts]
    assert tokenizer.decode(encoded[1]).endswith("assistant\n<think>")


def test_plain_prompts_and_lora_with_a_live_reference(tiny_folder, tmp_path):
    from peft import LoraConfig

    plain = Dataset.from_list([{"prompt": f"{n} + {n} =", "answer": str(2 * n)} for n in range(8)])
    trainer = AAPOTrainer(
        model=load_model(str(tiny_folder)), reward_funcs=evenness, args=config(tmp_path, reference="live"),
        train_dataset=plain, processing_class=load_tokenizer(str(tiny_folder)),
        peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    assert trainer.ref_model is None and "margin/reference_reward" in trainer.state.log_history[0]


def test_evaluation_during_training_groups_by_prompt_and_needs_no_bank(tiny_folder, tmp_path, addition):
    groups = []

    def watched(prompts, completions, **columns):
        groups.append([prompt[0]["content"] for prompt in prompts])
        return [float(len(c[0]["content"]) % 2) for c in completions]

    trainer = AAPOTrainer(
        model=load_model(str(tiny_folder)), reward_funcs=watched, train_dataset=reference_column(addition),
        args=config(
            tmp_path, eval_strategy="steps", eval_steps=1, num_generations_eval=2, per_device_eval_batch_size=4
        ),
        eval_dataset=addition.select(range(4)), processing_class=load_tokenizer(str(tiny_folder)),
    )  # fmt: skip
    trainer.train()
    evaluated = groups[1:]
    assert len(evaluated) == 2
    for prompts in evaluated:
        assert prompts[0] == prompts[1] and prompts[2] == prompts[3] and prompts[0] != prompts[2]
    assert any("eval_reward" in row for row in trainer.state.log_history)


def late(prompts, completion_ids, **columns):
    """1 on the numbers from 4 on."""
    return [float(number_of({"prompt": prompt}) >= 4) for prompt in prompts]


HELD_OUT_SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
from aapo.ranks import finish
from test_trainer import AAPOTrainer, config, evenness, late, load_model, load_tokenizer, reference_column, sums
logs = []
for num_problems, num_generations in ((10, 1), (5, 2)):  # 10 completions, 4 a batch of all processes
    args = config({out!r}, num_generations_eval=num_generations, ddp_backend="gloo", judge="late", judge_threshold=1.0,
                  per_device_train_batch_size=16 // int(sys.argv[1]), per_device_eval_batch_size=4 // int(sys.argv[1]))
    trainer = AAPOTrainer(model=load_model({folder!r}), reward_funcs=[late, evenness], args=args,
                          train_dataset=reference_column(sums(8)), eval_dataset=sums(num_problems),
                          processing_class=load_tokenizer({folder!r}))
    lengths, right = [], []
    scored = trainer._calculate_rewards
    def watched(inputs, prompts, completions, ids):
        rewards = scored(inputs, prompts, completions, ids)
        lengths.extend(map(len, ids)), right.extend(rewards[:, 1].tolist())
        return rewards
    trainer._calculate_rewards = watched
    trainer.evaluate()
    assert trainer.accelerator.num_processes == int(sys.argv[1])
    logs.append((trainer.state.log_history[-1], lengths, right))
if trainer.accelerator.is_main_process:
    torch.save(logs, sys.argv[2])
finish()
"""


@pytest.mark.slow
def test_evaluation_during_training_counts_every_completion_once(tiny_folder, tmp_path):
    script = tmp_path / "script.py"
    fields = {"tests": str(Path(__file__).parent), "folder": str(tiny_folder), "out": str(tmp_path / "out")}
    script.write_text(HELD_OUT_SCRIPT.format(**fields))
    results = []
    for processes in (1, 2):  # two repeat rows, so that the last batch is full on both
        saved = tmp_path / f"{processes}.pt"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        done = subprocess.run(
            [*launch, str(script), str(processes), str(saved)],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        results.append(torch.load(saved, weights_only=False))
    for (alone, lengths, right), (shared, *_), share in zip(*results, (6 / 10, 1 / 5), strict=True):
        assert len(lengths) == len(right) == 10  # what one process draws is the data set, once
        for log in (alone, shared):
            assert log["eval_rollout/accuracy"] == pytest.approx(share)
            assert log["eval_rewards/late/mean"] == pytest.approx(share)
            assert log["eval_rewards/late/std"] == pytest.approx(math.sqrt(share * (1 - share) * 10 / 9))
            assert log["eval_reward"] == pytest.approx(share + sum(right) / 10)
            assert log["eval_rewards/evenness/mean"] == pytest.approx(sum(right) / 10)
            assert log["eval_completions/mean_length"] == pytest.approx(sum(lengths) / 10)
            assert log["eval_completions/max_length"] == max(lengths)
        for key in ("eval_reward_std", "eval_frac_reward_zero_std", "eval_completions/clipped_ratio"):
            assert alone[key] == pytest.approx(shared[key])


def test_rollouts_are_stored_with_all_that_explains_them(tiny_folder, tmp_path, addition):
    trainer = make(
        Spy, tiny_folder, tmp_path, reference_column(addition), rewards=[vowels, evenness],
        rollouts_dir=str(tmp_path / "samples"), reward_weights=[1.0, 0.5],
    )  # fmt: skip
    train(trainer)
    ((_, output, _),) = trainer.batches
    rows = pq.read_table(tmp_path / "samples" / "step-000001.parquet").to_pylist()
    assert len(rows) == 16 and [row["sample"] for row in rows[:5]] == [0, 1, 2, 3, 0]
    for row, advantage in zip(rows, output["advantages"].tolist(), strict=True):
        parts = [row["reward/vowels"], 0.5 * row["reward/evenness"]]
        assert row["reward"] == pytest.approx(sum(part for part in parts if part is not None))
        assert row["augmented"] == pytest.approx(row["advantage"] + row["margin"], abs=1e-6)
        assert row["augmented"] == pytest.approx(advantage, abs=1e-6)
        assert len(row["reference_rewards"]) == 3


def test_what_reward_functions_say_is_stored_and_counted(tiny_folder, tmp_path, addition):
    def early(completions, trainer_state, log_extra, **columns):
        if not seen:
            log_extra("gold", ["said"] * len(completions))
        seen.append(1)
        return [1.0] * len(completions)

    seen: list[int] = []
    trainer = make(
        Spy, tiny_folder, tmp_path, addition, rewards=[early, noted], rollouts_dir=str(tmp_path / "samples"),
        reference="live", gradient_accumulation_steps=2, steps_per_generation=1, per_device_train_batch_size=8,
    )  # fmt: skip
    train(trainer)
    batches = [output["completion_ids"] for _, output, _ in trainer.batches]
    masks = [output["completion_mask"] for _, output, _ in trainer.batches]
    sums = [
        int((row * mask).sum())
        for ids, mask in zip(batches, masks, strict=True)
        for row, mask in zip(ids, mask, strict=True)
    ]
    rows = pq.read_table(tmp_path / "samples" / "step-000001.parquet").to_pylist()
    # Sampled in two turns, as one step; the reference's completions, which are scored first, leave no notes.
    assert len(rows) == 16 and [row["first"] for row in rows] == list(map(str, sums))
    assert all(row.get("note/gold") is None and row["gold"] for row in rows)
    outcomes = [row["verdict/noted"] for row in rows]
    assert outcomes == [("correct", "no_answer", "timeout", "unparseable_gold")[total % 4] for total in sums]
    # Every completion is paid 1.0 by the first function; the verdicts of the second say which are right.
    right = [{"correct": 1.0, "unparseable_gold": None}.get(outcome, 0.0) for outcome in outcomes]
    assert [row["correct"] for row in rows] == right and 0.0 in right
    logged = trainer.state.log_history[0]
    known = [value for value in right if value is not None]
    assert logged["rollout/accuracy"] == pytest.approx(sum(known) / len(known), abs=1e-6)
    assert logged["rollout/unscored_frac"] == pytest.approx(right.count(None) / 16, abs=1e-6)
    for outcome in ("no_answer", "timeout", "unparseable_gold"):
        assert logged[f"grading/{outcome}_frac"] == pytest.approx(outcomes.count(outcome) / 16, abs=1e-6)

    seen.clear()
    plain = make(
        Spy, tiny_folder, tmp_path, reference_column(addition), rewards=[early, evenness],
        rollouts_dir=str(tmp_path / "plain"), gradient_accumulation_steps=2, steps_per_generation=1,
        per_device_train_batch_size=8,
    )  # fmt: skip
    train(plain)
    rows = pq.read_table(tmp_path / "plain" / "step-000001.parquet").to_pylist()
    assert [row["note/gold"] for row in rows] == ["said"] * 16
    assert not any(key.startswith("grading/") for key in plain.state.log_history[0])


def test_notes_of_the_wrong_length_are_refused(tiny_folder, tmp_path, addition):
    def short(completions, log_extra, **columns):
        log_extra("said", ["once"])
        return [0.0] * len(completions)

    trainer = make(AAPOTrainer, tiny_folder, tmp_path, reference_column(addition), rewards=short)
    with pytest.raises(InputError, match=r"a reward function logged 1 values in column 'said' for 16 completions"):
        trainer.train()


def test_metrics_reach_tensorboard(tiny_folder, tmp_path, addition, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trainer = make(
        AAPOTrainer, tiny_folder, tmp_path, reference_column(addition), report_to="tensorboard", judge_threshold=0.5
    )
    train(trainer)
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    logged = {tag.removeprefix("train/"): events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    history = trainer.state.log_history[0]
    for key in ("reward", "margin/mean", "signal/dead_group_frac", "rollout/accuracy"):
        assert logged[key] == pytest.approx(history[key], abs=1e-6)


def test_unparseable_golds_are_counted_though_another_reward_scores(tiny_folder, tmp_path, addition):
    def unsure(completions, **columns):
        return [None] * len(completions)

    run, seen = RunDirectory(tmp_path), []
    trainer = make(
        AAPOTrainer, tiny_folder, tmp_path, reference_column(addition), rewards=[unsure, evenness], judge="unsure",
        judge_threshold=0.5,
    )  # fmt: skip
    trainer.add_callback(Recorder(run, lambda done, note: seen.append((done, note)), Stop(print)))
    train(trainer)
    (row,) = run.metrics()
    assert row["rollout/unscored_frac"] == 1.0 and "rollout/accuracy" not in row
    assert seen[0][0] == 1 and "accuracy –" in seen[0][1]


def test_a_silent_step_warns_and_logs(tiny_folder, tmp_path, addition, caplog):
    trainer = make(AAPOTrainer, tiny_folder, tmp_path, addition, rewards=lambda completions, **_: [1.0] * 16,
                   algorithm="grpo")  # fmt: skip
    with caplog.at_level("WARNING", logger="aapo"):
        train(trainer)
    assert trainer.state.log_history[0]["signal/zero_gradient"] == 1.0
    assert trainer.state.log_history[0]["signal/dead_group_frac"] == 1.0
    assert "every augmented advantage is zero, so no reward is learnt from" in caplog.text


def test_a_resumed_run_is_the_uninterrupted_run(tiny_folder, tmp_path, addition):
    data = reference_column(addition)  # 8 prompts, 4 a step: the checkpoint at step 3 is in the second epoch
    settings = {
        "max_steps": 5,
        "save_strategy": "steps",
        "save_steps": 3,
        "optim": "adamw_torch",
        "learning_rate": 1e-3,
    }
    whole = make(Spy, tiny_folder, tmp_path / "whole", data, **settings)
    whole.train()
    resumed = make(Spy, tiny_folder, tmp_path / "whole", data, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert len(resumed.batches) == 2
    orders = [[row["answer"] for row in inputs[::4]] for inputs, _, _ in whole.batches]
    assert sorted(orders[0] + orders[1]) == sorted(orders[2] + orders[3])  # each epoch has every prompt
    assert orders[:2] != orders[2:4]  # and its own order
    for (inputs, output, _), (again, redone, _) in zip(whole.batches[3:], resumed.batches, strict=True):
        assert [row["answer"] for row in inputs] == [row["answer"] for row in again]
        assert torch.equal(output["completion_ids"], redone["completion_ids"])
    for name, parameter in whole.model.named_parameters():
        torch.testing.assert_close(parameter, dict(resumed.model.named_parameters())[name], atol=1e-6, rtol=0)


SCRIPT = """
import json, sys
sys.path.insert(0, {tests!r})
import torch
from datasets import Dataset
from aapo.ranks import finish
from test_trainer import Spy, config, evenness, load_model, load_tokenizer, noted, reference_column
rows = [
    {{"prompt": [{{"role": "user", "content": f"Calculate {{n}} + {{n}}."}}], "answer": str(2 * n)}}
    for n in range(1, 9)
]
size = 16 // int(sys.argv[1])
args = config({out!r}, per_device_train_batch_size=size, max_steps=4, ddp_backend="gloo",
              save_strategy="steps", save_steps=3, rollouts_dir={out!r} + "/rollouts-" + sys.argv[1])
trainer = Spy(model=load_model({folder!r}), reward_funcs=[evenness, noted], args=args,
              train_dataset=reference_column(Dataset.from_list(rows)), processing_class=load_tokenizer({folder!r}))
if trainer.accelerator.num_processes == 2:  # stopped in the middle of the second epoch, and resumed
    args.max_steps = 3
    trainer.train()
    args.max_steps = 4
    trainer = Spy(model=load_model({folder!r}), reward_funcs=[evenness, noted], args=args,
                  train_dataset=reference_column(Dataset.from_list(rows)),
                  processing_class=load_tokenizer({folder!r}))
    trainer.train(resume_from_checkpoint={out!r} + "/checkpoint-3")
else:
    trainer.train()
assert trainer.accelerator.num_processes == int(sys.argv[1])
if trainer.accelerator.is_main_process:
    weights = torch.cat([p.detach().flatten() for p in trainer.accelerator.unwrap_model(trainer.model).parameters()])
    torch.save({{"weights": weights, "log": trainer.state.log_history[0]}}, sys.argv[2])
finish()
"""


@pytest.mark.slow
def test_two_processes_that_resume_train_as_one_that_does_not(tiny_folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tiny_folder), out=str(tmp_path / "out"))
    )
    results = []
    for processes in (1, 2):
        saved = tmp_path / f"{processes}.pt"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        done = subprocess.run(
            [*launch, str(script), str(processes), str(saved)],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        results.append(torch.load(saved, weights_only=False))
    one, two = results
    torch.testing.assert_close(one["weights"], two["weights"], atol=1e-5, rtol=0)
    for key in ("reward", "rollout/accuracy", "margin/mean", "signal/dead_group_frac", "completions/mean_length",
                "grading/timeout_frac"):  # fmt: skip
        assert one["log"][key] == pytest.approx(two["log"][key], abs=1e-5), json.dumps(two["log"], default=str)
    folders = [tmp_path / "out" / f"rollouts-{processes}" for processes in (1, 2)]
    for step in (1, 2, 3, 4):
        alone, shared = (pq.read_table(folder / f"step-{step:06d}.parquet").to_pylist() for folder in folders)
        for name in ("completion", "verdict/noted", "reward/evenness"):
            assert [row[name] for row in alone] == [row[name] for row in shared]
        assert [row["first"] is None for row in shared] == [False] * 8 + [True] * 8


REFILL_SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
from aapo.ranks import finish
from test_trainer import Spy, config, even_sum_or_dead, flat, load_model, load_tokenizer, sums
results = []
for name, changes in (("dapo", {{"algorithm": "dapo", "max_refill_rounds": 4}}),
                      ("ada", {{"algorithm": "reinforce-ada", "judge_threshold": 1.0}}),
                      ("live", {{"reference": "live", "min_live_frac": 1.0, "sync_ref_model": True,
                                 "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5}})):
    args = config({out!r}, per_device_train_batch_size=12 // int(sys.argv[1]), max_steps=2, ddp_backend="gloo",
                  rollouts_dir={out!r} + "/" + name + sys.argv[1], **changes)
    trainer = Spy(model=load_model({folder!r}), reward_funcs=[even_sum_or_dead], args=args, train_dataset=sums(30),
                  processing_class=load_tokenizer({folder!r}))
    trainer.train()
    assert trainer.accelerator.num_processes == int(sys.argv[1])
    reference = flat(trainer._reference_model) if name == "live" else None
    results.append((flat(trainer.accelerator.unwrap_model(trainer.model)), reference, trainer.state.log_history))
if trainer.accelerator.is_main_process:
    torch.save(results, sys.argv[2])
finish()
"""


def even_sum_or_dead(prompts, completion_ids, **columns):
    """1 on prompts about even numbers; on the others whether the token ids sum to an even number."""
    numbers = [number_of({"prompt": prompt}) for prompt in prompts]
    return [float(number % 2 == 0 or sum(ids) % 2 == 0) for number, ids in zip(numbers, completion_ids, strict=True)]


@pytest.mark.slow
def test_two_processes_refill_as_one_does(tiny_folder, tmp_path):
    script = tmp_path / "script.py"
    fields = {"tests": str(Path(__file__).parent), "folder": str(tiny_folder), "out": str(tmp_path / "out")}
    script.write_text(REFILL_SCRIPT.format(**fields))
    saved = []
    for processes in (1, 2):  # of 3 groups of 4, the second is on both processes
        saved.append(tmp_path / f"{processes}.pt")
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        done = subprocess.run(
            [*launch, str(script), str(processes), str(saved[-1])],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for name, one, two in zip(
        ("dapo", "ada", "live"), *(torch.load(path, weights_only=False) for path in saved), strict=True
    ):
        torch.testing.assert_close(one[0], two[0], atol=1e-5, rtol=0)
        if name == "live":
            torch.testing.assert_close(one[1], two[1], atol=1e-5, rtol=0)
        assert sum(row["rollout/refill_rounds"] for row in one[2][:2]) >= 1
        for alone, shared in zip(one[2][:2], two[2][:2], strict=True):
            for key in (
                "rollout/refill_rounds",
                "rollout/refilled_group_frac",
                "signal/dead_after_margin_frac",
                "reward",
                "margin/mean",
            ):
                assert alone[key] == pytest.approx(shared[key], abs=1e-5)
        for step in (1, 2):
            rows = [
                pq.read_table(tmp_path / "out" / f"{name}{processes}" / f"step-{step:06d}.parquet").to_pylist()
                for processes in (1, 2)
            ]
            for key in ("prompt", "completion", "reward", "prompt_key"):
                assert [row[key] for row in rows[0]] == [row[key] for row in rows[1]]


@pytest.mark.parametrize(("num_processes", "fits"), [(1, True), (2, False)])
def test_split_groups_are_refused_where_a_reward_compares_them(num_processes, fits):
    # 12 rows a batch in groups of 4: one process has 3 groups, each of two has one and a half.
    trainer = SimpleNamespace(
        args=SimpleNamespace(generation_batch_size=12),
        accelerator=SimpleNamespace(num_processes=num_processes),
        reward_func_names=["accuracy", "len"],
        num_generations=4,
    )
    message = "'len' compares the completions of a group, and a process has 6 rows, which is no multiple of"
    with nullcontext() if fits else pytest.raises(InputError, match=message):
        check_groups(trainer)
    trainer.reward_func_names = ["accuracy"]
    check_groups(trainer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_dataset": Dataset.from_dict({"prompt": ["a"], "image": ["b"]})},
            "^the data set has images, and steps",
        ),
        ({"tools": [print]}, "^tools may return images, and steps learn from text only"),
        ({"environment_factories": {}}, "^environments may show images"),
    ],
)
def test_images_are_refused_which_no_step_would_learn_from(addition, changes, message):
    fields = {"train_dataset": addition, "tools": [], "environment_factories": None, "_is_vlm": True}
    check_text(SimpleNamespace(**fields))
    check_text(SimpleNamespace(**{**fields, **changes, "_is_vlm": False}))
    with pytest.raises(InputError, match=message):
        check_text(SimpleNamespace(**{**fields, **changes}))

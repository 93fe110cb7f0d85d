"""What the trainer stores of its rollouts, and what it logs of them, against the pure functions."""

import math

import pytest
import torch

from aapo.backends.trl import AAPOConfig, AAPOTrainer
from aapo.engines import load_model, load_tokenizer
from aapo.errors import InputError
from aapo.experiments.replay import pushes
from aapo.experiments.stored import read_step
from aapo.files import write_text
from aapo.objective import completion_weights, difficulty_diagnostics, rollout_diagnostics, signal_diagnostics
from aapo.runs import RunDirectory
from aapo.tasks import prompt_key, render_prompt

MAX_TOKENS = 6
THRESHOLD = 0.5


def vowels(completions, **columns):
    """A reward that varies on random text: the share of vowels, None for texts with a z."""
    texts = [completion[0]["content"] for completion in completions]
    return [None if "z" in text else min(sum(text.count(v) for v in "aeiou") / 2, 1.0) for text in texts]


class Spy(AAPOTrainer):
    """Keeps the advantages of every step."""

    results: list

    def _log_lessons(self, lessons):
        self.results = [*getattr(self, "results", []), *(lesson.advantages for lesson in lessons)]
        return super()._log_lessons(lessons)


def train(folder, path, data, **changes):
    """A trained trainer, steps of sixteen completions that are sampled in two turns."""
    settings = {
        "output_dir": str(path), "num_generations": 4, "per_device_train_batch_size": 8, "max_steps": 2,
        "gradient_accumulation_steps": 2, "steps_per_generation": 1, "max_completion_length": MAX_TOKENS, "bf16": False,
        "activation_checkpointing": False, "report_to": "none", "logging_steps": 1, "save_strategy": "no",
        "use_cpu": True, "disable_tqdm": True, "seed": 3, "rollouts_dir": str(path / "samples"),
        "judge_threshold": THRESHOLD,
    }  # fmt: skip
    reward_funcs = changes.pop("reward_funcs", vowels)
    trainer = Spy(
        model=load_model(str(folder)), reward_funcs=reward_funcs, args=AAPOConfig(**{**settings, **changes}),
        train_dataset=data, processing_class=load_tokenizer(str(folder)),
    )  # fmt: skip
    trainer.train()
    write_text(path / "recipe.yaml", "fields: {reward_weights: null}\n")  # as the run directory has it
    return trainer


def with_reference(dataset):
    rewards = [[((i * 7 + k * 3) % 5) / 4 for k in range(3)] for i in range(len(dataset))]
    rewards[0][1] = math.nan
    correct = [[None if math.isnan(reward) else float(reward >= THRESHOLD) for reward in of] for of in rewards]
    return dataset.add_column("reference_rewards", rewards).add_column("reference_correct", correct)


def right(rewards):
    """1 where a reward reaches the threshold, 0 where not, NaN without one."""
    return (rewards >= THRESHOLD).float().masked_fill(rewards.isnan(), math.nan)


@pytest.mark.parametrize(
    "changes",
    [{}, {"margin": "paired"}, {"algorithm": "gpg", "margin": "expected"}, {"algorithm": "gpg"}, {"algorithm": "dapo"}],
)
def test_stored_rollouts_give_the_trainers_advantages_back(tiny_folder, tmp_path, addition, changes):
    trainer = train(tiny_folder, tmp_path, with_reference(addition), **changes)
    run = RunDirectory(tmp_path)
    batches = [batch for step in run.rollout_steps() for batch in read_step(run, step)]
    assert [batch.step for batch in batches] == [1, 2] and len(trainer.results) == 2
    for batch, result in zip(batches, trainer.results, strict=True):
        torch.testing.assert_close(batch.augmented_PG, result.augmented_PG, rtol=0, atol=0)
        torch.testing.assert_close(batch.advantage_PG, result.advantage_PG, rtol=0, atol=0)
        torch.testing.assert_close(
            pushes(trainer.objective, batch, MAX_TOKENS).augmented_PG, result.augmented_PG, rtol=0, atol=0
        )
    assert any(batch.augmented_PG.abs().max() > 0.01 for batch in batches)


def test_a_run_without_a_bank_stores_the_keys_of_one(tiny_folder, tmp_path, addition):
    trainer = train(tiny_folder, tmp_path, addition, algorithm="grpo")
    keys = {
        row["prompt"][0]["content"]: prompt_key(render_prompt(row["prompt"], trainer._tokenizer), row["answer"])
        for row in addition
    }
    for step in (1, 2):
        rows = RunDirectory(tmp_path).rollouts(step)
        assert [row["prompt_key"] for row in rows] == [keys[row["prompt"]] for row in rows]
        assert [(row["batch"], row["group"], row["sample"]) for row in rows] == [
            (0, group, sample) for group in range(4) for sample in range(4)
        ]
        assert [row["correct"] for row in rows] == [
            None if row["reward"] is None else float(row["reward"] >= 0.5) for row in rows
        ]
        assert all("reference_rewards" not in row for row in rows)


def test_a_truncated_completion_that_is_masked_keeps_its_length(tiny_folder, tmp_path, addition):
    train(tiny_folder, tmp_path, addition, algorithm="grpo", mask_truncated_completions=True)
    rows = [row for step in (1, 2) for row in RunDirectory(tmp_path).rollouts(step)]
    assert any(row["truncated"] for row in rows)
    for row in rows:
        assert row["loss_tokens"] == (0 if row["truncated"] else row["completion_tokens"])
        assert row["completion_tokens"] == MAX_TOKENS or not row["truncated"]


def test_what_is_logged_is_what_the_stored_rollouts_say(tiny_folder, tmp_path, addition):
    trainer = train(tiny_folder, tmp_path, with_reference(addition))
    run = RunDirectory(tmp_path)
    for step, logged in zip((1, 2), trainer.state.log_history, strict=False):
        expected = []
        for batch, result in zip(read_step(run, step), trainer.results[step - 1 :], strict=False):
            correct_PG, reference_PK = right(batch.rewards_PG), batch.reference_PK
            weights = completion_weights(batch.loss_tokens_PG.flatten(), "token_mean", MAX_TOKENS)
            pull = weights.view(4, 4) * batch.loss_tokens_PG
            margin, whole = result.margin_PG.abs(), result.margin_PG.abs() + result.advantage_PG.abs()
            expected.append({
                **signal_diagnostics(result, batch.rewards_PG, correct_PG, reference_PK),
                **difficulty_diagnostics(result, batch.rewards_PG, correct_PG, right(reference_PK)),
                **rollout_diagnostics(correct_PG, batch.tokens_PG),
                "margin/gradient_share": float((pull * margin).sum() / (pull * whole).sum()),
            })  # fmt: skip
        for key in {name for values in expected for name in values}:
            present = [values[key] for values in expected if key in values]  # of the batches that have one
            assert logged[key] == pytest.approx(sum(present) / len(present), abs=1e-6), key
        assert "rollout/wrong_length" in logged
        low, high = logged["margin/clipped_low_frac"], logged["margin/clipped_high_frac"]
        assert low + high == pytest.approx(logged["margin/clipped_frac"], abs=1e-6) and low > 0 and high > 0
        assert "entropy" in logged


def test_every_engine_draws_the_same_rollouts_and_one_that_cannot_is_refused_at_once(tiny_folder, tmp_path, addition):
    drawn = {}
    for engine in ("auto", "places", "shedding", "static"):
        trainer = train(tiny_folder, tmp_path / engine, addition, algorithm="grpo", engine=engine, max_steps=1)
        drawn[engine] = RunDirectory(tmp_path / engine).rollouts(1)
        assert trainer.engine()["engine"] == ("places" if engine == "auto" else engine)
    assert drawn["auto"] == drawn["places"] == drawn["shedding"] == drawn["static"]
    with pytest.raises(InputError, match="engine is places, which is not possible, because repetition_penalty is 1.1"):
        train(tiny_folder, tmp_path / "no", addition, algorithm="grpo", engine="places", repetition_penalty=1.1)

"""The update loop: a step is what the recipe says, however it is cut, laid out, interrupted or short of memory."""

import logging
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from test_trainer import MAX_TOKENS, config, flat, load_model, load_tokenizer, reference_column, train, vowels
from transformers import AttentionInterface, Trainer

from aapo.backends.trl import AAPOConfig, AAPOTrainer, forward
from aapo.backends.trl.loss import MicroBatch
from aapo.backends.trl.packed import Row, token_scores
from aapo.backends.trl.update import UpdateTrainer
from aapo.engines.attention import ATTENTION, Segments, layout_attention
from aapo.errors import AapoError, InputError
from aapo.learning.micro_batches import Cut
from aapo.objective import policy_loss


class Uneven(AAPOTrainer):
    """Completions of 1 to 6 tokens, by their place, and every window that was learnt from."""

    windows: list

    def _draw(self, model, prompt_ids, purpose, positions=None):
        places = self._positions(len(prompt_ids)) if positions is None else positions
        drawn = super()._draw(model, prompt_ids, purpose, positions)
        return [ids[: 1 + place * 5 % MAX_TOKENS] for place, ids in zip(places, drawn, strict=True)]

    def _draw_window(self, generation_batch):
        window = super()._draw_window(generation_batch)
        assert self.model.training
        self.windows = [*getattr(self, "windows", []), window]
        return window


def dead_or_vowels(completions, prompts, **columns):
    """No group of an even prompt has a gradient."""
    numbers = [int(prompt[0]["content"].split()[1]) for prompt in prompts]
    return [0.5 if n % 2 == 0 else value or 0.0 for n, value in zip(numbers, vowels(completions), strict=True)]


def make(folder, path, dataset, rewards=vowels, cls=Uneven, **changes):
    return cls(
        model=load_model(str(folder)), reward_funcs=rewards, args=config(path, **changes), train_dataset=dataset,
        processing_class=load_tokenizer(str(folder)),
    )  # fmt: skip


def pure_gradient(trainer, model, rows):
    """The gradient of the pure loss of a step's rows, each scored by itself."""
    scores = []
    for prompt, completion in zip(rows["prompt_ids"], rows["completion_ids"], strict=True):
        logits = model(input_ids=torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
        scores.append(logits.log_softmax(-1).gather(1, completion[:, None])[:, 0])
    padded = torch.nn.utils.rnn.pad_sequence(scores, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(score) for score in scores], batch_first=True)
    # The aggregation is in the advantages, so that all tokens of the step weigh the same.
    loss = policy_loss(
        trainer.objective, padded, torch.stack(rows["advantages"]), mask.detach(), max_completion_length=MAX_TOKENS,
        weights_B=torch.full((len(scores),), 1 / sum(map(len, scores))),
    )  # fmt: skip
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def assert_same(gradient, expected, relative=1e-5):
    assert expected.abs().max() > 0
    assert float((gradient - expected).abs().max() / expected.abs().max()) < relative


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
def test_a_step_divides_by_its_own_tokens(tiny_folder, tmp_path, addition, aggregation):
    """Two steps of a window with different numbers of tokens: the loss of each is the pure loss of its rows."""
    trainer = make(
        tiny_folder, tmp_path, reference_column(addition), aggregation=aggregation, per_device_train_batch_size=4,
        gradient_accumulation_steps=2, steps_per_generation=4, max_steps=2, learning_rate=0.0,
    )  # fmt: skip
    gradients = train(trainer)
    (window,) = trainer.windows
    model = load_model(str(tiny_folder))
    tokens = []
    for index, gradient in enumerate(gradients):
        rows = window.step(index)
        tokens.append(sum(map(len, rows["completion_ids"])))
        assert_same(gradient, pure_gradient(trainer, model, rows))
    assert tokens[0] != tokens[1] and len(window.columns["advantages"]) == 16


@pytest.mark.parametrize("rescale", [{"algorithm": "gpg"}, {"algorithm": "grpo", "scale_rewards": "batch"}], ids=str)
def test_statistics_of_a_batch_are_the_steps(tiny_folder, tmp_path, addition, rescale):
    """Rollouts sampled in turns, as memory allows, are judged as those that are sampled at once."""
    gradients = []
    for accumulation, at_once in ((1, 1), (4, 1), (4, 2)):
        trainer = make(
            tiny_folder, tmp_path, addition, rewards=dead_or_vowels, **rescale, max_steps=2,
            per_device_train_batch_size=16 // accumulation, gradient_accumulation_steps=accumulation,
            steps_per_generation=at_once,
        )  # fmt: skip
        gradients.append(train(trainer))
        assert trainer.rows_at_once == 16 // accumulation * at_once
    for other in gradients[1:]:
        for gradient, expected in zip(other, gradients[0], strict=True):
            assert_same(gradient, expected)


CUTS = [
    {"max_tokens_per_microbatch": 40},
    {"max_tokens_per_microbatch": 40, "share_prompts": False},
    {"padding_free": False},
    {"skip_zero_advantages": False},
    {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "padding_free": False},
    {"activation_checkpointing": True},
]


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"num_iterations": 2, "algorithm": "gspo", "learning_rate": 1e-5},
        pytest.param({"beta": 0.1, "num_iterations": 2}, marks=pytest.mark.slow),
        pytest.param({"entropy_coef": 0.1, "beta": 0.1}, marks=pytest.mark.slow),
        pytest.param({"algorithm": "aapo", "mask_truncated_completions": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_no_cut_and_no_layout_changes_a_gradient(tiny_folder, tmp_path, addition, terms):
    data = reference_column(addition)
    settings = {"algorithm": "grpo", "max_steps": 2, "learning_rate": 0.01, **terms}
    data = data if settings["algorithm"] == "aapo" else addition
    found = []
    for changes in ({}, *CUTS):
        trainer = make(tiny_folder, tmp_path, data, rewards=dead_or_vowels, **settings, **changes)
        found.append((train(trainer), trainer.state.log_history))
    expected, history = found[0]
    for gradients, log in found[1:]:
        for gradient, other in zip(gradients, expected, strict=True):
            assert_same(gradient, other, 1e-4 if terms.get("beta") else 1e-5)
        for one, other in zip(log, history, strict=True):
            assert one.get("loss", 0) == pytest.approx(other.get("loss", 0), abs=1e-6)
    passes = [log[0]["update/micro_batches"] for _, log in found]
    assert passes[0] == 1 and passes[1] > 1 and passes[2] > passes[1]
    whole = "beta" in terms
    assert history[0]["update/skipped_frac"] == (0 if whole else 0.5)
    assert found[4][1][0]["update/skipped_frac"] == 0


@pytest.mark.parametrize("each", [False, True])
def test_gradients_are_synchronized_with_the_last_micro_batch_or_with_each(tiny_folder, tmp_path, addition, each):
    settings = {"accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": each}}}
    trainer = make(
        tiny_folder, tmp_path, addition, algorithm="grpo", max_steps=1, max_tokens_per_microbatch=40, **settings
    )
    alone = []
    trainer.accelerator.no_sync = lambda model: alone.append(model) or nullcontext()
    train(trainer)
    (passes,) = [log["update/micro_batches"] for log in trainer.state.log_history if "update/micro_batches" in log]
    assert passes > 1 and len(alone) == (0 if each else passes - 1)


def test_rows_that_stand_in_for_others_change_nothing(tiny_folder, tmp_path, addition):
    class WithOneMore(Uneven):
        def _cut(self, sizes, rows_per_pass, num_processes):
            found = super()._cut(sizes, rows_per_pass, num_processes)
            return Cut([*found.passes, found.passes[0]], [*found.repeated, [True]])

    (expected,), (gradient,) = (
        train(make(tiny_folder, tmp_path, addition, cls=cls, algorithm="grpo")) for cls in (Uneven, WithOneMore)
    )
    assert_same(gradient, expected)


def test_a_step_without_any_advantage_has_a_gradient_of_zero(tiny_folder, tmp_path, addition):
    trainer = make(tiny_folder, tmp_path, addition, rewards=lambda completions, **_: [1.0] * len(completions),
                   algorithm="grpo")  # fmt: skip
    (gradient,) = train(trainer)
    assert gradient.abs().max() == 0
    assert trainer.state.log_history[0]["update/skipped_frac"] == 1 - 1 / 16


def test_a_run_stopped_inside_a_window_goes_on_to_the_very_same_model(tiny_folder, tmp_path, addition):
    data = reference_column(addition)
    settings = {
        "per_device_train_batch_size": 8, "steps_per_generation": 2, "num_iterations": 2, "max_steps": 6,
        "save_strategy": "steps", "save_steps": 1, "save_total_limit": 10, "optim": "adamw_torch",
        "learning_rate": 1e-3,
    }  # fmt: skip
    whole = make(tiny_folder, tmp_path, data, **settings)
    whole.train()
    for step in (1, 2, 3, 4, 5):
        resumed = make(tiny_folder, tmp_path, data, **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert torch.equal(flat(resumed.model), flat(whole.model)), step
        assert len(getattr(resumed, "windows", [])) == (step <= 4)  # that of steps 5 and 6
    (tmp_path / "checkpoint-3" / "window.parquet").unlink()
    with pytest.raises(InputError, match="step 3 is between steps that learn from the same rollouts"):
        make(tiny_folder, tmp_path, data, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert not (tmp_path / "checkpoint-4" / "window.parquet").exists()


def test_a_training_that_is_begun_again_draws_rollouts_of_its_own(tiny_folder, tmp_path, addition):
    trainer = make(tiny_folder, tmp_path, addition, algorithm="grpo", num_iterations=2, max_steps=3)
    trainer.train()
    assert len(trainer.windows) == 2
    trainer.train()
    assert len(trainer.windows) == 4 and trainer.windows[2] is not trainer.windows[1]
    assert "rollout/generated_tokens" in trainer.state.log_history[0]


@pytest.mark.parametrize("fits", [60, 15])
def test_short_of_memory_a_step_is_taken_again_with_less_at_once(
    tiny_folder, tmp_path, addition, monkeypatch, caplog, fits
):
    expected = train(make(tiny_folder, tmp_path, reference_column(addition), max_steps=2))
    tried = []

    def step(self, model, inputs, num_items_in_batch=None):
        assert isinstance(inputs, MicroBatch)
        tokens = int(inputs["prompt_mask"].sum() + inputs["completion_mask"].sum())
        tried.append(tokens)
        if tokens > fits:
            raise torch.OutOfMemoryError("no memory")
        return original(self, model, inputs, num_items_in_batch)

    original = Trainer.training_step
    monkeypatch.setattr(Trainer, "training_step", step)
    trainer = make(tiny_folder, tmp_path, reference_column(addition), max_steps=2, share_prompts=False)
    if fits == 15:
        with pytest.raises(AapoError, match="out of memory with a single row of"):
            train(trainer)
        return
    with caplog.at_level(logging.WARNING):
        gradients = train(trainer)
    for gradient, other in zip(gradients, expected, strict=True):
        assert_same(gradient, other)
    assert max(tried) > fits and all(tokens <= fits for tokens in tried[-3:])
    said = [record.message for record in caplog.records if "out of memory" in record.message]
    assert said and all("from now on micro-batches have at most" in line for line in said)
    assert len(said) < 6  # remembered: the second step does not try again


def test_what_a_step_had_before_memory_was_short_is_forgotten(tiny_folder, tmp_path, addition, monkeypatch):
    tried, original = [], Trainer.training_step

    def step(self, model, inputs, num_items_in_batch=None):
        tried.append(len(inputs["advantages"]))
        if len(tried) == 2:
            raise torch.OutOfMemoryError("no memory")
        return original(self, model, inputs, num_items_in_batch)

    settings = {"algorithm": "grpo", "max_tokens_per_microbatch": 60}
    plain = make(tiny_folder, tmp_path, addition, **settings)
    (expected,) = train(plain)
    monkeypatch.setattr(Trainer, "training_step", step)
    again = make(tiny_folder, tmp_path, addition, **settings)
    (gradient,) = train(again)
    assert_same(gradient, expected)
    before, after = (trainer.state.log_history[0] for trainer in (plain, again))
    assert after["update/micro_batches"] == len(tried) - 2 > before["update/micro_batches"] > 1
    for name in ("loss", "entropy", "clip_ratio/region_mean"):
        assert after[name] == pytest.approx(before[name], abs=1e-6)


def test_every_process_scores_in_as_many_passes(monkeypatch):
    rows = [Row(torch.arange(3), torch.arange(n)) for n in (4, 3, 2)]
    plan = Cut([[[0]], [[1, 2]]], [[False], [False]])
    trainer = SimpleNamespace(_cut=lambda sizes, rows_per_pass, num_processes: plan)
    monkeypatch.setattr(forward, "gather_object", lambda items: [*items, 4])
    assert forward.ForwardTrainer._parts(trainer, rows, 2) == [[0], [1, 2], [0], [0]]


@pytest.mark.parametrize(
    ("changes", "tells_at_once"),
    [
        ({}, False),
        ({"top_entropy_quantile": 0.5}, False),
        ({"top_entropy_quantile": 0.5, "accelerator": SimpleNamespace(num_processes=2)}, True),
        ({"accelerator": SimpleNamespace(num_processes=2)}, False),
        ({"is_fsdp_enabled": True}, True),
        ({"is_deepspeed_enabled": True}, True),
    ],
    ids=str,
)
def test_no_process_leaves_out_a_pass_that_others_wait_in(changes, tells_at_once):
    fields = {
        "is_deepspeed_enabled": False, "is_fsdp_enabled": False, "top_entropy_quantile": 1.0,
        "accelerator": SimpleNamespace(num_processes=1),
    }  # fmt: skip
    assert UpdateTrainer._is_spread.fget(SimpleNamespace(**{**fields, **changes})) is tells_at_once


def test_stale_rows_are_scored_with_no_more_at_once_than_the_recipe_says(tiny_folder, tmp_path, addition, monkeypatch):
    held = []

    def watched(model, causal, layout, device):
        held.append(layout.inputs["input_ids"].numel())
        return token_scores(model, causal, layout, device)

    monkeypatch.setattr(forward, "token_scores", watched)
    trainer = make(
        tiny_folder, tmp_path, addition, algorithm="grpo", num_iterations=2, per_device_train_batch_size=2,
        gradient_accumulation_steps=8, padding_free=False,
    )  # fmt: skip
    train(trainer)
    (window,) = trainer.windows
    longest = sum(max(map(len, window.columns[name])) for name in ("prompt_ids", "completion_ids"))
    assert max(held) <= 2 * longest and len(held) > 8


@pytest.mark.parametrize("steps", [{}, {"num_iterations": 2, "max_steps": 2}], ids=str)
def test_a_layout_that_scores_otherwise_is_given_up(tiny_folder, tmp_path, addition, caplog, steps):
    expected = train(make(tiny_folder, tmp_path, reference_column(addition), **steps))

    def wrong(*args, layout, **kwargs):
        output, weights = layout_attention(*args, layout=layout, **kwargs)
        return (output.roll(1, 1) if type(layout) is Segments else output), weights

    AttentionInterface.register(ATTENTION, wrong)
    try:
        with caplog.at_level(logging.WARNING):
            gradients = train(make(tiny_folder, tmp_path, reference_column(addition), **steps))
    finally:
        AttentionInterface.register(ATTENTION, layout_attention)
    for gradient, other in zip(gradients, expected, strict=True):
        assert_same(gradient, other)
    (said,) = [record.message for record in caplog.records if "padding_free" in record.message]
    assert said.endswith("training goes on with padded rows")


@pytest.mark.parametrize(
    ("dtype", "shift", "kept"),
    [
        (torch.float32, 5e-4, True),
        (torch.float32, 2e-3, False),
        (torch.bfloat16, 4 * 0.037, True),  # the mean is what rounding made of SmolLM2-135M
        (torch.bfloat16, 4 * 0.10, False),  # and what completions one position off made
    ],
)
def test_a_layout_may_differ_by_rounding_and_no_more(tiny_folder, tmp_path, addition, monkeypatch, dtype, shift, kept):
    trainer = make(tiny_folder, tmp_path, reference_column(addition))
    trainer.model.to(dtype)
    monkeypatch.setattr(trainer, "_parts", lambda rows, size: [[0]])
    scores = torch.tensor([-1.0, -2.0, -3.0, -4.0])
    shifted = scores + torch.tensor([0, shift, 0, 0])
    monkeypatch.setattr(trainer, "_token_scores", lambda *_: (shifted if trainer._lays_out else scores, None))
    trainer._compare_layouts(trainer.model, [None])
    assert trainer._lays_out is kept


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps_per_generation": 3, "gradient_accumulation_steps": 2}, "steps_per_generation is 3; above"),
        ({"per_device_train_batch_size": 2, "steps_per_generation": 2}, "the batch of 2 completions"),
        ({"padding_free": False, "share_prompts": False}, "share_prompts is False but has no effect"),
    ],
    ids=str,
)
def test_steps_that_cannot_be_are_refused(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        AAPOConfig(**{"output_dir": str(tmp_path), "num_generations": 4, "bf16": False, "use_cpu": True, **changes})

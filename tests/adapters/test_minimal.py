"""The readable example and the trainer are the same algorithm: from the same rollouts they give the same gradient."""

import copy
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from aapo.backends.trl import AAPOConfig, AAPOTrainer
from aapo.base.config import BaseModelConfig
from aapo.base.model import new_model, train_tokenizer
from aapo.engines import TransformersEngine
from aapo.objective import augmented_advantages
from aapo.sampling import SamplingSettings
from aapo.tasks import render_prompt

NUM_PROMPTS, NUM_ROLLOUTS, NUM_REFERENCE = 8, 4, 3
MAX_COMPLETION_LENGTH = 40
# The trainer pads on the left, shuffles, cuts into other micro-batches and takes log-probabilities in tiles. That only
# changes the order of float32 sums over about 1,000 tokens, which costs about sqrt(1000) * 6e-8 = 2e-6 of the largest
# entry (1.2e-6 was measured). A wrong normaliser or one token too many is an error of percents.
TOLERANCE = 2e-5
TINY = BaseModelConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=280,
    max_position_embeddings=256,
)


@pytest.fixture(scope="module")
def minimal():
    """examples/minimal.py as a module."""
    path = Path(__file__).parents[2] / "examples" / "minimal.py"
    spec = importlib.util.spec_from_file_location("minimal", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["minimal"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny():
    """A random Qwen3 model and its tokenizer; prompts of different lengths."""
    torch.manual_seed(0)
    questions = [f"Add {'0' * i}{i} and {7 * i}." for i in range(NUM_PROMPTS)]
    tokenizer = train_tokenizer([f"user\n{question}\nassistant\n" for question in questions], TINY.vocab_size)
    return new_model(TINY, tokenizer), tokenizer, questions


def letters(completions, **columns):
    """A reward that a random model earns about one time in three, so that some groups are mixed and some dead."""
    texts = [completion[0]["content"] for completion in completions]
    return [float(sum(character.isalpha() for character in text) > 20) for text in texts]


class GradientsOfStep(TrainerCallback):
    """Keeps a copy of the gradients that the optimizer is about to use."""

    def __init__(self):
        self.by_name = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.by_name = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def trainer_step(model, tokenizer, questions, folder):
    """One optimizer step of AAPOTrainer in micro-batches of 8: its inputs, rollouts, rewards and gradients."""
    generator = torch.Generator().manual_seed(1)
    reference_PK = torch.randint(0, 2, (NUM_PROMPTS, NUM_REFERENCE), generator=generator).float()
    rows = [
        {"prompt": [{"role": "user", "content": question}], "answer": "", "reference_rewards": rewards_K}
        for question, rewards_K in zip(questions, reference_PK.tolist(), strict=True)
    ]
    gradients = GradientsOfStep()
    trainer = AAPOTrainer(
        model=model,
        reward_funcs=[letters],
        args=AAPOConfig(
            output_dir=str(folder),
            num_generations=NUM_ROLLOUTS,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=4,
            max_completion_length=MAX_COMPLETION_LENGTH,
            max_steps=1,
            max_grad_norm=0.0,
            beta=0.0,
            optim="sgd",
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[gradients],
    )
    seen = {}
    generate = trainer._generate_and_score_completions

    take = trainer._take_scored

    def remember(inputs):
        output = generate(inputs)
        seen.update(inputs=inputs, output=output)
        return output

    def scored():
        scores, notes = take()
        seen["rewards_BF"] = scores.rewards_BF
        return scores, notes

    trainer._generate_and_score_completions, trainer._take_scored = remember, scored
    trainer.train()
    return seen, gradients.by_name


def unpadded(ids_BT, mask_BT):
    return [ids_T[mask_T.bool()].tolist() for ids_T, mask_T in zip(ids_BT, mask_BT, strict=True)]


def relative_difference(model, gradients):
    """The largest difference of an entry, relative to the largest entry of its parameter, over all parameters."""
    return max(
        ((parameter.grad - gradients[name]).abs().max() / gradients[name].abs().max()).item()
        for name, parameter in model.named_parameters()
    )


def test_gradient_is_the_trainers(minimal, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(minimal, "MAX_COMPLETION_LENGTH", MAX_COMPLETION_LENGTH)
    model, tokenizer, questions = tiny
    ours = copy.deepcopy(model)
    seen, theirs = trainer_step(model, tokenizer, questions, tmp_path)

    output, rewards_PG = seen["output"], seen["rewards_BF"][:, 0].view(NUM_PROMPTS, NUM_ROLLOUTS)
    reference_PK = torch.tensor([row["reference_rewards"] for row in seen["inputs"]])[::NUM_ROLLOUTS]
    rollouts = minimal.Samples(
        unpadded(output["prompt_ids"], output["prompt_mask"]),
        unpadded(output["completion_ids"], output["completion_mask"]),
        rewards_PG,
    )
    result = augmented_advantages(minimal.AAPO, rewards_PG, reference_PK)
    # The case is worth its name: groups are mixed and dead, margins are not zero, lengths differ.
    assert 0 < result.dead_P.sum() < NUM_PROMPTS
    assert result.margin_PG.abs().max() > 0
    assert len({len(ids) for ids in rollouts.completion_ids}) > 1
    assert len({len(ids) for ids in rollouts.prompt_ids}) > 1
    # Both tokenize a prompt in the same way.
    rendered = [render_prompt(row["prompt"], tokenizer) for row in seen["inputs"]]
    assert tokenizer(rendered, add_special_tokens=False)["input_ids"] == rollouts.prompt_ids

    minimal.gradient_step(ours, rollouts, result.augmented_PG, micro_batch_size=12)
    assert theirs.keys() == dict(ours.named_parameters()).keys()
    assert relative_difference(ours, theirs) <= TOLERANCE
    # The tolerance tells AAPO from its neighbour without the margin.
    ours.zero_grad()
    minimal.gradient_step(ours, rollouts, result.advantage_PG, micro_batch_size=12)
    assert relative_difference(ours, theirs) > 1000 * TOLERANCE


def test_gradient_does_not_depend_on_the_micro_batches(minimal, tiny):
    model, _, _ = tiny
    generator = torch.Generator().manual_seed(2)

    def ids(length):
        return torch.randint(3, 250, (length,), generator=generator).tolist()

    rollouts = minimal.Samples(
        [ids(length) for length in (3, 3, 9, 9, 5, 5)], [ids(length) for length in (1, 12, 4, 7, 2, 30)], torch.empty(0)
    )
    augmented_PG = torch.tensor([[1.2, -0.9], [0.28, 0.0], [-0.2, 0.7]])
    gradients = []
    for micro_batch_size in (6, 4, 1):
        model.zero_grad()
        minimal.gradient_step(model, rollouts, augmented_PG, micro_batch_size)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).abs().max() <= TOLERANCE * gradients[0].abs().max()


def test_three_steps_run_and_change_every_weight(minimal, tiny, monkeypatch, capsys):
    # A random model never answers; a reward in its reach takes the place of accuracy.
    monkeypatch.setattr(minimal, "accuracy", lambda texts, golds: letters([[{"content": text}] for text in texts]))
    model, tokenizer, questions = tiny
    engine = TransformersEngine(model, tokenizer, SamplingSettings(max_completion_length=24))
    texts = [render_prompt([{"role": "user", "content": question}], tokenizer) for question in questions]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    prompts = [minimal.Prompt(text, token_ids, "") for text, token_ids in zip(texts, ids, strict=True)]
    reference = minimal.sample(engine, prompts, 3, "reference")
    bank = {prompt.text: rewards_K for prompt, rewards_K in zip(prompts, reference.rewards_PG, strict=True)}
    words = "--steps 3 --prompts-per-step 4 --rollouts 4 --micro-batch-size 8"
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}

    minimal.train(engine, prompts, bank, minimal.arguments(words.split()))

    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1", "2", "3"]


def test_samples_belong_to_their_names(minimal, tiny):
    model, tokenizer, questions = tiny
    engine = TransformersEngine(model, tokenizer, SamplingSettings(max_completion_length=8))
    ids = tokenizer(questions, add_special_tokens=False)["input_ids"]
    prompts = [minimal.Prompt(text, token_ids, "") for text, token_ids in zip(questions, ids, strict=True)]
    together = minimal.sample(engine, prompts, 2, 0, "rollout", 1).completion_ids
    assert minimal.sample(engine, prompts[3:4], 2, 0, "rollout", 1).completion_ids == together[6:8]
    assert minimal.sample(engine, prompts, 2, 0, "rollout", 2).completion_ids != together

"""AAPO from end to end in plain PyTorch: a tiny model learns to add three-digit numbers.

    python examples/minimal.py --steps 60

It takes about 3 minutes on 2 CPU cores and needs no network. Of `aapo` it uses the equations (`aapo.objective`) and
what surrounds them: the task, the grading, a base model, sampling. The rest of the algorithm stands here, in the order
in which it happens. `aapo train quickstart` does it on TRL; `tests/adapters/test_minimal.py` checks that the gradients
are the same.

Shapes: P prompts, G rollouts per prompt, K reference samples per prompt, B = P * G sequences, T tokens, V vocabulary.
"""

import argparse
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aapo.base.cache import build_base
from aapo.base.config import BaseModelConfig
from aapo.engines import TransformersEngine, load_model, load_tokenizer
from aapo.grading import accuracy
from aapo.objective import ALGORITHMS, augmented_advantages, completion_weights, policy_loss
from aapo.sampling import SamplingSettings, sample_seed
from aapo.tasks import DataConfig, load_prompts, render_prompt

# Group mean and deviation, a margin clipped to [-0.2, 0.28], cross-entropy, token mean. Others are other keys.
AAPO = ALGORITHMS["aapo"].objective
MAX_COMPLETION_LENGTH = 64
# The same task, and so the same base model in the cache, as the quickstart recipe.
TASK: dict[str, Any] = {
    "dataset_name": "reasoning_gym:basic_arithmetic",
    "dataset_settings": {
        "min_terms": 2, "max_terms": 2, "min_digits": 3, "max_digits": 3, "operators": ["+"],
        "allow_parentheses": False,
    },
    "system_prompt": "Think in <think></think>, then answer in <answer></answer>.",
}  # fmt: skip


class Prompt(NamedTuple):
    """A question as the model reads it, as text and as tokens, and its right answer."""

    text: str
    ids: list[int]
    gold: str


class Samples(NamedTuple):
    """B graded completions of P prompts, those of one prompt side by side."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    rewards_PG: Tensor


def read_prompts(config: DataConfig, split: Any, tokenizer: Any) -> list[Prompt]:
    """The prompts of the training or the held-out side, which never share a question."""
    rows = [dict(row) for row in load_prompts(config, split)]
    texts = [render_prompt(row["prompt"], tokenizer) for row in rows]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [Prompt(*item) for item in zip(texts, ids, [row["answer"] for row in rows], strict=True)]


def sample(engine: TransformersEngine, prompts: Sequence[Prompt], num_samples: int, *stream: str | int) -> Samples:
    """`num_samples` completions of each prompt with reward 1 for a right answer and 0 for a wrong one.

    A sample's randomness is a function of its name, (stream, prompt, index), and not of what was drawn before it.
    """
    repeated = [prompt for prompt in prompts for _ in range(num_samples)]
    seeds = [sample_seed(*stream, prompt.text, index) for prompt in prompts for index in range(num_samples)]
    completions = engine.generate([prompt.ids for prompt in repeated], seeds)
    rewards_B = accuracy([completion.text for completion in completions], [prompt.gold for prompt in repeated])
    return Samples(
        [prompt.ids for prompt in repeated],
        [completion.token_ids for completion in completions],
        torch.tensor(rewards_B, dtype=torch.float32).view(len(prompts), num_samples),
    )


def completion_logprobs(
    model: Any, prompt_ids: Sequence[list[int]], completion_ids: Sequence[list[int]]
) -> tuple[Tensor, Tensor]:
    """Log pi of every token given those before it, and a mask that is 1 on completion tokens; both of shape (B, T)."""
    pairs = list(zip(prompt_ids, completion_ids, strict=True))
    # Padding is on the right, where causal attention does not look, so that no attention mask is needed.
    ids_BT = pad_sequence([torch.tensor(p + c) for p, c in pairs], batch_first=True).to(model.device)
    # The logits at a position are about the next token: T is one less than the tokens of the longest row.
    logits_BTV = model(input_ids=ids_BT).logits[:, :-1].float()
    logprobs_BT = logits_BTV.log_softmax(2).gather(2, ids_BT[:, 1:].unsqueeze(2)).squeeze(2)
    position_T = torch.arange(1, ids_BT.shape[1])
    begin_B1 = torch.tensor([[len(p)] for p, _ in pairs])
    end_B1 = torch.tensor([[len(p) + len(c)] for p, c in pairs])
    mask_BT = (position_T >= begin_B1) & (position_T < end_B1)
    return logprobs_BT, mask_BT.to(model.device)


def gradient_step(model: Any, rollouts: Samples, augmented_PG: Tensor, micro_batch_size: int) -> float:
    """The loss of an optimizer step; its gradient is added to the parameters' `grad`.

        loss = - sum_i A_i sum_t log pi(token_it) / number of completion tokens in the step

    The rollouts come from the policy as it is now, so there is no importance ratio and nothing to clip. The divisor
    counts the tokens of the whole step; that is why the cut into micro-batches changes memory and nothing else.
    """
    lengths_B = torch.tensor([len(ids) for ids in rollouts.completion_ids])
    weights_B = completion_weights(lengths_B, AAPO.aggregation, MAX_COMPLETION_LENGTH).to(model.device)
    advantages_B = augmented_PG.flatten().to(model.device)
    total = 0.0
    for begin in range(0, len(lengths_B), micro_batch_size):
        part = slice(begin, begin + micro_batch_size)
        logprobs_BT, mask_BT = completion_logprobs(model, rollouts.prompt_ids[part], rollouts.completion_ids[part])
        loss = policy_loss(
            AAPO,
            logprobs_BT,
            advantages_B[part],
            mask_BT,
            max_completion_length=MAX_COMPLETION_LENGTH,
            weights_B=weights_B[part],
        )
        loss.backward()
        total += loss.item()
    return total


def train(engine: TransformersEngine, prompts: Sequence[Prompt], bank: dict[str, Tensor], args: Any) -> None:
    """Train the engine's model in place and print one line a step."""
    model: Any = engine.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.0)
    for step in range(1, args.steps + 1):
        batch = random.Random(f"{args.seed} {step}").sample(prompts, args.prompts_per_step)
        # 1. Sample G rollouts of each prompt from the policy, and grade them.
        rollouts = sample(engine, batch, args.rollouts, args.seed, "rollout", step)
        # 2. A_i = (r_i - mean(r)) / (std(r) + 1e-4) + mean over k of clip(r_i - r_ref_k, -0.2, 0.28).
        #    The first part compares a rollout with its group and says nothing when the group is all right or all wrong
        #    (dead). The second compares it with the reference and still speaks then.
        reference_PK = torch.stack([bank[prompt.text] for prompt in batch])
        result = augmented_advantages(AAPO, rollouts.rewards_PG, reference_PK)
        # 3. One step of cross-entropy on the rollouts, each weighted by its augmented advantage.
        loss = gradient_step(model, rollouts, result.augmented_PG, args.micro_batch_size)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        dead, silent = result.dead_P.float().mean(), (result.augmented_PG == 0).all(1).float().mean()
        print(
            f"step {step:3d}  accuracy {rollouts.rewards_PG.mean():.2f}  reference {reference_PK.mean():.2f}  "
            f"margin {result.margin_PG.mean():+.3f}  dead groups {dead:.2f}, with the margin {silent:.2f}  "
            f"loss {loss:+.4f}",
            flush=True,
        )


def held_out_accuracy(engine: TransformersEngine, prompts: Sequence[Prompt], num_samples: int = 4) -> str:
    """Accuracy on held-out prompts and its standard error over prompts, as text."""
    accuracy_P = sample(engine, prompts, num_samples, "evaluation").rewards_PG.mean(1)
    error = accuracy_P.std() / len(prompts) ** 0.5
    return f"{accuracy_P.mean():.3f} +- {error:.3f} ({len(prompts)} prompts x {num_samples} samples)"


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; every default is the quickstart recipe's but for `steps` and `prompts`."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps")
    parser.add_argument("--prompts", type=int, default=400, help="training prompts")
    parser.add_argument("--eval-prompts", type=int, default=200, help="held-out prompts")
    parser.add_argument("--prompts-per-step", type=int, default=32, help="P")
    parser.add_argument("--rollouts", type=int, default=8, help="G, rollouts per prompt")
    parser.add_argument("--reference-samples", type=int, default=8, help="K, reference samples per prompt")
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="of AdamW, constant")
    parser.add_argument("--micro-batch-size", type=int, default=64, help="sequences in memory at once")
    parser.add_argument("--seed", type=int, default=0, help="of the order of prompts and of the rollouts")
    return parser.parse_args(words)


def main(args: argparse.Namespace) -> None:
    """Base model, reference bank, training, and the held-out accuracy before and after."""
    data = DataConfig(**TASK, num_train_prompts=args.prompts, num_eval_prompts=args.eval_prompts)
    print("base model: from the cache, or about a minute of supervised warm-up", flush=True)
    path = str(build_base(BaseModelConfig(), data, MAX_COMPLETION_LENGTH))
    tokenizer, model = load_tokenizer(path), load_model(path)
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # pyright: ignore[reportArgumentType]
    engine = TransformersEngine(model, tokenizer, SamplingSettings(max_completion_length=MAX_COMPLETION_LENGTH))
    prompts, held_out = read_prompts(data, "train", tokenizer), read_prompts(data, "test", tokenizer)

    # The reference is the model as it is before training and never changes. Its rewards are data: sampled and graded
    # once, here, they serve every step, and no second model is kept.
    print(f"reference bank: {args.reference_samples} samples of {len(prompts)} prompts", flush=True)
    reference = sample(engine, prompts, args.reference_samples, "reference")
    bank = {prompt.text: rewards_K for prompt, rewards_K in zip(prompts, reference.rewards_PG, strict=True)}

    before = held_out_accuracy(engine, held_out)
    train(engine, prompts, bank, args)
    after = held_out_accuracy(engine, held_out)
    print(f"held-out accuracy before  {before}\nheld-out accuracy after   {after}")


if __name__ == "__main__":
    main(arguments())

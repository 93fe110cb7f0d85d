"""What TRL's correction of the sampler's probabilities leaves of long completions, by mode.

    python benchmarks/importance_mask.py models/SmolLM2-135M-Instruct --output benchmarks/results/importance_mask.json

A model samples in bfloat16, as vLLM does, and its tokens are scored again in float32. The measured differences of
tokens, shifted so that the mean weight of a token is 1, as it is in expectation, are drawn independently into
completions of other lengths: what share each mode leaves out or cuts at the cap, and how many of 1,000 completions the
weights leave in effect, (sum w)^2 / sum w^2.

Shapes: B completions, T tokens, V vocabulary.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aapo.engines import TransformersEngine, load_model, load_tokenizer
from aapo.files import write_json
from aapo.sampling import SamplingSettings, sample_seed
from aapo.tasks import encode_prompt

CAP = 3.0  # TRL's vllm_importance_sampling_clip_max
LENGTHS = (100, 500, 2000, 8000)
NUM_COMPLETIONS = 1000
TOPICS = ("a river", "a clock", "prime numbers", "the moon", "a train", "bread", "a chess game", "rain")


def main() -> None:
    """Measure, simulate, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=96, help="of each measured completion")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    differences = measured(args.model, args.tokens)
    differences -= np.log(np.exp(differences).mean())
    found = {
        "model": Path(args.model).name,
        "num_tokens": len(differences),
        "mean_abs": float(np.abs(differences).mean()),
        "std": float(differences.std()),
        "max_abs": float(np.abs(differences).max()),
        "by_length": {str(length): simulated(differences, length) for length in LENGTHS},
    }
    print(json.dumps(found, indent=2))
    if args.output is not None:
        write_json(args.output, found)


def measured(name: str, num_tokens: int) -> NDArray[np.float64]:
    """Differences of the log-probabilities of sampled tokens, float32 minus bfloat16."""
    tokenizer = load_tokenizer(name)
    prompts = [[{"role": "user", "content": f"Write a short text about {topic}."}] for topic in TOPICS]
    prompt_ids = [encode_prompt(prompt, tokenizer) for prompt in prompts]
    settings = SamplingSettings(max_completion_length=num_tokens, temperature=1.0)
    sampler = load_model(name, dtype=torch.bfloat16)
    seeds = [sample_seed(0, "importance", i) for i in range(len(prompts))]
    drawn = TransformersEngine(sampler, tokenizer, settings).generate(prompt_ids, seeds)
    trainer = load_model(name, dtype=torch.float32)
    pairs = [(list(ids), list(one.token_ids)) for ids, one in zip(prompt_ids, drawn, strict=True)]
    return np.concatenate([(logprobs(trainer, *pair) - logprobs(sampler, *pair)).numpy() for pair in pairs])


@torch.no_grad()
def logprobs(model: Any, prompt: list[int], completion: list[int]) -> Tensor:
    """Log-probabilities of a completion's tokens, shape (T,)."""
    logits_TV = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].double()
    return logits_TV.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


def simulated(differences: NDArray[np.float64], length: int) -> dict[str, float]:
    """Shares of completions of this length that the modes leave, and the effective number of completions."""
    generator = np.random.default_rng(0)
    logs_BT = generator.choice(differences, (NUM_COMPLETIONS, length))
    sums_B = logs_BT.sum(1)
    masked_B = np.exp(sums_B) > CAP
    sequence_B = np.where(masked_B, 0.0, np.exp(sums_B))
    return {
        "sequence_mask_masked_frac": float(masked_B.mean()),
        "sequence_mask_weight_under_half_frac": float((sequence_B < 0.5).mean()),
        "sequence_mask_effective_frac": float(sequence_B.sum() ** 2 / (sequence_B**2).sum() / NUM_COMPLETIONS),
        "token_truncate_cut_token_frac": float((np.exp(logs_BT) > CAP).mean()),
        "token_truncate_mean_weight": float(np.minimum(np.exp(logs_BT), CAP).mean()),
    }


if __name__ == "__main__":
    main()

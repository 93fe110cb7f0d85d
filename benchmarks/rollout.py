"""Useful tokens a second of four ways to sample: static batches, batches that shrink, places, continuous batching.

    python benchmarks/rollout.py --rounds 5

The quickstart's tiny Qwen3 model with random weights; a bias on the end token's logit sets how likely it is at every
position: never, so that all completions have the same length, or at 4 of as many as the limit has. The arms:

    static       Transformers' `generate`: rows that have ended stay until the longest ends
    shedding     `generate`, entered again: rows that have ended leave the batch
    places       our own loop, which `generate_ids` takes where it can: a place of the cache for each sequence
    refilled     the same in a quarter as many places, which those that wait take over
    continuous   Transformers' `generate_batch`, tuned for the CPU (small cache of small pages); it draws its own noise

All but the last must give the same tokens; this is checked. Useful tokens are those of completions up to their end. The
arms take turns in an order that rotates from round to round, the first round is thrown away, and a ratio is taken
within a round. Its median, least and greatest value are reported. Continuous batching draws other samples, so that its
rate, not its time, is what compares. With a fixed length nothing ends early and the first two do the same work: how
far their ratio is from 1 says how much to trust a run, and so does the share of the machine that others took.
"""

import argparse
import itertools
import logging
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads that spin slow shared cores severalfold

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from aapo.base.config import BaseModelConfig
from aapo.base.model import new_model, train_tokenizer
from aapo.engines import generate_ids
from aapo.engines.shedding import SHED_FRAC
from aapo.engines.ways import Way
from aapo.files import write_json
from aapo.runs import environment
from aapo.sampling import SamplingSettings, sample_seed
from step_cost import Clock

YARDSTICK = "static"
CASES = {"fixed": 0.0, "early stops": 4.0}  # of so many ends by the limit
CONTINUOUS = ContinuousBatchingConfig(page_size=32, num_blocks=192, max_batch_tokens=2048)
Rates = dict[str, list[float]]  # of rounds, by arm
Draw = Callable[[], list[list[int]]]


class Bench(NamedTuple):
    """What all arms share."""

    model: Any
    tokenizer: Any
    prompts: list[list[int]]
    args: argparse.Namespace


def prepare(args: argparse.Namespace) -> Bench:
    """Model and tokenizer."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([f"Calculate {n} + {7 * n}.\n" for n in range(99)], BaseModelConfig().vocab_size)
    model = new_model(BaseModelConfig(), tokenizer).eval()
    model.lm_head = torch.nn.Linear(model.config.hidden_size, len(tokenizer))
    model.lm_head.weight = model.model.embed_tokens.weight
    return Bench(model, tokenizer, [], args)


def with_prompts(bench: Bench, sequences: int) -> Bench:
    """The bench with this many prompts, each of them eight times."""
    texts = [f"Calculate {n} + {7 * n}.\n" for n in range(10, 10 + sequences // 8)]
    return bench._replace(prompts=[bench.tokenizer(text)["input_ids"] for text in texts for _ in range(8)])


def set_end_share(bench: Bench, share: float) -> None:
    """Give the end token about this probability at every position; the other logits are near 0."""
    others = len(bench.tokenizer) - 1
    with torch.no_grad():
        bench.model.lm_head.bias.zero_()
        bench.model.lm_head.bias[bench.tokenizer.eos_token_id] = (
            math.log(others * share / (1 - share)) if share else -1e9
        )


def arms(bench: Bench, tokens: int) -> dict[str, Draw]:
    """A function by arm that samples all completions, of at most so many tokens."""
    end, pad = bench.tokenizer.eos_token_id, bench.tokenizer.pad_token_id
    seeds = [sample_seed("benchmark", i) for i in range(len(bench.prompts))]
    settings = SamplingSettings(max_completion_length=tokens)

    def ours(way: Way, part: int = 1) -> Draw:
        return lambda: generate_ids(
            bench.model, bench.prompts, seeds, settings, eos_token_ids=[end], pad_token_id=pad, way=way,
            num_places=len(seeds) // part,
        )  # fmt: skip

    def continuous() -> list[list[int]]:
        config = GenerationConfig(do_sample=True, max_new_tokens=tokens, eos_token_id=end, pad_token_id=pad)
        outputs = bench.model.generate_batch(
            bench.prompts, generation_config=config, continuous_batching_config=CONTINUOUS, progress_bar=False
        )
        return [output.generated_tokens for output in outputs.values()]

    return {
        "static": ours("static"), "shedding": ours("shedding"), "places": ours("places"),
        "refilled": ours("places", 4), "continuous": continuous,
    }  # fmt: skip


def measure(bench: Bench, tokens: int, name: str) -> tuple[Rates, list[float], float]:
    """By arm and round useful tokens a second, by round what others took of the machine, and the mean length."""
    draws = arms(bench, tokens)
    names, rates, mean_length = list(draws), {arm: [] for arm in draws}, 0.0
    others: list[float] = []
    for turn in range(bench.args.rounds + 1):
        drawn, clock = {}, Clock()
        for arm in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            drawn[arm] = draws[arm]()
            rate = sum(map(len, drawn[arm])) / (time.perf_counter() - began)
            if turn:
                rates[arm].append(rate)
        for arm in ("shedding", "places", "refilled"):
            assert drawn[arm] == drawn["static"], f"{arm} changed a sample"
        assert len(drawn["continuous"]) == len(bench.prompts)
        mean_length = statistics.mean(map(len, drawn["static"]))
        if turn:
            others.append(clock.others_frac())
            line = "  ".join(f"{arm} {rates[arm][-1]:.0f}" for arm in names)
            print(f"{name}, round {turn}: {line}; others took {others[-1]:.0%}", flush=True)
    return rates, others, mean_length


def summarize(rates: Rates) -> dict[str, dict[str, float]]:
    """Median rate, and ratio to the yardstick over rounds, by arm."""
    result = {}
    for arm, values in rates.items():
        ratios = [value / base for value, base in zip(values, rates[YARDSTICK], strict=True)]
        result[arm] = {
            "useful_tokens_per_second": statistics.median(values),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return result


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--sequences", type=int, nargs="+", default=[64, 256], help="completions of a batch")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256], help="most tokens of a completion")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "rollout.json")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Measure, print and store."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    bench, cases = prepare(args), {}
    for sequences, tokens, (kind, ends) in itertools.product(args.sequences, args.tokens, CASES.items()):
        name = f"{sequences} x {tokens}, {kind}"
        set_end_share(bench, ends / tokens)
        rates, others, mean_length = measure(with_prompts(bench, sequences), tokens, name)
        cases[name] = {
            "sequences": sequences,
            "tokens": tokens,
            "end_probability": ends / tokens,
            "mean_tokens": mean_length,
            "others_cpu_frac": others,
            "summary": summarize(rates),
            "useful_tokens_per_second": rates,
        }
        for arm, row in cases[name]["summary"].items():
            ratio = f"{row['ratio']:.2f} ({row['ratio_min']:.2f} - {row['ratio_max']:.2f})"
            print(f"{name:<24}{arm:<12}{row['useful_tokens_per_second']:>8.0f} tokens/s  {ratio}")
    results = {
        **environment(),
        "command": ["python", "benchmarks/rollout.py"],
        "torch_threads": torch.get_num_threads(),
        "shed_frac": SHED_FRAC,
        "settings": {name: getattr(args, name) for name in ("rounds", "sequences", "tokens")},
        "cases": cases,
    }
    write_json(args.output, results)


if __name__ == "__main__":
    main(arguments())

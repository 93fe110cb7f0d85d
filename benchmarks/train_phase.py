"""The training phase against TRL's: from given rollouts to the gradients of one optimizer step.

    python benchmarks/train_phase.py --rounds 8 --output benchmarks/results/train_phase.json

Both trainers get the same rollouts and advantages, of the same model, and take turns in one process; a ratio is taken
within a round, and the median, least and greatest over the rounds are reported. TRL's GRPOTrainer runs as it comes:
eight micro-batches of eight rows, each padded to the longest prompt and completion of all. Gradients are compared
before anything is timed.

Cases, 64 rows in groups of 8:

    half_dead      lengths log-normal with mean a third of the limit; half the groups have no advantage (GRPO)
    none_dead      the same lengths; all groups have one (AAPO)
    equal_lengths  every completion at the limit, all groups live: what our own work costs
    shared_prompt  prompts of three times the completions; against ours without sharing, and against TRL

`ideal` is the ratio of tokens: those that TRL's padded batches hold to those that must be computed. What would be
unfair: other programs on the machine, which do not always slow both sides alike; lengths that are less spread; a model
so small that a call costs more than its work. Generation, rewards and the optimizer are not in the times.

Memory is what the process holds at most during a step, gradients included, over what it held before, by Linux; on the
step that is thrown away and the two first rounds, of which the greatest counts.
"""

import argparse
import ctypes
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trl import GRPOConfig, GRPOTrainer

from aapo.backends.trl import AAPOConfig, AAPOTrainer
from aapo.base.config import BaseModelConfig
from aapo.base.model import new_model, train_tokenizer
from aapo.files import write_json
from aapo.learning.window import Window
from aapo.runs import environment

NUM_ROWS, GROUP, MICRO_BATCH = 64, 8, 8
MODEL = BaseModelConfig(
    hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=2048, max_position_embeddings=8192,
)  # fmt: skip


class Case(NamedTuple):
    """Rollouts by their lengths.

    Attributes:
        prompt: Tokens of a prompt.
        limit: Of completion tokens.
        spread: Whether lengths are log-normal with mean a third of the limit; otherwise all are at it.
        dead: Share of the groups without an advantage.
    """

    prompt: int
    limit: int
    spread: bool = True
    dead: float = 0.0


CASES = {
    "half_dead": Case(32, 256, dead=0.5),
    "none_dead": Case(32, 256),
    "half_dead_512": Case(64, 512, dead=0.5),
    "none_dead_512": Case(64, 512),
    "equal_lengths": Case(32, 96, spread=False),
    "shared_prompt": Case(288, 96, spread=False),
}


class Rollouts(NamedTuple):
    """Token ids of each row and its advantage."""

    prompts: list[Tensor]
    completions: list[Tensor]
    advantages: Tensor


def drawn(case: Case, seed: int, vocab: int) -> Rollouts:
    """Rollouts with a case's lengths, of random tokens."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)

    def tokens(size: int) -> Tensor:
        return torch.randint(3, vocab, (size,), generator=generator)

    lengths = np.full(NUM_ROWS, case.limit)
    if case.spread:
        sigma = 0.6
        mean = np.log(case.limit / 3) - sigma**2 / 2
        lengths = np.clip(rng.lognormal(mean, sigma, NUM_ROWS).astype(int), 4, case.limit)
        lengths[0] = case.limit  # of 64 completions one at least is cut at the limit
    groups = NUM_ROWS // GROUP
    prompts = [tokens(case.prompt) for _ in range(groups)]
    advantages = torch.randn(NUM_ROWS, generator=generator)
    advantages[: round(case.dead * groups) * GROUP] = 0.0
    order = torch.randperm(groups, generator=generator).repeat_interleave(GROUP) * GROUP + torch.arange(GROUP).repeat(
        groups
    )
    return Rollouts(
        [prompts[i // GROUP] for i in range(NUM_ROWS)], [tokens(int(n)) for n in lengths], advantages[order]
    )


def ideal(case: Case, rollouts: Rollouts) -> float:
    """Padded tokens of TRL over tokens that must be computed."""
    padded = NUM_ROWS * (case.prompt + max(map(len, rollouts.completions)))
    live = [i for i in range(NUM_ROWS) if rollouts.advantages[i] != 0]
    prompts = len({i // GROUP for i in live})
    return padded / (prompts * case.prompt + sum(len(rollouts.completions[i]) - 1 for i in live))


class Phases:
    """Both trainers on one model each, and the gradients of a step of either."""

    def __init__(self, folder: str) -> None:
        """Make model, tokenizer and trainers."""
        torch.manual_seed(0)
        self.tokenizer = train_tokenizer(["Calculate 1 + 2."] * 5, MODEL.vocab_size)
        rows = [{"prompt": [{"role": "user", "content": str(i)}], "answer": str(i)} for i in range(NUM_ROWS)]
        shared: dict[str, Any] = {
            "output_dir": folder, "num_generations": GROUP, "per_device_train_batch_size": MICRO_BATCH,
            "gradient_accumulation_steps": NUM_ROWS // MICRO_BATCH, "bf16": False, "use_cpu": True, "report_to": "none",
            "activation_checkpointing": False, "max_completion_length": 512, "disable_tqdm": True,
        }  # fmt: skip
        common: dict[str, Any] = {
            "reward_funcs": [lambda completions, **_: [0.0] * len(completions)],
            "train_dataset": Dataset.from_list(rows), "processing_class": self.tokenizer,
        }  # fmt: skip
        config = new_model(MODEL, self.tokenizer)
        self.trl = GRPOTrainer(model=config, args=GRPOConfig(loss_type="cispo", epsilon_high=5.0, **shared), **common)
        self.ours = self._ours(shared, common, config)
        self.unshared = self._ours({**shared, "share_prompts": False}, common, config)

    def _ours(self, shared: dict[str, Any], common: dict[str, Any], model: Any) -> AAPOTrainer:
        copy = new_model(MODEL, self.tokenizer)
        copy.load_state_dict(model.state_dict())
        args = AAPOConfig(algorithm="grpo", loss="cross_entropy", max_importance_weight=5.0, **shared)
        return AAPOTrainer(model=copy, args=args, **common)

    def trl_step(self, rollouts: Rollouts) -> None:
        """TRL's gradients of one optimizer step."""
        batch = _padded(rollouts)
        trainer, size = self.trl, MICRO_BATCH
        model: Any = trainer.model
        trainer.current_gradient_accumulation_steps = NUM_ROWS // size
        trainer._prepare_inputs = lambda inputs: inputs
        for i in range(0, NUM_ROWS, size):
            part = {name: value[i : i + size] if value.dim() else value for name, value in batch.items()}
            trainer.training_step(model, part, None)

    @staticmethod
    def our_step(trainer: Any, rollouts: Rollouts) -> None:
        """Our gradients of one optimizer step."""
        columns = {
            "prompt_ids": rollouts.prompts,
            "completion_ids": rollouts.completions,
            "tool_mask": [torch.ones_like(ids) for ids in rollouts.completions],
            "advantages": list(rollouts.advantages),
        }
        trainer._draw_window = lambda _: Window(columns, [{}])
        trainer.training_step(trainer.model, [])


def _padded(rollouts: Rollouts) -> dict[str, Tensor]:
    """The rollouts as TRL pads a generation batch."""

    def pad(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
        ones = [torch.ones_like(row) for row in rows]
        return tuple(pad_sequence(each, batch_first=True, padding_side=side) for each in (rows, ones))  # type: ignore[return-value]

    (prompt_ids, prompt_mask), (ids, mask) = pad(rollouts.prompts, "left"), pad(rollouts.completions, "right")
    return {
        "prompt_ids": prompt_ids, "prompt_mask": prompt_mask, "completion_ids": ids, "completion_mask": mask,
        "advantages": rollouts.advantages, "num_items_in_batch": mask.sum(),
    }  # fmt: skip


def gradient(trainer: Any, step: Callable[[], None]) -> Tensor:
    """The gradient that a step leaves."""
    trainer.model.zero_grad()
    step()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def seconds(trainer: Any, step: Callable[[], None]) -> float:
    """How long a step takes, by the clock."""
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def peak_mib(trainer: Any, step: Callable[[], None]) -> float:
    """How much more memory the process holds at a step's peak than before it."""
    trainer.model.zero_grad()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed is still held otherwise, and would be taken for nothing
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held now
    before = _status_mib("VmRSS")
    step()
    return _status_mib("VmHWM") - before


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measure(phases: Phases, name: str, rounds: int) -> dict[str, Any]:
    """The ratios of a case."""
    case = CASES[name]
    ratios: dict[str, list[float]] = {"trl": [], "unshared": []}
    ideals, ours_s, error = [], [], 0.0
    peaks: dict[str, list[float]] = {"trl": [], "ours": []}
    for index in range(rounds + 1):
        rollouts = drawn(case, index, len(phases.tokenizer))
        steps = {
            "trl": (phases.trl, lambda rollouts=rollouts: phases.trl_step(rollouts)),
            "ours": (phases.ours, lambda rollouts=rollouts: phases.our_step(phases.ours, rollouts)),
            "unshared": (phases.unshared, lambda rollouts=rollouts: phases.our_step(phases.unshared, rollouts)),
        }
        if index < 3:
            for key, values in peaks.items():
                values.append(peak_mib(*steps[key]))
        if index == 0:  # a step that is thrown away, and the check that all compute the same
            expected = gradient(*steps["trl"])
            error = max(
                float((gradient(*steps[key]) - expected).abs().max() / expected.abs().max())
                for key in ("ours", "unshared")
            )
            continue
        order = list(steps)
        order = order[index % 3 :] + order[: index % 3]
        took = {key: seconds(*steps[key]) for key in order}
        for key, values in ratios.items():
            values.append(took[key] / took["ours"])
        ideals.append(ideal(case, rollouts))
        ours_s.append(took["ours"])
    middle = statistics.median
    return {
        "ratio": middle(ratios["trl"]), "least": min(ratios["trl"]), "greatest": max(ratios["trl"]),
        "ratio_to_unshared": middle(ratios["unshared"]), "ideal": middle(ideals),
        "of_ideal": middle(ratios["trl"]) / middle(ideals), "seconds": middle(ours_s), "gradient_error": error,
        "peak_mib": max(peaks["ours"]), "peak_mib_trl": max(peaks["trl"]),
        "workload": {**case._asdict(), "rows": NUM_ROWS, "group": GROUP, "micro_batch": MICRO_BATCH},
    }  # fmt: skip


def _ratio_of(name: str) -> str:
    """What a case is there for."""
    return "ratio_to_unshared" if name == "shared_prompt" else "ratio"


def main() -> None:
    """Measure, print a table, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        phases = Phases(folder)
        found = {name: measure(phases, name, args.rounds) for name in args.cases}
    print(
        f"{'case':14} {'ratio':>6} {'least':>6} {'most':>6} {'ideal':>6} {'of it':>6} {'unshared':>9} {'error':>9} "
        f"{'MiB':>11}"
    )
    for name, row in found.items():
        print(
            f"{name:14} {row['ratio']:6.2f} {row['least']:6.2f} {row['greatest']:6.2f} {row['ideal']:6.2f} "
            f"{row['of_ideal']:6.2f} {row['ratio_to_unshared']:9.2f} {row['gradient_error']:9.1e} "
            f"{row['peak_mib']:5.0f}/{row['peak_mib_trl']:.0f}"
        )
    if args.output:
        report = {
            **{f"ratio_{name}": row[_ratio_of(name)] for name, row in found.items()},
            **{f"ideal_{name}": row["ideal"] for name, row in found.items()},
            "cases": found,
            "rounds": args.rounds,
            "threads": torch.get_num_threads(),
            "environment": {**environment(), "command": ["python", "benchmarks/train_phase.py"]},
        }
        write_json(args.output, json.loads(json.dumps(report)))


if __name__ == "__main__":
    main()

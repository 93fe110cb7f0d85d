"""Step time and peak memory of AAPO against GRPO: does AAPO run at GRPO's price?

    python benchmarks/step_cost.py --rounds 8

Four trainers take turns in one process on the same prompts and the same small Qwen3 model:

    trl_grpo    TRL's own GRPOTrainer, as it comes (loss_type dapo, scale_rewards group, beta 0): the yardstick
    grpo        AAPOTrainer with `algorithm: grpo`: the price of our adapter
    aapo_bank   AAPOTrainer with a reference bank: the price of AAPO
    aapo_live   AAPOTrainer with `reference: live`, which samples a frozen model at every step, as the published code
                means to

What a model samples differs in length from method to method and from step to step, and would hide everything else. So
the work is forced to be equal: `min_new_tokens` equals `max_completion_length`, and every completion has exactly that
many tokens. Weights are random and the reward is a cheap function of the text; neither costs one method more than
another. Our trainers write their rollouts to disk, as `aapo train` has them do; TRL's has no counterpart switched on.

A round trains each trainer for one step that is thrown away and then for `--steps` steps that count, in an order that
rotates from round to round. A step's time runs from the end of the step before to its own end: data, rollouts, rewards,
loss, optimizer and logging. A ratio is taken within a round, where both sides saw the same machine; its median, least
and greatest value over the rounds are reported. Nothing else may run beside it: two programs that each use all cores
slow each other several times over. The share of the machine that others took is printed and stored by round. Memory is
the median peak of processes that run one method each; the model is so small that a second one hardly shows in it.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from aapo.backends.trl import AAPOConfig, AAPOTrainer
from aapo.bank import ReferenceBank, bank_identity
from aapo.base.config import BaseModelConfig
from aapo.base.model import new_model, train_tokenizer
from aapo.engines import TransformersEngine, tokenizer_identity
from aapo.files import write_json
from aapo.runs import environment
from aapo.tasks import DataConfig, load_prompts

YARDSTICK, BAR = "trl_grpo", 1.05
NUM_REFERENCE_SAMPLES = 8
MIB = 2**20
Seconds = dict[str, list[list[float]]]  # of steps, by method and round
Numbers = dict[str, dict[str, float]]  # by method and name
DATA = DataConfig(
    dataset_name="reasoning_gym:basic_arithmetic",
    dataset_settings={
        "min_terms": 2, "max_terms": 2, "min_digits": 3, "max_digits": 3, "operators": ["+"],
        "allow_parentheses": False,
    },
    system_prompt="Think in <think></think>, then answer in <answer></answer>.",
    num_train_prompts=256,
)  # fmt: skip
# What each method adds to the common settings; TRL's own trainer takes none of ours.
VARIANTS: dict[str, dict[str, Any]] = {
    "trl_grpo": {"loss_type": "dapo", "scale_rewards": "group"},
    "grpo": {"algorithm": "grpo"},
    "aapo_bank": {"algorithm": "aapo"},
    "aapo_live": {"algorithm": "aapo", "reference": "live"},
}


class Bench(NamedTuple):
    """What all methods share."""

    tokenizer: Any
    prompts: Dataset
    folder: Path
    args: argparse.Namespace


class StepTimer(TrainerCallback):
    """Seconds of each step but the first of a `train()` call, from end to end."""

    def __init__(self) -> None:
        """Start without any."""
        self.seconds: list[float] = []
        self._last: float | None = None

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Forget the end of the last step of another call."""
        self.seconds, self._last = [], None

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Take the time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


def even_digits(completions: list, **columns: Any) -> list[float]:
    """1.0 where a completion has an even number of digits, else 0.0: a coin that a random model can toss."""
    return [float(sum(map(str.isdigit, completion[-1]["content"])) % 2 == 0) for completion in completions]


def prepare(folder: Path, args: argparse.Namespace) -> Bench:
    """Tokenizer and prompts."""
    prompts = load_prompts(DATA, "train")
    texts = [f"{m['content']}\n{m['role']}\nassistant\n" for row in prompts for m in dict(row)["prompt"]]
    return Bench(train_tokenizer(texts, BaseModelConfig().vocab_size), prompts, folder, args)


def model_of(bench: Bench) -> Any:
    """A new model of the quickstart recipe's shape; always the same random weights."""
    torch.manual_seed(0)
    return new_model(BaseModelConfig(), bench.tokenizer)


def settings(bench: Bench) -> dict[str, Any]:
    """The trainer's settings that all methods have: the quickstart recipe's, with completions of a fixed length."""
    args = bench.args
    return {
        "num_generations": 8,
        "per_device_train_batch_size": args.batch_size,
        "gradient_accumulation_steps": 2,
        "max_completion_length": args.tokens,
        "generation_kwargs": {"min_new_tokens": args.tokens},
        "max_steps": 1 + args.steps,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "beta": 0.0,
        "bf16": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available(),
        "activation_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def trainer_of(name: str, bench: Bench) -> GRPOTrainer:
    """The trainer of a method."""
    common = {**settings(bench), **VARIANTS[name], "output_dir": str(bench.folder / name)}
    parts: dict[str, Any] = {
        "model": model_of(bench),
        "reward_funcs": [even_digits],
        "train_dataset": bench.prompts,
        "processing_class": bench.tokenizer,
        "callbacks": [StepTimer()],
    }
    if name == YARDSTICK:
        trainer = GRPOTrainer(args=GRPOConfig(**common), **parts)
    else:
        config = AAPOConfig(**common, rollouts_dir=str(bench.folder / name / "samples"))
        if name == "aapo_bank":
            parts["reference_bank"] = bank_of(bench, config)
        trainer = AAPOTrainer(args=config, **parts)
    trainer.remove_callback(PrinterCallback)
    return trainer


def bank_of(bench: Bench, config: AAPOConfig) -> ReferenceBank:
    """The bank of the initial model, in the bench's folder; sampled where it is not there yet."""
    model = model_of(bench).to("cuda" if torch.cuda.is_available() else "cpu")
    identity = bank_identity(
        model={"name": "random"},
        tokenizer=tokenizer_identity(bench.tokenizer),
        sampling=config.sampling.describe(),
        reward_funcs=[even_digits],
        seed=0,
    )
    engine = TransformersEngine(model, bench.tokenizer, config.sampling)
    return ReferenceBank.build(
        bench.folder / "bank", bench.prompts, engine, [even_digits], identity, num_samples=NUM_REFERENCE_SAMPLES
    )


def timed_steps(trainer: GRPOTrainer) -> list[float]:
    """Seconds of each of some more steps of a trainer."""
    timer = next(item for item in trainer.callback_handler.callbacks if isinstance(item, StepTimer))
    with contextlib.redirect_stdout(io.StringIO()):  # the trainer prints a summary at the end of each call
        trainer.train()
    lengths = {row[key] for row in trainer.state.log_history for key in row if key.startswith("completions/m")}
    assert trainer.max_completion_length in lengths and len(lengths) <= 2, f"completions differ in length: {lengths}"
    return timer.seconds


class Clock:
    """How busy other processes keep the machine's cores (Linux)."""

    def __init__(self) -> None:
        """Start."""
        self.began, self.busy, self.own = time.perf_counter(), self._busy(), time.process_time()

    def others_frac(self) -> float:
        """Share of all cores' time since the start that went to other processes."""
        seconds = (time.perf_counter() - self.began) * (os.cpu_count() or 1)
        return max(0.0, (self._busy() - self.busy) - (time.process_time() - self.own)) / seconds

    @staticmethod
    def _busy() -> float:
        """Seconds that all cores have worked since boot: user, nice, system, interrupts, stolen."""
        values = Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)[1:9]
        user, nice, system, _, _, irq, soft_irq, steal = map(int, values)
        return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")


def measure_time(bench: Bench) -> tuple[Seconds, list[float]]:
    """Step times by method and round, and the share of the machine that others took in each round.

    The first round is thrown away.
    """
    names = list(VARIANTS)
    trainers = {name: trainer_of(name, bench) for name in names}
    seconds: Seconds = {name: [] for name in names}
    others: list[float] = []
    for turn in range(bench.args.rounds + 1):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        clock = Clock()
        times = {name: timed_steps(trainers[name]) for name in order}
        taken = clock.others_frac()
        line = "  ".join(f"{name} {statistics.median(times[name]):.2f}" for name in names)
        print(f"{f'round {turn}' if turn else 'warm-up'}: {line} s a step; others took {taken:.0%}", flush=True)
        if turn:
            others.append(taken)
            for name in names:
                seconds[name].append(times[name])
    return seconds, others


def peak_mib() -> float:
    """This process's peak so far: GPU memory where there is one, else resident memory (Linux)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    # Not getrusage: its ru_maxrss starts from the resident memory of the parent process.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kibibytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kibibytes) / 1024


def memory_of_this_process(name: str, bench: Bench) -> dict[str, float]:
    """Peak memory of a few steps of one method, and the peak before its trainer and model existed."""
    before = peak_mib()
    timed_steps(trainer_of(name, bench))
    return {"peak_mib": peak_mib(), "before_training_mib": before}


def measure_memory(bench: Bench) -> dict[str, list[float]]:
    """Peak memory by method in MiB, each of `--repeats` times in a process of its own.

    The bank is there already, as it is in a training run.
    """
    peaks: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(bench.args.repeats):
        for name in VARIANTS:
            command = [sys.executable, __file__, "--memory", "--variant", name, "--folder", str(bench.folder)]
            for key in ("steps", "tokens", "batch_size"):
                command += [f"--{key.replace('_', '-')}", str(getattr(bench.args, key))]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            peaks[name].append(json.loads(done.stdout.splitlines()[-1])["peak_mib"])
    return peaks


def summarize(seconds: Seconds, peaks: dict[str, list[float]]) -> Numbers:
    """Median step time, ratio to the yardstick over rounds, and memory, by method."""
    yardstick = [statistics.median(times) for times in seconds[YARDSTICK]]
    memory = {name: statistics.median(values) for name, values in peaks.items()}
    result = {}
    for name, rounds in seconds.items():
        ratios = [statistics.median(times) / base for times, base in zip(rounds, yardstick, strict=True)]
        result[name] = {
            "median_step_seconds": statistics.median([time for times in rounds for time in times]),
            "time_ratio": statistics.median(ratios),
            "time_ratio_min": min(ratios),
            "time_ratio_max": max(ratios),
            "peak_mib": memory[name],
            "peak_mib_min": min(peaks[name]),
            "peak_mib_max": max(peaks[name]),
            "peak_ratio": memory[name] / memory[YARDSTICK],
        }
    return result


def show(summary: Numbers) -> bool:
    """Print the table; whether AAPO with a bank holds the bar."""
    print(f"{'':<12}{'s a step':>10}{'ratio (min - max)':>26}{'peak MiB (min - max)':>24}{'ratio':>8}")
    for name, row in summary.items():
        ratio = f"{row['time_ratio']:.3f} ({row['time_ratio_min']:.3f} - {row['time_ratio_max']:.3f})"
        memory = f"{row['peak_mib']:.0f} ({row['peak_mib_min']:.0f} - {row['peak_mib_max']:.0f})"
        print(f"{name:<12}{row['median_step_seconds']:>10.3f}{ratio:>26}{memory:>24}{row['peak_ratio']:>8.3f}")
    ratio = summary["aapo_bank"]["time_ratio"]
    holds = ratio <= BAR
    print(f"AAPO with a bank costs {ratio:.3f} x TRL's GRPO; the bar is {BAR}: {'holds' if holds else 'DOES NOT HOLD'}")
    return holds


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="rounds that count")
    parser.add_argument("--steps", type=int, default=2, help="steps of each method in a round that count")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of every completion")
    parser.add_argument("--batch-size", type=int, default=128, help="completions in a micro-batch; a step has two")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "step_cost.json")
    parser.add_argument("--repeats", type=int, default=3, help="processes whose peak memory is taken, for each method")
    parser.add_argument("--variant", choices=VARIANTS, help="with --memory: the method to run here")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory of --variant in this process")
    parser.add_argument("--folder", type=Path, help="where the bank and the rollouts go; a temporary folder by default")
    return parser.parse_args()


def main(args: argparse.Namespace) -> int:
    """Measure, print and store; 1 where the bar does not hold."""
    logging.getLogger("aapo").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary:
        bench = prepare(args.folder or Path(temporary), args)
        if args.memory:
            print(json.dumps(memory_of_this_process(args.variant, bench)))
            return 0
        (seconds, others), peaks = measure_time(bench), measure_memory(bench)
    summary = summarize(seconds, peaks)
    holds = show(summary)
    results = {
        **environment(),
        "command": ["python", "benchmarks/step_cost.py"],
        "torch_threads": torch.get_num_threads(),
        "settings": {name: getattr(args, name) for name in ("rounds", "steps", "tokens", "batch_size", "repeats")},
        "summary": summary,
        "bar": BAR,
        "holds": holds,
        "step_seconds": seconds,
        "others_cpu_frac": others,
        "peak_mib": peaks,
    }
    write_json(args.output, results)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(arguments()))

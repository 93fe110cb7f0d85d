"""Models on tasks: sampled, graded, and kept, so that what was done is found again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset

from aapo.bank import bank_identity
from aapo.engines.identity import tokenizer_identity
from aapo.engines.opening import open_engine
from aapo.engines.spec import TRANSFORMERS, ModelSpec
from aapo.errors import InputError
from aapo.evaluation.evaluation import Evaluation
from aapo.evaluation.job import EvaluationJob
from aapo.evaluation.protocol import DEFAULT, Protocol, load_protocol
from aapo.grading import Judge, RewardFunction, check_isolation, reward_functions, reward_name, with_convention
from aapo.progress import told_progress
from aapo.ranks import Ranks, launched
from aapo.runs import cache_folder
from aapo.scoring import check_columns, check_names
from aapo.tasks import Benchmark, find_benchmark, tasks_of


@dataclass(frozen=True)
class Task:
    """Problems ready to be put to a model, and how their completions are graded.

    Attributes:
        name: What they are called in results.
        prompts: Columns `prompt` and `answer`, and what the reward functions read.
        rewards: All are recorded.
        judge: Says which completions are right.
        num_samples: K.
    """

    name: str
    prompts: Dataset
    rewards: list[RewardFunction]
    judge: Judge
    num_samples: int

    def __post_init__(self) -> None:
        """Check that the completions can be graded here.

        Raises:
            InputError: A column is missing, nothing can judge so, or this machine cannot isolate what a reward function
                does with a completion.
        """
        self.judge.check([reward_name(function) for function in self.rewards])
        check_names(self.prompts.column_names)
        check_columns(self.rewards, self.prompts.column_names)
        check_isolation(self.rewards, tasks_of(self.prompts))


def benchmark_task(name: str, protocol: Protocol, changes: Mapping[str, Any] | None = None) -> Task:
    """A benchmark as the protocol puts it.

    Args:
        name: A shipped benchmark, `reasoning_gym:TASK`, a data file, or a benchmark's .yaml file.
        protocol: How it is put.
        changes: Other values of fields of `Benchmark`.

    Raises:
        InputError: It is unknown, or its data or a column is missing.
    """
    benchmark: Benchmark = replace(find_benchmark(name), **(changes or {}))
    names, kwargs = benchmark.rewards
    rewards = reward_functions(names, with_convention(names, kwargs, protocol.answer_convention), "fail")
    judge = Judge(benchmark.judge, benchmark.judge_threshold)
    samples = protocol.samples(benchmark.name, benchmark.num_samples)
    return Task(benchmark.name, benchmark.load(protocol.style), rewards, judge, samples)


def evaluate(
    models: str | ModelSpec | Sequence[str | ModelSpec],
    tasks: str | Task | Sequence[str | Task],
    protocol: str | Protocol = DEFAULT,
    *,
    engine: str = TRANSFORMERS,
    seed: int = 0,
    batch_size: int | None = None,
    engine_options: Mapping[str, Any] | None = None,
) -> list[Evaluation]:
    """Every model on every task, model by model; one model at a time is in memory.

    Samples and scores are kept in the cache, and what is there is not done again. Under `torchrun` or `accelerate
    launch` each process does a share, and all get the results.

    Args:
        models: Folders or Hub names, or how they are loaded.
        tasks: As in `benchmark_task`, or problems of your own.
        protocol: A shipped one's name, a .yaml file, or a protocol.
        engine: As in `aapo.engines.open_engine`.
        seed: Of the samples.
        batch_size: Sequences sampled at once; the engine's by default.
        engine_options: Passed to the engine.

    Raises:
        InputError: A model, a task or the protocol is unknown or does not fit; two models have one name.

    Example:
        ```python
        from aapo import evaluate

        for found in evaluate("runs/mine/model", ["math500", "reasoning_gym:basic_arithmetic"]):
            print(found.task, found.estimate())
        ```
    """
    ranks = launched()
    jobs = sample_evaluations(
        models, tasks, protocol, engine=engine, seed=seed, batch_size=batch_size, engine_options=engine_options,
        ranks=ranks,
    )  # fmt: skip
    return [job.collect() for job in jobs]


def sample_evaluations(
    models: str | ModelSpec | Sequence[str | ModelSpec],
    tasks: str | Task | Sequence[str | Task],
    protocol: str | Protocol = DEFAULT,
    *,
    ranks: Ranks,
    engine: str = TRANSFORMERS,
    seed: int = 0,
    batch_size: int | None = None,
    engine_options: Mapping[str, Any] | None = None,
) -> list[EvaluationJob]:
    """What `evaluate` does before it collects: the share of `ranks` of the samples and scores that are missing."""
    protocol = load_protocol(protocol) if isinstance(protocol, str) else protocol
    specs = [ModelSpec(item) if isinstance(item, str) else item for item in _listed(models, (str, ModelSpec))]
    _check_names(specs)
    problems = [
        benchmark_task(item, protocol) if isinstance(item, str) else item for item in _listed(tasks, (str, Task))
    ]
    jobs: list[EvaluationJob] = []
    for spec in specs:
        opened = open_engine(spec, protocol.sampling, engine, batch_size=batch_size, **(engine_options or {}))
        with opened:
            model, tokenizer = spec.identity(engine), tokenizer_identity(opened.tokenizer)
            for task in problems:
                identity = bank_identity(model, tokenizer, protocol.sampling.describe(), task.rewards, seed)
                job = EvaluationJob(
                    spec.name,
                    task.name,
                    protocol.label,
                    task.prompts,
                    opened,
                    task.rewards,
                    identity,
                    task.num_samples,
                    cache_folder() / "evaluations",
                    task.judge,
                    protocol.chat_template_kwargs,
                )
                with told_progress(f"evaluating {job.model} on {job.task}", visible=ranks.is_main) as tell:
                    job.sample(tell, ranks=ranks)
                jobs.append(job)
    return jobs


def _listed(given: Any, single: tuple[type, ...]) -> list[Any]:
    return [given] if isinstance(given, single) else list(given)


def _check_names(specs: Sequence[ModelSpec]) -> None:
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two models are called {name}; rename a folder, since results are stored by name")

"""Benchmarks under a protocol as a file of custom tasks for lighteval 0.13.

lighteval lives in an environment of its own, so the file imports nothing of ours: what it needs of our way with rows
and gold answers is copied into it as source.
"""

import hashlib
import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from aapo.errors import InputError
from aapo.evaluation.protocol import Protocol
from aapo.files import write_text
from aapo.grading import extraction
from aapo.tasks import Benchmark, prompts
from aapo.tasks.benchmarks import _lettered

PREFIX = "aapo_"
_E_NOTATION = re.compile(r"([+-]?\d+(?:\.\d+)?)[eE]([+-]?)0*(\d+)")


def lighteval_name(benchmark: str) -> str:
    """The task's name in lighteval: prefixed, since lighteval refuses the names of its own tasks, and plain.

    lighteval reads `:`, `|` and `@` in the name of a task as syntax.
    """
    return PREFIX + re.sub(r"\W", "_", benchmark)


def as_latex(gold: str) -> str:
    r"""A gold answer in the form that lighteval's metric reads whole.

    Of a bare `3\sqrt{13}` it reads the 3, and `4.5e33` is 33 times 4.5 times Euler's number to it.
    """
    power = _E_NOTATION.fullmatch(gold.replace("$", "").strip())
    if power:
        sign = "-" if power[2] == "-" else ""
        return rf"${power[1]} \times 10^{{{sign}{power[3]}}}$"
    in_math = re.search(r"(?<!\\)\$", gold) or gold.startswith((r"\(", r"\["))
    return gold if in_math else "$" + " ".join(gold.split()) + "$"


def write_lighteval_tasks(path: Path, benchmarks: Sequence[Benchmark], protocol: Protocol) -> None:
    """Write the benchmarks, asked as the protocol says, as custom tasks for lighteval 0.13.

    The same benchmarks and protocol give the same file. The model's side of the protocol (sampling, system prompt, chat
    template) is no matter of tasks in lighteval; the file holds it as a model configuration in its first comment.

    Raises:
        InputError: lighteval cannot read a benchmark's source or grade it, or cannot follow the protocol.
    """
    _check_protocol(protocol)
    if not benchmarks:
        raise InputError("there are no tasks to export; name some")
    names = [lighteval_name(benchmark.name) for benchmark in benchmarks]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{names.count(name)} of the tasks are called {name} in lighteval; rename all but one")
    for benchmark in benchmarks:
        _check_benchmark(benchmark)
    tasks = "".join(_task(benchmark, protocol) for benchmark in benchmarks)
    head = "\n\n".join([_header(path.name, benchmarks, protocol), IMPORTS, _settings(protocol)])
    parts = [head, _copied(), RUNTIME]
    write_text(path, "\n\n\n".join([*parts, f"TASKS_TABLE = [\n{tasks}]\n"]))


def _check_protocol(protocol: Protocol) -> None:
    """Refuse settings that lighteval 0.13 would drop."""
    if protocol.stop and protocol.conversational:
        raise InputError(
            f"protocol {protocol.name} has stop strings and a chat template; lighteval stops chat models at their end "
            "token only; remove stop or set conversational to false"
        )
    for key in ("chat_template_kwargs", "generation_kwargs"):
        if getattr(protocol, key):
            raise InputError(f"protocol {protocol.name} sets {key}, which lighteval has no setting for; remove it")


def _check_benchmark(benchmark: Benchmark) -> None:
    """Refuse what lighteval 0.13 cannot read or grade."""
    name, source = benchmark.name, Path(benchmark.dataset_name)
    if benchmark.is_generated:
        raise InputError(f"task {name} is made by reasoning-gym, which lighteval has not; export data sets")
    if source.suffix in prompts.FILE_TYPES or source.is_file():
        raise InputError(
            f"task {name} is the file {source}; lighteval reads Hub data sets and folders; put the file in a folder of "
            "its own and declare the folder and its dataset_split in a .yaml file"
        )
    if benchmark.dataset_split is None:
        raise InputError(
            f"dataset_split of task {name} is missing; lighteval looks for none; declare it in a .yaml file"
        )
    rewards, kwargs = benchmark.rewards
    if rewards[0] != "accuracy":
        raise InputError(
            f"task {name} is graded by {rewards[0]}; lighteval grades by its own metrics, as accuracy only"
        )
    if kwargs.get("accuracy", {}).get("convention") == "choice" and not benchmark.choice_columns:
        raise InputError(
            f"task {name} has letters as gold answers but no choice_columns, so that lighteval does not know how many "
            "options there are; set choice_columns"
        )


def _header(file_name: str, benchmarks: Sequence[Benchmark], protocol: Protocol) -> str:
    """What the file is and how to run it, as a comment."""
    named = {lighteval_name(item.name): protocol.samples(item.name, item.num_samples) for item in benchmarks}
    sampling = {"temperature": protocol.temperature, "top_p": protocol.top_p, "top_k": protocol.top_k or None}
    sampling |= {"min_p": protocol.min_p, "repetition_penalty": protocol.repetition_penalty}
    neutral = {"top_p": 1.0, "repetition_penalty": 1.0}
    model: dict[str, Any] = {
        "model_name": "MODEL",
        "override_chat_template": protocol.conversational,
        "add_special_tokens": not protocol.conversational,
        "generation_parameters": {
            key: value for key, value in sampling.items() if value is not None and value != neutral.get(key)
        },
    }
    if protocol.conversational and protocol.system_prompt:
        model["system_prompt"] = protocol.system_prompt
    configuration = yaml.safe_dump({"model_parameters": model}, sort_keys=False, allow_unicode=True)
    lines = [
        f"Custom tasks for lighteval 0.13, written by `aapo export lighteval`; protocol {protocol.label}.",
        "",
        "The prompts, gold answers, order of options and samples per problem are those of aapo's protocol; answers are",
        "graded by lighteval's own metrics. pass@k:k=1&n=N is the mean over N samples, what aapo calls avg@N.",
        "",
        *(f"{name}: {count} {'sample' if count == 1 else 'samples'} per problem" for name, count in named.items()),
        "",
        "The model's side of the protocol is a file for lighteval; write your model's name or folder for MODEL in it:",
        "",
        f"    sed -n 's/^#| //p' {file_name} > model.yaml",
        f'    lighteval vllm model.yaml "{next(iter(named))}" --custom-tasks {file_name}',
        "",
        "Several tasks are separated by commas. `lighteval accelerate` takes the same arguments, but decodes greedily",
        "unless the model's own generation_config.json says do_sample: true.",
        "",
        *("| " + line for line in configuration.splitlines()),
    ]
    return "\n".join(("# " + line).rstrip() if not line.startswith("|") else "#" + line for line in lines)


def _settings(protocol: Protocol) -> str:
    """The protocol's prompts and token limit, as constants."""
    plain_system = None if protocol.conversational else protocol.system_prompt or None
    return "\n".join(
        [
            f"PROMPT_TEMPLATE = {protocol.prompt_template!r}",
            f"CHOICE_TEMPLATE = {protocol.choice_template or protocol.prompt_template!r}",
            f"PLAIN_SYSTEM_PROMPT = {plain_system!r}  # of a chat it is in the model configuration above",
            f"MAX_COMPLETION_LENGTH = {protocol.max_completion_length}",
            f"STOP = {list(protocol.stop)!r}",
        ]
    )


# What finds the answer in a gold text.
_GOLD_FUNCTIONS = (
    "_boxes", "_outermost", "_assigned", "last_boxed", "last_tagged", "after_hashes", "_stated", "final_answer",
    "gold_answer",
)  # fmt: skip


def _copied() -> str:
    """Our own functions as source, with the patterns that they use."""
    patterns = [(name, item) for name, item in vars(extraction).items() if isinstance(item, re.Pattern)]
    patterns.append(("_E_NOTATION", _E_NOTATION))
    numbers = [f"{name} = {item}" for name, item in vars(extraction).items() if name.startswith("MAX_")]
    functions = [
        extraction.Box,
        *(getattr(extraction, name) for name in _GOLD_FUNCTIONS),
        prompts.gold_text,
        _lettered,
        as_latex,
    ]
    compiled = (f"{name} = re.compile({item.pattern!r}, {int(item.flags)})" for name, item in patterns)
    constants = "\n".join([*numbers, *compiled])
    sources = (inspect.getsource(function).rstrip() for function in functions)
    return "\n\n\n".join(["# Copied from aapo.\n" + constants, *sources])


def _task(benchmark: Benchmark, protocol: Protocol) -> str:
    """One entry of the table."""
    folder = Path(benchmark.dataset_name)
    given: dict[str, Any] = {"limit": benchmark.num_problems}
    if benchmark.choice_columns:
        given |= {"question": benchmark.prompt_column or "question", "options": list(benchmark.choice_columns)}
    else:
        given |= {
            "questions": [benchmark.prompt_column] if benchmark.prompt_column else list(prompts.PROMPT_COLUMNS),
            "golds": [benchmark.answer_column] if benchmark.answer_column else list(prompts.ANSWER_COLUMNS),
        }
    arguments = ", ".join(f"{key}={value!r}" for key, value in given.items())
    identity = json.dumps([protocol.hash, asdict(benchmark)], sort_keys=True, default=str)
    fields = {
        "name": repr(lighteval_name(benchmark.name)),
        "prompt_function": f"partial({'choices' if benchmark.choice_columns else 'problem'}, {arguments})",
        "hf_repo": repr(str(folder.resolve()) if folder.is_dir() else benchmark.dataset_name),
        "hf_subset": repr(benchmark.dataset_config),
        "hf_revision": repr(benchmark.dataset_revision),
        "split": repr(benchmark.dataset_split),
        "metric": f"Metrics.{'gpqa_instruct_pass_at_k' if benchmark.choice_columns else 'pass_at_k_math'}",
        "num_samples": repr(protocol.samples(benchmark.name, benchmark.num_samples)),
        "version": str(int(hashlib.sha256(identity.encode()).hexdigest()[:8], 16)),
    }
    return "    task(\n" + "".join(f"        {key}={value},\n" for key, value in fields.items()) + "    ),\n"


IMPORTS = """import hashlib
import random
import re
from functools import partial
from string import ascii_uppercase
from typing import Any, NamedTuple

from lighteval.metrics.metrics import Metrics
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc"""

RUNTIME = '''\
def ask(question, template):
    """The user's message, or the whole text where there is no chat template."""
    if isinstance(question, list):
        raise ValueError("prompts that are messages cannot be put to lighteval; use a column with the question's text")
    text = template.replace("{question}", str(question))
    return f"{PLAIN_SYSTEM_PROMPT}\\n{text}" if PLAIN_SYSTEM_PROMPT else text


def first(line, columns):
    """The value of the first of the columns that is there."""
    return line[next((name for name in columns if name in line), columns[0])]


def left_out(line, limit):
    """Whether the row is beyond the first so many."""
    return limit is not None and line["__index"] >= limit


def problem(line, task_name=None, *, questions, golds, limit):
    """A problem and its gold answer; one whose box is empty is left out, since nobody can tell what answers it."""
    if left_out(line, limit):
        return None
    given = first(line, golds)
    if given is None or not gold_text(given):
        raise ValueError(f"a row has no gold answer: {line}")
    gold = gold_answer(gold_text(given))
    if not gold:
        return None
    query = ask(first(line, questions), PROMPT_TEMPLATE)
    return Doc(task_name=task_name, query=query, choices=[as_latex(gold)], gold_index=0)


def choices(line, task_name=None, *, question, options, limit):
    """A question with lettered options in aapo's order, which depends on the question alone."""
    if left_out(line, limit):
        return None
    row = _lettered(str(line[question]), [str(line[name]).strip() for name in options])
    letters = ascii_uppercase[: len(options)]
    query = ask(row["question"], CHOICE_TEMPLATE.replace("{letters}", letters))
    return Doc(task_name=task_name, query=query, choices=list(letters), gold_index=letters.index(row["answer"]))


def task(name, prompt_function, hf_repo, hf_subset, hf_revision, split, metric, num_samples, version):
    """A task; its version is a hash of benchmark and protocol, for lighteval keeps responses by name and version."""
    return LightevalTaskConfig(
        name=name,
        prompt_function=prompt_function,
        hf_repo=hf_repo,
        hf_subset=hf_subset,
        hf_revision=hf_revision,
        hf_avail_splits=[split],
        evaluation_splits=[split],
        few_shots_split=None,
        few_shots_select=None,
        generation_size=MAX_COMPLETION_LENGTH,
        stop_sequence=STOP,
        metrics=[metric(sample_params={"k": 1, "n": num_samples})],
        version=version,
    )'''

"""What is ours in a run on verl, a rollout at a time: export, grading, and what the trainer does with a batch.

    python benchmarks/cluster_costs.py RUN

RUN is a run directory of `aapo cluster`. Each number is the best of three rounds, of one process.
"""

import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from aapo.backends.verl.export import Reading
from aapo.backends.verl.grading import graded
from aapo.backends.verl.recording import Recorder
from aapo.backends.verl.teaching import Row, teach
from aapo.bank import ReferenceBank
from aapo.bank.rows import read_row
from aapo.files import write_parquet
from aapo.grading import reward_name
from aapo.learning.batch import Teacher
from aapo.recipe import load_recipe
from aapo.records import Completion
from aapo.runs import RunDirectory

ROUNDS, ROLLOUTS = 3, 1024
# What the comparison of answers has to do: as text, as numbers, and by math-verify in its worker processes.
ANSWERS = {
    "the same text": ("{0}", "{0}"), "numbers": ("{0}", "{0}.0"),
    "expressions": (r"\frac{{x+{0}}}{{2}}", r"\frac{{{0}+x}}{{2}}"),
}  # fmt: skip
NUM_GRADED = 200


def best(work: Callable[[], Any]) -> float:
    """Seconds of the fastest round."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def rollouts(run: RunDirectory) -> Iterator[Row]:
    """As many rollouts of the run's prompts as are measured with, half of them right."""
    recipe = load_recipe(str(run.path))
    group = recipe.training.num_generations
    infos = pq.read_table(run.path / "data" / "train.parquet")["extra_info"].to_pylist()[: ROLLOUTS // group]
    for place, info in enumerate(infos):
        for k in range(group):
            notes: dict[str, str | None] = {"verdict/accuracy": "correct" if k % 2 else "wrong"}
            yield Row(str(place), info, "1", "1", 32, False, {"accuracy": float(k % 2), "format": 1.0}, notes)


def main(path: str) -> None:
    """Print rollouts per second of each part."""
    run = RunDirectory(path)
    recipe = load_recipe(path)
    rows, training = list(rollouts(run)), recipe.training
    names = [reward_name(function) for function in recipe.reward_funcs]
    weights = torch.tensor(training.reward_weights or [1.0] * len(names))
    teacher = Teacher(training.objective, names, weights, training.judgement, training.num_generations, 64)
    print(f"teach             {len(rows) / best(lambda: teach(teacher, rows, 0)):10,.0f} rollouts/s")
    bank = ReferenceBank.open(run.manifest()["reference_bank"]["path"])
    reading = Reading(bank, bank.weights(dict(zip(names, weights.tolist(), strict=True))), training.judgement)
    keys = {row.info["prompt_key"] for row in rows}
    seconds = best(lambda: [reading.columns(key) for key in keys])
    print(f"look up in a bank {len(keys) / seconds:10,.0f} prompts/s")
    infos = [row.info for row in rows]
    table = pa.table({"extra_info": infos})
    seconds = best(lambda: write_parquet(Path(path) / "measured" / "export.parquet", table))
    print(f"write             {len(infos) / seconds:10,.0f} rows/s, {table.nbytes / len(infos):,.0f} bytes each")
    recorder = Recorder(RunDirectory(Path(path) / "measured"), teacher, 1)
    taught = teach(teacher, rows, 0)
    print(f"store             {len(rows) / best(lambda: recorder.keep(taught, 1)):10,.0f} rollouts/s")
    training.reward_weights, functions = [1.0], recipe.reward_funcs[:1]
    for name, (gold, answer) in ANSWERS.items():
        numbers = count(1000)  # another answer each time, since equal ones are compared once

        def grade(gold: str = gold, answer: str = answer, numbers: Iterator[int] = numbers) -> None:
            for _ in range(NUM_GRADED):
                number = next(numbers)
                row = {**read_row(rows[0].info["row"]), "answer": gold.format(number)}
                completion = Completion(rf"so \boxed{{{answer.format(number)}}}", [0] * 32, "stop")
                assert graded(recipe, functions, row, completion).acc == 1

        print(f"grade {name:14} {NUM_GRADED / best(grade):7,.0f} rollouts/s")


if __name__ == "__main__":
    main(sys.argv[1])

"""What is ours in a run on verl, a rollout at a time: export, grading, and what the trainer does with a batch.

    python benchmarks/cluster_costs.py RUN

RUN is a run directory of `aapo cluster`. Each number is the best of three rounds, of one process.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from aapo.backends.verl.grading import graded
from aapo.backends.verl.recording import Recorder
from aapo.backends.verl.teaching import Row, teach
from aapo.bank.rows import read_row
from aapo.grading import reward_name
from aapo.learning.batch import Teacher
from aapo.recipe import load_recipe
from aapo.records import Completion
from aapo.runs import RunDirectory

ROUNDS, ROLLOUTS = 3, 1024
# What the comparison of answers has to do: as text, as numbers, and by math-verify in its worker processes.
ANSWERS = {
    "the same text": ("12", "12"), "numbers": ("12", "12.0"), "expressions": (r"\frac{x+1}{2}", r"\frac{1+x}{2}"),
}  # fmt: skip


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
            notes = {"verdict/accuracy": "correct" if k % 2 else "wrong"}
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
    recorder = Recorder(RunDirectory(Path(path) / "measured"), teacher, 1)
    taught = teach(teacher, rows, 0)
    print(f"store             {len(rows) / best(lambda: recorder.keep(taught, 1)):10,.0f} rollouts/s")
    functions = recipe.reward_funcs[:1]
    for name, (gold, answer) in ANSWERS.items():
        row = {**read_row(rows[0].info["row"]), "answer": gold}
        completion = Completion(rf"so \boxed{{{answer}}}", [0] * 32, "stop")
        graded(recipe_of(recipe, functions), functions, row, completion)
        seconds = best(lambda row=row, completion=completion: [
            graded(recipe_of(recipe, functions), functions, row, completion) for _ in range(200)
        ])  # fmt: skip
        print(f"grade {name:14} {200 / seconds:7,.0f} rollouts/s")


def recipe_of(recipe: Any, functions: Any) -> Any:
    """The recipe with as many weights as functions."""
    recipe.training.reward_weights = [1.0] * len(functions)
    return recipe


if __name__ == "__main__":
    main(sys.argv[1])

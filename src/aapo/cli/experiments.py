"""What `aapo compare` and `aapo replay` do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from aapo.cli.tables import print_table
from aapo.errors import AapoError, InputError
from aapo.experiments import (
    Plan,
    execute,
    make_plan,
    prepare,
    replay_run,
    replay_tables,
    write_plan,
    write_summary,
)
from aapo.experiments.plan import BankCost, Match
from aapo.experiments.summary import SUMMARY
from aapo.files import check_file, write_json
from aapo.progress import console, told_progress
from aapo.reporting import write_report
from aapo.reporting.comparison import pair_table, variant_table, verdict_sentences
from aapo.runs import RunDirectory


@dataclass(frozen=True)
class CompareOptions:
    """The options of `aapo compare`, as the command line gives them."""

    algorithms: list[str]
    seeds: list[int]
    sweep: list[str]
    match: str
    budget: float | None
    bank_cost: str
    curve_points: int
    jobs: int | None
    devices: list[str]
    dry_run: bool
    output: Path | None


def compare(source: str, options: CompareOptions, flags: Sequence[str]) -> None:
    """Do the runs of a comparison that are not done, print what they say and write summary and report.

    Raises:
        AapoError: A run failed; the others are done and reported.
    """
    plan = make_plan(
        source,
        options.algorithms,
        options.seeds,
        options.output or Path("comparisons") / Path(source).stem,
        sweep=_swept(options.sweep),
        match=cast(Match, options.match),
        budget=options.budget,
        bank_cost=cast(BankCost, options.bank_cost),
        curve_points=options.curve_points,
        flags=flags,
    )
    jobs = options.jobs or max(1, len(options.devices))
    if options.devices and jobs > len(options.devices):
        raise InputError(f"--jobs is {jobs} and --devices names {len(options.devices)}; name devices for every job")
    if options.dry_run:
        _print_plan(plan)
        return
    write_plan(plan)
    prepare(plan)
    failures = execute(plan, jobs, options.devices)
    summary = write_summary(plan.folder)
    print_table(variant_table(summary))
    print_table(pair_table(summary))
    for sentence in verdict_sentences(summary):
        console.print(sentence)
    console.print(f"summary {plan.folder / SUMMARY}")
    console.print(f"report {write_report([plan.folder])}")
    if failures:
        names = "; ".join(f"{item.run.path.relative_to(plan.folder)}: {item.reason}" for item in failures)
        raise AapoError(f"{len(failures)} of {len(plan.runs)} runs failed ({names}); the same command tries them again")


def _swept(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Values by field."""
    sweep: dict[str, list[Any]] = {}
    for text in texts:
        field, equals, values = text.partition("=")
        parts = [yaml.safe_load(part) for part in values.split(",") if part.strip()]
        if not equals or not parts or field in sweep:
            raise InputError(f"--sweep is {text!r}; it must be FIELD=V1,V2,..., each field once")
        sweep[field.strip().removeprefix("--").replace("-", "_")] = parts
    return sweep


def _print_plan(plan: Plan) -> None:
    console.print(f"{len(plan.runs)} runs of {plan.recipe}, matched by {plan.match} ({plan.budget:g}):")
    for run in plan.runs:
        state = "done" if run.done else "failed before" if run.beside(".failed").exists() else "to do"
        console.print(f"  {run.path.relative_to(plan.folder)}: {state}")


def replay(path: Path, algorithms: Sequence[str], bank: Path | None, output: Path | None) -> None:
    """Replay algorithms on a run's rollouts, print the tables and write the results."""
    if output is not None:
        check_file(output, "--output")
    run = RunDirectory.open(path)
    with told_progress("replaying steps") as tell:
        result = replay_run(run, list(dict.fromkeys(algorithms)) or None, bank, tell=tell)
    for table in replay_tables(result):
        print_table(table)
    for reason in dict.fromkeys(result.refused.values()):
        names = ", ".join(name for name, given in result.refused.items() if given == reason)
        console.print(f"not replayed: {names}, because {reason}")
    if output is not None:
        write_json(output, result.describe())
        console.print(f"results {output}")

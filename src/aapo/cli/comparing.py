"""What `aapo compare` does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from aapo.cli.interrupting import interrupted
from aapo.cli.tables import print_table
from aapo.errors import AapoError, InputError
from aapo.experiments import (
    Plan,
    Registered,
    choose,
    execute,
    make_plan,
    prepare,
    read_plan,
    record_choices,
    recorded_choices,
    register,
    write_plan,
    write_summary,
)
from aapo.experiments.plan import BankCost, Match
from aapo.experiments.queue import Failure
from aapo.experiments.summary import SUMMARY
from aapo.progress import console
from aapo.recipe import recipe_flags
from aapo.reporting import write_report
from aapo.reporting.comparison import pair_table, variant_table, verdict_sentences

# What a plan file fixes.
FIXED = ("algorithms", "seeds", "sweep", "match", "budget", "bank_cost", "curve_points")
DEFAULT_SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class CompareOptions:
    """The options of `aapo compare`, as the command line gives them; None is not given."""

    algorithms: list[str] | None
    seeds: list[int] | None
    sweep: list[str] | None
    match: str | None
    budget: float | None
    bank_cost: str | None
    curve_points: int | None
    jobs: int | None
    devices: list[str]
    dry_run: bool
    output: Path | None

    @property
    def num_jobs(self) -> int:
        """Runs at the same time.

        Raises:
            InputError: There are fewer devices.
        """
        jobs = self.jobs or max(1, len(self.devices))
        if self.devices and jobs > len(self.devices):
            raise InputError(f"--jobs is {jobs} and --devices names {len(self.devices)}; name devices for every job")
        return jobs


class Outcome(NamedTuple):
    """What became of the runs of a plan: those that failed now, and what interrupted it, if anything did."""

    failures: list[Failure]
    by: KeyboardInterrupt | None = None


def compare(source: str, options: CompareOptions, flags: Sequence[str]) -> None:
    """Do the runs of a comparison that are not done, print what they say and write summary and report.

    Raises:
        AapoError: A run failed, or the command was interrupted; what is finished is reported.
    """
    folder = options.output or Path("comparisons") / Path(source).stem
    jobs, registered = options.num_jobs, read_plan(source)
    if registered is not None:
        _refuse_fixed(registered, options, flags)
        plan = _registered(registered, folder, options, jobs)
    else:
        plan = _asked(source, folder, options, flags)
    if options.dry_run:
        _print_plan(plan)
        return
    outcome = _run(plan, jobs, options.devices)
    _tell(plan, outcome)


def _asked(source: str, folder: Path, options: CompareOptions, flags: Sequence[str]) -> Plan:
    """The plan that the options make."""
    if options.algorithms is None:
        raise InputError("--algorithms is missing; name some, such as aapo,grpo, or give a plan file")
    return make_plan(
        source,
        options.algorithms,
        DEFAULT_SEEDS if options.seeds is None else options.seeds,
        folder,
        sweep=_swept(options.sweep or []),
        match=cast(Match, options.match or "steps"),
        budget=options.budget,
        bank_cost=cast(BankCost, options.bank_cost or "run"),
        curve_points=5 if options.curve_points is None else options.curve_points,
        flags=flags,
    )


def _refuse_fixed(registered: Registered, options: CompareOptions, flags: Sequence[str]) -> None:
    given = [f"--{name.replace('_', '-')}" for name in FIXED if getattr(options, name) is not None]
    given += [flag.partition("=")[0] for flag in flags if flag.startswith("--")]
    if given:
        raise InputError(
            f"{given[0]} cannot be given with a plan, because {registered.path} fixes it; leave it out, or change the "
            "plan before its first run"
        )


def _registered(registered: Registered, folder: Path, options: CompareOptions, jobs: int) -> Plan:
    """The comparison of a plan file, after the runs that choose settings where there are any.

    Raises:
        AapoError: These were interrupted.
    """
    asked = registered.plan.variants
    known = recorded_choices(folder, asked) if registered.plan.grid else asked
    if known is None and options.dry_run:
        tuning = registered.tuning(folder)
        _print_plan(tuning)
        console.print(
            f"then, with what they choose, {len(asked) * len(registered.plan.seeds)} runs with seeds "
            f"{', '.join(map(str, registered.plan.seeds))}:"
        )
        return registered.comparison(folder, asked)
    plan = registered.tuning(folder) if known is None else registered.comparison(folder, known)
    if options.dry_run:
        return plan
    register(folder, registered)
    if known is not None:
        return plan
    outcome = _run(plan, jobs, options.devices)
    if outcome.by:
        _tell(plan, outcome)
    choices = choose(plan, asked, registered.plan.grid or {})
    record_choices(folder, registered, plan, choices)
    for choice in choices:
        tried = ", ".join(f"{label} {100 * score:.1f}%" for label, score in choice.scores.items())
        chosen = " ".join(f"{key}={value}" for key, value in choice.chosen.tuned.items())
        console.print(f"{choice.asked.label}: {chosen} ({tried})")
    return registered.comparison(folder, [choice.chosen for choice in choices])


def _run(plan: Plan, jobs: int, devices: Sequence[str]) -> Outcome:
    """Do the runs that are not done, as far as Ctrl-C lets them."""
    write_plan(plan)
    try:
        prepare(plan)
        return Outcome(execute(plan, jobs, devices))
    except KeyboardInterrupt as error:
        return Outcome([], error)


def _tell(plan: Plan, outcome: Outcome) -> None:
    """Print what the finished runs say, and write summary and report.

    Raises:
        AapoError: Not all are finished.
    """
    done = [run for run in plan.runs if run.done]
    if outcome.by and not done:
        raise interrupted(
            outcome.by, f"none of {len(plan.runs)} runs is finished; the same command goes on"
        ) from outcome.by
    summary = write_summary(plan.folder)
    print_table(variant_table(summary))
    print_table(pair_table(summary))
    for sentence in verdict_sentences(summary):
        console.print(sentence)
    console.print(f"summary {plan.folder / SUMMARY}")
    console.print(f"report {write_report([plan.folder])}")
    if outcome.by:
        missing = ", ".join(f"{run.variant.label} seed {run.seed}" for run in plan.runs if not run.done)
        kept = f"{len(done)} of {len(plan.runs)} runs are finished, missing: {missing}; the same command goes on"
        raise interrupted(outcome.by, kept) from outcome.by
    if outcome.failures:
        names = "; ".join(f"{item.run.path.relative_to(plan.folder)}: {item.reason}" for item in outcome.failures)
        raise AapoError(
            f"{len(outcome.failures)} of {len(plan.runs)} runs failed ({names}); the same command tries them again"
        )


def _swept(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Values by field."""
    sweep: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        field = name.strip().removeprefix("--").replace("-", "_")
        parts = [part.strip() for part in values.split(",") if part.strip()]
        if not equals or not parts or field in sweep:
            raise InputError(f"--sweep is {text!r}; it must be FIELD=V1,V2,..., each field once")
        sweep[field] = [recipe_flags([f"--{field}", part])[field] for part in parts]
    return sweep


def _print_plan(plan: Plan) -> None:
    console.print(f"{len(plan.runs)} runs of {plan.recipe}, matched by {plan.match} ({plan.budget:g}):")
    for run in plan.runs:
        state = "done" if run.done else "failed before" if run.beside(".failed").exists() else "to do"
        console.print(f"  {run.path.relative_to(plan.folder)}: {state}")

"""Comparisons that are fixed before their first run: the plan file, and its record in the comparison's folder.

The record says by which text of the plan the folder was made, and how many runs had begun when another text came.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from aapo.errors import InputError
from aapo.experiments.plan import (
    COMPARED_ANEW,
    PLANS,
    REGISTRATION,
    RUNS,
    TUNING,
    BankCost,
    Match,
    Plan,
    Variant,
    make_plan,
)
from aapo.fields import make, read_mapping
from aapo.files import read_text, write_json, write_text
from aapo.stored import read_json


@dataclass(frozen=True)
class PlanFile:
    """What a plan file says.

    Attributes:
        recipe: A recipe file beside the plan, or as `aapo train` names one.
        algorithms: Names, or mappings with `algorithm` and settings of its own; many are held against the first only.
        seeds: Of the runs that are compared.
        question: What is to be found out, in words.
        primary: What decides it, in words.
        stopping: When the comparison ends, in words.
        match: As `aapo compare --match`.
        budget: As `--budget`.
        bank_cost: As `--bank-cost`.
        curve_points: As `--curve-points`.
        settings: Fields for all runs on which they have an effect.
        grid: Values by field, of which each algorithm gets its best combination.
        tuning_seeds: Of the runs that choose it.
    """

    recipe: str
    algorithms: list[Any]
    seeds: list[int]
    question: str = ""
    primary: str = ""
    stopping: str = ""
    match: str = "steps"
    budget: float | None = None
    bank_cost: str = "run"
    curve_points: int = 5
    settings: dict[str, Any] | None = None
    grid: dict[str, Any] | None = None
    tuning_seeds: list[int] | None = None

    def __post_init__(self) -> None:
        """Check what goes together.

        Raises:
            InputError: The grid and its seeds do not.
        """
        if (self.grid is None) != (self.tuning_seeds is None):
            raise InputError("grid and tuning_seeds go together; set both, or neither")
        if shared := set(self.seeds) & set(self.tuning_seeds or []):
            raise InputError(
                f"tuning_seeds holds {min(shared)}, which is one of the seeds; a setting is chosen on other seeds than "
                "those that are compared"
            )
        for field, values in (self.grid or {}).items():
            if not isinstance(values, list) or not values:
                raise InputError(f"grid.{field} is {values!r}; it must be a list of values")

    @property
    def variants(self) -> list[Variant]:
        """What is compared, without what the grid chooses."""
        return [_variant(item) for item in self.algorithms]


def _variant(item: Any) -> Variant:
    if isinstance(item, str):
        return Variant(item, {})
    if not isinstance(item, Mapping) or not isinstance(item.get("algorithm"), str):
        raise InputError(f"algorithms holds {item!r}; it must hold names, or mappings such as {{algorithm: aapo, ...}}")
    return Variant(item["algorithm"], {key: value for key, value in item.items() if key != "algorithm"})


@dataclass(frozen=True)
class Registered:
    """A plan file that was read.

    Attributes:
        path: The file.
        text: What stands in it.
        plan: What it says.
    """

    path: Path
    text: str
    plan: PlanFile

    @property
    def sha256(self) -> str:
        """Of the file, as `sha256sum` prints it."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def comparison(self, folder: Path, variants: Sequence[Variant]) -> Plan:
        """The runs that are compared, with the settings that were chosen."""
        return self._runs(folder, variants, self.plan.seeds, None, self.plan.curve_points)

    def tuning(self, folder: Path) -> Plan:
        """The runs that choose the settings."""
        assert self.plan.tuning_seeds is not None
        return self._runs(folder / TUNING, self.plan.variants, self.plan.tuning_seeds, self.plan.grid, 0)

    def _runs(
        self,
        folder: Path,
        variants: Sequence[Variant],
        seeds: Sequence[int],
        sweep: Mapping[str, list[Any]] | None,
        points: int,
    ) -> Plan:
        beside = self.path.parent / self.plan.recipe
        return make_plan(
            str(beside) if beside.is_file() else self.plan.recipe,
            variants,
            seeds,
            folder,
            sweep=sweep,
            match=cast(Match, self.plan.match),
            budget=self.plan.budget,
            bank_cost=cast(BankCost, self.plan.bank_cost),
            curve_points=points,
            settings=self.plan.settings,
        )


def read_plan(source: str) -> Registered | None:
    """The plan in a file, or None where the source is no plan: a plan is a YAML mapping with `recipe` and `algorithms`.

    Raises:
        InputError: It is a plan, and something in it is wrong.
    """
    path = Path(source)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return None
    text = read_text(path, f"plan {path}")
    given = read_mapping(text, f"plan {path}")
    if not {"recipe", "algorithms"} <= given.keys():
        return None
    if missing := {"seeds"} - given.keys():
        raise InputError(f"plan {path} has no {missing.pop()}; add it")
    return Registered(path, text, make(PlanFile, given, "plan: "))


def register(folder: Path, registered: Registered) -> None:
    """Record that the comparison in a folder goes by this plan; a plan of the same text is recorded once."""
    record = read_record(folder)
    plans = record.get("plans", [])
    if plans and plans[-1]["sha256"] == registered.sha256:
        return
    write_text(folder / PLANS / f"{registered.sha256[:12]}.yaml", registered.text)
    entry = {
        "file": registered.path.name,
        "sha256": registered.sha256,
        "registered": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs_begun": _runs_begun(folder),
    }
    write_json(folder / REGISTRATION, {**record, "plans": [*plans, entry]})


def read_record(folder: Path) -> dict[str, Any]:
    """What was recorded of the plans of a comparison; empty where it goes by none.

    Raises:
        InputError: The record is damaged.
    """
    file = folder / REGISTRATION
    return read_json(file, COMPARED_ANEW, ("plans",)) if file.exists() else {}


def add_to_record(folder: Path, key: str, value: Any) -> None:
    """Record something beside the plans."""
    write_json(folder / REGISTRATION, {**read_record(folder), key: value})


def plan_summary(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """By which plan a comparison went; None where it goes by none.

    `sha256` is that of the first, `changed_after_start` whether there was another text once a run had begun, or the
    first came only then.
    """
    if not (plans := record.get("plans")):
        return None
    late = [item["runs_begun"] > 0 for item in plans]
    return {"sha256": plans[0]["sha256"], "changed_after_start": any(late), "plans": plans}


def _runs_begun(folder: Path) -> int:
    """Runs of the comparison and of its tuning that have a recipe."""
    return sum(len(list((folder / place / RUNS).glob("*/seed-*/recipe.yaml"))) for place in (".", TUNING))

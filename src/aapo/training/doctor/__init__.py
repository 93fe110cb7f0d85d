"""What is wrong with an environment, a recipe, a run or a bank, the most severe first, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aapo.bank import ReferenceBank
from aapo.bank.storage import MANIFEST
from aapo.errors import AapoError, InputError
from aapo.fields import parse_flags
from aapo.grading import BY_VERDICT
from aapo.objective import objective
from aapo.recipe import load_recipe
from aapo.recipe.training import TrainingSettings
from aapo.runs import RunDirectory
from aapo.training.bank_report import BankReport, Setting
from aapo.training.doctor.banks import NOT_BUILT, bank_part, recipe_bank, reward_findings
from aapo.training.doctor.data import Data, read_data
from aapo.training.doctor.engine import speed_findings
from aapo.training.doctor.environment import environment_findings
from aapo.training.doctor.history import history_findings
from aapo.training.doctor.model import model_findings
from aapo.training.findings import Finding, most_severe_first
from aapo.training.models import check_model, model_path
from aapo.training.preflight import run_setting

__all__ = ["Diagnosis", "diagnose"]


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        kind: What was looked at: environment, recipe, run or bank.
        target: Its name or path; None for the environment alone.
        findings: The most severe first.
        bank: The numbers of the bank, where there is one.
    """

    kind: str
    target: str | None
    findings: list[Finding]
    bank: BankReport | None = None

    @property
    def failed(self) -> bool:
        """Whether something was found with which training cannot work."""
        return any(finding.level == "error" for finding in self.findings)

    def describe(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "kind": self.kind,
            "target": self.target,
            "findings": [finding._asdict() for finding in self.findings],
            "bank": self.bank and self.bank.describe(),
        }


def diagnose(target: str | None = None, flags: Sequence[str] = (), *, measure: bool = False) -> Diagnosis:
    """What is wrong with the target, and with the environment.

    Nothing is built or sampled unless it is to be measured: a recipe's bank is read where it is there.

    Args:
        target: A run directory, a bank's folder, or a recipe's name or path; None looks at the environment alone.
        flags: `--field value` flags of a recipe or run.
        measure: Draw a recipe's first rollouts in each way that could, and say how fast it is.

    Raises:
        InputError: The target is none of them, or its recipe is wrong.
    """
    if target is None or is_bank(Path(target)):
        if measure:
            raise InputError("--measure has no effect without a recipe or a run; leave it out")
        if parse_flags(flags):
            raise InputError(f"{' '.join(flags)} has no effect without a recipe or a run; leave it out")
        if target is None:
            return Diagnosis("environment", None, most_severe_first(environment_findings()))
        return _of_bank(target)
    recipe = load_recipe(target, flags)
    run = RunDirectory(target)
    is_run = run.recipe_file.exists()
    kind, findings = "run" if is_run else "recipe", history_findings(run) if is_run else []
    try:
        if Path(model_path(recipe)).exists():
            check_model(recipe)
    except AapoError as error:  # without it nothing else can be looked at
        findings += [_failed("model", error), *environment_findings()]
        return Diagnosis(kind, target, most_severe_first(findings))
    try:
        data = read_data(recipe)
    except AapoError as error:
        data = Data(findings=[_failed("data", error)])
    report = None
    try:
        bank = recipe_bank(recipe, data)
        if bank is not None and any(key in bank for key in data.keys):
            report, found = bank_part(bank, run_setting(recipe), data.keys)
            findings += [*found, *reward_findings(bank, recipe.reward_funcs)]
        elif recipe.uses_bank:
            findings.append(NOT_BUILT)
    except AapoError as error:
        findings.append(_failed("bank", error))
    findings += data.findings
    try:
        findings += model_findings(recipe, data.longest)
        if measure and data.prompts:
            findings += speed_findings(recipe, data.tokenizer, data.prompts)
    except AapoError as error:
        findings.append(_failed("model", error))
    findings += environment_findings()
    return Diagnosis(kind, target, most_severe_first(findings), report)


def is_bank(path: Path) -> bool:
    """Whether a folder is a bank, and no run directory."""
    return (path / MANIFEST).is_file() and not RunDirectory(path).recipe_file.exists()


def _of_bank(target: str) -> Diagnosis:
    """A bank alone, taken for that of a recipe that leaves everything else to the defaults."""
    bank = ReferenceBank.open(target)
    defaults = TrainingSettings(bf16=False)
    setting = Setting(
        objective(defaults.algorithm),
        defaults.num_generations,
        bank.identity["sampling"]["max_completion_length"],
        dict.fromkeys(bank.identity["rewards"], 1.0),
        BY_VERDICT,
    )
    report, findings = bank_part(bank, setting)
    findings += [*reward_findings(bank), *environment_findings()]
    return Diagnosis("bank", target, most_severe_first(findings), report)


def _failed(name: str, error: AapoError) -> Finding:
    """An error as a finding, so that the other checks are made, too."""
    return Finding("error", name, str(error))

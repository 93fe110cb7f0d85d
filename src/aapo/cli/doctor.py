"""What `aapo doctor` does."""

import json
from collections.abc import Sequence

import datasets
from transformers.utils import logging as transformers_logging

from aapo.progress import console
from aapo.training.doctor import diagnose
from aapo.training.findings import LEVELS

transformers_logging.disable_progress_bar()
datasets.disable_progress_bars()


def doctor(target: str | None, flags: Sequence[str], *, as_json: bool, measure: bool) -> int:
    """Print what is found, the most severe first; the exit code, 1 where something is an error."""
    diagnosis = diagnose(target, flags, measure=measure)
    if as_json:
        print(json.dumps(diagnosis.describe(), indent=2, ensure_ascii=False, allow_nan=False))
        return int(diagnosis.failed)
    for finding in diagnosis.findings:
        for line in finding.lines():
            console.print(line)
    levels = [finding.level for finding in diagnosis.findings]
    console.print(", ".join(f"{level}: {levels.count(level)}" for level in LEVELS))
    return int(diagnosis.failed)

"""The verdicts of lighteval's metrics on completions; runs in lighteval's environment, without aapo.

    python lighteval_verdicts.py TASKS < rows.json > verdicts.json

TASKS is a file that `aapo export lighteval` wrote. A row has the name of one of its tasks, a `line` of its data set and
a `completion`. What comes out are the `versions` that grade, and the `verdicts`: whether the task pays, null where it
leaves the row out, and what it reads of gold answer and completion.
"""

import importlib.util
import json
import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lighteval.metrics.utils.extractive_match_utils import (  # pyright: ignore[reportMissingImports]
    extract_target_from_pred,
    get_extraction_regexes,
)
from lighteval.models.model_output import ModelResponse  # pyright: ignore[reportMissingImports]
from lighteval.tasks.requests import Doc  # pyright: ignore[reportMissingImports]
from lighteval.utils.utils import remove_reasoning_tags  # pyright: ignore[reportMissingImports]

TIMEOUT_SECONDS = 5


def load_tasks(path: Path) -> dict[str, Any]:
    """The tasks of the exported file by their names."""
    spec = importlib.util.spec_from_file_location("exported", path)
    assert spec is not None and spec.loader is not None
    exported = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(exported)
    return {config.name: config for config in exported.TASKS_TABLE}


def question(config: Any, line: dict[str, Any]) -> Any:
    """The row as lighteval's document, or None where the task leaves it out."""
    if "letter" in line:
        letters = list(line["letters"])
        return Doc(query="", choices=letters, gold_index=letters.index(line["letter"]))
    try:
        return config.prompt_function({**line, "__index": 0}, config.name)
    except ValueError:
        return None


def verdict(config: Any, row: dict[str, Any]) -> tuple[bool | None, str, str]:
    """Whether the task pays for the completion, and what it reads of gold answer and completion."""
    doc = question(config, row["line"])
    if doc is None:
        return None, "", ""
    metric = config.metrics[0]
    text = remove_reasoning_tags(row["completion"], [("<think>", "</think>")])  # as its pipeline does by default
    response = ModelResponse(text=[row["completion"]], text_post_processed=[text])
    (score,) = metric.compute_sample(doc=doc, model_response=response).values()
    match = metric.sample_level_fn.compute_score.__self__

    def read(text: str, target: Any) -> str:
        regexes = get_extraction_regexes(doc, target, match.language)
        found = extract_target_from_pred(text, regexes, match.fallback_mode, match.extraction_mode, TIMEOUT_SECONDS)
        return str(found[0]) if found else ""

    gold = read(doc.get_golds()[0], match.gold_extraction_target)
    return bool(score == 1), gold, read(metric.sample_level_fn.preprocess(text), match.pred_extraction_target)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    configs = load_tasks(Path(sys.argv[1]))
    verdicts = [verdict(configs[row["task"]], row) for row in json.load(sys.stdin)]
    versions = {name: version(name) for name in ("lighteval", "latex2sympy2_extended")}
    json.dump({"versions": versions, "verdicts": verdicts}, sys.stdout)

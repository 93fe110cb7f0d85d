"""The model card of a run: what it is, how good, how it was made; facts of the run directory only."""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined

from aapo.engines.loading import is_hub_name
from aapo.evaluation import difference_rows, markdown, read_evaluations, read_results, score_table
from aapo.evaluation.results import RESULTS, headline_differences
from aapo.evaluation.tables import difference_sentence
from aapo.runs import RunDirectory

TRAINED, BASE = "trained", "base"
FACTS = ("algorithm", "model", "dataset", "num_train_prompts", "versions", "hardware")


class Framework(NamedTuple):
    """A framework that trains: its name, where it is at home, and a version."""

    name: str
    home: str
    version: str = ""


FRAMEWORKS = {
    "trl": Framework("TRL", "github.com/huggingface/trl"),
    "verl": Framework("verl", "github.com/verl-project/verl"),
}


def model_card(run: RunDirectory, repository: str, *, merged: bool) -> str:
    """The README.md of a run's model.

    Args:
        run: A finished run.
        repository: Name on the Hub, or that of the folder.
        merged: Whether the weights are an adapter's and its base's.
    """
    recipe, manifest = run.recipe("objective", "batch", "with_defaults"), run.manifest(*FACTS)
    ours, objective = recipe["with_defaults"], recipe["objective"]
    rows = read_results(run.evaluation) if (run.evaluation / RESULTS).exists() else []
    table = score_table(rows) if rows else None
    steps = [row["step"] for row in run.metrics()]
    identity = (manifest.get("reference_bank") or {}).get("identity", {})
    sampling = {"temperature": 1.0, "top_p": 1.0, **recipe["fields"], **identity.get("sampling", {})}
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["quoted"] = _quoted
    template = environment.from_string((files("aapo") / "publishing" / "card.md.jinja").read_text(encoding="utf-8"))
    return template.render(
        metadata=_metadata(run, repository, rows).to_yaml().strip(),
        name=plain(repository.rpartition("/")[2]),
        repository=plain(repository),
        algorithm=plain(manifest["algorithm"]),
        base=plain(base_name(run)) + (", as LoRA merged into it" if merged else ""),
        dataset=plain(public(manifest["dataset"])),
        num_prompts=manifest["num_train_prompts"],
        steps=max(steps, default=0),
        versions=manifest["versions"],
        framework=_framework(ours["backend"], manifest),
        conversational=ours["conversational"],
        system_prompt=ours["system_prompt"],
        prompt_template=ours["prompt_template"],
        max_tokens=sampling.get("max_completion_length", 256),
        sampling=sampling,
        scores=markdown(table).split("\n\n")[0].strip() if table else None,
        notes=" ".join(table.notes) if table else "",
        differences=[difference_sentence(row) for row in _differences(run)] if rows else [],
        objective=plain(", ".join(f"{key} {value}" for key, value in objective.items() if value is not None)),
        rewards=plain(", ".join(public(name) for name in ours["reward_funcs"])),
        num_generations=recipe["batch"]["num_generations"],
        seed=manifest["seed"],
        hardware=plain(_hardware(manifest["hardware"])),
        recipe=yaml.safe_dump(public_fields(recipe["fields"]), sort_keys=False, allow_unicode=True).strip(),
    )


def _framework(backend: str, manifest: Mapping[str, Any]) -> Framework:
    """What trained, with the version that did: of the cluster's processes, where there was one."""
    versions = (manifest.get("workers") or manifest)["versions"]
    return FRAMEWORKS[backend]._replace(version=versions.get(backend, ""))


def _differences(run: RunDirectory) -> list[dict[str, Any]]:
    evaluations = {item.model: item for item in read_evaluations(run.evaluation)}
    if not {TRAINED, BASE} <= set(evaluations):
        return []
    return headline_differences(difference_rows([evaluations[TRAINED]], [evaluations[BASE]]))


def _metadata(run: RunDirectory, repository: str, rows: list[dict[str, Any]]) -> ModelCardData:
    """The front matter, in the Hub's format."""
    manifest = run.manifest()
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=plain(public(row["task"])),
            dataset_name=plain(public(row["task"])),
            metric_type=row["metric"],
            metric_name=f"{row['metric']}, percent [{100 * row['low']:.1f}, {100 * row['high']:.1f}]",
            metric_value=round(100 * row["estimate"], 2),
        )
        for row in rows
        if row["model"] == TRAINED and row["estimate"] is not None and row["metric"].startswith("avg")
    ]
    name, dataset = base_name(run), public(manifest["dataset"])
    return ModelCardData(
        base_model=name if is_hub_name(name) else None,
        datasets=[dataset] if is_hub_name(dataset) else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["aapo", run.recipe()["with_defaults"]["backend"], "reinforcement-learning", plain(manifest["algorithm"])],
        model_name=repository.rpartition("/")[2],
        eval_results=results or None,
    )


def base_name(run: RunDirectory) -> str:
    """The model that training started from, without the folders that it lies in here."""
    fields, name = run.recipe()["fields"], run.manifest()["model"]["name_or_path"]
    return "a small model made for the task" if fields.get("base_model") else public(name)


def public(name: str) -> str:
    """A name without the folders of this machine: a path's last part; Hub names and tasks as they are."""
    path, _, function = name.partition(".py:")
    if function:
        return f"{Path(path).name}.py:{function}"
    return Path(name).name if name.startswith(("/", "~", ".")) or Path(name).exists() else name


def public_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """A recipe's fields without where the run was written and where things lie here."""
    return {key: _public_value(value) for key, value in fields.items() if key not in ("output_dir", "reference_bank")}


def _public_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _public_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_public_value(item) for item in value]
    return public(value) if isinstance(value, str) and ("/" in value or ".py:" in value) else value


def plain(text: str) -> str:
    """A name in which nothing is markup: one line, markdown's and HTML's signs escaped."""
    return re.sub(r"([\\`*\[\]<>|{}])", r"\\\1", " ".join(str(text).split()))


def _quoted(text: str, language: str = "text") -> str:
    """Any text as a block of code that it cannot leave."""
    longest = max((len(found) for found in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _hardware(hardware: dict[str, Any]) -> str:
    gpus = hardware["gpus"]
    return f"{len(gpus)} x {gpus[0]}" if gpus else f"{hardware['cpu_cores']} CPU cores"

"""The models that a text on the command line names."""

from pathlib import Path

from aapo.checkpoints import damage, marked, step_of
from aapo.engines.spec import ModelSpec
from aapo.errors import InputError
from aapo.runs import RunDirectory

BASE, FINAL, ALL = "base", "final", "all"


def model_sources(model: str, revision: str | None = None, checkpoints: str | None = None) -> list[ModelSpec]:
    """The models that `model` stands for: itself, or those of a run directory.

    Args:
        model: A model folder, a LoRA adapter's folder, a Hub name, or a run directory.
        revision: Of a Hub model.
        checkpoints: Of a run directory, by default its final model: comma-separated steps, `base` (the model that
            training started from), `final`, or `all` (every checkpoint and the final model).

    Raises:
        InputError: The run or a checkpoint is not there, or a checkpoint is damaged.
    """
    run = RunDirectory(model)
    if not run.recipe_file.exists():
        if checkpoints is not None:
            raise InputError(
                f"--checkpoints is {checkpoints}, and {model} is not a run directory; name one, or drop it"
            )
        return [ModelSpec(model, revision)]
    name = run.path.resolve().name
    found = {step_of(checkpoint): checkpoint for checkpoint in marked(run.checkpoints)}
    steps = list(found)
    sources = []
    for wanted in (checkpoints or FINAL).split(","):
        if wanted == ALL:
            sources += [_checkpoint(found[step], name) for step in steps]
        if wanted in (ALL, FINAL):
            if not run.model.exists():
                raise InputError(f"{model} has no final model yet; finish it with `aapo train {model} --resume`")
            sources.append(ModelSpec(str(run.model), name=name))
        elif wanted == BASE:
            started = run.manifest("model")["model"]
            sources.append(ModelSpec(started["name_or_path"], started.get("revision"), f"{name}@base"))
        elif wanted.isdecimal() and int(wanted) in steps:
            sources.append(_checkpoint(found[int(wanted)], name))
        else:
            kept = ", ".join(map(str, steps)) or "none"
            raise InputError(f"{model} has no checkpoint {wanted!r}; it has {kept}; besides them: all, base, final")
    return sources


def _checkpoint(path: Path, run: str) -> ModelSpec:
    if (fault := damage(path)) is not None:
        raise InputError(f"{path} is not as it was saved: {fault}; copy it anew, or name others by --checkpoints")
    return ModelSpec(str(path), name=f"{run}@{step_of(path)}")

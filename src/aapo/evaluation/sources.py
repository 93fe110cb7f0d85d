"""The models that a text on the command line names."""

from aapo.checkpoints import marked, step_of
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
        InputError: The run or a checkpoint is not there.
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
            sources += [ModelSpec(str(found[step]), name=f"{name}@{step}") for step in steps]
        if wanted in (ALL, FINAL):
            if not run.model.exists():
                raise InputError(f"{model} has no final model yet; finish it with `aapo train {model} --resume`")
            sources.append(ModelSpec(str(run.model), name=name))
        elif wanted == BASE:
            started = run.manifest("model")["model"]
            sources.append(ModelSpec(started["name_or_path"], started.get("revision"), f"{name}@base"))
        elif wanted.isdecimal() and int(wanted) in steps:
            sources.append(ModelSpec(str(found[int(wanted)]), name=f"{name}@{int(wanted)}"))
        else:
            kept = ", ".join(map(str, steps)) or "none"
            raise InputError(f"{model} has no checkpoint {wanted!r}; it has {kept}; besides them: all, base, final")
    return sources

"""The frameworks that train: a backend is a package here, with the functions of `Backend`."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from datasets import Dataset

from aapo.bank import ReferenceBank
from aapo.errors import InputError, nearest
from aapo.recipe import Recipe
from aapo.records import Engine, Prompt
from aapo.runs import RunDirectory

GrowBank = Callable[[Sequence[Prompt], Engine | None], ReferenceBank]


@dataclass(frozen=True)
class TrainingJob:
    """What a backend trains.

    Attributes:
        recipe: What to run.
        run: Where checkpoints, rollouts, metrics and the model go.
        model: Folder or Hub name of the model that training starts from.
        model_options: Arguments of `from_pretrained` for it.
        tokenizer: Its tokenizer.
        prompts: Training prompts, with the columns that the reward functions read.
        held_out: Prompts of evaluations during training; None without any.
        bank: Reference rewards of training prompts; None where nothing reads them.
        grow_bank: Gives the bank with further prompts, which it samples; called by all processes alike.
        whole_bank: Keys of the prompts whose reference samples chose among the training prompts, before the first step.
        num_steps: Optimizer steps of the whole training.
    """

    recipe: Recipe
    run: RunDirectory
    model: str
    model_options: Mapping[str, Any]
    tokenizer: Any
    prompts: Dataset
    held_out: Dataset | None
    bank: ReferenceBank | None
    grow_bank: GrowBank | None
    whole_bank: Sequence[str]
    num_steps: int


class Backend(Protocol):
    """What the package of a backend defines."""

    def check_recipe(self, recipe: Recipe) -> None:
        """Check the settings that only the backend knows; raises InputError."""
        ...

    def train_policy(self, job: TrainingJob) -> bool:
        """Train, from the newest checkpoint of the run, and save the model; whether Ctrl-C ended it early."""
        ...


def load_backend(name: str) -> Backend:
    """The backend of a name.

    Raises:
        InputError: There is none, or its framework is not installed.
    """
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in known:
        raise InputError(f"backend is {name!r}{nearest(name, known)}; it must be one of {', '.join(known)}")
    try:
        return importlib.import_module(f"{__name__}.{name}.run")  # type: ignore[reportReturnType]  a module is one
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("aapo"):
            raise
        raise InputError(f"backend is {name}, which needs {error.name}; pip install 'aapo[{name}]'") from error

"""A model by name: what identifies it, and how it is loaded, in one place, so that the two cannot disagree."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aapo.engines.folder import ANEW
from aapo.engines.identity import Identity, model_identity
from aapo.engines.loading import load_model, load_tokenizer, not_finite, whole_weights
from aapo.errors import InputError

TRANSFORMERS, VLLM = "transformers", "vllm"


@dataclass(frozen=True)
class ModelSpec:
    """A model, and how its weights are read.

    Attributes:
        path: Folder or Hub name; a folder may hold a LoRA adapter.
        revision: Revision of a Hub model.
        name: What it is called in results; by default the last part of its path.
        dtype: Number format of the weights, as Transformers and vLLM name it.
        quantization: Fields of Transformers' BitsAndBytesConfig; None does not quantize.
        trust_remote_code: Whether code that comes with the model may run.
        options: Further arguments of `from_pretrained`.
    """

    path: str
    revision: str | None = None
    name: str = ""
    dtype: str = "auto"
    quantization: Mapping[str, Any] | None = None
    trust_remote_code: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Name it."""
        object.__setattr__(self, "name", self.name or Path(self.path).name)

    @property
    def precision(self) -> str:
        """Number format of the weights, which changes what is sampled."""
        bits = next((key for key in ("load_in_4bit", "load_in_8bit") if (self.quantization or {}).get(key)), None)
        return self.dtype if bits is None else bits.removeprefix("load_in_")

    def identity(self, engine: str = TRANSFORMERS) -> Identity:
        """Everything about the model, its loading and the engine that runs it, that changes what is sampled.

        Raises:
            InputError: A Hub model is neither in the cache nor to be reached.
        """
        found = {**model_identity(self.path, self.revision), "precision": self.precision}
        return found if engine == TRANSFORMERS else {**found, "engine": engine}

    def load_tokenizer(self) -> Any:
        """The model's tokenizer, padding on the left.

        Raises:
            InputError: It is missing or cannot be loaded.
        """
        return load_tokenizer(self.path, self.revision, trust_remote_code=self.trust_remote_code)

    def from_pretrained(self) -> dict[str, Any]:
        """Arguments of Transformers' `from_pretrained`, the path left out."""
        options = {"dtype": self.dtype, "trust_remote_code": self.trust_remote_code, **self.options}
        if self.quantization is not None:
            from transformers import BitsAndBytesConfig

            options["quantization_config"] = BitsAndBytesConfig(**self.quantization)
        return options

    def load(self, device: Any = None) -> Any:
        """The model with Transformers, on `device`; one that is quantized is placed as it is loaded.

        Raises:
            InputError: It is missing or cannot be loaded.
        """
        with whole_weights():
            model: Any = load_model(self.path, self.revision, **self.from_pretrained())
        placed = model if device is None or self.quantization is not None else model.to(device)
        if (name := not_finite(placed)) is not None:
            raise InputError(f"the weights {name} of {self.path} are not finite, so nothing it says counts; {ANEW}")
        return placed

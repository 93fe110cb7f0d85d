"""The files of a local model folder, looked at before anything is loaded from them."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from aapo.errors import InputError
from aapo.stored import read_json

CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG = "config.json", "generation_config.json", "tokenizer_config.json"
ANEW = "copy or download the model anew (what Git LFS holds with `git lfs pull`)"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def check_files(folder: Path) -> None:
    """Check that configurations can be read and that files of weights are whole, by their headers.

    Raises:
        InputError: One is damaged, or a part of the weights is missing.
    """
    for name in (CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG):
        if (folder / name).exists():
            read_json(folder / name, ANEW, ("model_type",) if name == CONFIG else ())
    for index in folder.glob("*.safetensors.index.json"):
        parts = set(read_json(index, ANEW, ("weight_map",))["weight_map"].values())
        if missing := sorted(part for part in parts if not (folder / part).is_file()):
            raise InputError(f"{folder / missing[0]} is missing, which {index.name} names; {ANEW}")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} is damaged ({error}); {ANEW}") from error


def check_finite(folder: Path) -> None:
    """Check, one tensor after another, that the weights in a folder are finite.

    Raises:
        InputError: One has an infinity or a NaN.
    """
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as held:
            for name in held.keys():  # noqa: SIM118  it is no mapping
                tensor = held.get_tensor(name)
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    raise InputError(f"the weights {name} in {file} are not finite, so nothing it says counts; {ANEW}")


def pickled(folder: Path) -> str:
    """A note on weights that are there as pickles, which are not loaded; empty without any."""
    found = next((file.name for pattern in PICKLED for file in sorted(folder.glob(pattern))), None)
    if found is None:
        return ""
    return f"; {found} is a pickle, which can run code and is not loaded: convert it to safetensors"

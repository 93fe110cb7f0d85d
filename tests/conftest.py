import gc
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import pytest
import torch
from datasets import Dataset

from aapo.base.model import new_model, train_tokenizer
from tiny import TINY


@pytest.fixture(scope="module", autouse=True)
def little_to_collect() -> None:
    """Runs end with a collection of garbage, which takes half a second where it looks at every imported module."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Extension modules say that they leak where something is never collected."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 model of a few thousand parameters with tokenizer and chat template, as a model folder."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = train_tokenizer(["Calculate 1 + 2.\nuser\nassistant\nsystem\n<think></think>"] * 5, TINY.vocab_size)
    torch.manual_seed(0)
    model = new_model(TINY, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for built models and banks."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("AAPO_CACHE", str(folder))
    return folder


@pytest.fixture
def addition() -> Dataset:
    """Eight conversational prompts with gold answers."""
    return Dataset.from_list(
        [{"prompt": [{"role": "user", "content": f"Calculate {n} + {n}."}], "answer": str(2 * n)} for n in range(1, 9)]
    )

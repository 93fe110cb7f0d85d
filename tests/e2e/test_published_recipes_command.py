"""The published recipes at the command line, offline: tiny models of the same architectures, rows of that schema."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from aapo.base.model import train_tokenizer
from aapo.cli.app import run as aapo
from aapo.recipe import load_recipe, shipped_recipes
from aapo.runs import RunDirectory

pytestmark = pytest.mark.usefixtures("cache")

PUBLISHED = [name for name in shipped_recipes() if name != "quickstart"]
NUM_ROWS = 40


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory) -> dict[str, Path]:
    """A Qwen2 model with a chat template and a Llama model without one."""
    shape = {
        "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 4096,
    }  # fmt: skip
    tokenizer = train_tokenizer(["Question: What is 1 + 2?\nAnswer: <think></think> \\boxed{3}"] * 5, 300)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    folders = {}
    for name, config, model in (
        ("qwen", Qwen2Config(vocab_size=len(tokenizer), tie_word_embeddings=True, **shape, **ends), Qwen2ForCausalLM),
        ("llama", LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **shape, **ends), LlamaForCausalLM),
    ):
        torch.manual_seed(0)
        folders[name] = tmp_path_factory.mktemp(name)
        model(config).save_pretrained(folders[name])
        if name == "llama":
            tokenizer.chat_template = None
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> dict[str, Path]:
    """Copies of the two schemas: forty problems each, one of them too long for any recipe, one gold unreadable."""
    folder = tmp_path_factory.mktemp("data")
    problems = [f"What is {n} + {n}?" for n in range(NUM_ROWS - 1)] + ["very long " * 2000]
    golds = [str(2 * n) for n in range(NUM_ROWS - 1)] + ["1"]
    golds[3] = "{"
    solutions = [
        {"problem": q, "solution": f"so \\boxed{{{a}}}", "answer": a} for q, a in zip(problems, golds, strict=True)
    ]
    bare = [
        {"prompt": [{"role": "user", "content": f"<|im_start|>{q}"}], "question": q, "gt_answer": a, "level": 3}
        for q, a in zip(problems, golds, strict=True)
    ]
    paths = {"solutions": folder / "open-rs.parquet", "bare": folder / "simplelr.parquet"}
    for name, rows in (("solutions", solutions), ("bare", bare)):
        pq.write_table(pa.Table.from_pylist(rows), paths[name])
    return paths


def flags(name: str, stand_ins: dict[str, Path], copies: dict[str, Path]) -> list[str]:
    dataset = load_recipe(name).data.dataset_name or ""
    model = stand_ins["llama" if name.startswith("llama") else "qwen"]
    copy = copies["bare" if dataset.startswith("simplelr") else "solutions"]
    return ["--model_name_or_path", str(model), "--dataset_path", str(copy)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_recipe_is_planned_offline(name, stand_ins, copies, capsys):
    assert aapo(["train", name, *flags(name, stand_ins, copies), "--dry-run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"{NUM_ROWS - 1} prompts" in out and "1 prompts are over max_prompt_length and dropped" in out
    if not name.startswith(("deepseek", "open-rs")):
        assert "1 gold answers cannot be read, rows 3 ('{')" in out
    recipe = load_recipe(name)
    assert (" bank: " in out.split(" plan: ")[1]) == recipe.uses_bank
    assert "memory on each GPU" in out and "zero3" in out


@pytest.mark.parametrize("name", ["qwen2.5-math-7b-simplelr", "llama-3.2-1b-simplelr-lora"])
def test_without_the_hub_the_rest_is_planned(name, capsys):
    assert aapo(["train", name, "--dry-run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "model: not here: cannot load the model" in out and "prompts: not here: cannot load data set" in out
    assert "memory on each GPU" in out and "writes: runs/" in out
    assert "training:" not in out, "an epoch of prompts that are not here"


def test_without_the_hub_a_given_number_of_steps_is_planned(capsys):
    assert aapo(["train", "deepseek-r1-distill-qwen-1.5b-open-rs", "--dry-run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    # 100 steps of 6 completions on one GPU, of at most 3,584 tokens each.
    assert "training: 100 steps, 600 rollouts, at most 2,150,400 tokens" in out


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_recipe_trains_two_steps(name, stand_ins, copies, tmp_path):
    recipe, out = load_recipe(name), tmp_path / "run"
    small = [
        "--max_steps",
        "2",
        "--max_completion_length",
        "8",
        "--num_reference_samples",
        "2",
        "--output_dir",
        str(out),
    ]
    if not recipe.uses_bank:
        small = [*small[:4], *small[6:]]
    if recipe.training.collection.min_live_frac:
        small += ["--max_refill_rounds", "1"]
    if recipe.model.load_in_4bit:
        pytest.importorskip("bitsandbytes")
    assert aapo(["train", name, *flags(name, stand_ins, copies), *small]) == 0
    run = RunDirectory.open(out)
    assert len(run.metrics()) == 2 and run.rollout_steps() == [1, 2]
    first = run.rollouts(1)[0]
    question = first["prompt"] if isinstance(first["prompt"], str) else str(first["prompt"])
    style = recipe.data.prompt_template.split("{question}")[1].strip()
    assert "What is" in question and style in question

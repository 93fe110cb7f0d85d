"""`aapo publish`, `aapo merge` and `aapo chat` on runs of a tiny model."""

import io
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel

from aapo.cli.app import run as aapo
from aapo.engines import load_model, load_tokenizer
from aapo.errors import AapoError, InputError
from aapo.publishing import merge_adapter, publish, push
from aapo.publishing.card import plain, public
from aapo.runs import RunDirectory

SYSTEM = "Answer `briefly` in <b>one</b> word.\n```\nStay inside."


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_folder) -> dict[str, Path]:
    """A run of all weights, evaluated, and one with LoRA, of which nothing says what is right."""
    folder = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    patch.setenv("AAPO_CACHE", str(folder / "cache"))
    rows = folder / "secret-folder-rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) + "\n" for n in range(24)))
    (folder / "even.py").write_text(
        "def evenness(completion_ids, **columns):\n    return [float(sum(ids) % 2 == 0) for ids in completion_ids]\n"
    )
    common = {
        "reward_funcs": [f"{folder / 'even.py'}:evenness"],
        "model_name_or_path": str(tiny_folder), "dataset_name": str(rows), "num_eval_prompts": 4, "algorithm": "grpo",
        "system_prompt": SYSTEM, "num_generations": 2, "per_device_train_batch_size": 4, "max_completion_length": 6,
        "max_steps": 2, "bf16": False, "activation_checkpointing": False, "save_strategy": "no", "temperature": 0.7,
        "learning_rate": 0.1,
    }  # fmt: skip
    for name, more in (
        ("full", {"judge_threshold": 1.0}),
        ("lora", {"use_peft": True, "lora_r": 2, "lora_target_modules": "all-linear"}),
    ):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**common, **more}))
        assert aapo(["train", str(folder / f"{name}.yaml"), "--output_dir", str(folder / name)]) == 0
    patch.undo()
    return {name: folder / name for name in ("full", "lora")}


def logits(model, tokenizer) -> torch.Tensor:
    ids = tokenizer("Calculate 1 + 2.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(ids).logits


def test_a_published_folder_is_whole_and_says_what_it_is(runs, tmp_path, capsys):
    assert aapo(["publish", str(runs["full"]), "--output", str(tmp_path / "out")]) == 0
    assert "model folder" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"README.md", "model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= names
    assert "chat_template.jinja" in names and "training_args.bin" not in names
    config = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (config["do_sample"], config["temperature"], config["top_p"]) == (True, 0.7, 1.0)

    card = (tmp_path / "out" / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    rows = json.loads((runs["full"] / "evaluation" / "results.json").read_text())
    (row,) = [row for row in rows if row["model"] == "trained" and row["metric"].startswith("avg")]
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == round(100 * row["estimate"], 2)
    assert "base_model" not in metadata and "license" not in metadata, "nothing that is not known"
    assert f"{100 * row['estimate']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]" in body
    assert f"````text\n{SYSTEM}\n````" in body, "a fence that the prompt cannot leave"
    assert "temperature 0.7" in body and "max_new_tokens=6" in body and "arXiv:2505.14264" in body
    recipe = yaml.safe_load(body.split("````yaml\n")[1].split("````")[0])
    assert recipe["max_steps"] == 2 and recipe["reward_funcs"] == ["even.py:evenness"]
    assert recipe["system_prompt"] == SYSTEM and recipe["dataset_name"] == "secret-folder-rows.jsonl"

    for path in (tmp_path / "out").iterdir():
        if path.suffix in (".md", ".json", ".jinja"):
            assert str(runs["full"].parent) not in path.read_text(), f"a folder of this machine in {path.name}"
    assert torch.equal(
        logits(load_model(str(tmp_path / "out")), load_tokenizer(str(tmp_path / "out"))),
        logits(load_model(str(runs["full"] / "model")), load_tokenizer(str(runs["full"] / "model"))),
    )


def test_an_adapter_is_merged_into_its_base(runs, tiny_folder, tmp_path, capsys):
    assert aapo(["merge", str(runs["lora"]), "--output", str(tmp_path / "merged")]) == 0
    merged, tokenizer = load_model(str(tmp_path / "merged")), load_tokenizer(str(tmp_path / "merged"))
    beside = PeftModel.from_pretrained(load_model(str(tiny_folder)), str(runs["lora"] / "model"))
    torch.testing.assert_close(logits(merged, tokenizer), logits(beside, tokenizer), atol=1e-5, rtol=0)
    assert not torch.allclose(logits(merged, tokenizer), logits(load_model(str(tiny_folder)), tokenizer), atol=1e-5)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()

    assert aapo(["merge", str(runs["lora"]), "--output", str(tmp_path / "merged")]) == 2
    assert "exists; choose another --output" in capsys.readouterr().err
    published = publish(str(runs["lora"]), tmp_path / "published")
    assert (published / "model.safetensors").exists()
    assert "as LoRA merged into it" in (published / "README.md").read_text()
    with pytest.raises(InputError, match="is a folder here, which nobody else has; leave --adapter out"):
        publish(str(runs["lora"]), tmp_path / "adapter", adapter=True)


def test_what_cannot_be_merged_or_published_is_said(runs, tiny_folder, tmp_path):
    with pytest.raises(InputError, match="has no LoRA adapter; its model is whole as it is"):
        merge_adapter(str(runs["full"]))
    with pytest.raises(InputError, match="is not a run directory; say where to write with --output"):
        merge_adapter(str(runs["lora"] / "model"))
    with pytest.raises(InputError, match="--adapter has no effect"):
        publish(str(runs["full"]), tmp_path / "a", adapter=True)
    with pytest.raises(InputError, match="it must be owner/name"):
        push(tmp_path, "name")
    unfinished = RunDirectory(tmp_path / "unfinished")
    unfinished.write_recipe({"recipe": "x", "fields": {}})
    with pytest.raises(InputError, match="has no final model yet"):
        publish(str(unfinished.path))


def test_a_hub_that_cannot_be_reached_is_one_line(runs, tmp_path, monkeypatch):
    folder = publish(str(runs["full"]), tmp_path / "out", repository="me/model")
    monkeypatch.setenv("HF_TOKEN", "hf_nothing")
    with pytest.raises((AapoError, InputError), match="cannot push to me/model|nobody is logged in"):
        push(folder, "me/model")
    assert 'pipeline("text-generation", "me/model")' in (folder / "README.md").read_text()


def test_names_cannot_be_markup():
    assert plain("a [b](c)|<script>\n# d") == r"a \[b\](c)\|\<script\> # d"
    assert public("/home/me/rewards.py:score") == "rewards.py:score"
    assert (public("owner/name"), public("reasoning_gym:chain_sum")) == ("owner/name", "reasoning_gym:chain_sum")


def test_chat_answers_a_question_from_a_pipe_and_the_same_one_again(runs, monkeypatch, capsys):
    def ask(*flags: str) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("What is 1 + 2?\n"))
        assert aapo(["chat", str(runs["full"]), *flags]) == 0
        return capsys.readouterr().out

    first = ask()
    assert ask() == first and first.endswith("\n")
    assert ask("--seed", "1") != first
    assert ask("--max_completion_length", "1") != first


def test_chat_without_a_question_shows_some_that_the_run_knows(runs, monkeypatch, capsys):
    from aapo.cli.chat import example_questions

    examples = example_questions(str(runs["full"]))
    assert len(examples) == 2 and all(re.fullmatch(r"\d+ \+ 1\?", question) for question in examples)
    assert example_questions(str(runs["full"] / "model")) == []
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert aapo(["chat", str(runs["full"])]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "there is no question" in said and all(repr(text) in said for text in examples)


def test_chat_at_a_terminal(runs, monkeypatch, capsys):
    from aapo.cli import chat as talking

    lines = iter(["/system Be loud.", "Hello", "Again", "/reset", "/quit", "never read"])
    prompts = []
    monkeypatch.setattr("builtins.input", lambda mark: next(lines))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    asked = talking.encode_prompt
    monkeypatch.setattr(
        talking, "encode_prompt", lambda prompt, *rest, **more: prompts.append(prompt) or asked(prompt, *rest, **more)
    )
    assert aapo(["chat", str(runs["full"])]) == 0
    assert [message["role"] for message in prompts[1]] == ["system", "user", "assistant", "user"]
    assert prompts[0][0]["content"] == "Be loud." and next(lines) == "never read"
    said = capsys.readouterr().out
    assert "/reset forgets" in said and all(
        question in said for question in talking.example_questions(str(runs["full"]))
    )


def test_control_characters_of_a_model_are_shown_and_not_obeyed(capsys):
    from aapo.cli.chat import Printed

    Printed(None).on_finalized_text("a\x1b[31mred\x07\n\tb", stream_end=True)
    assert capsys.readouterr().out == "a\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}\n\tb\n"

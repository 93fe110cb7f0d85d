from dataclasses import replace

import pytest

from aapo.errors import InputError
from aapo.evaluation import Protocol, load_protocol, shipped_protocols
from aapo.tasks import find_benchmark


def test_shipped_protocols():
    assert set(shipped_protocols()) == {"paper", "aapo", "qwen-boxed", "qwen25-math-cot", "abel"}
    paper = load_protocol("paper")
    assert (paper.temperature, paper.top_p, paper.max_completion_length, paper.num_samples) == (0.6, 0.95, 32768, 1)
    assert paper.prompt_template.endswith("Think step by step before answering.\n\n{question}")
    assert r"'Therefore, the final answer is: $\boxed{ANSWER}$. I hope it is correct'" in paper.prompt_template
    ours = load_protocol("aapo")
    assert ours.style == paper.style and ours.sampling == paper.sampling
    assert [ours.samples(name) for name in ("aime24", "amc23", "math_500", "gpqa:diamond", "gsm8k")] == [
        64,
        32,
        4,
        8,
        1,
    ]
    assert ours.samples("mine", 3) == 3
    abel = load_protocol("abel")
    assert not abel.conversational and abel.sampling.stop == ("\nQuestion:",)
    assert load_protocol("qwen-boxed").prompt_template.endswith("within \\boxed{}.")


def test_the_hash_is_of_the_settings_not_of_the_name():
    one = Protocol(name="one", temperature=0.5)
    assert replace(one, name="other").hash == one.hash
    hashes = {one.hash}
    for change in (
        {"temperature": 0.6}, {"top_p": 0.9}, {"max_completion_length": 9}, {"system_prompt": "S"}, {"num_samples": 2},
        {"prompt_template": "Q {question}"}, {"conversational": False}, {"benchmark_samples": {"aime24": 2}},
    ):  # fmt: skip
        hashes.add(replace(one, **change).hash)
    assert len(hashes) == 9
    assert one.label == f"one@{one.hash}"


def test_another_grader_version_is_another_protocol(monkeypatch):
    before = load_protocol("paper")
    monkeypatch.setattr("aapo.evaluation.protocol.GRADER_VERSION", "99")
    assert replace(before, grader="99").hash != before.hash


def test_changed_settings_show_in_the_name():
    ours = load_protocol("aapo")
    changed = ours.changed({"num_samples": 2, "temperature": 1})
    assert changed.name == "aapo+num_samples+temperature"
    assert changed.samples("aime24") == 2  # for every benchmark
    assert ours.changed({"temperature": 0.6}) == ours
    with pytest.raises(InputError, match=r"unknown protocol setting 'temprature' \(did you mean temperature\?\)"):
        ours.changed({"temprature": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temperature: 0\nnum_samples: 4", "all samples of a problem are the same"),
        ("prompt_template: Solve it.", r"it must contain \{question\}"),
        ("top_p: 2", "top_p is 2.0; it must be a number in"),
        ("num_samples: 0", "num_samples is 0; it must be a whole number from 1 to 10,000"),
        ("max_tokens: 5", "unknown field 'max_tokens'"),
        ("conversational: false\nchat_template_kwargs: {a: 1}", "chat_template_kwargs has no effect"),
        ("grader: '1'", "grader is 1; this version of aapo grades by"),
        ("- 1", "is not a mapping of fields"),
    ],
)
def test_bad_protocols_say_what_is_allowed(text, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_protocol(str(file))


def test_unknown_protocols_name_the_nearest():
    with pytest.raises(InputError, match=r"unknown protocol 'papr' \(did you mean paper\?\); shipped are"):
        load_protocol("papr")


def test_a_protocol_puts_benchmarks_as_it_says(tmp_path):
    file = tmp_path / "gsm.jsonl"
    file.write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    rows = find_benchmark(f"gsm8k={file}").load(load_protocol("abel").style)
    assert rows["prompt"][0] == "Question:\n1 + 1?\nAnswer:\nLet's think step by step.\n"
    rows = find_benchmark(f"gsm8k={file}").load(load_protocol("qwen25-math-cot").style)
    assert [message["role"] for message in rows["prompt"][0]] == ["system", "user"]

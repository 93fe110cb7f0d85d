"""`aapo train` before its first step and `aapo doctor`: every cause is named, first, and with its fix."""

import json
import re

import pytest

from aapo.cli.app import run
from aapo.named import module_at
from aapo.records import Completion
from aapo.runs import RunDirectory
from scripted import mixed, right, write_recipe, wrong


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    yield
    module_at.cache_clear()  # files of one name in other folders


@pytest.fixture
def recipe(tmp_path, tiny_folder):
    def make(text, cut=lambda place, k: False, **fields):
        return str(write_recipe(tmp_path, tiny_folder, text, cut, **fields))

    return make


def called(capsys, *arguments):
    """Exit code, output and errors of a command."""
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def unanswered(place, k):
    return "I think it is " + "so many" * k


def cut_off(place, k):
    return k != 3  # three of four


STOPS = {
    "cut": (
        {"text": unanswered, "cut": lambda place, k: True},
        r"100% of the reference model's completions are cut at max_completion_length 8; raise it; to train",
    ),
    "cut and unanswered": (
        {"text": unanswered, "cut": cut_off, "system_prompt": "Answer in French."},
        r"75% .* cut at max_completion_length 8; raise it\. Besides, 100% of the completions that are not cut have no "
        r"answer that the grader reads .*; the prompt asks 'Answer in French\.', a completion ends 'I think it is so "
        r"manyso manyso many': ask for one of these forms",
    ),
    "unanswered": (
        {"text": unanswered},
        r"100% of the completions have no answer .*; no system_prompt asks for one, a completion ends 'I think it is'",
    ),
    "gold of another column": (
        {"text": right, "answer_column": "source"},
        r"no reference sample is right, though 100% have an answer \(gold 'book-1', answer '2'\); check answer_column",
    ),
    "too hard": (
        {"text": wrong},
        r"no reference sample is right, .*\(gold '2', answer '-1'\); check answer_column; if the gold answers are",
    ),
    "solved": ({"text": right}, r"all reference samples are right; take harder prompts"),
    "constant": (
        {"text": mixed, "reward_funcs": ["flat.py:flat"]},
        r"reward function flat pays 0\.5 to all samples of the reference bank; .* mend it or take it out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", STOPS)
def test_a_run_that_cannot_learn_is_ended_with_the_cause_and_the_fix(fault, recipe, capsys, tmp_path):
    (tmp_path / "flat.py").write_text("def flat(completions, **columns):\n    return [0.5] * len(completions)\n")
    fields, message = STOPS[fault]
    path = recipe(**fields)
    code, out, err = called(capsys, "train", path, "--output_dir", "run")
    assert (code, len(err.splitlines())) == (2, 1), out + err
    assert err.startswith("aapo: nothing can be learnt: every group of 4 would be dead and its margin zero, because ")
    assert re.search(message, err), err
    assert "to train all the same set preflight to warn" in err
    said = out[out.index("preflight") :]
    assert "groups of 4: 100% dead, 100% with the margin" in said and max(map(len, said.splitlines())) <= 80
    assert not RunDirectory("run").path.exists()  # free for the mended recipe

    # The doctor names the same fault first, and says that training cannot work.
    code, out, _ = called(capsys, "doctor", path)
    assert code == 1 and out.startswith("error    ") and max(map(len, out.splitlines())) <= 80
    first = " ".join(out.split())[len("error ") :]
    assert first.startswith(err.split("because ")[1][:30])


def test_without_a_margin_there_is_none_to_speak_of(recipe, capsys):
    path = recipe(wrong, algorithm="grpo", max_reference_pass_rate=0.5)
    code, out, err = called(capsys, "train", path, "--output_dir", "run")
    assert code == 2 and "every group of 4 would be dead, because no reference sample is right" in err
    assert "groups of 4: 100% dead (100% all wrong, 0% all right)" in out


def test_warn_says_it_and_trains_and_off_says_nothing(recipe, capsys):
    path = recipe(wrong)
    code, out, err = called(capsys, "train", path, "--output_dir", "warned", "--preflight", "warn")
    assert code == 0, err
    assert "error    no reference sample is right" in out and "12 prompts x 4 reference samples, pass rate 0.000" in out
    assert RunDirectory("warned").manifest()["preflight"]["groups"]["dead_after_margin_frac"] == 1
    code, out, err = called(capsys, "train", path, "--output_dir", "unsaid", "--preflight", "off")
    assert code == 0 and "preflight" not in out and "reference samples" not in out, err
    assert RunDirectory("unsaid").manifest()["preflight"] is None

    # A run that has begun goes on, whatever the few prompts in its bank say by then.
    begun = RunDirectory("warned")
    stored = begun.recipe()
    del stored["fields"]["preflight"]
    begun.write_recipe(stored)
    code, out, err = called(capsys, "train", path, "--output_dir", "warned", "--resume")
    assert code == 0 and "error    no reference sample is right" in out, err
    code, _, err = called(capsys, "train", path, "--output_dir", "unsaid", "--preflight", "offf")
    assert code == 2 and "preflight is 'offf' (did you mean off?); it must be one of stop, warn, off" in err


def test_a_run_that_can_learn_is_told_what_to_expect_and_shows_samples_as_they_are(recipe, capsys):
    def text(place, k):
        return "[red]no[/red] \x1b[31m" + "word " * 40 if k == 0 else mixed(place, k)

    code, out, err = called(capsys, "train", recipe(text), "--output_dir", "run", "--show-samples")
    assert code == 0, err
    head = out[out.index("preflight") : out.index("aapo training")]
    assert max(map(len, head.splitlines())) <= 80
    assert "warning  25% of the completions have no answer that the grader reads" in head
    assert len(head.split("sample (")) == 4 and "[red]no[/red] \N{REPLACEMENT CHARACTER}[31mword" in head
    for verdict in ("no answer, gold '2'", "correct, answer '2', gold '2'", "wrong, answer '-1', gold '2'"):
        assert f"sample (4 tokens): {verdict}" in head


def test_samples_are_not_asked_for_without_a_bank(recipe, capsys):
    path = recipe(mixed, algorithm="grpo", reference_bank=None, num_reference_samples=None)
    code, out, err = called(capsys, "train", path, "--output_dir", "run")
    assert code == 0 and "preflight" not in out, err
    code, _, err = called(capsys, "train", path, "--output_dir", "other", "--show-samples")
    assert code == 2 and "--show-samples has no effect, because the run has no reference bank" in err
    code, _, err = called(capsys, "train", path, "--output_dir", "other", "--preflight", "off")
    assert code == 2 and "preflight is 'off' but has no effect, because the objective has no margin" in err
    assert called(capsys, "doctor", path)[0] == 0


def test_a_run_that_can_learn_no_more_than_the_format_is_warned(recipe, capsys):
    def text(place, k):
        return "<think>no</think><answer>-1</answer>" if (place + k) % 2 else "-1"

    path = recipe(text, reward_funcs=["accuracy", "format"])
    code, out, err = called(capsys, "train", path, "--output_dir", "run")
    said = " ".join(out.split())
    assert code == 0 and "warning 50% of the completions have no answer that the grader reads" in said, err
    assert "no reference sample is right, so that only format can be learnt (gold '2', answer '-1')" in said


def test_a_bank_that_only_grows_while_training_says_nothing_ahead(recipe, capsys):
    path = recipe(mixed)
    flags = ("--reference_bank", "null", "--weighted_sample", "true", "--sample_strategy", "soft")
    code, out, err = called(capsys, "train", path, "--output_dir", "run", *flags)
    assert code == 0 and "preflight" not in out, err
    assert RunDirectory("run").manifest()["preflight"]["num_prompts"] == 0
    assert RunDirectory("run").manifest()["preflight"]["pass_rate"]["estimate"] is None


def test_another_reference_than_the_trained_model_only_warns(recipe, capsys, tiny_folder, tmp_path):
    import shutil

    shutil.copytree(tiny_folder, tmp_path / "reference")
    path = recipe(wrong, reference_model_name_or_path="reference")
    code, out, err = called(capsys, "train", path, "--output_dir", "run")
    assert code == 0 and "warning  no reference sample is right" in out, err


def test_doctor_of_the_environment_a_bank_and_a_run_as_text_and_json(recipe, capsys):
    code, out, err = called(capsys, "doctor", "--json")
    found = json.loads(out)
    assert code == 0 and found["kind"] == "environment" and found["bank"] is None, err
    assert {item["name"] for item in found["findings"]} == {"packages", "device", "disk"}

    path = recipe(mixed)
    code, out, _ = called(capsys, "doctor", "bank", "--json")
    found = json.loads(out)
    assert code == 0 and found["kind"] == "bank"
    assert found["bank"]["pass_rate"]["estimate"] == 0.5 and found["bank"]["spread"] == {"accuracy": 0.5}

    assert called(capsys, "train", path, "--output_dir", "run")[0] == 0
    code, out, _ = called(capsys, "doctor", "run", "--json")
    found = json.loads(out)
    assert found["kind"] == "run" and found["target"] == "run"
    levels = [item["level"] for item in found["findings"]]
    assert levels == sorted(levels, key=["error", "warning", "note", "ok"].index)
    code, out, _ = called(capsys, "doctor", "run")
    assert max(map(len, out.splitlines())) <= 80 and re.search(r"error: \d+, warning: \d+, note: \d+, ok: \d+", out)


def test_doctor_refuses_what_is_nothing_and_flags_without_a_recipe(recipe, capsys):
    code, _, err = called(capsys, "doctor", "nothing.yaml")
    assert code == 2 and "recipe nothing.yaml does not exist" in err
    recipe(mixed)
    code, _, err = called(capsys, "doctor", "bank", "--learning_rate", "1")
    assert code == 2 and "--learning_rate 1 has no effect without a recipe or a run" in err


def test_doctor_goes_on_where_a_part_cannot_be_looked_at(recipe, capsys):
    path = recipe(mixed)
    code, out, _ = called(
        capsys, "doctor", path, "--answer_column", "solution", "--attn_implementation", "flash_attention_3"
    )
    assert code == 1 and out.startswith("error    ")
    assert "solution" in out and "no model can be made with attn_implementation flash_attention_3" in " ".join(
        out.split()
    )
    assert "error: 2" in out and "free space" in out


def test_doctor_of_data_with_repeats_and_golds_that_cannot_be_read(recipe, capsys, tmp_path):
    path = recipe(mixed)
    rows = (tmp_path / "problems.jsonl").read_text().splitlines()
    again = [rows[0], rows[1].replace('"answer": "4"', '"answer": "5"'), rows[2].replace('"6"', r'"\\frac{"')]
    (tmp_path / "problems.jsonl").write_text("\n".join([*rows, *again]) + "\n")
    _, out, _ = called(capsys, "doctor", path, "--reference_bank", "null")
    said = " ".join(out.split())
    assert "1 of 15 gold answers cannot be read, first row 14" in said
    assert "questions have several gold answers, first 'What is 2 + 2?" in said
    assert "1 of 15 prompts (7%) repeat an earlier one" in said


REWARDS = """
import time

def raises(completions, **columns):
    raise ValueError("no such key")

def absent(completions, **columns):
    return [None] * len(completions)

def slow(completions, **columns):
    time.sleep(0.02 * len(completions))
    return [float(i % 2) for i in range(len(completions))]

def loud(completions, **columns):
    return [float(i % 2) for i in range(len(completions))]
"""


def test_doctor_calls_the_reward_functions(recipe, capsys, tmp_path):
    (tmp_path / "signals.py").write_text(REWARDS)
    names = ["accuracy", "signals.py:absent", "signals.py:slow", "signals.py:loud"]
    path = recipe(mixed, reward_funcs=names, reward_weights=[0.1, 1.0, 1.0, 1.0])
    code, out, _ = called(capsys, "doctor", path)
    said = " ".join(out.split())
    assert code == 0
    assert "reward function absent gives None or NaN to 100% of 48 reference samples" in said
    assert "reward function slow takes 2" in said and "s for 1,000 completions" in said
    assert "reward function loud moves rewards more than accuracy does: weighted, their samples of a prompt" in said
    assert "spread by 0.5 and 0.05" in said
    module = (tmp_path / "signals.py").read_text()
    (tmp_path / "signals.py").write_text(module.replace("def loud", "def other").replace("def raises", "def loud"))
    module_at.cache_clear()
    code, out, _ = called(capsys, "doctor", "bank")
    assert code == 1 and "reward function 'signals.py:loud' failed on sample 1 of 48" in " ".join(out.split())


def test_doctor_says_what_draws_and_measures_only_when_asked(recipe, capsys, monkeypatch):
    path = recipe(mixed)
    code, out, _ = called(capsys, "doctor", path)
    said = " ".join(out.split())
    assert code == 0 and "rollouts by places, because layers are plain causal attention and nothing but" in said
    assert "tokens a second" not in said

    seconds = {"places": 2.0, "shedding": 1.0, "static": 4.0}
    clock, drawn = [0.0], []

    def generate(self, prompt_ids, seeds):
        clock[0] += seconds[self.way]
        drawn.append((self.way, len(prompt_ids)))
        return [Completion("", [1] * 5, "stop")] * len(prompt_ids)

    monkeypatch.setattr("aapo.training.doctor.engine.TransformersEngine.generate", generate)
    monkeypatch.setattr("aapo.training.doctor.engine.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, out, err = called(capsys, "doctor", path, "--measure")
    said = " ".join(out.split())
    assert "useful tokens a second of 8 rollouts: places 20, shedding 40, static 10" in said, out + err
    assert "shedding draws 2.0 times as fast here as places, which would be taken -> set engine to shedding" in said
    assert drawn == [("places", 8), ("shedding", 8), ("static", 8)] * 3
    code, out, _ = called(capsys, "doctor", path, "--measure", "--engine", "shedding", "--repetition_penalty", "1.1")
    said = " ".join(out.split())
    assert "rollouts by shedding, because engine is shedding" in said and "shedding 40, static 10" in said
    code, out, _ = called(capsys, "doctor", path, "--engine", "places", "--repetition_penalty", "1.1")
    assert code == 1 and "error engine is places, which is not possible, because repetition" in " ".join(out.split())
    code, _, err = called(capsys, "doctor", "--measure")
    assert (code, err) == (2, "aapo: --measure has no effect without a recipe or a run; leave it out\n")

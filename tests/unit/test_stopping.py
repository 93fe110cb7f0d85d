"""Signals that ask to stop, and what an interrupted command says."""

import io
import os
import signal
import subprocess
import sys
import time

import pytest

from aapo.cli.app import run
from aapo.processes import PARENT
from aapo.stopping import SIGNALS, Stop, listen


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_interrupts_and_names_itself(number):
    listen()
    with pytest.raises(KeyboardInterrupt) as raised:
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert raised.value.args == (number.name,)


def test_the_first_signal_is_noted_and_the_second_interrupts(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    listen()
    told = []
    with Stop(told.append) as stop:
        assert stop.asked is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.asked, told) == ("SIGTERM", ["SIGTERM"])
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGUSR1)
    assert (stop.asked, told) == ("SIGTERM", ["SIGTERM"])
    with pytest.raises(KeyboardInterrupt):  # as before the block
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_that_comes_while_something_is_printed_is_noted_all_the_same(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)

    class Raw(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            if stop.asked is None:
                os.kill(os.getpid(), signal.SIGTERM)
            return len(data)

    printed = io.BufferedWriter(Raw(), 16)
    with Stop(lambda name: printed.write(name.encode())) as stop:
        printed.write(b"progress" * 10)
        printed.flush()
    assert stop.asked == "SIGTERM"


def test_a_signal_that_the_launcher_passes_on_is_no_second_one(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with Stop(lambda name: None) as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr("aapo.stopping.PASSED_ON_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert stop.asked == "SIGTERM"


KEPT = "the samples and scores so far are kept; the same command goes on from them"
NOTHING = "nothing is half-written; the same command begins again"


@pytest.mark.parametrize(
    ("arguments", "function", "kept"),
    [
        (("bank", "build", "quickstart"), "aapo.cli.banks.build", KEPT),
        (("bank", "rescore", "x"), "aapo.cli.banks.rescore", KEPT),
        (("eval", "x", "--tasks", "y"), "aapo.cli.evaluation.evaluate_models", KEPT),
        (
            ("compare", "quickstart", "--algorithms", "aapo"),
            "aapo.cli.comparing.compare",
            "its runs stop, each with a checkpoint; the same command goes on from them",
        ),
        (
            ("grade", "x.jsonl", "--output", "y.jsonl"),
            "aapo.cli.grading.grade",
            "the verdicts so far are kept; the same command goes on from them",
        ),
        (("doctor",), "aapo.cli.doctor.doctor", NOTHING),
        (("chat", "x"), "aapo.cli.chat.chat", NOTHING),
        (("base", "build", "quickstart"), "aapo.cli.commands.base_build", NOTHING),
        (
            ("train", "quickstart", "--output_dir", "run"),
            "aapo.cli.commands.train_recipe",
            "what is done so far is kept, the same command goes on",
        ),
    ],
)
def test_an_interrupted_command_says_in_one_line_what_is_kept_and_exits_with_1(
    monkeypatch, capsys, tmp_path, arguments, function, kept
):
    monkeypatch.chdir(tmp_path)
    for raised, how in ((KeyboardInterrupt(), "interrupted"), (KeyboardInterrupt("SIGTERM"), "stopped by SIGTERM")):

        def interrupted(*arguments, raised=raised, **options):
            raise raised

        monkeypatch.setattr(function, interrupted)
        assert run(list(arguments)) == 1
        assert capsys.readouterr().err == f"aapo: {how}; {kept}\n"


@pytest.mark.parametrize("at_the_prompt", [True, False])
@pytest.mark.parametrize(
    ("raised", "code", "err"),
    [
        (KeyboardInterrupt("SIGINT"), 0, ""),
        (KeyboardInterrupt("SIGTERM"), 1, f"aapo: stopped by SIGTERM; {NOTHING}\n"),
    ],
)
def test_a_chat_ends_by_other_signals_than_ctrl_c(monkeypatch, capsys, at_the_prompt, raised, code, err):
    class Talking:
        def ask(self, question):
            raise raised

    words = iter(["why?", "/quit"])

    def typed(prompt):
        if at_the_prompt:
            raise raised
        return next(words)

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("aapo.cli.chat.example_questions", lambda model: [])
    monkeypatch.setattr("aapo.cli.chat._begin", lambda *arguments: Talking())
    monkeypatch.setattr("builtins.input", typed)
    assert run(["chat", "x"]) == code
    assert capsys.readouterr().err == err


def test_an_interrupted_run_that_has_begun_names_how_to_resume(monkeypatch, capsys, tmp_path):
    def begun(recipe, output, **options):
        output.mkdir()
        (output / "recipe.yaml").touch()
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("aapo.cli.commands.train_recipe", begun)
    assert run(["train", "quickstart", "--output_dir", "run"]) == 1
    assert capsys.readouterr().err == (
        "aapo: interrupted; what is done so far is kept, go on with `aapo train run --resume`\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process that its parent has ended")
def test_a_process_ends_with_the_one_that_asked_for_it():
    child = (
        "import sys, time; from aapo.processes import end_with_parent; from aapo.stopping import listen\n"
        "try: listen(); end_with_parent(); print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt as error: print(error, flush=True)"
    )
    parent = (
        f"import os, subprocess, sys, time\nos.environ[{PARENT!r}] = str(os.getpid())\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    assert process.stdout.read() == "SIGTERM\n"  # and the child, which has the pipe, too, is gone
    process.wait()

    late = {**os.environ, PARENT: str(process.pid)}  # it had ended before the child looked
    done = subprocess.run([sys.executable, "-c", child], env=late, stdout=subprocess.PIPE, text=True, check=False)
    assert done.stdout == "SIGTERM\n"

"""Code of a user's own that fails, ends the program, forks or hangs: what is said, and that the program goes on."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch

from aapo import progress
from aapo.engines import ModelSpec, open_engine
from aapo.errors import AapoError, InputError
from aapo.grading import reward_function
from aapo.named import load_named, user_code
from aapo.objective import Objective, augmented_advantages
from aapo.records import Completion
from aapo.sampling import SamplingSettings
from aapo.scoring import score

ROWS = [{"prompt": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(1, 4)]
COMPLETIONS = [Completion(text, [1, 2], "stop") for text in ("two", "four", "six")]


@pytest.fixture
def written(tmp_path):
    """Writes a file of a user's own and gives its path."""

    def write(text, name="mine.py"):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("exit()", r"it ended the program by exit\(None\)"),
        ("import sys; sys.exit(3)", r"it ended the program by exit\(3\)"),
        ("raise SystemExit('enough')", "it ended the program by enough"),
        ("import os; os._exit(0)", r"it ended the program by os._exit\(0\)"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("raise MemoryError", "MemoryError: "),
    ],
)
@pytest.mark.parametrize("what", ["reward function", "margin", "algorithm", "engine"])
def test_a_file_that_fails_or_ends_the_program_when_it_is_loaded_is_one_line(written, line, said, what):
    file = written(f"x = 1\n\n{line}\nthing = 2\n")
    with pytest.raises(InputError, match=rf"^cannot load {what} '{file}:thing': {said} \({file}, line 3\)$"):
        load_named(f"{file}:thing", what)


def test_a_file_that_is_no_python_names_its_line(written):
    file = written("def thing(:\n    pass\n")
    with pytest.raises(InputError, match=r"^cannot load margin .*: SyntaxError: invalid syntax \(mine.py, line 1\)$"):
        load_named(f"{file}:thing", "margin")


FAILING = """
    import os, sys

    def divides(completions, answer, **columns):
        return [1 / (4 - int(gold)) for gold in answer]

    def leaves(completions, **columns):
        return [sys.exit(0) if text == "four" else 1.0 for text in completions]

    def quits(completions, **columns):
        return [exit() if text == "four" else 1.0 for text in completions]

    def drops(completions, **columns):
        return [os._exit(0) if text == "four" else 1.0 for text in completions]

    async def later(completions, **columns):
        return [os._exit(0) if text == "four" else 1.0 for text in completions]

    def says(completions, **columns):
        return ["1.0" if text == "four" else 1.0 for text in completions]

    def nan(completions, **columns):
        return [float("nan") if text == "four" else 1.0 for text in completions]

    def infinite(completions, **columns):
        return [-float("inf") if text == "four" else 1.0 for text in completions]

    def nothing(completions, **columns):
        [1.0 for _ in completions]

    def text(completions, **columns):
        return "1.0"

    def few(completions, **columns):
        return [1.0] * (len(completions) // 2)

    def helped(completions, **columns):
        return helper(completions)

    def helper(completions):
        return [{"two": 1.0, "six": 0.0}[text] for text in completions]
"""


@pytest.mark.parametrize(
    ("name", "sample", "said", "line"),
    [
        ("divides", 2, "ZeroDivisionError: division by zero", 5),
        ("leaves", 2, r"it ended the program by exit\(0\)", 8),
        ("quits", 2, r"it ended the program by exit\(None\)", 11),
        ("drops", 2, r"it ended the program by os._exit\(0\)", 14),
        ("later", 2, r"it ended the program by os._exit\(0\)", 17),
        ("says", 2, "ValueError: it returned '1.0'; a reward must be a finite number, .*", 19),
        ("nan", 2, "ValueError: it returned nan; a reward must be a finite number, .*", 22),
        ("infinite", 2, "ValueError: it returned -inf; a reward must be a finite number, .*", 25),
        ("nothing", 1, "TypeError: it returned None; it must return a list with one number, or None, .*", 28),
        ("text", 1, "TypeError: it returned '1.0'; it must return a list with one number, or None, .*", 31),
        ("few", 1, "ValueError: it returned 0 rewards for 1 completions", 34),
        ("helped", 2, "KeyError: 'four'", 41),
    ],
)
def test_a_reward_function_that_fails_is_named_with_its_line_and_its_sample(written, name, sample, said, line):
    file = written(FAILING)
    prompt, completion, gold = ROWS[sample - 1]["prompt"], COMPLETIONS[sample - 1].text, ROWS[sample - 1]["answer"]
    shown = rf"\(prompt '{prompt}', completion '{completion}', gold '{gold}'\)".replace("+", r"\+").replace("?", r"\?")
    with pytest.raises(
        AapoError, match=rf"^reward function '{file}:{name}' failed on sample {sample} of 3 {shown}: {said} \({file}, "
        rf"line {line}\); mend it, or set reward_failure to skip$"
    ) as raised:  # fmt: skip
        score([reward_function(f"{file}:{name}")], ROWS, COMPLETIONS)
    assert not isinstance(raised.value, InputError), "exit code 1: it failed while running"


def test_what_ends_the_program_is_skipped_where_failures_are(written, caplog):
    file = written(FAILING)
    made = score([reward_function(f"{file}:drops", failure="skip")], ROWS, COMPLETIONS)
    assert made.rewards == {"drops": [1.0, None, 1.0]} and "1 of 3 samples are left out" in caplog.text


FORKS = """
    import os, sys

    def children(completions, **columns):
        for code in (0, 3):
            child = os.fork()
            if child == 0:
                os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
        return [1.0 for _ in completions]

    def returns(completions, **columns):
        child = os.fork()
        if child:
            print("child ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return [1.0 for _ in completions]
"""


@pytest.mark.parametrize(
    ("name", "out", "err"),
    [
        ("children", "trained\n", ""),
        ("returns", "child ended with 1\ntrained\n", "a process that your own code has forked came back from it"),
    ],
)
def test_only_one_process_comes_back_from_a_reward_function_that_forks(written, name, out, err):
    file = written(FORKS)
    script = (
        "from aapo.grading import reward_function\n"
        f"assert reward_function('{file}:{name}')(completions=['a']) == [1.0]\n"
        "print('trained')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, out)
    assert err in done.stderr and bool(done.stderr) == bool(err)


def test_what_is_ours_can_end_the_program_while_a_users_code_runs():
    """As the handler of a second signal does, whatever it interrupts."""
    script = (
        "import os\nfrom aapo.named import user_code\n"
        "handler = eval('lambda: os._exit(7)', {'os': os, '__name__': 'aapo.handler'})\n"
        "with user_code():\n    handler()\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=100).returncode == 7


def test_worker_processes_end_as_they_do(written):
    with user_code():
        process = multiprocessing.get_context("fork").Process(target=os.getpid)
        process.start()
        process.join(60)
    assert process.exitcode == 0


def test_a_call_that_takes_long_is_named(written, monkeypatch, capsys):
    file = written("""
        import threading
        GO = threading.Event()

        def slow(completions, **columns):
            assert GO.wait(60)
            return [1.0]
    """)
    slow, go = reward_function(f"{file}:slow"), load_named(f"{file}:GO", "event")
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.01)
    lines = []

    def printed(line):
        lines.append(line)
        if len(lines) == 2:
            go.set()

    monkeypatch.setattr(progress.console, "print", printed)
    assert slow(completions=["a"]) == [1.0]
    assert len(lines) == 2 and all(line.startswith(f"waiting for reward function '{file}:slow', ") for line in lines)
    before = threading.active_count()
    go.clear()
    go.set()
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 60.0)
    assert slow(completions=["a"]) == [1.0]
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before and len(lines) == 2


OWN = """
    import sys
    import torch

    def divides(*arguments):
        return 1 / 0

    def leaves(*arguments):
        sys.exit()

    def bare(*arguments):
        return arguments[0]

    def pair(*arguments):
        return [1.0, 2.0]

    def numbers(*arguments):
        return 0.5, 0.5

    def nan(rewards_PG, *rest):
        return rewards_PG / 0, rewards_PG
"""


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("divides", AapoError, r"margin function divides \({file}, line 5\) failed: ZeroDiv.*zero \({file}, line 6\)$"),
        (
            "leaves",
            AapoError,
            r"margin function leaves .* failed: it ended the program by exit\(\) \({file}, line 9",
        ),
        (
            "bare",
            InputError,
            r"the margin function bare \({file}, line 11\) returned a Tensor; it must return a Margin",
        ),
        ("pair", InputError, r"the margin function pair \({file}, line 14\) returned a list; it must return a Margin"),
        ("numbers", InputError, r"the margin function numbers .* returned a float; it must return tensors"),
        ("nan", InputError, r"the margin function nan .* returned values that are not finite"),
    ],
)
def test_a_margin_that_fails_is_named_with_its_line(written, name, kind, said):
    file = written(OWN)
    point = Objective(margin=f"{file}:{name}")
    with pytest.raises(kind, match="^" + said.replace("{file}", str(file))) as raised:
        augmented_advantages(point, torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
    assert type(raised.value) is kind


def test_an_advantage_that_fails_is_named_with_its_line(written):
    file = written("""
        from aapo.objective import Objective

        def gone(groups):
            return groups.rewards

        def number(groups):
            return 1.0

        GONE, NUMBER = Objective(advantage=gone), Objective(advantage=number)
    """)
    rewards = torch.tensor([[0.0, 1.0]])
    gone, number = (load_named(f"{file}:{name}", "algorithm") for name in ("GONE", "NUMBER"))
    message = rf"^advantage function gone \({file}, line 4\) failed: AttributeError: .*'rewards'.* \({file}, line 5\)$"
    with pytest.raises(AapoError, match=message):
        augmented_advantages(gone, rewards, rewards)
    with pytest.raises(InputError, match="^the advantage function number .* returned a float; it must return tensors"):
        augmented_advantages(number, rewards, rewards)


def test_an_engine_that_fails_is_named_with_its_line(written, tiny_folder):
    file = written("""
        import os

        def broken(spec, tokenizer, settings, batch_size):
            os._exit(0)

        class Engine:
            def __init__(self, *arguments):
                pass

            def generate(self, prompt_ids, seeds, on_batch):
                return [] if len(prompt_ids) == 1 else prompt_ids[5]
    """)
    spec, settings = ModelSpec(str(tiny_folder)), SamplingSettings(max_completion_length=2)
    with open_engine(spec, settings, f"{file}:broken") as engine:
        message = rf"^engine {file}:broken failed: it ended the program by os._exit\(0\) \({file}, line 5\)$"
        with pytest.raises(AapoError, match=message):
            engine.generate([[5]], [1])
    with open_engine(spec, settings, f"{file}:Engine") as engine:
        with pytest.raises(InputError, match=rf"^engine {file}:Engine returned 0 completions for 1 prompts; it must"):
            engine.generate([[5]], [1])
        with pytest.raises(AapoError, match=rf"^engine {file}:Engine failed: IndexError: .* \({file}, line 12\)$"):
            engine.generate([[5], [6]], [1, 2])

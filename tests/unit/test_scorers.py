"""reasoning-gym's scorers: an answer must not run, hang or end anything, whatever the task does with it."""

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import reasoning_gym as upstream
from reasoning_gym.factory import DATASETS

from aapo.errors import InputError
from aapo.grading import (
    REWARDS,
    accuracy,
    check_isolation,
    isolation,
    jail,
    pool,
    reasoning_gym,
    reward_function,
    scorers,
)
from aapo.grading.seccomp import ARCHITECTURES, calculation_filter

REFUSAL = isolation.refusal()
isolated = pytest.mark.skipif(REFUSAL is not None, reason=REFUSAL or "")
TASKS = sorted(DATASETS.keys() - {"composite"})  # which needs settings, and passes answers on to other tasks
# These evaluate the answer in reasoning-gym 0.1.25, directly or by sympy's parser.
EVALUATING = [
    "binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24",
    "simple_integration", "spiral_matrix", "string_insertion",
]  # fmt: skip
# What Python tells an audit hook when it runs code, opens files, starts processes or reaches the network.
HARM = ("compile", "exec", "open", "import", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "signal.")

_watchers: list[list[str]] = []


def _audit(event, arguments):
    if _watchers and event.startswith(HARM):
        _watchers[-1].append(event)


sys.addaudithook(_audit)


@contextmanager
def watched():
    """The names of what this process does meanwhile that a scorer has no need of."""
    _watchers.append([])
    try:
        yield _watchers[-1]
    finally:
        _watchers.pop()


@pytest.fixture
def short_limit():
    pool.configure(workers=2, time_limit_seconds=1.0)
    yield
    pool.configure()


@functools.cache
def entry_of(task):
    return upstream.create_dataset(task, size=1, seed=1)[0]


def raw(task):
    return json.dumps(entry_of(task), default=str)


def graded(task, answers, entry=None):
    """Rewards and verdicts of answers to a task."""
    logged = {}
    paid = reasoning_gym(
        [f"<answer>{answer}</answer>" for answer in answers],
        task=[task] * len(answers), entry=[entry or raw(task)] * len(answers), log_extra=logged.__setitem__,
    )  # fmt: skip
    return paid, logged["verdict/reasoning_gym"]


def code_attacks(folder, port):
    """Expressions that make the file `folder`/new, connect to the port, or end this process, if they are evaluated."""
    new = str(folder / "new")
    calls = [
        f"__import__('os').system('touch {new}')",
        f"__import__('subprocess').run(['touch', '{new}'])",
        f"open('{new}', 'w').write('x')",
        f"__import__('os').mkdir('{new}')",
        f"__import__('os').rename('{folder}/old', '{new}')",
        f"__import__('socket').create_connection(('127.0.0.1', {port}))",
        f"__import__('os').kill({os.getpid()}, 9)",
        "__import__('os').kill(__import__('os').getppid(), 9)",
        "__import__('os').fork()",
        "exit()",
        "__import__('os')._exit(0)",
        "__import__('ctypes').string_at(0)",
    ]
    parsed = [as_call(calls[2]), f"Symbol({calls[0]!r}).{calls[0]}"]
    return [*calls, *(f"[[{call}]]" for call in calls[:3]), *parsed]


def as_call(program):
    """The program as an expression without quotes, which sympy's parser leaves alone."""
    return f"exec({'+'.join(f'chr({ord(character)})' for character in program)})"


HUGE = [
    "9" * 300_000, "9" * 300_000 + "a", "(" * 100_000, "[" * 100_000, '{"a":' * 50_000, "x " * 100_000, "-" * 100_000,
    "a\n" * 50_000, "," * 100_000, " " * 100_000 + "x", "1." * 100_000, "1,\t" * 50_000, "Move disk " * 50_000,
    "[" + "[]," * 50_000 + "[]]", " and is a knight" * 10_000,
]  # fmt: skip
BOMBS = [
    "9**9**9**9", "factorial(10**7)", "[0]*10**10", "'x'*10**10", "1e999999999", "1e-999999999", "10**10**10/1",
    "R999999999999", "A+999999999999", "F2 " * 1000 + "U999999999", "1/1e-99999999", "C" * 50_000,
]  # fmt: skip
MALFORMED = [
    "\0", "\ud800", "nan", "inf", "-inf", "NaN", "1/0", "0/0", "--1", "None", "{}", "[]", "[[]]", "null", "true", '""',
    '{"a": {}}', "[1, [2]]", '[{"a": 1}]', "[1e400]", "=", "a=", ",", ":", "1:", ":1", "×", "1×x", "1 2 3", "²", "٣",
    "\\frac{1}{0}", "A=1,A=2", "(((", "True", "...", "lambda: 0", "a" * 2000, "1" * 5000, "9" * 400, "1." + "0" * 5000,
]  # fmt: skip


@contextmanager
def unharmed(folder):
    """Attacks run inside; afterwards nothing has happened to the folder, the port and this process's children."""
    (folder / "old").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield code_attacks(folder, server.getsockname()[1])
        with pytest.raises(BlockingIOError):
            server.accept()
    assert [file.name for file in folder.iterdir()] == ["old"]


@pytest.mark.parametrize("task", sorted(scorers.IN_PROCESS))
def test_a_scorer_in_this_process_never_evaluates_and_never_takes_long(task, tmp_path):
    attack_here(task, [*BOMBS, *MALFORMED], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(scorers.IN_PROCESS))
def test_a_scorer_in_this_process_takes_no_longer_for_a_huge_answer(task, tmp_path):
    answer = str(entry_of(task)["answer"])
    attack_here(task, [*HUGE, answer * 1000, ",".join([answer] * 1000), "\n".join([answer] * 1000)], tmp_path)


def attack_here(task, hostile, folder):
    """Score hostile answers in this process, in well below a second each, and without evaluating any."""
    answer = str(entry_of(task)["answer"])
    first = scorers.score_here(task, answer, raw(task))  # which imports what it needs
    with unharmed(folder) as attacks:
        for attack in [*attacks, *hostile, answer + attacks[0]]:
            began = time.process_time()
            with watched() as events:
                score = scorers.score_here(task, attack, raw(task))
            assert events == []
            assert time.process_time() - began < 1.0, attack[:40]
            assert not score > 1
    assert scorers.score_here(task, answer, raw(task)) == first


@pytest.mark.parametrize("task", sorted(scorers.COSTLY))
def test_a_scorer_whose_process_lives_on_never_evaluates(task, tmp_path):
    answer = str(entry_of(task)["answer"])
    scorers.score_here(task, answer, raw(task))  # which imports what it needs
    with unharmed(tmp_path) as attacks:
        for attack in [*attacks, *MALFORMED, answer + attacks[0]]:
            with watched() as events:
                scorers.score_here(task, attack, raw(task))
            assert events == []


def test_no_scorer_that_was_said_not_to_evaluates_the_data_sets_entry(tmp_path):
    hostile = f"__import__('pathlib').Path({str(tmp_path / 'new')!r}).touch()"

    def poisoned(value):
        if isinstance(value, dict):
            return {key: poisoned(part) for key, part in value.items()}
        return [poisoned(part) for part in value] if isinstance(value, list) else hostile

    for task in sorted(scorers.IN_PROCESS | scorers.COSTLY):
        entry = json.dumps(poisoned(json.loads(raw(task))))
        with watched() as events:
            for answer in ("1", hostile):
                scorers.score_here(task, answer, entry)
        assert events == [], task
    if REFUSAL is None:
        for task in ("bitwise_arithmetic", "number_sorting"):
            good = json.loads(raw(task))
            good["metadata"]["problem"] = good["answer"] = hostile
            graded(task, ["1", "[1]"], json.dumps(good))
    assert not list(tmp_path.iterdir())


@isolated
@pytest.mark.parametrize("task", EVALUATING)
def test_an_answer_that_is_code_does_nothing(task, tmp_path, short_limit):
    right = str(entry_of(task)["answer"])
    graded(task, [right])
    with unharmed(tmp_path) as attacks:
        with watched() as events:
            paid, verdicts = graded(task, [right, *attacks, right])
        assert not {"compile", "exec", "os.system"} & set(events)
    assert paid[0] == paid[-1] == 1.0 and verdicts[0] == verdicts[-1] == "correct"
    assert all(value < 0.5 for value in paid[1:-1])
    assert set(verdicts[1:-1]) <= {"wrong", "timeout"}


@isolated
def test_a_bomb_times_out_pays_nothing_and_costs_only_itself(short_limit):
    right = entry_of("countdown")["answer"]
    began = time.monotonic()
    paid, verdicts = graded("countdown", [right, "9**9**9**9", right, "[0]*10**10", right, "1"])
    assert paid == [1.0, 0.0, 1.0, 0.01, 1.0, 0.05]  # 0.01 is what the scorer pays where memory ran out
    assert verdicts == ["correct", "timeout", "correct", "wrong", "correct", "wrong"]
    assert time.monotonic() - began < 20
    assert graded("coin_flip", ["1e999999999", "1e400"])[1] == ["timeout", "wrong"]  # Fraction and float, no code
    assert graded("rush_hour", ["A+999999999999"]) == ([0.0], ["timeout"])


@isolated
def test_an_answer_does_not_change_how_the_next_one_is_scored(short_limit):
    pool.configure(workers=1)
    isolation.stop()
    patch = "import reasoning_gym.games.countdown as c; c.CountdownDataset.score_answer = lambda *a: 1.0"
    assert graded("countdown", [as_call(patch), "1", "1 + 1"])[0] == [0.01, 0.05, 0.05]
    # What it claims of itself is held to the range of scores.
    claim = """
import os, struct
for n in range(1000, 1100):
    try:
        os.write(n, struct.pack("d", 1e300))
    except OSError:
        pass
"""
    assert graded("countdown", [as_call(claim), "1", "1"])[0] == [1.0, 0.05, 0.05]


@isolated
def test_the_isolated_scores_are_the_scorers_own():
    pool.configure(workers=2, time_limit_seconds=30)
    try:
        for task in (name for name in TASKS if scorers.is_isolated(name)):
            entry = entry_of(task)
            answers = [str(entry["answer"]), "1", "12", "[[1, 2], [3, 4]]", "x**2", "[]", "A+1", "U R F'", "1/2"]
            expected = [max(0.0, scorers.score_here(task, answer, raw(task))) for answer in answers]  # 0 for NaN
            assert graded(task, answers)[0] == expected, task
    finally:
        pool.configure()


@pytest.mark.slow
@isolated
@pytest.mark.parametrize("task", [task for task in TASKS if scorers.is_isolated(task)])
def test_no_isolated_scorer_is_hurt_by_anything(task, tmp_path, short_limit):
    right = str(entry_of(task)["answer"])
    before = graded(task, [right])
    with unharmed(tmp_path) as attacks:
        hostile = [*attacks, *HUGE, *BOMBS, *MALFORMED, right + attacks[0], right * 1000]
        began = time.monotonic()
        paid, _ = graded(task, hostile)
        assert time.monotonic() - began < 1.5 * len(hostile)
    assert len(paid) == len(hostile)
    assert all(0 <= value <= 1 for value in paid)
    assert graded(task, [right]) == before


def test_every_task_is_known_or_isolated():
    assert not scorers.IN_PROCESS - DATASETS.keys()
    assert all(scorers.is_isolated(task) for task in [*EVALUATING, "bitwise_arithmetic", "composite", "a_new_task"])
    assert not any(map(scorers.is_isolated, ["chain_sum", "basic_arithmetic"]))
    assert not scorers.COSTLY & (scorers.IN_PROCESS | {*EVALUATING}) and not scorers.COSTLY - DATASETS.keys()
    assert all(map(scorers.may_evaluate, [*EVALUATING, "composite", "a_new_task"]))


def test_another_release_is_isolated_whole(monkeypatch):
    monkeypatch.setattr(scorers, "_was_read", lambda: False)
    assert scorers.is_isolated("chain_sum") and scorers.may_evaluate("chain_sum")
    monkeypatch.setattr(isolation, "refusal", lambda: "this is darwin on arm64")
    with pytest.raises(InputError, match=r"this is darwin on arm64\); install reasoning-gym==0.1.25, or use Linux"):
        scorers.require_scorers(["chain_sum"])


@isolated
def test_an_unknown_task_is_named():
    with pytest.raises(InputError, match=r"no task 'countdwn' \(did you mean countdown\?\)"):
        graded("countdwn", ["1"], "{}")


def test_a_completion_without_an_answer_is_not_scored():
    logged = {}
    assert reasoning_gym(["nothing"], task=["chain_sum"], entry=[raw("chain_sum")], log_extra=logged.__setitem__) == [0]
    assert logged["verdict/reasoning_gym"] == ["no_answer"] and logged["extracted/reasoning_gym"] == [None]


def test_a_scorer_that_raises_says_so_and_pays_nothing():
    logged = {}
    task = "calendar_arithmetic"  # which divides a difference of any size
    entry = {"question": "", "answer": "5", "metadata": {"task": "count_days"}}
    paid = reasoning_gym(
        ["<answer>" + "9" * 400 + "</answer>"], task=[task], entry=[json.dumps(entry)], log_extra=logged.__setitem__
    )
    assert paid == [0.0] and logged["verdict/reasoning_gym"] == ["wrong"]
    assert logged["rule/reasoning_gym"] == ["calendar_arithmetic, unreadable"]


# Refusal


@pytest.fixture
def unproven():
    """No proof from earlier, and none left for later."""
    isolation.stop()
    isolation._state.proven = False
    yield
    isolation.stop()
    isolation._state.proven = False


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "riscv64")])
def test_another_machine_is_refused_before_anything_is_scored(system, machine, monkeypatch, unproven):
    monkeypatch.setattr(isolation.sys, "platform", system)
    monkeypatch.setattr(isolation.platform, "machine", lambda: machine)
    message = rf"reasoning_gym:countdown .*isolated, .*this is {system} on {machine}\); choose another task"
    for attempt in [
        lambda: graded("countdown", ["1"]),
        lambda: check_isolation([reasoning_gym], ["chain_sum", "countdown"]),
        lambda: check_isolation([reward_function("reasoning_gym"), accuracy], iter(["countdown"])),
        lambda: check_isolation([functools.partial(reasoning_gym)], ["countdown"]),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    check_isolation([accuracy], ["countdown"])
    check_isolation([reasoning_gym], ["chain_sum"])
    assert graded("chain_sum", [entry_of("chain_sum")["answer"]])[0] == [1.0]


def test_programs_without_a_sandbox_are_refused_as_early(monkeypatch):
    def refuse():
        raise InputError("no sandbox")

    monkeypatch.setattr("aapo.grading.registry.require_sandbox", refuse)
    check_isolation([accuracy], [])
    for function in (REWARDS["code"], functools.partial(REWARDS["code"], memory_mb=64)):
        with pytest.raises(InputError, match="no sandbox"):
            check_isolation([accuracy, function], [])


LEAKS = {
    "enter = lambda memory: None": ["write a file", "start a process", "run a program", "signal its parent"],
    "has_landlock = iter([True, False]).__next__": ["read files"],
    "calculation_filter = seccomp_filter": ["run a program", "reach the network", "signal its parent"],
    "resource.setrlimit = lambda *limits: None": ["use more memory than allowed"],
}


@isolated
@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_is_found_and_refused(leak, monkeypatch, unproven):
    if "landlock" in leak and not jail.has_landlock():
        pytest.skip("the kernel has no Landlock")
    broken = f"from aapo.grading import jail; from aapo.grading.seccomp import seccomp_filter; jail.{leak}; serve("
    monkeypatch.setattr(isolation, "_SERVE", isolation._SERVE.replace("serve(", broken, 1))
    with pytest.raises(InputError, match="an isolated process can ") as caught:
        check_isolation([reasoning_gym], ["countdown"])
    assert all(what in str(caught.value) for what in LEAKS[leak])


@isolated
def test_a_kernel_without_the_filter_is_refused(monkeypatch, unproven):
    broken = "from aapo.grading import jail; jail.calculation_filter = lambda machine: b'12345678'; serve("
    monkeypatch.setattr(isolation, "_SERVE", isolation._SERVE.replace("serve(", broken, 1))
    with pytest.raises(InputError, match="its kernel does not take the seccomp filter"):
        graded("countdown", ["1"])


@pytest.mark.parametrize("grader", ["aapo", "open_r1", "accuracy_lv35"])
def test_the_comparison_of_mathematics_runs_no_answer_either(grader, tmp_path):
    with unharmed(tmp_path) as attacks:
        texts = [
            f"{opening}{attack}{closing}" for attack in attacks for opening, closing in (("\\boxed{", "}"), ("$", "$"))
        ]
        for gold in ("5", "x^2"):
            assert not any(accuracy(texts, answer=[gold] * len(texts), grader=grader))


# The processes


@isolated
def test_a_server_that_dies_is_replaced():
    right = entry_of("countdown")["answer"]
    assert graded("countdown", [right])[0] == [1.0]
    for server in isolation._state.idle:
        os.kill(server.process.pid, signal.SIGKILL)
    assert graded("countdown", [right] * 4)[0] == [1.0] * 4


@isolated
def test_nothing_is_left_when_the_trainer_is_killed(tmp_path):
    program = f"""
import os, signal, threading, time
from aapo.grading import isolation, reasoning_gym

def below(me):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = open(f"/proc/{{name}}/stat").read().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        found.append((int(name), int(fields[1]), int(fields[11])))
    servers = [pid for pid, parent, _ in found if parent == me]
    return servers, [pid for pid, parent, ticks in found if parent in servers and ticks > 50]

def end():
    while not below(os.getpid())[1]:
        time.sleep(0.1)
    servers, children = below(os.getpid())
    print(*servers, *children, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

isolation.pool.configure(workers=1, time_limit_seconds=300)
threading.Thread(target=end).start()
reasoning_gym(["<answer>9**9**9**9</answer>"], task=["countdown"], entry=[{raw("countdown")!r}])
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2  # a server and its child, which calculates
    deadline = time.monotonic() + 30
    while any(map(_is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_is_running, pids))


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@isolated
def test_an_isolated_process_has_neither_the_environment_nor_open_files(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "secret")
    isolation.stop()
    right = entry_of("spiral_matrix")["answer"].split()

    def runs(program):
        """Whether an answer runs to its end: reasoning-gym pays 0.1 for the right list as a Python expression."""
        return graded("spiral_matrix", [f"exec({program!r}) or {right}"])[0] == [0.1]

    (tmp_path / "secret").write_text("secret")
    with (tmp_path / "open").open("w"):
        assert runs("assert True") and not runs("assert False")
        assert runs("import os; assert 'HF_TOKEN' not in os.environ")
        assert runs(OPEN_FILES)
        if jail.has_landlock():
            assert not any(runs(f"open({path!r}, 'rb').read(1)") for path in (str(tmp_path / "secret"), "/etc/passwd"))
            assert runs("import json.tool")  # which is not loaded yet


OPEN_FILES = """
import os
found = []
for number in range(5000):
    try:
        os.fstat(number)
        found.append(number)
    except OSError:
        pass
assert len(found) == 5 and found[:3] == [0, 1, 2]
nowhere = os.makedev(1, 3)
assert (os.fstat(0).st_rdev, os.fstat(1).st_rdev, os.fstat(2).st_rdev) == (nowhere, nowhere, nowhere)
"""


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("94*4 - 61 - 6", True),
        ("(1 + 2)/3^2", True),
        ("[[1, 2], [3, 4]]", True),
        ("2*x**3 + sin(x)*exp(-x) + C", True),
        ("-2*Integral(x**2*cos(3*x), x) + C", True),
        ("", True),
        ("exit()", False),
        ("x.subs", False),
        ("_", False),
        ("'a'", False),
        ("x if y", False),
        ("x1=2", False),
        ("{1: 2}", False),
        ("\uff45xit", False),
        ("ｅ", False),
        ("sinh(x) + sinhx", False),
    ],
)
def test_only_arithmetic_lets_a_child_live_on(answer, plain):
    assert jail.is_plain(answer) == plain


def test_deciding_whether_an_answer_is_plain_takes_linear_time():
    began = time.process_time()
    for text in ("x " * 200_000 + "!", "sin" * 200_000, "1" * 500_000 + "'", "(" * 500_000 + "_"):
        jail.is_plain(text)
    assert time.process_time() - began < 2.0


HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", {}),
    "aarch64": ("/usr/include/asm-generic/unistd.h", {"newfstatat": "fstatat"}),
}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_allows_the_calls_that_it_names(machine):
    path, other_names = HEADERS[machine]
    if not Path(path).exists():
        pytest.skip("the kernel's headers are not installed")
    numbers = {
        name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", Path(path).read_text())
    }
    architecture = ARCHITECTURES[machine]
    for name, number in {**architecture.calculating, "openat": architecture.openat}.items():
        assert numbers[other_names.get(name, name)] == number, name
    forbidden = ("execve", "execveat", "socket", "kill", "tgkill", "fcntl", "ioctl", "prctl", "prlimit64", "unlinkat")
    assert not {*forbidden, "clone", "clone3", "ptrace", "dup", "pidfd_open"} & architecture.calculating.keys()
    assert len(calculation_filter(machine)) % 8 == 0

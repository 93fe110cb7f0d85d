"""Grading workers: nothing that a model writes may hang, slow, blow up or kill the trainer."""

import ctypes
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from aapo.errors import InputError
from aapo.grading import REWARDS, accuracy, answers, grade, grade_ahead, grade_many, pool, reward_function
from aapo.grading.custom import guarded
from aapo.grading.worker import decide

# Those that are known to hang or blow up math-verify in a process without limits, and some of our own.
BOMBS = [
    r"9^{9^{9^9}}",
    r"7^{10^9}",
    r"\gcd(2^{2^{32}},3)",
    r"((9!)!)!",
    r"(x+1)^{100000}",
    r"\binom{10^9}{5\cdot 10^8}",
    r"\Gamma(10^{12})",
    r"\begin{vmatrix}" + r"\\".join("&".join(f"a_{{{i}{j}}}" for j in range(9)) for i in range(9)) + r"\end{vmatrix}",
    r"2^{2^{2^{2^{2^2}}}}",
    r"\sum_{k=1}^{10^{9}} \frac{1}{k}",
    "(" * 400 + "x" + ")" * 400,
    r"\frac{" * 60 + "1" + "}{2}" * 60,
]
# These look harmless, so they start; the gold answer is a power of a matrix as well.
SLOW = [rf"\begin{{pmatrix}}a&b&c\\d&e&f\\g&h&i\end{{pmatrix}}^{{{n}}}" for n in (200, 250, 300)]
SLOW_GOLD = r"\begin{pmatrix}x\end{pmatrix}^2"


@pytest.fixture
def short_limit():
    """A limit for short tests that a busy machine does not make normal items hit."""
    pool.configure(workers=2, time_limit_seconds=2.0)
    answers.forget_verdicts()
    yield
    pool.configure()
    answers.forget_verdicts()


def normal_pairs(count, seed=0):
    """Pairs that need math-verify, half of them right."""
    numbers = random.Random(seed)
    for n in range(count):
        a, b = numbers.randint(1, 10**6), numbers.randint(1, 10**6)
        right = n % 2 == 0
        yield f"x^2+{a}x+{b}", rf"so \boxed{{{b + (not right)}+x(x+{a})}}", "correct" if right else "wrong"


def test_bombs_time_out_and_normal_verdicts_stay_right(short_limit):
    pairs = list(normal_pairs(100)) + [(r"\sqrt{2}", rf"\boxed{{{bomb}}}", "timeout") for bomb in BOMBS]
    pairs += [(SLOW_GOLD, rf"\boxed{{{bomb}}}", "timeout") for bomb in SLOW]
    random.Random(1).shuffle(pairs)
    verdicts = grade_many([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    assert [verdict.outcome for verdict in verdicts] == [pair[2] for pair in pairs]
    killed = [verdict for verdict in verdicts if verdict.outcome == "timeout" and verdict.rule == "math-verify"]
    assert len(killed) == len(SLOW)


def test_unclosed_boxes_and_many_elements_are_decided_at_once():
    assert grade("2", r"\boxed{" * 50_000).outcome == "no_answer"
    names = [f"x_{{{i}}}" for i in range(300)]
    assert (
        grade(r"\{" + ",".join(names) + r"\}", r"\boxed{\{" + ",".join(reversed(names)) + r"\}}").outcome == "correct"
    )


FATAL = {
    "segmentation fault": (ctypes.string_at, 1),
    "abort": (os.abort,),
    "exit": (os._exit, 1),
    "polite exit": (sys.exit, 1),
    "memory": (bytearray, 10**11),
    "recursion": (eval, "(lambda f: f(f))(lambda f: f(f))"),
    "hang": (time.sleep, 60),
    "stopped": (signal.raise_signal, signal.SIGSTOP),
    "killed": (signal.raise_signal, signal.SIGKILL),
}


@pytest.mark.parametrize("call", FATAL.values(), ids=FATAL)
def test_a_lost_worker_costs_its_own_item(call, short_limit):
    normal = [pool.Item(decide, f"x^2+{n}", f"{n}+x^2", True) for n in range(5)]
    fatal = pool.Item(*call)
    normal += [pool.Item(decide, f"x^2+{n}", f"{n}+x^2", True) for n in range(5, 10)]
    assert fatal.result() is None
    assert [item.result() for item in normal] == ["correct"] * 10


def test_idle_workers_that_are_killed_are_replaced(short_limit):
    assert grade("x^2+1", r"\boxed{1+x^2}").outcome == "correct"
    for process in descendants(os.getpid()):
        if "forkserver" not in command(process) or parent(process) != os.getpid():
            continue
        for worker in children(process):
            os.kill(worker, signal.SIGKILL)
    assert grade("x^2+2", r"\boxed{2+x^2}").outcome == "correct"


def test_workers_that_do_not_answer_are_given_up(short_limit, monkeypatch):
    monkeypatch.setattr(pool, "STALL_SECONDS", 1.0)
    assert grade("x^2+1", r"\boxed{1+x^2}").outcome == "correct"
    server = next(pid for pid in children(os.getpid()) if "forkserver" in command(pid))
    stopped = children(server)
    for worker in stopped:
        os.kill(worker, signal.SIGSTOP)
    assert grade("x^2+2", r"\boxed{2+x^2}").outcome == "correct"
    for worker in stopped:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


def test_who_waits_while_the_settings_change_gets_a_verdict(short_limit):
    hanging = [pool.Item(time.sleep, 0.5) for _ in range(4)]
    found = []
    thread = threading.Thread(target=lambda: found.append(grade("x^2+3", r"\boxed{3+x^2}").outcome))
    thread.start()
    pool.configure(workers=1, time_limit_seconds=2.0)
    thread.join(30)
    assert found == ["correct"]
    assert [item.result() for item in hanging] == [None] * 4  # what sleep returns


def test_workers_do_not_touch_what_others_pickle(short_limit):
    """The user's script stays in its place while workers start."""
    script = sys.modules["__main__"]
    seen = set()
    running = threading.Event()

    def watch():
        while not running.is_set():
            seen.add(sys.modules["__main__"])

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(5):
        pool.Item(os._exit, 1).result()
    running.set()
    thread.join()
    assert seen == {script}


def test_many_threads_grade_at_once(short_limit):
    found = {}

    def work(number):
        pairs = list(normal_pairs(20, seed=number))
        verdicts = grade_many([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        found[number] = [verdict.outcome for verdict in verdicts] == [pair[2] for pair in pairs]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == dict.fromkeys(range(8), True)


def test_a_verdict_is_kept(monkeypatch):
    answers.forget_verdicts()
    started = []
    item = pool.Item
    monkeypatch.setattr(answers, "Item", lambda *call: started.append(call) or item(*call))
    completions = [r"\boxed{x+y}", r"first \boxed{x+y}", r"\boxed{x + z}"]
    outcomes = [verdict.outcome for verdict in grade_many(["y+x"] * 3, completions)]
    assert outcomes == ["correct", "correct", "wrong"]
    assert len(started) == 2  # one for each answer
    assert grade("y+x", r"\boxed{x+y}").outcome == "correct"
    assert len(started) == 2


GOLD, RIGHT = r"x^2+1", r"\boxed{1+x\cdot x}"


@pytest.mark.parametrize(
    "options", [{}, {"evaluated": False}, {"grader": "open_r1"}, {"unfinished_thoughts": True, "convention": "hashes"}]
)
def test_a_verdict_that_was_begun_early_is_picked_up(monkeypatch, options):
    answers.forget_verdicts()
    expected = [grade(GOLD, text, **options) for text in (RIGHT, r"\boxed{x}", "none")]
    answers.forget_verdicts()
    started, item = [], pool.Item
    monkeypatch.setattr(answers, "Item", lambda *call: started.append(call) or item(*call))
    function = reward_function("accuracy", options)
    for text in (RIGHT, r"\boxed{x}", "none"):
        grade_ahead([function], GOLD, lambda text=text: text)
    begun = len(started)
    assert begun >= 2
    assert [grade(GOLD, text, **options) for text in (RIGHT, r"\boxed{x}", "none")] == expected
    assert len(started) == begun


@pytest.mark.parametrize("gold", ["42", "1.5", r"\frac{2}{3}", "B", "monday", "101_2"])
def test_what_is_decided_in_this_process_is_not_begun_early(gold):
    grade_ahead([accuracy], gold, lambda: pytest.fail("the text is not needed"))


def test_functions_that_are_not_shipped_are_not_begun_early():
    def own(completions, **columns):
        pytest.fail("it is called")

    def text():
        pytest.fail("the text is not needed")

    grade_ahead(
        [own, partial(accuracy, evaluated=False), guarded("own", own, {}, "fail"), REWARDS["format"]], GOLD, text
    )


def test_a_limit_that_was_hit_early_says_nothing(monkeypatch):
    results = []

    class Item:
        def __init__(self, *call):
            self.outcome = results.pop(0)

        def result(self):
            return self.outcome

        def again(self):
            return Item()

    monkeypatch.setattr(answers, "Item", Item)
    for early, come, outcome in (
        (True, [None, "correct"], "correct"),
        (True, [None, None], "timeout"),
        (True, ["wrong"], "wrong"),
        (False, [None], "timeout"),
    ):
        answers.forget_verdicts()
        results[:] = come
        if early:
            answers.begin_grading(GOLD, RIGHT)
        assert grade(GOLD, RIGHT).outcome == outcome and results == []
    answers.forget_verdicts()


def test_settings_are_checked():
    for settings in ({"workers": 0}, {"time_limit_seconds": 0.0}, {"time_limit_seconds": float("inf")}):
        with pytest.raises(InputError, match="both must be positive"):
            pool.configure(**settings)


def run_script(text, *arguments, seconds=60):
    return subprocess.run(
        [sys.executable, *(arguments or ["-"])],
        input=textwrap.dedent(text), capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip


def test_a_script_without_a_guard_is_not_run_by_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from aapo.grading import grade\nprint('started')\nprint(grade('x+1', r'\\boxed{1+x}').outcome, flush=True)\n"
    )
    ran = run_script("", str(script))
    assert ran.stdout.split() == ["started", "correct"], ran.stderr
    ran = run_script(script.read_text())  # from standard input
    assert ran.stdout.split() == ["started", "correct"], ran.stderr


FORKING = """
    import multiprocessing, os, threading
    import torch
    from aapo.grading import grade

    torch.randn(300, 300) @ torch.randn(300, 300)  # starts torch's threads
    lock = threading.Lock()

    def check(n):
        return grade(f"x^2+{n}", rf"\\boxed{{{n}+x^2}}").outcome == "correct"

    assert check(0)
    running = True

    def traffic():
        n = 1000
        while running:
            assert check(n)
            n += 1

    thread = threading.Thread(target=traffic)
    thread.start()
    for n in range(1, 4):
        with lock:
            pid = os.fork()
        if pid == 0:
            os._exit(0 if check(n) and check(0) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    child = multiprocessing.get_context("fork").Process(target=lambda: None if check(5) else os._exit(1))
    child.start()
    child.join()
    assert child.exitcode == 0, child.exitcode
    running = False
    thread.join()
    assert check(6)
    print("done")
"""


@pytest.mark.slow
def test_a_forked_process_grades_with_workers_of_its_own():
    ran = run_script(FORKING, seconds=120)
    assert ran.stdout.split() == ["done"], ran.stderr


def marked(mark):
    """The processes that were started with this in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("end", ["pass", "raise SystemExit(3)", "os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)"])
def test_no_worker_outlives_the_trainer(end, monkeypatch, tmp_path):
    script = f"""
        import os, signal, sys, time
        from aapo.grading import grade, pool
        pool.ORPHAN_SECONDS = 0.5
        pool.configure(workers=2, time_limit_seconds=1.0)
        assert grade("x+1", r"\\boxed{{1+x}}").outcome == "correct"
        hanging = pool.Item(time.sleep, 60)
        time.sleep(0.3)
        print("ready", flush=True)
        sys.stdin.readline()
        {end}
    """
    mark = f"AAPO_TEST={tmp_path}"
    monkeypatch.setenv(*mark.split("="))
    trainer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None and trainer.stdout.readline() == "ready\n"
    assert len(marked(mark)) >= 4  # the trainer, the server and its workers
    trainer.communicate("\n")
    deadline = time.monotonic() + 20
    while left := marked(mark):
        assert time.monotonic() < deadline, [command(pid) for pid in left]
        time.sleep(0.1)


@pytest.mark.slow
def test_every_rank_grades(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(
        "import os\nimport torch.distributed as dist\nfrom aapo.grading import grade, pool\n"
        "dist.init_process_group('gloo')\nassert pool.default_workers() == 1\n"
        "for n in range(20):\n    assert grade(f'x^2+{n}', rf'\\boxed{{{n}+x^2}}').outcome == 'correct'\n"
        "assert grade('x', r'\\boxed{9^{9^{9^9}}}').outcome == 'timeout'\n"
        "dist.barrier()\nos.write(1, f\"rank {os.environ['RANK']} done\\n\".encode())\n"
    )
    ran = run_script("", "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script), seconds=180)
    assert {"rank 0 done", "rank 1 done"} <= set(ran.stdout.splitlines()), ran


def all_processes():
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def children(pid):
    return [other for other in all_processes() if parent(other) == pid]


def descendants(pid):
    found = children(pid)
    return found + [other for child in found for other in descendants(child)]

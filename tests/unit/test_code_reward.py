import errno
import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from datasets import Dataset

from aapo.errors import InputError
from aapo.grading import bubblewrap, programs, sandbox
from aapo.grading.programs import Execution, Limits
from aapo.grading.rewards import code
from aapo.grading.rewards.code import (
    equal_lines,
    equal_lines_open_r1,
    extract_program,
    parse_cases,
)
from aapo.grading.sandbox import require_sandbox, run_program
from aapo.grading.seccomp import ARCHITECTURES, seccomp_filter

module = importlib.import_module("aapo.grading.rewards.code")  # the package's `code` is the function

try:
    require_sandbox()
    REFUSAL = ""
except InputError as error:
    REFUSAL = str(error)
sandboxed = pytest.mark.skipif(bool(REFUSAL), reason=REFUSAL)

SUM = "print(sum(map(int, input().split())))"
SHORT = Limits(wall_seconds=1.0, cpu_seconds=1)


def block(program, mark="python"):
    return f"Here it is:\n```{mark}\n{program}\n```\nDone."


def row_of(*pairs):
    return {"language": "python", "test_cases": [{"input": i, "output": o, "type": "stdin_stdout"} for i, o in pairs]}


SUMS = row_of(("1 2", "3\n"), ("4 5", "9\n"), ("-1 1", "0\n"), ("7 0", "7\n"), ("2 2", "4\n"))


@pytest.fixture
def fake(monkeypatch):
    """The reward without a sandbox: what a "program" does is decided by its text."""
    ran = []

    def run(source, stdin, limits):
        ran.append((source.strip(), stdin, limits))
        if source.strip() == "sum":
            return Execution("ok", f"{sum(map(int, stdin.split()))}\n", "", 0.0)
        if source.strip() == "small":  # right below 5, late at 7, else wrong
            total = sum(map(int, stdin.split()))
            if total == 7:
                return Execution("timeout", "", "", 5.0)
            return Execution("ok", f"{total if total < 5 else 0}\n", "", 0.0)
        return Execution(source.strip(), "3\n", "", 0.0)  # an outcome by its name

    monkeypatch.setattr(module, "run_program", run)
    monkeypatch.setattr(module, "require_sandbox", lambda: None)
    return ran


class Log(dict):
    def __call__(self, column, values):
        self[column] = values


# Extraction


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("```python\na\n```", "a\n"),
        ("```python\na\n```\nbetter:\n```python\nb\nc\n```", "b\nc\n"),
        ("```py\na\n```", "a\n"),
        ("```Python3 \na\n```", "a\n"),
        ("```\na\n```", "a\n"),
        ("```python\na\n```\nprints\n```\n42\n```", "a\n"),  # marked goes before unmarked
        ("```cpp\na\n```", None),
        ("```cpp\na\n```\n```python\nb\n```\n```json\n{}\n```", "b\n"),
        ("so: ```python\na\n```", "a\n"),  # as open-r1, also within a line
        ("```python\nprint(1)```", "print(1)"),
        ("Use ```x``` here.\n```python\na\n```", "a\n"),
        ("a stray ``` here\n```python\na\n```", "a\n"),
        ("````python\na\n````", "a\n"),
        ("  ```python\n  a\n  ```", "  a\n  "),
        ("```python\r\na\r\n```", "a\r\n"),
        ("```python\na\n```\n```python\nnever closed", "a\n"),
        ("```python\na draft\nno:\n```python\nb\n```", "b\n"),
        ("```python\n```", None),
        ("```python\n \n```", None),
        ("```python", None),
        ("``python\na\n``", None),
        ("print(1)", None),
        ("", None),
    ],
)
def test_extraction(completion, program):
    assert extract_program(completion) == program


@pytest.mark.parametrize("piece", ["`", "```", "```\n", "```python\n", "``` ", "```python\n`", "``` ```\n", "`\n``"])
def test_extraction_is_linear(piece):
    began = time.process_time()
    extract_program(piece * (300_000 // len(piece)))
    assert time.process_time() - began < 2  # quadratic takes minutes


# Comparison


@pytest.mark.parametrize(
    ("output", "expected", "ours", "upstream"),
    [
        ("1\n2\n", "1\n2\n", True, True),
        ("1\n2", "1\n2\n\n", True, True),
        ("1 \n2\r\n", "1\n2", True, True),
        ("1\n", "1\n2\n", False, True),  # only the first line
        ("1\n2\n3\n", "1\n2", False, True),  # more lines
        ("1\n2\n3\n", "1\n2\n", False, False),
        ("", "1\n", False, False),
        ("", "\n1\n", False, True),  # nothing at all
        (" 1\n", "1\n", False, True),
        ("1\n\n2\n", "1\n2\n", False, False),
        ("1\n3\n", "1\n2\n", False, False),
        ("", "", True, True),
        ("1\u2028", "1", True, True),
        ("1\x0b2", "1\n2", False, False),
    ],
)
def test_comparison(output, expected, ours, upstream):
    assert equal_lines(output, expected) is ours
    assert equal_lines_open_r1(output, expected) is upstream


# Tests of a row


def test_cases_are_read_from_dicts_and_json_and_from_a_dataset():
    two = row_of(("1", "2"), ("3", "4"))
    assert parse_cases(two, 0) == parse_cases(json.dumps(two), 0) == [(None, "1", "2"), (None, "3", "4")]
    two["test_cases"][0] |= {"fn_name": None, "type": None}
    row = Dataset.from_list([{"verification_info": two}])[0]
    assert parse_cases(row["verification_info"], 0) == [(None, "1", "2"), (None, "3", "4")]
    assert parse_cases(None, 0) is None
    call = {"language": "python", "test_cases": [{"fn_name": "f", "input": [[1, 2], "x"], "output": [3]}]}
    assert parse_cases(call, 0) == [("f", '[[1, 2], "x"]', [3])]
    call["test_cases"][0] |= {"input": '[1, 2]\n"x"\n', "output": "3", "type": "function_call"}
    assert parse_cases(call, 0) == [("f", '[[1, 2], "x"]', 3)]


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        ("{", "it is not JSON"),
        ("[]", "it is a list"),
        (3, "it is a int"),
        ({"test_cases": []}, "its language is None"),
        ({"language": "cpp", "test_cases": []}, "its language is 'cpp'"),
        ({"language": "python"}, "it has no list of test_cases"),
        ({"language": "python", "test_cases": []}, "test_cases is empty"),
        ({"language": "python", "test_cases": ["1"]}, "test case 1 has no input and output"),
        ({"language": "python", "test_cases": [{"input": "1"}]}, "test case 1 has no input and output"),
        (row_of(("1", "1"), (["1"], "1")), "test case 2's input and output are not both text"),
        (row_of(("1", None)), "test case 1's input and output are not both text"),
        ({"language": "python", "test_cases": [{"input": "", "output": "", "type": "x"}]}, "has type 'x'"),
        ({"language": "python", "test_cases": [{"input": [], "output": 1, "type": "function_call"}]}, "fn_name None"),
        ({"language": "python", "test_cases": [{"fn_name": "f", "input": "{", "output": "1"}]}, "are not JSON"),
        ({"language": "python", "test_cases": [{"fn_name": "f", "input": 1, "output": "1"}]}, "arguments are a int"),
    ],
)
def test_malformed_rows_are_errors_of_one_line(info, problem, fake):
    with pytest.raises(InputError) as caught:
        code([block("sum")] * 2, [SUMS, info])
    assert problem in str(caught.value)
    assert "row 1 of the batch" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"compare": "line"}, r"compare is 'line' \(did you mean lines\?\); it must be lines or open_r1"),
        ({"timeout_seconds": 0}, "timeout_seconds is 0; it must be above 0"),
        ({"memory_mb": 16}, "memory_mb is 16; it must be at least 64"),
        ({"max_workers": 0}, "max_workers is 0; it must be at least 1"),
    ],
)
def test_settings_without_sense_are_errors(setting, message, fake):
    with pytest.raises(InputError, match=message):
        code([block("sum")], [SUMS], **setting)


# The reward's arithmetic, without a sandbox


def test_worked_numbers(fake):
    log = Log()
    completions = [block("sum"), block("small"), block("error"), block("timeout"), "no program", block("sum")]
    paid = code(completions, [SUMS] * 5 + [None], log, prompts=["x"] * 6)
    # small: 3 and 0 and 4 are right, 7 is late, 9 is wrong
    assert paid == [5 / 5, 3 / 5, 0 / 5, 0 / 5, 0.0, None]
    assert log["verdict/code"] == ["correct", "wrong", "wrong", "timeout", "no_answer", None]
    assert log["rule/code"] == ["5 of 5 tests", "3 of 5 tests", "0 of 5 tests", "0 of 5 tests", "no code block", None]
    assert log["extracted/code"] == ["sum\n", "small\n", "error\n", "timeout\n", None, None]
    assert len(fake) == 4 * 5
    assert code([block("small")], [row_of(("3", "3"), ("7", "7"))], log) == [1 / 2]
    assert log["verdict/code"] == ["timeout"]
    assert code([block("output_limit")], [row_of(("1 2", "3"))], log) == [0.0]
    assert log["verdict/code"] == ["wrong"]


def test_conversations_pay_the_same(fake):
    messages = [
        [{"role": "assistant", "content": block("small")}],
        [{"role": "assistant", "content": block("sum")}, {"role": "assistant", "content": block("small")}],
        [{"role": "assistant", "content": None}],
    ]
    assert code(messages, [json.dumps(SUMS)] * 3) == [3 / 5, 3 / 5, 0.0]


def test_all_or_nothing_stops_at_the_first_failure(fake):
    log = Log()
    completions = [block("sum"), block("small"), "none"]
    assert code(completions, [SUMS] * 3, log, all_or_nothing=True, max_workers=1) == [1.0, 0.0, 0.0]
    assert log["verdict/code"] == ["correct", "wrong", "no_answer"]
    assert log["rule/code"] == ["5 of 5 tests", "failed test 2 of 5", "no code block"]
    assert [stdin for source, stdin, _ in fake if source == "small"] == ["1 2", "4 5"]
    assert code([block("small")], [row_of(("7", "7"), ("9", "9"))], log, all_or_nothing=True) == [0.0]
    assert log["verdict/code"] == ["timeout"]
    assert log["rule/code"] == ["failed test 1 of 2"]


def test_settings_become_limits(fake):
    code([block("sum")], [SUMS], timeout_seconds=2.5, memory_mb=100)
    assert fake[0][2] == Limits(wall_seconds=2.5, cpu_seconds=3, memory_bytes=100 * 2**20)


def test_processes_of_one_machine_share_its_processors(monkeypatch):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda process: range(16))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert module._share_of_processors() == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    assert module._share_of_processors() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert module._share_of_processors() == 1


def test_a_failing_sandbox_is_not_a_wrong_answer(fake, monkeypatch):
    def fail(*arguments):
        raise OSError("no space")

    monkeypatch.setattr(module, "run_program", fail)
    with pytest.raises(OSError, match="no space"):
        code([block("sum")] * 4, [SUMS] * 4)


# The filter, by an interpreter of its few instructions


def decide(program, audit, number, argument=0):
    data = struct.pack("=iIQQ", number, audit, 0, argument)
    instructions, accumulator, position = list(struct.iter_unpack("=HBBI", program)), 0, 0
    while True:
        operation, yes, no, k = instructions[position]
        position += 1
        if operation == 0x06:
            return k
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, k)[0]
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[operation]
            position += yes if holds else no


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_forbids_processes_and_allows_threads(machine):
    machine, program = ARCHITECTURES[machine], seccomp_filter(machine)
    allow, denied, missing = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
    thread = 0x3D0F00  # CLONE_THREAD with what the C library sets beside it
    assert decide(program, machine.audit, machine.clone, thread) == allow
    assert decide(program, machine.audit, machine.clone, signal.SIGCHLD) == denied
    assert decide(program, machine.audit, machine.clone, 0x4100 | signal.SIGCHLD) == denied  # vfork
    assert decide(program, machine.audit, machine.clone3) == missing
    assert {decide(program, machine.audit, number) for number in machine.denied.values()} == {denied}
    ordinary = set(range(400)) - {machine.clone, *machine.denied.values()}
    assert {decide(program, machine.audit, number) for number in ordinary} == {allow}
    assert decide(program, 0x40000003, 2) == 0x80000000  # i386
    if machine is ARCHITECTURES["x86_64"]:
        assert decide(program, machine.audit, 0x40000000 | 57) == missing  # x32's fork


# Refusal


@pytest.fixture
def unproven():
    """No proof from earlier, and none left for later."""
    sandbox._proven_sandbox.cache_clear()
    yield
    sandbox._proven_sandbox.cache_clear()


def test_without_bubblewrap_nothing_runs(tmp_path, monkeypatch, unproven):
    monkeypatch.setenv("PATH", str(tmp_path))
    for attempt in [require_sandbox, lambda: run_program("", ""), lambda: code([block(SUM)], [SUMS])]:
        with pytest.raises(InputError, match="bwrap is not on PATH; install the package bubblewrap") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_a_bubblewrap_that_may_not_isolate_is_refused_with_its_words(tmp_path, monkeypatch, unproven):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(InputError, match="cannot isolate here .*No permissions to create a new namespace.*; allow"):
        require_sandbox()


@pytest.mark.parametrize(
    ("system", "machine", "release", "message"),
    [
        ("darwin", "arm64", "6.1.0", "exists for Linux on x86_64 and aarch64; this is darwin on arm64"),
        ("linux", "riscv64", "6.1.0", "this is linux on riscv64"),
        ("linux", "x86_64", "4.18.0-1.el8", "Linux 5.14 or newer; this is 4.18.0-1.el8"),
    ],
)
def test_other_machines_are_refused(system, machine, release, message, monkeypatch, unproven):
    monkeypatch.setattr(bubblewrap.sys, "platform", system)
    monkeypatch.setattr(bubblewrap.platform, "machine", lambda: machine)
    monkeypatch.setattr(bubblewrap.os, "uname", lambda: os.uname_result(("Linux", "host", release, "", machine)))
    with pytest.raises(InputError, match=message):
        require_sandbox()


@sandboxed
@pytest.mark.parametrize(
    ("left_out", "possible"),
    [
        ("--unshare-net", "a program in it can reach this machine's network"),
        ("--unshare-pid", "a program in it can see other processes"),
        ("filter", "a program in it can start a process"),
        ("limits", "use more memory than allowed.*dump its memory.*start more threads than allowed"),
    ],
)
def test_a_leak_is_found_and_refused(left_out, possible, monkeypatch, unproven):
    prepared = bubblewrap.prepare()
    less = prepared._replace(isolation=tuple(word for word in prepared.isolation if word != left_out))
    monkeypatch.setattr(sandbox, "prepare", lambda: less)
    if left_out == "filter":
        monkeypatch.setattr(programs, "seccomp_filter", lambda machine: struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000))
    if left_out == "limits":
        monkeypatch.setattr(programs.resource, "prlimit", lambda pid, which, limits=None: (-1, -1))
    with pytest.raises(InputError, match=possible):
        require_sandbox()


@sandboxed
@pytest.mark.skipif(os.geteuid() != 0, reason="only root is exempt from RLIMIT_NPROC")
def test_root_that_stays_root_is_refused(monkeypatch, unproven):
    monkeypatch.setattr(bubblewrap, "_maps_user_ids", lambda table: False)
    with pytest.raises(InputError, match="a program in it can start more threads than allowed"):
        require_sandbox()


# Programs in the sandbox


@sandboxed
def test_a_program_gets_its_input_and_its_output_comes_back():
    program = "import sys\nprint(input() * 2, open('/dev/stdin').read(), end='')\nprint('é', file=sys.stderr)"
    execution = run_program(program, "ä\n")
    assert (execution.outcome, execution.stdout, execution.stderr) == ("ok", "ää ä\n", "é\n")
    assert 0 < execution.seconds < Limits().wall_seconds
    assert run_program("raise SystemExit(3)", "").outcome == "error"
    assert "ZeroDivisionError" in run_program("1 / 0", "").stderr
    assert run_program("import sys; sys.stdout.buffer.write(b'\\xff')", "").stdout == "\ufffd"
    assert run_program("print('\ud800')", "\ud800").stdout == "?\n"
    assert run_program("a = \0", "").outcome == "error"
    big = "7 " * 2_000_000
    assert run_program("import sys; print(len(sys.stdin.read().split()))", big).stdout == "2000000\n"
    assert run_program("pass", big).outcome == "ok"  # nobody reads it
    assert run_program(f"x = {'0' * 300_000!r}; print(len(x))", "").stdout == "300000\n"
    assert run_program("print(1)", "", Limits(memory_bytes=module.MIN_MEMORY_MB * 2**20)).stdout == "1\n"


@sandboxed
def test_what_solutions_use_works():
    program = """
import asyncio, bisect, collections, decimal, fractions, functools, heapq, itertools, math, random, re, string, sys
import ctypes, tempfile, threading
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as executor:
    total = sum(executor.map(abs, range(10)))
sys.setrecursionlimit(10**6)
threading.stack_size(2**28)
def depth(n):
    return n and 1 + depth(n - 1)
def main():
    with tempfile.TemporaryFile("w+") as file:
        file.write("x")
    print(depth(50_000), total, asyncio.run(asyncio.sleep(0, 5)))
    exit()
if __name__ == "__main__":
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
"""
    assert run_program(program, "") == Execution("ok", "50000 45 5\n", "", pytest.approx(1, abs=4))


@sandboxed
def test_worked_numbers_in_the_sandbox():
    log = Log()
    completions = [
        block(SUM),
        block(f"import sys\nx = {SUM[6:-1]}\nif x == 9: sys.exit(1)\nif x == 7:\n    while True: pass\nprint(x)"),
        [{"role": "assistant", "content": block("print(3)")}],
        "I do not know.",
    ]
    assert code(completions, [SUMS] * 4, log, timeout_seconds=2) == [5 / 5, 3 / 5, 1 / 5, 0.0]
    assert log["verdict/code"] == ["correct", "wrong", "wrong", "no_answer"]
    assert log["rule/code"] == ["5 of 5 tests", "3 of 5 tests", "1 of 5 tests", "no code block"]


@sandboxed
@pytest.mark.parametrize(
    ("program", "case", "paid"),
    [
        ("def f(a, b): return a + b", {"input": [1, 2], "output": 3}, 1.0),
        ("def f(a, b): return a + b", {"input": [1, 2], "output": [3]}, 1.0),  # APPS
        ("def f(a, b): return a + b", {"input": "1\n2", "output": "3"}, 1.0),  # LiveCodeBench
        ("def f(a, b): return a - b", {"input": [1, 2], "output": 3}, 0.0),
        ("class Solution:\n    def f(self, a: List[int]) -> int: return sum(a)", {"input": [[1, 2]], "output": 3}, 1.0),
        ("def f(a): return (a, a)", {"input": ["x"], "output": ["x", "x"]}, 1.0),
        ("print(3)\ndef f(): print(3)", {"input": [], "output": 3}, 0.0),  # printed, not returned
        ("def g(): return 3", {"input": [], "output": 3}, 0.0),
        ("def f(): return {3}", {"input": [], "output": 3}, 0.0),
        ("def f(): exit()", {"input": [], "output": 3}, 0.0),
        ("print('[' * 100000)\ndef f(): exit()", {"input": [], "output": 3}, 0.0),
        ("class Any:\n    __eq__ = lambda self, other: True\ndef f(): return Any()", {"input": [], "output": 3}, 0.0),
        ("def f():\n    x = []\n    for _ in range(900): x = [x]\n    return x", {"input": [], "output": 3}, 0.0),
        ("def f(): return 3\nif __name__ == '__main__': print(f(input()))", {"input": [], "output": 3}, 1.0),
        ("from __future__ import annotations\nfrom dataclasses import *\n@dataclass\nclass A: x: int\n"
         "def f(): return A(3).x", {"input": [], "output": 3}, 1.0),
    ],
)  # fmt: skip
def test_functions(program, case, paid):
    info = {"language": "python", "test_cases": [{"fn_name": "f", "type": "function_call"} | case]}
    assert code([block(program)], [info]) == [paid]


# Programs that want the reward without the work, or worse


@sandboxed
@pytest.mark.parametrize(
    ("program", "outcome", "printed"),
    [
        ("import sys; sys.exit(); print(3)", "ok", ""),
        ("import os; os._exit(0); print(3)", "ok", ""),
        ("import os; os.close(1); os.close(2); print(3)", "error", ""),
        ("import sys; sys.stdout.close(); sys.stdout = None", "ok", ""),
        ("import os; print(set(os.environ) <= {'PWD', 'LC_CTYPE', 'MALLOC_ARENA_MAX'})", "ok", "True\n"),
        ("print(open('/proc/1/environ').read())", "error", ""),
        ("print(open('/proc/self/maps').read())", "error", ""),
        ("print(open('/etc/passwd').read())", "error", ""),
        (f"import os; print(os.path.exists({str(Path(__file__))!r}), os.path.exists({str(Path.cwd())!r}))", "ok",
         "False False\n"),
        (f"import os; os.symlink({str(Path(__file__))!r}, 'x'); print(open('x').read())", "error", ""),
        ("import os; os.symlink('/usr/lib', 'x'); open('x/new', 'w')", "error", ""),
        ("import os; os.mkdir('a'); os.chdir('a'); os.chroot('.')", "error", ""),
        ("open('/new', 'w')", "error", ""),
        ("open('/program.py', 'w')", "error", ""),
        ("import os; open(os.__file__, 'a')", "error", ""),
        ("import os; os.unlink(os.__file__)", "error", ""),
        ("import os; os.chmod(os.__file__, 0o777)", "error", ""),
        ("import os; os.mkfifo('/dev/x')", "error", ""),
        ("import numpy", "error", ""),
        ("import os; os.kill(os.getppid(), 9); print('alive')", None, None),
        ("import os; os.kill(-1, 9); print('alive')", None, None),
        ("import os; os.fork(); print('two')", "error", ""),
        ("import os; os.setsid(); os.fork() and os._exit(0); os.fork() and os._exit(0)", "error", ""),
        ("import subprocess, sys; subprocess.run([sys.executable, '-c', '0'])", "error", ""),
        ("import os, sys; os.posix_spawn(sys.executable, ['python'], {})", "error", ""),
        ("import multiprocessing as m; m.Process(target=print).start()", "error", ""),
        ("import os; os.memfd_create('x')", "error", ""),
        ("import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))", "error", ""),
        ("import resource as r; r.setrlimit(r.RLIMIT_CPU, (-1, -1))", "error", ""),
        ("import os; os.setuid(0)", "error", ""),
        ("import socket; socket.sethostname('x')", "error", ""),
        ("x = []\nwhile True: x.append(bytearray(10**7))", "error", ""),
        ("x = bytearray(2**40)", "error", ""),
        ("import os\nwhile True: os.open('/dev/null', 0)", "error", ""),
        ("f = open('x', 'wb')\nwhile True: f.write(bytes(10**6))", "error", ""),
        ("for i in range(9): open(str(i), 'wb').write(bytes(2**22))", "error", ""),
        ("while True: print('x' * 100_000)", "output_limit", "x" * 99_999),
        ("import os\nos.ftruncate(1, 2**24)", "output_limit", "\0" * 99_999),
        ("import sys\nwhile True: sys.stderr.write('x' * 100_000)", "output_limit", ""),
    ],
)  # fmt: skip
def test_attacks_end_at_once_and_gain_nothing(program, outcome, printed):
    execution = run_program(program, "1 2")
    if outcome is not None:
        assert (execution.outcome, execution.stdout[:99_999]) == (outcome, printed)
    assert len(execution.stdout) <= Limits().output_bytes
    assert len(execution.stderr) <= programs.STDERR_TAIL_BYTES
    assert code([block(program)], [row_of(("1 2", "3"))]) == [0.0]
    assert run_program(SUM, "1 2").stdout == "3\n"  # this process and the interpreter are as they were


@sandboxed
@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "import os\nwhile True:\n    try: os.write(1, bytes(10**5))\n    except OSError: pass",
        "import threading as t\nt.stack_size(65536)\nwhile True:\n    try: t.Thread(target=t.Event().wait).start()\n"
        "    except RuntimeError: pass",
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        "import time, threading\nthreading.Thread(target=time.sleep, args=(60,)).start()",
    ],
)
def test_attacks_that_go_on_are_ended(program):
    began = time.monotonic()
    execution = run_program(program, "", SHORT)
    assert time.monotonic() - began < 20
    assert execution.outcome in ("timeout", "output_limit", "error")  # recursion may run out of memory first
    assert own_bwraps() == []


def own_bwraps():
    """The process ids of this process's children, dead and not collected ones included."""
    return [
        int(stat.parent.name)
        for stat in Path("/proc").glob("[0-9]*/stat")
        if (fields := _fields(stat)) and int(fields[1]) == os.getpid() and "bwrap" in fields[2]
    ]


def _fields(stat):
    try:
        text = stat.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    return [rest.split()[0], rest.split()[1], name]


@sandboxed
def test_a_program_that_ran_out_of_time_says_so():
    log = Log()
    info = row_of(("1 2", "3"), ("0 9", "9"))
    loop = f"x = {SUM[6:-1]}\nwhile x == 9: pass\nprint(x)"
    assert code([block(loop)], [info], log, timeout_seconds=1) == [1 / 2]
    assert log["verdict/code"] == ["timeout"]
    late = run_program("import time\nprint(1, flush=True)\ntime.sleep(9)", "", SHORT)
    assert (late.outcome, late.stdout) == ("timeout", "1\n")
    assert 1 <= late.seconds < 5


@sandboxed
def test_the_network_is_not_there():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        server.settimeout(0.1)
        abstract.bind(f"\0aapo-{os.getpid()}")
        abstract.listen()
        port = server.getsockname()[1]
        for attempt in [
            f"socket.create_connection(('127.0.0.1', {port}), 1)",
            "socket.create_connection(('1.1.1.1', 53), 1)",
            f"socket.socket(socket.AF_UNIX).connect('\\0aapo-{os.getpid()}')",
        ]:
            execution = run_program(f"import socket\n{attempt}\nprint('connected')", "")
            assert (execution.outcome, execution.stdout) == ("error", "")
        with pytest.raises(TimeoutError):
            server.accept()


@sandboxed
def test_the_expected_output_is_nowhere_to_be_found(tmp_path, monkeypatch):
    secret = "8e2d3b7f61"
    (tmp_path / "tests.json").write_text(secret)
    tmp_path.chmod(0o755)
    monkeypatch.setenv("SECRET", secret)
    search = f"""
import os
for folder, folders, files in os.walk("/"):
    folders[:] = [f for f in folders if os.path.join(folder, f) not in ("/usr", {sys.base_prefix + "/lib"!r})]
    for file in files:
        path = os.path.join(folder, file)
        if os.path.isfile(path) and os.path.getsize(path) < 10**6:
            text = open(path, errors="replace").read()
            if "8e2d3b" + "7f61" in text: print(path, "8e2d3b" + "7f61")
print(os.environ, open("/dev/stdin").read(), end="")
"""
    execution = run_program(search, "1 2")
    assert execution.outcome == "ok", execution.stderr
    assert secret not in execution.stdout


@sandboxed
def test_threads_are_bounded_and_counted_for_each_program():
    program = """
import threading, time
threading.stack_size(65536)
count, end = 1, threading.Event()
try:
    while True:
        threading.Thread(target=end.wait).start()
        count += 1
except RuntimeError:
    print(count)
time.sleep(0.3)
end.set()
"""
    with ThreadPoolExecutor(3) as executor:
        counts = [execution.stdout for execution in executor.map(run_program, [program] * 3, [""] * 3)]
    assert counts == ["64\n"] * 3


@sandboxed
def test_nothing_is_left_in_the_sandbox_or_here(monkeypatch):
    namespaces, find = [], programs._Init.find

    def noted(self, status):
        found = find(self, status)
        namespaces.append(_link(Path(f"/proc/{self.pid}/ns/pid")))
        return found

    monkeypatch.setattr(programs._Init, "find", noted)
    descriptors, threads = sorted(path.name for path in Path("/proc/self/fd").iterdir()), threading.active_count()
    for program in ["print(1)", "import time, threading\nthreading.Thread(target=time.sleep, args=(60,)).start()"]:
        run_program(program, "", SHORT)
        left = [path for path in Path("/proc").glob("[0-9]*/ns/pid") if _link(path) == namespaces[-1]]
        assert left == []
    assert len(namespaces) == 2
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == descriptors
    assert threading.active_count() == threads
    assert own_bwraps() == []


def _link(path):
    try:
        return str(path.readlink())
    except OSError:
        return None


@sandboxed
def test_many_threads_and_many_open_files():
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(200)]
    try:
        with ThreadPoolExecutor(8) as executor:
            executions = list(executor.map(lambda n: run_program(SUM, f"{n} {n}"), range(40)))
    finally:
        for descriptor in held:
            os.close(descriptor)
    assert [execution.stdout for execution in executions] == [f"{2 * n}\n" for n in range(40)]


@sandboxed
def test_a_killed_trainer_takes_its_programs_along():
    trainer = """
import sys
from aapo.grading import programs, sandbox
find = programs._Init.find
def told(self, status):
    found = find(self, status)
    print(self.pid, flush=True)
    return found
sandbox.require_sandbox()
programs._Init.find = told
sandbox.run_program("import time; time.sleep(60)", "", programs.Limits(wall_seconds=60, cpu_seconds=60))
"""
    with subprocess.Popen([sys.executable, "-c", trainer], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        inside = int(process.stdout.readline())
        time.sleep(0.3)
        process.kill()
    deadline = time.monotonic() + 10
    while (fields := _fields(Path(f"/proc/{inside}/stat"))) and fields[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not fields or fields[0] == "Z"


@sandboxed
def test_a_trainer_that_is_its_containers_init_collects_the_dead():
    trainer = """
import ctypes, os
from aapo.grading.sandbox import run_program
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER: orphans become ours
for _ in range(5):
    assert run_program("print(1)", "").stdout == "1\\n"
adopts = ctypes.c_int()
ctypes.CDLL(None).prctl(37, ctypes.byref(adopts), 0, 0, 0)
assert adopts.value == 1  # as it was
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("none")
"""
    done = subprocess.run([sys.executable, "-c", trainer], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "none\n"


@sandboxed
def test_the_program_sees_a_standard_library_and_no_packages():
    packages = sysconfig.get_paths(vars={"base": sys.base_prefix, "platbase": sys.base_prefix})["purelib"]
    program = (
        f"import os; print(os.listdir({packages!r}) if os.path.isdir({packages!r}) else []); import json, ssl, sqlite3"
    )
    assert run_program(program, "").stdout == "[]\n"
    listing = run_program("import os; print(sorted(os.listdir('/')), sorted(os.listdir('/dev')))", "").stdout
    top = {"dev", "etc", "lib", "lib64", "program.py", "tmp", "usr", Path(sys.base_prefix).parts[1]}
    seen = eval(listing.replace("] [", "], ["))
    assert set(seen[0]) - {"setpriv"} <= top
    assert seen[1] == ["null", "stdin", "urandom", "zero"]

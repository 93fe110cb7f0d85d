"""Which system calls an isolated process gets, as filters that the kernel runs at each call."""

import errno
import struct
from typing import NamedTuple


class Architecture(NamedTuple):
    """A machine's number in the kernel's audit interface, and its numbers of the system calls named below."""

    audit: int
    clone: int
    clone3: int
    openat: int
    denied: dict[str, int]
    calculating: dict[str, int]


_DENIED = (
    # other processes and namespaces
    "fork", "vfork", "unshare", "setns", "ptrace", "process_vm_readv", "process_vm_writev",
    # memory that no resource limit counts
    "memfd_create", "memfd_secret", "shmget", "msgget", "semget", "add_key", "request_key", "keyctl",
    # parts of the kernel that no solution needs and exploits like
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "mount", "umount2", "pivot_root", "open_tree",
    "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
)  # fmt: skip
_X86_64 = (
    57, 58, 272, 308, 101, 310, 311, 319, 447, 29, 68, 64, 248, 249, 250, 321, 298, 323, 425, 165, 166, 155, 428, 429,
    430, 431, 432, 433, 442,
)  # fmt: skip
_AARCH64 = (
    None, None, 97, 268, 117, 270, 271, 279, 447, 194, 186, 190, 217, 218, 219, 280, 241, 282, 425, 40, 39, 41, 428,
    429, 430, 431, 432, 433, 442,
)  # fmt: skip
# What Python needs to calculate, to import what is not loaded yet and to talk through pipes that are open.
_CALCULATING = (
    # open files
    "read", "write", "close", "lseek", "pread64", "readv", "poll", "ppoll",
    # looking at files, without opening them
    "stat", "lstat", "fstat", "newfstatat", "statx", "access", "faccessat", "readlink", "readlinkat", "getdents64",
    "getcwd",
    # its own memory
    "mmap", "mprotect", "munmap", "mremap", "madvise", "brk",
    # its own signals, locks and time
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "futex", "rseq", "sched_yield", "nanosleep",
    "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday",
    # what it is
    "getpid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getrlimit", "getrusage", "sched_getaffinity",
    "sysinfo", "uname", "getrandom", "exit", "exit_group",
)  # fmt: skip
_CALCULATING_X86_64 = (
    0, 1, 3, 8, 17, 19, 7, 271, 4, 6, 5, 262, 332, 21, 269, 89, 267, 217, 79, 9, 10, 11, 25, 28, 12, 13, 14, 15, 131,
    202, 334, 24, 35, 230, 228, 229, 96, 39, 186, 102, 107, 104, 108, 97, 98, 204, 99, 63, 318, 60, 231,
)  # fmt: skip
_CALCULATING_AARCH64 = (
    63, 64, 57, 62, 67, 65, None, 73, None, None, 80, 79, 291, None, 48, None, 78, 61, 17, 222, 226, 215, 216, 233, 214,
    134, 135, 139, 132, 98, 293, 124, 101, 115, 113, 114, 169, 172, 178, 174, 175, 176, 177, 163, 165, 123, 179, 160,
    278, 93, 94,
)  # fmt: skip


def _numbered(names: tuple[str, ...], numbers: tuple[int | None, ...]) -> dict[str, int]:
    return {name: number for name, number in zip(names, numbers, strict=True) if number is not None}


ARCHITECTURES = {
    "x86_64": Architecture(
        audit=0xC000003E, clone=56, clone3=435, openat=257,
        denied=_numbered(_DENIED, _X86_64), calculating=_numbered(_CALCULATING, _CALCULATING_X86_64),
    ),
    "aarch64": Architecture(
        audit=0xC00000B7, clone=220, clone3=435, openat=56,
        denied=_numbered(_DENIED, _AARCH64), calculating=_numbered(_CALCULATING, _CALCULATING_AARCH64),
    ),
}  # fmt: skip

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_MISSING, _FORBIDDEN = 0x00050000 | errno.ENOSYS, 0x00050000 | errno.EPERM
# Where the kernel's description of a call has its number, the machine and the low halves of its arguments.
_NUMBER, _AUDIT, _FIRST_ARGUMENT, _THIRD_ARGUMENT = 0, 4, 16, 32
_CLONE_THREAD, _X32 = 0x00010000, 0x40000000
# O_ACCMODE, O_CREAT, O_TRUNC and O_APPEND, which are the same on both machines
_TO_WRITE = 0o3 | 0o100 | 0o1000 | 0o2000


def seccomp_filter(machine: str) -> bytes:
    """The classic BPF program for `machine` (x86_64 or aarch64) that allows threads and forbids processes.

    Denied calls fail with EPERM. clone passes with CLONE_THREAD alone; clone3, whose flags a filter cannot read, does
    "not exist" (ENOSYS), and the C library falls back to clone. A call in another machine's numbering (i386 on x86_64)
    kills the process, and x32's numbers do not exist.
    """
    architecture = ARCHITECTURES[machine]
    program = [*_start(architecture), (_EQUAL, 0, 1, architecture.clone3), (_ANSWER, 0, 0, _MISSING)]
    for call in architecture.denied.values():
        program += [(_EQUAL, 0, 1, call), (_ANSWER, 0, 0, _FORBIDDEN)]
    program += [
        (_EQUAL, 0, 3, architecture.clone), (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 1, 0, _CLONE_THREAD), (_ANSWER, 0, 0, _FORBIDDEN),
        (_ANSWER, 0, 0, _ALLOW),
    ]  # fmt: skip
    return _assembled(program)


def calculation_filter(machine: str) -> bytes:
    """The classic BPF program for `machine` (x86_64 or aarch64) that leaves a process calculation alone.

    It may use the files that are open, open others for reading, and use its own memory and clock; every other call
    fails with EPERM, so that it starts no process or thread, reaches no network, changes no file, and signals nobody.
    """
    architecture = ARCHITECTURES[machine]
    program = _start(architecture)
    for call in architecture.calculating.values():
        program += [(_EQUAL, 0, 1, call), (_ANSWER, 0, 0, _ALLOW)]
    program += [
        (_EQUAL, 0, 3, architecture.openat), (_LOAD, 0, 0, _THIRD_ARGUMENT),
        (_ANY_BIT, 1, 0, _TO_WRITE), (_ANSWER, 0, 0, _ALLOW),
        (_ANSWER, 0, 0, _FORBIDDEN),
    ]  # fmt: skip
    return _assembled(program)


def _start(architecture: Architecture) -> list[tuple[int, int, int, int]]:
    """Refuse other machines' numberings, and load the number of the call."""
    return [
        (_LOAD, 0, 0, _AUDIT), (_EQUAL, 1, 0, architecture.audit), (_ANSWER, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32), (_ANSWER, 0, 0, _MISSING),
    ]  # fmt: skip


def _assembled(program: list[tuple[int, int, int, int]]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)

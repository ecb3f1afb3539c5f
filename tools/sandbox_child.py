"""What runs inside the sandbox: sandbox.py passes this text to `python -c`; nobody imports it.

argv[1]: JSON {"folder", "paths", "cpu", "memory"}. stdin, for each block of code: its length (4 bytes, big
endian), a mark (16 random bytes), the code. stdout: what the code prints, the mark, the last line of its
traceback or nothing, the mark. The code shares this process and can break all that is here. What holds is the
kernel's: limits taken on before the first block, which no process can lift again.
"""

import ast
import builtins
import contextlib
import ctypes
import json
import math
import os
import platform
import resource
import struct
import sys
import time
import traceback
import types
from typing import BinaryIO, TextIO

NOBODY = 65534
BLOCKS = 10  # times `cpu`: what one child may use in all
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # instructions of a seccomp filter
NUMBER, MACHINE, ARGUMENTS = 0, 4, 16  # where the filter finds them in what it is given of a system call
ALLOW, REFUSE = 0x7FFF0000, 0x00050001  # go on; fail with EPERM
# Its number in the audit interface; the system calls that go on: files, memory of this process, its handlers
# of signals, its timers, clocks, who and where it is, exec and exit; those that go on with some arguments.
# Not there are, for instance, fork, clone, kill, prctl, socket, shmget, memfd_create, mount, keyctl, ptrace.
MACHINES = {
    "x86_64": (
        0xC000003E,
        "0-15 17-28 32-40 44-45 51 59-61 63 73-91 95-100 102 104 107-108 110-111 115 118 120-121 124 127-128 "
        "130-132 137-138 140 143 145-147 158 160 186 191-196 201-202 204 213 217-219 221 228-233 235 247 "
        "257-258 261-271 273-274 280-281 284-285 290-293 295-296 309 316 318 324 326-328 332 334 436-437 439 "
        "441 452 454-456",
        {"ioctl": 16, "socketpair": 53, "fcntl": 72, "prlimit64": 302},
    ),
    "aarch64": (
        0xC00000B7,
        "8-13 17 19-24 32 34-38 43-50 52-53 56-57 59 61-73 78-80 82-83 88 93-96 98-103 113-115 120-121 "
        "123-126 128 132-137 139 141 148 150 153 155-156 158 160 163-166 168-169 172-179 204 206-207 214-216 "
        "221-223 226-227 232-233 260 276 278 283 285-287 291 293 436-437 439 441 452 454-456",
        {"ioctl": 29, "socketpair": 199, "fcntl": 25, "prlimit64": 261},
    ),
}
ARGUMENTS_ALLOWED = {  # of these calls: which argument, and its values
    # is it a terminal, of what size; how much can be read; block; inherit
    "ioctl": (1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),
    "socketpair": (1, (0x80001,)),  # asyncio's: a stream to itself, which cannot be sent elsewhere
    "fcntl": (1, (0, 1, 2, 3, 4, 5, 6, 7, 1030)),  # duplicate, flags, locks; 8 and on: who gets which signal
    "prlimit64": (0, (0,)),  # of this process
}


def main() -> None:
    settings = json.loads(sys.argv[1])
    sys.argv, sys.path[:1] = [""], []  # the first is the working folder
    sys.path += settings["paths"]
    if os.getuid() == 0:
        leave_root(settings["folder"], settings["paths"])
    os.chdir(settings["folder"])
    limit(settings["cpu"], settings["memory"])
    if sys.platform == "linux":
        refuse_calls()
    check_processes()
    commands, results, null = os.fdopen(os.dup(0), "rb"), os.dup(1), os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 2)
    builtins.exit = builtins.quit = sys.exit  # left out with `site`
    serve(commands, results, settings["cpu"])


# ---- limits ----


def leave_root(folder: str, paths: list[str]) -> None:
    """Become the user nobody, where that is allowed and leaves the libraries readable."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            become_nobody()
            for path in (os.path.dirname(os.__file__), *paths):
                os.listdir(path)
            os._exit(0)
        os._exit(1)
    if os.waitpid(pid, 0)[1] == 0:
        with contextlib.suppress(OSError):  # it may be read-only
            os.chown(folder, NOBODY, NOBODY)
        become_nobody()


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def limit(cpu: int, memory: int) -> None:
    """Kernel limits of this process. cpu: seconds of one block. memory: bytes of address space."""
    limits = {"CPU": BLOCKS * cpu, "NPROC": 0, "FSIZE": 1 << 24, "NOFILE": 64, "CORE": 0}
    if sys.platform != "darwin":  # which refuses this one
        limits["AS"] = memory
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def refuse_calls() -> None:
    """Have the kernel refuse what MACHINES does not list; RLIMIT_NPROC does not bind root."""
    libc = ctypes.CDLL(None)
    libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24))  # no capabilities: root could lift its limits
    libc.prctl(1, 9)  # PR_SET_PDEATHSIG: SIGKILL when the thread that started us ends
    if platform.machine() not in MACHINES or sys.maxsize < 1 << 32:
        return
    instructions = filter_of_calls(*MACHINES[platform.machine()])
    code = ctypes.create_string_buffer(b"".join(instructions))
    program = ctypes.create_string_buffer(struct.pack("HP", len(instructions), ctypes.addressof(code)))
    libc.prctl(38, *map(ctypes.c_ulong, (1, 0, 0, 0)))  # PR_SET_NO_NEW_PRIVS, wanted by the next
    libc.prctl(22, ctypes.c_ulong(2), program)  # PR_SET_SECCOMP, with a filter


def filter_of_calls(machine: int, allowed: str, numbers: dict[str, int]) -> list[bytes]:
    """The instructions of a filter that lets `allowed`, ranges of numbers, and ARGUMENTS_ALLOWED go on.

    It falls through the comparisons in order, with the call's number loaded. All else is refused, x86-64's
    other interface too, where calls have other numbers.
    """
    steps = [  # instruction, value, and where to go if a comparison holds and if not
        (LOAD, MACHINE, "next", "next"),
        (EQUAL, machine, "next", "refuse"),
        (LOAD, NUMBER, "next", "next"),
    ]
    for name, (argument, values) in ARGUMENTS_ALLOWED.items():
        steps += [
            (EQUAL, numbers[name], "next", len(steps) + len(values) + 3),
            (LOAD, ARGUMENTS + 8 * argument, "next", "next"),
            *((EQUAL, value, "allow", "next") for value in values),
            (RETURN, REFUSE, "next", "next"),
        ]
    for part in allowed.split():
        first, _, last = part.partition("-")
        steps += [
            (AT_LEAST, int(first), "next", "refuse"),
            (AT_LEAST, int(last or first) + 1, "next", "allow"),
        ]
    steps += [(RETURN, REFUSE, "next", "next"), (RETURN, ALLOW, "next", "next")]
    places = {"refuse": len(steps) - 2, "allow": len(steps) - 1}
    instructions = []
    for at, (instruction, value, if_so, if_not) in enumerate(steps):
        # a jump is the number of steps to pass over
        jumps = [0 if to == "next" else places.get(to, to) - at - 1 for to in (if_so, if_not)]
        instructions.append(struct.pack("HBBI", instruction, *jumps, value))
    return instructions


def check_processes() -> None:
    """End, unless the limits keep this process from starting another one."""
    try:
        pid = os.fork()
    except OSError:
        return
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    sys.exit("processes cannot be limited here; run as an ordinary user")


# ---- blocks ----


def serve(commands: BinaryIO, results: int, cpu: int) -> None:
    """Answer blocks until the parent hangs up. Names live on in a module of their own."""
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    builtins.display = display
    flush, printed = ctypes.CDLL(None).fflush, sys.__stdout__
    while header := commands.read(20):
        length, mark = struct.unpack(">I16s", header)
        code = commands.read(length).decode()
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (min(math.ceil(time.process_time()) + cpu, most), most))
        os.dup2(results, 1)  # the last block may have closed it
        sys.stdout = sys.__stdout__ = printed = stdout_again(printed)
        fault = execute(code, vars(module))
        try:
            printed.flush()
        except (OSError, ValueError):  # the block has closed it; what it holds belongs to no other block
            printed = sys.stdout = sys.__stdout__ = None
        flush(None)  # what C code has printed
        os.write(results, mark + bytes(fault, "utf-8", "replace") + mark)  # ends a child without builtins


def stdout_again(printed: TextIO | None) -> TextIO:
    """The same object for all blocks, so that who keeps it prints into its block; a new one if need be."""
    try:
        printed.reconfigure(encoding="utf-8", errors="replace", line_buffering=True)
        return printed
    except (AttributeError, ValueError):
        return open(1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)


def execute(code: str, names: dict) -> str:
    """Run a block and show the value of a last expression -> the last line of its traceback, if any.

    As in a notebook, a semicolon behind that expression hides its value.
    """
    try:
        tree = ast.parse(code)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr) and not semicolon_behind(last, code):
            tree.body.pop()
        else:
            last = None
        exec(compile(tree, "<code>", "exec"), names)
        if last:
            exec(compile(ast.Interactive([last]), "<code>", "single"), names)
    except SystemExit as end:
        return f"SystemExit: {end.code}" if end.code else ""
    except BaseException as fault:
        return " ".join(traceback.format_exception_only(fault)[-1].split("\n")).strip()
    return ""


def semicolon_behind(statement: ast.stmt, code: str) -> bool:
    """Whether a semicolon ends the last statement; only a comment may follow."""
    lines = code.replace("\r\n", "\n").replace("\r", "\n").encode().split(b"\n")[statement.end_lineno - 1 :]
    rest = b"\n".join([lines[0][statement.end_col_offset :], *lines[1:]])
    return rest.lstrip(b" \t\f\n\\").startswith(b";")


def display(*values: object, **_: object) -> None:
    """A notebook's: a line for each value, as if it were a last expression."""
    for value in values:
        print(repr(value))


main()

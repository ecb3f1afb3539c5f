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
from typing import BinaryIO

NOBODY = 65534
BLOCKS = 10  # times `cpu`: what one child may use in all
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # instructions of a seccomp filter
NUMBER, MACHINE, FIRST_ARGUMENT = 0, 4, 16  # where the filter finds them in what it is given of a system call
ALLOW, REFUSE = 0x7FFF0000, 0x00050001  # go on; fail with EPERM
# Its number in the audit interface, prlimit64, and the system calls refused, in this order: fork and vfork
# where they exist, clone, clone3; kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal;
# ptrace, process_vm_writev, pidfd_getfd; socket, io_uring_setup.
MACHINES = {
    "x86_64": (0xC000003E, 302, (57, 58, 56, 435, 62, 200, 234, 129, 297, 424, 101, 311, 438, 41, 425)),
    "aarch64": (0xC00000B7, 261, (220, 435, 129, 130, 131, 138, 240, 424, 117, 271, 438, 198, 425)),
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
    """Have the kernel refuse processes, threads, signals, sockets; RLIMIT_NPROC does not bind root."""
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


def filter_of_calls(machine: int, prlimit: int, calls: tuple[int, ...]) -> list[bytes]:
    """The instructions of a filter that refuses `calls`, and `prlimit` on another process than this one."""
    steps = [  # instruction, value, and where to go if a comparison holds and if not
        (LOAD, MACHINE, "next", "next"),
        (EQUAL, machine, "next", "refuse"),
        (LOAD, NUMBER, "next", "next"),
        (AT_LEAST, 1 << 30, "refuse", "next"),  # x86-64's other interface, where calls have other numbers
        *((EQUAL, call, "refuse", "next") for call in calls),
        (EQUAL, prlimit, "next", "allow"),
        (LOAD, FIRST_ARGUMENT, "next", "next"),  # which process; 0 is this one
        (EQUAL, 0, "allow", "refuse"),
        (RETURN, REFUSE, "next", "next"),
        (RETURN, ALLOW, "next", "next"),
    ]
    places = {"refuse": len(steps) - 2, "allow": len(steps) - 1}
    instructions = []
    for at, (instruction, value, if_so, if_not) in enumerate(steps):
        # a jump is the number of steps to pass over
        jumps = [0 if to == "next" else places[to] - at - 1 for to in (if_so, if_not)]
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
    while header := commands.read(20):
        length, mark = struct.unpack(">I16s", header)
        code = commands.read(length).decode()
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (min(math.ceil(time.process_time()) + cpu, most), most))
        os.dup2(results, 1)  # the last block may have closed it
        sys.stdout = printed = open(1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)
        fault = execute(code, vars(module))
        with contextlib.suppress(OSError, ValueError):  # ValueError: the block has closed it
            printed.flush()
        os.write(results, mark + fault.encode("utf-8", "replace") + mark)


def execute(code: str, names: dict) -> str:
    """Run a block and show the value of a last expression -> the last line of its traceback, if any."""
    try:
        tree = ast.parse(code)
        last = [tree.body.pop()] if tree.body and isinstance(tree.body[-1], ast.Expr) else []
        exec(compile(tree, "<code>", "exec"), names)
        exec(compile(ast.Interactive(last), "<code>", "single"), names)
    except SystemExit as end:
        return f"SystemExit: {end.code}" if end.code else ""
    except BaseException as fault:
        return " ".join(traceback.format_exception_only(fault)[-1].split("\n")).strip()
    return ""


main()

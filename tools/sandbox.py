"""The sandbox for Python that a model wrote: one child process per episode, walled in and limited.

  with Sandbox() as box:
      box.run("from sympy import *\\nx = symbols('x')\\nsolve(x**2 - 4)")  # "[-2, 2]"
      box.run("print(x)")  # "x": names live on within an episode

An observation is what a notebook shows, as in the code-interleaved data sets: what was printed, then the
value of a last expression (its repr, unless None, or a semicolon stands behind it); of an exception only the
last line of its traceback; for nothing "<empty_execution>", their word for it. `display` is there. stderr is
not shown. A child that met its wall or CPU limit, flooded stdout or ended is replaced before the next block;
the observation says that its state was lost.

  the code's              with bubblewrap           unsafe=True, Linux        unsafe=True, macOS (untested)
  network                 none                      no sockets (seccomp)      open
  files to read           the system's, Python's    whatever the user can     whatever the user can
  files to write          a private /tmp, 64 MiB    whatever the user can     whatever the user can
  other processes         not to be seen            no signals (seccomp)      whatever the user can
  processes and threads   none (rlimit, seccomp)    none (rlimit, seccomp)    threads only (rlimit)
  memory                  rlimit, seccomp, /tmp     rlimit, seccomp           not limited
  CPU, file size          rlimits                   rlimits                   rlimits
  time and output         the parent's limits       the parent's limits       the parent's limits

seccomp, on x86-64 and ARM64, lets a list of system calls go on (sandbox_child.py) and refuses all others. So
it promises, in both modes:

  - no process and no thread is started
  - no signal reaches another process: by no kill, and by no file whose owner is set
  - no limit of another process is changed, none of its memory read or written
  - no socket, but a stream to itself, which asyncio wants
  - no memory beyond the limit on addresses: no shared segment, memory file, large pipe or mount
  - nothing in the kernel outlives the child: no segment, queue or key
  - the child dies with its parent, and cannot undo that

Unsafe stays unsafe: whatever the user may write, /proc and /dev/shm included, leads round a filter of system
calls. Root becomes the user nobody if that leaves the libraries readable; if not, it stays root without
capabilities. A child that could start processes all the same is not used. Memory means addresses, not pages.
In /tmp, empty files take memory of the kernel beyond the 64 MiB, as many as the CPU limit allows.

The parent parses nothing: the output of a block ends at a random mark. Code that digs the mark out of its own
process can end its block early and so lie about its own output, no more.
"""

import contextlib
import json
import os
import re
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cli import UserError, cut

CHILD = Path(__file__).with_name("sandbox_child.py")
START = 30  # seconds a new child may take to answer
GRACE = 1  # seconds a child that closed its stdout may take to end
FLOOD = 1 << 23  # bytes of stdout, in one block, at which the child is killed
SCRATCH = 1 << 26  # bytes of the private /tmp
EMPTY = "<empty_execution>"
# Root owns the devices and the settings in /proc/sys, in a namespace of users of its own, too, and could take
# a device's permissions from all. So the child starts as root in ours, to become the user nobody.
ROOT = (
    *"--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try".split(),
    *"--cap-add CAP_SETUID --cap-add CAP_SETGID --cap-add CAP_CHOWN".split(),
)


class Sandbox:
    """One episode's interpreter. Enter it first; that raises UserError where no child can be walled in.

    wall: seconds of one block. cpu: CPU seconds of one block; of all blocks of a child, ten times that.
    memory: bytes. output: characters of an observation, its notes not counted. unsafe: go on where bubblewrap
    does not work; `isolated` says whether it does. On Linux a child dies with the thread that started it.
    """

    def __init__(
        self, wall: float = 5.0, cpu: int = 5, memory: int = 1 << 30, output: int = 400, unsafe: bool = False
    ):
        self.wall, self.cpu, self.memory, self.output, self.unsafe = wall, cpu, memory, output, unsafe
        self.isolated = False
        self._process: subprocess.Popen | None = None
        self._folder: str | None = None  # the child's, without bubblewrap

    def __enter__(self) -> "Sandbox":
        self._start()
        return self

    def __exit__(self, *_) -> None:
        self._kill()

    def run(self, code: str) -> str:
        """The observation on a block, whatever it does. Raises UserError if no new child can start."""
        if self._process is None:
            self._start()
        printed, fault, end = self._exchange(code, self.wall)
        shown = [part for part in (printed.strip("\n"), fault) if part]
        text = cut("\n".join(shown), self.output)
        if end:
            self._kill()
            text = f"{text}\n[{end}; the state was lost]".lstrip("\n")
        return text or EMPTY

    def _start(self) -> None:
        """Start a child, in the best way that works here."""
        reason = "bwrap is not installed"
        wrappers = [*bubblewrap(), []] if self.unsafe else bubblewrap()
        for wrapper in wrappers:
            reason = self._launch(wrapper)
            if not reason:
                self.isolated = bool(wrapper)
                return
        mend = "" if self.unsafe else ", or accept the risk with --unsafe-python"
        raise UserError(f"generated Python cannot be walled in here ({reason}); install bubblewrap{mend}")

    def _launch(self, wrapper: list[str]) -> str:
        """Start a child behind `wrapper` -> why it does not answer, if so."""
        self._folder = None if wrapper else tempfile.mkdtemp()
        folder = self._folder or "/tmp"
        settings = {"folder": folder, "paths": packages(), "cpu": self.cpu, "memory": self.memory}
        python = [os.path.realpath(sys.executable), "-s", "-S", "-c", CHILD.read_text("utf-8")]
        environment = {
            "HOME": folder,
            "TMPDIR": folder,
            "PATH": "/usr/bin:/bin",
            "PYTHONUTF8": "1",
            "PYTHONHASHSEED": "0",  # sets print in the same order every time
            **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")},
        }
        try:
            self._process = process = subprocess.Popen(
                [*wrapper, *python, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",  # -c imports from there
                env=environment,
                start_new_session=True,  # a group to kill, which its leader cannot leave; no terminal
            )
        except OSError as error:
            self._kill()
            return str(error)
        for pipe in (process.stdin, process.stdout, process.stderr):
            os.set_blocking(pipe.fileno(), False)
        _, _, end = self._exchange("", START)
        if not end:
            return ""
        said = (process.stderr.read(10_000) or b"").decode("utf-8", "replace").strip()
        self._kill()
        return said.split("\n")[-1] or end

    def _exchange(self, code: str, limit: float) -> tuple[str, str, str]:
        """Have a block run for `limit` seconds -> its output, its exception, why the child must go."""
        body, mark, received = code.encode("utf-8", "replace"), os.urandom(16), bytearray()
        message = struct.pack(">I", len(body)) + mark + body
        try:
            end = self._talk(message, mark, limit, received)
        except BaseException:  # Ctrl-C: what the child would still send belongs to no block
            self._kill()
            raise
        printed, _, rest = bytes(received).partition(mark)
        fault = rest.removesuffix(mark)
        return printed.decode("utf-8", "replace"), fault.decode("utf-8", "replace"), end

    def _talk(self, message: bytes, mark: bytes, limit: float, received: bytearray) -> str:
        """Send `message`, receive until the second mark -> why it did not come. No end of a pipe blocks."""
        stdin, stdout, deadline = self._process.stdin, self._process.stdout, time.monotonic() + limit
        with selectors.DefaultSelector() as selector:
            selector.register(stdin, selectors.EVENT_WRITE)
            selector.register(stdout, selectors.EVENT_READ)
            while not (received.endswith(mark) and received.count(mark) > 1):
                left = deadline - time.monotonic()
                if left <= 0:
                    return f"stopped after {limit:g} s"
                if len(received) > FLOOD:
                    return f"stopped after {FLOOD >> 20} MiB of output"
                for key, _ in selector.select(left):
                    if key.fileobj is stdout:
                        chunk = stdout.read(1 << 16)
                        if not chunk:
                            return self._cause()
                        received += chunk
                    else:
                        with contextlib.suppress(BrokenPipeError):
                            message = message[stdin.write(message) or 0 :]
                            if message:
                                continue
                        selector.unregister(stdin)
        return ""

    def _cause(self) -> str:
        """Why a child ended."""
        try:
            code = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return "Python closed its stdout"
        number = -code if code < 0 else code - 128  # bwrap reports a signal as 128 and its number
        if number == signal.SIGXCPU:
            return f"stopped after {self.cpu} s of CPU time"
        name = signal.strsignal(number) if 0 < number < signal.NSIG else None
        return f"Python ended: {name or f'exit status {code}'}"

    def _kill(self) -> None:
        """Kill the child and all behind its wall; leave nothing on the disk."""
        if self._process is not None:
            process, self._process = self._process, None
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # it just ended
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                pipe.close()
        if self._folder is not None:
            folder, self._folder = self._folder, None
            remove(folder)


FENCE = re.compile(r"([ \t]*)(?:`{3,}|~{3,})([^`]*)")
INLINE = re.compile(r"\s*`{3,}(?:(\w+)[ \t]+)?([^`\n]+)`{3,}\s*")  # a fence and its code on one line
BEHIND_WORDS = re.compile(r"[^`]*`{3,}([\w.]+)")  # the beginning of a fence at the end of a line
NAMED = re.compile(r"i?py(?:thon)?[\d.]*|code|tool_code", re.IGNORECASE)  # what a fence round code is called


def code_of(text: str) -> str:
    """The Python in a text: what its Markdown fences hold, one after the other, or all of it if it has none.

    A fence without an end holds the rest; one of another name, such as `output`, holds no code. In strings of
    three quotes there are no fences.
    """
    if found := INLINE.fullmatch(text):
        named = not found[1] or NAMED.fullmatch(found[1])
        return (found[2] if named else f"{found[1]} {found[2]}").strip()
    lines, blocks, block, indent, quotes = text.split("\n"), [], None, "", 0
    for number, line in enumerate(lines):
        fence = FENCE.fullmatch(line.rstrip())
        begins = BEHIND_WORDS.fullmatch(line.rstrip()) if block is None and not fence else None
        if begins and NAMED.fullmatch(begins[1]) and not quotes % 2:
            block, indent = [], ""
            blocks.append((begins[1], block))
            continue
        if not fence or quotes % 2:
            quotes += line.count('"""') + line.count("'''")
            if block is not None:
                block.append(line.removeprefix(indent))
                if line.rstrip().endswith("```") and not quotes % 2:  # an end behind code
                    block[-1], block = block[-1].rstrip().rstrip("`"), None
            continue
        name = fence[2].strip(" \t{}.").partition(" ")[0].lower()
        if block is not None and not name:
            block = None
        elif not blocks and not name and not "".join(lines[number + 1 :]).strip():
            return "\n".join(lines[:number])  # the end of a fence whose beginning is not here
        else:
            block, indent, quotes = [], fence[1], 0
            blocks.append((name, block))
    code = ["\n".join(block) for name, block in blocks if not name or NAMED.fullmatch(name)]
    return "\n".join(code) if code else text


def remove(folder: str) -> None:
    """Remove a folder, however deep it is and whatever permissions it has lost within."""
    flat = tempfile.mkdtemp()  # inner folders are moved here, so that no path grows long
    with contextlib.suppress(OSError):  # such as what was made immutable: leave it
        folders, moved = [folder], 0
        while folders:
            path = folders.pop()
            os.chmod(path, 0o700)
            for entry in list(os.scandir(path)):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry, 0o700)
                    moved += 1
                    folders.append(f"{flat}/{moved}")
                    os.rename(entry, folders[-1])
                else:
                    os.unlink(entry)
            os.rmdir(path)
        os.rmdir(flat)


def bubblewrap() -> list[list[str]]:
    """The ways to start a command in bubblewrap, best first; none where it is not installed."""
    program = shutil.which("bwrap")
    if program is None:
        return []
    base = Path(os.path.realpath(sys.executable)).parent.parent
    system = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", "/nix/store")
    python = [*(f"{base}/{part}" for part in ("bin", "lib", "lib64")), *packages()]
    above = [str(parent) for path in python for parent in reversed(Path(path).parents)]
    binds = [word for path in (*above, "/dev") for word in ("--dir", path)]  # else only root may pass through
    binds += [word for path in [*system, *python] for word in ("--ro-bind-try", path, path)]
    devices = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")]
    binds += [word for path in devices for word in ("--dev-bind", path, path)]
    walls = [program, *"--die-with-parent --proc /proc --cap-drop ALL".split()]
    ways = [[*walls, "--unshare-all"]]
    if os.getuid() == 0:  # only root of a container may have to stay root
        ways.insert(0, [*walls, *ROOT])
    closed = [*binds, *"--remount-ro /proc --remount-ro / --chdir /".split()]
    # --size is unknown before bubblewrap 0.7 and refused by a setuid one. Then /tmp is read-only, because it
    # could take half of the memory.
    scratch = ["--size", str(SCRATCH), "--tmpfs", "/tmp", *closed]
    no_scratch = ["--tmpfs", "/tmp", *closed, "--remount-ro", "/tmp"]
    return [[*way, *rest] for rest in (scratch, no_scratch) for way in ways]


def packages() -> list[str]:
    """The folders of installed packages that this process imports from."""
    kinds = ("site-packages", "dist-packages")
    return [path for path in sys.path if Path(path).name in kinds and os.path.isdir(path)]

"""Hostile programs in real children: each ends as an observation in its time, and nothing of it stays behind.

Every test runs with bubblewrap (skipped where it does not work) and without. Blocks that should succeed get
minutes, because a busy machine may need them; blocks that should be stopped get less than one.
"""

import contextlib
import itertools
import os
import platform
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import UserError, cut
from tools.sandbox import EMPTY, Sandbox, code_of

LONG, SHORT = 120.0, 0.3  # seconds
FILTERED = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
MEMORY = (1 << 30) + (os.getpid() << 8)  # a number of our own, to tell our children by their command lines
REAL = shutil.which("bwrap")
tell_apart = itertools.count()


def make(**options) -> Sandbox:
    options = {"wall": LONG, "cpu": 60, "memory": MEMORY + next(tell_apart), "unsafe": True} | options
    return Sandbox(**options)


def alive(memory: int) -> list[str]:
    """The ids of the processes of the box with that limit. What has ended has no command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            if str(memory).encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def left_over(memory: int) -> list[str]:
    """Those that are still alive after some patience: the kernel ends a process table by and by."""
    for _ in range(100):
        if not (found := alive(memory)):
            break
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module", params=("bubblewrap", "unsafe"))
def walls(request, tmp_path_factory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "unsafe":
            patch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
        else:
            try:
                with make(unsafe=False):
                    pass
            except UserError as error:
                pytest.skip(str(error))
        yield request.param


@pytest.fixture(scope="module")
def shared(walls) -> Iterator[Sandbox]:
    with make() as box:
        assert box.isolated == (walls == "bubblewrap")
        yield box


@pytest.fixture
def box(shared) -> Iterator[Sandbox]:
    """The walls' one child: starting one per test takes a while. A test may kill it."""
    shared.wall, shared.cpu, shared.output = LONG, 60, 400
    yield shared


# ---- observations ----


@pytest.mark.parametrize(
    ("code", "observation"),
    [
        ("print(1 + 1)", "2"),
        ("1 + 1", "2"),
        ("print('a')\n'b'", "a\n'b'"),
        ("print('a')", "a"),
        ("y = 3", EMPTY),
        ("None", EMPTY),
        ("", EMPTY),
        ("# nothing", EMPTY),
        ("for i in range(2):\n    i", EMPTY),
        ("y = 3\r\ny\r\n", "3"),
        ("import sys; print('aside', file=sys.stderr)", EMPTY),
        ("print('π ≈ 3.14 ✓ 数')", "π ≈ 3.14 ✓ 数"),
        ("print('half a pair: \\ud800')", "half a pair: ?"),
        ("print('\ud800')", "?"),
        ("import os; os.write(1, b'\\xff')", "\ufffd1"),
        ("1/0", "ZeroDivisionError: division by zero"),
        ("print('a', end='')\n1/0", "a\nZeroDivisionError: division by zero"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("{}['k']", "KeyError: 'k'"),
        ("y = = 3", "SyntaxError: invalid syntax"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("exit()", EMPTY),
        ("print('bye')\nimport sys\nsys.exit(0)", "bye"),
        ("import sys; sys.exit('why')", "SystemExit: why"),
        ("input()", "EOFError: EOF when reading a line"),
        ("import sys; sys.stdin.read()", "''"),
        ("__name__", "'__main__'"),
        ("from dataclasses import *\n@dataclass\nclass A:\n    x: int\nA(1)", "A(x=1)"),
        ("z = 1\n" * 12_000 + "z", "1"),  # more than a pipe holds
        ("5;", EMPTY),
        ("(5\n) ; # hidden\n", EMPTY),
        ("5 # shown ;", "5"),
        ("'a;'", "'a;'"),
        ("'é' \\\r\n ;\r\n", EMPTY),
        ("4; 5", "5"),
        ("display('a', [None])\n5", "'a'\n[None]\n5"),
        ("import asyncio\nasync def f(): return 5\nasyncio.run(f())", "5"),
    ],
)
def test_what_is_shown(box, code, observation):
    assert box.run(code) == observation


def test_names_live_on(box):
    assert box.run("x = 2\ndef double(): return 2 * x") == EMPTY
    assert box.run("x = 5\n1/0") == "ZeroDivisionError: division by zero"
    assert box.run("double()") == "10"


def test_libraries(box):
    assert box.run("from sympy import *\nx = symbols('x')\nsolve(x**2 - 2)") == "[-sqrt(2), sqrt(2)]"
    assert box.run("import numpy\nnumpy.linalg.det(numpy.eye(2)).item()") == "1.0"


def test_long_output_is_cut(box):
    text = box.run("print('a' * 3_000_000 + 'b')")
    assert text == "a" * 200 + "...[2999601 characters left out]..." + "a" * 199 + "b"
    assert box.run("raise ValueError('a' * 1000)").startswith("ValueError: aaa")
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdef", 3) == "a...[3 characters left out]...ef"


def test_two_side_by_side(box):
    with make() as other:
        box.run("x = 1")
        other.run("x = 2")
        assert (box.run("x"), other.run("x")) == ("1", "2")
        other.run("import os; os._exit(0)")
        assert (box.run("x"), other.run("x")) == ("1", "NameError: name 'x' is not defined")


# ---- fences ----

FENCED = [
    ("x = 1\nx", "x = 1\nx"),
    ("```python\nx\n```", "x"),
    ("```py\nx", "x"),
    ("x\n```", "x"),
    ("```\nx```", "x"),
    ("Let's see, `y`.\n\n```Python \r\nx\n```\nDone; it's 5.", "x"),
    ("```python\nx = 1\n```\nand\n~~~~\nx\n~~~~\nend", "x = 1\nx"),
    ("```python\nx = 1\n```python3\nx\n", "x = 1\nx\n"),
    ("```py\nx\n```\n```output\n5\n```", "x"),
    ("- now:\n  ```{python}\n  if 1:\n      x\n  ```", "if 1:\n    x"),
    ("```python\n```", ""),
    ('s = """\n```\n"""\ns', 's = """\n```\n"""\ns'),
    ("```python\ns = '''\n```\n'''\n```\nEnd.", "s = '''\n```\n'''"),
    ("```output\n5\n```", "```output\n5\n```"),
    ("Sure: ```python\nx\n```\nThat is ```python\ny", "x\ny"),
    ("```python x; y```", "x; y"),
    (" ``` x```\n", "x"),
    ("```return x```", "return x"),
    ("~~~Python3.11\nx\n~~~\n```tool_code\ny\n```", "x\ny"),
    ("```python\nprint('```py')\nx ```python\n```", "print('```py')\nx ```python"),
]


@pytest.mark.parametrize(("text", "code"), FENCED)
def test_code_is_what_fences_hold(text, code):
    assert code_of(text) == code


@pytest.mark.parametrize("piece", ["```\n", "```py\n", "``` `\n", "`", " \n", "'''\n", "```a\nx\n"])
def test_many_fences_take_no_longer_than_their_length(piece):
    """With the square of the length this would take minutes."""
    code_of(piece * 100_000)


# ---- hostile programs ----

REFUSED = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "thread bomb": "import threading\nwhile True: threading.Thread(target=print).start()",
    "shell": "import subprocess\nsubprocess.run('true', shell=True)",
    "daemon": "import os\nif not os.fork():\n  os.setsid()\n  os.fork() or __import__('time').sleep(1000)",
    "memory bomb": "import mmap\na = []\nwhile True: a.append(mmap.mmap(-1, 1 << 24))",
    "large object": "a = bytearray(1 << 40)",
    "file bomb": "with open('f', 'wb') as f:\n  while True: f.write(bytes(1 << 20))",
    "many files": "f = [open(f'f{i}', 'w') for i in range(1000)]",
    "limits lifted": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "recursion": "def f(): f()\nf()",
    "parentheses": "(" * 100_000,
    "zero byte": "print(1)\0",
    "bad exception": "class E(Exception):\n  def __str__(self): raise self\nraise E",
}
ENDED = {  # of the child
    "os._exit": "import os; os._exit(3)",
    "no builtins": "import builtins; vars(builtins).clear()",
    "all files closed": "import os; os.closerange(0, 100)",
    "crash": "import ctypes; ctypes.string_at(0)",
    "another program": "import os; os.execv('/usr/bin/env', ['env', 'true'])",
}
ENDLESS = {
    "loop": "while True: pass",
    "sleep": "print('soon')\nimport time; time.sleep(1000)",
    "in C": "10 ** 10 ** 9",
    "deaf": """
        import os, signal
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        try: os.kill(os.getpid(), signal.SIGSTOP)
        except OSError: pass
        while True:
            try: 1/0
            except BaseException: pass""",
    "a program that does not talk": "import os; os.execv('/usr/bin/env', ['env', 'sleep', '1000'])",
    "commands read": "import os\nfor fd in range(3, 64):\n  try: os.read(fd, 99)\n  except OSError: pass",
}


@pytest.mark.parametrize("code", REFUSED.values(), ids=REFUSED)
def test_refused(box, code):
    box.run("x = 'still here'")
    text = box.run(code)
    assert "Error" in text or "E: <" in text, text
    box.run("a = f = None")
    assert box.run("x") == "'still here'"


@pytest.mark.parametrize("code", ENDED.values(), ids=ENDED)
def test_ended(box, code):
    box.run("x = 1")
    assert "the state was lost]" in box.run(code)
    assert box.run("x") == "NameError: name 'x' is not defined"


def test_recursion_without_end(box):
    """Memory, a crash or the clock ends it, as the Python may be."""
    box.wall = 1
    text = box.run("import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()")
    assert "Error" in text or "the state was lost" in text


def test_how_it_ended_is_told(box):
    text = box.run("print('a')\nimport os; os._exit(3)")
    assert text == "a\n[Python ended: exit status 3; the state was lost]"
    segfault = signal.strsignal(signal.SIGSEGV)
    assert box.run(ENDED["crash"]) == f"[Python ended: {segfault}; the state was lost]"


@pytest.mark.parametrize("code", ENDLESS.values(), ids=ENDLESS)
def test_stopped_at_the_wall_limit(box, code):
    box.run("1")
    box.wall, began = SHORT, time.monotonic()
    text = box.run(textwrap.dedent(code))
    assert text.endswith("[stopped after 0.3 s; the state was lost]")
    assert ("soon\n" in text) == ("soon" in code)  # what came before is shown
    assert time.monotonic() - began < SHORT + 10
    box.wall = LONG
    assert box.run("1") == "1"


def test_stopped_at_the_cpu_limit(walls):
    with make(cpu=1) as box:
        assert box.run("while True: pass") == "[stopped after 1 s of CPU time; the state was lost]"


def test_stopped_when_flooding(box):
    text = box.run("while True: print('flood' * 1000)")
    assert text.endswith("[stopped after 8 MiB of output; the state was lost]") and len(text) < 600


def test_stdout_closed(box):
    box.run("import os; os.close(1)")
    assert box.run("print('back')") == "back"
    box.run("import sys; sys.stdout.close()")
    assert box.run("print('back')") == "back"
    box.run("import sys; del sys.stdout, sys.stderr")
    assert box.run("print('back')") == "back"
    with make() as other:
        other.wall = SHORT
        assert "lost]" in other.run("import os\nos.closerange(0, 64)\nwhile True: pass")


KEPT = {  # a block's way to print, and what is wanted of it
    "the first stdout": "import sys\nsys.stdout = sys.__stdout__\nprint('mine', end='')",
    "a stdout kept from before": "kept.write('mine') and None",
    "C code": "import ctypes\nctypes.CDLL(None).printf(b'mine') and None",
}


@pytest.mark.parametrize("code", KEPT.values(), ids=KEPT)
def test_what_is_printed_belongs_to_its_block(box, code):
    box.run("import sys\nkept = sys.stdout")
    assert box.run(code) == "mine"
    assert box.run("1") == "1"


def test_what_could_not_be_printed_is_in_no_block(box):
    box.run("import os\nprint('lost', end='')\nos.close(1)")
    assert box.run("1") == "1"


def test_forged_marks(box):
    """Code that finds the mark can lie about its output, and nothing else."""
    stolen = textwrap.dedent("""
        import os, sys, time
        frame = sys._getframe()
        while "mark" not in frame.f_locals: frame = frame.f_back
        mark = frame.f_locals["mark"]
        """)
    assert box.run(stolen + "_ = os.write(1, b'a lie' + mark + mark)\ntime.sleep(0.1)").startswith("a lie")
    assert box.run("1 + 1").endswith("2")
    assert box.run("1 + 1") == "2"
    assert isinstance(box.run(stolen + "_ = os.write(frame.f_locals['results'], b'x' * 20 + mark)"), str)
    assert box.run("os.write(1, os.urandom(100_000)) * 0").endswith("0")
    box.wall = SHORT
    assert "stopped" in box.run(stolen + "_ = os.write(1, b'late' + mark + mark + b'more')\ntime.sleep(1000)")


@pytest.mark.skipif(not FILTERED, reason="system calls are refused on x86-64 and ARM64 Linux only")
def test_other_processes(box):
    """The parent is this test."""
    assert "Error" in box.run("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)")
    assert "Error" in box.run("import resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))")
    assert "PermissionError" in box.run("import socket\nsocket.create_connection(('127.0.0.1', 9))")


PROMISES = {  # what the filter of system calls refuses: see sandbox.py
    "another process by fork": "os.fork()",
    "another process by clone3": "assert libc.syscall(435, 0, 0) == -1\nraise OSError",
    "a thread": "import threading\nthreading.Thread(target=print).start()",
    "a signal": "os.kill(PARENT, 9)",
    "a signal to all": "os.kill(-1, 9)",
    "a signal by an owner of a pipe": "fcntl.fcntl(pipe, fcntl.F_SETOWN, PARENT)",
    "which signal a pipe sends": "fcntl.fcntl(pipe, 10, 9)",
    "a signal by an owner's structure": "fcntl.fcntl(pipe, 15, struct.pack('ii', 1, PARENT))",
    "a signal by ioctl": "fcntl.ioctl(pipe, 0x8901, struct.pack('i', PARENT))",
    "a signal by a lease": "fcntl.fcntl(pipe, 1024, 1)",
    "limits of another process": "import resource\nresource.prlimit(PARENT, resource.RLIMIT_CPU, (1, 1))",
    "priority of another process": "os.setpriority(os.PRIO_PROCESS, PARENT, 19)",
    "memory of another process": "assert libc.ptrace(16, PARENT, 0, 0) == -1\nraise OSError",
    "a socket": "import socket\nsocket.socket()",
    "a pair of datagram sockets": "import socket\nsocket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "a shared segment": "assert libc.shmget(0, 1 << 20, 0o1600) == -1\nraise OSError",
    "a queue": "assert libc.msgget(0, 0o1600) == -1\nraise OSError",
    "a semaphore": "assert libc.semget(0, 1, 0o1600) == -1\nraise OSError",
    "a memory file": "os.memfd_create('a')",
    "a large pipe": "fcntl.fcntl(pipe, 1031, 1 << 20)",
    "namespaces": "assert libc.unshare(0x10020000) == -1\nraise OSError",
    "a mount": "assert libc.mount(b'a', b'/tmp', b'tmpfs', 0, 0) == -1\nraise OSError",
    "a key": "assert libc.syscall(ADD_KEY, b'user', b'a', b'b', 1, -2) == -1\nraise OSError",
    "no death signal": "assert libc.prctl(1, 0) == -1\nraise OSError",
}
PROMISED = f"""
import ctypes, fcntl, os, struct
libc, PARENT, ADD_KEY = ctypes.CDLL(None), {os.getpid()}, {248 if platform.machine() == "x86_64" else 217}
pipe, _ = os.pipe()
"""


@pytest.mark.skipif(not FILTERED, reason="system calls are refused on x86-64 and ARM64 Linux only")
@pytest.mark.parametrize("code", PROMISES.values(), ids=PROMISES)
def test_what_the_filter_promises(box, code):
    assert box.run(PROMISED) == EMPTY
    text = box.run(code)
    assert "Error" in text and "AssertionError" not in text, text
    assert box.run("libc is not None") == "True"  # the child lives


def test_nothing_outside_tmp_can_be_written(box, walls):
    """Whoever runs it. Of the devices that are there, none can be taken from the others."""
    if walls == "unsafe":
        pytest.skip("whatever the user may write")
    walk = textwrap.dedent("""
        import os
        found = []
        def tried(path, write):
            try: write()
            except OSError: return
            found.append(path)
        for top in ("/proc", "/sys", "/dev", "/usr", "/etc", "/"):
            for folder, inner, names in os.walk(top):
                inner[:] = [name for name in inner if top == "/proc" or len(folder) < 6]
                names = names if top in ("/proc", "/sys", "/dev") else names[:3]
                tried(folder, lambda: os.close(os.open(f"{folder}/new", os.O_CREAT | os.O_WRONLY)))
                for path in (f"{folder}/{name}" for name in names if not folder.startswith("/tmp")):
                    tried(path, lambda: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)))
                    tried(path, lambda: os.utime(path, (1, 1)))
                    tried(path, lambda: os.rename(path, "/tmp/moved"))
        own = ("/tmp", f"/proc/{os.getpid()}/fd/", f"/proc/{os.getpid()}/task/")  # files that are open here
        sorted({path for path in found if not path.startswith(own)})""")
    devices = ["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"]
    box.output = 10_000
    assert eval(box.run(walk)) == devices
    assert (
        box.run("[path for path in os.listdir('/dev') if os.stat(f'/dev/{path}').st_uid == os.getuid()]")
        == "[]"
    )


def test_files(box, walls, tmp_path):
    (tmp_path / "secret").write_text("secret")
    assert box.run("open('own', 'w').write('mine')\nopen('own').read()") == "'mine'"
    assert box.run("import os\n[key for key in os.environ if 'TOKEN' in key or 'USER' in key]") == "[]"
    assert box.run("os.path.realpath(os.path.expanduser('~')) == os.getcwd()") == "True"
    if walls == "unsafe":
        return
    for path in (tmp_path / "secret", Path(__file__), Path.home() / ".bashrc", "/etc/passwd", "/proc/1/mem"):
        assert "Error" in box.run(f"open({str(path)!r}).read()")
    python = Path(os.path.realpath(sys.executable)).parent
    for path in (tmp_path / "new", "/new", "/usr/new", python / "new", Path.home() / "new", "/dev/shm/new"):
        assert "Error" in box.run(f"open({str(path)!r}, 'w')")
        assert not Path(path).exists()
    assert "No space left" in box.run("for i in range(20): open(f'f{i}', 'wb').write(bytes(1 << 23))")
    assert int(box.run("len([1 for name in os.listdir('/proc') if name.isdigit()])")) <= 2
    assert box.run("len(open('/proc/net/route').readlines())") == "1"  # a heading, no way out


# ---- nothing stays behind ----

needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="/proc lists the processes")


@needs_proc
@pytest.mark.parametrize("code", ["1", REFUSED["daemon"], ENDLESS["deaf"], ENDLESS["sleep"]])
def test_the_end_cleans_up(walls, code):
    with make() as box:
        folder = box._folder
        assert alive(box.memory)
        box.wall = SHORT
        box.run(textwrap.dedent(code))
    assert not left_over(box.memory)
    assert folder is None or not Path(folder).exists()


def test_folders_deep_and_without_permissions_go(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with make() as box:
        assert box._folder is None or Path(box._folder).parent == tmp_path
        box.run("import os\nfor i in range(3000): os.mkdir('d'); os.chdir('d')")
        box.run("os.chmod('.', 0)\nos.chmod('..', 0)\nos.chdir(os.environ['HOME'])")
        box.run("open('f', 'w')\nos.mkdir('e')\nos.symlink('/', 'e/l')\nos.chmod('e', 0)")
    assert list(tmp_path.iterdir()) == []


@needs_proc
def test_interrupted(walls):
    with pytest.raises(KeyboardInterrupt), make() as box:
        timer = threading.Timer(SHORT, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        box.run("while True: pass")
    assert not left_over(box.memory)
    with make() as box:
        box.run("x = 1")
        timer = threading.Timer(SHORT, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            box.run("while True: print(end='')")
        assert box.run("x") == "NameError: name 'x' is not defined"


@needs_proc
def test_killed_parent(walls, tmp_path):
    memory = MEMORY + next(tell_apart)
    code = f"""if True:
        from tools.sandbox import Sandbox
        with Sandbox(wall=1000, cpu=1000, memory={memory:_}, unsafe=True) as box:
            print("up", flush=True)
            box.run("import time; time.sleep(1000)")"""
    where = {"cwd": Path(__file__).parents[1], "env": os.environ | {"TMPDIR": str(tmp_path)}}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, **where) as parent:
        assert parent.stdout.readline() == b"up\n"
        assert alive(memory)
        time.sleep(SHORT)
        parent.kill()
    assert not left_over(memory)


# ---- without bubblewrap, or with another one ----


def script(folder: Path, text: str) -> str:
    (folder / "bwrap").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "bwrap").chmod(0o755)
    return str(folder)


def test_refuses_without_bubblewrap(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"bwrap is not installed.*install bubblewrap.*--unsafe-python"):
        make(unsafe=False).__enter__()


def test_bubblewrap_that_does_not_work(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", script(tmp_path, "echo 'bwrap: not permitted' >&2; exit 1"))
    with pytest.raises(UserError, match=r"\(bwrap: not permitted\); install bubblewrap"):
        make(unsafe=False).__enter__()
    with make() as box:
        assert not box.isolated and box.run("1 + 1") == "2"


def test_bubblewrap_without_size(monkeypatch, tmp_path):
    """An old one: /tmp is there, and cannot be filled."""
    if REAL is None:
        pytest.skip("bwrap is not installed")
    refusal = "case \"$*\" in *--size*) echo 'bwrap: Unknown option --size' >&2; exit 1;; esac"
    monkeypatch.setenv("PATH", script(tmp_path, f'{refusal}\nexec {REAL} "$@"'))
    try:
        with make(unsafe=False) as box:
            assert box.isolated and "Read-only" in box.run("open('/tmp/new', 'w')")
    except UserError as error:
        pytest.skip(str(error))

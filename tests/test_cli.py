"""cli.py: numbers within bounds, streams whose reader has left, locks, what killed processes leave."""

import argparse
import getpass
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from cli import UserError, append, exclusive, number, open_file, remove_left_overs, write_all, write_whole

ROOT = Path(__file__).resolve().parent.parent


# ---- numbers ----


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e-300", "1e15", "-1", "1e400", "", "one"])
def test_numbers_out_of_bounds(text):
    with pytest.raises(argparse.ArgumentTypeError, match="wanted float 0, or from 0.001 to 100"):
        number(float, 1e-3, 100, zero=True)(text)
    with pytest.raises(argparse.ArgumentTypeError, match="wanted int from 1 to 1000000000"):
        number(int, 1)(text)


def test_numbers_within_bounds():
    assert [number(float, 1e-3, 100, zero=True)(text) for text in ("0", "1e-3", "100")] == [0, 1e-3, 100]
    assert number(int, 1)("1000000000") == 10**9
    with pytest.raises(argparse.ArgumentTypeError):
        number(int, 1)("1000000001")
    with pytest.raises(argparse.ArgumentTypeError):
        number(float, 1e-3)("0")


# ---- streams ----

WORK = """
import sys, cli
from pathlib import Path

def main(argv):
    for i in range(3000):
        print("a line of text", i, "\\u00e9 \\u65e5", flush=i % 100 == 0)
        print("progress", file=sys.stderr)
    Path(argv[0]).write_text("done")
    for word in argv[1:]:
        if word == "fault":
            raise cli.UserError("a fault")
        sys.stdout.reconfigure(errors="replace"), sys.stdin.reconfigure(errors="replace"), sys.stdin.read()

sys.exit(cli.run(main, sys.argv[1:]))
"""


def shell(redirections: str, tmp_path: Path, *words: str, **environment: str) -> tuple[int, bytes, bool]:
    """Exit code of the work above under a shell, what is left of its output, and whether it was done."""
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "done").unlink(missing_ok=True)
    command = f"{sys.executable} {tmp_path}/work.py {tmp_path}/done {' '.join(words)} {redirections}"
    options = dict(cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True)
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], timeout=60, **options)
    return done.returncode, done.stdout + done.stderr, (tmp_path / "done").exists()


CLOSED = ["2>/dev/null | head -n 1", "2>&1 | head -n 1", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"]


@pytest.mark.parametrize("redirections", CLOSED)
def test_a_closed_stream_neither_ends_work_nor_hides_a_failure(redirections, tmp_path):
    code, _, done = shell(redirections, tmp_path, "reconfigure")
    assert (code, done) == (0, True)
    code, text, done = shell(redirections, tmp_path, "fault")
    assert (code, done) == (2, True) and b"Traceback" not in text


def test_a_full_disk_under_stdout_is_a_failure_at_the_end(tmp_path):
    code, text, done = shell(">/dev/full 2>/dev/null", tmp_path)
    assert (code, done) == (2, True)
    code, text, done = shell("2>&1 >/dev/full | tail -n 1", tmp_path)
    assert text == b"error: stdout: cannot be written (No space left on device); free space\n"
    assert (code, done) == (2, True)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_stream_cannot_spell_is_escaped(encoding, tmp_path):
    code, text, done = shell("2>/dev/null", tmp_path, PYTHONIOENCODING=encoding)
    assert code == 0 and done and rb"\u65e5" in text


def test_a_user_without_a_name_gets_one(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USER", "")  # to be undone
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    found = []
    assert cli.run(lambda argv: found.append(getpass.getuser())) == 0 and found == ["uid54321"]


def test_faults_of_the_system_are_one_line(capsys, tmp_path):
    def main(argv: list[str] | None) -> None:
        open(tmp_path / "none")

    assert cli.run(main) == 2
    error = capsys.readouterr().err
    assert error == f"error: {tmp_path}/none: No such file or directory; mend that or choose another place\n"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory:\nyou tried 4 GB")])
def test_a_want_of_memory_is_one_line(error, capsys):
    def main(argv: list[str] | None) -> None:
        raise error

    assert cli.run(main) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory (") and said.count("\n") == 1


def test_a_fault_of_ours_is_no_want_of_memory():
    def main(argv: list[str] | None) -> None:
        raise RuntimeError("no such layer")

    with pytest.raises(RuntimeError, match="no such layer"):
        cli.run(main)


# ---- files that need not end ----


def test_devices_and_named_pipes_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in ("/dev/zero", tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(OSError, match="need not end"):
            open_file(path)
        with pytest.raises(UserError, match="need not end"):
            cli.read_object(Path(path), "an object")
    read, write = os.pipe()
    os.write(write, b"{}")
    os.close(write)
    with open_file(f"/dev/fd/{read}") as file:
        assert file.read() == b"{}"
    os.close(read)


def test_devices_and_pipes_are_not_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a regular file"):
        write_whole(tmp_path / "pipe", Path.touch)
    with pytest.raises(UserError, match="not a regular file"), exclusive(tmp_path / "pipe"):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]


# ---- locks ----


def test_a_file_is_written_by_one_process_at_a_time(tmp_path):
    path = tmp_path / "out"

    def write(temporary: Path) -> None:
        temporary.write_text("first")
        with pytest.raises(UserError, match="out: in use by another run; wait"):
            write_all([tmp_path / "other", path], lambda temporaries: None)
        remove_left_overs(tmp_path)
        assert temporary.exists()

    write_whole(path, write)
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
    write_whole(path, lambda temporary: temporary.write_text("second"))
    assert path.read_text() == "second"


def test_one_that_is_open_for_more_lines_likewise(tmp_path):
    path = tmp_path / "lines"
    with exclusive(path, "choose another --output") as file:
        append(file, b"one\n")
        with pytest.raises(UserError, match="lines: in use by another run; .* or choose another --output"):
            with exclusive(path, "choose another --output"):
                pass
    with exclusive(path) as file:
        append(file, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    with exclusive(tmp_path / "empty"):
        assert (tmp_path / "empty").exists()
    assert list(tmp_path.iterdir()) == [path]


def test_a_line_is_added_whole_or_not_at_all(tmp_path, monkeypatch):
    class Full:
        def __init__(self, file):
            self.fileno, self.file = file.fileno, file

        def write(self, line: bytes) -> int:
            return self.file.write(line[:3])

    with exclusive(tmp_path / "lines") as file:
        append(file, b"one\n")
        with pytest.raises(OSError, match="No space left"):
            append(Full(file), b"two and more\n")
        append(file, b"three\n")
    assert (tmp_path / "lines").read_bytes() == b"one\nthree\n"


KILLED = """
import sys, time, cli
from pathlib import Path

def write(temporary):
    temporary.write_text("half of what was to be written")
    print("begun", flush=True)
    time.sleep(60)

cli.write_whole(Path(sys.argv[1]), write)
"""


def test_what_a_killed_process_left_is_taken_over_or_removed(tmp_path):
    path = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(path)]
    for _ in range(2):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"begun\n"
            with pytest.raises(UserError, match="in use by another run"):
                write_whole(path, Path.touch)
            process.send_signal(signal.SIGKILL)
    assert [file.name for file in tmp_path.iterdir()] == [".out.tmp"]  # of two kills, one
    write_whole(path, Path.touch)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b""
    for name in (".other.tmp", ".a.123.tmp", ".tmpa1B2c3"):
        (tmp_path / name).write_text("left")
    (tmp_path / "my.tmp").write_text("mine")
    remove_left_overs(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"out", "my.tmp"}


def test_a_fault_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "out"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="out: cannot be written .No space left on device.; free space"):
        write_whole(path, write)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

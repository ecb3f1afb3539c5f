"""What the commands share: refusals in one line with exit code 2, files read and written whole, tables.

No method of the paper lives here; model.py says which checkpoints load, mor.py holds the equations.
"""

import argparse
import contextlib
import errno
import fcntl
import getpass
import io
import json
import os
import shutil
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

DECODER = json.JSONDecoder()


class UserError(ValueError):
    """What a user can mend. The text is one line: what was got, where, what was wanted, how to mend it."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse with defaults in --help and a one-line refusal in place of the usage text."""

    def __init__(self, **kwargs):
        super().__init__(formatter_class=HelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message: str):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


MOST = 10**9  # of anything that is counted


def number(kind: type, low: float, high: float = MOST, zero: bool = False) -> Callable[[str], float]:
    """An argparse type: an int or float within [low, high]; with `zero`, 0 as well."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if zero and value == 0:
            return value
        if not low <= value <= high:
            wanted = f"{'0, or ' * zero}from {low} to {high}"
            raise argparse.ArgumentTypeError(f"got {text!r:.60}, wanted {kind.__name__} {wanted}")
        return value

    return parse


def run(main: Callable[[list[str] | None], None], argv: list[str] | None = None) -> int:
    """Run a command; return its exit code: 0 done, 2 the user can mend it, 130 interrupted."""
    name_user()
    with lasting_streams() as outlets:
        try:
            main(argv)
            code = 0
        except UserError as error:
            code = refuse(str(error))
        except OSError as error:  # a full disk, a loop of links, a file that has gone: what no place foresaw
            where = f"{error.filename}: " if error.filename else ""
            code = refuse(f"{where}{error.strerror or error}; mend that or choose another place")
        except (MemoryError, RuntimeError) as error:  # torch's are RuntimeErrors that name what they wanted
            if not isinstance(error, MemoryError) and "allocate" not in str(error):
                raise
            code = refuse(f"out of memory ({str(error)[:200]}); free some, or ask for less")
        except KeyboardInterrupt:
            code = 130
        for outlet in outlets:
            outlet.stream.flush()
            if outlet.failed and outlet.fileno() == 1 and not code:
                code = refuse(f"stdout: cannot be written ({outlet.failed}); free space")
        return code


def name_user() -> None:
    """Give a user without a name one: torch.compile asks for it and fails where there is none."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid{os.getuid()}"


def refuse(text: str) -> int:
    """Say a fault in one line; return the exit code."""
    print(f"error: {printable(' '.join(text.split()))}", file=sys.stderr)
    return 2


class Outlet(io.FileIO):
    """stdout or stderr. What is written after its reader has left (head, less, a terminal) is dropped."""

    failed = ""  # why it could not be written, where a reader is still there: a full disk
    stream: io.TextIOWrapper  # that writes into it

    def write(self, data: bytes) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO, errno.EBADF):
                self.failed = error.strerror
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(data)


@contextlib.contextmanager
def lasting_streams() -> Iterator[list[Outlet]]:
    """Within it, no print ends the work: closed streams are opened, what cannot be spelled is escaped.

    Left alone is a stream that a test has put in place of the process's own.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    outlets = []
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)
    if sys.stdout is sys.__stdout__:
        outlets.append(open_outlet(1, sys.stdout))
        sys.stdout = outlets[-1].stream
    if sys.stderr is sys.__stderr__:
        outlets.append(open_outlet(2, sys.stderr))
        sys.stderr = outlets[-1].stream
    try:
        yield outlets
    finally:
        for outlet in outlets:
            outlet.stream.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def open_outlet(descriptor: int, before: io.TextIOWrapper | None) -> Outlet:
    """before: the stream in whose place it is put; None for a closed one."""
    if before:
        before.flush()
    outlet = Outlet(descriptor, "w", closefd=False)
    by_line = outlet.isatty() or descriptor == 2 or bool(before and before.write_through)
    encoding = before.encoding if before else "utf-8"
    buffer = io.BufferedWriter(outlet)
    outlet.stream = io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=by_line)
    return outlet


# Categories of characters that may steer a terminal, show nothing, or have a width that nobody knows.
HIDDEN = ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp")


def printable(text: str) -> str:
    """Text that cannot steer a terminal: control and invisible characters are spelled out, as \\x1b."""
    spelled = (repr(c)[1:-1] if c not in "\n\t" and unicodedata.category(c) in HIDDEN else c for c in text)
    return "".join(spelled)


def printable_json(value: object) -> str:
    """JSON on one line that cannot steer a terminal: such characters are escapes of JSON."""
    spelled = []
    for c in json.dumps(value, ensure_ascii=False):
        if unicodedata.category(c) in HIDDEN:
            units = c.encode("utf-16-be", "surrogatepass").hex()
            c = "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
        spelled.append(c)
    return "".join(spelled)


def terminal_width(file: TextIO) -> int | None:
    """Columns of the terminal that a file is, if it is one."""
    return shutil.get_terminal_size().columns if file.isatty() else None


def hanging(text: str, indent: int, width: int | None, column: int) -> tuple[str, int]:
    """Printable text whose lines but the first begin `indent` columns in, those that the edge begins, too.

    column: where it begins; where it ends is returned, too. A character that may take two columns counts two.
    """
    out = []
    for c in printable(text):
        size = 8 - column % 8 if c == "\t" else 1 + (unicodedata.east_asian_width(c) in "WFA")
        if c == "\n" or (width and column > indent and column + size > width):
            out.append("\n" + " " * indent)
            column = indent
        if c != "\n":
            out.append(c)
            column += size
    return "".join(out), column


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` on a temporary name beside `path`, then rename: a reader sees the old file or the new one.

    Raises UserError when the folder cannot be written.
    """
    write_all([path], lambda temporaries: write(temporaries[0]))


def write_all(paths: list[Path], write: Callable[[list[Path]], None]) -> None:
    """write_whole for files that belong together: `write` gets all temporary names.

    None is put in place before all are written, and each is whole. Who is killed between two renames leaves
    some of the files new and the others old. Two processes cannot write one file at a time, and who comes
    next takes over the temporary file that a killed one has left.
    """
    temporaries = [path.with_name(f".{path.name}.tmp") for path in paths]
    try:
        for path in paths:
            if is_special(path):
                raise UserError(f"{path}: not a regular file; choose another place")
            path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            for temporary, path in zip(temporaries, paths, strict=True):
                claimed = stack.enter_context(claim(temporary, path))
                stack.callback(temporary.unlink, missing_ok=True)
                claimed.truncate(0)
            write(temporaries)
            for temporary in temporaries:
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
            for temporary, path in zip(temporaries, paths, strict=True):
                os.replace(temporary, path)
    except OSError as error:
        fault = f"cannot be written ({error.strerror or error}); free space or choose another place"
        raise UserError(f"{paths[0]}: {fault}") from None


NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # of file systems that have none


def claim(path: Path, output: Path, mend: str = "choose another place") -> io.FileIO:
    """Open a file to append to, made where there is none; until it is closed, no other process may claim it.

    The lock is the system's: it ends with the process, however that ends. Raises OSError; UserError, which
    names `output`, for a file that is in use.
    """
    while True:
        file = open(path, "a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UserError(f"{output}: in use by another run; wait for it or {mend}") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                file.close()
                raise
        try:
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                return file
        except FileNotFoundError:
            pass
        file.close()  # who had it has renamed or removed it since


@contextlib.contextmanager
def exclusive(path: Path, mend: str = "choose another place") -> Iterator[io.FileIO]:
    """A file to append to that one process at a time may have open. One that got nothing is removed again.

    Raises UserError for a file in use, and where there can be none.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        if is_special(path):
            raise UserError(f"{path}: not a regular file; {mend}")
        file = claim(path, path, mend)
    except OSError as error:
        raise UserError(f"{path}: cannot be used ({error.strerror or error}); {mend}") from None
    with file:
        try:
            yield file
        finally:
            if is_new and not os.fstat(file.fileno()).st_size:
                path.unlink(missing_ok=True)


def append(file: io.FileIO, line: bytes) -> None:
    """Add a line to a file of `claim`, whole or not at all. Raises OSError."""
    end = os.fstat(file.fileno()).st_size
    try:
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.ftruncate(file.fileno(), end)
        raise


def remove_left_overs(folder: Path) -> None:
    """Remove the temporary files of killed processes: ours, and the safetensors library's of older code."""
    for path in [*folder.glob(".*.tmp"), *folder.glob(".tmp??????")]:
        with contextlib.suppress(OSError, UserError), claim(path, path):  # not one that is being written
            path.unlink(missing_ok=True)


def is_special(path: Path) -> bool:
    """Whether something stands there that is neither file nor folder: a device, a pipe."""
    return path.exists() and not (path.is_file() or path.is_dir())


def cut(text: str, limit: int) -> str:
    """`text`, or its first and last half of `limit` characters and how many are left out between."""
    half, more = limit // 2, len(text) - limit
    return text if more <= 0 else f"{text[:half]}...[{more} characters left out]...{text[half + more :]}"


def read_object(path: Path, wanted: str) -> dict:
    """The JSON object that a file holds. Raises UserError; `wanted` says what a user should have given."""
    try:
        with open_file(path) as file:
            data = file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); wanted {wanted}") from None
    return parse_object(data, str(path), wanted)


def open_file(path: str | Path) -> BinaryIO:
    """open(path, "rb") of what comes to an end. Raises OSError, for a device and a pipe with a name as well.

    What a shell's <(...) gives has no name, and its writer is there already.
    """
    mode = os.stat(path).st_mode
    named_pipe = stat.S_ISFIFO(mode) and os.path.exists(os.path.realpath(path))
    if named_pipe or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise OSError(errno.EINVAL, "a device or a named pipe, which need not end", str(path))
    return open(path, "rb")


def parse_object(data: bytes, where: str, wanted: str, decoder: json.JSONDecoder = DECODER) -> dict:
    """The JSON object that the bytes of a file or a line are. Raises UserError, which begins with `where`."""
    try:
        value = decoder.decode(data.decode("utf-8-sig"))  # -sig: Windows editors put a mark first
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start} is not UTF-8; wanted {wanted}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); wanted {wanted}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: got {value!r:.60}; wanted {wanted}")
    return value


def layout(rows: list[list[str]]) -> str:
    """A table as text: cells in columns two spaces apart, the first column on the left, the others right.

    A cell is one line, whatever it holds.
    """
    rows = [[printable(cell).replace("\n", "\\n").replace("\t", "\\t") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=False)]
        cells[0] = row[0].ljust(widths[0])
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)

"""What the commands share: refusals in one line with exit code 2, files read and written whole, tables.

No method of the paper lives here; model.py says which checkpoints load, mor.py holds the equations.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

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


def number(kind: type, low: float, high: float = float("inf")) -> Callable[[str], float]:
    """An argparse type: an int or float within [low, high]."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            wanted = f"{low} or more" if high == float("inf") else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"got {text!r}, wanted {kind.__name__} {wanted}")
        return value

    return parse


def run(main: Callable[[list[str] | None], None], argv: list[str] | None = None) -> int:
    """Run a command; return its exit code: 0 done, 2 the user can mend it, 130 interrupted."""
    try:
        main(argv)
        sys.stdout.flush()
        return 0
    except UserError as error:
        print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories of characters that may steer a terminal, or show nothing


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
    some of the files new and the others old.
    """
    temporaries = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths]
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        write(temporaries)
        for temporary in temporaries:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        for temporary, path in zip(temporaries, paths, strict=True):
            os.replace(temporary, path)
    except OSError as error:
        fault = f"cannot be written ({error.strerror or error}); free space or choose another place"
        raise UserError(f"{paths[0]}: {fault}") from None
    finally:
        for temporary in temporaries:
            with contextlib.suppress(OSError):  # nothing was made, in a folder that is none
                temporary.unlink(missing_ok=True)


def cut(text: str, limit: int) -> str:
    """`text`, or its first and last half of `limit` characters and how many are left out between."""
    half, more = limit // 2, len(text) - limit
    return text if more <= 0 else f"{text[:half]}...[{more} characters left out]...{text[half + more :]}"


def read_object(path: Path, wanted: str) -> dict:
    """The JSON object that a file holds. Raises UserError; `wanted` says what a user should have given."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); wanted {wanted}") from None
    return parse_object(data, str(path), wanted)


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

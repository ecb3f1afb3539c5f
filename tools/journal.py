"""The answers of chat endpoints so far, in a JSON Lines file: what was answered is never asked again.

One line each, `key` being the SHA-256 of the request as it is sent first:

  {"key": "9f86...", "model": "gpt-4o", "content": "Yes.", "finish_reason": "stop", "prompt_tokens": 9,
   "completion_tokens": 2}      a refusal has content null, its reason under "refused", and "detail"
"""

import contextlib
import hashlib
import json
import os
import threading
from array import array
from pathlib import Path

from tqdm import tqdm

from cli import UserError, exclusive


class Journal(contextlib.AbstractContextManager):
    """The answers so far, in a JSON Lines file that one process at a time may have open.

    Contents stay on disk; in memory are keys and places, some 200 bytes each. What a killed process left
    of its last line is cut off. Raises UserError for a file that is in use, damaged or not to be written.
    """

    def __init__(self, path: Path):
        self.path, self._lock = path, threading.Lock()
        self._lines: dict[bytes, int] = {}  # key -> number of its line, from 0
        self._ends = array("Q", [0])  # bytes before line i
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(exclusive(path, "name another journal"))
            self._load()
            self._open = stack.pop_all()

    def __exit__(self, *_) -> None:
        self._open.close()  # a command that asked nothing leaves nothing behind

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._lines

    def __getitem__(self, key: str) -> dict:
        line = self._lines[bytes.fromhex(key)]
        start, end = self._ends[line], self._ends[line + 1]
        return json.loads(os.pread(self._file.fileno(), end - start, start))

    def add(self, entry: dict) -> dict:
        """Append an entry and return it; when this returns, it is on the disk.

        Of two entries for one request the first counts: it is returned, and the second is dropped. Raises
        UserError where the file cannot be written.
        """
        line = (json.dumps(entry) + "\n").encode()
        try:
            with self._lock:
                if entry["key"] in self:
                    return self[entry["key"]]
                file = self._file.fileno()
                if os.write(file, line) < len(line):
                    os.ftruncate(file, self._ends[-1])
                    raise OSError(0, "no space left")
                self._index(entry["key"], len(line))
            os.fsync(file)  # outside the lock: the system makes one of several
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); free space") from None
        return entry

    def _index(self, key: str, length: int) -> None:
        line = len(self._ends) - 1
        self._ends.append(self._ends[-1] + length)
        self._lines.setdefault(bytes.fromhex(key), line)  # last: other threads read without the lock

    def _load(self) -> None:
        with open(self.path, "rb") as file:
            lines = tqdm(file, desc=self.path.name, unit=" answers", disable=None, delay=1)
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n") and line.startswith(b'{"key": "'[: len(line)]):
                    break  # the last one, torn
                self._index(self._key_of(line, number), len(line))
        self._file.truncate(self._ends[-1])

    def _key_of(self, line: bytes, number: int) -> str:
        with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
            entry = json.loads(line)
            text = entry["refused" if entry["content"] is None else "content"]
            if len(bytes.fromhex(entry["key"])) == 32 and isinstance(text, str) and line.endswith(b"\n"):
                return entry["key"]
        how = "delete the line, and it is asked again, or name another journal"
        raise UserError(f"{self.path}:{number}: damaged, or no line of a journal; {how}")


def request_bytes(body: dict) -> tuple[str, bytes]:
    """A request's key, and the request as it is sent: JSON in one canonical form, without what is None."""
    body = {name: value for name, value in body.items() if value is not None}
    data = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(data).hexdigest(), data

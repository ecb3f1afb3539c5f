"""process.py: the order of rows from threads, files that are put in place together, the table."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import UserError, write_all
from stages import process


def test_in_order_from_threads_reads_few_rows_ahead():
    read = []

    def rows() -> Iterator[int]:
        for i in range(200):
            read.append(i)
            yield i

    def work(i: int) -> int:
        time.sleep(0.002 * (i % 3 == 0))
        return i

    for count, i in enumerate(process.in_order(work, rows(), 3)):
        assert i == count and len(read) <= i + 8 * 3 + 1
    assert len(read) == 200


def test_a_fault_waits_for_what_is_under_way():
    begun, done = threading.Semaphore(0), []

    def work(i: int) -> int:
        if i == 0:
            begun.acquire()
            begun.acquire()
            raise UserError("the key is wrong")
        begun.release()
        time.sleep(0.05)
        done.append(i)
        return i

    with pytest.raises(UserError):
        list(process.in_order(work, range(50), 3))
    assert 2 <= len(done) < 10  # what the threads had begun, to its end, and little else


def test_ctrl_c_does_not_wait():
    gate, done = threading.Event(), []

    def work(i: int) -> int:
        if i == 0:
            raise KeyboardInterrupt
        gate.wait()
        done.append(i)
        return i

    with pytest.raises(KeyboardInterrupt):
        list(process.in_order(work, range(50), 3))
    assert not done
    gate.set()


def test_a_sign_of_progress_without_a_terminal(capsys):
    """Also while the first row is not done; and none after the last one."""

    def rows() -> Iterator[int]:
        for i in range(2):
            time.sleep(0.1)
            yield i

    assert list(process.with_signs(rows(), "judge", 2000, every=0.01)) == [0, 1]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "judge: 0 of 2,000 rows in 0 s" and said[-1].startswith("judge: 1 of 2,000 rows")
    time.sleep(0.05)
    assert not capsys.readouterr().err
    assert list(process.with_signs(range(3), "judge", None)) == [0, 1, 2]
    assert not capsys.readouterr().err


def written(paths: list[Path]) -> None:
    for path in paths:
        path.write_text(f"new {path.name.split('.')[1]}")


def test_no_file_is_put_in_place_before_all_are_written(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    replace, seen = os.replace, []

    def watched(source: Path, target: Path) -> None:
        seen.append(sorted(path.read_text() for path in tmp_path.iterdir()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_all(paths, written)
    assert seen == [["new a", "new b", "new c"]] * 3  # whole at every moment, whatever its name
    assert sorted(tmp_path.iterdir()) == paths


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("no"), OSError(28, "No space left")])
def test_a_fault_in_between_leaves_the_old_files(tmp_path, error):
    def torn(paths: list[Path]) -> None:
        paths[0].write_text("half")
        raise error

    (tmp_path / "a").write_text("old")
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)):
        write_all([tmp_path / "a", tmp_path / "b"], torn)
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a: cannot be written"):
        write_all([tmp_path / "file" / "a"], written)


def test_a_report_cannot_steer_a_terminal():
    tally = process.Tally("judge")
    tally.add(({"dataset": "a\x1b[2J"}, {}), [("refused", {"reason": "so\x1b]0;x\x07"})])
    assert "\x1b" not in process.table([tally]) and "\\x1b[2J" in process.table([tally])

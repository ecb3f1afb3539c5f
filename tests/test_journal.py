"""journal.py: torn lines, damage, files that are no journal, a full disk, threads."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import cli
from tools.journal import Journal


@pytest.fixture
def journal(tmp_path) -> Iterator[Journal]:
    with Journal(tmp_path / "answers.jsonl") as journal:
        yield journal


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


ENTRY = {"key": "ab" * 32, "model": "m", "content": "Yes: ½ \ud83d", "finish_reason": "stop"}


def test_a_torn_last_line_is_cut_off_wherever_it_tore(tmp_path):
    path = tmp_path / "answers.jsonl"
    whole, torn = (json.dumps(ENTRY | {"key": key * 32}) + "\n" for key in ("ab", "cd"))
    for length in range(len(torn)):
        path.write_text(whole + torn[:length])
        with Journal(path) as journal:
            assert "ab" * 32 in journal and "cd" * 32 not in journal
            journal.add(ENTRY | {"key": "ef" * 32})
            assert journal["ab" * 32] == ENTRY
        assert [entry["key"][:2] for entry in lines(path)] == ["ab", "ef"]


DAMAGED = [
    b"\n",
    b"\0\0\0\n",
    b'{"key": "ab',
    b"[]\n",
    b'{"key": "ab", "content": "x"}\n',
    b"[" * 100_000 + b"\n",
]
DAMAGED += [json.dumps(ENTRY | {"content": content}).encode() + b"\n" for content in (None, 7)]


@pytest.mark.parametrize("damaged", DAMAGED, ids=range(len(DAMAGED)))
def test_damage_amid_the_journal_is_named_and_kept(damaged, tmp_path):
    path = tmp_path / "answers.jsonl"
    line = json.dumps(ENTRY).encode() + b"\n"
    path.write_bytes(line + damaged + line.replace(b"ab", b"cd"))
    before = path.read_bytes()
    with pytest.raises(cli.UserError, match="answers.jsonl:2: damaged"):
        Journal(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ['{"tools": [], "trajectory": []}', "Dear diary,", '{"key'.upper()])
def test_a_file_of_another_kind_is_not_cut(text, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(cli.UserError, match="mine.txt:1: damaged, or no line of a journal"):
        Journal(path)
    assert path.read_text() == text


def test_a_journal_without_an_answer_leaves_no_file(tmp_path):
    path = tmp_path / "answers.jsonl"
    with Journal(path):
        assert path.exists()
    assert not path.exists()
    path.touch()  # somebody else's
    with Journal(path):
        pass
    assert path.exists()


def test_places_that_hold_no_journal(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "answers.jsonl"):
        with pytest.raises(cli.UserError, match="cannot be used"):
            Journal(path)


def test_a_full_disk_leaves_whole_lines(journal, monkeypatch):
    journal.add(ENTRY)
    write = os.write
    with monkeypatch.context() as patch, pytest.raises(cli.UserError, match="no space left.*free space"):
        patch.setattr(os, "write", lambda file, data: write(file, data[:20]))
        journal.add(ENTRY | {"key": "cd" * 32})
    assert lines(journal.path) == [ENTRY] and "cd" * 32 not in journal
    journal.add(ENTRY | {"key": "cd" * 32})
    assert len(lines(journal.path)) == 2 and journal["cd" * 32]["content"] == ENTRY["content"]


def test_of_two_answers_to_one_request_the_first_counts(journal):
    other = ENTRY | {"content": "No."}
    assert journal.add(ENTRY) == ENTRY == journal.add(other) == journal[ENTRY["key"]]
    assert lines(journal.path) == [ENTRY]


def test_nothing_is_written_after_the_end(tmp_path):
    """As a thread would whose reply comes after Ctrl-C."""
    with Journal(tmp_path / "answers.jsonl") as journal:
        journal.add(ENTRY)
    with pytest.raises(ValueError):
        journal.add(ENTRY | {"key": "cd" * 32})
    assert lines(journal.path) == [ENTRY]


def test_threads_read_while_others_write(journal):
    def add_and_read(number: int) -> bool:
        key = f"{number % 100:064x}"
        journal.add(ENTRY | {"key": key})
        return journal[key]["key"] == key

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(add_and_read, range(400)))
    assert len(lines(journal.path)) == 100

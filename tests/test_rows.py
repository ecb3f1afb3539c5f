"""rows.py: readers against json's reading, at every block size; literals against ast."""

import json

import pytest

from cli import UserError
from sources import rows
from sources.rows import literal, read_rows

VALUES = [{"a": 'x]}, \\ " é 😀'}, {"b": [1, {"c": None}]}, {}, {"d": 12.5, "e": "\n{[" * 9}]
FORMS = {
    "array": json.dumps(VALUES),
    "pretty array": json.dumps(VALUES, indent=4, ensure_ascii=False),
    "lines": "\n".join(map(json.dumps, VALUES)) + "\n",
    "lines, unescaped, blank ones, CR": "\r\n\r\n".join(json.dumps(v, ensure_ascii=False) for v in VALUES),
    "with a byte order mark": "\ufeff" + json.dumps(VALUES),
    "pretty objects": "\n".join(json.dumps(v, indent=4) for v in VALUES),
}


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_all_forms_are_read_at_every_block_size(tmp_path, monkeypatch, text, block):
    monkeypatch.setattr(rows, "BLOCK", block)
    (tmp_path / "rows").write_bytes(text.encode())
    assert list(read_rows(tmp_path / "rows")) == VALUES


@pytest.mark.parametrize("block", [1, 5, 1 << 20])
def test_scalars_in_an_array_are_whole(tmp_path, monkeypatch, block):
    """12 at the end of a block may be the beginning of 123."""
    monkeypatch.setattr(rows, "BLOCK", block)
    (tmp_path / "rows").write_text('[1234567, -1.5e10, true, null, "ab", []]')
    assert list(read_rows(tmp_path / "rows")) == [1234567, -1.5e10, True, None, "ab", []]


FAULTS = {
    "empty": (b"", "row 0 cannot be read (the file is empty)"),
    "blank": (b" \n", "the file is empty"),
    "text": (b"id,query", "got no [ or {"),
    "torn object": (b'[{"a": 1}, {"b": "x', "row 1 cannot be read (Unterminated string"),
    "torn array": (b'[{"a": 1}, {"b": 2}', "row 2 cannot be read (the array has no end)"),
    "torn array behind a comma": (b'[{"a": 1},', "row 1 cannot be read (Expecting value)"),
    "torn line": (b'{"a": 1}\n{"b": [1, \n', "row 1 cannot be read (Expecting value)"),
    "no comma": (b'[{"a": 1} {"b": 2}]', "wanted , or ]"),
    "comma before the end": (b'[{"a": 1},]', "row 1 cannot be read (Expecting value)"),
    "two arrays": (b"[{}]\n[{}]", "'[' behind the array"),
    "not UTF-8": (b'[{"a": 1}, {"b": "\xe9t"}]', "byte 18 is not UTF-8"),
    "torn letter": (b'[{"a": 1}]\xc3', "byte 10 is not UTF-8"),
    "packed": (b"\x1f\x8b\x08\x00\x00", "row 0 cannot be read"),
    "deep": (b"[" * 200_000, "cannot be read"),
}


@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize(("text", "words"), FAULTS.values(), ids=FAULTS)
def test_unreadable_file_is_one_line(tmp_path, monkeypatch, text, words, block):
    monkeypatch.setattr(rows, "BLOCK", block)
    (tmp_path / "rows").write_bytes(text[:3000] if block == 1 else text)
    with pytest.raises(UserError) as caught:
        list(read_rows(tmp_path / "rows"))
    assert str(tmp_path / "rows") in str(caught.value) and "\n" not in str(caught.value)
    assert words in str(caught.value)


def test_rows_before_a_fault_are_given(tmp_path):
    (tmp_path / "rows").write_text('{"a": 1}\n{"b": 2}\n{"c"')
    read = read_rows(tmp_path / "rows")
    assert [next(read), next(read)] == [{"a": 1}, {"b": 2}]
    with pytest.raises(UserError, match="row 2"):
        next(read)


def test_a_fault_is_found_without_reading_on(tmp_path, monkeypatch):
    """Else a fault at the beginning of a large file would have all of it read into memory."""
    monkeypatch.setattr(rows, "BLOCK", 100)
    (tmp_path / "rows").write_text('[{"a": 1 "b": 2}, ' + '{"c": 3}, ' * 1000)
    with open(tmp_path / "rows", "rb") as file:
        stream = rows.Stream(file)
        assert stream.peek() == "["
        stream.at += 1
        with pytest.raises(ValueError, match="delimiter"):
            stream.value()
        assert file.tell() <= 200


def test_memory_is_that_of_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 1000)
    (tmp_path / "rows").write_text(json.dumps([{"text": "x" * 99}] * 5000))
    with open(tmp_path / "rows", "rb") as file:
        stream, longest = rows.Stream(file), 0
        stream.peek()
        for _ in range(5000):
            stream.at += 1  # [ or ,
            stream.peek()
            stream.value()
            stream.peek()
            longest = max(longest, len(stream.text))
    assert longest < 5000


def test_absent_and_folder(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            list(read_rows(path))


GOOD = [
    "{'a': [1, -2.5, True, None], \"b\": ('x', \"it's\")}",
    "[]",
    "'a' 'b'",
    "{'a': {'b': {}}}",
    "  7 ",
    "[+3, .5, 0x10, (1)]",
]


@pytest.mark.parametrize("text", GOOD)
def test_literal_is_python_s(text):
    import ast

    assert literal(text) == json.loads(json.dumps(ast.literal_eval(text.strip())))


def test_literal_takes_json_s_words():
    assert literal('{"a": [true, false, null]}') == {"a": [True, False, None]}


BAD = [
    "{'a': now()}",
    "{1: 2}",
    "{'a': 1, 'a': 2}",
    "{1, 2}",
    "b'x'",
    "1j",
    "1 + 2",
    "...",
    "name",
    "{**x}",
    "",
]
BAD += ["{'a': 1} x", "f'{x}'", "-'a'", "[" * 500, "-" * 99999 + "1", "(" * 99999, "{'a':" * 300, "\0"]


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_literal_refuses_all_else(text):
    with pytest.raises(ValueError):
        literal(text)

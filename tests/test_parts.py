"""benchmarks/parts.py: what is packed and unpacked is the same, byte for byte; damage is refused."""

import json

import pytest

from benchmarks import parts
from cli import UserError, run

SIZES = {"model/weights.bin": 70, "model/empty.txt": 0, "model/deep/er.bin": 30, "one.bin": 7}


@pytest.fixture
def source(tmp_path):
    for i, (name, size) in enumerate(SIZES.items()):
        path = tmp_path / "from" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes((7 * i + j) % 256 for j in range(size)))
    return tmp_path / "from"


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def packed(source, into, size=16):
    parts.pack([source / "model", source / "one.bin"], into, size)
    return sorted(into.glob("*.part"))


@pytest.mark.parametrize("size", [1, 16, 30, 37, 1000])
def test_all_at_once(source, tmp_path, size):
    made = packed(source, tmp_path / "parts", size)
    assert [p.stat().st_size for p in made[:-1]] == [size] * (len(made) - 1)
    parts.unpack(tmp_path / "parts", tmp_path / "to")
    assert contents(tmp_path / "to") == contents(source)


def test_in_several_deliveries_in_any_order(source, tmp_path, capsys):
    """Each brings two parts and the list; what was brought before is gone."""
    made = packed(source, tmp_path / "parts")
    made.reverse()
    for i in range(0, len(made), 2):
        here = tmp_path / f"delivery{i}"
        here.mkdir()
        (here / parts.LIST).write_bytes((tmp_path / "parts" / parts.LIST).read_bytes())
        for part in made[i : i + 2]:
            part.rename(here / part.name)
        code = run(parts.main, ["unpack", str(here), "--into", str(tmp_path / "to")])
        said = capsys.readouterr().err
        last = i + 2 >= len(made)
        assert code == (0 if last else 2)
        assert last or (said.count("\n") == 1 and f"{i + 2} of {len(made)} parts" in said)
        assert not (tmp_path / "to" / "one.bin").exists() or last, "a file gets its name when all are whole"
    assert contents(tmp_path / "to") == contents(source)


def longer(data):
    return data + b"x"


def shorter(data):
    return data[:-1]


def other(data):
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize("damage", [longer, shorter, other])
def test_a_damaged_part_is_refused_in_one_line_and_can_be_brought_again(source, tmp_path, capsys, damage):
    made = packed(source, tmp_path / "parts")
    good = made[2].read_bytes()
    made[2].write_bytes(damage(good))
    command = ["unpack", str(tmp_path / "parts"), "--into", str(tmp_path / "to")]
    assert run(parts.main, command) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "002.part: damaged" in said
    made[2].write_bytes(good)
    for part in made[:2]:
        part.unlink()
    assert run(parts.main, command) == 0
    assert contents(tmp_path / "to") == contents(source)


def test_a_file_that_was_damaged_on_its_way_in_is_refused(source, tmp_path, capsys):
    made = packed(source, tmp_path / "parts")
    last = made[-1].rename(tmp_path / "last")
    command = ["unpack", str(tmp_path / "parts"), "--into", str(tmp_path / "to")]
    assert run(parts.main, command) == 2
    written = tmp_path / "to" / parts.STATE / "model" / "weights.bin"
    written.write_bytes(other(written.read_bytes()))
    last.rename(made[-1])
    assert run(parts.main, command) == 2
    assert "weights.bin: damaged" in capsys.readouterr().err


def test_what_cannot_be_packed_or_unpacked_is_told_in_one_line(source, tmp_path, capsys):
    into = ["--into", str(tmp_path / "parts")]
    wrong = [
        ["pack", str(tmp_path / "nowhere"), *into],
        ["pack", str(source / "one.bin"), str(source / "one.bin"), *into],
        ["unpack", str(source), *into],
    ]
    for command in wrong:
        assert run(parts.main, command) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1


LISTS = ["{}", '{"files": 3, "parts": []}', '{"files": [3], "parts": []}', '{"files": [{}], "parts": []}']
ENTRY = {"size": 0, "sha256": ""}
LISTS += [
    json.dumps({"files": [ENTRY | {"name": name}], "parts": []}) for name in ("/x", "../x", "a/../../x", 3)
]


@pytest.mark.parametrize("text", LISTS)
def test_a_list_that_leads_elsewhere_is_refused(text, tmp_path):
    (tmp_path / parts.LIST).write_text(text)
    with pytest.raises(UserError, match="not a list of parts"):
        parts.unpack(tmp_path, tmp_path / "to")
    assert not (tmp_path / "x").exists()


def test_the_list_has_sizes_and_checksums(source, tmp_path):
    packed(source, tmp_path / "parts")
    listed = json.loads((tmp_path / "parts" / parts.LIST).read_text())
    assert {entry["name"]: entry["size"] for entry in listed["files"]} == SIZES
    assert sum(part["size"] for part in listed["parts"]) == sum(SIZES.values())
    assert all(len(entry["sha256"]) == 64 for entry in listed["files"] + listed["parts"])

"""Large files in parts of at most 64 MiB, to carry them to a machine that takes no more at a time.

    python -m benchmarks.parts pack PATH... --into parts       parts/parts.json, parts/000.part, 001.part, ...
    python -m benchmarks.parts unpack parts --into models       each time that more parts have come

A PATH is a file, or a folder, whose files keep its name before theirs. They lie end to end in the parts.
unpack takes the parts that are there, checks each before it writes, and keeps in models/.parts what it has; a
part may then be deleted. With the last one, each file is checked whole and gets its name. The list,
parts.json, is wanted each time.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from cli import ArgumentParser, UserError, is_special, number, read_object, run, write_whole

LIST, STATE, MOST = "parts.json", ".parts", 64
BLOCK = 2**20


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m benchmarks.parts", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack", help="write parts")
    pack.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="files, or folders with their files"
    )
    size = number(int, 1, MOST)
    pack.add_argument("--size", type=size, default=48, metavar="MIB", help="of a part, at most")
    unpack = commands.add_parser("unpack", help="write the files")
    unpack.add_argument("folder", type=Path, metavar="DIR", help=f"with {LIST} and parts")
    for command in (pack, unpack):
        command.add_argument("--into", type=Path, required=True, metavar="DIR", help="folder to write to")
    return parser.parse_args(argv)


# ---- pack ----


def named_files(paths: list[Path]) -> dict[str, Path]:
    """Name in the list -> file, in order. Raises UserError for what is absent, or a name given twice."""
    found = {}
    for path in paths:
        held = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        if not path.exists() or is_special(path) or not held:
            raise UserError(f"{path}: no file there; wanted a file, or a folder that holds one")
        for file in held:
            name = file.relative_to(path.parent).as_posix()
            if name in found:
                raise UserError(f"{path}: {name} was given already; pack one of the two apart")
            found[name] = file
    return found


def blocks(files: dict[str, Path], size: int) -> Iterator[tuple[bytes, bool]]:
    """The bytes of all files, and whether the part of `size` bytes is full after them."""
    left = size
    for path in files.values():
        with path.open("rb") as file:
            while block := file.read(min(BLOCK, left)):
                left = left - len(block) or size
                yield block, left == size


def pack(paths: list[Path], into: Path, size: int) -> int:
    """Write the parts, each of `size` bytes but for the last, and the list; return their number."""
    files, parts = named_files(paths), []
    into.mkdir(parents=True, exist_ok=True)
    part = None
    for block, full in blocks(files, size):
        if part is None:
            name, digest, length = f"{len(parts):03}.part", sha256(), 0
            part = (into / name).open("wb")
        part.write(block)
        digest.update(block)
        length += len(block)
        if full:
            part.close()
            part = None
            parts.append({"name": name, "size": length, "sha256": digest.hexdigest()})
    if part is not None:
        part.close()
        parts.append({"name": name, "size": length, "sha256": digest.hexdigest()})
    entries = [{"name": n, "size": f.stat().st_size, "sha256": digest_of(f)} for n, f in files.items()]
    text = json.dumps({"files": entries, "parts": parts}, indent=1) + "\n"
    write_whole(into / LIST, lambda path: path.write_text(text, encoding="utf-8"))
    return len(parts)


def digest_of(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


# ---- unpack ----


def check(path: Path, entry: dict) -> None:
    """Raises UserError when a file is not the one of the list."""
    size = path.stat().st_size
    if size != entry["size"]:
        raise UserError(f"{path}: damaged, it has {size} bytes, wanted {entry['size']}; bring it again")
    if digest_of(path) != entry["sha256"]:
        raise UserError(f"{path}: damaged, its bytes are not those of the list; bring it again")


def read_list(path: Path) -> dict:
    """What pack has written of files and parts. Raises UserError, for a name that leads elsewhere as well."""
    wanted = f"a folder that pack has written, with its {LIST}"
    listed = read_object(path, wanted)
    try:
        for entry in [*listed["files"], *listed["parts"]]:
            name = Path(entry["name"])
            if name.is_absolute() or ".." in name.parts or not {"size", "sha256"} < entry.keys():
                raise ValueError(f"entry {entry!r:.80}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a list of parts ({error}); wanted {wanted}") from None
    return listed


def unpack(folder: Path, into: Path) -> list[str]:
    """Write what the parts hold; return the names of the files, once all are whole.

    Raises UserError for a part that is damaged, or missing here and not written before.
    """
    listed = read_list(folder / LIST)
    state = into / STATE
    state.mkdir(parents=True, exist_ok=True)
    missing, start = [], 0
    for part in listed["parts"]:
        mark, path = state / f"{part['name']}.{part['sha256']}", folder / part["name"]
        if not mark.exists() and path.exists():
            check(path, part)
            put(path.read_bytes(), start, listed["files"], state)
            mark.touch()
        if not mark.exists():
            missing.append(part["name"])
        start += part["size"]
    if missing:
        had = len(listed["parts"]) - len(missing)
        raise UserError(
            f"{folder}: {', '.join(missing)} missing, {had} of {len(listed['parts'])} parts are in {into}; "
            "bring the others and unpack again"
        )
    for entry in listed["files"]:
        check(state / entry["name"], entry)
    for entry in listed["files"]:
        (into / entry["name"]).parent.mkdir(parents=True, exist_ok=True)
        (state / entry["name"]).replace(into / entry["name"])
    shutil.rmtree(state)
    return [entry["name"] for entry in listed["files"]]


def put(data: bytes, start: int, entries: list[dict], state: Path) -> None:
    """Write the bytes from index `start` of all files on, each into its file."""
    for entry in entries:
        end, size = start + len(data), entry["size"]
        if end >= 0 and start <= size:  # an empty file, too, is made
            path = state / entry["name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            with path.open("r+b") as file:
                file.seek(max(start, 0))
                file.write(data[max(-start, 0) : size - start])
        start -= size


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.command == "pack":
        count = pack(args.paths, args.into, args.size * 2**20)
        print(f"{count} parts of up to {args.size} MiB in {args.into}")
    else:
        names = unpack(args.folder, args.into)
        print(f"{len(names)} files in {args.into}")


if __name__ == "__main__":
    sys.exit(run(main))

"""The result file of evaluate.py: its header, its lines in order, going on with one that was cut short."""

import hashlib
import json
import os
import platform
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import tokenizers
import torch
from tqdm import tqdm

from cli import UserError, append, parse_object
from engine.adapter import CONFIG, WEIGHTS
from formats.checkpoint import checkpoint_folder, tensor_files
from formats.frames import Frame
from model import Transformer

# Flags that decide the results, of the suites that have them.
SETTINGS = (
    "categories",
    "groups",
    "method",
    "max_depth",
    "second",
    "exchanges",
    "limit",
    "frame",
    "max_turns",
    "max_new_tokens",
    "temperature",
    "top_p",
    "seed",
    "unsafe_python",
)
ROOT = Path(__file__).resolve().parent.parent
# The code that decides them.
PLACES = ("", "formats/", "engine/", "tools/", "sources/", "stages/", "evaluation/")
CODE = tuple(f"{place}*.py" for place in PLACES)


def header_of(args: Namespace, questions: list, model: Transformer, frame: Frame) -> dict:
    """All that decides the results of a run: flags, versions, digests of data, models and code."""
    base, adapter = checkpoint_folder(args.model), Path(args.adapter)
    weights = sorted({"config.json", "tokenizer.json", *tensor_files(base).values()})
    code = [path for pattern in CODE for path in sorted(ROOT.glob(pattern))]
    asked = json.dumps(questions, default=vars).encode()
    weight = model.model.norm.weight
    return {
        "suite": args.suite,
        "model": model_name(args.model),
        **{name: getattr(args, name) for name in SETTINGS if hasattr(args, name)},
        "prompts": frame.prompts,
        "dtype": str(weight.dtype).removeprefix("torch."),
        "device": weight.device.type,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tokenizers": tokenizers.__version__,
        "questions": len(questions),
        "data": hashlib.sha256(asked).hexdigest()[:16],
        "base": digest(base / file for file in weights),
        "adapter": digest([adapter / CONFIG, adapter / WEIGHTS]) if args.adapter else "none",
        "code": digest(code),
    }


def model_name(model: str) -> str:
    """The last part of a folder or hub id."""
    if os.path.isdir(model):
        return Path(model).resolve().name
    return model.rpartition("/")[2]


def digest(paths: Iterable[Path]) -> str:
    """Of names, sizes and contents."""
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            whole.update(f"{path.name} {os.fstat(file.fileno()).st_size}\n".encode())
            while block := file.read(1 << 24):
                whole.update(block)
    return whole.hexdigest()[:16]


def encoded(value: dict) -> bytes:
    """A line of the file. Half characters, which UTF-8 cannot hold, stay escapes of JSON."""
    return (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def read_results(path: Path, content: bytes, suites: Iterable[str]) -> tuple[dict, list[dict]]:
    """Header and lines in what a result file holds, a half-written last line left out. Raises UserError.

    suites: names of those that there are.
    """
    wanted = "a result file of evaluate.py; name another, or remove it"
    whole = content.split(b"\n")[:-1]
    rows = [parse_object(line, f"{path}:{number}", wanted) for number, line in enumerate(whole, 1)]
    header = rows[0].get("header") if rows else None
    if not isinstance(header, dict) or header.get("suite") not in list(suites):
        raise UserError(f"{path}: got no header; wanted {wanted}")
    check_order(path, header, rows[1:])
    return header, rows[1:]


def check_order(path: Path, header: dict, lines: list[dict]) -> None:
    """Raises UserError where a line is lost, doubled or out of its place; older code did not number them."""
    mend = "the file was damaged or written by two runs; make it again"
    questions = header.get("questions")
    if isinstance(questions, int) and len(lines) > questions:
        raise UserError(f"{path}: got {len(lines)} lines for {questions} questions; {mend}")
    seen = set()
    for place, line in enumerate(lines):
        at = f"{path}:{place + 2}"
        if line.get("number", place) != place:
            raise UserError(f"{at}: got the line of question {line['number']}, wanted {place}; {mend}")
        name = json.dumps([line.get("category"), line.get("id")])
        if name in seen and "number" not in line:
            raise UserError(f"{at}: question {line.get('id')!r} stands above as well; {mend}")
        seen.add(name)


def resume(file: FileIO, path: Path, header: dict, suites: Iterable[str]) -> int:
    """Make a file ready to take a line more; return how many it has. Raises UserError if of another run."""
    first = encoded({"header": header})
    content = path.read_bytes()
    if first.startswith(content):  # nothing, or killed before the header was whole
        file.truncate(0)
        append(file, first)
        return 0
    before, lines = read_results(path, content, suites)
    for name, value in json.loads(first)["header"].items():
        if before.get(name) != value:
            got = f"{path}: {name}: got {value!r:.80}, the file was made with {before.get(name)!r:.80}"
            raise UserError(f"{got}; go on with that, or choose another --output")
    file.truncate(content.rfind(b"\n") + 1)
    return len(lines)


def in_order(numbered: Iterator[tuple[int, dict]], bar: tqdm) -> Iterator[dict]:
    """The lines in the order of their numbers 0, 1, 2, ..., each as soon as those before it are there."""
    waiting, following = {}, 0
    for i, line in numbered:
        bar.update()
        waiting[i] = line
        while following in waiting:
            yield waiting.pop(following)
            following += 1


@contextmanager
def file_faults(path: Path, mend: str) -> Iterator[None]:
    """Raise what the system says about a file as a UserError. mend: what a user can do."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {mend}") from None

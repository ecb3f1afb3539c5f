"""Records of all sources -> one training file and one held-out file without repetitions and test questions.

    counts = unify([Path("verified.jsonl")], Path("made"), read_evaluation([Path("bfcl")]))

Every row ends in train.jsonl, in heldout.jsonl, or in unify.refused.jsonl under the first of these reasons:

    query of an evaluation set      a user turn is a question of BFCL, GSM8K, MATH or StableToolBench
    function of an evaluation set   it offers or calls one of BFCL's executable sets (--evaluation-names)
    between train and held-out      it calls held-out functions and others, or speaks of one
    same as another row             tools and trajectory are equal
    same query and calls            of one question the same calls (or code) were made before

Held out are functions, not rows: a hash of the seed and the name picks them, those of one ToolBench tool all
together, and no row of train.jsonl offers or calls one. A row whose calls all go to held-out functions is
held out, whatever else it offers. One that calls others, or none, loses those on offer that are held out; it
is set aside where it calls both kinds or a text of it names one. Rows without functions (maths) go by a hash
of their query.

Rows stay on disk: a pass reads and checks them and keeps some digests of each (about 0.5 kB), a second one
copies lines. Order and choice among equal rows come from hashes of the seed and each line: neither the
order of the input nor the machine matters.
"""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from cli import UserError, write_whole
from data import read_line

TRAIN, HELD_OUT, ASIDE = "train", "heldout", "unify.refused"  # names of files
NAMES = ("executable", "all", "none")  # of BFCL's functions, those whose names set a row aside
SHORTEST = 16  # letters of a query that is worth comparing: `Yes, please.` is everybody's


# ---- what makes rows equal or alike ----


def plain(text: str) -> str:
    """A query for comparison: without case, white space, quotes and Unicode's variants of one character."""
    return re.sub(r"[\s\"'`‘’“”]+", "", unicodedata.normalize("NFKC", text).casefold())


@lru_cache(1 << 16)
def function_key(name: str) -> str:
    """A function's name for comparison: `math.hypot`, `Math hypot` and `math_hypot` are one."""
    return re.sub(r"\W+", "_", name).strip("_").casefold() or name


def digest(*parts: object) -> bytes:
    """16 bytes, equal for equal JSON values whatever the order of their keys."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()[:16]


def queries_of(record: dict) -> list[str]:
    return [plain(turn["content"]) for turn in record["trajectory"] if turn["role"] == "user"]


def function_keys(record: dict) -> tuple[set[str], set[str]]:
    """The functions that a record offers, and those it calls."""
    offered = {function_key(tool["name"]) for tool in record.get("tools", ())}
    calls = (call for turn in record["trajectory"] for call in turn.get("calls", ()))
    return offered, {function_key(call["name"]) for call in calls}


def dataset_of(record: dict, default: str) -> str:
    source = record.get("source")
    return str(source.get("dataset", default)) if isinstance(source, dict) else default


# ---- the evaluation sets ----


class Evaluation(NamedTuple):
    """Queries and function names of test sets, each in the form for comparison."""

    queries: set[str]
    executable: set[str]  # names of BFCL's executable sets
    other: set[str]  # names of its other sets


def read_evaluation(paths: list[Path]) -> Evaluation:
    """The questions of files and folders (.json and .jsonl in it) in their published forms.

    Raises UserError for a file that is no JSON, and where a path holds no question at all: a check against
    nothing would look like a clean result.
    """
    found = Evaluation(set(), set(), set())
    for path in paths:
        count = 0
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file == path or file.suffix in (".json", ".jsonl") and file.is_file():
                count += sum(add_question(found, row, file) for row in evaluation_rows(file))
        if not count:
            wanted = "wanted files of BFCL, GSM8K, MATH or StableToolBench as published"
            raise UserError(f"--evaluation {path}: holds no question; {wanted}")
    return found


def evaluation_rows(path: Path) -> Iterator[Any]:
    """The rows of a JSON array, or of JSON Lines (as BFCL's .json files are)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--evaluation {path}: cannot be read ({error}); name files or folders") from None
    try:
        try:
            whole = json.loads(text)
            yield from whole if isinstance(whole, list) else [whole]
        except json.JSONDecodeError:
            yield from [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise UserError(f"--evaluation {path}: not JSON ({error}); use the files as published") from None


def add_question(found: Evaluation, row: Any, file: Path) -> bool:
    """Add what a row asks; False if it is no question (answers and schemas lie beside them)."""
    if not isinstance(row, dict):
        return False
    question = row.get("question")
    if isinstance(question, list):  # BFCL: turns of messages
        messages = [m for turn in question if isinstance(turn, list) for m in turn if isinstance(m, dict)]
        texts = [m.get("content") for m in messages if m.get("role") == "user"]
    elif isinstance(question, str) and "answer" in row:  # GSM8K
        texts = [question]
    elif "problem" in row and "solution" in row:  # MATH
        texts = [row["problem"]]
    else:  # StableToolBench, where each query has its list of APIs
        texts = [row.get("query")] if "api_list" in row else []
    queries = {plain(text) for text in texts if isinstance(text, str)}
    found.queries.update(query for query in queries if len(query) >= SHORTEST)
    if isinstance(question, list) and isinstance(row.get("function"), list):
        functions = [function for function in row["function"] if isinstance(function, dict)]
        executable = re.search(r"exec|rest\b", file.stem)
        names = {function_key(str(function.get("name"))) for function in functions}
        (found.executable if executable else found.other).update(names)
    return bool(queries)


# ---- where a row goes ----


def share_of(*parts: object) -> float:
    """A number within [0, 1) that depends on the parts alone."""
    return int.from_bytes(digest(*parts)[:8], "big") / 2**64


@lru_cache(1 << 16)
def is_held_out(name: str, seed: int, share: float) -> bool:
    """Whether a function is held out."""
    # ToolBench's `search_for_films`: the part behind is the tool, whose functions are offered together
    return share_of(seed, name.rpartition("_for_")[2]) < share


def held_out(names: set[str], seed: int, share: float) -> set[str]:
    return {name for name in names if is_held_out(name, seed, share)}


def place(record: dict, evaluation: Evaluation, seed: int, share: float, names: str) -> str:
    """TRAIN, HELD_OUT, or the reason why the row is neither's. See the rules at the top of this file."""
    offered, called = function_keys(record)
    if not evaluation.queries.isdisjoint(queries_of(record)):
        return "query of an evaluation set"
    forbidden = {"executable": [evaluation.executable], "all": evaluation[1:], "none": []}[names]
    if any(not taken.isdisjoint(offered | called) for taken in forbidden):
        return "function of an evaluation set"
    if not offered | called:
        return HELD_OUT if share_of(seed, queries_of(record)[0]) < share else TRAIN
    held = held_out(offered | called, seed, share)
    if held and (called or offered) <= held:
        return HELD_OUT
    off = [tool["name"] for tool in record.get("tools", ()) if function_key(tool["name"]) in held]
    texts = "\n".join(turn.get("content", "") for turn in record["trajectory"])
    return "between train and held-out" if called & held or any(n in texts for n in off) else TRAIN


def without_held_out(record: dict, seed: int, share: float) -> dict:
    """The record without the functions on offer that are held out."""
    held = held_out(function_keys(record)[0], seed, share)
    return record | {"tools": [t for t in record["tools"] if function_key(t["name"]) not in held]}


# ---- files ----


class Entry(NamedTuple):
    """A row of an input; entries sort by `order`."""

    order: bytes  # digest of the seed and the line
    file: int  # which input
    start: int  # bytes before the line
    dataset: str
    verdict: str
    same: bytes  # digest of all but the source
    alike: bytes  # digest of queries and calls
    named: bool  # offers or calls a function that has the name of one of BFCL's
    held: bool  # offers or calls a held-out function


def read_entries(
    paths: list[Path], evaluation: Evaluation, seed: int, share: float, names: str, hide: bool | None
) -> Iterator[Entry]:
    """One entry per row. Raises UserError: file, line, field."""
    datasets: dict[str, str] = {}  # one string object for each name
    total = sum(path.stat().st_size for path in paths if path.is_file())
    with tqdm(total=total, desc="unify: reading", unit="B", unit_scale=True, disable=hide) as bar:
        for number, path in enumerate(paths):
            for count, (start, line) in enumerate(lines_of(path), 1):
                bar.update(len(line))
                if not line.strip():
                    continue
                record = read_line(line, f"{path}:{count}")
                turns = [turn for turn in record["trajectory"] if turn["role"] == "executor"]
                actions = [turn.get("calls", turn.get("content")) for turn in turns]
                dataset = dataset_of(record, path.name)
                offered, called = function_keys(record)
                yield Entry(
                    digest(seed, line.strip().decode("utf-8-sig")),
                    number,
                    start,
                    datasets.setdefault(dataset, dataset),
                    place(record, evaluation, seed, share, names),
                    digest({key: value for key, value in record.items() if key != "source"}),
                    digest(queries_of(record), actions),
                    any(not known.isdisjoint(offered | called) for known in evaluation[1:]),
                    bool(held_out(offered | called, seed, share)),
                )


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, each with the number of bytes before it."""
    start = 0
    try:
        with open(path, "rb") as file:
            for line in file:
                yield start, line
                start += len(line)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); wanted a JSON Lines file") from None


def unify(
    paths: list[Path],
    folder: Path,
    evaluation: Evaluation,
    seed: int = 0,
    share: float = 0.02,
    names: str = "executable",
    hide: bool | None = None,
) -> Counter[tuple[str, str]]:
    """Write train.jsonl, heldout.jsonl and unify.refused.jsonl; count rows by (dataset, what became of them).

    share, within [0, 1], is of function names, and of rows without functions. What is counted is "rows in",
    TRAIN, HELD_OUT, "refused: REASON", and "kept: ..." for remarks on the other rows. Raises UserError.
    """
    entries = sorted(read_entries(paths, evaluation, seed, share, names, hide))
    if not entries:
        raise UserError(f"{paths[0]}: is empty; wanted records, one JSON object per line")
    chosen: dict[str, list[tuple[Entry, str]]] = {TRAIN: [], HELD_OUT: [], ASIDE: []}
    counts: Counter[tuple[str, str]] = Counter()
    seen: set[bytes] = set()
    for entry in entries:
        verdict = entry.verdict
        if verdict in (TRAIN, HELD_OUT):
            again = {entry.same: "same as another row", entry.alike: "same query and calls"}
            verdict = next((reason for key, reason in again.items() if key in seen), verdict)
            seen.update(again)
        target = verdict if verdict in chosen else ASIDE
        chosen[target].append((entry, verdict))
        counts[entry.dataset, "rows in"] += 1
        counts[entry.dataset, verdict if target != ASIDE else f"refused: {verdict}"] += 1
        if entry.named and target != ASIDE:
            counts[entry.dataset, "kept: rows with a function named as one of BFCL's"] += 1
        if entry.held and target == TRAIN:
            counts[entry.dataset, "kept: rows without the held-out functions that they offered"] += 1
    for target, rows in chosen.items():
        copy_lines(
            folder / f"{target}.jsonl", paths, rows, partial(without_held_out, seed=seed, share=share), hide
        )
    return counts


def copy_lines(
    target: Path,
    paths: list[Path],
    rows: list[tuple[Entry, str]],
    trim: Callable[[dict], dict],
    hide: bool | None,
) -> None:
    """Write the rows' lines, through `trim` in train.jsonl; of those set aside the reason and the source."""

    def write(temporary: Path) -> None:
        with ExitStack() as stack, open(temporary, "wb") as out:
            inputs = [stack.enter_context(open(path, "rb")) for path in paths]
            for entry, verdict in tqdm(rows, desc=target.name, unit=" rows", disable=hide):
                inputs[entry.file].seek(entry.start)
                line = inputs[entry.file].readline().strip().removeprefix(b"\xef\xbb\xbf")
                if target.stem == ASIDE:
                    line = encoded(
                        {"stage": "unify", "reason": verdict, "source": json.loads(line).get("source")}
                    )
                elif verdict == TRAIN and entry.held:
                    line = encoded(trim(json.loads(line)))
                out.write(line + b"\n")

    write_whole(target, write)


def encoded(value: dict) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()

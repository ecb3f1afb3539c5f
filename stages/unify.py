"""The stage unify (paper, 3.3): records of all sources -> one file to train on and one that is held out.

    tally = unify([Path("verified.jsonl")], Path("made"), read_evaluation([Path("bfcl")]))

The paper unifies its data into one JSON format, which records have from `convert` on (data.py). It tells
nothing of repetitions, of test questions among the data, or of held-out rows: what follows are our decisions.

Every row ends in train.jsonl, in heldout.jsonl, or in unify.refused.jsonl under the first of these reasons:

    query of an evaluation set      a user turn is a question of BFCL, GSM8K, MATH or StableToolBench
    function of an evaluation set   it offers or calls one of BFCL's executable sets (--evaluation-names)
    between train and held-out      it calls held-out functions and others, or speaks of one
    same as another row             tools and trajectory are equal
    same query and calls            of one question the same calls (or code) were made before
    not in the sample               as many rows for train.jsonl as --sample says are taken already

Held out are functions, not rows: a hash of the seed and the name picks them, those of one ToolBench tool all
together, and no row of train.jsonl offers or calls one. A row whose calls all go to held-out functions is
held out, whatever else it offers. One that calls others, or none, loses those on offer that are held out; it
is set aside where it calls both kinds or a text of it names one. Rows without functions (maths) go by a hash
of their query.

Rows stay on disk: a pass reads and checks them and keeps some digests of each (about 0.5 kB), a second one
copies lines. Order and choice among equal rows come from hashes of the seed and each line: neither the
order of the input nor the machine matters. A smaller sample is a part of a larger one (Table 7: 1K of 90K).
"""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from cli import UserError, open_file, write_whole
from data import read_line
from sources.rows import read_rows
from stages.process import HELD_OUT, TRAIN, Tally

ASIDE = "unify.refused"  # as TRAIN and HELD_OUT, the name of a file
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
    """The user turns of a record, in the form for comparison."""
    return [plain(turn["content"]) for turn in record["trajectory"] if turn["role"] == "user"]


def function_keys(record: dict) -> tuple[set[str], set[str]]:
    """The functions that a record offers, and those it calls."""
    offered = {function_key(tool["name"]) for tool in record.get("tools", ())}
    calls = (call for turn in record["trajectory"] for call in turn.get("calls", ()))
    return offered, {function_key(call["name"]) for call in calls}


def dataset_of(record: dict, default: str) -> str:
    """The data set that a record says it is from."""
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

    Raises UserError for a file that cannot be read, and where a path holds no question at all: a check
    against nothing would look like a clean result.
    """
    found = Evaluation(set(), set(), set())
    for path in paths:
        questions = 0
        for file in files_in(path):
            for row in read_rows(file):
                if isinstance(row, dict):
                    questions += add_question(found, row, file.stem)
        if not questions:
            wanted = "wanted files of BFCL, GSM8K, MATH or StableToolBench as published"
            raise UserError(f"--evaluation {path}: holds no question; {wanted}")
    return found


def files_in(path: Path) -> list[Path]:
    """The file, or the JSON files of a folder."""
    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return [file for file in files if file.suffix in (".json", ".jsonl")]


def add_question(found: Evaluation, row: dict, file: str) -> bool:
    """Add what a row asks; False if it is no question (answers and schemas lie beside them)."""
    queries = {plain(text) for text in questions_of(row) if isinstance(text, str)}
    found.queries.update(query for query in queries if len(query) >= SHORTEST)
    if isinstance(row.get("question"), list) and isinstance(row.get("function"), list):  # BFCL
        functions = [function for function in row["function"] if isinstance(function, dict)]
        names = {function_key(str(function.get("name"))) for function in functions}
        if re.search(r"exec|rest\b", file):
            found.executable.update(names)
        else:
            found.other.update(names)
    return bool(queries)


def questions_of(row: dict) -> list[Any]:
    """What a row of a test set asks, in each set's own form."""
    question = row.get("question")
    if isinstance(question, list):  # BFCL: turns of messages
        turns = [turn for turn in question if isinstance(turn, list)]
        messages = [message for turn in turns for message in turn if isinstance(message, dict)]
        return [message.get("content") for message in messages if message.get("role") == "user"]
    if isinstance(question, str) and "answer" in row:  # GSM8K
        return [question]
    if "problem" in row and "solution" in row:  # MATH
        return [row["problem"]]
    if "api_list" in row:  # StableToolBench: each query has its list of APIs
        return [row.get("query")]
    return []


# ---- where a row goes ----


class Rules(NamedTuple):
    """What decides where a row goes."""

    evaluation: Evaluation
    seed: int
    share: float  # of function names, and of rows without functions, that are held out
    names: str  # one of NAMES
    sample: int  # the most rows of train.jsonl, 0: all
    per_source: bool  # of each data set


def share_of(*parts: object) -> float:
    """A number within [0, 1) that depends on the parts alone."""
    return int.from_bytes(digest(*parts)[:8], "big") / 2**64


@lru_cache(1 << 16)
def is_held_out(name: str, seed: int, share: float) -> bool:
    """Whether a function is held out."""
    # ToolBench's `search_for_films`: the part behind is the tool, whose functions are offered together
    return share_of(seed, name.rpartition("_for_")[2]) < share


def held_out(names: set[str], seed: int, share: float) -> set[str]:
    """Those of the functions that are held out."""
    return {name for name in names if is_held_out(name, seed, share)}


def place(record: dict, rules: Rules) -> str:
    """TRAIN, HELD_OUT, or the reason why the row is neither's. See the rules at the top of this file."""
    offered, called = function_keys(record)
    if not rules.evaluation.queries.isdisjoint(queries_of(record)):
        return "query of an evaluation set"
    if not forbidden(rules).isdisjoint(offered | called):
        return "function of an evaluation set"
    if not offered and not called:
        query = queries_of(record)[0]
        return HELD_OUT if share_of(rules.seed, query) < rules.share else TRAIN
    held = held_out(offered | called, rules.seed, rules.share)
    deciding = called or offered
    if deciding <= held:
        return HELD_OUT
    if called & held or speaks_of(record, held):
        return "between train and held-out"
    return TRAIN


def forbidden(rules: Rules) -> set[str]:
    """The functions of BFCL that no row may offer or call."""
    if rules.names == "all":
        return rules.evaluation.executable | rules.evaluation.other
    return rules.evaluation.executable if rules.names == "executable" else set()


def speaks_of(record: dict, functions: set[str]) -> bool:
    """Whether a text of the record names one of these functions that it offers."""
    names = [tool["name"] for tool in record.get("tools", ()) if function_key(tool["name"]) in functions]
    texts = "\n".join(turn.get("content", "") for turn in record["trajectory"])
    return any(name in texts for name in names)


def without_held_out(record: dict, rules: Rules) -> dict:
    """The record without the functions on offer that are held out."""
    held = held_out(function_keys(record)[0], rules.seed, rules.share)
    return record | {"tools": [tool for tool in record["tools"] if function_key(tool["name"]) not in held]}


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


def read_entries(paths: list[Path], rules: Rules, hide: bool | None) -> Iterator[Entry]:
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
                dataset = dataset_of(record, path.name)
                order = digest(rules.seed, line.strip().decode("utf-8-sig"))
                yield entry_of(record, rules, order, number, start, datasets.setdefault(dataset, dataset))


def entry_of(record: dict, rules: Rules, order: bytes, file: int, start: int, dataset: str) -> Entry:
    """What is kept in memory of a row."""
    executors = [turn for turn in record["trajectory"] if turn["role"] == "executor"]
    actions = [turn.get("calls", turn.get("content")) for turn in executors]
    offered, called = function_keys(record)
    functions, known = offered | called, rules.evaluation
    return Entry(
        order=order,
        file=file,
        start=start,
        dataset=dataset,
        verdict=place(record, rules),
        same=digest({key: value for key, value in record.items() if key != "source"}),
        alike=digest(queries_of(record), actions),
        named=not (known.executable.isdisjoint(functions) and known.other.isdisjoint(functions)),
        held=bool(held_out(functions, rules.seed, rules.share)),
    )


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, each with the number of bytes before it."""
    start = 0
    try:
        with open_file(path) as file:
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
    sample: int = 0,
    per_source: bool = False,
    hide: bool | None = None,
) -> Tally:
    """Write train.jsonl, heldout.jsonl and unify.refused.jsonl; count what became of the rows.

    share, within [0, 1], is of function names, and of rows without functions. sample: the most rows of
    train.jsonl, or per_source of each data set; 0: all. What is counted is "rows in", TRAIN, HELD_OUT,
    "refused: REASON", and "kept: ..." for remarks on the other rows. Raises UserError.
    """
    rules = Rules(evaluation, seed, share, names, sample, per_source)
    entries = sorted(read_entries(paths, rules, hide))
    if not entries:
        raise UserError(f"{paths[0]}: is empty; wanted records, one JSON object per line")
    tally = Tally("unify")
    rows: dict[str, list[tuple[Entry, str]]] = {TRAIN: [], HELD_OUT: [], ASIDE: []}
    seen: set[bytes] = set()
    taken: Counter = Counter()  # rows of train.jsonl, by data set or in all
    for entry in entries:
        verdict = sampled(verdict_of(entry, seen), entry, taken, rules)
        rows[verdict if verdict in rows else ASIDE].append((entry, verdict))
        tally.counts.update((entry.dataset, what) for what in remarks(entry, verdict))
    for target, chosen in rows.items():
        copy_lines(folder / f"{target}.jsonl", paths, chosen, rules, hide)
    return tally


def verdict_of(entry: Entry, seen: set[bytes]) -> str:
    """The entry's verdict, but for repetitions of what is kept; `seen`, the digests of that, grows."""
    if entry.verdict not in (TRAIN, HELD_OUT):
        return entry.verdict
    verdict = entry.verdict
    if entry.same in seen:
        verdict = "same as another row"
    elif entry.alike in seen:
        verdict = "same query and calls"
    seen.update((entry.same, entry.alike))
    return verdict


def sampled(verdict: str, entry: Entry, taken: Counter, rules: Rules) -> str:
    """The verdict, but for rows of train.jsonl beyond the sample; `taken` counts those within."""
    if verdict != TRAIN or not rules.sample:
        return verdict
    source = entry.dataset if rules.per_source else ""
    taken[source] += 1
    return TRAIN if taken[source] <= rules.sample else "not in the sample"


def remarks(entry: Entry, verdict: str) -> Iterator[str]:
    """What a row counts as in the report."""
    yield "rows in"
    if verdict not in (TRAIN, HELD_OUT):
        yield f"refused: {verdict}"
        return
    yield verdict
    if entry.named:
        yield "kept: rows with a function named as one of BFCL's"
    if entry.held and verdict == TRAIN:
        yield "kept: rows without the held-out functions that they offered"


def copy_lines(
    target: Path, paths: list[Path], rows: list[tuple[Entry, str]], rules: Rules, hide: bool | None
) -> None:
    """Write the rows' lines to a file of their own."""

    def write(temporary: Path) -> None:
        with ExitStack() as stack, open(temporary, "wb") as out:
            inputs = [stack.enter_context(open(path, "rb")) for path in paths]
            for entry, verdict in tqdm(rows, desc=target.name, unit=" rows", disable=hide):
                inputs[entry.file].seek(entry.start)
                line = inputs[entry.file].readline().strip().removeprefix(b"\xef\xbb\xbf")
                out.write(line_for(line, entry, verdict, rules) + b"\n")

    write_whole(target, write)


def line_for(line: bytes, entry: Entry, verdict: str, rules: Rules) -> bytes:
    """The line as it stands in the output: trimmed for train.jsonl; of a row set aside, reason and source."""
    if verdict == TRAIN and entry.held:
        return encoded(without_held_out(json.loads(line), rules))
    if verdict in (TRAIN, HELD_OUT):
        return line
    return encoded({"stage": "unify", "reason": verdict, "source": json.loads(line).get("source")})


def encoded(value: dict) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()

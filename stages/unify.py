"""The stage unify (paper, 3.3): records of all sources -> one file to train on and one that is held out.

    tally = unify([Path("verified.jsonl")], Path("made"), read_evaluation([Path("bfcl")]))

The paper unifies its data into one JSON format, which records have from `convert` on (data.py). It tells
nothing of repetitions, of test questions among the data, or of held-out rows: what follows are our decisions.

Every row ends in train.jsonl, in heldout.jsonl, or in unify.refused.jsonl under the first of these reasons:

    query of an evaluation set      a user turn holds a question of BFCL, GSM8K, MATH or StableToolBench
    function of an evaluation set   it offers or calls one of BFCL's executable sets (--evaluation-names)
    between train and held-out      it calls held-out functions and others, or speaks of one
    same as another row             tools and trajectory are equal
    same query and calls            all up to the last call (or code), but thoughts, was there before; without
                                    a call the queries and the functions on offer
    not in the sample               as many rows for train.jsonl as --sample says are taken already

leaks.py says what counts as a test question or a test set's function. Near misses among the rows that stay
are listed, with their score, in unify.near.jsonl.

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
from stages.leaks import LEAK, Functions, Questions, is_worth, words
from stages.process import HELD_OUT, TRAIN, Tally

ASIDE, NEAR = "unify.refused", "unify.near"  # as TRAIN and HELD_OUT, names of files
NAMES = ("executable", "all", "none")  # of BFCL's functions, those whose names set a row aside


# ---- what makes rows equal or alike ----


def plain(text: str) -> str:
    """A query for comparison: without case, white space, quotes, Unicode's variants and what nobody sees."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\s\"'`‘’“”\u00ad\u200b-\u200f\u2060\ufeff]+", "", text)


@lru_cache(1 << 16)
def function_key(name: str) -> str:
    """A function's name for comparison: `math.hypot`, `Math hypot` and `math_hypot` are one."""
    return re.sub(r"\W+", "_", name).strip("_").casefold() or name


def digest(*parts: object) -> bytes:
    """16 bytes, equal for equal JSON values whatever the order of their keys."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()[:16]


def queries_of(record: dict) -> list[str]:
    """The user turns of a record."""
    return [turn["content"] for turn in record["trajectory"] if turn["role"] == "user"]


def course_of(record: dict) -> list[Any]:
    """What a record asks, sees and does up to its last call or code, and the queries behind it.

    Thoughts are left out; where nothing is done the functions on offer stand in place of it, as they decide.
    """
    turns = record["trajectory"]
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "executor"), default=None)
    if last is None:
        offered = sorted(digest(tool) for tool in record.get("tools", ()))
        return [*map(plain, queries_of(record)), *(found.hex() for found in offered)]
    course = []
    for i, turn in enumerate(turns):
        if turn["role"] == "user":
            course.append(plain(turn["content"]))
        elif i <= last and turn["role"] != "reasoner":
            course.append([turn["role"], turn.get("calls", turn.get("content"))])
    return course


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
    """Queries of test sets, and function names in the form for comparison."""

    queries: set[str]
    executable: set[str]  # names of BFCL's executable sets
    other: set[str]  # names of its other sets
    functions: Functions = Functions()  # of all of them, to be found by the last part and the parameters


def read_evaluation(paths: list[Path]) -> Evaluation:
    """The questions of files and folders (.json and .jsonl in it) in their published forms.

    Raises UserError for a file that cannot be read, and where a path holds no question at all: a check
    against nothing would look like a clean result.
    """
    found = Evaluation(set(), set(), set(), Functions())
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
    queries = {text for text in questions_of(row) if isinstance(text, str)}
    found.queries.update(query for query in queries if is_worth(words(query)))
    functions = row.get("function")
    if isinstance(functions, dict):  # BFCL's first version
        functions = [functions]
    if "question" in row and isinstance(functions, list):  # BFCL
        names = found.executable if re.search(r"exec|rest\b", file) else found.other
        for function in functions:
            if isinstance(function, dict):
                key = function_key(str(function.get("name")))
                names.add(key)
                found.functions.add(key, function)
    return bool(queries)


def questions_of(row: dict) -> list[Any]:
    """What a row of a test set asks, in each set's own form."""
    question = row.get("question")
    if isinstance(question, list):  # BFCL: turns of messages
        turns = [turn for turn in question if isinstance(turn, list)]
        messages = [message for turn in turns for message in turn if isinstance(message, dict)]
        return [message.get("content") for message in messages if message.get("role") == "user"]
    if isinstance(question, str) and ("answer" in row or "function" in row):  # GSM8K, BFCL's first version
        return [question]
    if "problem" in row and ("solution" in row or "answer" in row):  # MATH, MATH-500
        return [row["problem"]]
    if "api_list" in row:  # StableToolBench: each query has its list of APIs
        return [row.get("query")]
    return []


# ---- where a row goes ----


class Rules(NamedTuple):
    """What decides where a row goes."""

    evaluation: Evaluation
    questions: Questions  # those of the evaluation
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


def place(record: dict, rules: Rules, score: float, tested: set[str]) -> str:
    """TRAIN, HELD_OUT, or the reason why the row is neither's. See the rules at the top of this file.

    score: how near it is to a test question. tested: its functions, and those of test sets that they are.
    """
    offered, called = function_keys(record)
    if score >= LEAK:
        return "query of an evaluation set"
    if not forbidden(rules).isdisjoint(tested):
        return "function of an evaluation set"
    if not offered and not called:
        query = " ".join(words(queries_of(record)[0]))  # so that a full stop does not change the side
        return HELD_OUT if share_of(rules.seed, query) < rules.share else TRAIN
    held = held_out(offered | called, rules.seed, rules.share)
    deciding = called or offered
    if deciding <= held:
        return HELD_OUT
    if called & held or speaks_of(record, held):
        return "between train and held-out"
    return TRAIN


def nearest_question(record: dict, questions: Questions) -> tuple[float, str]:
    """How near the queries of a record come to a test question, and to which."""
    best = (0.0, "")
    for query in queries_of(record):
        found = questions.nearest(query)
        if found[0] > best[0]:
            best = found
    return best


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
    alike: bytes  # digest of what it asks, sees and does up to the last call
    named: bool  # offers or calls a function that has the name of one of BFCL's
    held: bool  # offers or calls a held-out function
    near: tuple[float, str]  # share of a test question that it asks, and the question


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
    offered, called = function_keys(record)
    functions, known = offered | called, rules.evaluation
    tested = functions.union(*map(known.functions.alike, record.get("tools", ())))
    near = nearest_question(record, rules.questions)
    return Entry(
        order=order,
        file=file,
        start=start,
        dataset=dataset,
        verdict=place(record, rules, near[0], tested),
        same=digest({key: value for key, value in record.items() if key != "source"}),
        alike=digest(course_of(record)),
        named=not (known.executable.isdisjoint(tested) and known.other.isdisjoint(tested)),
        held=bool(held_out(functions, rules.seed, rules.share)),
        near=near,
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
    """Write train.jsonl, heldout.jsonl, unify.refused.jsonl, unify.near.jsonl; count what became of the rows.

    share, within [0, 1], is of function names, and of rows without functions. sample: the most rows of
    train.jsonl, or per_source of each data set; 0: all. What is counted is "rows in", TRAIN, HELD_OUT,
    "refused: REASON", and "kept: ..." for remarks on the other rows. Raises UserError.
    """
    rules = Rules(evaluation, Questions(evaluation.queries), seed, share, names, sample, per_source)
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
    near = [row for kept in (rows[TRAIN], rows[HELD_OUT]) for row in kept if row[0].near[0]]
    rows[NEAR] = [(entry, NEAR) for entry, _ in sorted(near, key=lambda row: (-row[0].near[0], row[0]))]
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
    if entry.near[0]:
        yield "kept: rows near a question of an evaluation set"
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
    """The line as it stands in the output: trimmed for train.jsonl; of others what is to be told of them."""
    if verdict == TRAIN and entry.held:
        return encoded(without_held_out(read_line(line, "a line of the input"), rules))
    if verdict in (TRAIN, HELD_OUT):
        return line
    record, (score, question) = read_line(line, "a line of the input"), entry.near
    told = {"score": round(score, 3), "question": question}
    if verdict == NEAR:
        return encoded(told | {"queries": queries_of(record), "source": record.get("source")})
    told = told if score else {}
    return encoded({"stage": "unify", "reason": verdict} | told | {"source": record.get("source")})


def encoded(value: dict) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()

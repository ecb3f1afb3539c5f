"""Rows through a stage: each ends in an output or, with its reason, in OUT.refused.jsonl.

    tally = process("judge", read_items(path), step, output, total, workers=16)
    print(table([tally]))

A step takes a row and says what becomes of it; each stage's file has its own. Steps may run in threads, their
results are written in the order of the rows, and files appear when they are whole.
"""

import json
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from tqdm import tqdm

import cli
import data
from formats.calls import LIST, TEXT, check_value, object_of
from sources.rows import Refused
from stages.edits import source_of
from tools.endpoint import Endpoint, Unanswered

TEXTS = LIST | {"items": TEXT}
SOURCE = {  # of a record, as far as the stages read it
    "type": "object",
    "additionalProperties": True,
    "properties": {
        "dataset": TEXT,
        "file": TEXT,
        "index": {"type": "integer"},
        "missing": TEXTS,
        "completed": TEXTS,
        "recovered": TEXTS,
        "scores": object_of({"steps": {"type": "object"}}) | {"additionalProperties": True},
    },
}
Item = tuple[dict, Any]  # which row it is (dataset, file, index), and the row
Results = list[tuple[str, dict]]  # what a row becomes: names of files, and lines for them
Attempt = tuple[Item, Results, Refused | Unanswered | None]  # the last: why a row is set aside
WAITING = "waiting for review"
TRAIN, HELD_OUT = "train", "heldout"  # where unify puts rows, and its files

# ---- what became of rows ----


@dataclass
class Tally:
    """What a stage did with its rows: counts by (dataset, what), and the first row of each reason."""

    stage: str
    counts: Counter = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    again: int = 0  # rows without an answer that may get one

    def total(self, what: str) -> int:
        return sum(number for (_, name), number in self.counts.items() if name == what)

    def add(self, item: Item, results: Results) -> None:
        """Count a row and what it has become."""
        whats = ["rows in"]
        for name, line in results:
            if name == "out":
                whats.append("rows out")
                if self.stage in ("convert", "complete"):
                    whats += remarks(line)
            elif name == "review":
                whats.append(WAITING)
            else:
                whats.append(f"refused: {line['reason']}")
        self.counts.update((item[0]["dataset"], what) for what in whats)

    def refuse(self, item: Item, error: Refused | Unanswered) -> Results:
        """The line for a row that is set aside."""
        where, row = item
        self.first.setdefault(
            f"refused: {error.reason}", f"{where['file']} row {where['index']} {error.detail}"
        )
        self.again += isinstance(error, Unanswered) and error.passing
        line = {"stage": self.stage, "reason": error.reason, "detail": error.detail[:500], "source": where}
        if self.stage != "convert":  # else the row stands in the data set's own file
            line["record"] = row
        return [("refused", line)]


def remarks(record: dict) -> Iterator[str]:
    """Who wrote the texts of a record that is kept (the data, a model, nobody yet), and what it calls."""
    names = {tool["name"] for tool in record.get("tools", ())}
    calls = (call for turn in record["trajectory"] for call in turn.get("calls", ()))
    if any(call["name"] not in names for call in calls):
        yield "kept: rows with a call outside the tool list, for verify"
    source = source_of(record)
    kinds = {"reasoner": "thoughts", "summarizer": "summaries"}
    for i, turn in enumerate(record["trajectory"]):
        path = f"trajectory.{i}.content"
        if turn["role"] not in kinds:
            continue
        if path in source.get("completed", ()):
            yield f"kept: {kinds[turn['role']]} completed"
        elif path in source.get("missing", ()):
            yield f"kept: {kinds[turn['role']]} missing"
        else:
            yield f"kept: {kinds[turn['role']]} of the data"


# ---- rows in, files out ----


def read_items(path: Path, every: int = 1) -> Iterator[Item]:
    """The records of a file, or every n-th. Raises UserError: file, line, field."""
    for number, line in islice(data.numbered_lines(path), 0, None, every):
        record = data.read_line(line, f"{path}:{number}")
        where = {"dataset": path.name, "file": path.name, "index": number - 1}
        record["source"] = where | source_of(record)
        try:
            check_value(record["source"], SOURCE, "source")
        except ValueError as fault:
            raise cli.UserError(f"{path}:{number}: {fault}") from None
        yield {key: record["source"][key] for key in where}, record


def process(
    stage: str,
    items: Iterable[Item],
    step: Callable[[Any], Results],
    output: Path,
    total: int | None = None,
    workers: int = 0,
    check: Callable[[Tally], None] = lambda tally: None,
    **others: Path,
) -> Tally:
    """Map `step` over the rows, in their order; write what it gives to `output`, what is refused beside it.

    others: further files, by the names that `step` gives. workers: threads, 0: none. check: may raise, before
    any file is put in place. Raises UserError for a fault of the rows' file or of an endpoint.
    """
    tally, targets = Tally(stage), {"out": output, "refused": beside(output, "refused")} | others

    def write(temporaries: list[Path]) -> None:
        with ExitStack() as stack:
            files = {}
            for name, path in zip(targets, temporaries, strict=True):
                file = open(path, "w", encoding="utf-8", errors="backslashreplace")  # of half characters
                files[name] = stack.enter_context(file)
            attempts = in_order(partial(attempt, step), items, workers)
            for item, results, error in with_signs(attempts, stage, total):
                if error:
                    results = tally.refuse(item, error)
                tally.add(item, results)
                for name, line in results:
                    files[name].write(json.dumps(line, ensure_ascii=False) + "\n")
        check(tally)

    cli.write_all([*targets.values()], write)
    return tally


def with_signs(rows: Iterable, stage: str, total: int | None, every: float = 30.0) -> Iterator:
    """The rows, with a bar on a terminal; elsewhere with a line on stderr each `every` seconds."""
    if sys.stderr.isatty():
        yield from tqdm(rows, desc=stage, total=total, unit=" rows")
        return
    done, ended, start = 0, Event(), time.monotonic()
    whole = f" of {total:,}" if total else ""

    def tell() -> None:
        while not ended.wait(every):
            seconds = time.monotonic() - start
            print(f"{stage}: {done:,}{whole} rows in {seconds:,.0f} s", file=sys.stderr, flush=True)

    Thread(target=tell, daemon=True).start()
    try:
        for row in rows:
            yield row
            done += 1
    finally:
        ended.set()


def beside(output: Path, kind: str) -> Path:
    """out.jsonl, "refused" -> out.refused.jsonl"""
    return output.with_name(f"{output.stem}.{kind}.jsonl")


def attempt(step: Callable[[Any], Results], item: Item) -> Attempt:
    """What becomes of a row, or why it is set aside."""
    try:
        return item, step(item[1]), None
    except (Refused, Unanswered) as error:
        return item, [], error


# ---- threads ----


def in_order(function: Callable, rows: Iterable, workers: int) -> Iterator:
    """function(row) for each row, in order, from so many threads; few rows are read ahead.

    A fault is raised in its turn, after what is under way has come to an end: it is paid for. Ctrl-C waits
    for nothing, however long a server hangs: the threads are daemons, and what is under way is lost.
    """
    if not workers:
        yield from map(function, rows)
        return
    queue: SimpleQueue = SimpleQueue()
    threads = [Thread(target=work, args=(function, queue), daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    begun: deque[Future] = deque()
    try:
        for row in rows:
            begun.append(Future())
            queue.put((row, begun[-1]))
            if len(begun) == 8 * workers:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    except Exception:
        dismiss(begun, queue, workers)
        for thread in threads:
            thread.join()
        raise
    finally:
        dismiss(begun, queue, workers)


def dismiss(begun: Iterable[Future], queue: SimpleQueue, workers: int) -> None:
    """Let no further row be begun, and the threads end."""
    for future in begun:
        future.cancel()
    for _ in range(workers):
        queue.put(None)


def work(function: Callable, queue: SimpleQueue) -> None:
    """A thread: do what comes in the queue, (row, future) each, until None comes."""
    while task := queue.get():
        row, future = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(row))
            except BaseException as error:
                future.set_exception(error)


# ---- the report ----

FIRST = ("rows in", "rows out", WAITING, TRAIN, HELD_OUT)


def table(tallies: list[Tally]) -> str:
    """What each stage did with the rows of each source, and why; the first row of each reason."""
    datasets = sorted({dataset for tally in tallies for dataset, _ in tally.counts})
    rows, firsts = [["", *datasets, "all"]], []
    for tally in tallies:
        for what in lines_of(tally):
            numbers = [tally.counts[dataset, what] for dataset in datasets]
            cells = [f"{number:,}" for number in (*numbers, sum(numbers))]
            rows.append([f"{tally.stage:<9} {what}", *cells])
            if what in tally.first:
                first = f"{tally.stage:<9} {what}: " + " ".join(tally.first[what].split())
                firsts.append(first[:200] + "\n")
    text = cli.layout(rows)
    if firsts:
        text += "\nthe first row of each reason:\n" + "".join(firsts)
    return cli.printable(text)


def lines_of(tally: Tally) -> list[str]:
    """What the table has a line for: where rows went, refusals, remarks on what is kept, the most first."""
    places = [what for what in FIRST if tally.total(what) or what == "rows in"]
    others = {what for _, what in tally.counts if what not in FIRST}
    return places + sorted(others, key=lambda what: (what.startswith("kept"), -tally.total(what), what))


def finish(tallies: list[Tally], endpoints: list[Endpoint]) -> None:
    """The last lines of a command: what asking cost and what is left to do."""
    for endpoint in endpoints:
        print(f"{endpoint.model}: {endpoint.usage}")
    if waiting := sum(tally.total(WAITING) for tally in tallies):
        print(f"{waiting:,} rows wait for a person: see `review`; then the same command merges the decisions")
    if unanswered := sum(tally.again for tally in tallies):
        print(f"{unanswered:,} rows got no answer: the same command asks these, and only these, again")

"""The data sets of the paper's section 3.3: how their files are read and what their rows become.

    SOURCES["apigen"].read(path)     -> rows, one by one, in the memory of one row
    SOURCES["apigen"].convert(row)   -> the record, which data.check_record has passed; raises Refused

Here is the table of forms; a file for each data set holds its rules, rows.py reads rows, schemas.py types,
and record.py builds records. A record's `source` says which of its parts the row did not have ("missing", as
paths into the record: texts that stand there as "" and are to be completed), what was left behind ("dropped",
counted) and which observations report a fault ("errors").

Decision: a row with several user turns becomes one record with all of them, not several with the earlier
turns as history. Each role's turn is then trained once, and completing and judging go step by step anyway.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import data
from cli import UserError
from sources import maths, toolbench
from sources.apigen import apigen
from sources.glaive import glaive
from sources.rows import Refused, read_rows
from sources.toolace import toolace


@dataclass(frozen=True)
class Source:
    """A data set's form. keys: what its rows have, one set of them at least; rule: row -> record."""

    name: str
    keys: tuple[set[str], ...]
    rule: Callable[[dict], dict]
    reader: Callable[[Path], Iterator[Any]] = read_rows

    def read(self, path: Path) -> Iterator[Any]:
        """Yield the rows of a file. Raises UserError for one that cannot be read or is of another form."""
        rows = self.reader(path)
        head = list(islice(rows, 20))
        if head and not any(map(self.fits, head)):
            got = ", ".join(head[0]) if isinstance(head[0], dict) else type(head[0]).__name__
            wanted = " or ".join(", ".join(sorted(keys)) for keys in self.keys)
            fault = f"rows have {got:.60}, those of {self.name} have {wanted}; check --source"
            raise UserError(f"{path}: {fault}")
        yield from chain(head, rows)

    def fits(self, row: Any) -> bool:
        """Whether a row has the keys of this form."""
        return isinstance(row, dict) and any(keys <= row.keys() for keys in self.keys)

    def convert(self, row: Any, give_ups: str = "refuse") -> dict:
        """The row's record, checked. give_ups: "keep" or "refuse", of ToolBench's runs. Raises Refused."""
        if not isinstance(row, dict):
            raise Refused("not the source's shape", type(row).__name__)
        try:
            record = self.rule(row)
        except RecursionError:
            raise Refused("nested too deeply") from None
        if give_ups == "refuse" and toolbench.gave_up(record):
            raise Refused("gave up")
        record["source"] = {"dataset": self.name, **record["source"]}
        try:
            data.check_record(record, "record")
        except UserError as fault:
            raise Refused("not a valid record", str(fault)) from None
        return record


FORMS = [
    Source("toolbench-trees", ({"answer_generation"},), toolbench.tree, toolbench.read_trees),
    Source("toolbench-conversations", ({"id", "conversations"},), toolbench.conversation),
    Source("toolbench-messages", ({"tools", "instruction", "chains"},), toolbench.messages),
    Source("apigen", ({"query", "answers", "tools"},), apigen),
    Source("toolace", ({"system", "conversations"},), toolace),
    Source("glaive", ({"system", "chat"},), glaive),
    Source("mathcoder", ({"messages"}, {"record"}), maths.mathcoder),
]
SOURCES = {source.name: source for source in FORMS}

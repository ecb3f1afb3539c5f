"""The stage convert (paper, 3.3): rows of a data set's own form become records, by rules alone.

The paper converts ToolBench, where roles are implicit, by rules, and has the other data sets completed by a
model. Ours does by rules what rules can do for all of them, and lists what is missing; sources/ has the
rules.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cli
from sources.catalogue import SOURCES
from stages.process import Item, Results, Tally, process, table


def convert(inputs: list[tuple[str, Path, str]], output: Path, give_ups: str = "refuse") -> Tally:
    """Rows of (source, file, name for it) -> records. Raises UserError, also where no row becomes one.

    give_ups: "keep" or "refuse" ToolBench's runs that gave up.
    """

    def items() -> Iterator[Item]:
        for name, path, file in inputs:
            for index, row in enumerate(SOURCES[name].read(path)):
                where = {"dataset": name, "file": file, "index": index}
                yield where, (where, row)

    def step(row: tuple[dict, Any]) -> Results:
        where, raw = row
        record = SOURCES[where["dataset"]].convert(raw, give_ups)
        return [("out", record | {"source": record["source"] | where})]

    def check(tally: Tally) -> None:
        if not tally.total("rows out"):
            print(table([tally]), end="")
            fault = "no row can be converted, nothing written; check the name of the source"
            raise cli.UserError(f"{inputs[0][1]}: {fault}")

    return process("convert", items(), step, output, check=check)

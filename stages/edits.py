"""What the stages change in a record, and how its `source` says so.

missing     texts that are to be completed, as paths: "trajectory.1.content"
completed   texts that a model has written
corrected   calls that a second model has put in place of a function that is not on offer; likewise code
agreed      calls that differ from a second model's, but have the same results when run
recovered   wrong calls that stay, because an error answered them and a later step mended them
edited      calls or answers that a person has changed
rewritten   completed texts that were written again for changed calls
"""

import re

from sources.record import end_of_query

PATH = re.compile(r"trajectory\.([0-9]{1,6})\.content")  # of a text


def source_of(record: dict) -> dict:
    """Where the record is from, as an object."""
    source = record.get("source", {})
    return source if isinstance(source, dict) else {"dataset": source}


def marked(record: dict, key: str, paths: list[str]) -> dict:
    """The record with these paths under a key of its source; as it is if there are none."""
    if not paths:
        return record
    source = source_of(record)
    return record | {"source": source | {key: list(dict.fromkeys([*source.get(key, []), *paths]))}}


def replaced(record: dict, i: int, action: list[dict] | str) -> dict:
    """The record with other calls or code in step i, and the completed texts emptied that the old one shaped.

    These are the thought before and all up to the next query. They are missing again, for `complete`, and
    their scores, which were given to the old ones, are dropped; source.rewritten lists them.
    """
    turns, source = list(record["trajectory"]), dict(source_of(record))
    turns[i] = {"role": "executor", "calls" if isinstance(action, list) else "content": action}
    end, stale = end_of_query(turns, i), []
    for path in source.get("completed", []):
        j = int(PATH.fullmatch(path)[1])
        if i - 1 <= j < end:
            turns[j] = turns[j] | {"content": ""}
            stale.append(path)
    if not stale:
        return record | {"trajectory": turns}
    source["missing"] = [*source.get("missing", []), *stale]
    source["completed"] = [path for path in source["completed"] if path not in stale]
    if scores := source.get("scores"):
        steps = {path: score for path, score in scores["steps"].items() if path not in stale}
        source["scores"] = scores | {"steps": steps}
    return marked(record | {"trajectory": turns, "source": source}, "rewritten", stale)

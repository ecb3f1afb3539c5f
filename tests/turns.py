"""Rows through their source, and the turns of records in few words."""

import copy

import pytest

from sources.catalogue import SOURCES
from sources.rows import Refused


def converted(source: str, row: object) -> dict:
    """The record of a row."""
    return SOURCES[source].convert(copy.deepcopy(row))


def refused(source: str, row: object) -> str:
    """The reason for which a row is refused."""
    with pytest.raises(Refused) as caught:
        SOURCES[source].convert(copy.deepcopy(row))
    return caught.value.reason


def think(following: str) -> dict:
    return {"role": "reasoner", "content": "", "next": following}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def calling(name: str, **arguments) -> list[dict]:
    return [think("executor"), {"role": "executor", "calls": [{"name": name, "arguments": arguments}]}]


def answered(text: str = "") -> list[dict]:
    return [think("summarizer"), {"role": "summarizer", "content": text}]


def seen(text: str) -> list[dict]:
    return [{"role": "observation", "content": text}]


def missing(*indices: int) -> list[str]:
    return [f"trajectory.{i}.content" for i in indices]

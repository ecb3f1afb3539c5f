"""BFCL's published data where it is at hand, and small questions and calls of our own."""

import functools
from pathlib import Path

import pytest

from evaluation.bfcl_questions import CATEGORIES, Question, read_questions

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT.parent / "shared" / "data" / "bfcl"


@functools.cache
def published() -> dict[str, list[Question]]:
    """The published questions of every category; the test is skipped where they are not at hand."""
    if not PUBLISHED.is_dir():
        pytest.skip(f"no published questions in {PUBLISHED}")
    return {category: read_questions(PUBLISHED, category) for category in CATEGORIES}


def question(category: str, functions: list[dict], answer: list[dict] | None) -> Question:
    return Question(f"{category}_0", category, [{"role": "user", "content": "Do."}], [], functions, answer)


def function(name: str, /, required: tuple = (), **properties) -> dict:
    """As published. A property is the name of its type, or its schema."""
    schemas = {}
    for key, schema in properties.items():
        schemas[key] = {"type": schema} if isinstance(schema, str) else schema
    return {"name": name, "parameters": {"type": "dict", "properties": schemas, "required": [*required]}}


def array(of: str, kind: str = "array") -> dict:
    return {"type": kind, "items": {"type": of}}


def call(name: str, /, **arguments) -> dict:
    return {"name": name, "arguments": arguments}

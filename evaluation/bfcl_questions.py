"""BFCL's files: questions, functions and answers in their published form, checked line by line."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from cli import UserError, parse_object
from data import numbered_lines
from evaluation.bfcl_source import parse_call
from formats import calls as calling
from formats.calls import LIST, TEXT

NON_LIVE = ("simple_python", "simple_java", "simple_javascript", "multiple", "parallel", "parallel_multiple")
LIVE = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
RELEVANCE = ("live_relevance", "irrelevance", "live_irrelevance")
EXEC = ("exec_simple", "exec_multiple", "exec_parallel", "exec_parallel_multiple")
CATEGORIES = (*NON_LIVE, *LIVE, *RELEVANCE, *EXEC, "rest")  # rest can be read and counted; it is never run

# ---- reading ----

PACKAGE = "bfcl-eval"
VERSIONS = ("BFCL_v4", "BFCL_v3")
OLD_NAMES = {"simple_python": "simple", "simple_java": "java", "simple_javascript": "javascript"}
UNUSED = "unused_datasets"  # where the executable sets lie since they were retired


@dataclass
class Question:
    """One question. Ids are not unique in every version, so nothing is keyed by them.

    messages: {"role", "content"}, roles system, user and assistant. functions: as published, for the check.
    tools: the same in the form of formats/calls.py. answer: per call, in AST sets {function: {parameter:
    [acceptable values]}}, in executable ones {"call": its text, "match": how results are compared}, in the
    others None. It may be malformed: see reference_fault.
    """

    id: str
    category: str
    messages: list[dict]
    tools: list[dict]
    functions: list[dict]
    answer: list[dict] | None


def _open(**properties: dict) -> dict:
    """The schema of an object with these keys and perhaps others."""
    return calling.object_of(properties) | {"additionalProperties": True}


MESSAGE = _open(role={"enum": ["system", "user", "assistant"]}, content=TEXT)
FUNCTION = _open(name=TEXT, parameters=calling.SCHEMA)
TURNS = LIST | {"items": LIST | {"items": MESSAGE}}
QUESTION = _open(id=TEXT, question=TURNS, function=LIST | {"items": FUNCTION})
ANSWER = _open(id=TEXT)  # what is wrong with the rest of it concerns its question alone: reference_fault


def read_questions(folder: str | Path, category: str) -> list[Question]:
    """The questions of one category, in the order of the file. Raises UserError: file, line, field.

    folder: laid out as published, BFCL_v4_<category>.json beside possible_answer/, the executable sets in
    unused_datasets/question/ and unused_datasets/possible_answer/; or "bfcl-eval", the installed package's.
    """
    if category not in CATEGORIES:
        raise UserError(f"category {category!r}: unknown, wanted one of {', '.join(CATEGORIES)}")
    path = _find(_package_data() if str(folder) == PACKAGE else Path(folder), category)
    rows = _rows(path, QUESTION)
    questions = [_question(row, where, category) for where, row in rows]
    if category in (*NON_LIVE, *LIVE, *EXEC):
        _, first = rows[0]
        answers = path if "ground_truth" in first else _answers_of(path)
        _add_answers(questions, path, answers)
    return questions


def _package_data() -> Path:
    """The data folder of the installed package, which is not imported: that would load every API client."""
    found = importlib.util.find_spec("bfcl_eval")
    if not found or not found.submodule_search_locations:
        raise UserError(f"{PACKAGE} is not installed; pip install --no-deps {PACKAGE}, or name a folder")
    return Path(found.submodule_search_locations[0]) / "data"


def _find(folder: Path, category: str) -> Path:
    """The file of a category; in older versions it has another name or lies elsewhere."""
    names = []
    for version in VERSIONS:
        names.append(f"{version}_{category}.json")
        if category in OLD_NAMES:
            names.append(f"{version}_{OLD_NAMES[category]}.json")
    for name in names:
        for path in (folder / name, folder / UNUSED / "question" / name):
            if path.is_file():
                return path
    raise UserError(f"{folder}: holds no {names[0]}; wanted the folder of the published data files")


def _answers_of(path: Path) -> Path:
    folder = path.parent.parent if path.parent.name == "question" else path.parent
    return folder / "possible_answer" / path.name


def _rows(path: Path, shape: dict) -> list[tuple[str, dict]]:
    """The lines of a file as objects of that shape, each with its `file:line`."""
    rows, wanted = [], "one JSON object a line, as published"
    for number, line in numbered_lines(path):
        where = f"{path}:{number}"
        row = parse_object(line, where, wanted)
        try:
            calling.check_value(row, shape, "line")
            if shape is QUESTION:
                calling.check_plain(row)
        except ValueError as error:
            raise UserError(f"{where}: {error}; wanted {wanted}") from None
        rows.append((where, row))
    return rows


def _question(row: dict, where: str, category: str) -> Question:
    if len(row["question"]) != 1:
        raise UserError(f"{where}: question: got {len(row['question'])} turns, wanted one")
    functions = {}
    for function in row["function"]:
        functions.setdefault(function["name"], function)  # of two with one name the grader takes the first
    tools = [tool_of(function, language_of(category)) for function in functions.values()]
    try:
        calling.check_tools(tools, "function")
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return Question(row["id"], category, row["question"][0], tools, [*functions.values()], None)


def _add_answers(questions: list[Question], path: Path, answers: Path) -> None:
    """Give each question the answer of its line: the order of lines is what binds the two files."""
    executable = questions[0].category in EXEC
    rows = _rows(answers, ANSWER)
    if len(rows) != len(questions):
        raise UserError(
            f"{answers}: got {len(rows)} answers, wanted one per line of {path}: {len(questions)}"
        )
    ids = {question.id for question in questions}
    for question, (where, row) in zip(questions, rows, strict=True):
        if row["id"] != question.id and row["id"] in ids:  # some ids are merely spelled in another way
            raise UserError(f"{where}: id: got {row['id']!r}, wanted {question.id!r}, as in {path}")
        question.answer = _exec_answer(row) if executable else row.get("ground_truth")


def _exec_answer(row: dict) -> list[dict] | None:
    """The calls, each with how its result is compared; None where one has no such word."""
    texts, matches = row.get("ground_truth"), row.get("execution_result_type")
    if not isinstance(texts, list) or not isinstance(matches, list) or len(matches) < len(texts):
        return None  # one published line has a word too many
    return [{"call": text, "match": match} for text, match in zip(texts, matches, strict=False)]


# ---- references, which may be malformed: the published grader stops at some, and so did files of 2024 ----

TABLES = {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": LIST}}
AST_ANSWER = LIST | {"items": TABLES}
MATCH = {"enum": ["exact_match", "real_time_match", "structural_match"]}
EXEC_ANSWER = LIST | {"items": calling.object_of({"call": TEXT, "match": MATCH})}
OBJECTS = ("dict", "HashMap", "Hashtable")  # types whose acceptable values are {key: [acceptable values]}


def reference_fault(question: Question) -> str | None:
    """Why no call can be held against a question's answer, or None."""
    executable = question.category in EXEC
    try:
        calling.check_plain(question.answer, "ground_truth")
        calling.check_value(question.answer, EXEC_ANSWER if executable else AST_ANSWER, "ground_truth")
        if not question.answer:
            raise ValueError("ground_truth: got no call, wanted one or more")
        for expected in question.answer:
            if executable:
                parse_call(expected["call"])
            else:
                _check_table(expected, question.functions)
    except ValueError as error:
        return f"malformed reference ({error})"
    return None


def _check_table(expected: dict, functions: list[dict]) -> None:
    """One expected call; the acceptable values of objects must be in lists as well. Raises ValueError."""
    if len(expected) != 1:
        raise ValueError(f"ground_truth: got {len(expected)} names in one call, wanted one")
    ((name, table),) = expected.items()
    function = next((function for function in functions if function["name"] == name), {})
    known = function.get("parameters", {}).get("properties", {})
    for parameter, options in table.items():
        schema = known.get(parameter, {})
        if schema.get("type") not in OBJECTS:
            options = [item for option in options if isinstance(option, list) for item in option]
            schema = schema.get("items", {})
        if schema.get("type") not in OBJECTS:
            continue
        for option in options:
            for key, values in option.items() if isinstance(option, dict) else ():
                if not isinstance(values, list | str):  # of a text the grader takes the letters
                    raise ValueError(f"{name}.{parameter}.{key}: got {values!r:.40}, wanted a list")


# ---- questions for the agent ----

LANGUAGES = {"java": "Java", "javascript": "JavaScript"}
STANDARD = {"dict": "object", "float": "number", "tuple": "array"}  # `any` becomes no type at all


def language_of(category: str) -> str:
    """python, java or javascript."""
    language = category.removeprefix("simple_")
    return language if language in LANGUAGES else "python"


def tool_of(function: dict, language: str) -> dict:
    """A published function as an OpenAI-style schema; Java and JavaScript values are texts of source code."""
    parameters = standard(function["parameters"])
    if language != "python":
        published = function["parameters"].get("properties", {}).items()
        parameters["properties"] = {name: source_parameter(schema, language) for name, schema in published}
    name, description = function["name"], function.get("description", "")
    return {"name": name, "description": description, "parameters": parameters}


def standard(schema: dict) -> dict:
    """A schema in the words of JSON Schema; `optional` is dropped, as `required` says it."""
    out = {}
    for key, value in schema.items():
        if key == "optional" or (key == "type" and value == "any"):
            continue
        if key == "type":
            value = STANDARD.get(str(value), value)
        elif key == "properties":
            value = {name: standard(inner) for name, inner in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            value = standard(value)
        out[key] = value
    return out


def source_parameter(schema: dict, language: str) -> dict:
    """A parameter as text, whose description says in words what source text it takes."""
    note = f"{LANGUAGES[language]} source text of type {source_type(schema)}"
    if schema.get("type") == "String":
        note += ", without quotes"
    return {"type": "string", "description": f"{schema.get('description', '')} ({note})".strip()}


def source_type(schema: dict) -> str:
    """A type in words: `ArrayList of integer`, `dict with url: String`."""
    kind = schema.get("type", "any")
    if "items" in schema:
        return f"{kind} of {source_type(schema['items'])}"
    if "properties" in schema:
        fields = [f"{name}: {source_type(inner)}" for name, inner in schema["properties"].items()]
        return f"{kind} with {', '.join(fields)}"
    return kind

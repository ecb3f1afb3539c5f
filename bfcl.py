"""The Berkeley Function-Calling Leaderboard, all of it that needs no model: files, checks, columns, results.

    questions = read_questions(FOLDER, "live_multiple")   # or "bfcl-eval": the data of the installed package
    valid, reason = check(questions[0], [{"name": "f", "arguments": {"a": 1}}])
    columns({"live_multiple": [valid, ...], ...})["Live AST"]

Three ways to be right, by category:

    simple, multiple, parallel ...   the calls agree with tables of acceptable values (the "AST" check)
    exec_...                         the calls, run, give the results that the reference calls give
    relevance, irrelevance           there is a call, there is none; which one does not matter

The check follows the published grader to its oddities, each named where it is. A prediction that could not be
read as calls is None: right for irrelevance alone. Not run here: REST, and questions that ask a web service.
"""

import importlib.util
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import calls as calling
from bfcl_functions import FUNCTIONS, WEB, parse_call, run, source_value
from calls import LIST, TEXT
from cli import UserError, write_whole
from data import numbered_lines

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
    tools: the same as calls.py wants them. answer: per call, in AST sets {function: {parameter: [acceptable
    values]}}, in executable ones {"call": its text, "match": how results are compared}; elsewhere None.
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
QUESTION = _open(
    id=TEXT, question=LIST | {"items": LIST | {"items": MESSAGE}}, function=LIST | {"items": FUNCTION}
)
TABLES = {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": LIST}}
AST_ANSWER = _open(id=TEXT, ground_truth=LIST | {"items": TABLES})
MATCHES = LIST | {"items": {"enum": ["exact_match", "real_time_match", "structural_match"]}}
EXEC_ANSWER = _open(id=TEXT, ground_truth=LIST | {"items": TEXT}, execution_result_type=MATCHES)


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
        _add_answers(questions, path, path if "ground_truth" in rows[0][1] else _answers_of(path))
    return questions


def _package_data() -> Path:
    """The data folder of the installed package, which is not imported: that would load every API client."""
    found = importlib.util.find_spec("bfcl_eval")
    if not found or not found.submodule_search_locations:
        raise UserError(f"{PACKAGE} is not installed; pip install --no-deps {PACKAGE}, or name a folder")
    return Path(found.submodule_search_locations[0]) / "data"


def _find(folder: Path, category: str) -> Path:
    names = [f"{v}_{name}.json" for v in VERSIONS for name in (category, OLD_NAMES.get(category)) if name]
    for path in (place / name for name in names for place in (folder, folder / UNUSED / "question")):
        if path.is_file():
            return path
    raise UserError(f"{folder}: holds no {names[0]}; wanted the folder of the published data files")


def _answers_of(path: Path) -> Path:
    folder = path.parent.parent if path.parent.name == "question" else path.parent
    return folder / "possible_answer" / path.name


def _rows(path: Path, shape: dict) -> list[tuple[str, dict]]:
    """The lines of a file as objects of that shape, each with its `file:line`."""
    rows = []
    for number, line in numbered_lines(path):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
            calling.check_value(row, shape, "line")
            calling.check_plain(row)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: {error}; wanted one JSON object a line, as published") from None
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
    rows = _rows(answers, EXEC_ANSWER if executable else AST_ANSWER)
    if len(rows) != len(questions):
        raise UserError(
            f"{answers}: got {len(rows)} answers, wanted one per line of {path}: {len(questions)}"
        )
    ids = {question.id for question in questions}
    for question, (where, row) in zip(questions, rows, strict=True):
        if row["id"] != question.id and row["id"] in ids:  # some ids are merely spelled in another way
            raise UserError(f"{where}: id: got {row['id']!r}, wanted {question.id!r}, as in {path}")
        try:
            question.answer = _exec_answer(row) if executable else _ast_answer(row)
        except ValueError as error:
            raise UserError(f"{where}: ground_truth: {error}") from None


def _ast_answer(row: dict) -> list[dict]:
    if not row["ground_truth"] or any(len(expected) != 1 for expected in row["ground_truth"]):
        raise ValueError("got a call with no name or two, wanted {name: {parameter: [values]}} per call")
    return row["ground_truth"]


def _exec_answer(row: dict) -> list[dict]:
    texts, matches = row["ground_truth"], row["execution_result_type"]
    if not texts or len(matches) < len(texts):  # one published line has a type too many
        raise ValueError(f"got {len(texts)} calls and {len(matches)} result types, wanted one for each")
    for text in texts:
        parse_call(text)
    return [{"call": text, "match": match} for text, match in zip(texts, matches, strict=False)]


# ---- questions for the agent ----

LANGUAGES = {"java": "Java", "javascript": "JavaScript"}
STANDARD = {"dict": "object", "float": "number", "tuple": "array"}  # `any` becomes no type at all


def language_of(category: str) -> str:
    return category.removeprefix("simple_") if category in ("simple_java", "simple_javascript") else "python"


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
        if key == "type":
            out |= {} if value == "any" else {key: STANDARD.get(str(value), value)}
        elif key == "properties":
            out[key] = {name: standard(inner) for name, inner in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            out[key] = standard(value)
        elif key != "optional":
            out[key] = value
    return out


def source_parameter(schema: dict, language: str) -> dict:
    note = f"{LANGUAGES[language]} source text of type {source_type(schema)}"
    note += ", without quotes" if schema.get("type") == "String" else ""
    return {"type": "string", "description": f"{schema.get('description', '')} ({note})".strip()}


def source_type(schema: dict) -> str:
    kind = schema.get("type", "any")
    if "items" in schema:
        return f"{kind} of {source_type(schema['items'])}"
    if "properties" in schema:
        return f"{kind} with {', '.join(f'{n}: {source_type(s)}' for n, s in schema['properties'].items())}"
    return kind


def record(question: Question) -> dict:
    """The question as an unfinished record of data.py, which ends where the reasoner's turn begins.

    System messages become the record's system text. Of a longer dialogue (live_irrelevance), what the
    assistant said becomes a summarizer turn, behind a reasoner turn without a thought that names it. Messages
    of one side in a row are joined; where the user should have spoken and did not, an empty turn stands.
    """
    trajectory, system = [], []
    for message in [*question.messages, {"role": "user", "content": ""}]:
        role, content = message["role"], message["content"]
        last = trajectory[-1]["role"] if trajectory else None
        if role == "system":
            system.append(content)
        elif last == ("user" if role == "user" else "summarizer"):
            trajectory[-1]["content"] += f"\n\n{content}" if content else ""
        elif role == "user":
            trajectory.append({"role": "user", "content": content})
        else:
            trajectory += [] if last else [{"role": "user", "content": ""}]
            trajectory.append({"role": "reasoner", "content": "", "next": "summarizer"})
            trajectory.append({"role": "summarizer", "content": content})
    source = {"dataset": "bfcl", "category": question.category, "id": question.id}
    made = {"tools": question.tools, "domain": "bfcl", "trajectory": trajectory, "source": source}
    return made | ({"system": "\n\n".join(system)} if system else {}) | {"exit_status": "question"}


# ---- checks ----


def check(question: Question, calls: list[dict] | None) -> tuple[bool | None, str]:
    """Hold calls {"name", "arguments"} against a question -> (valid, what is wrong).

    calls: None where what the model wrote could not be read. valid: None where the question is not run.
    """
    count = len(calls or ())
    if question.category in RELEVANCE:
        valid = (count == 0) == ("irrelevance" in question.category)
        return valid, "" if valid else f"got {count} calls, wanted {'none' if count else 'one or more'}"
    if reason := not_run(question):
        return None, reason
    if calls is None:
        return False, "no call could be read"
    return check_exec(question, calls) if question.category in EXEC else check_ast(question, calls)


def match(wanted: list, calls: list[dict], fault: Callable[[Any, dict], str | None]) -> tuple[bool, str]:
    """As many calls as wanted, in any order. fault(expected, call): why a call is not the expected one.

    Greedy: each expected one takes the first free call without a fault, for good. So a matching can be
    missed: {1 or 2}, {1} against the calls 1, 2 fails, as the first takes 1.
    """
    if len(calls) != len(wanted):
        return False, f"got {len(calls)} calls, wanted {len(wanted)}"
    free = list(calls)
    for expected in wanted:
        faults = [fault(expected, call) for call in free]
        if None not in faults:
            return False, "; ".join(faults) + (f", for {expected!r:.80}" if len(wanted) > 1 else "")
        free.pop(faults.index(None))
    return True, ""


# ---- the AST check ----

TYPES = {
    "python": {"string": str, "integer": int, "float": float, "boolean": bool, "dict": dict, "any": str}
    | {"array": list, "tuple": list},
    "java": dict.fromkeys(("byte", "short", "integer", "long"), int)
    | dict.fromkeys(("float", "double"), float)
    | {"boolean": bool, "Array": list, "ArrayList": list, "Queue": list, "Stack": list}
    | {"HashMap": dict, "Hashtable": dict, "Set": set, "char": str, "String": str, "any": str},
    "javascript": {"String": str, "integer": int, "float": float, "Bigint": int, "Boolean": bool, "any": str}
    | {"array": list, "dict": dict},
}
TYPED_INSIDE = ("array", "tuple", "Array", "ArrayList")  # whose elements are checked


def check_ast(question: Question, calls: list[dict]) -> tuple[bool, str]:
    """One call in simple and multiple sets, several in any order in parallel ones."""
    category, language = question.category, language_of(question.category)
    wanted = question.answer if "parallel" in category else question.answer[:1]

    def fault(expected: dict, call: dict) -> str | None:
        ((name, table),) = expected.items()
        named = [function for function in question.functions if function["name"] == name]
        functions = named if "multiple" in category or "parallel" in category else question.functions
        return call_fault(call, functions[0], table, language) if functions else f"{name} is not on offer"

    return match(wanted, calls, fault)


def call_fault(call: dict, function: dict, table: dict, language: str) -> str | None:
    """Why a call does not fit a function's schema and the table {parameter: [acceptable values]}."""
    arguments, schema = call["arguments"], function["parameters"]
    # 1. The names are equal, character by character, dots included.
    if call["name"] != function["name"]:
        return f"got function {call['name']!r:.60}, wanted {function['name']!r}"
    # 2. Required parameters are there.
    for name in schema.get("required", []):
        if name not in arguments:
            return f"{name}: missing"
    for name, value in arguments.items():
        # 3. No parameter that the schema or the table lacks, be its value the right default.
        if name not in schema.get("properties", {}) or name not in table:
            return f"{name}: not expected"
        # 4. Each value is acceptable.
        if fault := value_fault(value, schema["properties"][name], table[name], language):
            return f"{name}: {fault}"
    # 5. "" among the acceptable values says that a parameter may be left out.
    for name, options in table.items():
        if name not in arguments and "" not in options:
            return f"{name}: left out, but not optional"
    return None


def value_fault(value: Any, schema: dict, options: list, language: str) -> str | None:
    """Why a value is none of the acceptable ones for a parameter of that schema."""
    got, kind = repr(value)[:60], str(schema.get("type", "any"))
    inner = schema.get("items", {}).get("type") if kind in TYPED_INSIDE else None
    if language != "python":
        if type(value) is not str:
            return f"got {got}, wanted source text"
        value = source_value(value, kind, inner, language)
    # The relaxations: a tuple may stand for a list, and at the top level an int for a float.
    elif kind == "tuple" and type(value) is tuple:
        value = list(value)
    elif kind == "float" and type(value) is int:
        value = float(value) if abs(value) < 2**1000 else value
    wanted, element = TYPES[language].get(kind), TYPES[language].get(inner)
    fits, variable = type_fits(value, options, wanted, element)
    if not fits:
        return f"got {got}, wanted {kind}{f' of {inner}' if inner else ''}"
    if acceptable(value, options, None if variable else wanted, element):
        return None
    return f"got {got}, wanted one of {options!r:.80}"


def type_fits(value: Any, options: list, wanted: type | None, element: type | None) -> tuple[bool, bool]:
    """-> (whether the type is right, whether the answer is of another type than declared).

    Types are identical, not subclasses: True is no int, 1 is no float. If the answer is of another type than
    declared, the grader believes that a variable's name is wanted, and takes values of that type too. So
    `any`, which stands for text, takes the type of the answer; and None is right where it comes first.
    """
    variable = bool(type_of(options)) and type_of(options) is not wanted
    if type(value) is not wanted:
        return type(value) is type_of(options), True
    # Elements are checked one level deep, against the declared type or that of an acceptable list's first
    # element. An option that is no list, such as "", asks nothing of them.
    return not element or any(elements_fit(value, option, element) for option in options), variable


def elements_fit(value: list, option: Any, element: type) -> bool:
    return type(option) is not list or all(type(item) in (element, type_of(option)) for item in value)


def type_of(options: list) -> type | None:
    """The type of the first option that is not "", which only says that the parameter is optional."""
    return next((type(option) for option in options if option != ""), None)


def acceptable(value: Any, options: list, wanted: type | None, element: type | None) -> bool:
    """Whether a value of the right type equals an option. wanted None: by plain equality."""
    if wanted is dict:
        return any(dict_fits(value, option) for option in options)
    if wanted is list and element is dict:
        return any(dicts_fit(value, option) for option in options)
    if wanted is str:
        return plain(value) in [plain(option) for option in options if type(option) is str]
    if wanted is list:  # "" is here an empty list, which may be given
        lists = [[*map(plain, option)] for option in options if isinstance(option, list | str)]
        return [*map(plain, value)] in lists
    return value in options


def plain(value: Any) -> Any:
    """Text without spaces and , . / - _ * ^, in lower case, with double quotes; else the value itself."""
    return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"') if type(value) is str else value


def dict_fits(value: dict, option: Any) -> bool:
    """An option is {key: [acceptable values]}. One level of text is made plain; below, 1 equals 1.0."""
    if type(option) is not dict or type(value) is not dict or not value.keys() <= option.keys():
        return False
    right = all(plain(inner) in [plain(o) for o in option[key]] for key, inner in value.items())
    return right and all("" in options for key, options in option.items() if key not in value)


def dicts_fit(value: list, option: Any) -> bool:
    same = isinstance(option, list | str) and len(value) == len(option)
    return same and all(dict_fits(*pair) for pair in zip(value, option, strict=True))


# ---- the executable check ----


def not_run(question: Question) -> str | None:
    """Why a question cannot be run here; None for all but REST and those whose answer calls a web service."""
    names = ["requests.get"] if question.category == "rest" else []
    if question.category in EXEC:
        names = [parse_call(expected["call"])[0] for expected in question.answer]
    missing = sorted({name for name in names if name not in FUNCTIONS})
    if not missing:
        return None
    web = "asks a web service" if WEB.issuperset(missing) else "is not among the functions here"
    return f"not run: {', '.join(missing)} {web}"


def check_exec(question: Question, calls: list[dict]) -> tuple[bool | None, str]:
    """Run the reference calls, then the given ones, which may be others with the same results."""
    try:
        expected = [(run(*parse_call(answer["call"])), answer["match"]) for answer in question.answer]
    except Exception as error:
        return None, f"not run: the reference fails ({error})"

    def fault(expected: tuple[Any, str], call: dict) -> str | None:
        try:
            result = run(call["name"], [], call["arguments"])
        except Exception as error:  # whatever a model's call runs into, it is wrong
            return f"{call['name']} fails: {type(error).__name__}: {error}"
        return None if agrees(result, *expected) else f"got result {result!r:.60}, wanted {expected[0]!r:.60}"

    return match(expected, calls, fault)


def agrees(result: Any, expected: Any, how: str) -> bool:
    if how == "exact_match":
        return result == expected
    if how == "real_time_match":  # within 5 %
        numbers = type(result) in (int, float) and type(expected) in (int, float)
        return numbers and abs(result - expected) <= 0.05 * abs(expected)
    if type(result) is not type(expected):
        return False
    if type(result) is dict:
        return result.keys() == expected.keys()
    return type(result) is not list or len(result) == len(expected)


# ---- columns ----


class Column(NamedTuple):
    """An accuracy from 0 to 1, of n questions, and its 95 % interval."""

    accuracy: float
    n: int
    low: float
    high: float


def columns(verdicts: dict[str, list[bool | None]]) -> dict[str, Column | None]:
    """The leaderboard's columns from the verdicts of each category; None where one that it needs was not run.

    Questions whose verdict is None were not run, and count nowhere. REST cannot be run here: without it the
    simple half of "Non-live Exec" is exec_simple alone, where the leaderboard takes the mean of both.
    """
    for category in set(verdicts) - set(CATEGORIES):
        raise ValueError(f"category {category!r}: unknown, wanted one of {', '.join(CATEGORIES)}")

    def over(*categories: str) -> Column | None:
        judged = [[v for v in verdicts.get(category, ()) if v is not None] for category in categories]
        return wilson(sum(map(sum, judged)), sum(map(len, judged))) if all(judged) else None

    simple = mean([over("simple_python"), over("simple_java"), over("simple_javascript")])
    exec_simple = mean([over("exec_simple"), over("rest")]) if over("rest") else over("exec_simple")
    table = {
        "Non-live AST": mean([simple, over("multiple"), over("parallel"), over("parallel_multiple")]),
        "Non-live Exec": mean([exec_simple, *map(over, EXEC[1:])]),
        "Live AST": over(*LIVE),  # weighted by number of questions, so all of them together
        "Relevance": over("live_relevance"),
        "Irrelevance": mean([over("irrelevance"), over("live_irrelevance")]),
    }
    return table | {"Average": mean([*table.values()][:4])}  # the paper's, of the columns that it reports


Z = 1.959964  # two-sided 95 %


def wilson(right: int, n: int) -> Column:
    """The share `right` of n > 0 with Wilson's interval, sound for few questions and near 0 and 1."""
    p, scale = right / n, 1 + Z**2 / n
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    middle = p + Z**2 / (2 * n)
    return Column(p, n, max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale))


def mean(parts: list[Column | None]) -> Column | None:
    """The unweighted mean; None if a part is None.

    Parts are independent, so the squares of the distances from accuracy to interval's end add up as variances
    do, each side by itself. (The variance p(1 - p)/n would be 0 for a small category that is all right.)
    """
    if None in parts:
        return None
    k, accuracy = len(parts), sum(part.accuracy for part in parts) / len(parts)
    below = math.sqrt(sum((part.accuracy - part.low) ** 2 for part in parts)) / k
    above = math.sqrt(sum((part.high - part.accuracy) ** 2 for part in parts)) / k
    return Column(accuracy, sum(part.n for part in parts), accuracy - below, accuracy + above)


# ---- results, as the official harness scores them ----


def write_results(
    folder: Path, model: str, questions: list[Question], predictions: list[list[dict] | None]
) -> Path:
    """Write folder/model/BFCL_v4_<category>_result.json for the questions of one category; return its path.

    `folder` is the harness's result folder, in which it finds files at any depth below a model's name; it has
    to know the model, as one that is prompted. What was no call, or not readable as one, is written [].
    """
    path = Path(folder) / model.replace("/", "_") / f"{VERSIONS[0]}_{questions[0].category}_result.json"
    pairs = zip(questions, predictions, strict=True)
    lines = [json.dumps({"id": q.id, "result": result_text(q, calls or [])}) + "\n" for q, calls in pairs]
    write_whole(path, lambda temporary: temporary.write_text("".join(lines), encoding="utf-8"))
    return path


def result_text(question: Question, calls: list[dict]) -> str:
    """Calls as `[f(a=1), g.h(b='x')]`; in Java and JavaScript sets with source text for values."""
    language = language_of(question.category)
    schemas = {f["name"]: f["parameters"].get("properties", {}) for f in question.functions}
    written = []
    for call in calls:
        kinds = schemas.get(call["name"], {})
        items = [(n, v, kinds.get(n, {}).get("type", "any")) for n, v in call["arguments"].items()]
        values = [f"{n}={repr(v) if language == 'python' else source_text(v, kind)}" for n, v, kind in items]
        written.append(f"{call['name']}({', '.join(values)})")
    return f"[{', '.join(written)}]"


def source_text(value: Any, kind: str) -> str:
    """Source text as it is; but a String, and several words, get the quotes that decoding removes."""
    if type(value) is not str:
        return json.dumps(value)
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    words = kind == "String" or kind == "any" and not re.search(r"[(\[{\"']", value) and " " in value
    return f'"{value}"' if words and not quoted else value

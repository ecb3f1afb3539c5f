"""BFCL's own command against serve.py: started without the vendors' SDKs, and its result files checked.

    python -m benchmarks.bfcl_launch sample --limit 20                       which questions, if not all
    python -m benchmarks.bfcl_launch generate --model openbmb/MiniCPM-SALA-FC --run-ids --num-threads 16
    python -m benchmarks.bfcl_launch check                                   are there answers at all?
    python -m benchmarks.bfcl_launch evaluate --model openbmb/MiniCPM-SALA-FC --partial-eval

All but `sample` and `check` is a command of bfcl-eval, which gets the flags as they are. It runs in a virtual
environment of its own, which needs no package of this project; docs/bfcl_harness.md has every step.

bfcl-eval imports the SDK of every vendor, whichever model is asked. Mocks stand in for those that are not
installed. A question that raises gets an error text as its answer, and an error text calls no function: with
no server behind it, the harness gives 100 % for irrelevance. `check` looks for such texts.
"""

import importlib.util
import json
import os
import sys
import urllib.error
import urllib.request
from argparse import Namespace
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

from cli import (
    ArgumentParser,
    UserError,
    layout,
    number,
    open_file,
    parse_object,
    run,
    write_whole,
)

SDKS = {
    *("anthropic", "boto3", "cohere", "datamodel_code_generator", "google"),
    *("mistralai", "qwen_agent", "writerai"),
}
CATEGORIES = (  # those without the web, memories and formats of prompts
    *("simple_python", "simple_java", "simple_javascript", "multiple", "parallel", "parallel_multiple"),
    *("irrelevance", "live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"),
    *("live_irrelevance", "live_relevance"),
    *("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context"),
)
PREFIX, SUFFIX = "BFCL_v4_", "_result.json"  # of its files: BFCL_v4_multiple_result.json
ERROR_TEXT = "Error during inference"  # how the harness begins the answer of a question that raised
TOO_LONG = "wanted less than the model's"  # in it, where serve.py refused a prompt that does not fit
MEND = "docs/bfcl_harness.md says how to set it up"


# ---- the launcher ----


class StandIns(MetaPathFinder, Loader):
    """Finds a mock for every module of the SDKS. It stands last, so what is installed is found before."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] in SDKS:
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> MagicMock:
        return MagicMock(name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is no code to run."""


def launch(argv: list[str]) -> None:
    """Run a command of bfcl-eval. Raises UserError where it is missing or would ask the wrong server."""
    package_folder()
    if argv[0] == "generate":
        ask_server(os.environ.get("OPENAI_BASE_URL", ""))
    os.environ.setdefault("OPENAI_API_KEY", "EMPTY")  # the SDK's client is made even by `evaluate`
    sys.meta_path.append(StandIns())
    from bfcl_eval.__main__ import cli

    cli(argv)


def package_folder() -> Path:
    """The folder of the installed package, which is not imported. Raises UserError."""
    found = importlib.util.find_spec("bfcl_eval")
    if not found or not found.submodule_search_locations:
        raise UserError(f"bfcl-eval: not installed for {sys.executable}; {MEND}")
    return Path(found.submodule_search_locations[0])


def ask_server(base: str) -> None:
    """Raises UserError unless a server answers for its models at the address that the harness will ask."""
    if not base:  # the SDK would send all questions to OpenAI
        raise UserError(f"OPENAI_BASE_URL: not set; wanted serve.py's, http://127.0.0.1:8000/v1; {MEND}")
    key = os.environ.get("OPENAI_API_KEY", "EMPTY")
    try:
        request = urllib.request.Request(f"{base}/models", headers={"Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
    except (OSError, ValueError) as error:
        raise UserError(f"OPENAI_BASE_URL {base}: no server answers ({error}); start serve.py") from None


def project_root() -> Path:
    """Where bfcl-eval keeps results and reads the ids. Raises UserError: its default is among its sources."""
    folder = os.environ.get("BFCL_PROJECT_ROOT")
    if not folder:
        raise UserError(f"BFCL_PROJECT_ROOT: not set; wanted a folder for the results; {MEND}")
    return Path(folder)


# ---- sample: which questions ----


def sample(args: Namespace) -> None:
    """Write the file of ids for `generate --run-ids`: the questions of `evaluate.py bfcl --limit N`."""
    data, chosen = package_folder() / "data", {}
    for category in args.categories:
        lines = (data / f"{PREFIX}{category}.json").read_text("utf-8").splitlines()
        ids = [json.loads(line)["id"] for line in lines]
        chosen[category] = spread(ids, args.limit)
    path = project_root() / "test_case_ids_to_generate.json"
    text = json.dumps(chosen, indent=1) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    print(f"{sum(map(len, chosen.values()))} ids in {path}")


def spread(ids: list[str], limit: int) -> list[str]:
    """`limit` of the ids, evenly spread; 0: all. As engine.heldout.spread chooses, which needs torch."""
    count = min(limit or len(ids), len(ids))
    return [ids[i * len(ids) // count] for i in range(count)]


# ---- check: are there answers at all ----


def check(args: Namespace) -> None:
    """Print how many answers are error texts. Raises UserError where some are, or where there are none."""
    folder = args.folder or project_root() / "result"
    rows, answers, errors = [["category", "answers", "errors", "prompt too long", "first error"]], 0, 0
    for file in sorted(folder.rglob(f"{PREFIX}*{SUFFIX}")):
        category = file.name.removeprefix(PREFIX).removesuffix(SUFFIX)
        results = results_of(file)
        texts = [text for text in results if is_error(text)]
        too_long = sum(TOO_LONG in text for text in texts)
        first = texts[0].removeprefix(f"{ERROR_TEXT}: ")[:80] if texts else ""
        rows.append([category, str(len(results)), str(len(texts)), str(too_long), first])
        answers += len(results)
        errors += len(texts)
    if not answers:
        raise UserError(f"{folder}: holds no results; wanted the folder that `generate` has written to")
    print(layout(rows), end="")
    if errors:
        mend = "mend the server, or choose a model that the prompts fit; then generate --allow-overwrite"
        told = f"{errors} of {answers} answers are error texts, right by the rules of irrelevance"
        raise UserError(f"{folder}: {told}; {mend}")


def results_of(file: Path) -> list:
    """The answers in a result file. Raises UserError for a line that is no result."""
    wanted = "a result of bfcl-eval on each line"
    with open_file(file) as lines:
        rows = [parse_object(line, f"{file}:{i}", wanted) for i, line in enumerate(lines, 1)]
    for i, row in enumerate(rows, 1):
        if "result" not in row:
            raise UserError(f"{file}:{i}: result: missing; wanted {wanted}")
    return [row["result"] for row in rows]


def is_error(result: object) -> bool:
    """Whether an answer is an error text of the harness. Calls are lists; an answer in words is a text."""
    return isinstance(result, str) and result.startswith(ERROR_TEXT)


# ---- the command ----

OURS = ("sample", "check", "-h", "--help")


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] not in OURS:
        return launch(argv)
    parser = ArgumentParser(prog="python -m benchmarks.bfcl_launch", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    sampling = commands.add_parser("sample", help="write which questions `generate --run-ids` asks")
    add = sampling.add_argument
    add("--limit", type=number(int, 0), default=20, metavar="N", help="of each category; 0: all")
    add("--categories", nargs="+", choices=CATEGORIES, default=CATEGORIES, metavar="NAME", help="which")
    sampling.set_defaults(act=sample)
    checking = commands.add_parser("check", help="look for error texts among the answers")
    about = "results; without it, those below $BFCL_PROJECT_ROOT"
    checking.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help=about)
    checking.set_defaults(act=check)
    args = parser.parse_args(argv)
    args.act(args)


if __name__ == "__main__":
    sys.exit(run(main))

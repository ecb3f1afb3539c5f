"""README and docs tell the truth: code runs, names exist, links lead somewhere, flags are flags."""

import contextlib
import importlib
import io
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from test_layout import IMPORTS, file_of

import data

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "tiny/README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
TEXTS = {page: (ROOT / page).read_text("utf-8") for page in PAGES}
README = TEXTS["README.md"]

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`([^`\n]+)`")
NAME = r"\w+(\.\w+)+(?<!\.json)(?<!\.jsonl)(?<!\.safetensors)"
FILE = r"[\w./-]+(\.py|\.md|/)"
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:\w+\.py|python -m [\w.]+)\b.*")
FLAG = re.compile(r"--[a-z][\w-]*")


def without_blocks(text: str) -> str:
    return FENCED.sub("", text)


def quoted_in(page: str) -> list[str]:
    """What stands in backticks, and the lines of blocks of commands without their comments."""
    blocks = FENCED.findall(TEXTS[page])
    lines = [line for kind, block in blocks if kind == "bash" for line in block.splitlines()]
    return QUOTED.findall(without_blocks(TEXTS[page])) + [line.split("  #")[0] for line in lines]


# ---- blocks ----


def test_python_block_runs():
    (block,) = [block for page in PAGES for kind, block in FENCED.findall(TEXTS[page]) if kind == "python"]
    subprocess.run([sys.executable, "-c", block], cwd=ROOT, check=True)


def test_json_block_is_a_record(tmp_path):
    (block,) = [block for kind, block in FENCED.findall(README) if kind == "json"]
    path = tmp_path / "record.jsonl"
    path.write_text(" ".join(block.split()), encoding="utf-8")
    (record,) = data.read_records(path)
    assert data.render(record, data.load_frame(ROOT / "tiny")).input_ids


# ---- names ----


def is_there(name: str) -> bool:
    """Whether a file of this project and what stands in it exist: engine.loss, engine.loss.token_losses."""
    parts = name.split(".")
    known = [i for i in range(1, len(parts) + 1) if file_of(".".join(parts[:i]))]
    if not known:
        return False
    found = importlib.import_module(".".join(parts[: known[-1]]))
    for part in parts[known[-1] :]:
        found = getattr(found, part, None)
    return found is not None


def test_names_in_the_equation_table_exist():
    rows = [line for line in README.splitlines() if re.match(r"\| (Eqs?\.|Algorithm|Figs?\.)", line)]
    names = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    assert len(names) >= 10
    absent = [name for name in names if not is_there(name)]
    assert not absent


@pytest.mark.parametrize("page", PAGES)
def test_functions_that_a_page_names_exist(page):
    """`engine.fused.MoRFunction`, written as one would import it."""
    names = [text for text in QUOTED.findall(without_blocks(TEXTS[page])) if re.fullmatch(NAME, text)]
    ours = [name for name in names if file_of(name.split(".")[0]) and not (ROOT / name).exists()]
    absent = [name for name in ours if not is_there(name)]
    assert not absent


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    """`engine/fused.py` and `engine/` as seen from the root; `fused.py` in any folder."""
    names = [text for text in QUOTED.findall(without_blocks(TEXTS[page])) if re.fullmatch(FILE, text)]
    places = [ROOT, *ROOT.glob("*/")]
    absent = [name for name in names if not any((place / name).exists() for place in places)]
    assert not absent


def test_tests_that_the_docs_name_exist():
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", TEXTS["docs/tests.md"])
    assert len(named) >= 25
    files = {file: (ROOT / file).read_text("utf-8") for file, _ in named if (ROOT / file).exists()}
    absent = [f"{file}::{name}" for file, name in named if f"def {name}(" not in files.get(file, "")]
    assert not absent


# ---- the table of files ----

ROWS = re.findall(r"^\| `([\w/]+\.py)` \| .* \| (.*) \|$", TEXTS["docs/files.md"], re.MULTILINE)
FILES = {str(file): imports for file, imports in IMPORTS.items() if file.name != "__init__.py"}


def test_the_table_of_files_is_whole():
    named = [file for file, _ in ROWS]
    assert len(named) == len(set(named))
    assert set(FILES) - set(named) == set(), "these lack a row in docs/files.md"
    assert set(named) - set(FILES) == set(), "these are gone"


def test_the_table_of_files_tells_the_imports():
    wrong = []
    for file, told in ROWS:
        imported = [path.with_suffix("") for path in FILES.get(file, ()) if path.name != "__init__.py"]
        wanted = ", ".join(f"`{name}`" for name in sorted(".".join(path.parts) for path in imported))
        if file in FILES and told.strip() != wanted:
            wrong.append(f"docs/files.md, {file}: wanted | {wanted} |")
    assert not wrong, "\n".join(wrong)


# ---- links ----


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead(page: str, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    if not target.exists():
        return True
    return bool(anchor) and anchor not in anchors(target.read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_a_file_and_a_heading(page):
    links = [link for link in LINK.findall(TEXTS[page]) if not re.match(r"\w+:", link)]
    broken = [link for link in links if dead(page, link)]
    assert not broken


def test_each_page_of_the_docs_is_linked_from_the_readme():
    linked = {link.split("#")[0] for link in LINK.findall(README)}
    assert set(PAGES) - {"README.md"} - linked == set()


# ---- flags ----

STAGES = "convert complete judge verify review unify run".split()
SUITES = "bfcl math roles score".split()
BENCHMARKS = "layer train_step memory decode tokenise pipeline serve gpu parts mutants".split()
PROGRAMS = ["train.py", "agent.py", "serve.py", "python -m tiny.sample", "python -m tiny.pretrain"]
PROGRAMS += [f"pipeline.py {name}" for name in STAGES] + [f"evaluate.py {name}" for name in SUITES]
PROGRAMS += [f"python -m benchmarks.{name}" for name in BENCHMARKS]
OTHERS = {"--no-deps", "--nproc-per-node", "--durations"}  # of pip, torchrun, pytest


@cache
def flags_of(program: str) -> frozenset[str]:
    """The flags in the program's --help; it runs in this process, where torch is loaded already."""
    shown, words = io.StringIO(), program.split()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        patch.setattr(sys, "argv", [*words, "--help"] if words[0] != "python" else [words[2], "--help"])
        with pytest.raises(SystemExit) as end:
            if words[0] == "python":
                patch.delitem(sys.modules, words[2], raising=False)  # else runpy warns
                runpy.run_module(words[2], run_name="__main__")
            else:
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    assert end.value.code == 0, program
    return frozenset(FLAG.findall(shown.getvalue()))


def commands_in(page: str) -> list[tuple[str, str]]:
    """(program, flag) for each flag of each command that a page shows."""
    commands = [command for text in quoted_in(page) for command in COMMAND.findall(text)]
    found = []
    for command in commands:
        program = next((program for program in PROGRAMS if command.startswith(program)), None)
        found += [(program or command.split()[0], flag) for flag in FLAG.findall(command)]
    return found


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_the_flags_that_a_page_gives_them(page):
    unknown = [f"{program}: {flag}" for program, flag in commands_in(page) if flag not in flags_of(program)]
    assert not unknown


def test_the_main_commands_are_shown():
    shown = {program for page in PAGES for program, _ in commands_in(page)}
    assert {"train.py", "agent.py", "pipeline.py run", "pipeline.py convert", "evaluate.py bfcl"} <= shown


@pytest.mark.parametrize("page", PAGES)
def test_flags_named_alone_are_flags_of_some_command(page):
    known = OTHERS.union(*map(flags_of, PROGRAMS))
    named = {flag for text in quoted_in(page) for flag in FLAG.findall(text)}
    assert named - known == set()

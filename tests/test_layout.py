"""The order of the house: what stands in which folder, and which way imports run.

A rule that is broken names the file and, where there is one, the import.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each place imports only what stands further left, or a file of its own folder.
ORDER = (
    "cli -> mor -> formats -> model, data -> engine, tools, sources -> train, agent, stages"
    " -> evaluation, pipeline, serve -> evaluate"
)
PLACES = {name: i for i, names in enumerate(ORDER.split(" -> ")) for name in names.split(", ")}
FOLDERS = {"formats", "engine", "tools", "sources", "stages", "evaluation", "evidence", "benchmarks", "tiny"}
MODULES = {"cli", "mor", "model", "data", "train", "agent", "evaluate", "pipeline", "serve"}
LATER: set[str] = set()  # not written yet

CORE = {"mor", "model", "data", "train", "agent", "cli", "formats", "engine", "tools"}
OUTER = {"evaluation", "sources", "stages", "evidence", "benchmarks", "tiny"}
COMMANDS = {"train", "evaluate", "pipeline", "serve"}
WITHOUT_A_MODEL = {"tools": {"cli", "formats", "data"}, "sources": {"cli", "formats", "data"}}


def place_of(file: Path) -> str:
    """engine/loss.py -> engine; mor.py -> mor"""
    return file.parts[0] if len(file.parts) > 1 else file.stem


def python_files() -> list[Path]:
    """All files of the root and of the folders with code, as seen from the root; not the tests."""
    folders = [ROOT, *(ROOT / name for name in sorted(FOLDERS))]
    return [file.relative_to(ROOT) for folder in folders for file in sorted(folder.glob("*.py"))]


def file_of(module: str) -> Path | None:
    """engine.loss -> engine/loss.py, engine -> engine/__init__.py; None for what is not of this project."""
    path = Path(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / file).is_file():
            return file
    return None


def tree_of(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text("utf-8"))


def imports_of(file: Path) -> set[Path]:
    """The files of this project that a file imports, anywhere in it, also inside functions."""
    found = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found.update(file_of(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}, line {node.lineno}: a relative import; write it from the root"
            for alias in node.names:
                found.add(file_of(f"{node.module}.{alias.name}") or file_of(node.module))
    return found - {None}


IMPORTS = {file: imports_of(file) for file in python_files()}
PAIRS = [(file, imported) for file, all_imported in IMPORTS.items() for imported in sorted(all_imported)]


def broken(rule) -> list[str]:
    """The imports for which rule(place of the file, place of what it imports) is false, in words."""
    return [
        f"{file} imports {imported}"
        for file, imported in PAIRS
        if not rule(place_of(file), place_of(imported))
    ]


# ---- files and folders ----


def test_the_root_holds_the_paper_and_its_commands():
    found = {file.stem for file in ROOT.glob("*.py")}
    assert found - MODULES == set(), "put these into a folder"
    assert MODULES - LATER - found == set()


def test_folders_with_code_are_the_known_ones():
    found = {file.parent.name for file in ROOT.glob("*/*.py") if not file.parent.name.startswith(".")}
    assert found - FOLDERS - {"tests"} == set(), "give these a place in this file and in docs/files.md"
    assert FOLDERS - LATER - found == set()


def test_folders_are_not_nested():
    nested = [file for name in FOLDERS | {"tests"} for file in (ROOT / name).glob("*/**/*.py")]
    assert not nested


def docstring_of(file: Path) -> str | None:
    return ast.get_docstring(tree_of(file)) if (ROOT / file).exists() else None


def test_a_folder_says_in_one_line_what_it_holds():
    files = [Path(name, "__init__.py") for name in FOLDERS if name not in LATER or (ROOT / name).exists()]
    silent = [str(file) for file in files if not docstring_of(file)]
    assert not silent, "wanted a docstring"
    long = [str(file) for file in files if len((ROOT / file).read_text("utf-8").splitlines()) > 1]
    assert not long, "wanted the docstring alone"


def test_a_file_opens_with_its_docstring():
    files = [*python_files(), *(file.relative_to(ROOT) for file in (ROOT / "tests").glob("*.py"))]
    assert not [str(file) for file in files if not docstring_of(file)]


# ---- imports ----


def test_imports_are_found_wherever_they_stand():
    """Else the rules below would hold of nothing."""
    assert Path("engine/dataset.py") in IMPORTS[Path("benchmarks/tokenise.py")], "inside a function"
    assert Path("engine/dataset.py") in IMPORTS[Path("train.py")], "from engine import dataset"
    assert Path("engine/loss.py") in IMPORTS[Path("train.py")], "from engine.loss import token_losses"
    assert Path("mor.py") in IMPORTS[Path("train.py")], "import mor"
    assert len(PAIRS) > 100


def test_imports_run_one_way():
    def rule(place: str, imported: str) -> bool:
        if place not in PLACES or place == imported:  # benchmarks, evidence, tiny: nothing imports them
            return True
        return PLACES.get(imported, len(PLACES)) < PLACES[place]

    assert not broken(rule), ORDER


def test_the_core_knows_nothing_of_what_is_built_on_it():
    assert not broken(lambda place, imported: place not in CORE or imported not in OUTER)


def test_no_file_imports_a_command():
    """Benchmarks do: they measure them."""
    assert not broken(lambda place, imported: imported not in COMMANDS or place == "benchmarks")


def test_tools_and_sources_know_no_model():
    def rule(place: str, imported: str) -> bool:
        return place not in WITHOUT_A_MODEL or imported in WITHOUT_A_MODEL[place] | {place}

    assert not broken(rule)


def test_no_circles():
    open_files, done = [], set()

    def visit(file: Path) -> None:
        if file in open_files:
            circle = [*open_files[open_files.index(file) :], file]
            pytest.fail("a circle: " + " imports ".join(map(str, circle)))
        if file not in done:
            open_files.append(file)
            for imported in sorted(IMPORTS[file]):
                visit(imported)
            done.add(open_files.pop())

    for file in IMPORTS:
        visit(file)

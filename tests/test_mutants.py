"""benchmarks/mutants.py: its list fits the code, and a small project of our own with known survivors."""

import subprocess
from pathlib import Path

import pytest

from benchmarks import mutants
from benchmarks.mutants import LIST, ROOT, read_mutants
from cli import run

ENTRY = """\
# a comment

small.py test_small.py::test_twice
- return 2 * x
+ return 3 * x
"""
NO_START = "small.py test_small.py\n- NUMBER = 2\n+ raise ValueError\n"
HARMLESS = """
small.py test_small.py
- return 2 * x
-
+ return x + x
+
"""


@pytest.fixture
def project(tmp_path) -> Path:
    """A checkout with one function and one test."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "small.py").write_text("def twice(x):\n    return 2 * x\n\n\nNUMBER = 2\n")
    test = "from small import twice\n\n\ndef test_twice():\n    assert twice(2) == 4\n"
    (tmp_path / "tests" / "test_small.py").write_text(test)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def outcome(project: Path, text: str, capsys, *flags: str) -> tuple[int, str]:
    """Exit code, and what is printed."""
    path = project / "mutants.txt"
    path.write_text(text)
    try:
        code = run(mutants.main, ["--list", str(path), "--root", str(project), "--jobs", "1", *flags])
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr()
    return code, said.out + said.err


def test_every_text_of_the_list_stands_once_and_every_test_is_there():
    listed = read_mutants(LIST, ROOT)
    assert len(listed) > 100
    files = {path.name: path.read_text("utf-8") for path in (ROOT / "tests").glob("test_*.py")}
    named = {tuple(test.split("::")) for mutant in listed for test in mutant.tests}
    assert [f"{file}::{test}" for file, test in sorted(named) if f"def {test}(" not in files[file]] == []
    assert len({(mutant.file, mutant.before, mutant.after) for mutant in listed}) == len(listed)


def test_a_mutant_is_caught_and_a_harmless_one_survives(project, capsys):
    before = (project / "small.py").read_bytes()
    code, said = outcome(project, f"{ENTRY}{HARMLESS}", capsys)
    assert code == 1 and "1 of 2 mutants caught" in said and "+ return x + x" in said
    code, said = outcome(project, f"{ENTRY}{HARMLESS}= the same sum\n", capsys)
    assert code == 0 and "1 of 1 mutants caught; 1 more survive" in said and "= the same sum" in said
    code, said = outcome(project, f"{ENTRY}{HARMLESS}", capsys, "--only", "3 * x")
    assert code == 0 and "1 of 1 mutants caught; 0 more" in said
    assert (project / "small.py").read_bytes() == before


@pytest.mark.parametrize(
    "old, new, fault",
    [
        ("return 2 * x", "return 4 * x", "stands there 0 times"),
        ("return 2 * x", "2", "stands there 2 times"),
        ("small.py test", "other.py test", "stands there 0 times"),
        (" test_small.py::test_twice", "", "wants tests"),
        ("return 3 * x", "return (3 * x", "becomes no Python"),
        ("::test_twice", "::test_thrice", "without any change"),
    ],
)
def test_faults_of_the_list_are_told_in_one_line(project, capsys, old, new, fault):
    code, said = outcome(project, ENTRY.replace(old, new), capsys)
    assert code == 2 and fault in said and said.count("error: ") >= 1


def test_a_mutant_that_lets_no_test_begin_is_not_caught(project, capsys):
    code, said = outcome(project, NO_START, capsys)
    assert code == 2 and "the tests cannot be run" in said


def test_tests_have_to_pass_without_the_mutant(project, capsys):
    (project / "tests" / "test_small.py").write_text("def test_twice():\n    assert False\n")
    code, said = outcome(project, ENTRY, capsys)
    assert code == 2 and "without any change" in said

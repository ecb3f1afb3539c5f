"""The README tells the truth: its Python runs, the names in its tables exist, its flags are flags."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import data

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TINY = ROOT / "tiny"


def test_python_block_runs():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    subprocess.run([sys.executable, "-c", block], cwd=ROOT, check=True)


def test_json_block_is_a_record(tmp_path):
    (block,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "record.jsonl"
    path.write_text(" ".join(block.split()), encoding="utf-8")
    (record,) = data.read_records(path)
    assert data.render(record, data.load_frame(TINY)).input_ids


def test_names_in_the_equation_table_exist():
    rows = [line for line in README.splitlines() if re.match(r"\| (Eqs?\.|Algorithm|Figs?\.)", line)]
    names = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    assert len(names) >= 10
    for name in names:
        module, *path = name.split(".")
        found = importlib.import_module(module)
        for part in path:
            found = getattr(found, part)


def test_files_in_the_table_exist():
    rows = re.findall(r"^\| `([\w./]+)` \|", README, re.MULTILINE)
    assert len(rows) >= 8
    for name in rows:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("script", ["train", "agent", "pipeline convert", "pipeline run"])
def test_flags_in_the_readme_are_flags(script):
    file, *stage = script.split()
    shown = subprocess.run(
        [sys.executable, f"{file}.py", *stage, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    lines = [line for line in README.splitlines() if f"{file}.py {' '.join(stage)}".strip() in line]
    flags = {
        flag for line in lines for flag in re.findall(r"(--[a-z][\w-]+)", line.split(f"{file}.py", 1)[1])
    }
    assert flags
    for flag in flags:
        assert flag in shown, flag

"""evidence/curves.py on metrics made for the purpose."""

import json
import sys

import numpy as np
import pytest

from cli import UserError
from evidence import curves


def write_metrics(folder, steps: int) -> None:
    folder.mkdir(exist_ok=True)
    lines = []
    for step in range(1, steps + 1):
        line = {
            "step": step,
            "loss": 1.0,
            "ce": step,
            "balance": 2,
            "orthogonal": 3,
            "grad_norm": 1,
            "lr": 0.1,
        }
        for role in curves.ROLES:
            line[f"loss_{role}"] = None if role == "summarizer" and step % 2 else step / 2
            line[f"load_{role}"] = [0.25, 0.75]
        lines.append(json.dumps(line) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines) + json.dumps({"step": steps, "eval": {}}) + "\n")


def test_a_line_is_the_mean_over_a_window(tmp_path):
    write_metrics(tmp_path, 250)
    steps = curves.read_steps(tmp_path)
    numbers, values = curves.smoothed(steps, "ce")  # windows of two
    assert numbers.tolist() == list(range(2, 251, 2)) and values.tolist() == [n - 0.5 for n in numbers]
    numbers, values = curves.smoothed(steps, "loss_summarizer")  # 125 steps have it: windows of one
    assert numbers.tolist() == list(range(2, 251, 2)) and values.tolist() == [n / 2 for n in numbers]
    _, loads = curves.smoothed(steps, "load_executor")
    assert np.array_equal(loads, [[0.25, 0.75]] * 125)


def test_the_command(tmp_path, capsys, monkeypatch):
    write_metrics(tmp_path / "a", 3)
    write_metrics(tmp_path / "b", 5)
    output = tmp_path / "curves.svg"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="matplotlib is not installed"):
        curves.main([str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(output)])
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["run", "step", "ce"]
    assert first.split()[1:3] == ["3", "3.0000"] and second.split()[1:3] == ["5", "5.0000"]


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    write_metrics(tmp_path / "a", 3)
    output = tmp_path / "curves.svg"
    curves.main([str(tmp_path / "a"), "--output", str(output)])
    text = output.read_text()
    assert "reasoner" in text and "cross-entropy" in text


@pytest.mark.parametrize(
    ("text", "fault"), [("", "holds no step"), ("{", "metrics.jsonl:1: not JSON"), ("7", "got 7")]
)
def test_refusals(tmp_path, text, fault):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match=fault):
        curves.read_steps(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        curves.read_steps(tmp_path / "absent")

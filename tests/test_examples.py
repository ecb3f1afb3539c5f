"""examples/figures.jsonl: the paper's Figs. 11 and 12 as records, rendered, read back and played.

The figures' twin is the published text, where it is at hand: all words of a record stand there in order.
"""

import re
from pathlib import Path

import pytest
from test_agent import Script

import agent
import data
import evaluate
from agent import run_episode
from cli import read_object, run
from formats.calls import check_call
from formats.frames import load_frame
from formats.prompts import PROMPTS
from model import Transformer
from tools.mock import Tools
from train import main

ROOT = Path(__file__).parents[1]
FIGURES = data.read_records(ROOT / "examples/figures.jsonl")
PAPER = ROOT.parent / "shared/paper/000_5ed83c72c0ce9940.txt"


def spoken(record: dict, frame) -> list[str]:
    """What the roles write in a record."""
    texts = []
    for turn in record["trajectory"][1:]:
        header = data.render_header(turn["role"], frame).input_ids
        ids = data.render_turn(turn, frame, record["domain"]).input_ids
        texts.append(frame.decode(ids[len(header) : -1]))
    return texts


def test_the_figures_have_no_observation():
    for record in FIGURES:
        assert [turn["role"] for turn in record["trajectory"]] == [
            "user",
            "reasoner",
            "executor",
            "summarizer",
        ]
    calls = FIGURES[0]["trajectory"][2]["calls"]
    assert len(calls) == 2 and [check_call(call, FIGURES[0]["tools"]) for call in calls] == [None, None]


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("record", FIGURES, ids=["figure 11", "figure 12"])
def test_a_figure_is_rendered_read_back_and_played(record, prompts):
    frame = load_frame(ROOT / "tiny", prompts=prompts)
    texts = spoken(record, frame)
    for turn, text in zip(record["trajectory"][1:], texts, strict=True):
        assert data.parse_turn(turn["role"], text, record["domain"]) == turn
    model = Transformer.from_pretrained(ROOT / "tiny")
    played = run_episode(
        model,
        frame,
        Tools(record.get("tools", [])),
        record["trajectory"][0]["content"],
        domain=record["domain"],
        observe=False,
        speak=Script(frame, texts),
    )
    assert played["trajectory"] == record["trajectory"] and played["exit_status"] == "done"


@pytest.mark.parametrize(("prompts", "told"), [("short", "end strictly"), ("paper", "strictly adhere")])
def test_the_figures_are_shown(prompts, told, capsys):
    figures = ROOT / "examples/figures.jsonl"
    assert run(main, ["--data", str(figures), "--show", "2", "--prompts", prompts]) == 0
    shown = capsys.readouterr().out
    assert shown.count("tokens: ") == 2 and told in shown
    ending = {"short": "r* Next: executor<", "paper": "r* Next: executor.<"}[prompts]
    assert shown.count(ending) == {"short": 2, "paper": 1}[prompts]  # Fig. 8 prints no full stop


def test_the_wording_is_saved_with_the_adapter(tmp_path, capsys):
    """What train.py was told; agent.py and evaluate.py refuse another."""
    figures, adapter = str(ROOT / "examples/figures.jsonl"), str(tmp_path / "run")
    small = ["--model", str(ROOT / "tiny"), "--steps", "1", "--grad-accum", "1", "--rank", "2", "--cache", ""]
    assert run(main, ["--data", figures, *small, "--prompts", "paper", "--output", adapter]) == 0
    assert read_object(tmp_path / "run/adapter_config.json", "a config")["prompts"] == "paper"
    capsys.readouterr()
    flags = ["--adapter", adapter, "--prompts", "short"]
    held_out = ["roles", "--data", figures, "--output", str(tmp_path / "roles.jsonl")]
    for program, argv in ((agent.main, ["--query", "?"]), (evaluate.main, held_out)):
        assert run(program, [*argv, *flags]) == 2
        assert "was trained with paper; leave the flag out" in capsys.readouterr().err
    assert run(main, ["--data", figures, *small, "--output", str(tmp_path / "other")]) == 0
    assert read_object(tmp_path / "other/adapter_config.json", "a config")["prompts"] == "short"


def letters(text: str) -> str:
    """Letters and digits alone."""
    return re.sub(r"[^A-Za-z0-9]", "", text)


@pytest.mark.skipif(not PAPER.exists(), reason="needs the paper's text beside the repository")
def test_the_words_of_the_figures_are_the_published_ones():
    """Without formulas, which stand twice in the published text. Ours mends one slip, calc-inomial."""
    figures = re.findall(r"(User Query: .*)\nFigure 1[12]:", PAPER.read_text("utf-8"))
    for record, figure in zip(FIGURES, figures, strict=True):
        published = letters(figure).replace("calcinomial", "calcbinomial")
        for turn in record["trajectory"]:
            for piece in re.split(r"\$[^$]*\$", turn.get("content", "")):
                assert letters(piece) in published, piece

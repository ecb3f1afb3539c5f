"""Every script of benchmarks/ runs and prints its table; what they check before they time catches faults."""

import argparse
import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import data
import model
import pipeline
from benchmarks import common, decode, layer, tokenise, train_step
from benchmarks.pipeline import INVENTED, write_rows
from cli import UserError, run
from engine.fused import fused_layer
from engine.inference import for_inference
from engine.loss import token_losses
from model import Linear, Transformer
from mor import MoRConfig, MoRLinear, RoleRows

ROOT = Path(__file__).resolve().parent.parent
STEP = ("--shape", "mini", "--layers", "1", "--tokens", "300")


def on_one_core() -> None:
    """Then what starts a process per core starts none: each would import torch."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def execute(name: str, *argv: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"benchmarks.{name}", *argv]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options = dict(cwd=ROOT, env=environment, preexec_fn=on_one_core)
    return subprocess.run(command, capture_output=True, text=True, **options)


def report(name: str, *argv: str) -> str:
    """What `python -m benchmarks.NAME` prints."""
    done = execute(name, *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cells(report: str, head: str, row: str) -> list[float]:
    """The numbers of a row of the table that begins with `head`; each must be positive and finite."""
    lines = report.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split("  ")[0] == head)
    line = next(line for line in lines[start + 1 :] if line.split("  ")[0] == row)
    texts = line.removeprefix(row).split()
    numbers = [float(text.replace(",", "").rstrip("%")) for text in texts]
    assert all(number > 0 and math.isfinite(number) for number in numbers), line
    return numbers


def test_layer():
    printed = report("layer", "--features", "64", "96", "--tokens", "100", "--repeats", "2")
    d_in, d_out, *ratios = cells(printed, "layer", "one layer")
    assert (d_in, d_out, len(ratios)) == (64, 96, 6)  # frozen s, lora, masked, plain, mor, floor


def test_train_step():
    printed = report("train_step", *STEP, "--repeats", "1", "--only", "mor", "frozen")
    assert "cross-entropy of mor" in printed
    *_, over_mor, _, _ = cells(printed, "variant", "mor")
    assert over_mor == 1
    frozen = next(line for line in printed.splitlines() if line.startswith("frozen"))
    assert frozen.split()[1] == "0"  # trained parameters


def test_train_step_of_a_checkpoint(capsys):
    """Its weights and its tokenizer, as the cross-entropy shows."""
    argv = ["--model", str(ROOT / "tiny"), "--tokens", "300", "--repeats", "1", "--only", "mor"]
    train_step.main([*argv, "--dtype", "float32"])
    printed = capsys.readouterr().out
    assert "model     tiny, 4 layers, its weights\n" in printed
    base, records = Transformer.from_pretrained(ROOT / "tiny"), data.read_records(ROOT / "bfcl.jsonl")
    frame, chosen = data.load_frame(ROOT / "tiny"), random.Random(0).sample(records, 1)[0]
    loss, by_role = token_losses(base, [data.render(chosen, frame)])
    assert f"cross-entropy of mor {loss / by_role[:, 2].sum():.6f}\n" in printed


def test_steps_by_tokens_and_by_loras(capsys):
    train_step.main([*STEP, "--repeats", "1", "--scaling"])
    printed = capsys.readouterr().out
    rows = printed.splitlines()[-3:]
    assert all(len(cells(printed, "tokens", row.split()[0])) == 5 for row in rows)
    train_step.main([*STEP, "--repeats", "1", "--loras"])
    printed = capsys.readouterr().out
    trained = [cells(printed, "LoRAs", row)[0] for row in ("4/4/3", "5/5/4", "6/6/5", "7/7/6")]
    assert trained == sorted(set(trained))


def test_memory():
    printed = report("memory", *STEP, "--only", "mor")
    peak, before, _ = cells(printed, "", "mor")
    assert peak > before


def test_decode():
    few = ("--shape", "mini", "--layers", "1", "--streams", "1", "--episodes", "2", "--size", "2")
    printed = report("decode", *few, "--dtype", "bfloat16")
    for row in ("mor", "mor, own drafts", "mor, no drafts", "base alone"):
        tokens_a_pass = cells(printed, "one stream", row)[3]
        assert tokens_a_pass == 1 if row in ("mor, no drafts", "base alone") else tokens_a_pass > 1
    for row in ("one at a time", "2 at once", "one at a time, no drafts", "2 at once, no drafts"):
        assert len(cells(printed, "episodes", row)) == 4


def test_tokenise():
    printed = report("tokenise", "--count", "20")
    rows = [line.rsplit(maxsplit=5) for line in printed.splitlines()[-5:]]
    assert [row[0].strip() for row in rows] == [*tokenise.ROWS]
    assert all(0 < float(rate.replace(",", "")) < math.inf for row in rows for rate in row[2:5])


def test_pipeline(tmp_path):
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([INVENTED["apigen"](i) for i in range(3)]))
    printed = report("pipeline", "--data", f"apigen={rows}", "--count", "8")
    lines = [line.split() for line in printed.splitlines()[1:]]
    assert [line[:3] for line in lines] == [
        ["apigen", stage, "8"] for stage in ("convert", "verify", "unify")
    ]


# ---- what is measured ----


@pytest.mark.parametrize("source", INVENTED)
def test_invented_rows_are_converted_without_refusals(source, tmp_path):
    rows, records = tmp_path / "rows.json", tmp_path / "records.jsonl"
    write_rows(rows, map(INVENTED[source], range(7)))
    pipeline.main(["convert", str(rows), "--source", source, "--output", str(records)])
    assert len(data.read_records(records)) == 7


def test_variants_of_mor_are_one_function():
    """The times of layer.py are of the same outputs and gradients."""
    torch.manual_seed(0)
    x, roles, found = torch.randn(20, 24), RoleRows([9, 0, 11]), {}
    modules = layer.variants(Linear(24, 40, bias=False).requires_grad_(False), MoRConfig(rank=3))
    for name in layer.MOR:
        inputs = x.clone().requires_grad_()
        h = modules[name](inputs, roles)
        h.square().sum().backward()
        found[name] = [h, inputs.grad, modules[name].lora_A["summarizer"].grad]
    for name in ("masked", "plain"):
        torch.testing.assert_close(found[name], found["mor"])


def test_model_of_the_benchmarks_runs_the_form_for_training():
    made = common.mor_model(common.base_model(mini()), MoRConfig())
    adapted = [module for module in made.modules() if isinstance(module, MoRLinear)]
    assert adapted and all(layer.function == fused_layer for layer in adapted)


# ---- the checks before the times ----


def mini(dtype: torch.dtype = torch.float32) -> argparse.Namespace:
    cpu = torch.device("cpu")
    return argparse.Namespace(shape="llama-100m", layers=1, model=None, dtype=dtype, device=cpu, seed=0)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16])
def base(request) -> Transformer:
    return common.base_model(mini(request.param)).eval()


PROMPT = list(range(500, 540))


def check(base: Transformer, found: Transformer, wanted: torch.Tensor) -> None:
    decode.check_same({"model": found}, PROMPT, wanted, decode.TOLERANCE[base.lm_head.weight.dtype])


@torch.no_grad()
def test_decode_takes_the_same_model(base):
    wanted = decode.logits_of(base, PROMPT)
    check(base, for_inference(common.mor_model(base, MoRConfig()).eval()), wanted)


@torch.no_grad()
def test_decode_refuses_a_model_without_rotary_positions(base, monkeypatch):
    wanted = decode.logits_of(base, PROMPT)
    monkeypatch.setattr(model, "rotate", lambda x, cos, sin: x)
    with pytest.raises(UserError, match="logits differ"):
        check(base, base, wanted)


@torch.no_grad()
def test_decode_refuses_a_model_with_another_epsilon(base):
    """1e-6 in the place of 1e-5 is less than what rounding does in bfloat16; 1e-4 is more."""
    wanted = decode.logits_of(base, PROMPT)
    epsilon = 1e-6 if base.lm_head.weight.dtype == torch.float32 else 1e-4
    other = Transformer(replace(base.config, rms_norm_eps=epsilon)).eval()
    other.load_state_dict(base.state_dict(), assign=True)
    other.tie()
    with pytest.raises(UserError, match="logits differ"):
        check(base, other, wanted)


@torch.no_grad()
def test_decode_refuses_logits_that_are_no_numbers(base):
    with pytest.raises(UserError, match="logits differ"):
        check(base, base, decode.logits_of(base, PROMPT) * math.nan)


@pytest.mark.parametrize("loss", [1.1, math.nan])
def test_steps_refuse_another_cross_entropy(loss):
    with pytest.raises(UserError, match="cross-entropy"):
        train_step.check_same({"mor": 1.0, "frozen": loss}, 0.01)


# ---- refusals ----

WRONG = {
    "layer": ("--tokens", "3"),
    "train_step": ("--only", "mor", "nobody"),
    "memory": ("--row", "mor"),
    "decode": ("--size", "1"),
    "tokenise": ("--count", "0"),
    "pipeline": ("--data", "rows.json"),
    "serve": ("--size", "0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused_in_one_line(name, capsys):
    """In this process, where the imports are paid for; the command's name is the one it runs under."""
    script = __import__(f"benchmarks.{name}", fromlist=["main"])
    with pytest.raises(SystemExit) as stopped:
        script.main(list(WRONG[name]))
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.startswith("error: ") and said.count("\n") == 1
    assert f"python -m benchmarks.{name} --help" in said


@pytest.mark.parametrize("name", ["sample", "pretrain"])
def test_wrong_arguments_of_tiny_are_refused_in_one_line(name, capsys):
    script = __import__(f"tiny.{name}", fromlist=["main"])
    with pytest.raises(SystemExit) as stopped:
        script.main(["--count", "none"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.startswith("error: ") and f"python -m tiny.{name} --help" in said


def test_fault_in_the_measuring_process_is_told_in_one_line(tmp_path):
    done = execute("tokenise", "--count", "1", "--model", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_wrong_files_are_refused(tmp_path, capsys):
    assert run(train_step.main, [*STEP, "--tokens", "99999999"]) == 2
    assert "lower --tokens" in capsys.readouterr().err
    assert (
        run(decode.main, ["--shape", "mini", "--layers", "1", "--only", "stream", "--streams", "9999"]) == 2
    )
    assert "wanted 10000" in capsys.readouterr().err

"""train.py on a random model of two layers and width 32, mostly through its command line.

Naive twins: one document at a time for the packed loss, one big micro-batch for gradient accumulation, one
process for two, no cache for a shared one, an uninterrupted run for one that is killed and resumed.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import agent
import data
import mor
import train
from cli import run
from engine import dataset, devices, loss, runs
from engine.adapter import load_adapter
from engine.fused import fused_layer
from engine.tensors import save_file as save_with_checksum
from formats.frames import load_frame
from model import ModelConfig, Transformer

ROOT = Path(__file__).resolve().parent.parent
SPECIALS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
]
TIMEOUT = 280  # seconds; for machines that do something else as well
TIMING = ("tokens_per_second", "peak_memory_bytes")
SMALL = ["--rank", "2", "--loras", "3,3,2", "--active", "2,2,2", "--lr", "0.01", "--device", "cpu"]


def make_record(i: int) -> dict:
    """A call, an observation, a summary; every third record needs no call, every fourth makes two calls."""
    tool = {"name": f"get_{i}", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}
    turns = [{"role": "user", "content": f"Run {i}." + " Please." * (i % 3)}]
    if i % 3 != 2:
        calls = [{"name": f"get_{i}", "arguments": {"n": i + k}} for k in range(1 + (i % 4 == 0))]
        turns += [
            {"role": "reasoner", "content": f"I need get_{i}.", "next": "executor"},
            {"role": "executor", "calls": calls},
            {"role": "observation", "content": f"{{'n': {i}}}"},
        ]
    turns += [
        {"role": "reasoner", "content": "That is all.", "next": "summarizer"},
        {"role": "summarizer", "content": f"Number {i}."},
    ]
    return {"tools": [tool], "trajectory": turns}


def write_lines(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A random Llama checkpoint with a small byte-level BPE tokenizer that has Llama 3's special tokens."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    texts = [json.dumps(make_record(i)) for i in range(8)] + [
        data.system_text({}),
        *data.role_prompts("bfcl"),
    ]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "model_type": "llama",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.token_to_id("<|eot_id|>"),
    }
    (folder / "config.json").write_text(json.dumps(config))
    state = Transformer.from_config(ModelConfig.from_dict(config), seed=1).state_dict()
    del state["lm_head.weight"]  # tied
    for (
        name,
        tensor,
    ) in state.items():  # a head so small that no hidden state is sure of a token could not overfit
        tensor *= 25 if "embed" in name else 4 if tensor.dim() == 2 else 1
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "sample.jsonl", [make_record(i) for i in range(8)])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As in the subprocesses below, so that results are equal bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train_in_process(*argv: object) -> int:
    """Exit code of train.py."""
    try:
        return run(train.main, [str(arg) for arg in argv])
    except SystemExit as error:  # argparse
        return error.code


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Runs train.py in a process of its own; what is still running after the test is killed."""
    started = []

    def start(*argv: object, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
        command = [str(part) for part in (sys.executable, *launcher, ROOT / "train.py", *argv)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, env=environment, start_new_session=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def read_metrics(folder: Path, drop: tuple[str, ...] = TIMING) -> list[dict]:
    lines = [json.loads(line) for line in (folder / runs.METRICS).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in drop} for line in lines]


def steps_of(folder: Path) -> list[dict]:
    return [line for line in read_metrics(folder) if "eval" not in line]


def wait_for_steps(process: subprocess.Popen, folder: Path, steps: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while (
        not (folder / runs.STATE).exists() or (folder / runs.METRICS).read_text().count("grad_norm") < steps
    ):
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < deadline, f"no {steps} steps in {TIMEOUT} s"
        time.sleep(0.01)


def state_of(folder: Path) -> dict:
    with safe_open(folder / runs.STATE, "pt") as file:
        return json.loads(file.metadata()["state"])


def gradients_of(folder: Path) -> dict[str, torch.Tensor]:
    """AdamW's first moment: after one step a tenth of the gradient."""
    return {k: v for k, v in load_file(folder / runs.STATE).items() if k.startswith("exp_avg.")}


@pytest.fixture(scope="module")
def command(base, sample) -> list:
    """A run of six steps of three micro-batches; the last step has one."""
    batch = ["--tokens-per-batch", 600, "--grad-accum", 3, "--epochs", 4, "--save-every", 2]
    evaluation = ["--eval-data", f"own:{sample}", "--eval-limit", 2]
    return ["--data", sample, "--model", base, *SMALL, *batch, *evaluation, "--alpha1", 0.01]


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory) -> Path:
    """The output of that run, never interrupted."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert train_in_process(*command, "--output", folder) == 0
    return folder


def adapted(base: Path) -> Transformer:
    """The model with an adapter that is no longer zero."""
    model = Transformer.from_pretrained(base)
    mor.add_mor(model, mor.MoRConfig(rank=2, loras=(3, 3, 2), active=(2, 2, 2)))
    generator = torch.Generator().manual_seed(3)
    for parameter in mor.mor_parameters(model).values():
        parameter.data.normal_(0, 0.3, generator=generator)
    return model


# ---- the loss ----


def test_packed_loss_is_that_of_one_document_at_a_time(base, monkeypatch):
    """Sums per role too; and the head in chunks of three rows gives what it gives at once."""
    model, frame = adapted(base), load_frame(base)
    examples = [data.render(make_record(i), frame) for i in range(3)]
    naive, naive_nll = torch.zeros(3, 4, dtype=torch.float64), 0.0
    for example in examples:
        logits = model(torch.tensor(example.input_ids), torch.tensor(example.role_ids))
        for t, role in enumerate(example.role_ids):
            naive[role, 3] += 1
            if example.labels[t] != -100:
                wanted = example.labels[t]
                ce = F.cross_entropy(logits[t - 1], torch.tensor(wanted))
                naive_nll = naive_nll + ce
                naive[role, 0] += ce.item()
                naive[role, 1] += logits[t - 1].argmax().item() == wanted
                naive[role, 2] += 1
    nll, by_role = loss.token_losses(model, examples)
    torch.testing.assert_close(by_role, naive, rtol=1e-5, atol=1e-4)
    assert nll.item() == pytest.approx(naive[:, 0].sum().item(), rel=1e-5)

    parameters = list(mor.mor_parameters(model).values())
    wanted = torch.autograd.grad(naive_nll, parameters)
    torch.testing.assert_close(torch.autograd.grad(nll, parameters), wanted, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(loss, "LOGIT_ROWS", 3)
    in_chunks = torch.autograd.grad(loss.token_losses(model, examples)[0], parameters)
    torch.testing.assert_close(in_chunks, wanted, rtol=1e-4, atol=1e-4)


def test_split_into_micro_batches_does_not_matter(base, sample, tmp_path):
    """1 x 8 = 8 x 1: no mean of means, and the orthogonal loss once. Balance belongs to its micro-batch."""
    common = ["--data", sample, "--model", base, *SMALL, "--epochs", 2, "--clip", 0, "--max-length", 900]
    for name, batch in (("one", [9000, 1]), ("eight", [1, 8])):
        batch = ["--tokens-per-batch", batch[0], "--grad-accum", batch[1]]
        assert train_in_process(*common, *batch, "--alpha1", 0, "--output", tmp_path / name) == 0
    one, eight = steps_of(tmp_path / "one"), steps_of(tmp_path / "eight")
    assert len(one) == len(eight) == 2
    for a, b in zip(one, eight, strict=True):
        assert b["ce"] == pytest.approx(a["ce"], abs=1e-5)
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-5)
        assert b["orthogonal"] == pytest.approx(a["orthogonal"], rel=1e-4)  # once a step, not eight times
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
        assert (a["tokens"], a["supervised_tokens"]) == (b["tokens"], b["supervised_tokens"])
        assert b["load_executor"] == pytest.approx(a["load_executor"], abs=1e-3)
        assert b["balance"] != a["balance"]
    torch.testing.assert_close(
        gradients_of(tmp_path / "one"), gradients_of(tmp_path / "eight"), rtol=1e-2, atol=1e-5
    )


def test_logged_loss_is_eq_8(finished):
    for line in steps_of(finished):
        assert line["loss"] == pytest.approx(
            line["ce"] + 0.01 * line["balance"] + 1e-4 * line["orthogonal"], rel=1e-5
        )


def test_metrics_have_the_fields_of_the_contract(finished, base):
    records, frame = [make_record(i) for i in range(8)], load_frame(base)
    fields = "step loss ce balance orthogonal grad_norm lr tokens supervised_tokens tokens_per_second".split()
    per_role = [f"{kind}_{role}" for kind in ("loss", "accuracy", "load") for role in mor.ROLES]
    lines = read_metrics(finished, drop=())
    steps = [line for line in lines if "eval" not in line]
    assert all(set(line) == {*fields, "peak_memory_bytes", *per_role} for line in steps)
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    tokens = sum(len(data.render(record, frame).input_ids) for record in records)
    assert sum(line["tokens"] for line in steps) == 4 * tokens
    assert len(steps[0]["load_reasoner"]) == 2 and sum(steps[0]["load_reasoner"]) == pytest.approx(1)
    assert steps[0]["peak_memory_bytes"] > 2**20 and steps[0]["tokens_per_second"] > 0

    evaluations = [line for line in lines if "eval" in line]
    assert [(line["step"], line["set"]) for line in evaluations] == [(0, "own"), (len(steps), "own")]
    wanted = {"n", "loss", "executor_exact", "executor_exact_own", "next_role_accuracy", "executor_turns"}
    wanted |= {"reasoner_turns", *(f"{kind}_{role}" for kind in ("loss", "accuracy") for role in mor.ROLES)}
    assert all(set(line["eval"]) == wanted for line in evaluations)
    assert evaluations[1]["eval"]["loss"] < evaluations[0]["eval"]["loss"]
    assert evaluations[0]["eval"]["n"] == 8


@pytest.fixture(scope="module")
def overfitted(base, tmp_path_factory) -> tuple[Transformer, Path]:
    """A model trained until it writes a trajectory right, in the form for training; the output folder."""
    folder, models, real = tmp_path_factory.mktemp("overfitted"), [], Transformer.from_pretrained
    records = write_lines(folder / "one.jsonl", [make_record(0)])
    argv = ["--data", records, "--model", base, "--eval-data", records, "--output", folder / "run"]
    argv += ["--rank", 8, "--lr", 0.02, "--steps", 80, "--grad-accum", 1, "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train.Transformer, "from_pretrained", lambda *args: models.append(real(*args)) or models[-1]
        )
        patch.setattr(train, "for_inference", lambda model: model)
        assert train_in_process(*argv) == 0
    return models[-1].eval(), folder / "run"


def test_overfits(overfitted):
    steps = steps_of(overfitted[1])
    assert steps[-1]["ce"] < 0.05 * steps[0]["ce"]
    before, after = (line["eval"] for line in read_metrics(overfitted[1]) if "eval" in line)
    for name in ("executor_exact", "executor_exact_own", "next_role_accuracy", "accuracy_summarizer"):
        assert (before[name], after[name]) == (0, 1)


def test_trains_the_adapter_and_nothing_else(overfitted, base):
    model, folder = overfitted
    frozen = {name.replace(".base.", "."): p for name, p in model.named_parameters() if not p.requires_grad}
    stored = load_file(base / "model.safetensors")
    assert stored.keys() <= frozen.keys()
    assert all(torch.equal(stored[name], frozen[name]) for name in stored)

    fresh = Transformer.from_pretrained(base)
    load_adapter(fresh, folder)  # what was saved is what was trained
    trained = mor.mor_parameters(model)
    assert all(torch.equal(p, trained[name]) for name, p in mor.mor_parameters(fresh).items())


# ---- plan and schedule ----


def arguments(*argv: object):
    return train.parse_args(["--data", "x.jsonl", "--model", "y", *map(str, argv)])


def test_plan_uses_every_trajectory_once_an_epoch():
    lengths = [50, 20, 70, 30, 90, 40, 10]
    plan = train.plan_steps(lengths, arguments("--epochs", 2, "--tokens-per-batch", 100, "--grad-accum", 2))
    micro_batches = [pack for step in plan for pack in step]
    assert sorted(i for pack in micro_batches for i in pack) == sorted(2 * list(range(7)))
    assert all(sum(lengths[i] for i in pack) <= 100 for pack in micro_batches)
    assert all(len(step) == 2 for step in plan[:-1])
    whole = train.plan_steps(lengths, arguments("--epochs", 1, "--tokens-per-batch", 100, "--grad-accum", 1))
    half = train.plan_steps(lengths, arguments("--epochs", 0.5, "--tokens-per-batch", 100, "--grad-accum", 1))
    assert half == whole[: len(half)] and len(half) == -(-len(whole) // 2)
    assert len(train.plan_steps(lengths, arguments("--steps", 9, "--tokens-per-batch", 100))) == 9


def test_schedules():
    lr = {}
    for name in ("constant", "linear", "cosine"):
        args = arguments("--schedule", name, "--lr", 1, "--warmup", 0.1)
        lr[name] = [train.learning_rate(step, 100, args) for step in (1, 5, 10, 11, 56, 100)]
    assert lr["constant"] == [0.1, 0.5, 1, 1, 1, 1]
    assert lr["linear"] == pytest.approx([0.1, 0.5, 1, 1, 0.5, 1 / 90])
    assert lr["cosine"][:4] == [0.1, 0.5, 1, 1] and lr["cosine"][4] == pytest.approx(0.5)
    assert 0 < lr["cosine"][5] < 0.01
    assert train.learning_rate(1, 1, arguments("--warmup", 1)) == 5e-5


def test_defaults_are_the_papers_with_a_model_and_the_quick_runs_without():
    paper, quick = arguments(), train.parse_args(["--data", "x.jsonl"])
    assert (paper.rank, paper.loras, paper.active) == (16, (5, 5, 4), (4, 4, 3))
    assert (paper.lr, paper.epochs) == (5e-5, 4)
    assert (paper.alpha1, paper.alpha2, paper.quick) == (1e-3, 1e-4, False)
    assert (paper.shared_gate, paper.orthogonal, paper.balance, paper.init) == (
        False,
        "directions",
        "sum",
        "lora",
    )
    assert (paper.tokens_per_batch, paper.grad_accum, paper.clip) == (8192, 8, 1.0)  # paper silent, and below
    assert (paper.warmup, paper.schedule, paper.weight_decay) == (0.03, "cosine", 0.0)
    assert arguments("--loras", "6,6,5").active == (5, 5, 4)  # section 4.4: one of each role's is inactive
    assert arguments("--loras", "6,6,5", "--active", "2,3,4").active == (2, 3, 4)
    assert arguments("--loras", "1,0,2").active == (1, 0, 1)
    assert (paper.scale, paper.lr_ratio, paper.samples, paper.only_role) == (1, 1, 0, None)
    assert quick.quick and quick.model == str(ROOT / "tiny")
    assert all(getattr(quick, name) == value for name, value in train.QUICK_RUN.items())
    assert train.parse_args(["--data", "x.jsonl", "--lr", "0.5"]).lr == 0.5
    assert arguments("--method", "full").lr == 5e-6 and arguments("--method", "full", "--lr", 1).lr == 1
    assert train.parse_args(["--data", "x.jsonl", "--method", "full"]).lr == quick.lr
    assert list(train.parse_args(["--data", str(train.SAMPLE)]).eval_data) == [
        "unseen functions",
        "seen functions",
    ]


def test_the_command_passes_on_its_settings(base, sample, tmp_path, monkeypatch):
    """To the adapter's start, the model and the optimizer, for which an untrained run is looked at."""
    found = []
    monkeypatch.setattr(train, "train", lambda *args: found.append(args))
    flags = ["--seed", 7, "--init", "released", "--weight-decay", 0.3, "--gradient-checkpointing"]
    flags += ["--shared-gate", "--orthogonal", "printed", "--eval-limit", 1]
    assert train_in_process("--data", sample, "--model", base, *SMALL, *flags, "--output", tmp_path) == 0
    model, optimizer = found[0][0], next(arg for arg in found[0] if isinstance(arg, torch.optim.Optimizer))
    config = mor.mor_layers(model)[0].config
    assert (config.rank, config.loras, config.active) == (2, (3, 3, 2), (2, 2, 2))
    assert (config.shared_gate, config.orthogonal) == (True, "printed")
    assert model.gradient_checkpointing
    assert all(layer.function is fused_layer for layer in mor.mor_layers(model))
    fresh = Transformer.from_pretrained(base)
    mor.add_mor(fresh, config, 7, "released")
    for name, parameter in mor.mor_parameters(fresh).items():
        assert torch.equal(mor.mor_parameters(model)[name], parameter), name
    assert type(optimizer) is torch.optim.AdamW
    for group in optimizer.param_groups:
        assert (group["weight_decay"], group["betas"], group["eps"]) == (0.3, (0.9, 0.999), 1e-8)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(mor.mor_parameters(model))


# ---- what is trained ----


def chosen(base: Path, sample: Path, *flags: object) -> dataset.Trajectories:
    args = train.parse_args([str(a) for a in ("--data", sample, "--model", base, "--cache", "", *flags)])
    return train.load_trajectories(load_frame(base), 900, args, devices.Processes())


def test_samples_are_drawn_by_the_seed_and_fewer_are_among_more(base, sample):
    def drawn(*flags: object) -> list[int]:
        return chosen(base, sample, *flags).digests.tolist()

    everything, five, three = drawn(), drawn("--samples", 5), drawn("--samples", 3)
    assert len(five) == 5 and set(three) < set(five) < set(everything)
    assert [digest for digest in everything if digest in five] == five  # in the order of the file
    assert five == drawn("--samples", 5) != drawn("--samples", 5, "--seed", 1)


@pytest.mark.parametrize("role", mor.ROLES)
def test_only_the_role_asked_for_is_trained(base, sample, role):
    """A third of the records has no executor turn: those are left out."""
    got, whole = chosen(base, sample, "--only-role", role), chosen(base, sample)
    assert len(got) == (6 if role == "executor" else 8)
    number = mor.ROLES.index(role)
    theirs = [e for e in (whole[i].example for i in range(8)) if (e.labels[e.role_ids == number] >= 0).any()]
    for i, example in enumerate(theirs):
        labels = example.labels.copy()
        labels[example.role_ids != number] = -100
        assert got[i].example.labels.tolist() == labels.tolist()
        assert got[i].supervised == (labels[1:] != -100).sum()


# ---- killed, interrupted, resumed, shared out ----


@pytest.mark.parametrize("kept", [0, 1], ids=["absent", "older"])
def test_a_kill_before_the_last_adapter_is_written_is_mended(command, finished, tmp_path, capsys, kept):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    adapter = folder / "adapter_model.safetensors"
    if kept:
        save_file({"old": torch.zeros(1)}, adapter)
    else:
        adapter.unlink()
    assert train_in_process(*command, "--output", folder, "--resume") == 0
    assert adapter.read_bytes() == (finished / adapter.name).read_bytes()
    assert "\nno step left of " in capsys.readouterr().out


def test_stopped_and_resumed_is_never_interrupted(command, start, tmp_path):
    """SIGKILL at two random moments (saves take as long as steps here); between them Ctrl-C, which saves.

    The run has so many steps that it does not end before a signal comes, however fast the machine is.
    """
    command = [*command, "--steps", 40]
    chance, folder, finished = random.Random(), tmp_path / "run", tmp_path / "finished"
    assert train_in_process(*command, "--output", finished) == 0
    for steps, number in ((1, signal.SIGKILL), (3, signal.SIGINT), (5, signal.SIGKILL)):
        resume = ["--resume"] if folder.exists() else []
        done = len(steps_of(folder)) if resume else 0  # a step beyond these was made by the new process
        process = start(*command, "--output", folder, *resume)
        wait_for_steps(process, folder, max(steps, done + 1))
        if number == signal.SIGKILL:
            time.sleep(chance.uniform(0, 0.1))
        process.send_signal(number)
        output = process.communicate(timeout=TIMEOUT)[0].decode()
        if number == signal.SIGINT:
            assert process.returncode == 130 and "Traceback" not in output and "--resume" in output, output
            assert state_of(folder)["step"] == steps_of(folder)[-1]["step"] >= steps
        else:
            assert process.returncode == -signal.SIGKILL, output
    (folder / f".{runs.STATE}.1.tmp").write_bytes(b"half a save")
    for _ in range(2):  # the second time, all that is left to do is the last evaluation
        assert train_in_process(*command, "--output", folder, "--resume") == 0
        assert read_metrics(folder) == read_metrics(finished)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()
    resumed, whole = (load_file(each / runs.STATE) for each in (folder, finished))
    assert resumed.keys() == whole.keys() and all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert not list(folder.glob(".*"))  # what a killed save left behind is gone


METHODS = {
    "lora": ["--loras", "1,0,0", "--scale", 0.5, "--lr-ratio", 4],
    "dora": ["--loras", "1,0,0", "--dora"],
    "roles without router": ["--loras", "1,1,1", "--only-role", "executor"],
    "router without roles": ["--loras", "4,0,0", "--samples", 5],
    "full": ["--method", "full", "--lr", 0.001],
    "full in bfloat16": ["--method", "full", "--lr", 0.001, "--dtype", "bfloat16"],
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_resumes_and_speaks(method, base, sample, tmp_path, monkeypatch, capsys):
    argv = ["--data", sample, "--model", base, "--device", "cpu", "--lr", 0.01, *METHODS[method]]
    argv += [] if "full" in method else ["--rank", 2]
    argv += ["--tokens-per-batch", 600, "--grad-accum", 2, "--steps", 4, "--save-every", 2]
    whole, stopped, save = tmp_path / "whole", tmp_path / "stopped", runs.Output.save

    def save_and_copy(output, step, *rest) -> None:
        save(output, step, *rest)
        if step == 2:
            shutil.copytree(whole, stopped)

    with monkeypatch.context() as patch:
        patch.setattr(runs.Output, "save", save_and_copy)
        assert train_in_process(*argv, "--output", whole) == 0
    assert state_of(stopped)["step"] == 2
    assert train_in_process(*argv, "--output", stopped, "--resume") == 0
    assert read_metrics(stopped) == read_metrics(whole)
    steps = steps_of(whole)
    assert steps[-1]["loss"] < steps[0]["loss"] and all(step["grad_norm"] > 0 for step in steps)
    loads = {role: steps[-1][f"load_{role}"] for role in mor.ROLES}
    if method == "router without roles":
        assert sum(loads.pop("reasoner")) == pytest.approx(2)  # of 3 for every token
    assert set(loads.values()) == {None}
    resumed, state = load_file(stopped / runs.STATE), load_file(whole / runs.STATE)
    assert resumed.keys() == state.keys() and all(torch.equal(resumed[name], state[name]) for name in state)
    result = "model.safetensors" if "full" in method else "adapter_model.safetensors"
    assert (stopped / result).read_bytes() == (whole / result).read_bytes()

    use = ["--model", whole, "--adapter", ""] if "full" in method else ["--model", base, "--adapter", whole]
    use = [str(part) for part in use]
    capsys.readouterr()
    assert run(agent.main, [*use, "--query", "Run 1.", "--json", "--max-new-tokens", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["trajectory"][0]["content"] == "Run 1."


def test_second_ctrl_c_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), devices.stop_on_signal() as caught:
        os.kill(os.getpid(), signal.SIGTERM)  # torchrun sends it after Ctrl-C: not a second one
        os.kill(os.getpid(), signal.SIGINT)
        assert caught == [signal.SIGTERM, signal.SIGINT]
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        pytest.fail("still here")
    assert signal.getsignal(signal.SIGINT) is before


def test_two_processes_are_one(command, finished, start, tmp_path):
    """Under torchrun on gloo; in the last step the second process has no micro-batch."""
    last = state_of(finished)["step"]
    assert steps_of(finished)[-1]["tokens"] < 600 and last == len(steps_of(finished))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start(*command, "--output", tmp_path / "run", launcher=launcher)
    output = process.communicate(timeout=TIMEOUT)[0].decode()
    assert process.returncode == 0, output
    for one, two in zip(read_metrics(finished), read_metrics(tmp_path / "run"), strict=True):
        flat_one, flat_two = ({**line, **line.pop("eval", {})} for line in (one, two))
        assert flat_one.keys() == flat_two.keys()
        for key, value in flat_one.items():
            assert flat_two[key] == (
                value if isinstance(value, str) else pytest.approx(value, abs=1e-5, rel=1e-5)
            ), key
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (finished, tmp_path / "run"))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-6)


# ---- refusals ----


def test_a_base_that_was_trained_here_is_told_what_it_was_told(base, sample, tmp_path, capsys):
    config = json.loads((base / "config.json").read_text()) | {
        "moragent": {"frame": "llama3", "prompts": "paper"}
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(base / "tokenizer.json", tmp_path)
    paper, short = (data.role_prompts("bfcl", name)[0][:40] for name in ("paper", "short"))
    for model, flags, told in [
        (base, [], short),
        (base, ["--prompts", "paper"], paper),
        (tmp_path, [], paper),
        (tmp_path, ["--prompts", "short"], short),
    ]:
        assert train_in_process("--data", sample, "--model", model, "--show", 1, *flags) == 0
        assert told in capsys.readouterr().out


def test_show_stops_before_training(base, sample, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train.Transformer, "from_pretrained", lambda *_: pytest.fail("loaded the model"))
    assert train_in_process("--data", sample, "--model", base, "--show", 2, "--output", tmp_path / "run") == 0
    shown = capsys.readouterr().out
    assert all(f"\n{role[0]}* " in shown for role in mor.ROLES)
    only = ["--only-role", "executor"]
    assert train_in_process("--data", sample, "--model", base, "--show", 1, *only) == 0
    of_one = capsys.readouterr().out
    assert [f"\n{role[0]}* " in of_one for role in mor.ROLES] == [False, True, False]
    assert shown.count("Run 0.") == shown.count("Run 1.") == 1 and "Run 2." not in shown
    assert not (tmp_path / "run").exists()
    assert train_in_process("--data", sample, "--model", base, "--show", 2, "--frame", "chatml") == 2
    assert "frame chatml wants" in capsys.readouterr().err


def test_a_model_trained_as_a_whole_keeps_its_prompts(base, sample, tmp_path, capsys):
    folder = tmp_path / "trained"
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    config["moragent"] = {"frame": load_frame(base).name, "prompts": "paper"}
    (folder / "config.json").write_text(json.dumps(config))
    shown = []
    for flags in ([], ["--prompts", "paper"], ["--prompts", "short"]):
        assert train_in_process("--data", sample, "--model", folder, "--show", 1, *flags) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != shown[2]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--lr", "fast"], "--lr"),
        (["--lr", "nan"], "--lr"),
        (["--lr", "-1"], "--lr"),
        (["--rank", "0"], "--rank"),
        (["--epochs", "0"], "--epochs"),
        (["--loras", "5,5"], "5,5,4"),
        (["--loras", "0,5,4"], "loras"),
        (["--active", "2,2,0"], "active"),
        (["--scale", "0"], "--scale"),
        *(
            ([flag, "inf"], flag)
            for flag in ("--lr", "--epochs", "--scale", "--alpha1", "--clip", "--lr-ratio")
        ),
        (["--rank", "1000000000"], "--rank"),
        (["--rank", "65536", "--loras", "1000,1000,1000"], "--rank: "),
        (["--loras", "99999999,5,4"], "1000"),
        (["--steps", "1000000000000000"], "--steps"),
        (["--steps", "100000000"], "micro-batches"),
        (["--scale", "1e-300"], "--scale"),
        *((["--device", name], "--device") for name in ("meta", "cpu:x", "xla", "mkldnn", "cuda:-1", "")),
        (["--samples", "9"], "--samples: got 9"),
        (["--only-role", "user"], "--only-role"),
        (["--dora"], "dora is True, wanted false, or true with loras 1,0,0"),
        (["--dora", "--loras", "1,0,0", "--active", "1,0,0", "--shared-gate"], "dora is True, wanted false"),
        (["--method", "full"], "--rank: got --method full, which has no adapter"),
        (["--lr-ratio", "0"], "--lr-ratio"),
        (["--active", "6,4,3"], "active"),
        (["--targets", "w_proj"], "w_proj"),
        (["--targets", ""], "targets"),
        (["--dtype", "int8"], "--dtype"),
        (["--schedule", "steps"], "--schedule"),
        (["--warmup", "1.5"], "--warmup"),
        (["--device", "abacus"], "--device"),
        (["--device", "cuda:99"], "--device"),
        (["--max-length", "2000"], "1024"),
        (["--max-length", "50"], "--max-length"),
        (["--max-length", "250", "--overlong", "error"], "--max-length"),
        (["--tokens", "5"], "--tokens"),
        (["--data", "absent.jsonl"], "absent.jsonl"),
        (["--model", "no-such-folder"], "no-such-folder"),
        (["--eval-data", "absent.jsonl"], "absent.jsonl"),
        (["--eval-data", "a:b.jsonl", "--eval-data", "a:c.jsonl"], "two sets"),
        (["--resume"], "--resume"),
        (["--output", "/proc/none/run"], "/proc/none/run"),
    ],
)
def test_bad_flags_get_one_line_and_exit_code_2(base, sample, tmp_path, capsys, flags, words):
    argv = ["--data", sample, "--model", base, "--steps", 1, "--output", tmp_path / "run", *SMALL, *flags]
    assert train_in_process(*argv) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1, captured.err
    assert not (tmp_path / "run" / runs.STATE).exists()


def test_fewer_micro_batches_than_processes(base, sample, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "4")
    argv = ["--data", sample, "--model", base, "--grad-accum", 2, "--output", tmp_path]
    assert train_in_process(*argv) == 2
    assert "--grad-accum" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
def test_what_torchrun_would_have_set_is_no_number(command, name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(name, "first")
    assert train_in_process(*command, "--output", tmp_path) == 2
    assert capsys.readouterr().err.startswith(f"error: {name}: got 'first'")


def test_processes_that_cannot_meet(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train_in_process(*command, "--output", tmp_path) == 2
    error = capsys.readouterr().err
    assert "torchrun" in error and error.count("\n") == 1


def test_of_two_runs_with_one_output_the_second_is_refused(command, finished, tmp_path, capsys):
    for folder, flags in ((finished, ["--resume"]), (tmp_path / "new", [])):
        with runs.claimed(folder, bool(flags), True):
            before = {path.name: path.read_bytes() for path in folder.iterdir()}
            assert train_in_process(*command, "--output", folder, *flags) == 2
            error = capsys.readouterr().err
            assert "in use by another run" in error and error.count("\n") == 1
            assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert not list((tmp_path / "new").iterdir())


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within it, the system refuses to make any file larger, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.6, 0.999])
def test_a_full_disk_is_one_line_and_leaves_the_last_save(command, finished, tmp_path, capsys, share):
    """From none of the state to all but its end: the adapter or the log are what does not fit, too."""
    folder, name = tmp_path / "run", "adapter_model.safetensors"
    shutil.copytree(finished, folder)
    before = (folder / runs.STATE).read_bytes()
    with largest_file(int(share * len(before))):
        assert train_in_process(*command, "--output", tmp_path / "fresh") == 2
        resumed = train_in_process(*command, "--output", folder, "--resume")
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 + (resumed == 2) and "free space" in errors[0], errors
    assert all("cannot be written" in error for error in errors), errors
    assert (folder / runs.STATE).read_bytes() == before
    assert not [*folder.glob(".*"), *(tmp_path / "fresh").glob(".*")]
    assert train_in_process(*command, "--output", folder, "--resume") == 0
    assert (folder / name).read_bytes() == (finished / name).read_bytes()
    assert read_metrics(folder) == read_metrics(finished)


def damaged(whole: bytes, place: int) -> bytes:
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]


@pytest.mark.parametrize("place", [0, 20, 300, 3000, -3000, -1])
def test_a_damaged_state_is_refused(command, finished, tmp_path, capsys, place):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    whole = (folder / runs.STATE).read_bytes()
    (folder / runs.STATE).write_bytes(damaged(whole, place % len(whole)))
    assert train_in_process(*command, "--output", folder, "--resume") == 2
    error = capsys.readouterr().err
    assert str(folder / runs.STATE) in error and error.count("\n") == 1


@pytest.mark.parametrize("text", [None, "", "7", "{}", '{"settings": 7}', '{"settings": {}}'])
def test_a_state_with_another_content_is_refused(command, finished, tmp_path, capsys, text):
    """Whether its checksum is right or there is none."""
    tensors = load_file(finished / runs.STATE)
    metadata = {} if text is None else {"state": text}
    for write in (save_file, save_with_checksum):
        write(tensors, tmp_path / runs.STATE, metadata)
        assert train_in_process(*command, "--output", tmp_path, "--resume") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1


def test_a_state_without_a_checksum_is_refused(command, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    tensors, state = load_file(finished / runs.STATE), json.dumps(state_of(finished))
    save_file(tensors, tmp_path / "run" / runs.STATE, {"state": state})
    assert train_in_process(*command, "--output", tmp_path / "run", "--resume") == 2
    error = capsys.readouterr().err
    assert "has no checksum, older code wrote it" in error and error.count("\n") == 1


@pytest.mark.parametrize("damage", ["flipped", "torn", "zeros", "cut"])
def test_a_damaged_log_is_found_before_the_run_goes_on(command, finished, tmp_path, capsys, damage):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    metrics = folder / runs.METRICS
    whole = metrics.read_bytes()[: state_of(folder)["metrics_bytes"]]
    changes = {
        "flipped": damaged(whole, len(whole) // 2),
        "torn": whole[:-300] + whole[-200:],
        "zeros": whole[:-300] + bytes(300),
        "cut": whole[:-1],
    }
    metrics.write_bytes(changes[damage])
    assert train_in_process(*command, "--output", folder, "--resume") == 2
    error = capsys.readouterr().err
    assert f"{metrics}: damaged; remove it" in error and error.count("\n") == 1
    assert metrics.read_bytes() == changes[damage]
    metrics.unlink()
    assert train_in_process(*command, "--output", folder, "--resume") == 0
    assert len(read_metrics(folder)) == 1


def test_files_have_the_mode_that_the_umask_leaves(finished):
    mask = os.umask(0)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in finished.iterdir()} == {0o666 & ~mask}


def test_a_reader_that_leaves_does_not_end_the_training(command, finished, start, tmp_path):
    process = start(*command, "--output", tmp_path / "run")
    process.stdout.close()
    assert process.wait(TIMEOUT) == 0
    name = "adapter_model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_another_run_is_not_overwritten(command, finished, capsys):
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    assert train_in_process(*command, "--output", finished) == 2
    error = capsys.readouterr().err
    assert str(finished) in error and "--resume" in error and error.count("\n") == 1
    assert before == {path.name: path.read_bytes() for path in finished.iterdir()}


CHANGES = [
    "--rank 3",
    "--seed 9",
    "--lr 1",
    "--loras 4,3,2",
    "--grad-accum 1",
    "--epochs 5",
    "--max-length 250",
]


@pytest.mark.parametrize("flags", CHANGES)
def test_resume_refuses_changed_settings(command, finished, capsys, flags):
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    assert train_in_process(*command, "--output", finished, "--resume", *flags.split()) == 2
    error = capsys.readouterr().err
    name = "--data" if "length" in flags else flags.split()[0]  # it leaves out other trajectories
    assert error.startswith(f"error: {name}: ") and error.count("\n") == 1
    assert before == {path.name: path.read_bytes() for path in finished.iterdir()}


def test_resume_refuses_a_run_of_code_without_a_setting(command, finished, tmp_path, capsys):
    """Its value then cannot be known: a reading of the paper may have changed as well."""
    state = state_of(finished)
    del state["settings"]["balance"]
    save_file(load_file(finished / runs.STATE), tmp_path / runs.STATE, {"state": json.dumps(state)})
    assert train_in_process(*command, "--output", tmp_path, "--resume") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --balance: ") and "older code" in error and error.count("\n") == 1


def test_resume_refuses_other_data_another_base_and_a_broken_state(command, finished, base, tmp_path, capsys):
    records = [make_record(i) for i in range(8)]
    records[3]["trajectory"][0]["content"] = "Run 4."  # of as many tokens
    other = write_lines(tmp_path / "other.jsonl", records)
    assert train_in_process(*command, "--output", finished, "--resume", "--data", other) == 2
    assert "--data" in capsys.readouterr().err

    model = tmp_path / "model"
    model.mkdir()
    for path in base.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    state = load_file(model / "model.safetensors")
    state["model.norm.weight"][0] += 0.5
    save_file(state, model / "model.safetensors")
    assert train_in_process(*command, "--output", finished, "--resume", "--model", model) == 2
    assert "--model" in capsys.readouterr().err

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / runs.STATE).write_bytes((finished / runs.STATE).read_bytes()[:500])
    assert train_in_process(*command, "--output", broken, "--resume") == 2
    assert runs.STATE in capsys.readouterr().err


def test_loss_that_is_no_number_stops_the_run_and_keeps_the_last_save(base, sample, tmp_path, capsys):
    argv = ["--data", sample, "--model", base, *SMALL, "--lr", 1e30, "--steps", 5, "--clip", 0]
    assert train_in_process(*argv, "--output", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "step 2" in error and "--lr" in error and error.count("\n") == 1
    assert state_of(tmp_path / "run")["step"] == 0
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run" / runs.STATE).values())

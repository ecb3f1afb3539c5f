"""--fsdp: several gloo processes, each with a part of the base, against one process with all of it.

The processes are forked from a server that has imported torch once; one test starts torchrun's own.
"""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import ENOUGH, THINK, WEATHER
from safetensors import safe_open
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh

import mor
import train
from benchmarks.common import LLAMA_1B
from cli import run
from engine import runs, sharding
from engine.devices import Processes
from engine.dora import layer_class
from engine.full import Masters
from engine.fused import for_training
from engine.loss import token_losses
from model import ModelConfig, Transformer

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 280  # seconds; for machines that do something else as well
TIMING = ("tokens_per_second", "peak_memory_bytes")
PHI_MINI = LLAMA_1B | {  # the shape of Phi-3.5-mini
    "model_type": "phi3",
    "vocab_size": 32064,
    "hidden_size": 3072,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "head_dim": 96,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


# ---- processes ----


def work(rank: int, size: int, port: int, log: Path, task: Callable, *args: object) -> None:
    """In a process of a group: what torchrun puts into the environment, then the task."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    try:
        code = task(*args)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code or 0)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def in_group(size: int, log: Path, task: Callable, *args: object) -> None:
    """The task in each of `size` processes; where one dies, the others are killed and the test fails."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train", "torch.distributed.fsdp"])
    port, deadline = free_port(), time.monotonic() + TIMEOUT
    group = [context.Process(target=work, args=(i, size, port, log, task, *args)) for i in range(size)]
    for process in group:
        process.start()
    while any(process.exitcode is None for process in group):
        if any(process.exitcode for process in group) or time.monotonic() > deadline:
            for process in group:
                process.kill()
        time.sleep(0.02)
    assert not any(process.exitcode for process in group), log.read_text()


def train_here(argv: list, copy: Path | None = None, die: bool = False) -> int:
    """train.py in this process. After the second step's save: copy the output folder, or be killed."""
    save, output = runs.Output.save, argv[argv.index("--output") + 1]

    def save_and_more(self, step, *rest) -> None:
        save(self, step, *rest)
        if step == 2 and self.writes and copy:
            shutil.copytree(output, copy)
        if step == 2 and self.writes and die:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.Output, "save", save_and_more)
        return run(train.main, [str(arg) for arg in argv])


# ---- a model, data, runs of one process ----


def make_record(i: int) -> dict:
    calls = [{"name": "get_weather", "arguments": {"city": f"City {k}"}} for k in range(1 + i % 2)]
    turns = [
        {"role": "user", "content": "Weather?" + " Please." * (i % 4)},
        {"role": "reasoner", "content": THINK.split("\n")[0], "next": "executor"},
        {"role": "executor", "calls": calls},
        {"role": "observation", "content": f"rain {i}"},
        {"role": "reasoner", "content": ENOUGH.split("\n")[0], "next": "summarizer"},
        {"role": "summarizer", "content": f"Rain, {i} F."},
    ]
    return {"tools": [WEATHER], "trajectory": turns}


@pytest.fixture(scope="module")
def command(folders, tmp_path_factory) -> list:
    """Four steps of five micro-batches: with two or four processes, some have one less."""
    data = tmp_path_factory.mktemp("data") / "data.jsonl"
    data.write_text("".join(json.dumps(make_record(i)) + "\n" for i in range(8)))
    batch = ["--tokens-per-batch", 600, "--grad-accum", 5, "--steps", 4, "--save-every", 1]
    return ["--data", data, "--model", folders[0], "--device", "cpu", *batch]


ADAPTER = ["--rank", 2, "--loras", "3,3,2", "--active", "2,2,2", "--lr", 0.01, "--alpha1", 0.01]
FULL = ["--method", "full", "--lr", 0.001]


@pytest.fixture(scope="module")
def alone(command, tmp_path_factory) -> Path:
    """Of one process without --fsdp: `adapter`, `full`, and of each a copy after the second step."""
    folder = tmp_path_factory.mktemp("alone")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    held_out = ["--eval-data", f"own:{command[1]}", "--eval-limit", 3]
    assert train_here([*command, *ADAPTER, *held_out, "--output", folder / "adapter"]) == 0
    assert train_here([*command, *FULL, "--output", folder / "full"], folder / "full-2") == 0
    torch.set_num_threads(before)
    return folder


def same(one: Path, other: Path, evaluated: bool = False) -> None:
    """The same losses, and the same result and moments within 1e-6."""
    for wanted, got in zip(lines_of(one, evaluated), lines_of(other, evaluated), strict=True):
        assert wanted.keys() == got.keys()
        for key, value in wanted.items():
            if value is not None and not isinstance(value, str):
                value = pytest.approx(value, rel=1e-5, abs=1e-6)
            assert key in TIMING or got[key] == value, key
    adapted = (one / "adapter_model.safetensors").exists()
    for name in ("adapter_model.safetensors" if adapted else "model.safetensors", runs.STATE):
        torch.testing.assert_close(load_file(other / name), load_file(one / name), rtol=0, atol=1e-6)


def lines_of(folder: Path, evaluated: bool) -> list[dict]:
    lines = [json.loads(line) for line in (folder / runs.METRICS).read_text().splitlines()]
    return [{**line, **line.pop("eval", {})} for line in lines if evaluated or "eval" not in line]


# ---- training ----


def test_two_processes_are_one(command, alone, tmp_path):
    """With held-out trajectories of which one process has one more than the other."""
    held_out = ["--eval-data", f"own:{command[1]}", "--eval-limit", 3]
    argv = [*command, *ADAPTER, *held_out, "--fsdp", "--output", tmp_path / "run"]
    in_group(2, tmp_path / "log", train_here, argv)
    same(alone / "adapter", tmp_path / "run", evaluated=True)


def test_four_are_killed_and_resumed_by_four_and_by_two(command, alone, tmp_path):
    """With --gradient-checkpointing, whose second forward gathers again."""
    argv = [*command, *ADAPTER, "--fsdp", "--gradient-checkpointing", "--output"]
    with pytest.raises(AssertionError):
        in_group(4, tmp_path / "log", train_here, [*argv, tmp_path / "four"], None, True)
    shutil.copytree(tmp_path / "four", tmp_path / "two")
    for name, size in (("four", 4), ("two", 2)):
        assert step_of(tmp_path / name) == 2
        in_group(size, tmp_path / "log", train_here, [*argv, tmp_path / name, "--resume"])
        same(alone / "adapter", tmp_path / name)


def test_full_fine_tuning_in_three_parts_and_resumed_by_one_and_by_two(command, alone, tmp_path):
    """No axis is a multiple of three. What one has saved, two go on with."""
    argv = [*command, *FULL, "--output"]
    in_group(3, tmp_path / "log", train_here, [*argv, tmp_path / "three", "--fsdp"], tmp_path / "one")
    same(alone / "full", tmp_path / "three")
    assert step_of(tmp_path / "one") == step_of(alone / "full-2") == 2
    assert train_here([*argv, tmp_path / "one", "--resume"]) == 0
    same(alone / "full", tmp_path / "one")
    shutil.copytree(alone / "full-2", tmp_path / "two")
    in_group(2, tmp_path / "log", train_here, [*argv, tmp_path / "two", "--resume", "--fsdp"])
    same(alone / "full", tmp_path / "two")


def step_of(folder: Path) -> int:
    with safe_open(folder / runs.STATE, "pt") as file:
        return json.loads(file.metadata()["state"])["step"]


def test_two_nodes(command, alone, tmp_path):
    """A launch of torchrun for each, which meet at a port."""
    node = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "sharding"]
    node += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--local-addr", "127.0.0.1"]
    argv = [*node, ROOT / "train.py", *command, *ADAPTER, "--fsdp", "--output", tmp_path / "run"]
    launch = [sys.executable, "-m", "torch.distributed.run", *map(str, argv)]
    options = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "start_new_session": True}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    nodes = [subprocess.Popen(launch, **options, **pipes) for _ in range(2)]
    try:
        printed = [process.communicate(timeout=TIMEOUT)[0] for process in nodes]
    finally:
        for process in nodes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert [process.returncode for process in nodes] == [0, 0], "".join(printed)
    assert sum("saved in" in text for text in printed) == 1  # the first process speaks, on its node
    same(alone / "adapter", tmp_path / "run")


# ---- parts ----


def hold_parts(base: Path) -> None:
    """In each of three processes: parts, wholes, gradients and passes of an uneven number."""
    processes, device = Processes(int(os.environ["RANK"]), 3), torch.device("cpu")
    dist.init_process_group("gloo")
    plain = Transformer.from_pretrained(base)
    model = sharding.load_sharded(base, torch.float32, device, processes)
    held = sum(sharding.own_part(p.detach()).numel() for p in model.parameters())
    most = sum(-(-len(p) // 3) * p[0].numel() for p in plain.parameters())
    assert held <= most < 0.36 * sum(p.numel() for p in plain.parameters())
    assert int(processes.sum(torch.tensor(held))) == sum(p.numel() for p in plain.parameters())
    found = sharding.collect(model.state_dict().items(), processes.rank == 1)
    assert found.keys() == (plain.state_dict().keys() if processes.rank == 1 else set())
    for name, tensor in found.items():
        assert torch.equal(tensor, plain.state_dict()[name])

    for each in (plain, model):  # DoRA's start takes the lengths of the base's rows
        config = mor.MoRConfig(rank=2, loras=(1, 0, 0), active=(1, 0, 0), dora=True)
        mor.add_mor(each, config, layer_class=layer_class(config))
    assert Masters(model).sharded is False
    for name, parameter in mor.mor_parameters(plain).items():
        torch.testing.assert_close(model.get_parameter(name).detach(), parameter.detach())
    for each in (plain, model):
        nll, _ = token_losses(for_training(each.train()), [sharding.IDLE])
        in_layer = each.model.layers[0].self_attn.q_proj.base.weight
        assert sharding.is_sharded(in_layer) == (each is model)  # let go of before the next layer runs
        nll.backward()
    for name, parameter in mor.mor_parameters(plain).items():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad)
    held_again = sum(sharding.own_part(p.detach()).numel() for p in model.parameters() if not p.requires_grad)
    assert held_again == held  # after a backward nothing stays whole

    with torch.no_grad():
        for passes in (processes.rank, 6 - 2 * processes.rank):  # the second time the root is whole
            with sharding.in_step(model, processes):
                for _ in range(passes):
                    nll, _ = token_losses(model, [sharding.IDLE])
    assert model.hidden_states.__name__ == "hidden_states"
    processes.end()


def pass_a_block(folder: Path) -> None:
    """In each of three processes, of which the second is the first of another node."""
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    with Processes(rank, 3, local_rank=(0, 0, 1)[rank]).first_alone():
        (folder / str(rank)).touch()
        deadline = time.monotonic() + 20
        while not ((folder / "0").exists() and (folder / "1").exists()):  # these two at once
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert rank == 2 or not (folder / "2").exists()
        time.sleep(0.1)
    dist.destroy_process_group()


def test_the_first_process_of_each_node_goes_ahead(tmp_path):
    """Else those of the second node find no cache and all render the data."""
    in_group(3, tmp_path / "log", pass_a_block, tmp_path)


def test_parts_make_a_whole(folders, tmp_path):
    in_group(3, tmp_path / "log", hold_parts, folders[0])


def test_an_eighth_of_phi_on_each_of_eight_devices():
    """Bytes of the base in bfloat16, without a second one: counted on the meta device, first and last."""
    config = ModelConfig.from_dict(PHI_MINI)
    for rank in (0, 7):
        dist.init_process_group("fake", rank=rank, world_size=8)
        try:
            with torch.device("meta"):
                model = Transformer(config).to(torch.bfloat16)
            whole = sum(p.nbytes for p in model.parameters())
            sharding.shard(model, init_device_mesh("cpu", (8,)))
            mor.add_mor(model, mor.MoRConfig())
            held = sum(
                sharding.own_part(p.detach()).nbytes for p in model.parameters() if not p.requires_grad
            )
            trained, frozen = mor.count_parameters(model)
        finally:
            dist.destroy_process_group()
        assert (whole, held, trained, 2 * frozen) == (7_642_159_104, 955_269_888, 358_449_152, whole)

"""CUDA against the CPU in float64, and benchmarks/gpu.py in small.

    pytest -m gpu tests/test_gpu.py    on a machine with a GPU

Each comparison runs with the CPU in the GPU's place, too, in the dtypes of a GPU: it has to hold there first.
Of all LoRAs active: rounding cannot change what a router chooses.
"""

import json
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from golden import FIXTURES, TINY, TINY_LLAMA, tokens
from test_model import naive_attention
from torch import Tensor
from torch.overrides import TorchFunctionMode

import mor
import train
from benchmarks import gpu
from benchmarks.gpu_rows import waits
from data import Example
from engine.devices import flat_gradients
from engine.fused import for_training, orthogonal_loss
from engine.generation import generate
from engine.grouped import grouped
from engine.inference import for_inference
from engine.loss import token_losses
from engine.runs import Output
from model import KVCache, ModelConfig, Packed, Transformer, attend_packed
from mor import MoRConfig

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
DEVICES = ["cpu", pytest.param("cuda", marks=ON_GPU)]
FORMS = [for_training, grouped]
DTYPES = [torch.float32, torch.bfloat16]
LENGTHS = [33, 7, 20]  # of the packed documents; one is longer than the window of phi3_sliding
ALL = MoRConfig(rank=8, loras=(3, 4, 3), active=(3, 4, 3))
# Of a difference over what it is from, root mean squares: logits, then the gradient of all adapters.
TOLERANCE = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (4e-2, 2e-1)}


def examples() -> list[Example]:
    made = []
    for i, n in enumerate(LENGTHS):
        ids, roles = tokens(n, seed=i).tolist(), (tokens(n, seed=9 + i, vocab=3)).tolist()
        made.append(Example(ids, [-100] * (n // 2) + ids[n // 2 :], roles))
    return made


def adapted(folder, dtype, device, config=ALL) -> Transformer:
    """A tiny checkpoint with random adapters, the same on every device."""
    model = Transformer.from_pretrained(folder, dtype, device)
    mor.add_mor(model, config)
    generator = torch.Generator().manual_seed(1)
    for parameter in mor.mor_parameters(model).values():
        values = torch.empty(parameter.shape).normal_(0, 0.1, generator=generator)
        parameter.data = values.to(device, torch.promote_types(dtype, torch.float32))
    return model.train()


def difference(got: Tensor, wanted: Tensor) -> float:
    got, wanted = got.detach().cpu().double(), wanted.double()
    return ((got - wanted).norm() / wanted.norm()).item()


def step_of(model: Transformer) -> dict[str, Tensor]:
    """Logits, losses and the gradient of all adapters, in one step's forward and backward."""
    texts, device = examples(), model.model.norm.weight.device
    gradients = flat_gradients(list(mor.mor_parameters(model).values()))
    nll, by_role = token_losses(model, texts)
    balance, orthogonal = mor.balance_loss(model), orthogonal_loss(model)
    (nll / 30 + 1e-2 * balance + 1e-4 * orthogonal).backward()
    ids = torch.tensor([i for text in texts for i in text.input_ids], device=device)
    roles = torch.tensor([i for text in texts for i in text.role_ids], device=device)
    with torch.no_grad():
        logits = model(ids, roles, LENGTHS)
    losses = torch.stack([nll, balance, orthogonal]).detach()
    return {"logits": logits, "losses": losses, "by role": by_role[:, 0], "gradient": gradients}


@pytest.fixture(scope="module")
def exact():
    """Results of the CPU in float64, each made once."""
    made = {}

    def of(name: str) -> dict[str, Tensor]:
        if name not in made:
            made[name] = step_of(for_training(adapted(FIXTURES / name, torch.float64, "cpu")))
        return made[name]

    return of


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", TINY)
def test_a_step_of_every_family(name, device, dtype, form, exact):
    if form is grouped and dtype == torch.float32 and device == "cuda":
        pytest.skip("grouped products on CUDA are bfloat16")
    wanted = exact(name)
    got = step_of(form(adapted(FIXTURES / name, dtype, device)))
    of_logits, of_gradient = TOLERANCE[dtype]
    for what in ("logits", "losses", "by role"):
        assert difference(got[what], wanted[what]) <= of_logits, what
    assert difference(got["gradient"], wanted["gradient"]) <= of_gradient


@pytest.mark.parametrize("device", DEVICES)
def test_a_role_without_tokens_gets_a_gradient_of_zero(device):
    """grouped_mm has a group without rows then."""
    model = grouped(adapted(FIXTURES / "llama_untied_sharded", torch.bfloat16, device))
    ids = tokens(24).to(device)
    roles = 2 * (torch.arange(24, device=device) % 2)
    (model(ids, roles).float().square().mean() + mor.balance_loss(model)).backward()
    for name, parameter in mor.mor_parameters(model).items():
        size = parameter.grad.abs().sum().item()
        assert size == 0 if name.endswith("executor") else 0 < size < float("inf"), name


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_of_adamw(device):
    found = []
    for where in ("cpu", device):
        model = adapted(FIXTURES / "qwen2_tied", torch.float32, where)
        parameters = list(mor.mor_parameters(model).values())
        gradients = flat_gradients(parameters)
        gradients.copy_(torch.randn(len(gradients), generator=torch.Generator().manual_seed(2)))
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1, fused=True)
        for _ in range(2):
            optimizer.step()
        found.append(torch.cat([parameter.detach().flatten().cpu() for parameter in parameters]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


# ---- packed attention ----


def naive_kernel(q, k, v, ends, _, longest, __, window_size):
    """What varlen_attn says it does: (left, right) of a query's own place, -1 for all."""
    starts, outs = ends.tolist(), []
    assert longest == max(end - start for start, end in zip(starts, starts[1:], strict=False))
    assert window_size[1] == 0
    window = None if window_size[0] == -1 else window_size[0] + 1
    for start, end in zip(starts, starts[1:], strict=False):
        outs.append(naive_attention(q[start:end], k[start:end], v[start:end], window))
    return torch.cat(outs)


def pair_with_gradients(run, device, dtype, heads) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    sizes = [(sum(LENGTHS), heads, 16), (sum(LENGTHS), 2, 16), (sum(LENGTHS), 2, 16)]
    parts = [torch.randn(size, generator=generator).to(device, dtype).requires_grad_() for size in sizes]
    out = run(*parts)
    d_out = torch.randn(out.shape, generator=generator).to(device, dtype)
    return [out, *torch.autograd.grad(out, parts, d_out)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("heads", [2, 4])
def test_packed_documents_with_a_window(heads, window, device):
    """The kernel of torch on CUDA; the plain one in its place on the CPU."""
    told = Packed.of(LENGTHS, torch.device(device))
    assert told.ends.tolist() == [0, 33, 40, 60] and told.longest == 33
    if device == "cpu":
        told.kernel = naive_kernel

    def plain(*parts):
        documents = zip(*(part.split(LENGTHS) for part in parts), strict=True)
        return torch.cat([naive_attention(*document, window) for document in documents])

    wanted = pair_with_gradients(plain, "cpu", torch.float64, heads)
    got = pair_with_gradients(
        partial(attend_packed, packed=told, window=window), device, torch.bfloat16, heads
    )
    for one, other in zip(got, wanted, strict=True):
        assert difference(one, other) <= 2e-2


@pytest.mark.parametrize("told", [True, False], ids=["torch 2.13", "torch 2.11"])
def test_grouped_heads_are_asked_for_where_torch_wants_it(told, monkeypatch):
    from torch.nn.attention import varlen

    def later(q, k, v, a, b, c, d, *, window_size=(-1, -1), enable_gqa=False):
        return enable_gqa

    def earlier(q, k, v, a, b, c, d, *, window_size=(-1, -1)):
        return None

    monkeypatch.setattr(varlen, "varlen_attn", later if told else earlier)
    packed = Packed.of(LENGTHS, torch.device("cpu"))
    assert attend_packed(None, None, None, packed, None) == (True if told else None)


def test_torch_has_the_arguments_that_are_passed():
    """Of the torch that is installed; shapes alone, as the kernel wants CUDA."""
    q, k = torch.empty(60, 4, 16, device="meta"), torch.empty(60, 2, 16, device="meta")
    packed = Packed.of(LENGTHS, torch.device("cpu"))
    packed.ends = packed.ends.to("meta")
    assert attend_packed(q, k, k, packed, 5).shape == q.shape


# ---- generation ----


@pytest.mark.parametrize("prepare", [lambda model: model, for_inference], ids=["plain", "inference"])
@pytest.mark.parametrize("device", DEVICES)
def test_cached_generation_with_hand_overs(device, prepare):
    """One cache, three roles in turn; the twin has no cache and runs in float64."""
    config = MoRConfig(rank=8)
    model = prepare(adapted(FIXTURES / "llama_tied_llama3rope", torch.float32, device, config).eval())
    plain = adapted(FIXTURES / "llama_tied_llama3rope", torch.float64, "cpu", config).eval()
    ids, roles = tokens(20).tolist(), [0] * 20
    cache = KVCache(model.config, torch.float32, device)
    for role in (0, 1, 2, 0):
        said = list(generate(model, ids, role_ids=roles, role=role, max_new_tokens=6, cache=cache))
        for token in said:
            with torch.no_grad():
                scores = plain(torch.tensor(ids), torch.tensor(roles))[-1]
            assert scores[token] >= scores.max() - 1e-3
            ids, roles = [*ids, token], [*roles, role]


# ---- training ----


def quick_run(folder, device, steps, *more: str) -> list[dict]:
    argv = ["--data", str(gpu.ROOT / "bfcl_heldout.jsonl"), "--output", str(folder), "--device", device]
    argv += ["--steps", str(steps), "--cache", "", "--max-length", "512", "--save-every", str(steps // 2)]
    argv += ["--tokens-per-batch", "512"]
    train.main([*argv, *more])
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize(("device", "steps"), [("cpu", 2), pytest.param("cuda", 20, marks=ON_GPU)])
def test_quick_run_resumed_in_the_middle(device, steps, tmp_path, monkeypatch):
    whole = quick_run(tmp_path / "whole", device, steps)
    save = Output.save

    def stop_in_the_middle(self, step, *rest):
        save(self, step, *rest)
        if step == steps // 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Output, "save", stop_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        quick_run(tmp_path / "halves", device, steps)
    monkeypatch.setattr(Output, "save", save)
    halves = quick_run(tmp_path / "halves", device, steps, "--resume")
    assert [line["step"] for line in halves] == [line["step"] for line in whole] == [*range(1, steps + 1)]
    for one, other in zip(halves, whole, strict=True):
        assert abs(one["loss"] - other["loss"]) <= (0 if device == "cpu" else 0.02) * other["loss"]
    assert device == "cpu" or whole[-1]["loss"] < whole[0]["loss"]


# ---- waits of the host ----

WAITING = {"tolist", "item", "nonzero", "bincount", "__bool__", "__int__", "__float__", "__index__", "cpu"}


class Waits(TorchFunctionMode):
    """Calls that would make the host wait for a GPU, while they run on the CPU."""

    def __init__(self):
        self.found = Counter()

    def __torch_function__(self, function, types, arguments=(), named=None):
        name = getattr(function, "__name__", "")
        self.found[name] += name in WAITING
        return function(*arguments, **(named or {}))


@contextmanager
def counted_waits():
    with Waits() as waits:
        yield waits.found


@pytest.mark.parametrize("form", FORMS)
def test_the_host_waits_a_few_times_a_pass_and_not_once_a_layer(form):
    found = []
    for layers in (1, 3):
        config = ModelConfig.from_dict(TINY_LLAMA | {"num_hidden_layers": layers, "vocab_size": 256})
        model = Transformer.from_config(config)
        mor.add_mor(model, MoRConfig(rank=8))
        form(model.train())
        with counted_waits() as waits:
            step_of(model)
        found.append(sum(waits.values()))
    assert found[0] == found[1] > 0


@pytest.mark.parametrize("device", DEVICES[1:])
def test_waits_by_torchs_own_count(device):
    found = []
    for name in ("llama_untied_sharded", "llama_tied_llama3rope"):  # two layers, three
        model = grouped(adapted(FIXTURES / name, torch.bfloat16, device))
        step_of(model)
        found.append(waits(partial(step_of, model)))
    assert found[0] == found[1]


# ---- benchmarks/gpu.py ----


def test_all_in_small(tmp_path, capsys):
    """What runs on a GPU in six minutes; its tests are these and are left out."""
    gpu.main(
        ["--out", str(tmp_path), "--smoke", "--device", "cpu", "--only", "training", "generation", "quick"]
    )
    found = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    rows = {row["what"]: row for part in found.values() for row in part}
    assert not [row for row in rows.values() if "failed" in row or "skip" in row]
    for name in gpu.SHAPES:
        for variant in gpu.UNCOMPILED:
            row = rows[f"{name}, {variant}"]
            assert row["tokens/s"] > 0 and row["peak GB"] > 0 and row["of matmul"] > 0
            assert (row["trained"] == 0) == (variant == "frozen")
    assert {"base, 1 at once", "base, 3 at once", "mor, 1 at once", "mor, 3 at once", "quick run"} <= set(
        rows
    )
    assert "Phi-3.5-mini, mor grouped" in capsys.readouterr().out
    assert (tmp_path / "gpu.txt").exists()


def test_a_failure_is_a_row_and_loses_no_other(tmp_path, monkeypatch):
    def part(results, args):
        with results.row("one"):
            raise ValueError("two\nlines")
        with results.row("two", needs=1e9) as values:
            assert "skip" in values
        with results.row("three") as values:
            values["x"] = 1
        with results.row("fifth") as values:
            assert "skip" in values
        raise RuntimeError("outside of a row")

    monkeypatch.setitem(gpu.PARTS, "quick", (part, 10))
    argv = ["--out", str(tmp_path), "--smoke", "--device", "cpu", "--only", "quick"]
    gpu.main([*argv, "--rows", "o", "three"])
    one, two, three, outside, _ = json.loads((tmp_path / "gpu.json").read_text("utf-8"))["quick"]
    assert one["failed"] == "ValueError: two" and "raise ValueError" in one["traceback"]
    assert three == {"what": "three", "x": 1} and "RuntimeError" in outside["traceback"]


def test_a_part_is_stopped_when_its_time_is_over_and_keeps_its_rows(tmp_path, monkeypatch):
    gpu.Results(tmp_path, "quick", 10).add("before", x=1)

    def popen(command, **options):
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)

    monkeypatch.setattr(gpu, "START", 0)
    monkeypatch.setitem(gpu.PARTS, "quick", (None, 0.2))
    args = gpu.parse_args(["--out", str(tmp_path), "--only", "quick"])
    gpu.run_apart("quick", args, popen)
    before, stopped = json.loads((tmp_path / "gpu.json").read_text("utf-8"))["quick"]
    assert before == {"what": "before", "x": 1} and stopped["failed"].startswith("stopped")


# ---- compiled; the last, as it takes the longest ----


@pytest.mark.parametrize("device", DEVICES[1:])
@pytest.mark.parametrize("way", ["compile_elementwise", "compile_layers"])
def test_compiled_models_train_alike(way, device):
    """On a CPU test_grouped.py has a layer through the same compiler; to make code there takes a minute."""
    folder = FIXTURES / "llama_tied_llama3rope"
    wanted = step_of(grouped(adapted(folder, torch.bfloat16, device)))
    model = grouped(adapted(folder, torch.bfloat16, device))
    getattr(model, way)()
    got = step_of(model)
    assert difference(got["logits"], wanted["logits"].cpu()) <= 4e-2
    assert difference(got["gradient"], wanted["gradient"].cpu()) <= 1e-1

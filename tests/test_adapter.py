"""engine/adapter.py: saved and loaded bit for bit; damaged, mixed or of another base: refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from golden import FIXTURES, close, tokens
from safetensors.torch import load_file, save_file
from test_mor import adapted, tiny_model

import mor
from cli import UserError, run
from engine import adapter
from engine.adapter import load_adapter, save_adapter
from engine.dora import layer_class
from model import Transformer
from mor import ROLES, MoRConfig


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(shared_gate=True, orthogonal="printed", targets=("o_proj",)),
        dict(loras=(1, 0, 0), active=(1, 0, 0), scale=0.5),
        dict(loras=(3, 0, 1), active=(2, 0, 1)),
        dict(loras=(1, 0, 0), active=(1, 0, 0), dora=True),
    ],
)
def test_saved_and_loaded_is_the_same_bit_for_bit(tmp_path, options):
    model, ids, roles = adapted(config=MoRConfig(rank=2, **options)), torch.arange(9), torch.arange(9) % 3
    save_adapter(model, tmp_path / "new" / "adapter")
    again = tiny_model()
    config = load_adapter(again, tmp_path / "new" / "adapter")
    assert config == MoRConfig(rank=2, **options)
    assert torch.equal(model(ids, role_ids=roles), again(ids, role_ids=roles))
    for name, parameter in mor.mor_parameters(model).items():
        assert torch.equal(parameter, mor.mor_parameters(again)[name])
        assert mor.mor_parameters(again)[name].requires_grad
    assert not again.model.embed_tokens.weight.requires_grad
    save_adapter(again, tmp_path / "b")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "b" / file).read_bytes() == (tmp_path / "new" / "adapter" / file).read_bytes()
    assert len(list((tmp_path / "b").iterdir())) == 2


def test_names_and_fields_of_the_files(tmp_path):
    save_adapter(adapted(config=MoRConfig(rank=2, targets=("q_proj",))), tmp_path)
    names = {f"{kind}.{role}" for kind in ("lora_A", "lora_B", "router") for role in ROLES}
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert set(tensors) == {f"model.layers.{i}.self_attn.q_proj.{name}" for i in (0, 1) for name in names}
    assert tensors["model.layers.0.self_attn.q_proj.lora_A.summarizer"].shape == (4, 2, 24)
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {
        "format_version": 1,
        "rank": 2,
        "loras": [5, 5, 4],
        "active": [4, 4, 3],
        "shared_gate": False,
        "orthogonal": "directions",
        "scale": 1.0,
        "dora": False,
        "frame": "",
        "prompts": "short",
        "target_modules": ["q_proj"],
        "model_type": "qwen2",
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
    }


def test_a_save_killed_between_its_files_never_mixes_two_adapters(tmp_path, monkeypatch):
    old, new = adapted(seed=1), adapted(seed=2)
    other = adapted(seed=3, config=MoRConfig(rank=2, orthogonal="printed"))  # tensors of the same shapes
    write, killed = adapter.write_whole, []

    def write_once(path: Path, how) -> None:
        if killed:
            raise KeyboardInterrupt
        killed.append(path)
        write(path, how)

    for model in (new, other):
        save_adapter(old, tmp_path)
        killed.clear()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(adapter, "write_whole", write_once)
            save_adapter(model, tmp_path)
        loaded = tiny_model()
        if model is other:
            with pytest.raises(UserError, match="not of one save"):
                load_adapter(loaded, tmp_path)
        else:  # the same config: the new adapter is whole
            load_adapter(loaded, tmp_path)
            for name, parameter in mor.mor_parameters(new).items():
                assert torch.equal(parameter, mor.mor_parameters(loaded)[name])


def test_an_adapter_of_older_code_loads(tmp_path):
    model = adapted()
    save_adapter(model, tmp_path)
    text = json.dumps(
        {
            name: value
            for name, value in json.loads((tmp_path / "adapter_config.json").read_text()).items()
            if name not in adapter.ADDED_LATER
        }
    )
    (tmp_path / "adapter_config.json").write_text(text)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"config": text})
    assert load_adapter(tiny_model(), tmp_path).prompts == "short"


def edit(**changes):
    """Change fields of adapter_config.json; None removes one."""

    def apply(folder: Path) -> None:
        path = folder / "adapter_config.json"
        fields = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))

    return apply


def edit_tensors(change):
    """Change the dictionary of tensors in place, keeping the metadata."""

    def apply(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        text = (folder / "adapter_config.json").read_text()
        save_file(tensors, path, metadata={"config": text})

    return apply


def write(file: str, data: bytes):
    return lambda folder: (folder / file).write_bytes(data)


A0 = "model.layers.0.self_attn.q_proj.lora_A.executor"
REFUSED = {  # fault: (how to make it, what the one line must say)
    "no folder": (shutil.rmtree, "adapter_config.json: cannot be read"),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json: cannot be read"),
    "no weights": (
        lambda f: (f / "adapter_model.safetensors").unlink(),
        "adapter_model.safetensors: cannot be read",
    ),
    "config cut": (write("adapter_config.json", b'{"rank": 2,'), "adapter_config.json: not JSON"),
    "config not text": (
        write("adapter_config.json", b"\xff\xfe\x00"),
        "config.json: byte 0 is not UTF-8",
    ),
    "config a list": (write("adapter_config.json", b"[1]"), r"got \[1\]; wanted the folder of an adapter"),
    "weights cut": (
        write("adapter_model.safetensors", b"\x08\x00\x00"),
        "adapter_model.safetensors: cannot be read",
    ),
    "weights a pickle": (write("adapter_model.safetensors", b"\x80\x04" * 90), "safetensors: cannot be read"),
    "weights empty": (write("adapter_model.safetensors", b""), "adapter_model.safetensors: cannot be read"),
    "unknown field": (edit(lora_alpha=16), "lora_alpha is unknown"),
    "of PEFT": (edit(peft_type="LORA"), "is PEFT's"),
    "missing field": (edit(rank=None), "rank is missing"),
    "later format": (edit(format_version=2), "format_version is 2, wanted 1"),
    "rank a text": (edit(rank="2"), "rank is '2', wanted a whole number"),
    "rank a boolean": (edit(rank=True), "rank is True"),
    "rank zero": (edit(rank=0), "rank is 0"),
    "two counts": (edit(loras=[5, 5]), r"loras is \(5, 5\)"),
    "more active than there are": (edit(active=[6, 4, 3]), r"active is \(6, 4, 3\)"),
    "targets a text": (edit(target_modules="q_proj"), "target_modules is 'q_proj'"),
    "target with a dot": (edit(target_modules=["self_attn.q_proj"]), "without dots"),
    "target absent": (edit(target_modules=["c_attn"]), "not of one save"),
    "gate a number": (edit(shared_gate=1), "shared_gate is 1"),
    "orthogonal misspelt": (edit(orthogonal="direction"), "orthogonal is 'direction'"),
    "other family": (edit(model_type="llama"), "model_type is 'llama', wanted 'qwen2'"),
    "other width": (edit(hidden_size=32), "hidden_size is 32, wanted 24 as the base model has"),
    "other depth": (edit(num_hidden_layers=3), "num_hidden_layers is 3, wanted 2"),
    "other vocabulary": (edit(vocab_size=62), "vocab_size is 62, wanted 61"),
    "config of another save": (edit(orthogonal="printed"), "not of one save"),
    "tensor missing": (edit_tensors(lambda t: t.pop(A0)), f"tensor {A0} is missing"),
    "tensor too many": (edit_tensors(lambda t: t.update(a=torch.ones(1))), "tensor a is unknown"),
    "tensor of another shape": (
        edit_tensors(lambda t: t.update({A0: t[A0][:4]})),
        rf"tensor {A0} is torch.float32 \[4, 2, 24\], wanted torch.float32 \[5, 2, 24\]",
    ),
    "tensor of another dtype": (edit_tensors(lambda t: t.update({A0: t[A0].half()})), "is torch.float16"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_load_refuses_in_one_line_that_names_the_place(tmp_path, fault):
    make, message = REFUSED[fault]
    folder = tmp_path / "adapter"
    save_adapter(adapted(), folder)
    make(folder)
    with pytest.raises(UserError, match=message) as error:
        load_adapter(tiny_model(), folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_an_adapter_needs_the_base_model_it_was_trained_on(tmp_path):
    save_adapter(adapted(), tmp_path)
    with pytest.raises(UserError, match="intermediate_size is 40, wanted 48"):
        load_adapter(tiny_model(intermediate_size=48), tmp_path)


def test_config_reports_all_faults_at_once():
    with pytest.raises(UserError) as error:
        MoRConfig(
            rank=0,
            loras=(0, 1, 4),
            active=(4, 4),
            targets=("lm_head",),
            shared_gate=None,
            scale=0.0,
            dora=True,
            orthogonal="",
        )
    names = ("rank", "loras", "active", "targets", "shared_gate", "scale", "dora", "orthogonal")
    assert [fault.split()[0] for fault in str(error.value).split("; ")] == list(names)
    assert MoRConfig(loras=[2, 3, 4], active=[1, 1, 4]).loras == (2, 3, 4)


@pytest.mark.parametrize("active", [(1, 1, 0), (2, 0, 0), (0, 0, 0)])
def test_a_role_without_loras_has_none_active_and_another_at_least_one(active):
    with pytest.raises(UserError, match="active is"):
        MoRConfig(loras=(1, 0, 0), active=active)


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "adapter_config.json").mkdir()
    with pytest.raises(UserError, match="adapter_config.json: cannot be written"):
        save_adapter(adapted(), tmp_path)


# ---- for PEFT ----

PLAIN = dict(loras=(1, 0, 0), active=(1, 0, 0), scale=0.4)


def test_exported_names_and_fields(tmp_path):
    config = MoRConfig(rank=5, targets=("q_proj", "down_proj"), dora=True, **PLAIN)
    save_adapter(adapted(config=config), tmp_path / "ours")
    assert run(adapter.main, ["export-peft", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 0
    tensors = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    of_q = {name for name in tensors if "q_proj" in name}
    stem = "base_model.model.model.layers.{}.self_attn.q_proj.{}"
    kinds = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
    assert of_q == {stem.format(i, kind) for i in (0, 1) for kind in kinds}
    assert tensors[stem.format(1, "lora_A.weight")].shape == (5, 24)
    assert tensors[stem.format(1, "lora_B.weight")].shape == (24, 5)
    assert json.loads((tmp_path / "theirs" / "adapter_config.json").read_text()) == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 5,
        "lora_alpha": 2.0,
        "use_dora": True,
        "target_modules": ["down_proj", "q_proj"],
        "inference_mode": True,
    }


def test_export_refuses_what_peft_cannot_hold(tmp_path, capsys):
    shapes = {
        "mor": {},
        "roles": dict(loras=(1, 1, 1), active=(1, 1, 1)),
        "gate": dict(shared_gate=True, **PLAIN),
    }
    for name, shape in shapes.items():
        save_adapter(adapted(config=MoRConfig(rank=2, **shape)), tmp_path / name)
        assert run(adapter.main, ["export-peft", str(tmp_path / name), str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert "neither roles nor a router" in error and error.count("\n") == 1
        assert ("shared_gate is True, wanted False" if name == "gate" else "wanted [1, 0, 0]") in error
    save_adapter(adapted(config=MoRConfig(rank=2, **PLAIN)), tmp_path / "plain")
    assert run(adapter.main, ["export-peft", str(tmp_path / "plain"), str(tmp_path / "plain")]) == 2
    assert "holds an adapter already" in capsys.readouterr().err
    assert run(adapter.main, ["export-peft", str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("name", ["llama_tied_llama3rope", "qwen2_tied"])
def test_peft_computes_the_same_with_an_exported_adapter(name, dora, tmp_path):
    """Logits and the gradients of all that is trained; qwen2 has biases, which DoRA does not scale."""
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    ours, ids = Transformer.from_pretrained(FIXTURES / name), tokens(40)
    config = MoRConfig(rank=3, dora=dora, **PLAIN)
    mor.add_mor(ours, config, layer_class=layer_class(config))
    for parameter in mor.mor_parameters(ours).values():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    save_adapter(ours, tmp_path / "ours")
    adapter.export_peft(tmp_path / "ours", tmp_path / "theirs")
    base = transformers.AutoModelForCausalLM.from_pretrained(FIXTURES / name, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "theirs", is_trainable=True)
    got, wanted = theirs(ids[None]).logits[0], ours(ids, role_ids=ids % 3)
    assert (wanted - Transformer.from_pretrained(FIXTURES / name)(ids)).abs().max() > 0.1
    close(got, wanted, 1e-5 * max(1.0, wanted.abs().max().item()))
    got.square().mean().backward()
    wanted.square().mean().backward()
    trained = [name for name, parameter in theirs.named_parameters() if parameter.requires_grad]
    for name, parameter in mor.mor_parameters(ours).items():
        if "router" in name:
            continue
        kind = next(kind for kind in adapter.PEFT_NAMES if name.endswith(kind))
        stem = f"base_model.model.{name.removesuffix(kind)}{adapter.PEFT_NAMES[kind]}"
        (twin,) = [each for each in trained if each.replace(".default", "").startswith(stem)]
        trained.remove(twin)
        gradient = adapter._as_in_peft(kind, parameter.grad)
        torch.testing.assert_close(theirs.get_parameter(twin).grad, gradient, rtol=1e-3, atol=1e-5)
    assert trained == []

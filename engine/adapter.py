"""Adapter files: adapter_config.json and adapter_model.safetensors, written and read whole.

    python -m engine.adapter export-peft DIR OUT    plain LoRA or DoRA in the files of PEFT

The config holds the fields of mor.MoRConfig and the shape of the base model; no pickle anywhere.
"""

import json
import sys
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from cli import ArgumentParser, UserError, open_file, read_object, run, write_whole
from engine.dora import layer_class
from engine.tensors import check, save_file
from mor import MoRConfig, mor_layers, mor_parameters, replace_linears

CONFIG, WEIGHTS, VERSION = "adapter_config.json", "adapter_model.safetensors", 1
WANTED = "the folder of an adapter, with its config whole"
# Not in the adapters of older code, which had no other.
ADDED_LATER = {"scale": 1.0, "dora": False, "frame": "", "prompts": "short"}
BASE_FIELDS = (  # of the base model's config: an adapter fits no other shape
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
)


def save_adapter(model: nn.Module, folder: str | Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, each whole or not at all.

    The weights carry a copy of the config and load_adapter compares the two: a save killed between the files
    leaves a whole adapter when the config is the same as before, and otherwise a folder that is refused.
    """
    text = _config_text(mor_layers(model)[0].config, model)
    tensors = {name: parameter.detach() for name, parameter in mor_parameters(model).items()}
    write_whole(Path(folder) / WEIGHTS, lambda path: save_file(tensors, path, {"config": text}))
    write_whole(Path(folder) / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def load_adapter(model: nn.Module, folder: str | Path) -> MoRConfig:
    """Add to a base model the MoR layers of adapter_config.json, filled from adapter_model.safetensors.

    Raises UserError naming the file and its fault: unreadable, not of one save, a field or tensor that is
    unknown, missing or of another type or shape, an adapter of another base model.
    """
    path = Path(folder) / CONFIG
    saved = read_object(path, WANTED)
    config = _parse_config(saved, model, path)
    path = Path(folder) / WEIGHTS
    try:
        open_file(path).close()  # the library takes a file that it may not read for an absent one
        with safe_open(path, framework="pt") as file:
            if _copy_of_config(file) != json.loads(_config_text(config, model)):
                raise UserError(f"{path}: not of one save with the {CONFIG} beside it; wanted both of one")
            replace_linears(model, config, layer_class(config))
            parameters, metadata = mor_parameters(model), file.metadata()
            _fill(parameters, file, path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); wanted a whole safetensors file") from None
    check(parameters, metadata, path)
    return config


def _base_shape(model: nn.Module) -> dict[str, str | int]:
    return {name: getattr(model.config, name) for name in BASE_FIELDS}


def _config_text(config: MoRConfig, model: nn.Module) -> str:
    options = asdict(config)
    options["target_modules"] = options.pop("targets")  # the standard word, in files
    return json.dumps({"format_version": VERSION, **options, **_base_shape(model)}, indent=2) + "\n"


def _copy_of_config(file: safe_open) -> dict:
    """The config that the weights carry; empty where they carry none."""
    try:
        return {**ADDED_LATER, **json.loads((file.metadata() or {})["config"])}
    except (KeyError, TypeError, ValueError):
        return {}


def _parse_config(saved: dict, model: nn.Module, path: Path) -> MoRConfig:
    names = [field.name.replace("targets", "target_modules") for field in fields(MoRConfig)]
    fixed = {"format_version": VERSION, **_base_shape(model)}
    if "peft_type" in saved:
        raise UserError(f"{path}: is PEFT's, which has no roles; wanted the folder that train.py wrote")
    saved = {**ADDED_LATER, **saved}
    if wrong := sorted(set(saved) ^ {*names, *fixed}):
        kind = "unknown" if wrong[0] in saved else "missing"
        raise UserError(f"{path}: {wrong[0]} is {kind}, wanted exactly {', '.join([*fixed, *names])}")
    for name, wanted in fixed.items():
        if saved[name] != wanted:
            owner = "this code" if name == "format_version" else "the base model"
            raise UserError(f"{path}: {name} is {saved[name]!r}, wanted {wanted!r} as {owner} has")
    try:
        return MoRConfig(*(saved[name] for name in names))
    except UserError as error:
        raise UserError(f"{path}: {str(error).replace('targets is', 'target_modules is')}") from None


@torch.no_grad()
def _fill(parameters: dict[str, nn.Parameter], file: safe_open, path: Path) -> None:
    if wrong := sorted(set(parameters) ^ set(file.keys())):
        kind = "missing" if wrong[0] in parameters else "unknown"
        raise UserError(f"{path}: tensor {wrong[0]} is {kind}; wanted {len(parameters)} tensors by {CONFIG}")
    for name, parameter in parameters.items():
        tensor = file.get_tensor(name)
        if (tensor.shape, tensor.dtype) != (parameter.shape, parameter.dtype):
            got = f"{tensor.dtype} {list(tensor.shape)}"
            wanted = f"{parameter.dtype} {list(parameter.shape)}"
            raise UserError(f"{path}: tensor {name} is {got}, wanted {wanted}")
        parameter.copy_(tensor)


# ---- for PEFT ----

PEFT_NAMES = {
    "lora_A.reasoner": "lora_A.weight",
    "lora_B.reasoner": "lora_B.weight",
    "magnitude": "lora_magnitude_vector",
}


def export_peft(folder: Path, output: Path) -> None:
    """Write an adapter of plain LoRA or DoRA for peft.PeftModel.from_pretrained. Raises UserError."""
    path = folder / CONFIG
    saved = {**ADDED_LATER, **read_object(path, WANTED)}
    for name, wanted in (("loras", [1, 0, 0]), ("shared_gate", False)):
        if saved.get(name) != wanted:
            why = "PEFT has neither roles nor a router or a gate of LoRAs, so this would be another model"
            raise UserError(f"{path}: {name} is {saved.get(name)}, wanted {wanted}; {why}")
    if (output / CONFIG).exists():
        raise UserError(f"{output}: holds an adapter already; choose another folder")
    tensors = {}
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            for name in file.keys():
                for ours, theirs in PEFT_NAMES.items():
                    if name.endswith(f".{ours}"):
                        renamed = f"base_model.model.{name.removesuffix(ours)}{theirs}"
                        tensors[renamed] = _as_in_peft(ours, file.get_tensor(name))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS}: cannot be read ({error}); wanted an adapter, whole") from None
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": saved["rank"],
        "lora_alpha": saved["scale"] * saved["rank"],
        "use_dora": saved["dora"],
        "target_modules": sorted({name.split(".lora_")[0].rpartition(".")[2] for name in tensors}),
        "inference_mode": True,
    }
    text = json.dumps(config, indent=2) + "\n"
    write_whole(output / WEIGHTS, lambda path: save_file(tensors, path, {"format": "pt"}))
    write_whole(output / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def _as_in_peft(kind: str, tensor: torch.Tensor) -> torch.Tensor:
    """A [1, rank, in] -> [rank, in]; B [1, rank, out] -> [out, rank]; m as it is."""
    if kind == "magnitude":
        return tensor
    return tensor[0] if kind.startswith("lora_A") else tensor[0].T.contiguous()


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m engine.adapter", description="Adapters in the files of others.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    export = commands.add_parser("export-peft", help="plain LoRA or DoRA, for PeftModel.from_pretrained")
    export.add_argument("adapter", type=Path, metavar="DIR", help="what train.py wrote")
    export.add_argument("output", type=Path, metavar="OUT", help="folder to make")
    args = parser.parse_args(argv)
    export_peft(args.adapter, args.output)


if __name__ == "__main__":
    sys.exit(run(main))

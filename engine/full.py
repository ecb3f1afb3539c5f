"""Full fine-tuning, the paper's "SFT" in its Table 6: every parameter is trained, the result is a checkpoint.

No adapter and no role has a part in it: train.py runs the model as it is, with plain linears.
"""

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from cli import read_object, write_whole
from engine.sharding import as_part, collect, is_sharded, own_part, part
from engine.tensors import save_file
from formats.checkpoint import WANTED, WEIGHTS
from formats.frames import TRAINED_WITH, Frame
from model import Transformer

BESIDE = (  # what belongs to a checkpoint as well, and is copied from the base where it has it
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model"),
    *("generation_config.json", "chat_template.jinja"),
)


class Masters:
    """All that is trained, in float32: a parameter itself where that is its dtype, else a copy.

    AdamW moves what stands here: a bfloat16 number has 8 bits, and a step of a thousandth of it is lost.
    Adapters are float32 in any model, so of them there are no copies. Of a sharded parameter
    (engine/sharding.py) it is a copy of this process's part.
    """

    def __init__(self, model: nn.Module):
        self.parameters: dict[str, nn.Parameter] = {}  # sorted by name
        self.copied: dict[str, nn.Parameter] = {}  # those of the model that have a copy above
        self.sharded = False
        for name, parameter in sorted(model.named_parameters()):
            if not parameter.requires_grad:
                continue
            wide = torch.promote_types(parameter.dtype, torch.float32)
            self.parameters[name] = parameter
            if is_sharded(parameter):
                self.sharded = True
            if parameter.dtype != wide or self.sharded:
                self.parameters[name] = nn.Parameter(own_part(parameter.detach()).to(wide, copy=True))
                self.copied[name] = parameter

    def gather(self) -> None:
        """After a backward: add the gradients of the model's parameters to those of the copies."""
        for name, parameter in self.copied.items():
            if parameter.grad is not None:
                self.parameters[name].grad += own_part(parameter.grad)
                parameter.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """After a step: the model's parameters become the copies, rounded."""
        for name, parameter in self.copied.items():
            own_part(parameter).copy_(self.parameters[name])

    def as_in_model(self, name: str, values: Tensor) -> Tensor:
        """Values of the shape of parameters[name]: a part, where the model's parameter is sharded."""
        if not self.sharded:
            return values
        parameter = self.copied[name]
        return as_part(values, parameter.device_mesh, parameter)

    def own(self, name: str, values: Tensor) -> Tensor:
        """Values of the shape of the model's parameter -> those of the shape of parameters[name]."""
        return part(values, self.copied[name].device_mesh) if self.sharded else values


def save_checkpoint(model: Transformer, frame: Frame, folder: Path, writes: bool = True) -> None:
    """Write a folder that --model and transformers load; the weights last, as a reader looks for them.

    config.json also says how the model was prompted, which load_frame reads. Of the processes of a sharded
    model, which must all call it, one writes. Raises UserError.
    """
    tensors = collect(((name, parameter.detach()) for name, parameter in model.named_parameters()), writes)
    if not writes:
        return
    for name in BESIDE:
        if (frame.folder / name).exists():
            write_whole(folder / name, lambda path, name=name: shutil.copyfile(frame.folder / name, path))
    config = read_object(frame.folder / "config.json", WANTED)
    config.pop("dtype", None)
    config["torch_dtype"] = str(model.lm_head.weight.dtype).removeprefix("torch.")
    config[TRAINED_WITH] = {"frame": frame.name, "prompts": frame.prompts}
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / "config.json", lambda path: path.write_text(text, encoding="utf-8"))
    write_whole(folder / WEIGHTS, lambda path: save_file(tensors, path, {"format": "pt"}))
